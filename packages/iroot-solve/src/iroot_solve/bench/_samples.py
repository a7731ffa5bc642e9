"""Raw samples: one line of JSON for each timed call, safe against a kill between any two of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One timed call.

    Attributes:
        case: "SPD p=2 k<n".
        problem: spd, gram, dual or nonspd.
        p: A^(-1/p).
        n: Size of the matrix that the power is taken of.
        m: Rows of G, for gram and dual.
        k: Columns of B; n with the root itself.
        batch: Number of matrices; 1 for a single one.
        kappa: Condition number, as constructed.
        dtype: Of what is passed: "float32".
        arm: Who answered.
        trial: Number, and seed, of the random problem.
        rep: Round of the timing.
        ms: Milliseconds.
        error: ‖Z − Z*‖_F/‖Z*‖_F against float64, the worst of a batch; `None` where it is not finite or there is no Z.
        estimate: What the library says the error is, the worst of a batch; own arms only.
        status: The library's, or "done"; "failed: <exception>" where the call raised (`ms` is what it took to raise).
        took: Strategy and precision taken, of own arms: "chebyshev/fp32"; else empty.
        products: Work by kind, of own arms.
        spectrum: Decimal logarithms of eigenvalues of the problem from small to large, see `_spectra`; of one sample of
            each point only, and not written without.
    """

    case: str
    problem: str
    p: int
    n: int
    m: int | None
    k: int
    batch: int
    kappa: float
    dtype: str
    arm: str
    trial: int
    rep: int
    ms: float
    error: float | None
    estimate: float | None
    status: str
    took: str
    products: dict[str, int]
    spectrum: list[float | None] | None = None


NAMES = tuple(field.name for field in fields(Sample))


def line(sample: Sample) -> str:
    """A sample as one line of JSON, which knows no NaN and no infinity: they become null."""
    record = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(sample).items()}
    if sample.spectrum is None:
        del record["spectrum"]
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def append(path: Path, sample: Sample) -> None:
    """Add a line that a kill right afterwards does not lose."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(line(sample))
        file.flush()
        os.fsync(file.fileno())


def write(path: Path, samples: Sequence[Sample]) -> None:
    """A file of these samples and no others."""
    path.write_text("".join(map(line, samples)), "utf-8", newline="\n")


def read(path: Path) -> list[Sample]:
    """The samples of a file; a last line that a kill left half-written is left out.

    Args:
        path: A file of samples.

    Raises:
        OSError: There is no such file.
        ValueError: A line that is no sample, with its number.
    """
    *lines, _ = path.read_text("utf-8", errors="replace").split("\n")
    return [_sample(text, number, path) for number, text in enumerate(lines, start=1)]


def _sample(text: str, number: int, path: Path) -> Sample:
    try:
        record: dict[str, Any] = json.loads(text)
        return Sample(**record)
    except (ValueError, TypeError):
        raise ValueError(f"{path}:{number}: not a sample") from None

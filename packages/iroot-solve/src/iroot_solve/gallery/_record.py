"""A run as a folder: manifest, raw samples and a report that is made from them alone."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from iroot_solve.bench import _manifest
from iroot_solve.bench._run import SAMPLES, Run, begin
from iroot_solve.gallery._survey import ARMS, Sample
from iroot_solve.gallery._table import NOTE, markdown, verdict

QUESTION = "Is every result that says converged right, and does every other end with the status that is expected?"
CPU = torch.device("cpu")


def start(out: Path, command: str, slug: str, powers: Sequence[int]) -> Run:
    """A run that starts now, in its folder `out/<date>_<slug>_<device>_<commit>/`.

    Raises:
        ValueError: There is one of that name.
    """
    asked = {"slug": slug, "question": QUESTION, "hypothesis": "", "command": command}
    run = begin({**asked, **_manifest.describe(CPU, ["mpmath"]), "powers": list(powers)})
    run.open(out, CPU, "choose another --slug")
    return run


def write(run: Run, samples: Sequence[Sample]) -> Path:
    """Write samples and report into the folder of a run, and return it."""
    assert run.folder is not None
    lines = (json.dumps(_finite(asdict(sample)), ensure_ascii=False, allow_nan=False) for sample in samples)
    (run.folder / SAMPLES).write_text("".join(line + "\n" for line in lines), "utf-8")
    run.finish(report(run.manifest, samples))
    return run.folder


def read_samples(folder: Path) -> list[Sample]:
    """The raw samples of a run."""
    return [_sample(json.loads(line)) for line in (folder / SAMPLES).read_text("utf-8").splitlines()]


def _sample(record: dict[str, Any]) -> Sample:
    numbers: dict[str, Any] = {key: math.nan if value is None else value for key, value in record.items()}
    return Sample(**{**numbers, "fallbacks": tuple(record["fallbacks"])})


def report(facts: dict[str, Any], samples: Sequence[Sample]) -> str:
    """The page of a run."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    parts = [
        "# Gallery of hard spectra",
        f"{facts['date']}, commit {facts['commit']}{' (with changes)' if facts['dirty'] else ''}, "
        f"{facts['device_name']}, {facts['threads']} threads, Python {facts['python']}, {versions}. "
        f"Made by `{facts['command']}`.",
        verdict(samples),
        NOTE,
    ]
    for arm in ARMS:
        if any(sample.arm == arm for sample in samples):
            parts += [f"## {arm}", markdown(samples, arm)]
    return "\n\n".join(parts) + "\n"


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity: they are written as null."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}

"""The calls of one arm at one point of a case as a row, and which rows may be called the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from iroot_solve.bench._samples import Sample

AUTO = "auto"
FAILED = "failed"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Point:
    """One size and condition number of a case; the fields are those of `Sample`."""

    case: str
    problem: str
    p: int
    n: int
    m: int | None
    k: int
    batch: int
    kappa: float
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int, int, str]:
        """All but κ, in the order of the tables."""
        return self.batch, self.n, self.m or 0, self.k, self.dtype


@dataclass(frozen=True)
class Row:
    """What one arm did at one point.

    Attributes:
        point: Where.
        arm: Who.
        trials: Number of random problems.
        calls: Number of timed calls, raised ones included.
        ms: Median of the milliseconds of the calls that returned; NaN where none did.
        low: First quartile of them.
        high: Third quartile of them.
        error: Largest true error of the trials; `None` where one of them is not finite or raised.
        estimate: The arm's own estimate in the trial with that error.
        status: What the calls ended with, each status once.
        took: Strategies and precisions taken, each once; empty for arms without a choice.
    """

    point: Point
    arm: str
    trials: int
    calls: int
    ms: float
    low: float
    high: float
    error: float | None
    estimate: float | None
    status: str
    took: str

    def meets(self, tol: float) -> bool:
        """Whether every trial is within the tolerance: only then does the time count."""
        return self.error is not None and self.error <= tol


_POINT = tuple(field.name for field in fields(Point))


def rows(samples: Iterable[Sample]) -> list[Row]:
    """One row for each case, point and arm: cases as they come, points by size and κ, arms by name."""
    groups: dict[tuple[Point, str], list[Sample]] = {}
    for sample in samples:
        point = Point(**{name: getattr(sample, name) for name in _POINT})
        groups.setdefault((point, sample.arm), []).append(sample)
    cases = list(dict.fromkeys(point.case for point, _ in groups))
    made = [_row(point, arm, group) for (point, arm), group in groups.items()]
    return sorted(made, key=lambda row: (cases.index(row.point.case), row.point.shape, row.point.kappa, row.arm))


def grouped(rows: Iterable[Row], key: Callable[[Row], K]) -> dict[K, list[Row]]:
    """The rows of each value of `key`, in the order in which they come."""
    groups: dict[K, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def ranking(rows: Iterable[Row], tol: float) -> list[Row]:
    """The rows within the tolerance, fastest first: arms are compared at equal error or not at all."""
    return sorted((row for row in rows if row.meets(tol)), key=lambda row: row.ms)


def beside_auto(group: Sequence[Row], tol: float) -> tuple[Row, Row | None] | None:
    """The row of `auto` and the best other row within the tolerance, of one point; `None` unless `auto` had company."""
    auto = [row for row in group if row.arm == AUTO]
    others = [row for row in group if row.arm != AUTO]
    return (auto[0], next(iter(ranking(others, tol)), None)) if auto and others else None


def varying(points: Sequence[Point]) -> list[str]:
    """Which of the sizes and the dtype tell these points apart; k is left out where it is n."""
    names = ["batch", "m", "n", "k", "dtype"]
    if all(point.k == point.n for point in points):
        names.remove("k")
    return [name for name in names if len({getattr(point, name) for point in points}) > 1]


def shape_label(point: Point, names: Sequence[str]) -> str:
    """These fields of a point as text: "n = 256, k = 16"."""
    return ", ".join(getattr(point, name) if name == "dtype" else f"{name} = {getattr(point, name)}" for name in names)


def constants_label(points: Sequence[Point]) -> str:
    """What all these points have in common: "k = n, float32"."""
    first, differing = points[0], varying(points)
    whole = all(point.k == point.n for point in points)
    names = [
        name for name in ("batch", "m", "n", "k", "dtype") if name not in differing and not (whole and name == "k")
    ]
    stated = [name for name in names if getattr(first, name) is not None and (name, first.batch) != ("batch", 1)]
    return ", ".join(filter(None, (shape_label(first, stated), "k = n" if whole else "")))


def power_of_ten(value: float) -> str:
    """A number of any size as text: 10³, 2.5·10⁶."""
    mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS) if int(exponent) != 1 else "10"
    return power if float(mantissa) == 1 else f"{float(mantissa):g}·{power}"


def _row(point: Point, arm: str, samples: Sequence[Sample]) -> Row:
    returned = [sample.ms for sample in samples if not sample.status.startswith(FAILED)]
    low, ms, high = np.percentile(returned, [25, 50, 75]).tolist() if returned else [math.nan] * 3
    worst = max(samples, key=lambda sample: math.inf if sample.error is None else sample.error)
    return Row(
        point=point,
        arm=arm,
        trials=len({sample.trial for sample in samples}),
        calls=len(samples),
        ms=ms,
        low=low,
        high=high,
        error=worst.error,
        estimate=worst.estimate,
        status=" / ".join(sorted({sample.status for sample in samples})),
        took=" / ".join(sorted({sample.took for sample in samples if sample.took})),
    )

"""What a comparison of two sides found, as rows and as Markdown: pure functions of the samples.

The arm of a sample is "<label> · <arm>" for A and B, and "<label of A> (again) · <arm>" for A again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from iroot_solve.bench._ab import LEVEL, Comparison, Interval, at_equal_error, compare, compare_unpaired
from iroot_solve.bench._rows import power_of_ten
from iroot_solve.bench._samples import Sample

K = TypeVar("K", bound=Hashable)
Point = tuple[str, int, int | None, int, int, float]
AGAIN, SEPARATOR = " (again)", " · "

HEADINGS = "case;point;arms;A, ms;B, ms;B/A;A/A floor;error of A;error of B;verdict on B".split(";")
COMMON = (
    "Times are medians. Errors are true relative errors against float64, the worst of the trials. A time counts at "
    "equal error only: within the tolerance, or within a factor of 2 of the other side’s error. Else B is called less "
    "(more) accurate."
)
PAIRED = (
    "B/A is the ratio of two times of one round, its median over the rounds (with eight trials or more, the medians of "
    f"trials) with its bootstrap interval at {LEVEL:.0%}. The A/A floor is that interval of A again over A. B is "
    "called faster or slower where its interval excludes 1, it wins or loses more rounds (trials) than chance would "
    "have it, and the effect is larger than the floor: of 100 points without a difference, one may be called so."
)
UNPAIRED = (
    f"B/A is the ratio of the medians, with its bootstrap interval at {LEVEL:.0%}. The sides were measured at "
    "different times: what the machine did meanwhile is in the ratio, there is no A/A floor, and nothing bounds false "
    "verdicts."
)


@dataclass(frozen=True)
class Row:
    """One arm of A and one of B at one point.

    Attributes:
        point: Case, n, m, k, batch, κ.
        arm_a: Name of the arm of A, with the dtype where that of B is another.
        arm_b: Of B.
        times: How the times compare.
        error_a: Worst true error of A; `None` where a call has no finite answer.
        error_b: Of B.
        verdict: On B, at equal error.
    """

    point: Point
    arm_a: str
    arm_b: str
    times: Comparison
    error_a: float | None
    error_b: float | None
    verdict: str


def comparisons(samples: Iterable[Sample], label_a: str, label_b: str, tol: float) -> list[Row]:
    """Rows of a run in rounds: where A has one arm, all of B beside it; where it has several, those of the same name.

    Args:
        samples: Of the run; rounds and points that lack a side (a run that was ended early) are left out.
        label_a: Of side A.
        label_b: Of side B.
        tol: Up to here an error is as good as any.
    """
    rows = []
    for point, here in _grouped(samples, _point).items():
        a, again, b = (_by_arm(here, label) for label in (label_a, label_a + AGAIN, label_b))
        for name, other in itertools.product(a, b):
            if name == other or len(a) == 1:
                sides = [_times(found) for found in (a[name], again.get(name, []), b[other])]
                rounds = [key for key in sides[0] if all(key in times for times in sides)]
                if rounds:
                    trials = [trial for trial, _ in rounds]
                    times = compare(*([side[key] for key in rounds] for side in sides), trials=trials)
                    rows.append(_row(point, times, a[name], b[other], tol))
    return rows


def comparisons_unpaired(before: Iterable[Sample], samples: Iterable[Sample], label_b: str, tol: float) -> list[Row]:
    """Rows of a run beside an earlier one: arms of the same name at the same point.

    Args:
        before: Samples of the earlier run, with plain names of arms.
        samples: Of this run.
        label_b: In front of its arms.
        tol: Up to here an error is as good as any.

    Raises:
        ValueError: The two have nothing in common.
    """
    rows, earlier = [], _grouped(before, lambda sample: (_point(sample), sample.arm, sample.dtype))
    for point, here in _grouped(samples, _point).items():
        for name, found in _by_arm(here, label_b).items():
            old = earlier.get((point, name, found[0].dtype))
            if old:
                times = compare_unpaired([sample.ms for sample in old], [sample.ms for sample in found])
                rows.append(_row(point, times, old, found, tol))
    if not rows:
        raise ValueError("--ab-baseline-rows-in: no row has the case, point, dtype and arm of one of this run")
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """What was found, in a sentence and a table, and how to read it."""
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdict} {verdicts.count(verdict)}" for verdict in sorted(set(verdicts)))
    lines = [HEADINGS, ("---",) * len(HEADINGS), *map(_cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = PAIRED if all(row.times.floor for row in rows) else UNPAIRED
    return f"{len(rows)} comparisons: {counts or 'nothing was measured'}.\n\n{table}\n\n{note} {COMMON}\n"


def _cells(row: Row) -> tuple[str, ...]:
    case, n, m, k, batch, kappa = row.point
    sizes = {"batch": batch if batch > 1 else None, "m": m, "n": n, "k": k}
    point = ", ".join(f"{name} = {size}" for name, size in sizes.items() if size is not None)
    times, errors = row.times, (row.error_a, row.error_b)
    return (
        case,
        f"{point}, κ = {power_of_ten(kappa)}",
        " / ".join(dict.fromkeys((row.arm_a, row.arm_b))),
        f"{times.a_ms:.3g}",
        f"{times.b_ms:.3g}",
        f"{times.ratio:.3f} {_interval(times.interval)}",
        _interval(times.floor) if times.floor else "–",
        *("–" if error is None else f"{error:.1e}" for error in errors),
        row.verdict,
    )


def _interval(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _row(point: Point, times: Comparison, a: Sequence[Sample], b: Sequence[Sample], tol: float) -> Row:
    error_a, error_b = _worst(a), _worst(b)
    same = a[0].dtype == b[0].dtype
    arm_a, arm_b = (s.arm.rpartition(SEPARATOR)[2] + ("" if same else f" ({s.dtype})") for s in (a[0], b[0]))
    return Row(point, arm_a, arm_b, times, error_a, error_b, at_equal_error(times.verdict, error_a, error_b, tol))


def _worst(samples: Iterable[Sample]) -> float | None:
    worst = max(math.inf if sample.error is None else sample.error for sample in samples)
    return worst if math.isfinite(worst) else None


def _times(samples: Iterable[Sample]) -> dict[tuple[int, int], float]:
    return {(sample.trial, sample.rep): sample.ms for sample in samples}


def _point(sample: Sample) -> Point:
    return sample.case, sample.n, sample.m, sample.k, sample.batch, sample.kappa


def _by_arm(samples: Iterable[Sample], label: str) -> dict[str, list[Sample]]:
    """The samples of one side by the plain name of the arm."""
    prefix = label + SEPARATOR
    return _grouped((s for s in samples if s.arm.startswith(prefix)), lambda s: s.arm.removeprefix(prefix))


def _grouped(samples: Iterable[Sample], key: Callable[[Sample], K]) -> dict[K, list[Sample]]:
    groups: dict[K, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return groups

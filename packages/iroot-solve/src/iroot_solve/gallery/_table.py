"""Samples as tables: pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from iroot_solve.gallery._survey import Sample

HEADINGS = (
    *("matrix", "n", "dtype", "κ", "p", "status", "true error", "estimate", "of B", "eigh's error"),
    *("strategy", "precision", "products"),
)
NOTE = (
    "One line per matrix and p: of the three right-hand sides (random, top, bottom eigenvectors) the one whose true "
    "error is largest, with its estimate. Errors are ‖Z − Z*‖_F/‖Z*‖_F with the rounding of Z to its dtype in them; "
    "eigh works in that dtype (16-bit: in float32), and – says that it has no answer, or that there is none. The arms "
    "in float32 are asked for 2u = 1.2e-7 and stay with their first attempt: they show how far float32 goes, and say "
    "`stagnated` above that."
)


def rows(samples: Sequence[Sample], arm: str = "auto") -> list[tuple[str, ...]]:
    """The lines of the table of one arm, as text."""
    chosen = [sample for sample in samples if sample.arm == arm]
    groups = groupby(chosen, key=lambda sample: (sample.case, sample.n, sample.dtype, sample.p))
    return [_row(list(group)) for _, group in groups]


def rich_table(samples: Sequence[Sample], arm: str = "auto") -> Table:
    """For the terminal."""
    table = Table(title=f"gallery: {arm}", caption=NOTE, caption_justify="left")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", justify="right" if heading in ("n", "κ", "p") else "left")
    previous = ""
    for row in rows(samples, arm):
        table.add_row(*row, end_section=False, style="" if row[0] == previous else "bold")
        previous = row[0]
    return table


def markdown(samples: Sequence[Sample], arm: str = "auto") -> str:
    """The same for a page."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *rows(samples, arm)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(samples: Sequence[Sample]) -> str:
    """What the samples say in one sentence."""
    auto = [sample for sample in samples if sample.arm == "auto"]
    answered = [sample for sample in auto if sample.status == "converged"]
    wrong = [sample for sample in answered if not sample.error <= sample.tol]
    surprising = [sample for sample in auto if sample.surprising and sample not in wrong]
    return (
        f"{len(auto)} solves, {len(answered)} of them converged, {len(wrong)} of those with a true error above the "
        f"tolerance; {len(surprising)} ended with a status other than expected."
    )


def _row(group: list[Sample]) -> tuple[str, ...]:
    worst = max(group, key=lambda sample: (sample.status != "converged", _key(sample.error)))
    statuses = sorted({sample.status for sample in group})
    work = ", ".join(f"{count} {kind}" for kind, count in worst.products.items() if count)
    return (
        *(worst.case, str(worst.n), worst.dtype, _number(worst.kappa), str(worst.p), " / ".join(statuses)),
        *(_number(worst.error), _number(worst.estimate), worst.side, _number(worst.eigh_error)),
        *(worst.strategy, worst.precision, work or "–"),
    )


def _key(error: float) -> float:
    return math.inf if math.isnan(error) else error


def _number(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "–"

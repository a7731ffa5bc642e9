"""Rows as text: the table of a case for a page, and all rows of a run as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

from iroot_solve.bench._rows import FAILED, Row, grouped, power_of_ten, ranking, rows, varying
from iroot_solve.bench._samples import Sample

MISSES = "misses tol"
ANSWERED = ("done", "converged")
LONGEST = 60
ARM = ("arm", "median (ms)", "IQR (ms)", "ratio to best", "true error", "estimate", "took")
SUMMARY = (
    *("case", "problem", "p", "n", "m", "k", "batch", "kappa", "dtype", "arm", "trials", "calls"),
    *("median_ms", "q1_ms", "q3_ms", "error", "estimate", "status", "took"),
)


def table(case: Sequence[Row], tol: float) -> str:
    """Points × arms of one case in Markdown: arms within the tolerance by time, then those that miss it."""
    points = grouped(case, lambda row: row.point)
    names = varying(list(points))
    lines = [(*names, "κ", *ARM), ("---:",) * (len(names) + 1) + ("---", *("---:",) * 5, "---")]
    for point, group in points.items():
        ranked = ranking(group, tol)
        missing = sorted((row for row in group if row not in ranked), key=lambda row: (math.isnan(row.ms), row.ms))
        where = [*(str(getattr(point, name)) for name in names), power_of_ten(point.kappa)]
        for i, row in enumerate([*ranked, *missing]):
            lines.append((*(where if i == 0 else [""] * len(where)), *_cells(row, ranked)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(samples: Iterable[Sample]) -> str:
    """One line of CSV for each case, point and arm; what is not finite, or not there, is empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(SUMMARY)
    for row in rows(samples):
        p = row.point
        times = [f"{ms:.6g}" if math.isfinite(ms) else "" for ms in (row.ms, row.low, row.high)]
        errors = ["" if value is None else f"{value:.6g}" for value in (row.error, row.estimate)]
        where = [p.case, p.problem, p.p, p.n, p.m, p.k, p.batch, f"{p.kappa:g}", p.dtype]
        writer.writerow([*where, row.arm, row.trials, row.calls, *times, *errors, row.status, row.took])
    return file.getvalue()


def milliseconds(ms: float) -> str:
    """Three digits, without an exponent; – for none."""
    if not math.isfinite(ms):
        return "–"
    return f"{ms:.{max(0, 2 - math.floor(math.log10(max(ms, 1e-3))))}f}"


def cell(text: str) -> str:
    """Text for a cell of a Markdown table: one line, no bars."""
    return " ".join(text.split()).replace("|", "\\|")


def _cells(row: Row, ranked: Sequence[Row]) -> tuple[str, ...]:
    best = bool(ranked) and row is ranked[0]
    ratio = f"{row.ms / ranked[0].ms:.2f}" if row in ranked else MISSES
    quartiles = f"{milliseconds(row.low)}–{milliseconds(row.high)}" if math.isfinite(row.ms) else "–"
    texts = (row.arm, milliseconds(row.ms), quartiles, ratio, _number(row.error), _number(row.estimate), _ending(row))
    return tuple(f"**{cell(text)}**" if best and i < 4 else cell(text) for i, text in enumerate(texts))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _ending(row: Row) -> str:
    """What was taken, and how it ended where that is not as asked."""
    ending = row.status if row.status not in ANSWERED else ""
    if FAILED in ending and len(ending) > LONGEST:
        ending = ending[: LONGEST - 1] + "…"
    return ", ".join(filter(None, (row.took, ending)))

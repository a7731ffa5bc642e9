"""The spectra of a run: eigenvalue against quantile, a line for each κ, what many cases share only once."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from iroot_solve.bench._rows import power_of_ten
from iroot_solve.bench._samples import Sample

SPECTRA = "Spectra"
GRID = np.linspace(0, 1, 33)
# Decades by which lines may differ that no eye tells apart.
ALIKE = 0.05
# More names than these do not fit above a panel.
NAMED = 3
PER_LINE = 3


@dataclass
class Spectrum:
    """One line, and where it was met.

    Attributes:
        kappa: As constructed.
        logs: Decimal logarithms of the eigenvalues at `GRID`; NaN where one is not positive.
        cases: Names.
    """

    kappa: float
    logs: NDArray[np.float64]
    cases: list[str]

    def like(self, other: Spectrum) -> bool:
        """Whether the two lines would lie on one another."""
        return self.kappa == other.kappa and np.allclose(self.logs, other.logs, rtol=0, atol=ALIKE, equal_nan=True)


def spectra(samples: Sequence[Sample]) -> list[Spectrum]:
    """The lines of a run, each once, in the order in which they are met."""
    found: list[Spectrum] = []
    for sample in samples:
        if sample.spectrum is None:
            continue
        new = _read(sample, sample.spectrum)
        known = next((line for line in found if line.like(new)), None)
        if known is None:
            found.append(new)
        elif sample.case not in known.cases:
            known.cases.append(sample.case)
    return found


def drawn(lines: Sequence[Spectrum]) -> Figure:
    """A panel for the cases that share their lines; the darker a line, the larger κ."""
    panels: dict[tuple[str, ...], list[Spectrum]] = {}
    for line in lines:
        panels.setdefault(tuple(line.cases), []).append(line)
    columns = min(len(panels), PER_LINE)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(2.4 * columns, 3.6) + 1.2, 2.3 * rows + 0.8), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    colours = _colours(lines)
    for ax, (cases, panel) in zip(axes, panels.items(), strict=False):
        ax.set_title(_title(cases, list(panels)))
        for line in panel:
            ax.plot(GRID, 10**line.logs, color=colours[line.kappa], marker=".", markersize=3)
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(numticks=8))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
        ax.yaxis.set_minor_locator(NullLocator())
    for spare in axes[len(panels) :]:
        spare.remove()
    figure.suptitle("Spectra of the problems", fontsize=10, x=0.01, ha="left")
    figure.supxlabel("share of the eigenvalues that are smaller", fontsize=9)
    figure.supylabel("eigenvalue", fontsize=9)
    handles = [Line2D([], [], color=c, label=f"κ = {power_of_ten(kappa)}") for kappa, c in colours.items()]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    return figure


def _read(sample: Sample, spectrum: Sequence[float | None]) -> Spectrum:
    logs = np.array([math.nan if value is None else value for value in spectrum])
    return Spectrum(sample.kappa, np.interp(GRID, np.linspace(0, 1, logs.size), logs), [sample.case])


def _colours(lines: Sequence[Spectrum]) -> dict[float, str]:
    kappas = sorted({line.kappa for line in lines})
    shades = matplotlib.colormaps["viridis_r"](np.linspace(0.25, 1.0, len(kappas)))
    return dict(zip(kappas, map(matplotlib.colors.to_hex, shades), strict=True))


def _title(cases: Sequence[str], panels: Sequence[Sequence[str]]) -> str:
    """Names, as far as there is room; the rest by number where every case has but one panel."""
    if len(cases) <= NAMED:
        return textwrap.fill(", ".join(cases), 34)
    alone = sum(map(len, panels)) == len({case for panel in panels for case in panel})
    if not alone or cases is not max(panels, key=len):
        return textwrap.fill(f"{', '.join(cases[:NAMED])} and {len(cases) - NAMED} more", 34)
    return f"all {len(cases)} cases" if len(panels) == 1 else f"the {len(cases)} other cases"

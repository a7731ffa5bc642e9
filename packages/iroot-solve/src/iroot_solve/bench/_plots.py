"""Plots of a run as SVG: the same samples give the same bytes with the same matplotlib, which the `bench` extra brings.

Text stays text and ids are hashed with a fixed salt; no date is written and no setting of the user is read. An arm has
one colour and marker in all plots of a case. A filled marker meets the tolerance in every trial, a hollow one does not.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from iroot_solve.bench._rows import (
    AUTO,
    Point,
    Row,
    beside_auto,
    constants_label,
    grouped,
    power_of_ten,
    ranking,
    rows,
    shape_label,
    varying,
)
from iroot_solve.bench._samples import Sample
from iroot_solve.bench._spectra_plot import SPECTRA, drawn, spectra

# Okabe and Ito (2008), distinguishable with every kind of colour blindness; black is kept for `auto`. More lines than
# these cannot be told apart anyway: the arms that are slowest at equal error become grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
MARKERS = ("s", "D", "^", "v", "P", "X", "p")
GREY = "#555555"
FAINT: dict[str, Any] = {"color": "#b5b5b5", "marker": ".", "linestyle": "-", "linewidth": 0.8, "zorder": 1.8}
HOLLOW: dict[str, Any] = {"color": GREY, "marker": "o", "markerfacecolor": "white", "linestyle": "none"}
FRONT: dict[str, Any] = {"color": "#d9d9d9", "linewidth": 3.5, "solid_joinstyle": "round", "zorder": 1.5}
TOLERANCE: dict[str, Any] = {"color": GREY, "linewidth": 1.0, "linestyle": (0, (4, 3)), "zorder": 1.6}
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 5.0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "iroot",
}
POWERS = FuncFormatter(lambda value, _: power_of_ten(value))
PANELS_PER_LINE = 4
# Times that differ by less than this are not blown up to the height of a panel.
LEAST_SPAN = 5.0
# Steps of the colours of the speed-up: what is within 10 % shows as equal.
STEPS = {1 / 8: "1/8", 1 / 4: "1/4", 1 / 2: "1/2", 1 / 1.5: "1/1.5", 1 / 1.1: "1/1.1",
         1.1: "1.1", 1.5: "1.5", 2.0: "2", 4.0: "4", 8.0: "8"}  # fmt: skip
# An error of exactly 0 has no place on a logarithmic axis; it is drawn here, below any rounding of float64.
ZERO_ERROR = 1e-17
# A relative error above this is no answer.
DIVERGED = 10.0


@dataclass(frozen=True)
class Plot:
    """A plot that can be drawn.

    Attributes:
        name: Of its file.
        case: Whose rows it shows; `None`: those of all; `SPECTRA`: no rows.
        alt: What is to be seen on it, for those who do not see it.
        draw: Makes the figure.
    """

    name: str
    case: str | None
    alt: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class _Look:
    """How each arm is drawn, what is good enough, and where it ran."""

    arms: tuple[str, ...]
    tol: float
    device: str

    def line(self, arm: str) -> dict[str, Any]:
        if arm == AUTO:
            return {"color": "black", "marker": "o", "linestyle": "-", "linewidth": 2.0, "zorder": 3}
        if arm not in self.arms:
            return FAINT
        i = [name for name in self.arms if name != AUTO].index(arm)
        return {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": "-", "zorder": 2}

    def marker(self, row: Row) -> dict[str, Any]:
        style = self.line(row.arm)
        face = style["color"] if row.meets(self.tol) else "white"
        place = {"linestyle": "none", "zorder": style["zorder"] + 0.5}
        return {"color": style["color"], "marker": style["marker"], "markerfacecolor": face, **place}

    def of(self, case: Sequence[Row]) -> _Look:
        """For one case: colours only for the arms that come closest to its best ones at equal error."""
        nearness = {arm: math.inf for arm in sorted({row.arm for row in case}, key=self.arms.index)}
        for group in grouped(case, lambda row: row.point).values():
            best = ranking(group, self.tol)
            for row in best:
                nearness[row.arm] = min(nearness[row.arm], row.ms / best[0].ms)
        nearest = sorted((arm for arm in nearness if arm != AUTO), key=lambda arm: nearness[arm])[: len(PALETTE)]
        return replace(self, arms=tuple(arm for arm in self.arms if arm == AUTO or arm in nearest))


def plots(manifest: dict[str, Any], samples: Sequence[Sample]) -> dict[str, bytes]:
    """All plots of a run.

    Args:
        manifest: Of the run; `tol`, `device_name` and the order of `arms` are read.
        samples: Of the run.

    Returns:
        SVG by file name: time against error for each case, against n and κ where there is more than one of them, the
        speed-up of `auto` where it ran beside others, and the spectra where the samples have them.
    """
    return {plot.name: _svg(plot.draw) for plot in sheet(manifest, samples)}


def sheet(manifest: dict[str, Any], samples: Sequence[Sample]) -> list[Plot]:
    """The plots that there are to draw; arms in the order of the manifest."""
    measured = rows(samples)
    order = {arm: i for i, arm in enumerate(manifest["arms"])}
    arms = sorted({row.arm for row in measured}, key=lambda arm: (order.get(arm, len(order)), arm))
    look = _Look(tuple(arms), manifest["tol"], manifest["device_name"])
    made = [plot for case in grouped(measured, lambda row: row.point.case).values() for plot in _of(case, look)]
    by_point = grouped(measured, lambda row: row.point)
    compared = {point: group for point, group in by_point.items() if beside_auto(group, look.tol)}
    if compared:
        alt = f"Heat map: how many times faster {AUTO} is than the best other arm within tol, by case, size and κ"
        made.append(Plot("speed-up.svg", None, alt, partial(_heat_map, compared, look)))
    if found := spectra(samples):
        alt = "Eigenvalues against their quantiles for each κ, a panel for the cases that share them"
        made.append(Plot("spectra.svg", SPECTRA, alt, partial(drawn, found)))
    return made


def _of(case: Sequence[Row], look: _Look) -> list[Plot]:
    """The plots of one case."""
    look, name, drawable = look.of(case), case[0].point.case, [row for row in case if math.isfinite(row.ms)]
    plan = [("pareto", "time against true error of each arm, with the Pareto front", _paretos)] if drawable else []
    if len({row.point.n for row in drawable}) > 1:
        plan.append(("time-n", "median time of each arm against n", _against_n))
    if len({row.point.kappa for row in drawable}) > 1:
        plan.append(("time-kappa", "median time of each arm against κ", _against_kappa))
    return [
        Plot(f"{kind}_{_slug(name)}.svg", name, f"{name}: {alt}", partial(draw, case, look)) for kind, alt, draw in plan
    ]


def _slug(case: str) -> str:
    words = case.lower().replace("<", " lt ").replace(">", " gt ").replace("=", "")
    return "-".join("".join(c if c.isalnum() else " " for c in words).split())


def _svg(draw: Callable[[], Figure]) -> bytes:
    file = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        draw().savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


# Time against n and κ ------------------------------------------------------------------------------------------------


def _against_n(case: Sequence[Row], look: _Look) -> Figure:
    """A panel for each κ, and for whatever else differs between points of one n."""
    points = list(grouped(case, lambda row: row.point))
    same_n = [point for point in points if len({other.shape for other in points if other.n == point.n}) > 1]
    names = [name for name in varying(same_n) if name != "n"] if same_n else []
    panels = grouped(case, lambda row: ", ".join(filter(None, (shape_label(row.point, names), _kappa(row.point)))))
    figure = _times(panels, lambda point: float(point.n), look)
    sizes = sorted({point.n for point in points})
    for ax in figure.axes:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator([float(n) for n in sizes]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    return _finish(figure, case, look, ("time against n", "n", "time (ms), median and quartiles"))


def _against_kappa(case: Sequence[Row], look: _Look) -> Figure:
    """A panel for each size."""
    points = list(grouped(case, lambda row: row.point))
    panels = grouped(case, lambda row: _shape(row.point, points))
    figure = _times(panels, lambda point: point.kappa, look)
    kappas = sorted({point.kappa for point in points})
    for ax in figure.axes:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator(kappas))
        ax.xaxis.set_major_formatter(POWERS)
        ax.xaxis.set_minor_locator(NullLocator())
    return _finish(figure, case, look, ("time against κ", "condition number κ", "time (ms), median and quartiles"))


def _times(panels: dict[str, list[Row]], x: Callable[[Point], float], look: _Look) -> Figure:
    """Median and quartiles of each arm as a line, all panels to one scale."""
    figure, axes = _grid(len(panels), PANELS_PER_LINE, "all")
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        ax.set_title(title)
        for arm, measured in grouped(panel, lambda row: row.arm).items():
            line = sorted((row for row in measured if math.isfinite(row.ms)), key=lambda row: x(row.point))
            style = look.line(arm)
            ax.plot([x(row.point) for row in line], [row.ms for row in line], **{**style, "marker": ""})
            low, high = [row.low for row in line], [row.high for row in line]
            ax.vlines([x(row.point) for row in line], low, high, color=style["color"], linewidth=1, zorder=2)
            for group in grouped(line, lambda row: row.meets(look.tol)).values():
                ax.plot([x(row.point) for row in group], [row.ms for row in group], **look.marker(group[0]))
    _time_axis(axes, [row for panel in panels.values() for row in panel])
    return figure


def _kappa(point: Point) -> str:
    return f"κ = {power_of_ten(point.kappa)}"


def _shape(point: Point, points: Sequence[Point]) -> str:
    return shape_label(point, varying(points) or ["n"])


# Time against error --------------------------------------------------------------------------------------------------


def _paretos(case: Sequence[Row], look: _Look) -> Figure:
    """A panel for each point: a line of panels for each size, from small κ to large."""
    panels = grouped(case, lambda row: row.point)
    sizes = grouped(case, lambda row: row.point.shape)
    columns = max(len({row.point for row in size}) for size in sizes.values())
    figure, axes = _grid(len(panels), columns, "row")
    errors = [look.tol, *(_error(row) for row in case if _answers(row))]
    reach = (min(errors) / 4, max(errors) * 4)
    for ax, (point, panel) in zip(axes, panels.items(), strict=True):
        ax.set_title(f"{_shape(point, list(panels))}, {_kappa(point)}")
        _pareto(ax, panel, look, reach)
        _time_axis([ax], sizes[point.shape])
    marks = [Line2D([], [], label="Pareto front", **FRONT), Line2D([], [], label=f"tol = {look.tol:g}", **TOLERANCE)]
    return _finish(figure, case, look, ("time against true error", "true relative error", "time (ms), median"), marks)


def _pareto(ax: Axes, panel: Sequence[Row], look: _Look, reach: tuple[float, float]) -> None:
    """The arms of one point, and those of them that no other beats in both time and error."""
    drawn = sorted((row for row in panel if _answers(row)), key=lambda row: (row.ms, _error(row)))
    front = [row for i, row in enumerate(drawn) if all(_error(row) < _error(faster) for faster in drawn[:i])]
    ax.plot([_error(row) for row in front], [row.ms for row in front], drawstyle="steps-pre", **FRONT)
    for row in drawn:
        ax.plot(_error(row), row.ms, **look.marker(row))
    for row in front:
        if row.arm not in look.arms:
            side = "left" if _error(row) < math.sqrt(reach[0] * reach[1]) else "right"
            place: dict[str, Any] = {"xytext": (0, 5), "textcoords": "offset points", "ha": side}
            ax.annotate(row.arm, (_error(row), row.ms), fontsize=7, color=GREY, **place)
    ax.axvline(look.tol, **TOLERANCE)
    if silent := [row.arm for row in panel if not _answers(row)]:
        text = "\n".join(["no answer:", *silent])
        ax.text(0.03, 0.04, text, transform=ax.transAxes, fontsize=7, color=GREY, va="bottom")
    ax.set_xscale("log")
    ax.set_xlim(*reach)
    ax.xaxis.set_major_locator(LogLocator(numticks=5))
    ax.xaxis.set_major_formatter(POWERS)
    ax.xaxis.set_minor_locator(NullLocator())


def _answers(row: Row) -> bool:
    """Whether it gave numbers that have to do with the answer: of what diverged, the exponent is of no interest."""
    return row.error is not None and row.error <= DIVERGED


def _error(row: Row) -> float:
    return max(row.error or 0.0, ZERO_ERROR)


# Speed-up ------------------------------------------------------------------------------------------------------------


def _heat_map(by_point: dict[Point, list[Row]], look: _Look) -> Figure:
    """A line for each case and size, a column for each κ; in the cell the best other arm."""
    sizes = list(dict.fromkeys((point.case, point.shape) for point in by_point))
    columns = [power_of_ten(kappa) for kappa in sorted({point.kappa for point in by_point})]
    columns = list(dict.fromkeys(columns))
    figure = Figure(figsize=(3.6 + 1.5 * len(columns), 1.8 + 0.27 * len(sizes)), layout="constrained")
    ax, ratios = figure.add_subplot(), np.full((len(sizes), len(columns)), np.nan)
    for point, group in by_point.items():
        i, j = sizes.index((point.case, point.shape)), columns.index(power_of_ten(point.kappa))
        ratios[i, j], text = _speed_up(group, look.tol)
        ink = "white" if abs(np.log2(ratios[i, j])) >= 2 else "black"
        ax.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=7.5, color=ink)
    norm = BoundaryNorm(list(STEPS), matplotlib.colormaps["RdBu"].N, extend="both")
    mesh = ax.pcolormesh(np.ma.masked_invalid(ratios), cmap="RdBu", norm=norm, edgecolors="white", linewidth=1.5)
    bar = figure.colorbar(
        mesh, ax=ax, location="bottom", pad=0.02, aspect=40, extendfrac=0.03, label=f"{AUTO} is … times as fast"
    )
    bar.ax.set_xticks(list(STEPS), list(STEPS.values()))
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(sizes)) + 0.5, _size_labels(list(by_point)))
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_xlabel("condition number κ")
    figure.suptitle(
        f"Speed-up of {AUTO} over the best other arm within tol = {look.tol:g}\n{look.device}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return figure


def _speed_up(group: Sequence[Row], tol: float) -> tuple[float, str]:
    """The ratio of the times, and the text of its cell."""
    auto, other = beside_auto(group, tol) or (None, None)
    if auto is None or not auto.meets(tol):
        return math.nan, f"{AUTO} misses tol"
    if other is None:
        return math.nan, "no other within tol"
    ratio = other.ms / auto.ms
    return ratio, f"{ratio:.{0 if ratio >= 10 else 1 if ratio >= 2 else 2}f} × {other.arm}"


def _size_labels(points: Sequence[Point]) -> list[str]:
    """Each case and size once: "SPD p=2 k<n, n = 256"."""
    labels: dict[tuple[str, object], str] = {}
    for point in points:
        case = [other for other in points if other.case == point.case]
        labels[point.case, point.shape] = f"{point.case}, {_shape(point, case)}"
    return list(labels.values())


# What all plots share ------------------------------------------------------------------------------------------------


def _grid(panels: int, columns: int, sharey: Literal["all", "row"]) -> tuple[Figure, list[Axes]]:
    """Panels in lines of at most so many, with room for a legend on the right."""
    columns = min(columns, panels, PANELS_PER_LINE)
    lines = math.ceil(panels / columns)
    figure = Figure(figsize=(max(2.4 * columns, 4.8) + 2.2, 2.1 * lines + 0.9), layout="constrained")
    axes = list(figure.subplots(lines, columns, sharey=sharey, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def _time_axis(axes: Sequence[Axes], shown: Sequence[Row]) -> None:
    """A logarithmic axis over the quartiles of all these rows, marked at 1, 2 and 5 where there is room for that."""
    finite = [row for row in shown if math.isfinite(row.ms)]
    if not finite:
        return
    low, high = min(row.low for row in finite) / 1.5, max(row.high for row in finite) * 1.5
    widen = math.sqrt(max(LEAST_SPAN / (high / low), 1.0))
    for ax in axes:
        ax.set_yscale("log")
        ax.set_ylim(low / widen, high * widen)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 1000 else (1.0,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
        ax.yaxis.set_minor_locator(NullLocator())


def _finish(
    figure: Figure, case: Sequence[Row], look: _Look, words: tuple[str, str, str], marks: Sequence[Line2D] = ()
) -> Figure:
    """Title, labels of the axes and, outside the panels, the legend."""
    what, x, y = words
    points = list(grouped(case, lambda row: row.point))
    facts = ", ".join(filter(None, (constants_label(points), look.device)))
    figure.suptitle(f"{points[0].case}: {what}\n{facts}", fontsize=10, x=0.01, ha="left")
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    shown = {row.arm for row in case}
    arms = [Line2D([], [], label=arm, **look.line(arm)) for arm in look.arms if arm in shown]
    if shown - set(look.arms):
        arms.append(Line2D([], [], label="other arms", **FAINT))
    if any(math.isfinite(row.ms) and not row.meets(look.tol) for row in case):
        arms.append(Line2D([], [], label="hollow: misses tol", **HOLLOW))
    figure.legend(handles=[*arms, *marks], loc="outside right upper", fontsize=8)
    return figure

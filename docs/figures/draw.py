"""The pictures of the theory and guide pages: `python docs/figures/draw.py` writes them again beside this file.

They are made by calls of the packages, without random numbers, times or settings of the user. Background transparent,
lines and text of middle brightness: they are read on light pages and on dark ones. Text stays text, no date is written,
and ids are hashed with a fixed salt, so that the same numbers give the same file.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from iroot_coeffs import Schedule, minimax, plan
from iroot_solve import _cost, explain
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

INK = "#808790"
BLUE, ORANGE, GREEN, PINK, YELLOW, GREY = "#3b8fd1", "#d9772b", "#2aa37a", "#c06bb0", "#c79a1a", "#8c8c8c"
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.titlesize": 9.0,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "figure.facecolor": "none",
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "iroot",
}
KINDS = {"mixed": ({}, BLUE), "quadratic": ({"degrees": (2,)}, ORANGE), "linear": ({"degrees": (1,)}, GREEN)}
STRATEGIES = {
    "chebyshev": BLUE,
    "cayley": GREEN,
    "direct-solve": PINK,
    "materialize-root": ORANGE,
    "eigh": GREY,
    "lanczos": YELLOW,
}
# Panels of the map: what is solved, where.
TASKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("one matrix, n = 512, CPU", {"n": 512}),
    ("one matrix, n = 2048, CPU", {"n": 2048}),
    ("256 matrices, n = 64, CPU", {"n": 64, "batch": 256}),
    ("one matrix, n = 2048, GPU", {"n": 2048, "device": "cuda"}),
)
DECADES = 6
ROWS = 4  # rows a decade


def equioscillation() -> Figure:
    """q(y)·y^(1/2) − 1 of the minimax polynomials of four degrees on [0.01, 1]."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    y = np.geomspace(0.01, 1, 600)
    for ax, degree in zip(figure.subplots(2, 2, sharex=True).flat, (1, 2, 4, 8), strict=True):
        step = minimax(2, degree, 0.01, 1.0)
        r = step(y) * np.sqrt(y) - 1
        ax.axhline(0, color=INK, linewidth=0.6)
        for level in (-step.error, step.error):
            ax.axhline(level, color=ORANGE, linewidth=1.0, linestyle=(0, (4, 3)))
        ax.plot(y, r, color=BLUE)
        points = _alternation(r)
        ax.plot(y[points], r[points], "o", color=BLUE, markersize=4)
        ax.set(xscale="log", title=f"degree {degree}: {len(points)} extrema of ±{step.error:.2g}")
        ax.ticklabel_format(axis="y", style="plain", useOffset=False)
    figure.supxlabel("y", color=INK)
    figure.supylabel("q(y)·y^(1/2) − 1", color=INK)
    return figure


def _alternation(r: np.ndarray) -> list[int]:
    """The ends and the extrema between them."""
    turns = np.flatnonzero(np.diff(np.sign(np.diff(r))) != 0) + 1
    return [0, *turns.tolist(), len(r) - 1]


def spectrum_steps() -> Figure:
    """Where eigenvalues of Y are after each step, over the products made, for κ = 1e4 and an error of 1e-3."""
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    for ax, (name, (options, colour)) in zip(figure.subplots(1, 3, sharey=True), KINDS.items(), strict=True):
        schedule = plan(2, kappa=1e4, tol=1e-3, **options)
        done, values = _trajectories(schedule, np.geomspace(1e-4, 1, 25))
        ax.plot(done, values, color=colour, linewidth=0.8, alpha=0.8)
        ax.plot(done, values[:, 0], color=colour, linewidth=2.2)
        ax.set(
            yscale="log", title=f"{name}: {len(schedule)} steps, {done[-1]:g} products", xlabel="products", xlim=(0, 18)
        )
        ax.grid(axis="y")
    figure.axes[0].set_ylabel("eigenvalues of Y")
    return figure


def _trajectories(schedule: Schedule, y: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Products after each step `(T + 1,)`, and eigenvalues `(T + 1, n)`; the last step's as if it had updated Y."""
    done, values = [0.0], [y]
    for i, step in enumerate(schedule):
        done.append(done[-1] + schedule.products_of(i))
        values.append(values[-1] * step(values[-1]) ** schedule.p)
    return done, np.array(values)


def pareto() -> Figure:
    """The fewest products over κ, for an error of 1e-3, by kinds of degrees and for the root and for few columns."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    kappas = 10.0 ** (np.arange(1, 8 * DECADES + 1) / 8)
    for ax, p in zip(figure.subplots(1, 2, sharey=True), (2, 4), strict=True):
        for name, (options, colour) in KINDS.items():
            root = [plan(p, kappa=float(k), tol=1e-3, **options).products() for k in kappas]
            ax.step(kappas, root, color=colour, where="post", label=name)
        thin = [plan(p, kappa=float(k), tol=1e-3, k_over_n=0.02).products(0.02) for k in kappas]
        ax.plot(kappas, thin, color=BLUE, linestyle=(0, (4, 2)), label="mixed, on B, k/n = 0.02")
        ax.set(xscale="log", title=f"p = {p}", xlabel="condition number κ", ylim=(0, 30))
        ax.grid()
    figure.axes[0].set_ylabel("products n×n×n")
    figure.axes[0].legend(loc="upper left", fontsize=8)
    return figure


def strategy_map() -> Figure:
    """What `explain` chooses for A^(-1/2)·B in float32 with tol = 1e-4."""
    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    used: set[str] = set()
    with shipped_times():
        for ax, (title, task) in zip(figure.subplots(2, 2, sharey=True).flat, TASKS, strict=True):
            used |= _panel(ax, task)
            ax.set_title(title)
    figure.supxlabel("k/n", color=INK)
    figure.supylabel("condition number κ", color=INK)
    handles = [Patch(color=colour, label=name) for name, colour in STRATEGIES.items() if name in used]
    handles.append(Patch(facecolor="none", edgecolor=INK, hatch="////", label="in float64"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8, handlelength=1.2)
    return figure


def _panel(ax: Axes, task: dict[str, Any]) -> set[str]:
    """Rows of equal choices as bars; the strategies met."""
    n, met = task["n"], set()
    columns = [2**i for i in range(int(math.log2(n)) + 1)]
    edges = [2.0 ** (i - 0.5) / n for i in range(len(columns) + 1)]
    for row in range(ROWS * DECADES):
        low, high = 10.0 ** (row / ROWS), 10.0 ** ((row + 1) / ROWS)
        found = [explain(k=k, p=2, kappa=math.sqrt(low * high), **task) for k in columns]
        choices = [(plan.strategy, plan.precision) for plan in found]
        for (strategy, precision), run in groupby(range(len(columns)), key=choices.__getitem__):
            cells = list(run)
            left, right = edges[cells[0]], edges[cells[-1] + 1]
            bar = {"height": high - low, "left": left, "align": "edge"}
            colour = STRATEGIES[strategy]
            ax.barh(low, right - left, color=colour, edgecolor=colour, linewidth=0.5, **bar)  # no gaps between rows
            if precision == "fp64":
                ax.barh(low, right - left, fill=False, edgecolor="#ffffff70", linewidth=0, hatch="////", **bar)
            met.add(strategy)
    ax.set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]), ylim=(1, 10.0**DECADES))
    return met


@contextmanager
def shipped_times() -> Iterator[None]:
    """The table of times that ships, whatever this machine was calibrated to."""
    before = os.environ.get("IROOT_CACHE_DIR")
    os.environ["IROOT_CACHE_DIR"] = os.devnull
    _cost.table.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ["IROOT_CACHE_DIR"]
        else:
            os.environ["IROOT_CACHE_DIR"] = before
        _cost.table.cache_clear()


# Pictures of committed runs, copied.
RUNS = Path(__file__).parents[2] / "benchmark_results" / "runs"
COPIES = {"strategies_gpu": RUNS / "2026-11-26_strategy-map_h200_601706a" / "plots" / "map.svg"}
FIGURES: dict[str, Callable[[], Figure]] = {
    "equioscillation": equioscillation,
    "spectrum_steps": spectrum_steps,
    "pareto": pareto,
    "strategy_map": strategy_map,
}


def svg(name: str) -> str:
    """The picture of that name."""
    with matplotlib.style.context(["default", STYLE]):
        target = io.StringIO()
        FIGURES[name]().savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    for figure in FIGURES:
        Path(__file__).with_name(f"{figure}.svg").write_text(svg(figure), "utf-8")
    for name, source in COPIES.items():
        Path(__file__).with_name(f"{name}.svg").write_bytes(source.read_bytes())

"""The map of strategies as SVG: the same cells give the same bytes with the same matplotlib.

A panel for each size and batch, in it a block of k/n × κ for each p. The colour of a cell is its winner's, which is
also written into it, shortened, below the time of `auto` over the winner's. A frame says that this is above 1.10, or
that `auto` misses tol.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from iroot_solve.bench._map import NEAR, Cell
from iroot_solve.bench._plots import GREY, STYLE
from iroot_solve.bench._rows import power_of_ten

# Colour and short name. Own strategies have the colours of Okabe and Ito (2008); those that differ only in precision,
# or in who calls the factorisation, are shades of one.
ARMS: dict[str, tuple[str, str]] = {
    "materialize-root": ("#E69F00", "root"),
    "direct-solve": ("#CC79A7", "direct"),
    "hybrid-pe-nsrc": ("#F0E442", "hybrid"),
    "chebyshev": ("#0072B2", "cheb"),
    "cayley": ("#009E73", "cayley"),
    "lanczos": ("#D55E00", "lanc"),
    "cholesky": ("#56B4E9", "chol"),
    "cholesky32": ("#9AD2F3", "chol32"),
    "cholesky64": ("#C6E6FA", "chol64"),
    "eigh": ("#9A9A9A", "eigh"),
    "eigh32": ("#BEBEBE", "eigh32"),
    "eigh64": ("#DDDDDD", "eigh64"),
}
OTHER, NOBODY = "#8172B3", "#FFFFFF"
COLUMNS = 2
GAP = 0.25  # between the blocks of a panel, in cells


def svg(cells: Sequence[Cell], device: str) -> bytes:
    """The figure's bytes.

    Args:
        cells: At least one.
        device: Where they were measured.
    """
    file = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        drawn(cells, device).savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def drawn(cells: Sequence[Cell], device: str) -> Figure:
    """The map of all cells, in whatever order they come."""
    panels: dict[tuple[int, int], list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: c.place):
        panels.setdefault((cell.n, cell.batch or 0), []).append(cell)
    lines = math.ceil(len(panels) / COLUMNS)
    kappas = len({cell.kappa for cell in cells})
    figure = Figure(figsize=(11.0, (0.7 + 0.34 * kappas) * lines + 1.3), layout="constrained")
    axes = list(figure.subplots(lines, COLUMNS, squeeze=False).flat)
    for ax, ((n, batch), panel) in zip(axes, panels.items(), strict=False):
        _panel(ax, panel)
        ax.set_title(f"n = {n}, {f'batch {batch}' if batch else 'one matrix'}", loc="left", fontweight="bold", pad=14)
    for spare in axes[len(panels) :]:
        spare.remove()
    figure.suptitle(
        f"Fastest arm that meets tol = {power_of_ten(cells[0].tol)}, and the time of auto over its time\n{device}",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    for ax in axes[: len(panels)][-COLUMNS:]:
        ax.set_xlabel("k/n")
    figure.supylabel("condition number κ", fontsize=9)
    handles = _legend(cells)
    figure.legend(handles=handles, loc="outside lower left", ncols=6, fontsize=8)
    return figure


def _panel(ax: Axes, panel: Sequence[Cell]) -> None:
    """Blocks side by side, one for each p: columns are k, lines κ, the largest on top."""
    powers, ks, kappas = (sorted({getattr(cell, name) for cell in panel}) for name in ("p", "k", "kappa"))
    starts = {p: i * (len(ks) + GAP) for i, p in enumerate(powers)}
    for cell in panel:
        _cell(ax, cell, starts[cell.p] + ks.index(cell.k), kappas.index(cell.kappa))
    for p, start in starts.items():
        place: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        ax.annotate(f"p = {p}", (start + len(ks) / 2, len(kappas)), fontsize=8, **place)
    n = panel[0].n
    ticks = [start + j + 0.5 for start in starts.values() for j in range(len(ks))]
    ax.set_xticks(ticks, [str(Fraction(k, n)) for _ in powers for k in ks], fontsize=7)
    ax.set_yticks([i + 0.5 for i in range(len(kappas))], [power_of_ten(kappa) for kappa in kappas], fontsize=8)
    ax.set(xlim=(-0.05, starts[powers[-1]] + len(ks) + 0.05), ylim=(-0.05, len(kappas) + 0.05))
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _cell(ax: Axes, cell: Cell, x: float, y: float) -> None:
    """A box, what is written into it, and its frame."""
    colour, short = _look(cell.winner)
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, edgecolor="white", linewidth=1.2))
    if not cell.near:
        inside: dict[str, Any] = {"facecolor": "none", "edgecolor": "black", "linewidth": 1.6, "joinstyle": "miter"}
        ax.add_patch(Rectangle((x + 0.035, y + 0.06), 0.93, 0.88, **inside))
    ink: dict[str, Any] = {"color": _ink(colour), "ha": "center", "va": "center"}
    ax.text(x + 0.5, y + 0.66, _number(cell.ratio), fontsize=7.5, **ink)
    ax.text(x + 0.5, y + 0.27, short, fontsize=6, **ink)


def _number(ratio: float) -> str:
    if math.isinf(ratio):
        return "misses"
    return "–" if math.isnan(ratio) else f"{ratio:.2f}" if ratio < 9.995 else f"{ratio:.0f}"


def _look(arm: str | None) -> tuple[str, str]:
    return (NOBODY, "only auto") if arm is None else ARMS.get(arm, (OTHER, arm))


def _ink(colour: str) -> str:
    """Black or white, whichever stands out more: relative luminance of sRGB, as WCAG has it, against 0.18."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return "black" if sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) > 0.18 else "white"


def _legend(cells: Sequence[Cell]) -> list[Patch]:
    """The winners that there are, and what a frame means."""
    won = {cell.winner for cell in cells if cell.winner}
    arms = [arm for arm in ARMS if arm in won] + sorted(won - set(ARMS))
    handles = []
    for arm in arms:
        colour, short = _look(arm)
        handles.append(Patch(facecolor=colour, label=arm if short == arm else f"{arm} ({short})"))
    if any(not cell.near for cell in cells):
        label = f"auto above {NEAR:.2f} ×, or misses tol"
        handles.append(Patch(facecolor="none", edgecolor="black", linewidth=1.6, label=label))
    if any(cell.winner is None for cell in cells):
        handles.append(Patch(facecolor=NOBODY, edgecolor=GREY, label="only auto meets tol"))
    return handles

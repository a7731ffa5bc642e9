"""Step errors ε(p, d, log κ), rounded up: what the planner's dynamic program looks up.

An entry is log log((1 + ε)/(1 - ε)) of the minimax step of degree d for x^(-1/p) at log log(hi/lo) = grid
point; the inner logarithm keeps 1 - ε where ε rounds to 1, and after the step log κ is p times it. Between
grid points the table is linear. Entries are raised by twice what a chord can lose to curvature, h²|f''|/8,
and rounded up, so that the interpolated value still bounds ε from above.

File `step_errors.npz`: for each p = 1..16 the degrees 1..8 on the fine grid, `p<p>`, and `FAR_DEGREES` on
every 8th point, `far<p>`, as second differences of multiples of QUANTUM, int32. Made by `_make_table.py`.
Further p are computed on demand, on every 8th point.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from importlib.resources import files
from math import inf

import numpy as np
from numpy.typing import NDArray

from . import _batch

TABLE_FILE = "step_errors.npz"
TABLE_P = 16
MAX_LOG_KAPPA = 32.4
NEAR_DEGREES = tuple(range(1, 9))
FAR_DEGREES = (9, 10, 11, 12, 14, 16, 18, 20, 22, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128)
STRIDE = 8
QUANTUM = 1e-5

Array = NDArray[np.float64]


@functools.lru_cache(maxsize=1)
def grid() -> Array:
    """log κ: ratio 1.1 from 1e-7 to 0.01, then ratio 1.008 up to 32.4; the last point ends a stride."""
    coarse = 1e-7 * (0.01 / 1e-7) ** (np.arange(120) / 120)
    steps = int(np.ceil(np.log(MAX_LOG_KAPPA / 0.01) / np.log(1.008)))
    steps += -(120 + steps) % STRIDE
    fine = 0.01 * (MAX_LOG_KAPPA / 0.01) ** (np.arange(steps + 1) / steps)
    return np.asarray(np.concatenate((coarse, fine)))


def raised(bounds: Array) -> Array:
    """Logarithms (..., N) of the bounds, raised so that chords between them stay above the function."""
    values = np.log(bounds)
    bend = np.zeros_like(values)
    bend[..., 1:-1] = np.abs(np.diff(values, n=2, axis=-1)) / 4
    return np.asarray(values + np.maximum.reduce([bend, np.roll(bend, 1, axis=-1), np.roll(bend, -1, axis=-1)]))


def encode(logs: Array) -> NDArray[np.int32]:
    """Second differences of the values rounded up to the quantum."""
    levels = np.ceil(logs / QUANTUM).astype(np.int64)
    ahead = np.zeros((*levels.shape[:-1], 2), dtype=np.int64)
    return np.diff(levels, n=2, prepend=ahead).astype(np.int32)


def decode(differences: NDArray[np.int32]) -> Array:
    """Inverse of `encode`."""
    levels = np.cumsum(np.cumsum(differences.astype(np.int64), axis=-1), axis=-1)
    return np.asarray(levels * QUANTUM)


class StepErrors:
    """The columns for one p."""

    def __init__(self, p: int) -> None:
        self.p = p
        points = np.log(grid())
        self._fine: list[float] = points.tolist()
        self._coarse: list[float] = points[::STRIDE].tolist()
        self._columns: dict[int, tuple[list[float], list[float]]] = {}
        self._load() if p <= TABLE_P else self._compute()

    def _load(self) -> None:
        with np.load(str(files("iroot_coeffs").joinpath(TABLE_FILE))) as data:
            near, far = decode(data[f"p{self.p}"]), decode(data[f"far{self.p}"])
        for degree, row in zip(NEAR_DEGREES, near, strict=True):
            self._columns[degree] = self._fine, row.tolist()
        for degree, row in zip(FAR_DEGREES, far, strict=True):
            self._columns[degree] = self._coarse, row.tolist()

    def _compute(self) -> None:
        """Degrees 1..8 by the exchange; beyond, the larger entries of p = 16 (ε falls with 1/p)."""
        points = grid()[::STRIDE]
        for degree in NEAR_DEGREES:
            row = raised(_batch.log_ratio_bounds(1 / self.p, degree, points))
            self._columns[degree] = self._coarse, row.tolist()
        other = step_errors(TABLE_P)
        for degree in FAR_DEGREES:
            self._columns[degree] = other._columns[degree]

    def log_bound(self, degree: int, spread: float) -> float:
        """Upper bound of log log((1 + ε)/(1 - ε)) for log log(hi/lo) = spread; inf beyond the grid."""
        points, row = self._columns[degree]
        i = bisect_left(points, spread)
        if i == 0:
            return row[0]
        if i == len(row):
            return inf
        share = (spread - points[i - 1]) / (points[i] - points[i - 1])
        return row[i - 1] + share * (row[i] - row[i - 1])


@functools.lru_cache(maxsize=64)
def step_errors(p: int) -> StepErrors:
    """The table for p >= 1, loaded (p <= 16) or computed once."""
    return StepErrors(p)

"""The exchange of `_minimax` for many intervals at once: minimax values, for tables.

The values are not certified one by one but raised by a margin that covers the stopping rule (1e-9) and,
absolutely, the rounding of float64 coefficients and what the proof in `minimax` adds for it: 4 (d + 1) u each
in eps, times the size of the coefficients, κ^a; eps is as small as that only for κ < 64, up to degree 128.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ._extrema import UNIT, chebyshev_roots, slope_coefficients
from ._minimax import chebyshev_extrema, levelled

Array = NDArray[np.float64]

EXCHANGES = 40


def _moved_references(t: Array, a: Array, low_end: Array) -> tuple[Array, Array, Array]:
    """One exchange: new references, delta of the old ones, and which are worth another exchange."""
    c, value = levelled(t, a, low_end)
    delta = value * low_end[:, 0] ** a[:, 0]
    roots = chebyshev_roots(slope_coefficients(c, a, low_end))
    inner = np.sort(roots.real, axis=-1)
    sound = (inner[:, 0] > -1) & (inner[:, -1] < 1) & np.all(np.diff(inner, axis=-1) > 0, axis=-1)
    sound &= np.max(np.abs(roots.imag), axis=-1) < 1e-6
    inner = np.where(sound[:, None], inner, t[:, 1:-1])
    moved = np.max(np.abs(np.arccos(inner) - np.arccos(t[:, 1:-1])), axis=-1)
    target = np.maximum(1e-6, 16 * UNIT / np.maximum(1 - delta, UNIT)) * math.pi / (t.shape[-1] - 1)
    ends = np.ones((len(t), 1))
    return np.concatenate((-ends, inner, ends), axis=-1), delta, sound & (moved >= target)


def minimax_gaps(a: float, degree: int, low_ends: Array) -> Array:
    """delta = 1 - minimax error (N,) of x^(-a) on [l, 1] for each l of (N,)."""
    n = len(low_ends)
    t = np.tile(chebyshev_extrema(degree), (n, 1))
    left = low_ends[:, None]
    exponent = np.full((n, 1), a)
    gaps = np.empty(n)
    active = np.arange(n)
    for _ in range(EXCHANGES):
        t[active], gaps[active], again = _moved_references(t[active], exponent[active], left[active])
        active = active[again]
        if active.size == 0:
            break
    return gaps


def log_ratio_bounds(a: float, degree: int, log_kappa: Array) -> Array:
    """Upper bounds (N,) of log((1 + eps)/(1 - eps)) for minimax steps with log(hi/lo) = log_kappa."""
    delta = minimax_gaps(a, degree, np.exp(-log_kappa))
    delta = np.minimum(delta, 1.0)
    rounding = 16 * (degree + 1) * UNIT * np.minimum(np.exp(a * log_kappa), 64.0)
    return np.asarray(np.log((2 - delta) / delta) * (1 + 1e-8) + rounding)

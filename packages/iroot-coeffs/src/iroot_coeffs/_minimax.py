"""Best relative polynomial approximation of y^(-a): min over q of max |q(y) y^a - 1| on [lo, hi].

{1, y, ..., y^d} with weight y^a is a Haar system: the best q is the one whose residual r = q y^a - 1 takes
the values -E, +E, -E, ... at d + 2 points. Since r' = y^(a-1) (a q + y q'), the interior extrema are the real
roots of one polynomial of degree d, so the exchange (Remez 1934) needs no grid: they are eigenvalues of its
colleague matrix (Good 1961). The residual is negative at lo, {1, ..., y^d, y^-a} being a Markov system.

The levelled equations give delta = 1 - E itself, a quotient of positive sums: when E rounds to 1, delta still
has its full relative accuracy. Lower bound: the levelled E of any reference (de la Vallée Poussin 1919).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from . import _exact
from ._extrema import (
    UNIT,
    all_roots,
    basis,
    critical_points,
    derivative_matrices,
    slope_coefficients,
)

Array = NDArray[np.float64]

MAX_EXCHANGES = 40


def chebyshev_extrema(degree: int) -> Array:
    """-cos(pi i / (d + 1)), i = 0..d+1: the reference every exchange starts from."""
    return -np.cos(np.pi * np.arange(degree + 2) / (degree + 1))


def place(t: Array, low_end: Array) -> Array:
    """y in [l, 1] of t in [-1, 1], exactly l at t = -1."""
    return np.asarray(low_end + (1 - low_end) * (1 + t) / 2)


def lagrange_weights(t: Array) -> Array:
    """|1 / prod_{j != i} (t_i - t_j)|, (..., n), up to a common factor; their signs alternate."""
    gaps = np.abs(t[..., :, None] - t[..., None, :]) + np.eye(t.shape[-1])
    logs = -np.sum(np.log(gaps), axis=-1)
    return np.asarray(np.exp(logs - np.max(logs, axis=-1, keepdims=True)))


def levelled(t: Array, a: Array, low_end: Array) -> tuple[Array, Array]:
    """Coefficients c (..., d + 1) and D = q(l) of the polynomial levelled at t (..., d + 2).

    q(y_i) = delta / w_i at low points, q(y_i) = (2 - delta) / w_i at high points, delta = D l^a. A polynomial
    of degree d annihilates the divided difference over d + 2 points, which gives delta as a quotient of
    positive sums: no cancellation.
    """
    weights = lagrange_weights(t)
    power = place(t, low_end) ** a
    scaled = weights / power
    delta = 2 * np.sum(scaled[..., 1::2], axis=-1, keepdims=True) / np.sum(scaled, axis=-1, keepdims=True)
    odd = np.arange(t.shape[-1]) % 2 == 1
    values = np.where(odd, 2 - delta, delta) / power
    return interpolated(t, np.where(odd, -weights, weights), values), (delta / low_end**a)[..., 0]


def interpolated(t: Array, weights: Array, values: Array) -> Array:
    """Chebyshev coefficients (..., n - 1) of the polynomial of degree n - 2 through n points of its graph.

    By the barycentric formula at Chebyshev points and a cosine sum; einsum, since BLAS threads cost more.
    """
    size = t.shape[-1] - 1
    angles = np.pi * (np.arange(size) + 0.5) / size
    distance = np.cos(angles)[:, None] - t[..., None, :]
    # at a point of the graph its own term alone counts
    terms = weights[..., None, :] / np.where(distance == 0, 1e-300, distance)
    samples = np.einsum("...kn,...n->...k", terms, values) / np.sum(terms, axis=-1)
    c = np.einsum("jk,...k->...j", np.cos(np.arange(size)[:, None] * angles), samples) * (2 / size)
    c[..., 0] /= 2
    return np.asarray(c)


@dataclass(frozen=True, slots=True)
class Minimax:
    """What the exchange found on [lo, hi]: coefficients, proved range of q y^a, bounds of the optimum."""

    chebyshev: tuple[float, ...]
    low: float
    high: float
    error_floor: float
    gap_ceiling: float


def _usable(roots: NDArray[np.complex128]) -> Array | None:
    """The roots in order if they are d distinct ones in (-1, 1), as theory says; None once they are noise."""
    t = np.sort(roots.real)
    inside = bool(t[0] > -1 and t[-1] < 1 and np.all(np.diff(t) > 0))
    return t if inside and float(np.max(np.abs(roots.imag))) < 1e-6 else None


def _exchange(degree: int, a: float, low_end: float) -> tuple[Array, float]:
    """Coefficients on [l, 1] and D = q(l).

    The residual at an extremum moves with the square of the point's movement: 1e-6 of the spacing is 1e-12
    in E. Below that, or below rounding (16 u / E of the spacing), there is nothing left to gain.
    """
    t = chebyshev_extrema(degree)
    spacing = math.pi / (degree + 1)
    exponent, left = np.float64(a), np.float64(low_end)
    for _ in range(MAX_EXCHANGES):
        c, value = levelled(t, exponent, left)
        inner = _usable(all_roots(slope_coefficients(c, exponent, left)))
        if inner is None:
            break
        moved = float(np.max(np.abs(np.arccos(inner) - np.arccos(t[1:-1])))) / spacing
        if moved < max(1e-6, 16 * UNIT / max(1 - float(value) * low_end**a, UNIT)):
            break
        t = np.concatenate(([-1.0], inner, [1.0]))
    return c, float(value)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Stored coefficients in the Chebyshev basis of [lo, hi], with their float64 image on [l, 1]."""

    stored: Sequence[float] | Sequence[Fraction]
    a: Fraction
    lo: float
    hi: float

    @property
    def low_end(self) -> float:
        return self.lo / self.hi

    @property
    def normalised(self) -> Array:
        return np.asarray(np.array([float(x) for x in self.stored]) * self.hi ** float(self.a))

    def extrema(self) -> Array:
        return critical_points(self.normalised, float(self.a), self.low_end)

    def values(self, t: Array) -> list[int]:
        """q y^a in the fixed point of `_exact`."""
        return _exact.products(self.stored, self.a, self.lo, self.hi, t.tolist())

    def weight(self, t: Array) -> Array:
        """y^a on [l, 1]."""
        return np.asarray(place(t, np.float64(self.low_end)) ** float(self.a))


def _extremum_slack(problem: _Problem, inner: Array) -> float:
    """How much an extremum may exceed its computed value: r'^2/|r''|, twice Newton's estimate."""
    if inner.size == 0:
        return 0.0
    c, a, left = problem.normalised, np.float64(float(problem.a)), np.float64(problem.low_end)
    g = slope_coefficients(c, a, left)
    table = basis(inner, len(c))
    bend = np.einsum("jk,k->j", derivative_matrices(len(c) - 1)[0], g)
    factor = place(inner, left) ** (a - 1) * (1 - left) / 2
    slope, curvature = (np.abs(np.einsum("ij,j->i", table, v)) for v in (g, bend))
    worst = float(np.max(factor * slope**2 / np.maximum(curvature, 1e-300)))
    # where q y^a is constant to rounding that says nothing; the roots are exact for coefficients u off
    return min(worst, 4 * len(c) * UNIT * float(np.sum(np.abs(c))))


def _range(problem: _Problem, points: Array, values: list[int]) -> tuple[float, float]:
    """(low, high), rounded outwards, from all extrema and the ends."""
    first, *inner, last = values
    if max(values) - min(values) < _exact.ONE >> 36:
        # q y^a varies by 1e-11: critical points may be those of the rounding errors, so look further
        inner += problem.values(chebyshev_extrema(len(problem.stored) - 1)[1:-1])
    slack = _exact.fixed(_extremum_slack(problem, points[1:-1]))
    smallest = min([first, last, *(v - slack for v in inner)])
    largest = max([first, last, *(v + slack for v in inner)])
    return math.nextafter(smallest / _exact.ONE, -math.inf), math.nextafter(largest / _exact.ONE, math.inf)


def proved_range(
    coefficients: Sequence[float] | Sequence[Fraction], a: Fraction, lo: float, hi: float
) -> tuple[float, float]:
    """(low, high) with low <= q(y) y^a <= high on [lo, hi], for Chebyshev coefficients of q."""
    problem = _Problem(coefficients, a, lo, hi)
    points = problem.extrema()
    return _range(problem, points, problem.values(points))


def _lifted(problem: _Problem, points: Array, values: list[int]) -> tuple[list[float], list[int]]:
    """c_0 raised a few ulp until no interior minimum of q y^a is under its value at lo, and the new values.

    For tiny delta the interior minima carry the rounding of the coefficients, u against delta; lo does not.
    """
    stored = [float(c) for c in problem.stored]
    weights = problem.weight(points[1:]) * problem.hi ** float(problem.a)
    for _ in range(4):
        first, *others = values
        missing = max((first - v) / _exact.ONE / float(w) for v, w in zip(others, weights, strict=True))
        if missing <= 0:
            break
        stored[0] = math.nextafter(stored[0] + missing, math.inf)
        values = _Problem(stored, problem.a, problem.lo, problem.hi).values(points)
    return stored, values


def _levelled_error(problem: _Problem, points: Array, values: list[int]) -> float:
    """E of the polynomial levelled on the extrema: the divided difference of q's exact residuals there.

    They alternate as its coefficients do, so E is a mean of their sizes, accurate however small it is.
    """
    if len(points) != len(problem.stored) + 1:
        points = chebyshev_extrema(len(problem.stored) - 1)  # any reference gives a lower bound
        values = problem.values(points)
    scaled = lagrange_weights(points) / problem.weight(points)
    residual = np.array([(v - _exact.ONE) / _exact.ONE for v in values])
    signs = np.where(np.arange(len(points)) % 2 == 0, -1.0, 1.0)
    return float(abs(np.sum(signs * scaled * residual)) / np.sum(scaled))


def best(a: Fraction, degree: int, lo: float, hi: float) -> Minimax:
    """The minimax polynomial of x^(-a) on [lo, hi] with its proved range and the bounds of the optimum."""
    exponent = float(a)
    c, value = _exchange(degree, exponent, lo / hi)
    problem = _Problem([float(x) for x in c * hi**-exponent], a, lo, hi)
    points = problem.extrema()
    values = problem.values(points)
    gap = value * (lo / hi) ** exponent
    # sums of positive terms, each good to d u: 1e-9 is ample
    if gap < 0.5:
        floor, ceiling = 1 - gap * (1 + 1e-9), gap * (1 + 1e-9)
        stored, values = _lifted(problem, points, values)
        problem = _Problem(stored, a, lo, hi)
    else:
        floor = _levelled_error(problem, points, values) * (1 - 1e-9)
        ceiling = 1 - floor
    low, high = _range(problem, points, values)
    return Minimax(tuple(float(x) for x in problem.stored), low, high, floor, ceiling)

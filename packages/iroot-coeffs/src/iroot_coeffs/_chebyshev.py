"""Chebyshev expansion of x^(-a), 0 < a <= 1, with a proved bound of its relative error.

With x^(-a) = (sin(pi a)/pi) ∫ s^(-a)/(x + s) ds over s > 0, and on [lo, hi] with centre m and half width h

    1/(x + s) = (1/h)(1/(t + z)),   z = (m + s)/h,   1/(t + z) = (z^2 - 1)^(-1/2) [1 + 2 Σ (-ρ)^k T_k(t)],
    ρ = exp(-arcosh z),

the terms beyond degree d sum to at most (2/h)^(1/2) ρ^(d+1/2) (z^2 - 1)^(-1/2) (x + s)^(-1/2) in absolute
value (a geometric series in ρ e^(iθ)). Integrated over s that is an envelope of the error which oscillation
nearly touches. Every factor is completely monotone in s and in x, so chords over-estimate the integrand, and
the value at the left end of a cell bounds the envelope on the cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._step import UNIT, Exponent, check_exponent, check_interval

Array = NDArray[np.float64]

MAX_EXPANSION_DEGREE = 100_000
MAX_EXPANSION_KAPPA = 1e10


@dataclass(frozen=True, slots=True)
class _Envelope:
    """Bounds of the truncation error on [l, 1] for all degrees; over nodes s (S,) and cells of x (X,)."""

    a: float
    half: float
    log_rho: Array
    node_weight: Array
    kernel: Array
    top: Array

    @classmethod
    def of(cls, a: float, low_end: float) -> _Envelope:
        s = np.array([0.0]) if a == 1 else _nodes(low_end)
        half = (1 - low_end) / 2
        root = np.sqrt((low_end + s) * (1 + s)) / half
        x = low_end ** np.linspace(1, 0, 2 + int(-math.log(low_end) / 0.015))
        weight = _chord_weights(s, a) * math.sqrt(2 / half) / root
        log_rho = -2 * np.arcsinh(np.sqrt((low_end + s) / (2 * half)))
        kernel = 1 / np.sqrt(x[:-1, None] + s[None, :])
        return cls(a, half, log_rho, weight, kernel, x[1:] ** a)

    def absolute(self, degree: int) -> Array:
        """Bound (X,) of the error of the truncated series, at the left end of each cell."""
        a, d = self.a, degree
        beyond = 0.0
        if a < 1:
            # s > 100: ρ <= h/s and the other factors are at most s^(-3/2) h
            beyond = math.sin(math.pi * a) / math.pi * math.sqrt(2 / self.half) / (a + d + 1)
            beyond *= math.exp((d + 1.5) * math.log(self.half) - (a + d + 1) * math.log(100.0))
        decay = self.node_weight * np.exp((d + 0.5) * self.log_rho)
        return np.asarray(np.einsum("xs,s->x", self.kernel, decay) + beyond)

    def relative(self, degree: int) -> float:
        """Bound of max |f_d(x) x^a - 1|."""
        return float(np.max(self.absolute(degree) * self.top))


def _nodes(low_end: float) -> Array:
    """s = 0 and 2 % steps from l/10^4 to 100: a chord of exp(-c log s), c <= 40, is then good to 2 %."""
    first, last = low_end * 1e-4, 100.0
    return np.concatenate(([0.0], np.geomspace(first, last, 2 + int(math.log(last / first) / 0.02))))


def _chord_weights(s: Array, a: float) -> Array:
    """Weights with Σ w_i G(s_i) = (sin(pi a)/pi) ∫ s^(-a) (chord of G) ds; a = 1: all weight at s = 0."""
    if a == 1:
        return np.ones(1)
    zeroth = np.diff(s ** (1 - a)) / (1 - a)
    first = np.diff(s ** (2 - a)) / (2 - a)
    share = (first - s[:-1] * zeroth) / np.diff(s)
    weights = np.zeros_like(s)
    weights[:-1] += zeroth - share
    weights[1:] += share
    return np.asarray(weights * math.sin(math.pi * a) / math.pi)


def _smallest_degree(envelope: _Envelope, target: float) -> int:
    """Bisection: the bound falls with the degree."""
    below, above = 0, 1
    while envelope.relative(above) > target:
        below, above = above, 2 * above
        if above > MAX_EXPANSION_DEGREE:
            raise ValueError(f"chebyshev_expansion: more than {MAX_EXPANSION_DEGREE} terms: raise tol or lo")
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if envelope.relative(middle) <= target else (middle, above)
    return above


def _interpolated(a: float, low_end: float, degree: int, size: int) -> Array:
    """The first coefficients (degree + 1,) from `size` + 1 Chebyshev points, by a cosine transform."""
    # 1 + t = 2 cos²(θ/2) keeps x accurate near l, where x^(-a) is largest
    theta = np.pi * np.arange(size + 1) / size
    values = (low_end + (1 - low_end) * np.cos(theta / 2) ** 2) ** -a
    c = np.fft.rfft(np.concatenate((values, values[-2:0:-1]))).real / size
    c[0] /= 2
    return np.asarray(c[: degree + 1])


def chebyshev_expansion(
    p: Exponent, lo: float, hi: float, tol: float | None = None, degree: int | None = None
) -> tuple[Array, float]:
    """Truncated Chebyshev series f_d of x^(-1/p) on [lo, hi], with max |f_d(x) x^(1/p) - 1| proved.

    Args:
        p: int >= 1, or a Fraction >= 1 (Fraction(4, 3) for x^(-3/4)).
        lo: lower end of the interval, > 0.
        hi: upper end, hi/lo <= 1e10.
        tol: give the smallest degree whose bound is <= tol; or
        degree: give this degree. Exactly one of the two.

    Returns:
        Coefficients (degree + 1,) of T_k((2x - lo - hi)/(hi - lo)), k = 0..degree, and the bound.

    Raises:
        ValueError: arguments out of range, or tol under the rounding of the coefficients, 16 u (hi/lo)^(1/p).

    Cost: applied to n×k columns, degree products of the matrix with them.
    """
    exponent = check_exponent(p)
    check_interval(lo, hi)
    if exponent > 1:
        raise ValueError(f"chebyshev_expansion: p must be >= 1, got {p}: apply an integer power first")
    if hi / lo > MAX_EXPANSION_KAPPA:
        raise ValueError(f"chebyshev_expansion: hi/lo must be <= {MAX_EXPANSION_KAPPA:g}, got {hi / lo:.3g}")
    if (tol is None) == (degree is None):
        raise ValueError("chebyshev_expansion: give exactly one of tol and degree")
    a, low_end = float(exponent), float(lo) / float(hi)
    rounding = 16 * UNIT * low_end**-a
    envelope = _Envelope.of(a, low_end)
    if tol is not None and not rounding < tol < 1:
        raise ValueError(f"chebyshev_expansion: tol must be in ({rounding:.1e}, 1) on this interval, got {tol}")
    if degree is not None and not 0 <= degree <= MAX_EXPANSION_DEGREE:
        raise ValueError(f"chebyshev_expansion: degree must be in 0..{MAX_EXPANSION_DEGREE}, got {degree}")
    count = degree if tol is None else _smallest_degree(envelope, (tol - rounding) * (1 - 1e-6))
    assert count is not None
    bound = envelope.relative(count) + rounding
    coefficients, aliasing = _alias_free(a, low_end, count, envelope, bound * 1e-7)
    return coefficients * float(hi) ** -a, bound + aliasing


def _alias_free(a: float, low_end: float, degree: int, envelope: _Envelope, allowed: float) -> tuple[Array, float]:
    """Coefficients, and what points fewer than infinity cost.

    Coefficient k carries the coefficients 2N - k, 2N + k, ...: all of one sign pattern, so together at most
    the error at l of the series cut at 2N - degree - 1.
    """
    size = 1 << max(5, math.ceil(math.log2(degree + 2)))
    while (aliasing := float(envelope.absolute(2 * size - degree - 1)[0])) > allowed and size < 1 << 20:
        size *= 2
    return _interpolated(a, low_end, degree, size), aliasing

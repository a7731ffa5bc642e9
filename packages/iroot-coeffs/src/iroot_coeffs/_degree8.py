"""A polynomial of degree 8 in three products.

In x = (y - shift)/scale, with z = x^2 (c1 x^2 + c2 x):

    q = sign · [(z + c3 x^2 + c4 x)(z + c5 x^2) + c6 z + b2 x^2 + b1 x + b0]

x^2, z and the bracket are the products. Matching coefficients of sign·q leaves, for given c1 = sqrt|a8| and
c2 = a7/(2 c1), linear equations for c3 + c5, c4, c6 and one quadratic for c5. A real solution exists
for most shifts; the one with the smallest estimated rounding error, weighted by y^a, is kept.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SHIFTS = np.linspace(-0.5, 0.75, 51)
# estimated rounding error against the size of Clenshaw's terms; up to here float32 loses at most a factor 4
AMPLIFICATION_LIMIT = 32.0


@dataclass(frozen=True, slots=True)
class Degree8:
    """The three-product form of a polynomial of degree 8.

    Attributes:
        shift, scale: x = (y - shift)/scale.
        sign: +1 or -1.
        c: (c1, ..., c6).
        b: (b0, b1, b2).
        amplification: estimated rounding error in units of u times the terms of Clenshaw's recurrence.
    """

    shift: float
    scale: float
    sign: float
    c: tuple[float, ...]
    b: tuple[float, ...]
    amplification: float

    def __call__(self, y: NDArray[np.floating]) -> NDArray[np.floating]:
        """q(y), elementwise, in the dtype of y."""
        kind = y.dtype.type
        c1, c2, c3, c4, c5, c6 = (kind(v) for v in self.c)
        b0, b1, b2 = (kind(v) for v in self.b)
        x = (y - kind(self.shift)) * kind(1 / self.scale)
        x2 = x * x
        z = x2 * (c1 * x2 + c2 * x)
        bracket = (z + c3 * x2 + c4 * x) * (z + c5 * x2)
        return np.asarray(kind(self.sign) * (bracket + (c6 * z + b2 * x2 + b1 * x + b0)))


def shifted_monomials(t_monomial: Array, shifts: Array) -> Array:
    """Coefficients (m, 9) in x = t - s of a polynomial given in t, for each of the m shifts s."""
    n = len(t_monomial)
    binomial = np.array([[math.comb(j, i) * t_monomial[j] for j in range(n)] for i in range(n)])
    power = np.maximum(np.arange(n)[None, :] - np.arange(n)[:, None], 0)
    return np.asarray(np.einsum("ij,mij->mi", binomial, shifts[:, None, None] ** power[None]))


def _solve(m: Array) -> tuple[Array, Array]:
    """c (2m, 6) and b (2m, 3) of both solutions for coefficients m (m, 9), m[:, 8] > 0; NaN if complex."""
    a3, a4, a5, a6, a7 = (m[:, i] for i in range(3, 8))
    c1 = np.sqrt(m[:, 8])
    c2 = a7 / (2 * c1)
    total = (a6 - c2**2) / c1
    c4 = (a5 - c2 * total) / c1
    # A c5^2 + B c5 + C = 0 from the coefficient of x^3, solved without cancellation
    square, linear = c2 / c1, c4 - c2 * total / c1
    constant = c2 * (a4 - c2 * c4) / c1 - a3
    discriminant = linear**2 - 4 * square * constant
    with np.errstate(invalid="ignore", divide="ignore"):
        half = -0.5 * (linear + np.copysign(np.sqrt(discriminant), linear))
        c5 = np.concatenate((half / square, constant / half))
    c1, c2, c4, a4, total = (np.tile(v, 2) for v in (c1, c2, c4, a4, total))
    c3 = total - c5
    c6 = (a4 - c3 * c5 - c2 * c4) / c1
    return np.stack((c1, c2, c3, c4, c5, c6), axis=1), np.tile(m[:, :3], (2, 1))


def _rounding(c: Array, b: Array, x: Array, weight: Array) -> Array:
    """max over y of y^a times the first-order rounding error in u, for each solution; x (m, N), weight (N,).

    An error of a factor counts with the true size of the other one: the factors are small where it matters.
    """
    c1, c2, c3, c4, c5, c6 = (c[:, i, None] for i in range(6))
    b0, b1, b2 = (np.abs(b[:, i, None]) for i in range(3))
    x1, x2 = np.abs(x), x * x
    z = x2 * (c1 * x2 + c2 * x)
    z_terms = x2 * (np.abs(c1) * x2 + np.abs(c2) * x1)
    left, right = z + c3 * x2 + c4 * x, z + c5 * x2
    left_terms, right_terms = z_terms + np.abs(c3) * x2 + np.abs(c4) * x1, z_terms + np.abs(c5) * x2
    error = left_terms * np.abs(right) + right_terms * np.abs(left) + np.abs(c6) * z_terms
    return np.asarray(np.max((error + b2 * x2 + b1 * x1 + b0) * weight, axis=1))


@functools.lru_cache(maxsize=512)
def factored(chebyshev: tuple[float, ...], a: Fraction, lo: float, hi: float) -> Degree8 | None:
    """The stablest three-product form of a polynomial of degree 8, or None if all lose too much."""
    if len(chebyshev) != 9 or chebyshev[8] == 0:
        return None
    in_t = np.polynomial.chebyshev.cheb2poly(np.array(chebyshev))
    sign = math.copysign(1.0, float(in_t[8]))
    c, b = _solve(shifted_monomials(sign * in_t, SHIFTS))
    t = -np.cos(np.linspace(0, np.pi, 49))
    weight = (((1 - t) * lo + (1 + t) * hi) / 2) ** float(a)
    sizes = _rounding(c, b, t[None, :] - np.tile(SHIFTS, 2)[:, None], weight)
    sizes = np.where(np.isfinite(sizes), sizes, np.inf)
    i = int(np.argmin(sizes))
    amplification = float(sizes[i] / (np.sum(np.abs(chebyshev)) * weight[-1]))
    if amplification > AMPLIFICATION_LIMIT:
        return None
    center, half = (lo + hi) / 2, (hi - lo) / 2
    shift = center + half * float(np.tile(SHIFTS, 2)[i])
    return Degree8(shift, half, sign, tuple(c[i].tolist()), tuple(b[i].tolist()), amplification)

"""Residuals of a polynomial in integer arithmetic: what a proof may rest on.

    v(y) = q(y) y^a,      q(y) = sum_k c_k T_k(t),      y = ((1 - t) lo + (1 + t) hi) / 2

Numbers are Python integers scaled by 2^256, so v carries about 30 correct digits whatever cancels in q
or in v - 1; the float64 rounding of the coefficients themselves is data, not error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

BITS = 256
ONE = 1 << BITS


def fixed(x: float | Fraction) -> int:
    """x · 2^256, rounded down."""
    numerator, denominator = x.as_integer_ratio()
    return (numerator << BITS) // denominator


def _power_ratio(w: int, y: int, a: Fraction) -> int:
    """w^m / y^n for a = n/m; the two powers advance together, so the partial results stay near 1."""
    m, n = a.denominator, a.numerator
    inverse = ONE * ONE // y
    z = ONE
    for k in range(max(m.bit_length(), n.bit_length()) - 1, -1, -1):
        z = z * z >> BITS
        if m >> k & 1:
            z = z * w >> BITS
        if n >> k & 1:
            z = z * inverse >> BITS
    return z


def fixed_power(y: int, a: Fraction) -> int:
    """y^a from the float64 value by one Newton step on w^m = y^n (relative error about m u^2)."""
    w = fixed((y / ONE) ** float(a))
    return w - w * (_power_ratio(w, y, a) - ONE) // (ONE * a.denominator)


def _clenshaw(coefficients: list[int], t: int) -> int:
    b1 = b2 = 0
    for c in reversed(coefficients[1:]):
        b1, b2 = c + (t * b1 >> (BITS - 1)) - b2, b1
    return coefficients[0] + (t * b1 >> BITS) - b2


def products(
    coefficients: Sequence[float | Fraction], a: Fraction, lo: float, hi: float, points: Sequence[float]
) -> list[int]:
    """v = q(y) y^a, times 2^256, at the points t in [-1, 1].

    The interval is scaled by a power of two 2^-e into (0, 1], so that hi/lo alone decides about the digits,
    and q by 2^(e a).
    """
    e = math.frexp(hi)[1]
    whole, rest = divmod(e * a, 1)
    root_two = fixed_power(2 * ONE, rest) if rest else ONE
    c = [fixed(Fraction(x) * Fraction(2) ** whole) * root_two >> BITS for x in coefficients]
    low, high = fixed(math.ldexp(lo, -e)), fixed(math.ldexp(hi, -e))
    values = []
    for point in points:
        t = fixed(point)
        y = ((ONE - t) * low + (ONE + t) * high) >> (BITS + 1)
        values.append(_clenshaw(c, t) * fixed_power(y, a) >> BITS)
    return values

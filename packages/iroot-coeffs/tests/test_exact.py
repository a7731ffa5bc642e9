"""Fixed-point residuals against 60-digit mpmath."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from iroot_coeffs import _exact

EXPONENTS = [Fraction(1), Fraction(1, 2), Fraction(1, 16), Fraction(3, 4), Fraction(113, 355)]


@pytest.mark.parametrize("a", EXPONENTS)
@pytest.mark.parametrize("hi", [1.0, 3.7, 1e-60, 1e60])
def test_products_have_thirty_digits(a, hi):
    rng = np.random.default_rng(1)
    scale = hi ** -float(a)
    coefficients = [float(c) * scale for c in rng.standard_normal(6)]
    points = [-1.0, *np.sort(rng.uniform(-1, 1, 5)).tolist(), 1.0]
    lo = hi * 1e-14
    values = _exact.products(coefficients, a, lo, hi, points)
    with mpmath.workdps(60):
        for t, value in zip(points, values, strict=True):
            y = ((1 - mpmath.mpf(t)) * mpmath.mpf(lo) + (1 + mpmath.mpf(t)) * mpmath.mpf(hi)) / 2
            q = sum(mpmath.mpf(c) * mpmath.chebyt(k, mpmath.mpf(t)) for k, c in enumerate(coefficients))
            truth = q * y ** (mpmath.mpf(a.numerator) / a.denominator)
            # the float64 power is off by e <= (2 + a |log y|) u, as a is rounded too; Newton leaves m/2 e^2
            e = (2 + 33 * float(a)) * 2.0**-53
            tolerance = a.denominator * e**2 * abs(truth) + mpmath.mpf(2) ** -180
            assert abs(mpmath.mpf(value) / _exact.ONE - truth) <= tolerance

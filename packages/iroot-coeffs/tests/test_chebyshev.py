"""Chebyshev expansions: proved bound, smallest degree, truth by numpy's own evaluation and by mpmath."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from iroot_coeffs import chebyshev_expansion

CHEB = np.polynomial.chebyshev


def largest_error(c, p, lo, hi):
    # the angle resolves the oscillation at lo, where x moves with its square
    theta = np.linspace(0, np.pi, 20 * len(c) + 2001)
    x = lo + (hi - lo) * np.cos(theta / 2) ** 2
    return np.max(np.abs(CHEB.chebval(np.cos(theta), c) * x ** float(1 / Fraction(p)) - 1))


@pytest.mark.parametrize("p", [1, 2, 4, 16, Fraction(4, 3), Fraction(101, 100)])
@pytest.mark.parametrize(("kappa", "tol"), [(1.5, 1e-9), (1e2, 1e-4), (1e4, 1e-6), (1e6, 1e-2)])
def test_smallest_degree_with_a_proved_error(p, kappa, tol):
    lo, hi = 5.0 / kappa, 5.0
    c, bound = chebyshev_expansion(p, lo, hi, tol=tol)
    error = largest_error(c, p, lo, hi)
    rounding = 1e-14 * kappa ** float(1 / Fraction(p))
    assert error <= bound + rounding
    assert bound <= tol
    # the envelope is nearly touched: one per cent for the cells, more where the last term stands alone
    assert bound <= 1.1 * error + 1e-12 or len(c) < 12
    if len(c) > 12:
        shorter, _ = chebyshev_expansion(p, lo, hi, degree=len(c) - 2)
        assert largest_error(shorter, p, lo, hi) > 0.97 * tol


def test_coefficients_are_those_of_the_series():
    c, bound = chebyshev_expansion(3, 0.1, 2.0, degree=12)
    with mpmath.workdps(30):
        for k in (0, 1, 5, 12):

            def integrand(theta, k=k):
                return mpmath.cos(k * theta) * (1.05 + 0.95 * mpmath.cos(theta)) ** (mpmath.mpf(-1) / 3)

            truth = mpmath.quad(integrand, [0, mpmath.pi / 2, mpmath.pi]) * (1 if k == 0 else 2) / mpmath.pi
            # aliasing may cost up to 1e-7 of the bound, which is in units of x^(-1/3) <= 0.1^(-1/3)
            assert c[k] == pytest.approx(float(truth), abs=2.2e-7 * bound)


def test_p_1_has_the_closed_form():
    """1/x = (1/h)(z² - 1)^(-1/2) [1 + 2 Σ (-ρ)^k T_k]."""
    lo, hi = 0.01, 1.0
    c, bound = chebyshev_expansion(1, lo, hi, tol=1e-6)
    z, half = (hi + lo) / (hi - lo), (hi - lo) / 2
    rho = z - math.sqrt(z * z - 1)
    k = np.arange(len(c))
    truth = np.where(k == 0, 1.0, 2.0) * (-rho) ** k / (half * math.sqrt(z * z - 1))
    np.testing.assert_allclose(c, truth, atol=1e-13 * truth[0])
    assert bound <= 1e-6


def test_degrees_of_thousands():
    c, bound = chebyshev_expansion(2, 1e-6, 1.0, tol=1e-4)
    assert 1000 < len(c) < 10000
    assert largest_error(c, 2, 1e-6, 1.0) <= bound <= 1e-4


def test_a_given_degree_returns_its_bound():
    errors = [chebyshev_expansion(2, 0.01, 1.0, degree=d)[1] for d in (0, 1, 4, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    c, bound = chebyshev_expansion(2, 0.01, 1.0, degree=0)
    assert len(c) == 1
    assert largest_error(c, 2, 0.01, 1.0) <= bound


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((2, 0.1, 1.0), "exactly one"),
        ((2, 0.1, 1.0, 1e-3, 5), "exactly one"),
        ((2, 0.1, 1.0, 1e-16), "tol must"),
        ((2, 0.1, 1.0, 2.0), "tol must"),
        ((2, 0.1, 1.0, None, -1), "degree must"),
        ((Fraction(1, 2), 0.1, 1.0, 1e-3), "p must be >= 1"),
        ((2, 1e-12, 1.0, 1e-3), "hi/lo"),
        ((1, 1e-9, 1.0, 1e-5), "terms"),
    ],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        chebyshev_expansion(*arguments)

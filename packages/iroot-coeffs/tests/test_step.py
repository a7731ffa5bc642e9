"""Step: bases, rescaling, given polynomials, degree 8 in three products."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_coeffs import Step, _exact, _extrema, minimax

CHEB = np.polynomial.chebyshev


@pytest.mark.parametrize("degree", range(1, 9))
@pytest.mark.parametrize("p", [1, 2, Fraction(4, 3)])
def test_the_three_bases_are_one_polynomial(p, degree):
    step = minimax(p, degree, 0.02, 1.7)
    center, half, shifted = step.shifted()
    with mpmath.workdps(40):
        for y in np.linspace(0.02, 1.7, 9):
            x = (mpmath.mpf(float(y)) - mpmath.mpf(center)) / mpmath.mpf(half)
            t = (2 * mpmath.mpf(float(y)) - mpmath.mpf(step.lo) - step.hi) / (mpmath.mpf(step.hi) - step.lo)
            clenshaw = sum(mpmath.mpf(c) * mpmath.cos(k * mpmath.acos(t)) for k, c in enumerate(step.chebyshev))
            monomial = sum(mpmath.mpf(c) * mpmath.mpf(float(y)) ** k for k, c in enumerate(step.monomial))
            in_x = sum(mpmath.mpf(c) * x**k for k, c in enumerate(shifted))
            # correctly rounded coefficients: half an ulp of each term
            assert abs(monomial - clenshaw) <= 2.0**-52 * sum(abs(c) * y**k for k, c in enumerate(step.monomial))
            assert abs(in_x - clenshaw) <= 2.0**-48 * sum(map(abs, shifted))
            assert step(y) == pytest.approx(float(clenshaw), rel=1e-12, abs=1e-13 * sum(map(abs, shifted)))
    assert step.center_value == pytest.approx(shifted[0], rel=1e-13, abs=1e-14 * sum(map(abs, shifted)))
    assert (step.degree, step.center, step.half_width) == (degree, center, half)


def test_newton_schulz_range_by_hand():
    """v = (3 - y) y^(1/2) / 2 grows up to y = 1, where it is 1, and falls after it."""
    step = Step.of_polynomial(2, (1.5, -0.5), 0.25, 1.44)
    assert step.low == pytest.approx(min((3 - 0.25) / 4, (3 - 1.44) * 0.6), rel=1e-15)
    assert step.high == pytest.approx(1.0, rel=4e-16)
    assert step.low <= (3 - 0.25) / 4
    assert step.high >= 1.0
    assert step.monomial == pytest.approx((1.5, -0.5), rel=1e-14)
    assert step.interval_after == pytest.approx((step.low**2, step.high**2), rel=1e-11)
    assert (step.error_floor, step.gap_ceiling) == (0.0, 1.0)


def test_a_polynomial_with_a_known_interior_maximum():
    """p = 1: v = y (2 - y) has its maximum 1 at y = 1; y (3 - y) has 9/4 at 3/2."""
    assert Step.of_polynomial(1, (2.0, -1.0), 0.5, 1.25).high == pytest.approx(1.0, rel=4e-16)
    assert Step.of_polynomial(1, (3.0, -1.0), 0.5, 2.0).high == pytest.approx(2.25, rel=4e-16)
    assert Step.of_polynomial(1, (3.0, -1.0), 0.5, 1.0).high == pytest.approx(2.0, rel=4e-16)
    # trailing zeros and constants have no such point
    assert Step.of_polynomial(1, (1.0,), 0.5, 2.0).high == pytest.approx(2.0, rel=4e-16)
    assert Step.of_polynomial(1, (2.0, -1.0, 0.0, 0.0), 0.5, 1.25).high == pytest.approx(1.0, rel=4e-16)


@settings(max_examples=50, deadline=None)
@given(
    p=st.integers(1, 6),
    coefficients=st.lists(st.floats(-5, 5).map(lambda c: round(c, 3)), min_size=1, max_size=7),
    lo=st.floats(1e-6, 0.9),
)
def test_the_range_of_any_polynomial_holds(p, coefficients, lo):
    step = Step.of_polynomial(p, coefficients, lo, 1.0)
    y = np.linspace(lo, 1.0, 2001)
    v = np.polynomial.polynomial.polyval(y, coefficients) * y ** (1 / p)
    rounding = 1e-14 * (1 + sum(map(abs, coefficients)))
    assert step.low - rounding <= v.min()
    assert v.max() <= step.high + rounding
    # the grid misses an extremum by at most (spacing)^2 of the second derivative: the bounds are attained
    assert step.low >= v.min() - 1e-3 * (1 + sum(map(abs, coefficients))) / lo
    assert step.high <= v.max() + 1e-3 * (1 + sum(map(abs, coefficients))) / lo


@pytest.mark.parametrize("factor", [3.0, 1e-20, 1e20, 2.0**8])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_rescaled_is_the_same_step(p, factor):
    step = minimax(p, 5, 1e-12, 1.0)
    scaled = step.rescaled(factor)
    assert (scaled.lo, scaled.hi) == (step.lo * factor, step.hi * factor)
    y = np.geomspace(step.lo, step.hi, 50)
    reference = step(y) * factor ** (-1 / p)
    np.testing.assert_allclose(scaled(y * factor), reference, rtol=0, atol=1e-12 * np.abs(reference).max())
    assert scaled.low == pytest.approx(step.low, rel=1e-15)
    assert scaled.high <= step.high + 1e-13 * sum(map(abs, step.chebyshev))


@pytest.mark.parametrize(("p", "degree", "lo"), [(2, 5, 1e-12), (1, 8, 1e-6), (3, 2, 0.5), (4, 8, 1e-3)])
def test_the_range_of_a_rescaled_step_is_proved(p, degree, lo):
    """At the extrema of the original the rounded coefficients stay within the claimed range, in 60 digits."""
    step = minimax(p, degree, lo, 1.0)
    points = _extrema.critical_points(np.array(step.chebyshev), 1 / p, lo)
    for factor in np.geomspace(0.013, 1e3, 40):
        scaled = step.rescaled(float(factor))
        values = _exact.products(scaled.chebyshev, Fraction(1, p), scaled.lo, scaled.hi, points.tolist())
        assert scaled.low <= min(values) / _exact.ONE
        assert max(values) / _exact.ONE <= scaled.high


def test_rescaled_keeps_tiny_lower_ends():
    """gap = 8e-14: without the raised constant the rounding of the coefficients would cost a percent."""
    original = minimax(1, 1, 1e-14, 1.0)
    for factor in np.linspace(0.11, 7.3, 40):
        step = original.rescaled(float(factor))
        with mpmath.workdps(40):
            lo, hi = mpmath.mpf(step.lo), mpmath.mpf(step.hi)
            c0, c1 = map(mpmath.mpf, step.chebyshev)
            assert step.low <= (c0 - c1) * lo
            assert step.low <= (c0 + c1) * hi
            assert step.low == pytest.approx(8e-14, rel=1e-6)


def test_json_form_is_exact():
    for p in (2, Fraction(4, 3)):
        step = minimax(p, 4, 0.01, 1.0)
        assert Step.from_dict(step.to_dict()) == step


def steps_of_degree_8():
    return [minimax(p, 8, 1 / kappa, 1.0) for p in (1, 2, 4, 16) for kappa in (3.0, 1e2, 1e4, 1e6, 1e10)]


@pytest.mark.parametrize("step", steps_of_degree_8(), ids=lambda step: f"p{step.p}-{1 / step.lo:.0e}")
def test_degree_8_in_three_products(step):
    form = step.degree8()
    assert form is not None
    rng = np.random.default_rng(0)
    y = np.concatenate((np.exp(rng.uniform(math.log(step.lo), 0, 4000)), rng.uniform(step.lo, 1, 4000)))
    weight = y ** (1 / step.p)
    # float64: the same polynomial, to its own amplification
    size = sum(map(abs, step.chebyshev))
    assert np.max(np.abs(form(y) - step(y)) * weight) <= form.amplification * size * 1e-14
    # float32: at most four times what Clenshaw loses there
    single = y.astype(np.float32)
    truth = step(single.astype(np.float64))
    t = (single - np.float32(step.center)) * np.float32(1 / step.half_width)
    clenshaw = CHEB.chebval(t, np.array(step.chebyshev, dtype=np.float32))
    assert clenshaw.dtype == form(single).dtype == np.float32
    lost = np.max(np.abs(clenshaw - truth) * weight)
    assert np.max(np.abs(form(single) - truth) * weight) <= 4 * lost


def test_degree_8_of_other_degrees_is_none():
    assert minimax(2, 7, 0.1, 1.0).degree8() is None


def test_degree_8_with_a_negative_leading_coefficient():
    positive = minimax(2, 8, 0.1, 1.0)
    mirrored = Step(2, 0.1, 1.0, tuple(-c for c in positive.chebyshev), -positive.high, -positive.low)
    form = mirrored.degree8()
    assert form is not None
    assert form.sign == -1
    y = np.linspace(0.1, 1.0, 50)
    np.testing.assert_allclose(form(y), -positive(y), rtol=1e-12)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_bad_factors_are_named(bad):
    with pytest.raises(ValueError, match="factor"):
        minimax(2, 1, 0.1, 1.0).rescaled(bad)


@pytest.mark.parametrize("bad", [(), (math.nan, 1.0)])
def test_bad_polynomials_are_named(bad):
    with pytest.raises(ValueError, match="monomial"):
        Step.of_polynomial(2, bad, 0.1, 1.0)

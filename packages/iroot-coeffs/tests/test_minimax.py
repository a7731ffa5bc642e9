"""Minimax steps against mpmath (levelled reference, 50 digits), closed forms and their own proofs."""

import math
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_coeffs import _exact, _minimax, minimax

CASES = [
    (p, degree, kappa)
    for i, (p, kappa) in enumerate(
        (p, kappa)
        for p in (1, 2, 3, 4, 8, 16, Fraction(4, 3), Fraction(5, 2), Fraction(1, 2))
        for kappa in (1.5, 10.0, 1e4, 1e9, 1e14)
    )
    for degree in ((1, 8), (2, 6), (3, 7), (4, 5))[i % 4]
]


@cache
def chebyshev(k, t):
    """T_k(t) in 80 digits; every step is looked at in the same places."""
    with mpmath.workdps(80):
        return mpmath.cos(k * mpmath.acos(t))


def residual_values(step, points):
    """q(y) y^(1/p) of the stored coefficients at t in mpmath numbers."""
    p = Fraction(step.p)
    a = mpmath.mpf(p.denominator) / p.numerator
    lo, hi = mpmath.mpf(step.lo), mpmath.mpf(step.hi)
    values = []
    for t in points:
        q = sum(mpmath.mpf(c) * chebyshev(k, t) for k, c in enumerate(step.chebyshev))
        y = ((1 - t) * lo + (1 + t) * hi) / 2
        values.append((y, q * y**a))
    return values


def alternation(values, count):
    """Indices of the extremes of the runs of equal sign of v - 1."""
    runs: list[int] = []
    for i, (_, v) in enumerate(values):
        if runs and (v > 1) == (values[runs[-1]][1] > 1):
            if abs(v - 1) > abs(values[runs[-1]][1] - 1):
                runs[-1] = i
        else:
            runs.append(i)
    assert len(runs) == count
    return runs


def levelled_error(step, values):
    """1 - E and E of the polynomial levelled on the reference: E bounds the optimum from below."""
    p = Fraction(step.p)
    a = mpmath.mpf(p.denominator) / p.numerator
    n = step.degree + 2
    matrix = mpmath.matrix(n, n)
    for i, (y, _) in enumerate(values):
        for k in range(n - 1):
            matrix[i, k] = (y / step.hi) ** (k + a)
        matrix[i, n - 1] = (-1) ** i
    solution = mpmath.lu_solve(matrix, mpmath.ones(n, 1))
    return abs(solution[n - 1])


@pytest.mark.slow
@pytest.mark.parametrize(("p", "degree", "kappa"), CASES)
def test_error_and_gap_are_within_a_thousandth_of_the_optimum(p, degree, kappa):
    step = minimax(p, degree, 3.0 / kappa, 3.0)
    with mpmath.workdps(80):
        angles = [mpmath.pi * i / 600 for i in range(601)]
        near_lo = [-1 + 2 * mpmath.mpf(10) ** (-e / mpmath.mpf(8)) for e in range(8 * 15, 8, -1)]
        points = sorted({-mpmath.cos(angle) for angle in angles} | set(near_lo))
        values = residual_values(step, points)
        # the proof: nothing on the interval leaves [low, high]
        assert all(step.low <= v <= step.high for _, v in values)
        reference = [values[i] for i in alternation(values, degree + 2)]
        bound = levelled_error(step, reference)
        # reference points off by 1/600 of the interval cost E at most (d/600)^2 = 2e-4
        assert bound * (1 - mpmath.mpf(10) ** -12) <= step.error <= bound * 1.001 + 4e-15
        assert (1 - bound) * 0.999 <= step.gap <= (1 - bound) * (1 + 1e-9)
        assert step.error_floor <= step.error
        assert step.error_floor >= bound * 0.999
        assert step.gap <= step.gap_ceiling <= (1 - bound) * 1.001


@pytest.mark.parametrize("degree", [1, 2, 3, 8, 24, 64])
@pytest.mark.parametrize("kappa", [1.2, 30.0, 1e4, 1e10, 1e14])
def test_p_1_closed_form(degree, kappa):
    """ε = 1/T_{d+1}((u + l)/(u - l)) (numerics: Chebyshev)."""
    step = minimax(1, degree, 1 / kappa, 1.0)
    root = math.sqrt(kappa)
    angle = (degree + 1) * math.log((root + 1) ** 2 / (kappa - 1))
    error = 1 / math.cosh(angle)
    gap = 2 * math.sinh(angle / 2) ** 2 / math.cosh(angle)
    # a few u per coefficient of the stored polynomial
    assert step.error == pytest.approx(error, rel=1e-9, abs=(degree + 1) * 2e-15)
    assert step.gap == pytest.approx(gap, rel=1e-7)


@pytest.mark.parametrize("kappa", [1.01, 7.0, 1e5])
def test_p_2_degree_1_is_the_optimal_cubic(kappa):
    """Grishina et al., arXiv:2506.10935: the best odd cubic on [s, 1] in closed form."""
    s = 1 / math.sqrt(kappa)
    e = (s * s + s + 1) / 3
    alpha = 2 / (2 * e**1.5 + s * s + s)
    step = minimax(2, 1, 1 / kappa, 1.0)
    assert step.monomial == pytest.approx((3 * e * alpha, -alpha), rel=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    p=st.one_of(st.integers(1, 16), st.fractions(min_value=Fraction(1, 2), max_value=9, max_denominator=7)),
    degree=st.integers(1, 8),
    log_kappa=st.floats(0.3, 30),
    scale=st.sampled_from([1e-9, 0.37, 5.0, 1e12]),
)
def test_scale_equivariance_and_range(p, degree, log_kappa, scale):
    lo = math.exp(-log_kappa)
    step = minimax(p, degree, lo, 1.0)
    scaled = minimax(p, degree, lo * scale, scale)
    # rounding of lo·scale moves the interval by u, the coefficients move by a few u of their sum
    size = sum(map(abs, step.chebyshev))
    assert scaled.error == pytest.approx(step.error, rel=1e-9, abs=1e-15 * (4 + size))
    assert scaled.gap == pytest.approx(step.gap, rel=1e-9)
    y = np.concatenate((np.geomspace(lo, 1.0, 300), np.linspace(lo, 1.0, 300))).clip(lo, 1.0)
    v = step(y) * y ** float(1 / Fraction(p))
    rounding = 1e-15 * (4 + degree) * (1 + size)
    assert np.all(v >= step.low - rounding)
    assert np.all(v <= step.high + rounding)
    low, high = step.interval_after
    image = y * step(y) ** float(p)
    moved = max(float(p), 1.0) * rounding ** min(float(p), 1.0)  # v^p by a change of v, which may lie near 0
    assert np.all(image >= low * (1 - 1e-6) - moved)
    assert np.all(image <= high * (1 + 1e-6) + moved)


@settings(max_examples=30, deadline=None)
@given(p=st.integers(1, 16), degree=st.integers(1, 7), log_kappa=st.floats(0.5, 30))
def test_error_falls_with_the_degree_and_grows_with_the_interval(p, degree, log_kappa):
    lo = math.exp(-log_kappa)
    step = minimax(p, degree, lo, 1.0)
    assert minimax(p, degree + 1, lo, 1.0).gap > step.gap or step.error < 1e-13
    assert minimax(p, degree, lo / 1.1, 1.0).gap < step.gap or step.error < 1e-13


def test_the_range_allows_for_the_location_of_extrema():
    """p = 1, q = 6 - 9 y + 4 y²: v' = 6 (1 - y)(1 - 2y), maximum 5/4 at 1/2, minimum 1 at 1."""
    lo, hi = 0.45, 1.05
    in_t = np.polynomial.Polynomial([6, -9, 4])(np.polynomial.Polynomial([0.75, 0.3]))
    problem = _minimax._Problem(np.polynomial.chebyshev.poly2cheb(in_t.coef).tolist(), Fraction(1), lo, hi)
    extrema = np.array([-1.0, (0.5 - 0.75) / 0.3, (1.0 - 0.75) / 0.3, 1.0])
    _, top, bottom, _ = problem.values(extrema)
    # 1e-7 off the extremum loses 3e-15, as badly computed roots might; both ends must allow for it
    off = extrema + np.array([0.0, 1e-7, -1e-7, 0.0])
    low, high = _minimax._range(problem, off, problem.values(off))
    assert bottom / _exact.ONE - 1e-14 <= low <= bottom / _exact.ONE
    assert top / _exact.ONE <= high <= top / _exact.ONE + 1e-14


def test_quiet_polynomials_are_looked_at_between_their_critical_points():
    """A bump of 5e-13 that no critical point shows, as rounding errors may make one."""
    step = minimax(2, 2, 1 - 1e-6, 1.0)
    c0, c1, c2 = step.chebyshev
    bumped = [c0 - 5e-13, c1, c2 - 5e-13]  # T_0 + T_2 = 2 t² vanishes at 0 and lowers the ends
    problem = _minimax._Problem(bumped, Fraction(1, 2), step.lo, step.hi)
    ends = np.array([-1.0, 1.0])
    _, high = _minimax._range(problem, ends, problem.values(ends))
    middle = problem.values(np.array([0.5, 0.0, -0.5]))
    assert high >= max(middle) / _exact.ONE - 3e-13
    assert high > max(problem.values(ends)) / _exact.ONE + 5e-13


def test_wide_but_tiny_errors_stay_upper_bounds():
    """Below 1e-12 the error is a few u above the optimum, never below zero."""
    for degree in range(2, 9):
        step = minimax(2, degree, 1 - 1e-7, 1.0)
        assert 0 <= step.error_floor <= step.error <= 1e-14


@pytest.mark.parametrize(
    ("arguments", "kind", "word"),
    [
        ((0, 2, 0.1, 1.0), ValueError, "p must be"),
        ((2.0, 2, 0.1, 1.0), TypeError, "p must be"),
        ((True, 2, 0.1, 1.0), TypeError, "p must be"),
        ((Fraction(-1, 2), 2, 0.1, 1.0), ValueError, "p must be"),
        ((2, 0, 0.1, 1.0), ValueError, "degree"),
        ((2, 1000, 0.1, 1.0), ValueError, "degree"),
        ((2, 2.5, 0.1, 1.0), TypeError, "degree"),
        ((2, 2, 1.0, 1.0), ValueError, "below hi"),
        ((2, 2, -1.0, 1.0), ValueError, "lo must be"),
        ((2, 2, 0.1, math.inf), ValueError, "hi must be"),
        ((2, 2, 1e-200, 1e-190), ValueError, "scale"),
        ((2, 2, 1e-20, 1.0), ValueError, "hi/lo"),
    ],
)
def test_bad_arguments_are_named(arguments, kind, word):
    with pytest.raises(kind, match=word):
        minimax(*arguments)

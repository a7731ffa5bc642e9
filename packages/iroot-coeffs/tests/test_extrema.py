"""Roots of Chebyshev series against polynomials built from known roots."""

import numpy as np
import pytest
from iroot_coeffs import _extrema


@pytest.mark.parametrize("degree", [1, 2, 3, 8, 30])
def test_roots_of_known_polynomials(degree):
    roots = np.sort(np.cos(np.linspace(0.1, 3.0, degree)))
    g = np.polynomial.chebyshev.chebfromroots(roots)
    found = np.sort(_extrema.chebyshev_roots(g).real)
    np.testing.assert_allclose(found, roots, atol=1e-12)


@pytest.mark.parametrize("degree", [20, 64, 128])
def test_sampled_roots_agree_with_eigenvalues(degree):
    rng = np.random.default_rng(0)
    roots = np.cos((np.arange(degree) + 0.5 + rng.uniform(-0.2, 0.2, degree)) * np.pi / degree)
    g = np.polynomial.chebyshev.chebfromroots(roots)
    g /= np.max(np.abs(g))
    found = _extrema.sampled_roots(g)
    assert found is not None
    # two Newton steps leave 1e-8 of the spacing
    np.testing.assert_allclose(found, np.sort(roots), atol=1e-8)


def test_missing_roots_are_noticed():
    """1 + T_30/2 has no real root in [-1, 1], so the signs show fewer than d changes."""
    g = np.zeros(31)
    g[0], g[30] = 1.0, 0.5
    assert _extrema.sampled_roots(g) is None
    assert len(_extrema.all_roots(g)) == 30


def test_a_vanished_leading_coefficient_is_a_root_far_away():
    g = np.array([np.polynomial.chebyshev.chebfromroots([0.3, -0.2]).tolist() + [0.0], [0.0, 0.0, 0.0, 0.0]])
    roots = _extrema.chebyshev_roots(g)
    assert np.all(np.isfinite(roots))
    assert np.sum(np.abs(roots[0]) > 1e20) == 1
    np.testing.assert_allclose(np.sort(roots[0].real[np.abs(roots[0]) < 2]), [-0.2, 0.3], atol=1e-9)


def test_slope_is_the_derivative():
    """g = a q + y q' with y = l + (1 - l)(1 + t)/2, by numpy's own calculus."""
    cheb = np.polynomial.chebyshev
    c, a, low_end = np.array([1.0, -0.4, 0.3, 0.2, -0.1]), 0.25, 0.01
    t = np.linspace(-1, 1, 11)
    y = low_end + (1 - low_end) * (1 + t) / 2
    truth = a * cheb.chebval(t, c) + y * cheb.chebval(t, cheb.chebder(c)) * 2 / (1 - low_end)
    g = _extrema.slope_coefficients(c, np.float64(a), np.float64(low_end))
    np.testing.assert_allclose(cheb.chebval(t, g), truth, rtol=1e-13)

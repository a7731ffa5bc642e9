"""q(Y) = a·I + R and q(Y)·V against scalar evaluation on the eigenvalues, in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_kernels import Polynomial, Products, Workspace, apply_polynomial, increment
from numpy.polynomial import Chebyshev

N = 10
PRODUCTS = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4, 9: 4, 10: 5, 11: 5, 12: 5}


def matrix(seed, lo=-1.0, hi=1.0):
    """Y with a dense eigenbasis and spectrum in [lo, hi], its eigenvalues and eigenvectors."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((N, N)))[0]
    eigenvalues = rng.uniform(lo, hi, N)
    Y = (Q * eigenvalues) @ Q.T
    return torch.from_numpy((Y + Y.T) / 2)[None], eigenvalues, Q


def polynomial(degree, seed, lo=-1.0, hi=1.0):
    """Coefficients of size one, none of them near zero, so that none may be left out."""
    rng = np.random.default_rng([degree, seed])
    t = rng.uniform(0.5, 1.0, degree + 1) * rng.choice([-1, 1], degree + 1)
    return Polynomial((lo + hi) / 2, (hi - lo) / 2, tuple(map(float, t)))


def exactly(q, eigenvalues, Q):
    values = Chebyshev(q.chebyshev)((eigenvalues - q.center) / q.half_width)
    return torch.from_numpy((Q * values) @ Q.T)[None]


def full(a, R):
    return R + a * torch.eye(N, dtype=R.dtype)


def bound(q, condition):
    """Float64: 8·N roundings (of n-term sums, d ≤ 64 terms) of numbers no larger than `condition`·Σ|t|."""
    return 8 * N * 2.0**-53 * condition * sum(map(abs, q.chebyshev))


@pytest.mark.parametrize("degree", range(1, 13))
@pytest.mark.parametrize("interval", [(-1.0, 1.0), (0.01, 1.3)])
def test_increment(degree, interval):
    Y, eigenvalues, Q = matrix(degree, *interval)
    q, kept = polynomial(degree, 0, *interval), Y.clone()
    a, R = increment(q, Y, Products("fp64"), Workspace())
    # The monomials of T_d sum to at most (1 + √2)^d in absolute value.
    error = torch.dist(full(a, R), exactly(q, eigenvalues, Q))
    assert error <= bound(q, (1 + 2**0.5) ** degree) * N
    assert torch.equal(Y, kept)


@pytest.mark.parametrize("degree", range(1, 13))
def test_the_constant_is_the_value_at_the_center(degree):
    q = polynomial(degree, 1, 0.1, 0.9)
    a, _ = increment(q, matrix(0, 0.1, 0.9)[0], Products("fp64"), Workspace())
    assert a == pytest.approx(Chebyshev(q.chebyshev)(0.0), rel=1e-10)


@pytest.mark.parametrize(("degree", "products"), PRODUCTS.items())
def test_product_counts(degree, products):
    product = Products("fp64")
    increment(polynomial(degree, 0), matrix(0)[0], product, Workspace())
    assert (product.square, product.columns) == (products, 0)


@given(st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_degree_eight_in_three_products(seed):
    rng = np.random.default_rng(seed)
    c1, c2, c3, c4, c5, c6, b2, b1, b0 = factors = rng.uniform(-1, 1, 9)
    sign = float(rng.choice([-1.0, 1.0]))
    Y, eigenvalues, Q = matrix(seed, 0.2, 1.0)
    x = (eigenvalues - 0.6) / 0.4
    y2 = x**2 * (c1 * x**2 + c2 * x)
    values = sign * ((y2 + c3 * x**2 + c4 * x) * (y2 + c5 * x**2) + c6 * y2 + b2 * x**2 + b1 * x + b0)
    q = Polynomial(0.6, 0.4, (0.0,) * 8 + (1.0,), (*map(float, factors), sign))
    product = Products("fp64")
    a, R = increment(q, Y, product, Workspace())
    assert product.square == 3
    assert a == sign * b0
    # Every one of ten coefficients is at most one: values at most 2·3 + 4.
    assert torch.dist(full(a, R), torch.from_numpy((Q * values) @ Q.T)[None]) <= 10 * 8 * N * N * 2.0**-53


@pytest.mark.parametrize("degree", range(1, 65))
def test_apply_polynomial(degree):
    Y, eigenvalues, Q = matrix(degree, 0.01, 1.3)
    q, V = polynomial(degree, 0, 0.01, 1.3), torch.from_numpy(np.random.default_rng(1).standard_normal((1, N, 3)))
    kept, product = V.clone(), Products("fp64")
    W = apply_polynomial(q, Y, V, product, Workspace(), "W")
    want = exactly(q, eigenvalues, Q) @ V
    # Clenshaw in Chebyshev polynomials of the interval: an error made in b_k grows by |U_k| ≤ k + 1.
    assert torch.dist(W, want) <= bound(q, degree + 1) * torch.linalg.matrix_norm(V)
    assert (product.square, product.columns) == (0, 3 * degree)
    assert torch.equal(V, kept)


def test_apply_polynomial_of_degree_zero():
    V = torch.ones(1, N, 2, dtype=torch.float64)
    q = Polynomial(0.5, 0.5, (3.0,))
    assert torch.equal(apply_polynomial(q, matrix(0)[0], V, Products("fp64"), Workspace(), "W"), 3 * V)
    with pytest.raises(ValueError, match=r"q\.chebyshev.*degree ≥ 1"):
        increment(q, matrix(0)[0], Products("fp64"), Workspace())


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=7))
def test_of_monomials_keeps_the_values(coefficients):
    q = Polynomial.of_monomials(coefficients)
    y = np.linspace(-1, 1, 9)
    got = np.polynomial.polynomial.polyval(y, q.monomials)
    np.testing.assert_allclose(got, np.polynomial.polynomial.polyval(y, coefficients), atol=1e-13, rtol=0)
    assert 1 <= q.degree and len(q.monomials) == q.degree + 1


def test_zero_coefficients_at_the_end():
    Y, eigenvalues, Q = matrix(0)
    for coefficients, products in (((2.0, -3.0, 0.0), 0), ((2.0, 0.0, 0.0), 0), ((0.0, 0.0, 1.0), 1)):
        product = Products("fp64")
        a, R = increment(Polynomial.of_monomials(coefficients), Y, product, Workspace())
        values = np.polynomial.polynomial.polyval(eigenvalues, coefficients)
        assert torch.dist(full(a, R), torch.from_numpy((Q * values) @ Q.T)) < 1e-13
        assert product.square == products
    for degree in (2, 4, 7):  # as Chebyshev coefficients they keep the degree
        q = Polynomial(0.0, 1.0, (1.0, 2.0) + (0.0,) * (degree - 1))
        assert torch.dist(full(*increment(q, Y, Products("fp64"), Workspace())), exactly(q, eigenvalues, Q)) < 1e-12


@pytest.mark.parametrize("degree", [2, 4, 6])
def test_additive_terms_are_not_rounded(degree):
    # q(Y) = I + small: with bf16 products the error must be relative to the small part.
    small = 2.0**-10
    Y, eigenvalues, Q = matrix(3)
    t = (1.0, *[small / (k + 1) for k in range(degree)])
    q = Polynomial(0.0, 1.0, t)
    a, R = increment(q, Y.float(), Products("bf16"), Workspace())
    error = torch.dist(full(a, R.double()), exactly(q, eigenvalues, Q))
    # Monomials of at most small·(1 + √2)^d, each product within 3u in the Frobenius norm ≤ √N.
    assert error <= 3 * 2.0**-8 * N**0.5 * small * (1 + 2**0.5) ** degree
    assert error > 0

"""Statements of the theory pages that no other test checks, in float64."""

import math

import numpy as np
import pytest
import torch
from iroot_coeffs import chebyshev_expansion, minimax
from iroot_kernels import lanczos_apply

N = 24


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def symmetric(rng, values):
    """(A, V): A with these eigenvalues and a dense random eigenbasis V."""
    V = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (V * values) @ V.T, V


def function(A, f):
    values, V = np.linalg.eigh(A)
    return (V * f(values)) @ V.T


def small(rng, n=N, size=1e-6):
    M = rng.standard_normal((n, n))
    return size * (M + M.T) / 2


def final_error(p, polynomials, kappa):
    """max |x λ^(1/p) − 1| on a grid of [1/κ, 1], with the best scaling of the last step, and ratio kept by it."""
    y = np.unique(np.concatenate((np.geomspace(1 / kappa, 1, 20001), np.linspace(1 / kappa, 1, 20001))))
    for q in polynomials:
        root = y ** (1 / p) * q(y)
        y = root**p
    return (root.max() - root.min()) / (root.max() + root.min())


@pytest.mark.parametrize(("p", "degrees"), [(1, (2, 3)), (2, (1, 2, 2)), (3, (2, 1)), (4, (4, 2))])
def test_no_other_polynomials_of_these_degrees_do_better(rng, p, degrees):
    """Against minimax polynomials of other intervals in the steps before the last, and perturbed ones."""
    kappa, lo, hi, greedy = 300.0, 1 / 300.0, 1.0, []
    for d in degrees:
        greedy.append(minimax(p, d, lo, hi))
        lo, hi = greedy[-1].image
    best = final_error(p, greedy, kappa)
    assert best == pytest.approx(greedy[-1].error, rel=1e-4)
    for trial in range(40):
        lo, hi, others = 1 / kappa, 1.0, []
        for d in degrees:
            q = minimax(p, d, lo * (rng.uniform(1, 3) if trial % 2 else 1.0), hi)
            c = np.array(q.chebyshev) * (1 + 0.05 * rng.standard_normal(d + 1) * (trial % 2 == 0))
            others.append(lambda y, q=q, c=c: np.polynomial.chebyshev.chebval((y - q.center) / q.half_width, c))
            y = np.geomspace(lo, hi, 4001)
            values = y ** (1 / p) * others[-1](y)
            if values.min() <= 0:
                break
            lo, hi = values.min() ** p, values.max() ** p
        else:
            assert final_error(p, others, kappa) >= best * (1 - 1e-4)


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_step_of_degree_d_is_of_order_d_plus_1(p, d):
    eps = 1e-3
    found = minimax(p, d, (1 - eps) ** p, (1 + eps) ** p).error
    c = math.prod(1 / p + j for j in range(d + 1)) / math.factorial(d + 1)
    # the next order is p·eps times as large; coefficients in float64 leave a few units of rounding
    assert found == pytest.approx(2 * c * (p * eps / 2) ** (d + 1), rel=10 * p * eps, abs=2e-15)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_an_error_in_y_is_divided_by_its_smallest_eigenvalue(rng, p):
    lam = np.geomspace(1e-3, 1, N)
    y = lam**0.7 * (1 + 0.2 * np.sin(np.arange(N)))  # of a Y on its way, not monotone
    Y, V = symmetric(rng, y)
    X = (V * (y / lam) ** (1 / p)) @ V.T
    D = small(rng, size=1e-9)
    changed = function(Y + D, lambda v: v ** (-1 / p)) @ X - (V * lam ** (-1 / p)) @ V.T
    bound = np.linalg.norm(D) / (p * y.min()) * lam.min() ** (-1 / p)
    assert np.linalg.norm(changed) <= bound * (1 + 1e-3)


def newton(X, Y, P):
    """The triple form near its limit: q(P) = (3I − P)/2."""
    Q = (3 * np.eye(len(P)) - P) / 2
    X, Y = Q @ X, Y @ Q
    return X, Y, X @ Y


def test_the_triple_form_heals(rng):
    A, _ = symmetric(rng, np.geomspace(1e-3, 1, N))
    X, Y = function(A, lambda v: v**-0.5), function(A, np.sqrt)
    F, G = small(rng, size=1e-8), small(rng, size=1e-8)
    X1, Y1, P1 = newton(X + F, Y + G, (X + F) @ (Y + G))
    L = (F - X @ G @ X) / 2
    assert np.linalg.norm(X1 - X - L) <= 1e-3 * np.linalg.norm(L)
    X2, _, _ = newton(X1, Y1, P1)
    assert np.linalg.norm(X2 - X1) <= 1e-3 * np.linalg.norm(L)  # L² = L
    assert np.linalg.norm(P1 - np.eye(N)) <= 1e-3 * np.linalg.norm((X + F) @ (Y + G) - np.eye(N))


@pytest.mark.parametrize("kappa", [25.0, 100.0])
def test_symmetrizing_the_triple_form_amplifies(rng, kappa):
    """Between the ends of the spectrum by (c − 1)/2 a step, c = (√κ + 1/√κ)/2; κ = 25 is below 34."""
    lam = np.geomspace(1 / kappa, 1, 6)
    A, V = symmetric(rng, lam)
    X, Y = function(A, lambda v: v**-0.5), function(A, np.sqrt)
    E = V[:, :1] @ V[:, -1:].T
    F = 1e-9 * (E + E.T)
    X1, Y1, P1 = X + F, Y, (X + F) @ Y
    sizes = []
    for _ in range(4):
        X1, Y1, P1 = newton(X1, Y1, (P1 + P1.T) / 2)
        X1, Y1 = (X1 + X1.T) / 2, (Y1 + Y1.T) / 2
        P1 = X1 @ Y1
        # f + g of the page, what a step multiplies
        f, g = ((V.T @ (M - T) @ V)[0, -1] for M, T in ((X1, X), (Y1, Y)))
        sizes.append(f + g / math.sqrt(lam[0] * lam[-1]))
    c = (math.sqrt(kappa) + 1 / math.sqrt(kappa)) / 2
    assert sizes[-1] / sizes[-2] == pytest.approx((1 - c) / 2, rel=1e-2)
    assert (abs((1 - c) / 2) > 1) == (kappa > 34)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [4.0, 100.0, 1e4])
@pytest.mark.parametrize("d", [3, 20, 120])
def test_a_chebyshev_sum_keeps_its_simple_bound(p, kappa, d):
    c, proved = chebyshev_expansion(p, 1 / kappa, 1.0, degree=d)
    x = np.concatenate((np.geomspace(1 / kappa, 1, 2001), np.linspace(1 / kappa, 1, 2001)))
    t = (2 * x - 1 - 1 / kappa) / (1 - 1 / kappa)
    error = np.abs(np.polynomial.chebyshev.chebval(t, c) * x ** (1 / p) - 1).max()
    root = math.sqrt(kappa)
    rho = (root - 1) / (root + 1)
    assert error <= root * (root + 1) * rho ** (d + 1) + 32 * kappa ** (1 / p) * 2.0**-53
    assert error <= proved * (1 + 1e-9)


@pytest.mark.parametrize("m", [4, 10, 20])
def test_lanczos_is_as_good_as_a_chebyshev_sum(rng, m):
    lam = np.geomspace(1e-2, 1, 60)
    A, _ = symmetric(rng, lam)
    b = rng.standard_normal((60, 1))
    S = torch.from_numpy(A)
    found = lanczos_apply(lambda V: S @ V, torch.from_numpy(b)[None], -0.5, tol=1e-15, max_steps=m, check_every=m)
    c, _ = chebyshev_expansion(2, lam[0], lam[-1], degree=m - 1)
    x = np.geomspace(lam[0], lam[-1], 4001)
    t = (2 * x - lam[0] - lam[-1]) / (lam[-1] - lam[0])
    most = np.abs(np.polynomial.chebyshev.chebval(t, c) - x**-0.5).max()
    error = np.linalg.norm(found.Z[0].numpy() - function(A, lambda v: v**-0.5) @ b)
    assert found.steps == m and error <= 2 * np.linalg.norm(b) * most * (1 + 1e-6)


@pytest.mark.parametrize("alpha", [-1.0, -0.5, -0.25, 0.5])
def test_the_wide_gram_identity(rng, alpha):
    G, r = rng.standard_normal((5, 12)), 0.3
    left = function(G.T @ G + r * np.eye(12), lambda v: v**alpha)
    h = function(G @ G.T, lambda v: r**alpha * np.expm1(alpha * np.log1p(v / r)) / v)
    assert np.allclose(left, r**alpha * np.eye(12) + G.T @ h @ G, atol=1e-12)
    inner = function(G @ G.T + r * np.eye(5), lambda v: v**alpha)
    assert np.allclose(left @ G.T, G.T @ inner, atol=1e-11)


@pytest.mark.parametrize(("q", "s"), [(1, 1), (1, 2), (1, 4), (2, 3), (3, 2)])
def test_residuals_weigh_errors_by_sums_of_powers(rng, q, s):
    lam = np.geomspace(0.05, 1, N)
    A, V = symmetric(rng, lam)
    x = lam ** (-q / s)
    X, D = (V * x) @ V.T, small(rng, size=1e-8)
    ratio = x[:, None] / x[None, :]
    power = np.linalg.matrix_power
    for m in range(1, s + 1):
        E = power(X + D, m) @ power(A, q) @ power(X + D, s + 1 - m) - (X + D)
        weights = sum(ratio ** float(k) for k in range(m - s, m))
        assert np.linalg.norm(V.T @ E @ V - (V.T @ D @ V) * weights) <= 1e-4 * np.linalg.norm(E)


@pytest.mark.parametrize("s", [1, 2, 3, 4, 8])
def test_two_orders_share_the_weight(s):
    rho = np.geomspace(1e-3, 1e3, 2001)
    for m in range(1, s + 1):
        first, second = (sum(rho ** float(k) for k in range(j - s, j)) for j in (m, s + 1 - m))
        assert (first >= 1).all() and (first * second >= s * s * (1 - 1e-12)).all()


def test_sixteen_probes_hardly_ever_fail(rng):
    """Of M of rank one with entries of all sizes, and of one with two equal entries, which signs may cancel."""
    normal = np.zeros(64)
    normal[:] = rng.standard_normal(64)
    pair = np.zeros(64)
    pair[:2] = 1.0
    for w in (normal, pair, np.geomspace(1, 1e-6, 64)):
        signs = rng.integers(0, 2, (4000, 16, 64)) * 2.0 - 1.0
        means = ((signs @ w) ** 2).mean(-1) / (w @ w)
        assert abs(means.mean() - 1) <= 4 * math.sqrt(2 / 16 / 4000)
        assert (means < 0.01).mean() <= 0.0153
        assert means.std() <= 1.1 * math.sqrt(2 / 16)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_derivative_is_made_of_divided_differences(rng, p):
    lam = np.geomspace(0.05, 1, N)
    A, V = symmetric(rng, lam)
    D = small(rng, size=1e-7)
    f = lam ** (-1 / p)
    gap = lam[:, None] - lam[None, :]
    slope = -np.diag(lam ** (-1 / p - 1) / p)
    divided = np.where(gap == 0, slope, (f[:, None] - f[None, :]) / np.where(gap == 0, 1, gap))
    change = V.T @ (function(A + D, lambda v: v ** (-1 / p)) - (V * f) @ V.T) @ V
    assert np.linalg.norm(change - divided * (V.T @ D @ V)) <= 1e-4 * np.linalg.norm(change)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [10.0, 1e3])
def test_the_condition_of_the_root_is_kappa_over_p(rng, p, kappa):
    lam = np.geomspace(1 / kappa, 1, N)
    A, V = symmetric(rng, lam)
    f = lambda v: v ** (-1 / p)  # noqa: E731
    for D, attained in ((small(rng, size=1e-9), False), (1e-9 * np.outer(V[:, 0], V[:, 0]), True)):
        change = np.linalg.norm(function(A + D, f) - (V * f(lam)) @ V.T)
        bound = kappa / p * np.linalg.norm(D) * kappa ** (1 / p)
        assert change <= bound * (1 + 1e-3)
        assert not attained or change == pytest.approx(bound, rel=1e-3)

"""solve_nonspd, p ≥ 2: the principal A^(-1/p)·B of general matrices.

Truth is the definition by eigenvectors with 60 digits (mpmath), which serves defective matrices too: rounded to float64
they have separate eigenvalues; for larger matrices scipy's Schur–Padé algorithm in float64.
"""

from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from iroot_solve import IrootError, solve_nonspd
from scipy.linalg import fractional_matrix_power

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def with_condition(n, kappa, seed=0, dtype=torch.float64):
    """U·diag(log-spaced)·Vᵀ with random orthogonal U and V."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return torch.from_numpy((U * np.logspace(0, -np.log10(kappa), n)) @ V).to(dtype)


def best(*args, **settings):
    """The result, and where it raises the one that the exception carries."""
    try:
        return solve_nonspd(*args, **settings)
    except IrootError as error:
        return error.result


def honest(estimate, true):
    """Within [0.1, 10] × truth up to 1e-3, above never below 0.1 × truth; the output's rounding u is not in it."""
    u = 2.0**-52
    return estimate >= 0.1 * (true - u) and (estimate > 1e-3 or estimate <= 10 * max(true, u))


def rotations(sizes, angles):
    """Block diagonal with eigenvalues r·e^(±iθ); the last one real for odd n."""
    n = len(sizes)
    T = np.zeros((n, n))
    for i in range(0, n - 1, 2):
        c, s = sizes[i] * np.cos(angles[i]), sizes[i] * np.sin(angles[i])
        T[i : i + 2, i : i + 2] = [[c, -s], [s, c]]
    if n % 2:
        T[-1, -1] = sizes[-1]
    return T


def in_sector(n, kappa, seed=0, dtype=torch.float64, widest=2.0):
    """V·blocks·V⁻¹ with κ(V) = 3 and eigenvalues of modulus 1/κ … 1 within ± `widest` of the positive axis."""
    rng = np.random.default_rng(seed)
    V = with_condition(n, 3.0, seed).numpy()
    blocks = rotations(np.logspace(0, -np.log10(kappa), n), rng.uniform(0, widest, n))
    return torch.from_numpy(V @ blocks @ np.linalg.inv(V)).to(dtype)


@cache
def eigen(rows):
    """(values, V, V⁻¹) with 60 digits, once for all p."""
    with mpmath.workdps(60):
        values, V = mpmath.eig(mpmath.matrix(rows))
        return values, V, V**-1


def exact(A, B, p):
    """A^(-1/p)·B with 60 digits."""
    with mpmath.workdps(60):
        values, V, inverse = eigen(tuple(map(tuple, A.double().tolist())))
        X = V * mpmath.diag([mpmath.exp(-mpmath.log(value) / p) for value in values]) * inverse
        Z = X if B is None else X * mpmath.matrix(B.double().tolist())
        found = [[float(mpmath.re(Z[i, j])) for j in range(Z.cols)] for i in range(Z.rows)]
        return torch.tensor(found, dtype=torch.float64)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 5, 24, 96])
@pytest.mark.parametrize("p", [2, 3, 4, 8])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("strategy", ["auto", "coupled-newton"])
def test_accuracy(rhs, distance, within, strategy, dtype, p, n):
    A, B = in_sector(n, 10.0, dtype=dtype), rhs(n, 3, dtype=dtype)
    Z, _, stats, schedule = solve_nonspd(A, B, p_val=p, strategy=strategy)
    expected = torch.from_numpy(fractional_matrix_power(A.double().numpy(), -1 / p).real) @ B.double()
    assert stats.status == "converged" and Z.dtype == dtype and "\n" not in str(schedule)
    assert distance(Z, expected) <= within(TOLERANCES[dtype], dtype)
    assert stats.strategy == ("eig" if strategy == "auto" else strategy) and stats.fallbacks == ()


def _hard():
    rng = np.random.default_rng(7)
    n = 9
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    G = rng.standard_normal((n, n))
    angles, one, d = rng.uniform(0, 2.5, n), np.ones(n), np.logspace(0, -5, n)
    pairs = np.repeat(np.linspace(0.5, 1, 5), 2)[:n]
    return {
        "normal, κ = 1e2": Q @ rotations(np.logspace(0, -2, n), angles) @ Q.T,
        "normal, κ = 1e6": Q @ rotations(np.logspace(0, -6, n), angles) @ Q.T,
        "orthogonal, eigenvalues near −1": Q @ rotations(one, np.pi - np.logspace(-5, 0, n)) @ Q.T,
        "one Jordan block": Q @ (0.5 * np.eye(n) + np.diag(one[1:], 1)) @ Q.T,
        "Jordan blocks of two": Q @ (np.diag(pairs) + np.diag(np.tile([1.0, 0.0], n)[: n - 1], 1)) @ Q.T,
        "not normal": Q @ (np.diag(np.logspace(0, -2, n)) + np.triu(G, 1)) @ Q.T,
        "triangular": np.diag(np.logspace(0, -2, n)) + np.triu(G, 1),
        "similar to blocks": G @ rotations(np.logspace(0, -2, n), 0.6 * angles) @ np.linalg.inv(G),
        "the same, κ = 1e6": G @ rotations(np.logspace(0, -6, n), 0.6 * angles) @ np.linalg.inv(G),
        "positive definite": (Q * np.logspace(0, -6, n)) @ Q.T,
        "diagonal": np.diag(np.logspace(0, -10, n)),
        "graded": d[:, None] * (np.eye(n) + 0.1 * G) * d,
    }


HARD = _hard()


@pytest.mark.slow
@pytest.mark.parametrize("p", [2, 3, 4, 8])
@pytest.mark.parametrize("name", HARD)
def test_the_error_is_true_in_hard_cases(rhs, distance, name, p):
    """And `auto` converges in all of them: κ·u of float64 is far below 1e-10, but for what eigenvectors lose."""
    A, B = torch.from_numpy(HARD[name]), rhs(9, 2, dtype=torch.float64)
    root = exact(A, None, p)
    for strategy in ("auto", "coupled-newton"):
        for right in (B, None):
            result = best(A, right, p_val=p, strategy=strategy)
            true = distance(result.Z, root if right is None else root @ B)
            assert honest(float(result.stats.error), true), strategy
            assert strategy != "auto" or (result.stats.status == "converged" and true <= 1e-10)


def test_defective_matrices_go_to_coupled_newton(rhs, distance):
    A, B = torch.from_numpy(HARD["one Jordan block"]), rhs(9, 2, dtype=torch.float64)
    result = solve_nonspd(A, B, p_val=2)
    assert result.stats.fallbacks == ("coupled-newton in fp64",) and result.stats.strategy == "coupled-newton"
    shear = torch.tensor([[1.0, 1.0], [0.0, 1.0]])  # its root is known: [[1, 1], [0, 1]]^(-1/p) = [[1, -1/p], [0, 1]]
    for p in (2, 3, 5, 12):
        assert distance(solve_nonspd(shear, None, p_val=p).Z, torch.tensor([[1.0, -1 / p], [0.0, 1.0]])) <= 1e-6


@pytest.mark.parametrize("p", [5, 6, 7, 12, 31])
def test_other_orders(rhs, distance, p):
    A, B = in_sector(8, 1e3), rhs(8, 2, dtype=torch.float64)
    for strategy in ("auto", "coupled-newton"):
        assert distance(solve_nonspd(A, B, p_val=p, strategy=strategy).Z, exact(A, B, p)) <= 1e-10


@pytest.mark.parametrize("p", [2, 3, 4])
def test_it_is_the_principal_root(p):
    """All eigenvalues of A^(-1/p) lie within ±π/p, and X^p·A = I."""
    A = in_sector(10, 1e2, widest=3.0)
    X = solve_nonspd(A, None, p_val=p).Z
    assert float(torch.linalg.eigvals(X).angle().abs().max()) < np.pi / p
    # ‖X^p·A − I‖ ≤ p·‖X‖^(p−1)·‖δX‖·‖A‖ and ‖δX‖ ≤ 1e-10·‖X‖_F.
    size = float(torch.linalg.matrix_norm(X))
    gap = torch.linalg.matrix_power(X, p) @ A - torch.eye(10, dtype=torch.float64)
    assert float(torch.linalg.matrix_norm(gap)) <= p * size**p * 1e-10 * float(torch.linalg.matrix_norm(A))


@pytest.mark.parametrize("p", [2, 3, 4])
@pytest.mark.parametrize("strategy", ["eig", "coupled-newton"])
def test_exact_for_powers_of_two_to_the_p(rhs, p, strategy):
    A, B = in_sector(6, 5.0, dtype=torch.float32), rhs(6, 2)
    Z = solve_nonspd(A, B, p_val=p, strategy=strategy).Z
    for j in (-66 // p, -1, 1, 66 // p):
        assert torch.equal(solve_nonspd(A * 2.0 ** (p * j), B, p_val=p, strategy=strategy).Z, Z * 2.0**-j)


@pytest.mark.parametrize("p", [2, 3])
@pytest.mark.parametrize("c", [1e-20, 1e-3, 1e3, 1e20])
def test_scale_equivariance(rhs, distance, p, c):
    A, B = in_sector(8, 1e2, dtype=torch.float32), rhs(8, 2)
    Z, expected = solve_nonspd(A * c, B, p_val=p).Z, solve_nonspd(A, B, p_val=p).Z
    # Rounding A·c moves the root by its condition number times u: κ(V)²·κ at most.
    assert distance(Z.double() * c ** (1 / p), expected) <= 2e-4 + (9e2 + 2) * 2.0**-24


def test_a_batch_equals_its_members(rhs, distance):
    A = torch.stack(
        [in_sector(6, 10.0, seed) for seed in range(4)] + [torch.eye(6).double() + torch.ones(6, 6).triu(1)]
    )
    B = rhs(5, 6, 2, dtype=torch.float64)
    for p in (2, 3):
        result = solve_nonspd(A, B, p_val=p)
        assert result.stats.status == ["converged"] * 5
        for i in range(5):
            assert distance(result.Z[i], solve_nonspd(A[i], B[i], p_val=p).Z) <= 2e-10


def test_stats_hold_moduli_of_eigenvalues():
    stats = solve_nonspd(4.0 * in_sector(9, 1e3), None, p_val=2).stats
    assert float(stats.lambda_max) == pytest.approx(4.0, rel=1e-10)
    assert float(stats.lambda_min) == pytest.approx(4e-3, rel=1e-8)


def test_without_verification(rhs, distance):
    A, B = in_sector(9, 10.0), rhs(9, 2, dtype=torch.float64)
    for strategy in ("eig", "coupled-newton"):
        result = solve_nonspd(A, B, p_val=3, strategy=strategy, verify=False)
        assert result.stats.status == "unverified" and distance(result.Z, exact(A, B, 3)) <= 1e-10

"""Line 1: Z is of A as passed plus the explicit ridge; every scaling is undone; no hidden shift."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import PrecondConfig, inverse_root, solve_spd

# Condition numbers that the dtype's storage still resolves: a rounded bfloat16 matrix keeps eigenvalues above ~4e-3.
KAPPAS = {torch.float64: 1e4, torch.float32: 1e4, torch.bfloat16: 10.0, torch.float16: 1e2}


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh", "cholesky"])
@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("dtype", KAPPAS)
def test_true_answer_for_the_values_passed(spd, rhs, truth, distance, within, dtype, p, strategy):
    if strategy == "cholesky" and p != 1:
        pytest.skip("cholesky is for p = 1")
    A, B = spd(24, KAPPAS[dtype], dtype=dtype), rhs(24, 3, dtype=dtype)
    result = solve_spd(A, B, p_val=p, strategy=strategy)
    tol = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 1e-2)
    assert result.stats.status == "converged"
    assert result.Z.dtype == dtype
    assert distance(result.Z, truth(A, B, Fraction(-1, p))) <= within(tol, dtype)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_the_root_itself_is_a_root(spd, p):
    A = spd(20, 1e3, dtype=torch.float64)
    X = inverse_root(A, p)
    # ‖X^p·A − I‖ ≤ p·κ·(relative error of X's eigencomponents), with ‖ΔX‖_F ≤ tol·‖X‖_F, ‖X‖_F ≤ √n·κ^(1/p)·x_min.
    gap = torch.linalg.matrix_norm(torch.linalg.matrix_power(X, p) @ A - torch.eye(20, dtype=A.dtype))
    assert gap <= p * 1e-10 * 20**0.5 * 1e3
    assert torch.equal(X, X.mT)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["auto", "materialize-root", "direct-solve"])
def test_no_hidden_shift(with_spectrum, truth, distance, strategy, p):
    # B is the eigenvector of λmin = 1e-8: a shift by δ changes Z by δ/(p·λmin), so tol = 1e-6 sees δ ≥ 8e-14 at p = 8.
    A = with_spectrum(np.append(1e-8, np.linspace(0.5, 1, 19)))
    B = torch.linalg.eigh(A).eigenvectors[:, :1].contiguous()
    Z = solve_spd(A, B, p_val=p, tol=1e-6, strategy=strategy).Z
    # eigh of A finds λmin to n·u·λmax = 2e-15, a relative 2e-7.
    assert distance(Z, truth(A, B, Fraction(-1, p))) <= 1e-6 + 2e-7


def test_float64_at_condition_1e10_against_mpmath(spd, rhs, exact, distance):
    A, B = spd(24, 1e10, dtype=torch.float64), rhs(24, 2, dtype=torch.float64)
    for p in (2, 4):
        Z, _, stats, _ = solve_spd(A, B, p_val=p, tol=1e-5)
        assert stats.status == "converged"
        assert distance(Z, exact(A, B, Fraction(-1, p))) <= 1e-5


@pytest.mark.parametrize("mode", ["none", "frob", "jacobi", "ruiz", "aol", "row-norm"])
def test_every_scaling_is_undone_exactly(spd, rhs, truth, distance, mode):
    # Graded by powers of two: every mode scales, and 2^-e·D·A·D is exact.
    d = torch.tensor([2.0 ** (-i) for i in range(16)], dtype=torch.float64)
    A = d[:, None] * spd(16, 4.0, dtype=torch.float64) * d
    B = rhs(16, 4, dtype=torch.float64)
    for p in (1, 2):
        result = solve_spd(A, B, p_val=p, tol=1e-6, precond_config=PrecondConfig(mode=mode))
        assert distance(result.Z, truth(A, B, Fraction(-1, p))) <= 1e-6 + 16 * 2**-53 * 4**16


def test_ridge_is_added_once_in_units_of_A(spd, rhs, truth, distance, within):
    A, B = 100 * spd(16, 1e4), rhs(16, 2)
    for p in (1, 2, 3):
        Z, _, stats, _ = solve_spd(A, B, p_val=p, ridge=0.5)
        assert float(stats.ridge) == 0.5
        assert distance(Z, truth(A, B, Fraction(-1, p), ridge=0.5)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("in_config", [False, True])
def test_relative_ridge_is_times_the_mean_eigenvalue(spd, rhs, truth, distance, within, in_config):
    A, B = 7 * spd(16, 1e4), rhs(16, 2)
    where = {"precond_config": PrecondConfig(ridge_rel=0.25)} if in_config else {"ridge_rel": 0.25}
    Z, _, stats, _ = solve_spd(A, B, **where)
    expected = 0.25 * float(torch.linalg.eigvalsh(A.double()).mean())
    assert float(stats.ridge) == pytest.approx(expected, rel=1e-6)
    assert distance(Z, truth(A, B, -0.5, ridge=expected)) <= within(1e-4, A.dtype)


def test_absolute_and_relative_ridge_add_up(spd, rhs, truth, distance, within):
    A, B = spd(16, 1e4), rhs(16, 2)
    Z, _, stats, _ = solve_spd(A, B, ridge=0.5, ridge_rel=0.25)
    expected = 0.5 + 0.25 * float(A.double().diagonal().mean())
    assert float(stats.ridge) == pytest.approx(expected, rel=1e-6)
    assert distance(Z, truth(A, B, -0.5, ridge=expected)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("strategy", ["auto", "materialize-root", "direct-solve", "eigh"])
def test_a_small_ridge_is_not_rounded_to_the_dtype_of_A(rhs, truth, distance, within, strategy):
    # In float32 1 + 2^-20·1.3 loses 4 bits of the ridge: an error of 2e-2 for the null space of A.
    G = rhs(24, 6)
    A, ridge = G @ G.mT, 2.0**-18 * 1.3
    A, B = (A + A.mT) / 2, rhs(24, 3, seed=2)
    Z, _, stats, _ = solve_spd(A.double(), B.double(), ridge=ridge, tol=1e-4, strategy=strategy)
    assert distance(Z, truth(A, B, -0.5, ridge=ridge)) <= within(1e-4, A.dtype)
    Z, _, stats, _ = solve_spd(A, B, ridge=0.01 + ridge, strategy=strategy)
    assert float(stats.ridge) == 0.01 + ridge
    assert distance(Z, truth(A, B, -0.5, ridge=0.01 + ridge)) <= within(1e-4, A.dtype)


def test_no_ridge_is_reported_as_zero(spd):
    assert float(solve_spd(spd(8, 10.0), None).stats.ridge) == 0.0


def test_two_different_relative_ridges_are_refused(spd, rhs):
    config = PrecondConfig(ridge_rel=0.2)
    with pytest.raises(ValueError, match=r"ridge_rel=0\.1 and PrecondConfig\.ridge_rel=0\.2 differ"):
        solve_spd(spd(8, 10.0), rhs(8, 1), ridge_rel=0.1, precond_config=config)
    assert float(solve_spd(spd(8, 10.0), None, ridge_rel=0.2, precond_config=config).stats.ridge) > 0


@pytest.mark.parametrize("name", ["ridge", "ridge_rel"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_ridges_out_of_range_are_refused_by_name(spd, rhs, name, value):
    with pytest.raises(ValueError, match=name):
        solve_spd(spd(8, 10.0), rhs(8, 1), **{name: value})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_relative_ridge_rescues_a_rounded_gram(rhs, truth, distance, within, dtype):
    G = rhs(24, 6)
    A, B = (G @ G.mT / 6).to(dtype), rhs(24, 2, dtype=dtype)
    Z, _, stats, _ = solve_spd(A, B, ridge_rel=5e-2)
    assert stats.status == "converged"
    assert distance(Z, truth(A, B, -0.5, ridge=float(stats.ridge))) <= within(1e-2, dtype)

"""Properties: what a change of basis does to the answer, and (X^p·A) ≈ I."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_solve import inverse_root, solve_spd

STRATEGIES = ["auto", "direct-solve", "materialize-root", "eigh"]
N, KAPPA = 12, 50.0

spectra = st.lists(st.floats(1 / KAPPA, 1.0), min_size=N, max_size=N)
seeds = st.integers(0, 2**31)


def _orthogonal(seed):
    return torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((N, N)))[0])


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=12, deadline=None)
@given(spectrum=spectra, seed=seeds, p=st.integers(1, 8))
def test_permutation_equivariance(with_spectrum, rhs, distance, within, strategy, spectrum, seed, p):
    A, B = with_spectrum(spectrum, seed, torch.float32), rhs(N, 2, seed=seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(N))
    Z = solve_spd(A, B, p_val=p, strategy=strategy).Z
    permuted = solve_spd(A[order][:, order], B[order], p_val=p, strategy=strategy).Z
    # Permuting is exact: both are within tol of P·Z*.
    assert distance(permuted, Z[order]) <= 2 * within(1e-4, A.dtype) * (1 + 1e-3)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=12, deadline=None)
@given(spectrum=spectra, seed=seeds, p=st.integers(1, 8))
def test_orthogonal_equivariance(with_spectrum, rhs, distance, strategy, spectrum, seed, p):
    A, B, Q = with_spectrum(spectrum, seed), rhs(N, 2, seed=seed, dtype=torch.float64), _orthogonal(seed)
    rotated = Q @ A @ Q.mT
    Z = solve_spd(A, B, p_val=p, strategy=strategy, tol=1e-8).Z
    other = solve_spd((rotated + rotated.mT) / 2, Q @ B, p_val=p, strategy=strategy, tol=1e-8).Z
    # Rounding of Q·A·Qᵀ (≤ 4n·u) moves the answer by κ times that.
    assert distance(other, Q @ Z) <= 2e-8 + 4 * N * KAPPA * 2.0**-53


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=12, deadline=None)
@given(spectrum=spectra, seed=seeds)
def test_linearity_in_B(with_spectrum, rhs, distance, strategy, spectrum, seed):
    A = with_spectrum(spectrum, seed)
    B, C = (rhs(N, 3, seed=seed + i, dtype=torch.float64) for i in (1, 2))
    solve = lambda V: solve_spd(A, V, strategy=strategy, tol=1e-8).Z  # noqa: E731
    total = solve(B) - 3 * solve(C)
    # The three norms are at most (‖B‖ + 3‖C‖ + ‖B − 3C‖)·‖X‖, the result at least ‖B − 3C‖/‖X⁻¹‖.
    size = sum(float(torch.linalg.matrix_norm(V)) for V in (B, 3 * C, B - 3 * C))
    assert torch.linalg.matrix_norm(solve(B - 3 * C) - total) <= 1e-8 * KAPPA**0.5 * size


@pytest.mark.parametrize("strategy", ["auto", "materialize-root", "eigh"])
@settings(max_examples=12, deadline=None)
@given(spectrum=spectra, seed=seeds, p=st.integers(1, 8))
def test_the_pth_power_of_the_root_times_A_is_the_identity(with_spectrum, strategy, spectrum, seed, p):
    A = with_spectrum(spectrum, seed)
    X = inverse_root(A, p, strategy=strategy, tol=1e-9)
    gap = torch.linalg.matrix_norm(torch.linalg.matrix_power(X, p) @ A - torch.eye(N, dtype=A.dtype))
    # ‖X^p·A − I‖_F ≤ p·‖ΔX‖_F·‖X‖^(p−1)·‖A‖ to first order, ‖ΔX‖_F ≤ tol·√n·‖X‖, ‖X‖^p ≤ κ.
    assert gap <= 1.01 * p * 1e-9 * N**0.5 * KAPPA


@settings(max_examples=12, deadline=None)
@given(spectrum=spectra, seed=seeds)
def test_roots_compose(with_spectrum, rhs, distance, spectrum, seed):
    """A^(-1/4)·A^(-1/4)·B = A^(-1/2)·B."""
    A, B = with_spectrum(spectrum, seed), rhs(N, 2, seed=seed, dtype=torch.float64)
    twice = solve_spd(A, solve_spd(A, B, p_val=4, tol=1e-9).Z, p_val=4, tol=1e-9).Z
    # The inner error is amplified by at most cond(A^(1/4)).
    assert distance(twice, solve_spd(A, B, p_val=2, tol=1e-9).Z) <= 1e-9 * (2 + KAPPA**0.25) * 1.01

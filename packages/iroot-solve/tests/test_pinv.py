"""on_singular="pinv": A^α on the numerical range of a semidefinite A, zero beside it."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import NotPositiveDefiniteError, SingularMatrixError, solve_gram_spd, solve_spd

N, RANK = 24, 15


@pytest.fixture
def semidefinite(with_spectrum):
    return lambda dtype=torch.float64, seed=0: with_spectrum(
        np.append(np.zeros(N - RANK), np.logspace(-1, 0, RANK)), seed, dtype
    )


def _truth(A, B, exponent, cut):
    values, V = torch.linalg.eigh(A.double())
    f = torch.where(values > cut, values.clamp_min(1e-300), 1.0).pow(float(exponent)) * (values > cut)
    return (V * f.unsqueeze(-2)) @ (V.mT @ B.double())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2), Fraction(-1, 4), Fraction(-2, 3)])
def test_on_the_range(semidefinite, rhs, distance, within, dtype, exponent):
    """Rounding A to float32 makes eigenvalues up to n·u of the zeros, which the cut takes for zeros again."""
    A, B = semidefinite(dtype), rhs(N, 4, dtype=dtype)
    with pytest.raises(SingularMatrixError, match="pinv") if dtype is torch.float64 else _any_error():
        solve_spd(A, B, exponent=exponent)
    result = solve_spd(A, B, exponent=exponent, on_singular="pinv")
    cut = N * torch.finfo(dtype).eps / 2 * float(torch.linalg.eigvalsh(A.double())[-1])
    assert result.stats.status == "converged" and int(result.stats.rank) == RANK
    assert float(result.stats.cut) == pytest.approx(cut, rel=1e-6)
    tol = 1e-10 if dtype is torch.float64 else 1e-4
    assert distance(result.Z, _truth(A, B, exponent, cut)) <= within(tol, dtype)
    assert 0.1 * distance(result.Z, _truth(A, B, exponent, cut)) <= float(result.stats.error) + torch.finfo(dtype).eps


def _any_error():
    return pytest.raises(torch.linalg.LinAlgError)


def test_of_a_definite_matrix_it_is_the_root(spd, rhs, truth, distance):
    A, B = spd(N, 10.0), rhs(N, 2)
    result = solve_spd(A, B, on_singular="pinv")
    assert int(result.stats.rank) == N and distance(result.Z, truth(A, B, -1 / 2)) <= 1e-4


def test_a_batch_with_a_zero_and_an_indefinite_matrix(semidefinite, rhs, distance):
    A = torch.stack([semidefinite(), torch.zeros(N, N, dtype=torch.float64), semidefinite(seed=1)])
    B = rhs(3, N, 2, dtype=torch.float64)
    result = solve_spd(A, B, on_singular="pinv")
    assert result.stats.status == ["converged"] * 3 and result.stats.rank.tolist() == [RANK, 0, RANK]
    assert not result.Z[1].any() and distance(result.Z[2], _truth(A[2], B[2], Fraction(-1, 2), 1e-12)) <= 1e-10
    A[1] -= torch.eye(N, dtype=torch.float64)
    with pytest.raises(NotPositiveDefiniteError, match=r"A\[1\]"):
        solve_spd(A, B, on_singular="pinv")


def test_rcond(with_spectrum, rhs, distance):
    """Three eigenvalues of 1e-3 stay or go."""
    A, B = with_spectrum([1e-3, 1e-3, 1e-3, 0.5, 1.0]), rhs(5, 2, dtype=torch.float64)
    for rcond, rank in ((1e-4, 5), (1e-2, 2)):
        result = solve_spd(A, B, on_singular="pinv", rcond=rcond)
        assert int(result.stats.rank) == rank
        assert distance(result.Z, _truth(A, B, Fraction(-1, 2), rcond)) <= 1e-10


@pytest.mark.parametrize("shape", [(40, 12), (9, 30)])
@pytest.mark.parametrize("p", [1, 2])
def test_gram_matrices(rhs, distance, shape, p):
    """A G of rank 5 in float32: singular values below max(m, n)·u are its rounding."""
    G, B = (rhs(shape[0], 5) @ rhs(5, shape[1], seed=2)).float(), rhs(shape[1], 3)
    result = solve_gram_spd(G, B, p_val=p, on_singular="pinv")
    _, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    expected = (Vh[:5].mT * sigma[:5] ** (-2 / p)) @ (Vh[:5] @ B.double())
    assert result.stats.status == "converged" and int(result.stats.rank) == 5
    assert distance(result.Z, expected) <= 1e-4


def test_what_is_refused(semidefinite, rhs):
    A, B = semidefinite(), rhs(N, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="direct-solve"):
        solve_spd(A, B, on_singular="pinv", strategy="direct-solve")
    with pytest.raises(ValueError, match="rcond=2"):
        solve_spd(A, B, on_singular="pinv", rcond=2.0)
    with pytest.raises(ValueError, match="on_singular='zero' is not one of error, pinv"):
        solve_spd(A, B, on_singular="zero")

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_precond import (
    aol_scaling,
    frobenius_scaling,
    jacobi_scaling,
    row_norm_scaling,
    ruiz_scaling,
)

CONGRUENCES = [jacobi_scaling, ruiz_scaling, aol_scaling, row_norm_scaling]


@pytest.fixture
def badly_scaled(with_spectrum):
    d = torch.from_numpy(np.logspace(-3, 0, 24))
    A = torch.stack([with_spectrum(np.logspace(-1, 0, 24), seed) for seed in range(3)])
    A = d[:, None] * A * d
    return (A + A.mT) / 2


def is_power_of_two(x):
    return bool((torch.frexp(x).mantissa == 0.5).all())


@pytest.mark.parametrize("scaling", CONGRUENCES)
def test_factors_are_powers_of_two_and_application_is_exact(scaling, badly_scaled):
    before = badly_scaled.clone()
    record = scaling(badly_scaled)
    assert record.d.shape == (3, 24) and is_power_of_two(record.d)
    scaled = record.apply(badly_scaled)
    assert torch.equal(scaled / record.d[..., :, None] / record.d[..., None, :], before)
    assert torch.equal(badly_scaled, before) and torch.equal(scaled, scaled.mT)


@pytest.mark.parametrize("scaling", CONGRUENCES)
def test_the_inverse_is_recovered_for_p_1(scaling, badly_scaled):
    record = scaling(badly_scaled)
    B = torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    Z = record.undo_solution(torch.linalg.solve(record.apply(badly_scaled), record.apply_rhs(B)))
    truth = torch.linalg.solve(badly_scaled, B)
    # both solves are backward stable: a small multiple of κ·u with κ ≤ 1e7
    assert torch.linalg.norm(Z - truth) <= 1e-8 * torch.linalg.norm(truth)


@pytest.mark.parametrize("scaling", CONGRUENCES)
def test_condition_improves(scaling, badly_scaled):
    scaled = scaling(badly_scaled).apply(badly_scaled)
    assert (torch.linalg.cond(scaled) < torch.linalg.cond(badly_scaled) / 100).all()


def test_jacobi_makes_the_diagonal_one_up_to_rounding_of_d(badly_scaled):
    diagonal = jacobi_scaling(badly_scaled).apply(badly_scaled).diagonal(dim1=-2, dim2=-1)
    assert (diagonal >= 0.5).all() and (diagonal < 2).all()


def test_ruiz_makes_row_maxima_one_up_to_rounding_of_d(badly_scaled):
    rows = ruiz_scaling(badly_scaled, iters=6).apply(badly_scaled).abs().amax(-1)
    assert (rows >= 0.5).all() and (rows <= 2).all()
    assert (ruiz_scaling(badly_scaled, iters=0).d == 1).all()


def test_aol_bounds_the_spectral_norm(badly_scaled):
    # 1 for the exact scaling; each d is rounded by at most √2
    assert (torch.linalg.matrix_norm(aol_scaling(badly_scaled).apply(badly_scaled), 2) <= 2).all()


def test_row_norm_factors_against_their_definition(badly_scaled):
    exact = np.linalg.norm(badly_scaled.numpy(), axis=-1) ** -0.5
    ratio = row_norm_scaling(badly_scaled).d.numpy() / exact
    assert (ratio <= math.sqrt(2) * (1 + 1e-12)).all() and (ratio >= math.sqrt(0.5) * (1 - 1e-12)).all()


def test_permutation_equivariance(badly_scaled):
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    for scaling in CONGRUENCES:
        permuted = scaling(badly_scaled[:, order][:, :, order])
        assert torch.equal(permuted.d, scaling(badly_scaled).d[:, order])


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_diagonal_that_cannot_be_scaled_keeps_one(bad):
    A = torch.diag(torch.tensor([bad, 0.25, 0.0625]))
    d = jacobi_scaling(A).d
    assert d.tolist() == [1, 2, 4]


def test_eps_is_relative_and_guards_only_the_division():
    A = torch.diag(torch.tensor([1.0, 2.0**-60], dtype=torch.float64))
    assert jacobi_scaling(A, eps=0).d.tolist() == [1, 2.0**30]
    assert jacobi_scaling(A, eps=2.0**-20).d.tolist() == [1, 2.0**10]
    assert torch.equal(jacobi_scaling(2.0**-40 * A, eps=2.0**-20).d, 2.0**20 * jacobi_scaling(A, eps=2.0**-20).d)


def test_frobenius_scalar_is_undone_for_every_power(with_spectrum):
    A = torch.stack([8 * with_spectrum(np.linspace(0.1, 1, 20)), with_spectrum(np.linspace(0.1, 1, 20))])
    record = frobenius_scaling(A)
    norms = torch.linalg.matrix_norm(record.apply(A))
    assert is_power_of_two(record.c) and (norms >= 0.5).all() and (norms < 1).all()
    values, vectors = torch.linalg.eigh(record.apply(A))
    for exponent in (-1, Fraction(-1, 3), Fraction(1, 2)):
        scaled_root = (vectors * values[:, None, :] ** float(exponent)) @ vectors.mT
        true_values, true_vectors = torch.linalg.eigh(A)
        truth = (true_vectors * true_values[:, None, :] ** float(exponent)) @ true_vectors.mT
        # κ = 10: two eigendecompositions, n·u each
        torch.testing.assert_close(record.undo_root(scaled_root, exponent), truth, rtol=0, atol=1e-12)


def test_zero_matrices_and_empty_ones():
    zero = torch.zeros(2, 3, 3)
    assert (frobenius_scaling(zero).c == 1).all()
    for scaling in CONGRUENCES:
        assert (scaling(zero).d == 1).all()
        assert scaling(torch.zeros(2, 0, 0)).d.shape == (2, 0)

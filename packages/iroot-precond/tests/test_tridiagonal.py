import math

import numpy as np
import pytest
import torch
from iroot_precond._tridiagonal import extremes_by_lapack, extremes_by_squaring, tridiagonal_extremes

SOLVERS = [extremes_by_lapack, extremes_by_squaring]


def dense(alpha, beta):
    return np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("k", [1, 2, 5, 10, 40, 64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_ends_of_random_matrices(solver, k, scale):
    rng = np.random.default_rng(k)
    alpha, beta = scale * rng.standard_normal((6, k)), scale * np.abs(rng.standard_normal((6, k - 1)))
    truth = np.stack([np.linalg.eigvalsh(dense(a, b)) for a, b in zip(alpha, beta, strict=True)])
    low, high = solver(torch.from_numpy(alpha), torch.from_numpy(beta))
    width = truth[:, -1] - truth[:, 0] + scale
    # 52 squarings miss an end by at most (k − 1)/(e·2^52) of the width; the rest is rounding of k×k products
    assert (np.abs(low.numpy() - truth[:, 0]) <= 1e-14 * k * width).all()
    assert (np.abs(high.numpy() - truth[:, -1]) <= 1e-14 * k * width).all()


@pytest.mark.parametrize("solver", SOLVERS)
def test_small_end_of_a_wide_spectrum(solver):
    # eigenvalues of the second difference: 4·sin²(jπ/(2(k + 1)))
    k = 60
    alpha, beta = torch.full((k,), 2.0, dtype=torch.float64), torch.full((k - 1,), -1.0, dtype=torch.float64)
    low, high = solver(alpha, beta)
    angle = math.pi / (2 * (k + 1))
    assert low.item() == pytest.approx(4 * math.sin(angle) ** 2, abs=1e-12)
    assert high.item() == pytest.approx(4 * math.sin(k * angle) ** 2, abs=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("value", [0.0, -2.0, 1e-300])
def test_multiples_of_the_identity(solver, value):
    alpha, beta = torch.full((3, 5), value, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    low, high = solver(alpha, beta)
    np.testing.assert_allclose(low.numpy(), value, rtol=1e-14)
    np.testing.assert_allclose(high.numpy(), value, rtol=1e-14)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_elements_are_nan_alone(bad):
    alpha, beta = torch.ones(3, 4, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    alpha[0, 1], beta[1, 2] = bad, bad
    low, high = tridiagonal_extremes(alpha, beta)
    assert low.isnan().tolist() == high.isnan().tolist() == [True, True, False]
    assert low[2] == 1 == high[2]

"""The normalised Gram matrix against a float64 singular value decomposition of G."""

import pytest
import torch
from iroot_precond import precond_gram_dual_spd, precond_gram_spd


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (2, 9, 4)])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("dual", [False, True])
def test_roots(dtype, scale, shape, p, dual):
    """A ridge of a tenth of the mean diagonal leaves κ ≤ 1e2, so that the root is known to κ·√n·u in `dtype`."""
    G = (scale * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    before = G.clone()
    A_norm, stats = (precond_gram_dual_spd if dual else precond_gram_spd)(G, ridge_rel=0.1)
    rows = G.double().mT if dual else G.double()
    mean = rows.square().sum((-2, -1)) / rows.shape[-1]
    sigma, Vh = torch.linalg.svd(rows / scale, full_matrices=True)[1:]
    values = (
        torch.nn.functional.pad(sigma**2, (0, rows.shape[-1] - sigma.shape[-1])) + (0.1 * mean / scale**2)[..., None]
    )
    truth = Vh.mT @ (values.pow(-1 / p).unsqueeze(-1) * Vh)
    lam, V = torch.linalg.eigh(A_norm.double())
    X = stats.undo(((V * lam.pow(-1 / p).unsqueeze(-2)) @ V.mT).to(dtype), p).double() * scale ** (2 / p)
    u = torch.finfo(dtype).eps / 2
    assert torch.linalg.matrix_norm(X - truth).max() <= 1e3 * u * torch.linalg.matrix_norm(truth).max()
    assert torch.allclose(stats.ridge.double(), 0.1 * mean, rtol=20 * u, atol=0)
    assert torch.equal(G, before) and ((stats.lambda_max >= 0.5) & (stats.lambda_max < 1)).all()


def test_column_norms_are_jacobi():
    """D·GᵀG·D with D = diag(‖g_j‖)⁻¹, up to powers of two, has an even diagonal whatever the columns are scaled by."""
    G = torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scaled, stats = precond_gram_spd(G * torch.logspace(-3, 3, 6, dtype=torch.float64), "jacobi")
    diagonal = scaled.diagonal()
    assert float(diagonal.amax() / diagonal.amin()) <= 4
    inverse = stats.undo(torch.linalg.inv(scaled) @ stats.scale.d.diag())
    truth = torch.linalg.inv(G.mT @ G) / torch.outer(*2 * [torch.logspace(-3, 3, 6, dtype=torch.float64)])
    assert torch.allclose(inverse, truth, rtol=1e-9)


def test_a_ridge_in_units_of_the_gram_matrix():
    G = torch.zeros(3, 2)
    A_norm, stats = precond_gram_spd(G, ridge=4.0)
    assert float(stats.ridge) == 4.0
    assert torch.allclose(stats.undo(torch.linalg.inv(A_norm)), torch.eye(2) / 4)

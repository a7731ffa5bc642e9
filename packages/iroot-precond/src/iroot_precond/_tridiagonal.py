"""The two extreme eigenvalues of small symmetric tridiagonal matrices, batched and without a synchronisation.

On the CPU LAPACK is fastest. On other devices `torch.linalg.eigvalsh` reads back an error code, so there the
projector on each end's eigenvectors comes from repeated squaring: with S = (I ± (T − c·I)/r)/2, spectrum in
[0, 1],

    θ = tr(S^(2^m)·T) / tr(S^(2^m)),

a weighted mean of the eigenvalues that lies inside the spectrum and misses the end by at most (k −
1)·2r/(e·2^m).
"""

import torch
from torch import Tensor

# 2^-52 is the unit of float64: a gap that 52 squarings do not resolve is below its rounding.
_SQUARINGS_PER_NORMALISATION, _NORMALISATIONS = 4, 13


def extremes_by_lapack(alpha: Tensor, beta: Tensor, /) -> tuple[Tensor, Tensor]:
    """Smallest and largest eigenvalue (...) of the finite tridiagonal alpha (..., k), beta (..., k - 1)."""
    theta = torch.linalg.eigvalsh(torch.diag_embed(alpha) + torch.diag_embed(beta, -1), UPLO="L")
    return theta[..., 0], theta[..., -1]


def _half_width(alpha: Tensor, beta: Tensor, center: Tensor) -> Tensor:
    """Gershgorin's r, the spectrum in [center - r, center + r]; 1 for a multiple of the identity."""
    reach = torch.nn.functional.pad(beta.abs(), (1, 1))
    radius = ((alpha - center[..., None]).abs() + reach[..., 1:] + reach[..., :-1]).amax(-1)
    return torch.where(radius > 0, radius, 1)


def extremes_by_squaring(alpha: Tensor, beta: Tensor, /) -> tuple[Tensor, Tensor]:
    """The same as `extremes_by_lapack` by products only, without a synchronisation."""
    T = torch.diag_embed(alpha) + torch.diag_embed(beta, -1) + torch.diag_embed(beta, 1)
    center = alpha.mean(-1)
    identity = torch.eye(alpha.shape[-1], dtype=T.dtype, device=T.device)
    shifted = (T - center[..., None, None] * identity) / _half_width(alpha, beta, center)[..., None, None]
    S = torch.stack((identity - shifted, identity + shifted), -3)
    for _ in range(_NORMALISATIONS):
        # ‖S‖_F = 1 leaves an eigenvalue ≥ k^(-1/2), ≥ k^-8 after four squarings: no underflow before the next
        # division.
        S = S / torch.linalg.matrix_norm(S, keepdim=True)
        for _ in range(_SQUARINGS_PER_NORMALISATION):
            S = S @ S
    theta = (S * T[..., None, :, :]).sum((-2, -1)) / S.diagonal(dim1=-2, dim2=-1).sum(-1)
    return theta[..., 0], theta[..., 1]


def tridiagonal_extremes(alpha: Tensor, beta: Tensor, /) -> tuple[Tensor, Tensor]:
    """Smallest and largest eigenvalue (...) of the tridiagonal (alpha (..., k), beta (..., k - 1)), float64.

    Non-finite elements give NaN and leave their neighbours alone (LAPACK would refuse the whole batch).
    """
    finite = alpha.isfinite().all(-1) & beta.isfinite().all(-1)
    alpha, beta = (torch.where(finite[..., None], x, 0) for x in (alpha, beta))
    solver = extremes_by_lapack if alpha.device.type == "cpu" else extremes_by_squaring
    low, high = solver(alpha, beta)
    return torch.where(finite, low, torch.nan), torch.where(finite, high, torch.nan)

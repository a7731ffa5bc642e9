"""Batched Lanczos process with full reorthogonalisation.

k steps from a random start q₁ give an orthonormal basis Q of the Krylov space and T = QᵀAQ, tridiagonal with
diagonal α and off-diagonal β, such that A·Q = Q·T + β_k·q_{k+1}·e_kᵀ. The eigenvalues θ of T (Ritz values)
lie inside the spectrum of A: θ_min overestimates λ_min, θ_max underestimates λ_max, and θ_max + β_k bounds
λ_max unless q₁ is nearly orthogonal to the top eigenvector.

    >>> import torch
    >>> from iroot_precond import ritz_extremes
    >>> A = torch.diag(torch.linspace(1.0, 2.0, 20, dtype=torch.float64))
    >>> low, high, beta = ritz_extremes(lambda V: A @ V, A, steps=20)
    >>> round(float(low), 6), round(float(high), 6)
    (1.0, 2.0)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from iroot_precond._random import gaussian
from iroot_precond._tridiagonal import tridiagonal_extremes

Action = Callable[[Tensor], Tensor]


class LanczosRun(NamedTuple):
    """What k steps of the process leave, all float64.

    Attributes:
        alpha: Diagonal of T, (..., k).
        beta: Off-diagonal of T, (..., k - 1).
        residual: β_k (...), the norm of the full residual A·Q − Q·T.
    """

    alpha: Tensor
    beta: Tensor
    residual: Tensor


def _orthogonalised(w: Tensor, Q: Tensor) -> tuple[Tensor, Tensor]:
    """w − (w·Qᵀ)·Q for rows w (b, 1, n), Q (b, k, n), twice, and the coefficients w·Qᵀ (b, 1, k).

    Once is not enough even where the products are float32 and Q is float64: where the residuals are small against ‖A‖
    for many steps (a cluster of eigenvalues at the lower end), the loss grows tenfold with every one of them. Twice is
    (Kahan, Parlett); the second coefficients are rounding.
    """
    columns = Q.mT
    h = torch.bmm(w, columns)
    w = torch.baddbmm(w, h, Q, alpha=-1)
    return torch.baddbmm(w, torch.bmm(w, columns), Q, alpha=-1), h


def _assembled(alpha: Tensor, sizes: Tensor, beta: Tensor, noise: float) -> LanczosRun:
    """T from α_j, the norms of the coefficients h_j and the norms β_j, (b, k) each, j = 1…k.

    A β_j at rounding level, relative to the largest ‖h_i‖ so far, is a breakdown: what follows it is noise or NaN.
    The rows of T after it become decoupled copies of α₁, a Rayleigh quotient, which lies between the Ritz values and
    moves neither end.
    """
    ok = (beta > noise * sizes.cummax(-1).values).cummin(-1).values
    reached = torch.nn.functional.pad(ok[:, :-1], (1, 0), value=True)
    # What was left at the breakdown is the residual there; of a finite matrix, whatever came after it.
    residual = torch.where(reached & ~ok, beta, torch.where(reached, 0, -1)).amax(-1)
    residual = torch.where(ok[:, -1], beta[:, -1], residual)
    return LanczosRun(torch.where(reached, alpha, alpha[:, :1]), torch.where(ok, beta, 0)[:, :-1], residual)


def lanczos(matmul: Action, like: Tensor, steps: int = 10, generator: torch.Generator | None = None) -> LanczosRun:
    """Lanczos process with full reorthogonalisation; one random start, the same for every matrix of a batch.

    The recurrence runs in float64 (thin vectors), the products in the dtype of ``like``. An exhausted Krylov
    space (residual at rounding level) ends the process for that matrix alone.

    Args:
        matmul: V ↦ A·V for V (..., n, 1), A symmetric; entries of A should be near 1
            (`scale_by_power_of_two`).
        like: A tensor (..., n, anything), for instance A itself; gives batch shape, n, dtype and device.
        steps: Number of products k ≥ 1; at most n are made.
        generator: Source of the start; default: CPU, seed 0.

    Returns:
        The tridiagonal and the residual. Non-finite matrices give non-finite entries, theirs only.

    Raises:
        ValueError: ``steps`` < 1 or n = 0.
    """
    batch, n = like.shape[:-2], like.shape[-2]
    if steps < 1 or n < 1:
        raise ValueError(f"lanczos needs steps >= 1 and n >= 1, got steps={steps} and n={n}")
    k = min(steps, n)
    start = gaussian((n,), like.device, generator)
    Q = torch.empty((math.prod(batch), k, n), dtype=torch.float64, device=like.device)
    Q[:, 0] = start / torch.linalg.vector_norm(start)
    # Rounding errors of products of length n grow like √n·u (Higham, Mary 2019); less than that is noise.
    noise = 8 * math.sqrt(n) * torch.finfo(like.dtype).eps / 2
    alpha, sizes, norms, basis = [], [], [], Q.unbind(1)
    for j in range(k):
        product = matmul(basis[j].to(like.dtype).reshape(*batch, n, 1))
        w, h = _orthogonalised(product.reshape(-1, 1, n).to(torch.float64), Q[:, : j + 1])
        norm = torch.linalg.vector_norm(w, dim=-1)
        alpha.append(h[:, 0, j])
        sizes.append(torch.linalg.vector_norm(h, dim=-1))
        norms.append(norm)
        if j + 1 < k:
            torch.div(w.squeeze(1), norm, out=basis[j + 1])
    run = _assembled(torch.stack(alpha, -1), torch.cat(sizes, -1), torch.cat(norms, -1), noise)
    return LanczosRun(*(x.reshape(batch + x.shape[1:]) for x in run))


def ritz_extremes(
    matmul: Action, like: Tensor, steps: int = 10, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest and largest Ritz value and the residual norm after ``steps`` products.

    Up to rounding λ_min ≤ θ_min and θ_max ≤ λ_max: both are estimates from inside. On a matrix of condition
    κ, 20 steps overestimate λ_min 1–3 times for κ ≤ 1e3, 10 times at 1e4 and hundreds of times at 1e6; on the
    iterate Y after three contracting steps hardly at all.

    Args:
        matmul: V ↦ A·V for V (..., n, 1), A symmetric.
        like: A tensor (..., n, anything), for instance A itself; gives batch shape, n, dtype and device.
        steps: Number of products k ≥ 1; at most n are made.
        generator: Source of the start; default: CPU, seed 0.

    Returns:
        (θ_min, θ_max, β_k), each (...), in the dtype of ``like``; NaN for non-finite matrices, theirs only.

    Raises:
        ValueError: ``steps`` < 1 or n = 0.
    """
    run = lanczos(matmul, like, steps, generator)
    low, high = tridiagonal_extremes(run.alpha, run.beta)
    return low.to(like.dtype), high.to(like.dtype), run.residual.to(like.dtype)

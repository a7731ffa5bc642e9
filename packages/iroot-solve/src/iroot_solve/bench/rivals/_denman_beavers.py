"""The product form of the Denman–Beavers iteration, for A^(-1/2) of any A without eigenvalues on (−∞, 0].

    Y ← μ·Y·(I + (μ²M)⁻¹)/2,   M ← (I + (μ²M + (μ²M)⁻¹)/2)/2,   from M = A, Y = I;   M → I, Y → A^(-1/2)

with the determinantal scaling μ = |det M|^(-1/2n).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iroot_solve.bench.rivals._by_root import SYMMETRIC, by_root

MAX_STEPS = 25
SCALED = 1e-2


def denman_beavers(A: Tensor) -> Tensor:
    """Until ‖M − I‖_F ≤ √n·u, at most 25 steps; scaled until Y changes by less than 1e-2."""
    n, norm = A.shape[-1], torch.linalg.matrix_norm
    identity = torch.eye(n, dtype=A.dtype, device=A.device)
    tolerance = math.sqrt(n) * torch.finfo(A.dtype).eps / 2
    M, Y = A, identity.expand_as(A)
    scaling = torch.ones_like(A[..., :1, :1], dtype=torch.bool)
    for _ in range(MAX_STEPS):
        factors, pivots, _ = torch.linalg.lu_factor_ex(M)
        mu = torch.where(scaling, _determinantal(factors), 1.0)
        inverse = torch.linalg.lu_solve(factors, pivots, identity.expand_as(A)) / mu.square()
        before, Y = Y, Y @ (identity + inverse) * (mu / 2)
        M = (identity + (mu.square() * M + inverse) / 2) / 2
        if bool((norm(M - identity) <= tolerance).all()):
            break
        scaling = scaling & (norm(Y - before, keepdim=True) >= SCALED * norm(Y, keepdim=True))
    return Y


def _determinantal(factors: Tensor) -> Tensor:
    """|det M|^(-1/2n) `(…, 1, 1)`."""
    log_det = factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
    return torch.exp(-log_det / (2 * factors.shape[-1]))[..., None, None]


DENMAN_BEAVERS = (
    by_root(
        "denman-beavers",
        "The Newton–Denman–Beavers iteration for p = 2 in its product form: an LU factorisation, an inverse and a "
        "product a step, four to six steps for κ ≤ 1e5. Determinantal scaling until the iterate changes by less than "
        "1e-2, then none; until ‖M − I‖_F ≤ √n·u, at most 25 steps. For general matrices: it does not use the "
        "symmetry. One host read a step. Written from the formula, without the iterate for A^(1/2). It is not the "
        "Newton-DB of DASH (arm `newton-db`), which has no inverse. Source: Cheng, Higham, Kenney and Laub, SIAM J. "
        "Matrix Anal. Appl. 22 (2001), 1112–1125; Higham, Functions of Matrices (2008), §6.3; scaling and stopping "
        "rule of `sqrtm_dbp` in its Matrix Function Toolbox.",
        lambda problem: denman_beavers,
        orders=(2,),
        kinds=(*SYMMETRIC, "nonspd"),
    ),
)

"""A⁻¹·B by one Cholesky factorisation (p = 1)."""

from __future__ import annotations

import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._certificate import Root, probe_signs
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule


def run_cholesky(S: Tensor, B: Tensor | None, ws: Workspace) -> Outcome:
    """Where the factorisation breaks down Z is NaN: the certificate sees it.

    Args:
        S: `(b, n, n)` symmetric positive definite, float32 or float64.
        B: `(b, n, k)`, or `None` for the inverse.
        ws: Where L and Z live.

    Returns:
        The outcome. Cost: n³/3 multiply-adds and two triangular solves with k columns.
    """
    name = "fp64" if S.dtype is torch.float64 else "fp32"
    factor = ws.like(f"factor_{name}", S)
    info = ws.buffer("info", S.shape[:-2], torch.int32, S.device)
    torch.linalg.cholesky_ex(S, out=(factor, info))
    factor[info != 0] = torch.nan

    def power(j: int, V: Tensor) -> Tensor:
        U = V.to(S.dtype)
        for _ in range(j):
            U = torch.cholesky_solve(U, factor)
        return U.to(V.dtype)

    # Two steps of inverse iteration: ‖A⁻¹v‖/‖A⁻²v‖ ≥ λmin, and close to it for random v.
    once = power(1, probe_signs(S.shape[-1], 4, S.device, 0).to(S.dtype).expand(*S.shape[:-1], 4))
    lowest = torch.linalg.vector_norm(once, dim=(-2, -1)) / torch.linalg.vector_norm(power(1, once), dim=(-2, -1))
    if B is None:
        Z = torch.cholesky_inverse(factor, out=ws.like("Z", S))
    else:
        Z = torch.cholesky_solve(B.to(S.dtype), factor, out=ws.buffer("Z", B.shape, S.dtype, S.device))
    return Outcome(
        Z=Z,
        root=Root(power),  # no roundoff: Z is no product X·B, its residual shows all of its error
        judge=torch.float64,
        lowest=lowest,
        strategy="cholesky",
        precision=name,
        schedule=DirectSchedule("cholesky", f"cholesky in {name}: L·Lᵀ·Z = B"),
        products={"cholesky": S.shape[0], "columns": 2 * (S.shape[-1] if B is None else B.shape[-1])},
    )

"""A⁻¹·B by one Cholesky factorisation (p = 1), and one step of iterative refinement where float32 was not enough.

With L·Lᵀ = A + δA, ‖δA‖ ≤ c·u·‖A‖, a solve has the relative error e = c·κ·u; Z + (L·Lᵀ)⁻¹·(B − A·Z), the residual in
float64, has e² (Higham, "Accuracy and Stability of Numerical Algorithms" (2002), §12.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._certificate import Power, Root, probe_signs
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule
from iroot_solve._scales import norm, unit
from iroot_solve._thin import thin

PROBES = 4


Wide = Callable[[], "tuple[Tensor, Tensor]"]


def run_cholesky(S: Tensor, B: Tensor | None, ws: Workspace, wide: Wide | None = None) -> Outcome:
    """Where the factorisation breaks down Z is NaN: the certificate sees it.

    Args:
        S: `(b, n, n)` symmetric positive definite, float32 or float64.
        B: `(b, n, k)`, or `None` for the inverse.
        ws: Where L and Z live.
        wide: Makes A and B in float64, for a refinement.

    Returns:
        The outcome; its `lowest` is ‖A⁻¹V‖/‖A⁻²V‖ ≥ λmin for four ±1 vectors V, two steps of inverse iteration. Cost:
        n³/3 multiply-adds and two triangular solves with k columns; resumed, four more and a product, for a float64 Z.
    """
    name = "fp64" if S.dtype is torch.float64 else "fp32"
    factor = ws.like(f"factor_{name}", S).mT  # column by column, as LAPACK reads it
    info = ws.buffer("info", S.shape[:-2], torch.int32, S.device)
    torch.linalg.cholesky_ex(S, out=(factor, info))
    factor.masked_fill_((info != 0)[:, None, None], torch.nan)

    def power(j: int, V: Tensor) -> Tensor:
        U = V.to(S.dtype)
        for _ in range(j):
            U = torch.cholesky_solve(U, factor)
        return U.to(V.dtype)

    if B is None:
        Z = torch.cholesky_inverse(factor, out=ws.like("Z", S))
    else:
        Z = torch.cholesky_solve(B, factor, out=ws.buffer("Z", B.shape, S.dtype, S.device))
    signs = probe_signs(S.shape[-1], PROBES, S.device, 0, S.dtype).expand(*S.shape[:-1], PROBES)
    once, largest = unit(power(1, signs))
    size = norm(once)
    # No roundoff: Z is no product X·B, its residual shows all of its error.
    root = Root(power, norm=size * (largest / math.sqrt(PROBES)))
    k = S.shape[-1] if B is None else B.shape[-1]
    outcome = Outcome(
        Z=Z,
        root=root,
        judge=torch.float64,
        lowest=size / norm(power(1, once)),
        strategy="cholesky",
        precision=name,
        schedule=DirectSchedule("cholesky", f"cholesky in {name}: L·Lᵀ·Z = B"),
        products={"cholesky": S.shape[0], "columns": 2 * k},
    )
    if wide is not None:
        outcome.resume = lambda: _refined(outcome, wide, power, ws)
    return outcome


def _refined(outcome: Outcome, wide: Wide, power: Power, ws: Workspace) -> Outcome:
    """Z + A⁻¹·(B − A·Z), the residual in float64."""
    A, B = wide()
    Z = ws.buffer("Z refined", B.shape, A.dtype, A.device).copy_(
        power(1, B)
    )  # the first one may be in other units by now
    Z += power(1, B - thin(A, Z))
    text = f"{outcome.schedule}, refined once"
    schedule, products = DirectSchedule("cholesky", text), {"columns": 5 * B.shape[-1]}
    return replace(outcome, Z=Z, schedule=schedule, products=products, resume=None)

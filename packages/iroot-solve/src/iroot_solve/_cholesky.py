"""A⁻¹·B by one Cholesky factorisation (p = 1), and one step of iterative refinement where float32 was not enough.

With L·Lᵀ = A + δA, ‖δA‖ ≤ c·u·‖A‖, a solve has the relative error e = c·κ·u; Z + (L·Lᵀ)⁻¹·(B − A·Z), the residual in
float64, has e² (Higham, "Accuracy and Stability of Numerical Algorithms" (2002), §12.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import torch
from iroot_kernels import Workspace, cholesky_inverse
from torch import Tensor

from iroot_solve._certificate import Matrix, Root, judging_dtype, probe_signs, times_power
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule
from iroot_solve._scales import norm, unit
from iroot_solve._thin import thin

PROBES = 4

Wide = Callable[[], "tuple[Tensor, Tensor]"]


def run_cholesky(
    S: Tensor, B: Tensor | None, ws: Workspace, wide: Wide | None = None, factor: Factor | None = None
) -> Outcome:
    """Where the factorisation breaks down Z is NaN: the certificate sees it.

    Args:
        S: `(b, n, n)` symmetric positive definite, float32 or float64.
        B: `(b, n, k)`, or `None` for the inverse.
        ws: Where L and Z live.
        wide: Makes A and B in float64, for a refinement.
        factor: That of S, if it is there.

    Returns:
        The outcome; its `lowest` is ‖A⁻¹V‖/‖A⁻²V‖ ≥ λmin for four ±1 vectors V, two steps of inverse iteration: the
        first rides along with B, the second with the certificate. Cost: n³/3 multiply-adds and two solves with k + 4
        columns; resumed, four more with k and a product, for a float64 Z.
    """
    factor = factor or factorised(S, ws)
    outcome = _solved(factor, f"cholesky in {factor.name}: L·Lᵀ·Z = B", B)
    outcome.products["cholesky"] = S.shape[0]
    if wide is not None:
        outcome.resume = partial(_refined, replace(outcome), wide, factor)
    text = f"{outcome.schedule}, L from an earlier call"
    outcome.again, outcome.holds = partial(_again, factor.L, factor.broken, text), (factor.L,)
    return outcome


def _again(L: Tensor, broken: Tensor, text: str, ws: Workspace, B: Tensor | None) -> Outcome:
    """The factor that is there, for another right-hand side."""
    return _solved(Factor(L, broken, ws), text, B)


def _solved(factor: Factor, text: str, B: Tensor | None) -> Outcome:
    """Z, and what its certificate needs, from a factor that is there."""
    L = factor.L
    signs = factor.ws.hold(probe_signs(L.shape[-1], PROBES, L.device, 0, L.dtype)).expand(*L.shape[:-1], PROBES)
    if B is None:
        Z = factor.inverse()
        once = torch.bmm(Z, signs)
    else:
        Z, once = torch.split(factor.solve("Z", B, signs), [B.shape[-1], PROBES], -1)
    once, largest = unit(once)
    size = norm(once)
    lowest = torch.full_like(size, torch.nan)

    def sandwich(A: Matrix, q: int, _orders: tuple[int, ...], _s: int, W: Tensor, B: Tensor | None) -> Tensor:
        gap = times_power(A, q, W, B)
        U = factor.solve("gap", gap.mT, once).mT
        torch.div(size, norm(U[:, -PROBES:]), out=lowest)
        return U[:, :-PROBES].to(W.dtype)

    # No roundoff: Z is no product X·B, its residual shows all of its error.
    root = Root(factor.power, norm=size * (largest / sqrt(PROBES)), sandwich=sandwich)
    return Outcome(
        Z=Z,
        root=root,
        judge=judging_dtype(L),
        lowest=lowest,
        strategy="cholesky",
        precision=factor.name,
        schedule=DirectSchedule("cholesky", text),
        products={"columns": 2 * (L.shape[-1] if B is None else B.shape[-1])},
    )


def factorised(S: Tensor, ws: Workspace) -> Factor:
    """L, in a buffer."""
    L = ws.like(f"factor {S.dtype}", S).mT  # column by column, as LAPACK reads it
    info = ws.buffer("info", S.shape[:-2], torch.int32, S.device)
    torch.linalg.cholesky_ex(S, out=(L, info))
    return Factor(L, (info != 0)[:, None, None], ws)


def ends(S: Tensor, ws: Workspace, seed: int) -> tuple[Tensor, Tensor]:
    """(near λmin from above, near λmax from below) `(b,)`, by two steps of inverse and of direct iteration.

    ‖S⁻¹V‖/‖S⁻²V‖ ≥ λmin for random V, and at most twice that for log-spaced spectra; NaN where the factorisation breaks
    down, and 0 or infinity where even so a number leaves the range. Cost: n³/3 multiply-adds, and four thin products.
    """
    factor = factorised(S, ws)
    V = probe_signs(S.shape[-1], PROBES, S.device, seed, S.dtype).expand(*S.shape[:-1], PROBES)
    # Over their largest entries: squares of S²V or S⁻²V may leave the range.
    (once, _), (image, _) = unit(factor.solve("once", V)), unit(torch.bmm(S, V))
    return norm(once) / norm(factor.solve("twice", once)), norm(torch.bmm(S, image)) / norm(image)


@dataclass(frozen=True)
class Factor:
    """L·Lᵀ = S; what is solved by it is NaN where the factorisation broke down."""

    L: Tensor
    broken: Tensor
    ws: Workspace

    def kappa(self, S: Tensor) -> float:
        """max s_ii/min l_ii² ≤ κ(S) of the worst of a batch; κ/2 to κ/35 for log-spaced spectra, dense eigenbases."""
        largest, smallest = S.diagonal(dim1=-2, dim2=-1).amax(-1), self.L.diagonal(dim1=-2, dim2=-1).amin(-1)
        return float((largest / smallest.square()).amax())

    @property
    def name(self) -> str:
        return "fp64" if self.L.dtype is torch.float64 else "fp32"

    def solve(self, name: str, *parts: Tensor) -> Tensor:
        """S⁻¹·(V_1 | V_2 | …), a buffer. Two triangular solves: cholesky_solve copies L, which takes as long again."""
        widths = [V.shape[-1] for V in parts]
        shape = (self.L.shape[0], sum(widths), self.L.shape[-1])
        U = self.ws.buffer(f"solve {name}", shape, self.L.dtype, self.L.device).mT  # column by column
        for V, here in zip(parts, torch.split(U, widths, -1), strict=True):
            here.copy_(V)
        torch.linalg.solve_triangular(self.L, U, upper=False, out=U)
        torch.linalg.solve_triangular(self.L.mT, U, upper=True, out=U)
        return U.masked_fill_(self.broken, torch.nan)

    def inverse(self) -> Tensor:
        """S⁻¹."""
        Z = cholesky_inverse(self.L, self.ws.like("Z", self.L.mT), self.ws)
        return Z.masked_fill_(self.broken, torch.nan)

    def power(self, j: int, V: Tensor) -> Tensor:
        """S^-j·V."""
        U = V
        for i in range(j):
            U = self.solve(f"power{i % 2}", U)
        return U.to(V.dtype)


def _refined(outcome: Outcome, wide: Wide, factor: Factor) -> Outcome:
    """Z + A⁻¹·(B − A·Z), the residual in float64."""
    A, B = wide()
    # The first Z may be in other units by now.
    Z = factor.ws.buffer("Z refined", B.shape, A.dtype, A.device).copy_(factor.power(1, B))
    Z += factor.power(1, B - thin(A, Z))
    text = f"{outcome.schedule}, refined once"
    schedule, products = DirectSchedule("cholesky", text), {"columns": 5 * B.shape[-1]}
    return replace(outcome, Z=Z, judge=A.dtype, schedule=schedule, products=products, resume=None)

"""f(GᵀG + r·I)·B by Golub–Kahan–Lanczos bidiagonalisation, f(x) = x^α, from products with G and Gᵀ.

From v_1 = b/β₀ the process (Golub, Kahan 1965; Paige, Saunders 1982)

    α_j·u_j = G·v_j − β_{j−1}·u_{j−1},      β_j·v_{j+1} = Gᵀ·u_j − α_j·v_j

gives G·V = U·R and Gᵀ·U = V·Rᵀ + β_m·v_{m+1}·e_mᵀ with R upper bidiagonal: diagonal α, upper diagonal β. It is the
Lanczos process of GᵀG with T = RᵀR and the coupling α_m·β_m, but T is never formed: with R = P·Σ·Wᵀ

    f(GᵀG + r·I)·b ≈ β₀·V·W·f(Σ² + r)·Wᵀ·e₁.

Rounding perturbs G by u·‖G‖ and so the smallest singular value relatively by κ(G)·u, where products with GᵀG perturb
that by u·‖G‖², relatively by κ(G)²·u.

Only V is kept and reorthogonalised (`_lanczos` says how). Then U is orthonormal to κ(G)·u (Simon, Zha 2000), and since
VᵀGᵀG·V = Rᵀ(UᵀU)R that changes each eigenvalue relatively by no more than that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iroot_kernels._krylov import (
    Estimator,
    LanczosResult,
    Projected,
    check_arguments,
    drive,
    empty_result,
    rounding,
)
from iroot_kernels._rows import (
    Action,
    combine,
    divide,
    measure,
    normalise,
    orthogonalise,
    reduced,
    subtract,
    to_device,
    to_host,
    widened,
)
from iroot_kernels._workspace import Workspace


def golub_kahan_apply(
    G_action: Action,
    GT_action: Action,
    B: Tensor,
    exponent: float,
    *,
    tol: float,
    max_steps: int,
    ridge: float | Tensor = 0.0,
    ws: Workspace | None = None,
    check_every: int = 8,
    low: float | Tensor | None = None,
) -> LanczosResult:
    """(GᵀG + ridge·I)^exponent·B for G `(b, m, n)` of any aspect.

    Args:
        G_action: V ↦ G·V, `(b, n, k)` to `(b, m, k)`, in the dtype of B.
        GT_action: U ↦ Gᵀ·U, `(b, m, k)` to `(b, n, k)`.
        B: `(b, n, k)`, float32 or float64. Not changed.
        exponent: α ≠ 0.
        tol: Stop where the estimated relative error of every matrix is below it.
        max_steps: Largest dimension of the Krylov spaces; no more than n are made.
        ridge: r ≥ 0, a number or (b,); on the host it costs no synchronisation.
        ws: Buffers: b·k·n·max_steps numbers for the basis, and Z.
        check_every: Steps before the first check; further checks are at least as far apart.
        low: Lower bound of the spectrum of GᵀG + ridge·I, see `lanczos_apply`. Take `ridge` itself where the steps that
            it costs to be safe against singular values of zero are worth it.

    Returns:
        `LanczosResult`; Ritz values are those of GᵀG + ridge·I, `products` counts columns multiplied by G or Gᵀ.
        `indefinite` where α < 0, ridge = 0 and a singular value is zero.

    Raises:
        TypeError: B is not float32 or float64.
        ValueError: Another argument is out of range.

    Cost: 2·steps products with k columns, 4·b·k·n·steps² operations for the basis, one synchronisation and b·k singular
    value decompositions (steps, steps) in float64 on the host for every check.
    """
    check_arguments(B, exponent, tol, max_steps, check_every)
    shift = torch.as_tensor(ridge, dtype=torch.float64, device="cpu")
    if not bool((shift >= 0).all()):
        raise ValueError(f"ridge={ridge} must be ≥ 0")
    ws = Workspace() if ws is None else ws
    if B.numel() == 0:
        return empty_result(B)
    steps = min(max_steps, B.shape[1])
    start, actions = B, (G_action, GT_action)
    if reduced(B):
        start, actions = B.double(), (widened(G_action, B), widened(GT_action, B))
    process = _GolubKahan(*actions, start, shift, steps, ws)
    noise = rounding(B.shape[1], B.dtype) ** 2  # of squares of singular values
    check = drive(process, Estimator(exponent, tol, low, noise, B.shape[1]), steps, check_every)
    Z = combine(to_device(check.rows().to(start.dtype), start), process.V, ws)
    return check.result(Z.view(B.mT.shape).mT, B.dtype, 2)


class _GolubKahan:
    """The b·k processes of one call.

    Attributes:
        V: Rows v_j, (b·k, steps, n).
        u: The last u_j, (b·k, m), once there is one.
        coefficients: β₀, α_1, β_1, α_2, … (1 + 2·steps, b·k) float64; β_j = 0 says that the space is exhausted.
    """

    def __init__(
        self, G_action: Action, GT_action: Action, B: Tensor, shift: Tensor, steps: int, ws: Workspace
    ) -> None:
        (b, n, k), self.shape, self.shift, self.ws = B.shape, B.mT.shape, shift, ws
        self.G_action, self.GT_action = G_action, GT_action
        self.V = ws.buffer("krylov basis", (b * k, steps, n), B.dtype, B.device)
        self.w = ws.buffer("krylov w", (b * k, n), B.dtype, B.device)
        self.u: Tensor | None = None
        self.coefficients = ws.buffer("krylov T", (1 + 2 * steps, b * k), torch.float64, B.device)
        self.scale = torch.zeros(b * k, dtype=torch.float64, device=B.device)
        normalise(B, self.V[:, 0], self.coefficients[0])

    def step(self, j: int) -> None:
        """α_{j+1}, u_{j+1}, β_{j+1} and v_{j+2}."""
        b, k, n = self.shape
        alpha, beta = self.coefficients[1 + 2 * j], self.coefficients[2 + 2 * j]
        u, v = self._left(j), self.V[:, j]
        measure(u, alpha, self.scale, alpha)
        divide(u, alpha, u)
        self.w.view(b, k, n).copy_(self.GT_action(u.view(b, k, -1).mT).mT)
        subtract(self.w, alpha, v)
        orthogonalise(self.w, self.V, j + 1, self.ws)
        measure(self.w, beta, self.scale, alpha)
        if j + 1 == n:  # n vectors span everything
            beta.zero_()
        if j + 1 < self.V.shape[1]:
            divide(self.w, beta, self.V[:, j + 1])

    def _left(self, j: int) -> Tensor:
        """G·v_j − β_{j−1}·u_{j−1}, in the place of u_{j−1}."""
        b, k, n = self.shape
        new = self.G_action(self.V[:, j].view(b, k, n).mT).mT
        if self.u is None:
            self.u = self.ws.buffer("krylov u", (b * k, new.shape[-1]), new.dtype, new.device).zero_()
        self.u.mul_(-self.coefficients[2 * j].to(new.dtype)[:, None])
        self.u.view(new.shape).add_(new)
        return self.u

    def projected(self, m: int) -> Projected:
        """Σ² + r and W; rows that a breakdown cut off are copies of α_1, within the spectrum and uncoupled."""
        norm, alpha, beta, active = to_host(self.coefficients, m, self.shape[0])
        R = torch.diag_embed(torch.where(active, alpha, alpha[..., :1])) + torch.diag_embed(beta[..., :-1], 1)
        finite = R.isfinite().all(-1).all(-1) & norm.isfinite()
        R = torch.where(finite[..., None, None], R, torch.eye(m, dtype=R.dtype))
        _, sigma, right = torch.linalg.svd(R)
        theta = sigma.square() + self.shift.reshape(-1, 1, 1)
        return Projected(theta, right.mT, torch.where(finite, norm, torch.nan), alpha[..., -1] * beta[..., -1])

"""f(A)·B by the Lanczos process, f(x) = x^α, from products V ↦ A·V alone.

Every column b of B runs its own process, all of them at once, so that a step multiplies A by (n, k) in one product:
q_1 = b/β₀, w = A·q_j − β_{j−1}·q_{j−1} − α_j·q_j, β_j = ‖w‖, q_{j+1} = w/β_j gives A·Q = Q·T + β_m·q_{m+1}·e_mᵀ with T
tridiagonal, and f(A)·b ≈ β₀·Q·f(T)·e₁ (Golub, Meurant 2010; Higham 2008, §13.2). `_krylov` says how good that is.

Why not one block process: it would reach the same error in fewer steps, but its T has m·k rows, and f(T) costs an
eigendecomposition of that. For k = 16 and n = 1024 that is A's own size after 64 steps; k matrices of m = 90 rows cost
k·m³/n³ ≈ 1 % of that.

Orthogonality. The basis is held row by row, (b·k, m, n), and w is orthogonalised twice: against the last two vectors
by the recurrence, then against all of them by two batched products. The recurrence takes away all but rounding,
u·‖A‖, so the second pass starts from ‖w‖ ≈ β_j and leaves Q orthonormal to rounding as long as β_j > u·‖A‖. (One pass
of classical Gram–Schmidt by itself, which starts from ‖w‖ ≈ ‖A‖, loses a factor ‖A‖/β_j in every step.) Two full
passes would be no better and read the basis four times instead of twice, and reading it is what it costs: 2·m·n·k
numbers a step, for n = 1024 and k = 16 as many as A has from m = 32 on.

With `passes=2` no basis is kept and nothing is reorthogonalised: the first sweep finds T, the second repeats it and
adds up Z, for twice the products and memory O(n·k). Orthogonality is lost once a Ritz value has converged, and the
process then finds copies of it: f(T) stays right (Druskin, Knizhnerman 1991) but takes more steps, even more than n.
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
    inner,
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


def lanczos_apply(
    action: Action,
    B: Tensor,
    exponent: float,
    *,
    tol: float,
    max_steps: int,
    ws: Workspace | None = None,
    check_every: int = 8,
    passes: int = 1,
    low: float | Tensor | None = None,
) -> LanczosResult:
    """A^exponent·B for symmetric positive definite A (semidefinite for exponent > 0).

    Args:
        action: V ↦ A·V for V `(b, n, k)` in the dtype of B; V is stored column by column.
        B: `(b, n, k)`, float32 or float64. Not changed.
        exponent: α ≠ 0.
        tol: Stop where the estimated relative error of every matrix is below it.
        max_steps: Largest dimension m of the Krylov spaces; with `passes=1` no more than n are made.
        ws: Buffers: b·k·n·max_steps numbers for the basis (`passes=2`: 2·b·n·k), and Z.
        check_every: Steps before the first check; further checks are at least as far apart, see `steps_to_go`.
        passes: 1 keeps the basis, 2 computes it twice.
        low: Lower bound of the spectrum of A, a number or (b,): makes the estimate safe against eigenvalues that the
            process has not met, and `bound` finite. On the host it costs no synchronisation.

    Returns:
        `LanczosResult`. Rounding is not in `error`: each product with A adds to the backward error of A.

    Raises:
        TypeError: B is not float32 or float64.
        ValueError: Another argument is out of range.

    Cost: `passes`·m products with k columns, 4·b·k·n·m² operations for the basis (`passes=1`), one synchronisation and
    b·k eigendecompositions (m, m) in float64 on the host for every check.
    """
    check_arguments(B, exponent, tol, max_steps, check_every)
    if passes not in (1, 2):
        raise ValueError(f"passes={passes} must be 1 or 2")
    ws = Workspace() if ws is None else ws
    if B.numel() == 0:
        return empty_result(B)
    steps = min(max_steps, B.shape[1]) if passes == 1 else max_steps
    start, multiply = (B.double(), widened(action, B)) if reduced(B) else (B, action)
    process = _Lanczos(multiply, start, steps, ws, keep=passes == 1)
    estimator = Estimator(exponent, tol, low, rounding(B.shape[1], B.dtype), B.shape[1])
    check = drive(process, estimator, steps, check_every)
    y = to_device(check.rows().to(start.dtype), start)
    Z = combine(y, process.Q, ws) if passes == 1 else process.replay(y)
    return check.result(Z.view(B.mT.shape).mT, B.dtype, passes)


class _Lanczos:
    """The b·k processes of one call.

    Attributes:
        Q: Rows q_j, (b·k, m, n), or the last two of them.
        coefficients: β₀, α_1, β_1, α_2, … (1 + 2m, b·k) float64; β_j = 0 says that the space is exhausted.
    """

    def __init__(self, action: Action, B: Tensor, steps: int, ws: Workspace, keep: bool) -> None:
        (b, n, k), self.B, self.action, self.ws, self.keep = B.shape, B, action, ws, keep
        self.Q = ws.buffer("krylov basis", (b * k, steps if keep else 2, n), B.dtype, B.device)
        self.w = ws.buffer("krylov w", (b * k, n), B.dtype, B.device)
        self.coefficients = ws.buffer("krylov T", (1 + 2 * steps, b * k), torch.float64, B.device)
        self.scale = torch.zeros(b * k, dtype=torch.float64, device=B.device)
        normalise(B, self.row(0), self.coefficients[0])

    def row(self, j: int) -> Tensor:
        """q_{j+1} of every column, (b·k, n)."""
        return self.Q[:, j % self.Q.shape[1]]

    def step(self, j: int) -> None:
        """α_{j+1}, β_{j+1} and q_{j+2}."""
        alpha, beta = self.coefficients[1 + 2 * j], self.coefficients[2 + 2 * j]
        self._multiply(j)
        inner(self.w, self.row(j), alpha, self.ws)
        subtract(self.w, alpha, self.row(j))
        if self.keep:
            orthogonalise(self.w, self.Q, j + 1, self.ws)
        measure(self.w, beta, self.scale, alpha)
        if self.keep and j + 1 == self.w.shape[-1]:  # n vectors span everything
            beta.zero_()
        self._advance(j)

    def _multiply(self, j: int) -> None:
        """w ← A·q_j − β_{j−1}·q_{j−1}; before α_j, the order that loses less orthogonality (Paige 1972)."""
        b, n, k = self.B.shape
        self.w.view(b, k, n).copy_(self.action(self.row(j).view(b, k, n).mT).mT)
        if j:
            subtract(self.w, self.coefficients[2 * j], self.row(j - 1))

    def _advance(self, j: int) -> None:
        if not self.keep or j + 1 < self.Q.shape[1]:
            divide(self.w, self.coefficients[2 + 2 * j], self.row(j + 1))

    def projected(self, m: int) -> Projected:
        """T and its eigenpairs; rows that a breakdown cut off are copies of α_1, within the spectrum and uncoupled."""
        norm, alpha, beta, active = to_host(self.coefficients, m, self.B.shape[0])
        T = torch.diag_embed(torch.where(active, alpha, alpha[..., :1])) + torch.diag_embed(beta[..., :-1], -1)
        finite = T.isfinite().all(-1).all(-1) & norm.isfinite()
        T = torch.where(finite[..., None, None], T, torch.eye(m, dtype=T.dtype))
        theta, vectors = torch.linalg.eigh(T, UPLO="L")
        return Projected(theta, vectors, torch.where(finite, norm, torch.nan), beta[..., -1])

    def replay(self, y: Tensor) -> Tensor:
        """Σ_j y_j·q_j for y (b·k, m), the q_j by the same recurrence once more."""
        Z = self.ws.like("krylov Z", self.w).zero_()
        normalise(self.B, self.row(0), self.coefficients[0])
        for j in range(y.shape[-1]):
            Z.addcmul_(self.row(j), y[:, j, None])
            if j + 1 < y.shape[-1]:
                self._multiply(j)
                subtract(self.w, self.coefficients[1 + 2 * j], self.row(j))
                self._advance(j)
        return Z

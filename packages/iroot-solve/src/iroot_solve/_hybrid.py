"""A⁻¹·B by a few coupled steps and residual correction (p = 1).

Steps that leave X = A⁻¹·(I − E), ‖E‖ ≤ ε, cost less the larger ε is. Then Z ← Z + X·(B − A·Z) takes the error from E·Z*
to E²·Z*, E³·Z*, …: m corrections of two thin products each leave ε^(m+1), and with residuals in float64 the rounding
errors of X count as part of E (iterative refinement: Higham, "Accuracy and Stability of Numerical Algorithms" (2002),
ch. 12).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from iroot_coeffs import Schedule, plan
from iroot_kernels import CoupledIteration, Workspace, quadratics
from torch import Tensor

from iroot_solve._certificate import Root
from iroot_solve._outcome import Outcome

STOPS = (0.3, 0.1, 0.03, 0.01, 1e-3)


@dataclass(frozen=True)
class HybridSchedule:
    """Steps, and how many corrections follow them."""

    steps: Schedule
    corrections: int

    @property
    def error(self) -> float:
        """ε^(m+1)."""
        return self.steps.error ** (self.corrections + 1)

    def products(self, k_over_n: float) -> float:
        """n×n×n products, thin ones by their share."""
        return self.steps.products() + (2 * self.corrections + 1) * k_over_n

    def __str__(self) -> str:
        return f"{self.steps}, then {self.corrections} residual corrections"


@lru_cache(maxsize=1024)
def hybrid_schedule(kappa: float, tol: float, k_over_n: float) -> HybridSchedule:
    """The cheapest stop on [1/κ, 1], by products."""
    found = []
    for stop in STOPS:
        steps = plan(1, kappa=kappa, tol=stop)
        corrections = max(1, math.ceil(math.log(tol) / math.log(steps.error)) - 1)
        found.append(HybridSchedule(steps, corrections))
    return min(found, key=lambda schedule: schedule.products(k_over_n))


def correct(outcome: Outcome, schedule: HybridSchedule, wide: tuple[Tensor, Tensor], ws: Workspace) -> Outcome:
    """Refine X·B.

    Args:
        outcome: Of the steps: X is its Z, A⁻¹ to ε.
        schedule: Says how often.
        wide: A and B in float64.
        ws: Where Z lives.

    Returns:
        The outcome with Z in float64. Cost: 2·m + 1 thin products.
    """
    X, (A, B) = outcome.Z, wide
    assert outcome.root is not None

    # Thin matrices as rows: (X·R)ᵀ = Rᵀ·Xᵀ.
    R, step = (ws.buffer(name, B.mT.shape, M.dtype, B.device) for name, M in (("residual", A), ("step", X)))
    narrow = R if X.dtype is A.dtype else ws.buffer("narrow", R.shape, X.dtype, R.device)

    def apply() -> Tensor:
        """X·R."""
        return torch.bmm(R if narrow is R else narrow.copy_(R), X.mT, out=step).mT

    R.copy_(B.mT)
    Z = ws.like("Z corrected", B).copy_(apply())
    for _ in range(schedule.corrections):
        torch.baddbmm(B.mT, Z.mT, A.mT, alpha=-1, out=R)
        Z.add_(apply())

    def resume() -> Outcome | None:
        again = None if outcome.resume is None else outcome.resume()
        return None if again is None else correct(again, schedule, wide, ws)

    products = dict(outcome.products)
    products["columns"] = (2 * schedule.corrections + 1) * B.shape[-1]
    return replace(
        outcome,
        Z=Z,
        root=Root(outcome.root.power, norm=outcome.root.norm),  # the residual of Z shows all of its error
        strategy="hybrid-pe-nsrc",
        schedule=schedule,
        products=products,
        resume=resume,
    )


def hybrid_pe_nsrc_solve(
    A_norm: Tensor, B: Tensor, abc_t: Any, corrections: int = 2, ws: Workspace | None = None
) -> tuple[Tensor, Workspace]:
    """Z = A_norm⁻¹·B by quadratic steps and residual correction; the low level, without checks of the answer.

    Args:
        A_norm: `(..., n, n)` symmetric, spectrum in the interval that `abc_t` was made for, at most (0, 1].
        B: `(..., n, k)` with the batch of `A_norm`.
        abc_t: `(T, 3)` rows (a, b, c) for p = 1 (`build_schedule`).
        corrections: How often Z ← Z + X·(B − A·Z) follows; each multiplies the error by that of the steps.
        ws: Workspace to reuse.

    Returns:
        Z `(..., n, k)`, valid until the workspace is used again, and the workspace. Cost: three products a step (two in
        the first and in the last) and 2·corrections + 1 thin ones.

    Raises:
        ValueError: `abc_t` is not `(T, 3)`; corrections < 0.

    Examples:
        >>> import torch
        >>> from iroot_solve import build_schedule, hybrid_pe_nsrc_solve
        >>> abc_t, _ = build_schedule("cpu", p_val=1)
        >>> Z, ws = hybrid_pe_nsrc_solve(torch.diag(torch.tensor([0.25, 1.0])), torch.ones(2, 1), abc_t)
        >>> torch.allclose(Z, torch.tensor([[4.0], [1.0]]), rtol=1e-5)
        True
    """
    if corrections < 0:
        raise ValueError(f"corrections={corrections} must be ≥ 0")
    ws, n = Workspace() if ws is None else ws, A_norm.shape[-1]
    dtype = torch.float64 if A_norm.dtype is torch.float64 else torch.float32
    A, right = A_norm.to(dtype).reshape(-1, n, n), B.to(dtype).reshape(-1, n, B.shape[-1])
    X = _steps(A, quadratics(abc_t), ws)
    Z = torch.bmm(X, right, out=ws.like("Z", right))
    for _ in range(corrections):
        Z = Z.baddbmm_(X, torch.baddbmm(right, A, Z, alpha=-1))
    return Z.reshape(B.shape), ws


def _steps(A: Tensor, steps: Sequence[Any], ws: Workspace) -> Tensor:
    """All steps on the root."""
    name = "fp64" if A.dtype is torch.float64 else "fp32"
    root = CoupledIteration(A, None, p=1, precision=name, workspace=ws)
    for t, q in enumerate(steps, start=1):
        root.step(q, last=t == len(steps))
    assert root.X is not None
    return root.X

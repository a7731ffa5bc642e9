"""A^α·B by the Lanczos process of `iroot_kernels`, for few columns: no n×n product, no look at the spectrum before.

Its error estimate comes from the recurrence (see `iroot_kernels.lanczos_apply`). Rounding is added: m products with A
perturb A by about u·‖A‖, which moves λmin^α relatively by |α|·κ·u. κ is that of the Ritz values.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from iroot_kernels import Workspace, lanczos_apply
from torch import Tensor

from iroot_solve._certificate import Action
from iroot_solve._outcome import Outcome
from iroot_solve._predict import rounding_error
from iroot_solve._result import DirectSchedule

# The recurrence's share of the tolerance.
SHARE = 0.25
# A basis larger than this is computed twice instead of kept.
BASIS_BYTES = 2 << 30


def lanczos_steps(kappa: float, tol: float, n: int) -> int:
    """Steps until the error is SHARE·tol: that of the best polynomial falls by (√κ − 1)/(√κ + 1) ≈ e^(−2/√κ) a step."""
    return min(n, math.ceil(math.sqrt(kappa) / 2 * math.log(2 / (SHARE * tol))) + 4)


def times(S: Tensor, k: int, ws: Workspace) -> Action:
    """V ↦ S·V for symmetric S `(b, n, n)` and V `(b, n, k)` stored column by column; always into the same buffer."""
    rows = ws.buffer("krylov product", (S.shape[0], k, S.shape[-1]), S.dtype, S.device)
    return lambda V: torch.bmm(V.mT, S, out=rows).mT


def run_lanczos(
    action: Action, B: Tensor, exponent: Fraction, tol: float, ws: Workspace, max_steps: int = 0, name: str = ""
) -> Outcome:
    """Z = A^exponent·B.

    Args:
        action: V ↦ A·V in B's dtype.
        B: `(b, n, k)`, float32 or float64.
        exponent: α.
        tol: Of the result.
        ws: Where the basis and Z live.
        max_steps: Of the process; 0: n (3·n without a basis), which ends it.
        name: Precision of the action, if it is not that of B.

    Returns:
        The outcome with an `error` of its own. Cost: a thin product a step, and 4·k·n·m² for the basis of m steps.
    """
    b, n, k = B.shape
    kept = b * k * n * min(n, max_steps or n) * B.element_size() <= BASIS_BYTES
    result = lanczos_apply(
        action,
        B,
        float(exponent),
        tol=SHARE * tol,
        max_steps=max_steps or (n if kept else 3 * n),
        passes=1 if kept else 2,
        ws=ws,
    )
    name = name or ("fp64" if B.dtype is torch.float64 else "fp32")
    kappa = (result.ritz_high / result.ritz_low).clamp_min(1.0).nan_to_num(1.0)
    error = result.error + rounding_error("lanczos", name, kappa, exponent)
    # Small, and yet no sign of convergence: an eigenvalue may not have been met.
    error = torch.where(result.converged | (result.error > tol), error, torch.inf)
    return Outcome(
        Z=result.Z,
        root=None,
        judge=B.dtype,
        strategy="lanczos",
        precision=name,
        schedule=DirectSchedule("lanczos", f"lanczos in {name}: {result.steps} steps, ‖B‖·V·T^({exponent})·e₁"),
        steps=result.steps,
        products={"columns": result.products // max(b, 1)},
        lowest=result.ritz_low,
        error=error,
    )

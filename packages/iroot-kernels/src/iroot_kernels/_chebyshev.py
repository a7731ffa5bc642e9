"""Σ_j c_j·T_j(X)·B with X = (2A − (u + l)·I)/(u − l) by Clenshaw's recurrence, from products V ↦ A·V alone.

    b_j = c_j·B + 2·X·b_{j+1} − b_{j+2},      result = c_0·B + X·b_1 − b_2.

X is never formed: 2·X·b = (2/h)·A·b − (2·c/h)·b with the centre c and the half width h. Everything but A·b stays in
storage precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iroot_kernels._rows import Action
from iroot_kernels._workspace import Workspace


def chebyshev_apply(
    action: Action,
    B: Tensor,
    coefficients: Sequence[float],
    low: float | Tensor,
    high: float | Tensor,
    *,
    exponent: float | None = None,
    ws: Workspace | None = None,
) -> Tensor:
    """f(A)·B for f = Σ_j c_j·T_j((2x − high − low)/(high − low)).

    Args:
        action: V ↦ A·V for V `(b, n, k)` in the dtype of B; V.mT is contiguous. It may return the same buffer always.
        B: `(b, n, k)`, float32 or float64. Not changed.
        coefficients: c_0 … c_d. Outside [low, high] the sum grows like T_d: the interval must hold the spectrum.
        low: l, a number or one per matrix (b,).
        high: u > l, a number or one per matrix (b,).
        exponent: `None`, or α where f = x^α and the coefficients are those of x^α on [low/high, 1]: the sum is then
            multiplied by high^α, so that intervals of one ratio but any size share the coefficients. (For intervals of
            several ratios lower every `low` to the smallest ratio times its `high`.)
        ws: Buffers; Z and one other of its size.

    Returns:
        Z `(b, n, k)`, stored column by column in a buffer of the workspace. Rounding, relative to B: u·κ·‖f‖ for
        monotone x^α, as much as rounding A does.

    Raises:
        TypeError: B is not float32 or float64.
        ValueError: No coefficients, or shapes that do not fit.

    Cost: d products with k columns; no synchronisation.
    """
    if B.ndim != 3 or B.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"B must be float32 or float64 of shape (b, n, k), not {B.dtype} {tuple(B.shape)}")
    if len(coefficients) == 0:
        raise ValueError("coefficients must hold c_0 at least")
    ws = Workspace() if ws is None else ws
    low, high = per_matrix(low, B), per_matrix(high, B)
    scale = torch.ones_like(high) if exponent is None else high**exponent
    Z = clenshaw(action, B, coefficients, 2 / (high - low), -(high + low) / (high - low), ws)
    return Z.mul_(scale.to(B.dtype))


def per_matrix(value: float | Tensor, B: Tensor) -> Tensor:
    """A number or one per matrix as float64 (1, 1, 1) or (b, 1, 1) on the device of B."""
    if isinstance(value, Tensor):
        if value.shape not in (torch.Size(()), B.shape[:1]):
            raise ValueError(
                f"an end of the interval must be a number or have shape ({B.shape[0]},), not {value.shape}"
            )
        return value.to(B.device, torch.float64).reshape(-1, 1, 1)
    return torch.full((1, 1, 1), value, dtype=torch.float64, device=B.device)


def clenshaw(
    action: Action, B: Tensor, coefficients: Sequence[float], slope: Tensor, offset: Tensor, ws: Workspace
) -> Tensor:
    """Σ c_j·T_j(slope·A + offset)·B for slope and offset (b, 1, 1)."""
    slope, offset = slope.to(B.dtype), offset.to(B.dtype)
    columns = B.mT.shape
    here, after = (ws.buffer(f"clenshaw{i}", columns, B.dtype, B.device).mT for i in range(2))
    torch.mul(B, float(coefficients[-1]), out=here)
    after.zero_()
    for j in range(len(coefficients) - 2, -1, -1):
        factor = 2.0 if j else 1.0
        # after ← c_j·B + factor·(slope·A + offset)·here − after
        after.neg_().add_(B, alpha=float(coefficients[j]))
        after.addcmul_(here, offset, value=factor).addcmul_(action(here), slope, value=factor)
        here, after = after, here
    return here

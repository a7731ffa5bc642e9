"""Matrix-vector products in the full precision of the matrix, whatever autocast and global tf32 flags say.

A bound taken from products rounded to 10 bits would be no bound. Global flags are read, never set: where they
ask for reduced float32 products, the products run in float64 instead.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# What the global flags say where float32 products are float32 products.
_FULL = ("ieee", "none")


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which autocast is off on ``device``; costs nothing where it is off already."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _reduced_float32(device: torch.device) -> bool:
    """Whether the global flags let float32 products on ``device`` run in tf32 or bfloat16."""
    if device.type == "cuda":
        return str(torch.backends.cuda.matmul.fp32_precision) not in _FULL
    if device.type == "cpu":
        return str(torch.backends.mkldnn.matmul.fp32_precision) not in _FULL  # type: ignore[attr-defined]
    return False


def exact_operand(A: Tensor, /) -> Tensor:
    """Return ``A`` itself, or its float64 copy where float32 products would be reduced."""
    return A.double() if A.dtype == torch.float32 and _reduced_float32(A.device) else A


def symmetric_action(A: Tensor, /) -> Callable[[Tensor], Tensor]:
    """V ↦ A·V in the full precision of A, whatever autocast and global flags say; computed as (Vᵀ·A)ᵀ.

    Row vectors times a row-major matrix are up to 10 times faster than the column form for batches and for 1
    < m ≪ n.

    Args:
        A: Symmetric matrices (..., n, n), float32 or float64.

    Returns:
        The action on V (..., n, m).
    """
    operand = exact_operand(A)
    # One matrix times one vector is read once, from end to end, by both of the cores.
    alone = operand.numel() == operand.shape[-1] ** 2 and operand.shape[-1] >= 1024
    product = torch.bmm if operand.ndim == 3 else torch.matmul

    def action(V: Tensor) -> Tensor:
        if alone and V.shape[-1] == 1:
            return product(operand, V.to(operand.dtype))
        return product(V.mT.to(operand.dtype), operand).mT

    def outside_autocast(V: Tensor) -> Tensor:
        with without_autocast(A.device):
            return action(V)

    return outside_autocast if torch.is_autocast_enabled(A.device.type) else action

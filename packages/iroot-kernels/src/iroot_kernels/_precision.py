"""The precisions a product can be computed in, and what each of them rounds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iroot_kernels._ldexp import ldexp
from iroot_kernels._workspace import Workspace


@dataclass(frozen=True)
class Precision:
    """How the operands of a product are rounded.

    Attributes:
        name: One of `PRECISIONS`.
        storage: dtype of iterates, additive terms and results.
        plane: dtype of the operand planes; `None` where operands are used as stored.
        planes: 1, or 2 for a high and a low part (three products: hi·lo + lo·hi + hi·hi).
        unit_roundoff: Relative error of one rounded operand.
    """

    name: str
    storage: torch.dtype
    plane: torch.dtype | None
    planes: int
    unit_roundoff: float


_TABLE = (
    Precision("fp64", torch.float64, None, 1, 2.0**-53),
    Precision("fp32", torch.float32, None, 1, 2.0**-24),
    Precision("tf32", torch.float32, None, 1, 2.0**-11),
    Precision("bf16", torch.float32, torch.bfloat16, 1, 2.0**-8),
    Precision("fp16", torch.float32, torch.float16, 1, 2.0**-11),
    Precision("bf16x3", torch.float32, torch.bfloat16, 2, 2.0**-16),
    Precision("fp16x3", torch.float32, torch.float16, 2, 2.0**-22),
)
PRECISIONS: dict[str, Precision] = {row.name: row for row in _TABLE}


def precision(name: str) -> Precision:
    """The precision called `name`.

    Raises:
        ValueError: If there is none of that name; the message lists those there are.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r} is not one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def round_tf32(A: Tensor, ws: Workspace, name: str) -> Tensor:
    """float32 `A` rounded to nearest on tf32's grid: 8 exponent bits, 10 stored significand bits."""
    rounded = ws.like(name, A).copy_(A)
    bits = rounded.view(torch.int32)
    # Half a unit of the last kept bit (bit 13), less one where that bit is even: ties go to even.
    odd = ws.buffer(f"{name} odd", A.shape, torch.int32, A.device)
    torch.bitwise_right_shift(bits, 13, out=odd).bitwise_and_(1)
    bits.add_(odd).add_(0x0FFF).bitwise_and_(~0x1FFF)
    # An infinity has no bits to carry; a NaN has, and must stay one.
    nan = torch.ne(A, A, out=ws.buffer(f"{name} nan", A.shape, torch.bool, A.device))
    return torch.where(nan, A, rounded, out=rounded)


def fp16_scale(A: Tensor) -> Tensor:
    """Power of two that lifts max|A| of every matrix into [2^13, 2^14), shape `(..., 1, 1)`.

    fp16 has no exponent range to spare; a known power of two keeps 11 bits everywhere and never overflows.
    """
    if A.numel():
        largest = torch.linalg.vector_norm(A, float("inf"), (-2, -1), keepdim=True)
    else:
        largest = A.new_ones((*A.shape[:-2], 1, 1))
    exponent = torch.frexp(torch.where(torch.isfinite(largest), largest, 1.0)).exponent
    return ldexp(torch.ones_like(largest), (14 - exponent).clamp(-126, 126))


def split(A: Tensor, how: Precision, ws: Workspace, name: str) -> tuple[list[Tensor], Tensor]:
    """The planes of `A` (highest first, in the plane dtype) and the power of two they are scaled by."""
    assert how.plane is not None
    scale = fp16_scale(A) if how.plane is torch.float16 else A.new_ones(())
    rest, planes = torch.mul(A, scale, out=ws.like(f"{name} rest", A)), []
    for i in range(how.planes):
        planes.append(ws.buffer(f"{name} plane{i}", A.shape, how.plane, A.device).copy_(rest))
        rest.sub_(planes[-1])
    return planes, scale

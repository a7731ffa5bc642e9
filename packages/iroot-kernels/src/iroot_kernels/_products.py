"""The one operation everything is made of: out = α·A·B + β·C, the product rounded, the sum not.

Additive terms stay in storage precision; only the operands of A·B are rounded. So an increment X ← a·X + R·X loses
the unit roundoff of the product, not that times the condition number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iroot_kernels._precision import Precision, precision, round_tf32, split
from iroot_kernels._workspace import Workspace


class Products:
    """Products at one precision, counted.

    Args:
        name: One of `iroot_kernels.PRECISIONS`.
        workspace: Where rounded operands live; an iteration lends its own.

    Attributes:
        how: The precision.
        ws: The workspace.
        square: How many (n, n)·(n, n) products were computed.
        columns: Right-hand columns multiplied by an (n, n) matrix in all other products.
    """

    def __init__(self, name: str = "fp32", workspace: Workspace | None = None) -> None:
        self.how: Precision = precision(name)
        self.ws = Workspace() if workspace is None else workspace
        self.square = 0
        self.columns = 0

    def __call__(
        self, A: Tensor, B: Tensor, *, out: Tensor, C: Tensor | None = None, alpha: float = 1.0, beta: float = 1.0
    ) -> Tensor:
        """out ← α·A·B + β·C (without C: α·A·B).

        Args:
            A: `(b, n, n)` in the storage dtype.
            B: `(b, n, k)`.
            out: `(b, n, k)`; may be `C`, must not overlap `A` or `B`.
            C: `(b, n, k)`, added in storage precision.
            alpha: Factor of the product.
            beta: Factor of `C`.

        Returns:
            `out`. Cost: one product (k = n), or k columns.
        """
        self._count(A, B)
        if self.how.plane is not None or _needs_planes(A, self.how):
            return _planes_product(A, B, self.how, out, C, alpha, beta, self.ws)
        if self.how.name == "tf32":
            A, B = round_tf32(A, self.ws, "left"), round_tf32(B, self.ws, _right(A, B))
        return _product(A, B, out, C, alpha, beta, self.ws)

    def _count(self, A: Tensor, B: Tensor) -> None:
        if B.shape[-1] == A.shape[-1]:
            self.square += 1
        else:
            self.columns += B.shape[-1]


def _right(A: Tensor, B: Tensor) -> str:
    """What B's buffers are called: n and k columns take turns, and neither must displace the other."""
    return "right" if A.shape[-1] == B.shape[-1] else "columns"


def _product(A: Tensor, B: Tensor, out: Tensor, C: Tensor | None, alpha: float, beta: float, ws: Workspace) -> Tensor:
    """α·A·B + β·C in the dtype of the operands (β = 0 ignores what `out` holds, NaN included)."""
    if _reduced_cpu_float32(A):
        return _wide_product(A, B, out, C, alpha, beta, ws)
    add = out if C is None else C
    beta = 0.0 if C is None else beta
    # Only calls with out= are left alone by torch.autocast.
    if A.shape[0] == 1:  # addmm reaches the threaded GEMM where baddbmm would loop
        torch.addmm(add[0], A[0], B[0], alpha=alpha, beta=beta, out=out[0])
        return out
    return torch.baddbmm(add, A, B, alpha=alpha, beta=beta, out=out)


def _reduced_cpu_float32(A: Tensor) -> bool:
    """Whether a global flag makes CPU float32 products less than float32 (flags are read, never set).

    This getter follows the older `torch.set_float32_matmul_precision` too; the older getters raise where both are used.
    """
    if A.device.type != "cpu" or A.dtype is not torch.float32:
        return False
    return torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")  # type: ignore[attr-defined]


def _wide_product(
    A: Tensor, B: Tensor, out: Tensor, C: Tensor | None, alpha: float, beta: float, ws: Workspace
) -> Tensor:
    """α·A·B + β·C computed in float64, which no flag reduces, and rounded once."""
    left = ws.buffer("left wide", A.shape, torch.float64, A.device).copy_(A)
    right = ws.buffer(f"{_right(A, B)} wide", B.shape, torch.float64, B.device).copy_(B)
    total = ws.buffer(f"{_right(A, B)} wide product", out.shape, torch.float64, out.device)
    torch.bmm(left, right, out=total).mul_(alpha)
    if C is not None:
        total.add_(C, alpha=beta)
    return out.copy_(total)


def _needs_planes(A: Tensor, how: Precision) -> bool:
    """On CUDA tf32 runs as one fp16 plane (the same 11 bits), and float32 under a global tf32 flag as two."""
    if A.device.type != "cuda":
        return False
    return how.name == "tf32" or (how.name == "fp32" and torch.backends.cuda.matmul.fp32_precision == "tf32")


def _planes_product(
    A: Tensor, B: Tensor, how: Precision, out: Tensor, C: Tensor | None, alpha: float, beta: float, ws: Workspace
) -> Tensor:
    """α·A·B + β·C from planes: smallest terms first, lo·lo dropped (below the roundoff of the split)."""
    if how.plane is None:
        how = precision("fp16" if how.name == "tf32" else "fp16x3")
    (As, s), (Bs, t) = split(A, how, ws, "left"), split(B, how, ws, _right(A, B))
    total = ws.like(f"{_right(A, B)} product", out)
    pairs = [(As[0], Bs[0])] if how.planes == 1 else [(As[0], Bs[1]), (As[1], Bs[0]), (As[0], Bs[0])]
    for i, (left, right) in enumerate(pairs):
        _plane_product(left, right, total, total if i else None, ws)
    # Two divisions: the product of two large scales may overflow where each of them does not.
    total.div_(s).div_(t).mul_(alpha)
    if C is not None:
        total.add_(C, alpha=beta)
    return out.copy_(total)


def _plane_product(A: Tensor, B: Tensor, out: Tensor, C: Tensor | None, ws: Workspace) -> Tensor:
    """Product of 16-bit planes accumulated in float32, added to C."""
    if A.device.type == "cuda":
        add, beta = (out, 0.0) if C is None else (C, 1.0)
        return torch.baddbmm(add, A, B, out_dtype=torch.float32, beta=beta, out=out)
    left = ws.buffer("left plane", A.shape, torch.float32, A.device).copy_(A)
    right = ws.buffer(f"{_right(A, B)} plane", B.shape, torch.float32, B.device).copy_(B)
    return _product(left, right, out, C, 1.0, 1.0, ws)

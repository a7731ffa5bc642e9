"""S = T + Tᵀ with T = factor·A, and the norms of T and T − Tᵀ, in one pass over A where the kernel runs.

A tile of T and the one that mirrors it hold everything that two tiles of S need, and both their shares of the norms:
each number of A is read once and each of S is written once, where torch's operations move ten times n² numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from iroot_kernels._norms import frobenius_norms
from iroot_kernels._tiling import MOST, current, symmetric_products
from iroot_kernels._transpose import plus_transpose
from iroot_kernels._workspace import Workspace

Norms = tuple[Tensor, Tensor]
"""(‖T‖_F, ‖T − Tᵀ‖_F), `(b,)` float64 each."""


def scaled_symmetric_part(
    A: Tensor,
    factor: Tensor,
    *,
    norms: bool = False,
    small: bool = False,
    out: Tensor | None = None,
    workspace: Workspace | None = None,
) -> tuple[Tensor, Norms | None]:
    """S = T + Tᵀ of T = factor·A, symmetric in every bit, and how large and how skew T is.

    On a GPU with Triton (`symmetric_products`) it is one launch, and two on `(2, b)` numbers for the norms; nothing is
    read back. Elsewhere it is torch, which rounds S alike. Results are the same bits in every run.

    Args:
        A: `(b, n, n)`, float32, float64, float16 or bfloat16, of any strides.
        factor: `(b, 1, 1)`, finite, float32 or float64, which is the dtype of T and S.
        norms: Find ‖T‖_F and ‖T − Tᵀ‖_F.
        small: Squares of all numbers of T may be below its dtype: they are added in float64.
        out: `(b, n, n)` in the dtype of factor, contiguous; must not overlap A.
        workspace: Buffers to use: on a GPU 16 bytes for each pair of tiles, elsewhere T.

    Returns:
        `out` or a new tensor, and both norms, `(b,)` float64, if these are wanted. Cost: A is read and S written once
        on a GPU; elsewhere as much as three (with norms six) passes.

    Raises:
        ValueError, TypeError: Another shape, dtype or device.

    Examples:
        >>> import torch
        >>> from iroot_kernels import scaled_symmetric_part
        >>> A, half = torch.tensor([[[3.0, 5.0], [3.0, 1.0]]]), torch.tensor([[[0.5]]])
        >>> S, (size, skew) = scaled_symmetric_part(A, half, norms=True)
        >>> S.tolist(), round(2 * skew.item() ** 2)
        ([[[3.0, 4.0], [4.0, 1.0]]], 4)
    """
    _check(A, factor, out)
    S = torch.empty(A.shape, dtype=factor.dtype, device=A.device) if out is None else out
    ws = Workspace() if workspace is None else workspace
    cut = part_tiling(A.shape[-1])
    if not symmetric_products(A.device) or not 0 < A.numel() or A.shape[0] * cut.tiles > MOST:
        return S, _reference(A, factor, S, norms, small, ws)
    with current(A.device):
        return S, _launched(A.detach(), factor, S, cut, norms, small, ws)


@dataclass(frozen=True)
class PartTiling:
    """How the pass is cut.

    Attributes:
        size: Rows and columns of a tile.
        warps: Of a program, which takes a tile and its mirror.
        tiles: On and below the diagonal of a matrix.
    """

    size: int
    warps: int
    tiles: int


def part_tiling(n: int) -> PartTiling:
    """Tiles of 64 rows, whose parts of a row are two cache lines of float32; one that is not much larger than a small
    matrix.
    """
    size = 16 if n <= 16 else 32 if n <= 32 else 64
    blocks = -(-n // size)
    return PartTiling(size, {16: 1, 32: 4, 64: 8}[size], blocks * (blocks + 1) // 2)


def _check(A: Tensor, factor: Tensor, out: Tensor | None) -> None:
    if A.ndim != 3 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must have shape (b, n, n), not {tuple(A.shape)}")
    if A.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"A must be float32, float64, float16 or bfloat16, not {A.dtype}")
    if factor.shape != (A.shape[0], 1, 1) or factor.device != A.device:
        raise ValueError(f"factor must have shape {(A.shape[0], 1, 1)} on {A.device}, not {tuple(factor.shape)}")
    if factor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"factor must be float32 or float64, not {factor.dtype}")
    if out is None:
        return
    if out.shape != A.shape or out.dtype is not factor.dtype or out.device != A.device or not out.is_contiguous():
        raise ValueError(f"out must be contiguous {factor.dtype} of shape {tuple(A.shape)} on {A.device}")


def _reference(A: Tensor, factor: Tensor, S: Tensor, norms: bool, small: bool, ws: Workspace) -> Norms | None:
    """By torch; T − S/2 = (T − Tᵀ)/2."""
    T = torch.mul(A, factor, out=ws.like(f"T {S.dtype}", S))
    plus_transpose(T, S)
    if not norms:
        return None
    size = frobenius_norms(T, small)
    return size, frobenius_norms(T.sub_(S, alpha=0.5), small).mul_(2)


def _launched(
    A: Tensor, factor: Tensor, S: Tensor, cut: PartTiling, norms: bool, small: bool, ws: Workspace
) -> Norms | None:
    """By the kernel, a program for each pair of tiles of each matrix."""
    from iroot_kernels import _symmetric_part_triton as kernels

    b, n = A.shape[:2]
    sums = ws.buffer("part sums", (2, b, cut.tiles), torch.float64, A.device) if norms else S
    kernels.symmetric_part[(b * cut.tiles,)](
        *(A, factor, S, sums, n, *A.stride(), factor.stride(0)),
        *(norms, small, cut.size),
        num_warps=cut.warps,
        enable_fp_fusion=False,  # T is rounded before it is added, as elsewhere, and S is its own transpose
    )
    if not norms:
        return None
    size, skew = sums.sum(-1).sqrt_().unbind(0)
    return size, skew

"""The symmetric rank-k product S = GᵀG or G·Gᵀ, of which half is computed where the kernels run.

S = V·Vᵀ with V = Gᵀ or G. V·2^e, scaled by its largest number, is stored in planes (one, or a high and a low one) that
are multiplied tile by tile on and below the diagonal; what is above is mirrored. A 16-bit G is its own plane: products
of 16-bit numbers are exact, so that nothing is rounded but the sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iroot_kernels._precision import Precision, precision
from iroot_kernels._products import Products, _plane_product
from iroot_kernels._tiling import MOST, Tiling, current, symmetric_products, tiling
from iroot_kernels._workspace import Workspace

RANK_K_PRECISIONS = ("fp16x3", "bf16x3", "fp16", "bf16", "tf32")
# Shares of a matrix that look for its largest number: some for each of the 132 multiprocessors of an H200.
MOST_PARTS = 512


def symmetric_rank_k(
    G: Tensor,
    *,
    transposed: bool = False,
    precision: str = "fp16x3",
    out: Tensor | None = None,
    workspace: Workspace | None = None,
) -> Tensor:
    """S = GᵀG, symmetric in every bit; transposed: S = G·Gᵀ.

    On a GPU with Triton (`symmetric_products`) one launch forms the tiles on and below the diagonal, after one that
    splits G and, for float32, one that finds its largest number; nothing is read back. Elsewhere it is torch's matmul
    in the same precision.

    Args:
        G: `(b, m, n)`, float32, float16 or bfloat16, of any strides. What is infinite or NaN in one matrix reaches no
            other.
        transposed: Whether it is G that is transposed twice.
        precision: How float32 is rounded: fp16x3, bf16x3, fp16, bf16 or tf32. A 16-bit G is never rounded.
        out: `(b, n, n)` (transposed: `(b, m, m)`), float32, contiguous; must not overlap G.
        workspace: Buffers to use: for each number of G, padded to whole tiles, 4 bytes in fp16x3, bf16x3 and tf32, 2
            in the others.

    Returns:
        `out`, or a new tensor. Cost: m·n² multiply-adds for each product of planes (three in fp16x3 and bf16x3), and
        half of these on a GPU.

    Raises:
        ValueError, TypeError: Another shape, dtype or precision.

    Examples:
        >>> import torch
        >>> from iroot_kernels import symmetric_rank_k
        >>> symmetric_rank_k(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
        tensor([[[10., 14.],
                 [14., 20.]]])
    """
    how = _checked(G, precision)
    V = G.detach() if transposed else G.detach().mT
    shape = (V.shape[0], V.shape[1], V.shape[1])
    S = torch.empty(shape, dtype=torch.float32, device=G.device) if out is None else _checked_out(out, shape, G)
    ws = Workspace() if workspace is None else workspace
    if not V.numel():
        return S.zero_()
    if not symmetric_products(G.device):
        return _reference(V, how, S, ws)
    with current(G.device):
        return _launched(V, how, S, ws)


def rank_k_tiling(n: int, how: Precision) -> Tiling:
    """How S of n rows is cut: as `tiling` does; float32 planes are half as deep, which is as many bytes."""
    cut = tiling(_padded(n, 128), how.planes, 1)
    return replace(cut, depth=cut.depth // 2) if how.plane is torch.float32 else cut


@dataclass(frozen=True)
class SplitTiling:
    """How the two passes over V are cut, rows by columns, and the warps of a program; 64 rows and columns at most."""

    rows: int = 64
    columns: int = 64
    warps: int = 4


def split_tiling() -> SplitTiling:
    """One for all shapes: what a pass takes is the memory's bandwidth."""
    return SplitTiling()


def _checked(G: Tensor, name: str) -> Precision:
    """How G is stored in planes; its own dtype is a plane where it has 16 bits."""
    if G.ndim != 3:
        raise ValueError(f"G must have shape (b, m, n), not {tuple(G.shape)}")
    if G.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"G must be float32, float16 or bfloat16, not {G.dtype}")
    if name not in RANK_K_PRECISIONS:
        raise ValueError(f"precision={name!r} is not one of {', '.join(RANK_K_PRECISIONS)}")
    how = precision(name)
    if G.dtype is not torch.float32:
        return precision("fp16" if G.dtype is torch.float16 else "bf16")
    return replace(how, plane=torch.float32) if how.plane is None else how


def _checked_out(out: Tensor, shape: tuple[int, ...], G: Tensor) -> Tensor:
    """`out`, if S can be written there."""
    if out.shape != shape or out.dtype is not torch.float32 or out.device != G.device or not out.is_contiguous():
        raise ValueError(f"out must be contiguous float32 of shape {shape} on {G.device}")
    return out


def _padded(size: int, step: int) -> int:
    """The next multiple of step."""
    return -(-size // step) * step


def _reference(V: Tensor, how: Precision, S: Tensor, ws: Workspace) -> Tensor:
    """V·Vᵀ in full, and its lower triangle mirrored."""
    if V.dtype is torch.float32:
        Products(how.name, ws)(V, V.mT, out=S)
    else:
        _plane_product(V, V.mT, S, None, ws)
    below = torch.tril(S, -1, out=ws.like("rank-k below", S))
    return S.tril_().add_(below.mT)


def _launched(V: Tensor, how: Precision, S: Tensor, ws: Workspace) -> Tensor:
    """V·Vᵀ by the kernels: the planes, then the product of the lower tiles."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from iroot_kernels import _rank_k_triton as kernels

    cut = rank_k_tiling(V.shape[1], how)
    planes, undo = _planes(V, how, cut, ws)
    (b, stored, R, K), blocks = planes.shape, planes.shape[2] // cut.size
    described = TensorDescriptor.from_tensor(planes.view(-1, K), [cut.size, cut.depth])
    kernels.product[(b * (blocks * (blocks + 1) // 2),)](
        *(described, S, undo, S.shape[-1], R, K),
        *(V.dtype is torch.float32, stored, cut.size, cut.depth),
        num_warps=cut.warps,
        num_stages=cut.stages,
    )
    return S


def _is_a_plane(V: Tensor) -> bool:
    """Whether V can be read where it is: 16 bits, contiguous, and on a border of 16 bytes, as descriptors want it."""
    return V.dtype is not torch.float32 and V.is_contiguous() and V.data_ptr() % 16 == 0


def _planes(V: Tensor, how: Precision, cut: Tiling, ws: Workspace) -> tuple[Tensor, Tensor]:
    """V in planes, `(b, planes, R, K)`, and the powers of two that undo their scale, `(b,)`."""
    from iroot_kernels import _rank_k_triton as kernels

    assert how.plane is not None
    (b, rows, depth), pass_ = V.shape, split_tiling()
    # Blocks of one plane go in pairs.
    R, K = _padded(rows, cut.size), _padded(depth, cut.depth * (3 - how.planes))
    if b * how.planes * R > MOST or K > MOST:
        raise ValueError(f"G has shape {tuple(V.shape)}: this many rows are for several calls")
    undo = ws.buffer("rank-k undo", (b,), torch.float32, V.device)
    if (R, K) == (rows, depth) and _is_a_plane(V):
        return V.unsqueeze(1), undo
    tiles = R // pass_.rows * (K // pass_.columns)
    parts = min(MOST_PARTS, 1 << (tiles - 1).bit_length()) if V.dtype is torch.float32 else 0
    found = ws.buffer("rank-k largest", (b, max(parts, 1)), torch.float32, V.device)
    planes = ws.buffer("rank-k planes", (b, how.planes, R, K), how.plane, V.device)
    lies, blocks = (rows, depth, R, K, *V.stride()), (pass_.rows, pass_.columns)
    if parts:
        kernels.largest[(b * parts,)](V, found, *lies, parts, *blocks, num_warps=pass_.warps)
    kernels.split[(b * tiles,)](V, planes, found, undo, *lies, parts, how.planes, *blocks, num_warps=pass_.warps)
    return planes, undo

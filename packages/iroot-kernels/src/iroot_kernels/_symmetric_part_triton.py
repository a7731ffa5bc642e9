"""The Triton kernel behind `_symmetric_part`: a tile of T = factor·A and its mirror make two tiles of T + Tᵀ.

It is to be compiled without fused multiply-add: T is rounded, and a sum of two numbers has the same bits in either
order, so that a diagonal tile is symmetric, too.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iroot_kernels._rank_k_triton import _tile
from iroot_kernels._symmetric_triton import _lower


@triton.jit
def _squares(X, WIDE: tl.constexpr):
    """‖X‖_F² in X's dtype, or, WIDE, in float64."""
    if WIDE:
        X = X.to(tl.float64)
    return tl.sum(tl.sum(X * X, axis=1), axis=0).to(tl.float64)


@triton.jit
def symmetric_part(
    A,
    factor,
    S,
    sums,
    n,
    stride_b,
    stride_r,
    stride_c,
    stride_f,
    SUMS: tl.constexpr,
    WIDE: tl.constexpr,
    BM: tl.constexpr,
):
    """S = T + Tᵀ, `(b, n, n)`, T = factor·A, a program for each tile of the lower triangle of each matrix.

    `sums`, `(2, b, tiles)` float64, are the shares of ‖T‖_F² and ‖T − Tᵀ‖_F² of the tile and its mirror. What is beyond
    n is read as zero.
    """
    blocks = (n + BM - 1) // BM
    tiles = blocks * (blocks + 1) // 2
    matrix = (tl.program_id(0) // tiles).to(tl.int64)
    i, j = _lower(tl.program_id(0) % tiles)
    own = tl.arange(0, BM)
    rows, columns = i * BM + own, j * BM + own
    A += matrix * stride_b
    scale = tl.load(factor + matrix * stride_f)
    T = (_tile(A, rows, columns, n, n, stride_r, stride_c) * scale).to(S.dtype.element_ty)
    # The transpose of the tile on the other side of the diagonal.
    M = tl.trans((_tile(A, columns, rows, n, n, stride_r, stride_c) * scale).to(S.dtype.element_ty))
    if SUMS:
        size, skew = _squares(T, WIDE), _squares(T - M, WIDE)
        if i != j:
            size += _squares(M, WIDE)
            skew *= 2.0
        tl.store(sums + tl.program_id(0), size)
        tl.store(sums + tl.num_programs(0) + tl.program_id(0), skew)
    P = T + M
    # Offsets within a tile fit into 32 bits, those of a tile may not.
    S += matrix * n * n
    within = own[:, None] * n + own[None, :]
    lower, upper = S + (i * BM).to(tl.int64) * n + j * BM, S + (j * BM).to(tl.int64) * n + i * BM
    tl.store(lower + within, P, mask=(rows[:, None] < n) & (columns[None, :] < n))
    if i != j:
        tl.store(upper + within, tl.trans(P), mask=(columns[:, None] < n) & (rows[None, :] < n))

"""The Triton kernels behind `_rank_k`: the largest number of a matrix, its planes, and their product with themselves.

V is G or Gᵀ, whichever makes S = V·Vᵀ; how it lies in memory is in its strides. Its planes have K contiguous, so that
both operands of the product are read along their rows, and are zero beyond V up to whole tiles.
"""

from __future__ import annotations

import triton
import triton.language as tl

from iroot_kernels._symmetric_triton import _lower

# Numbers are scaled to below 2^TOP, which leaves fp16 three bits to spare.
TOP = tl.constexpr(13)


@triton.jit
def _tile(V, r, k, rows, depth, stride_r, stride_k):
    """V[r, k], zero beyond `rows` and `depth`."""
    inside = (r[:, None] < rows) & (k[None, :] < depth)
    at = r[:, None].to(tl.int64) * stride_r + k[None, :].to(tl.int64) * stride_k
    return tl.load(V + at, mask=inside, other=0.0)


@triton.jit
def _power_of_two(exponent):
    """2^exponent in float32, of an exponent in [−126, 127]."""
    return ((exponent + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _nearest(value, dtype: tl.constexpr):
    """float32 as a plane stores it: a 16-bit number, or float32 rounded to nearest, ties to even, on tf32's grid."""
    if dtype == tl.float32:
        bits = value.to(tl.int32, bitcast=True)
        # Half a unit of the last kept bit, bit 13, less one where that bit is even. NaN stays NaN: its bits may carry.
        rounded = ((bits + 0x0FFF + ((bits >> 13) & 1)) & -8192).to(tl.float32, bitcast=True)
        value = tl.where(tl.abs(value) < float("inf"), rounded, value)
    return value.to(dtype)


@triton.jit
def largest(
    V, found, rows, depth, R, K, stride_b, stride_r, stride_k, PARTS: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr
):
    """The largest finite |v| of each of PARTS shares of each matrix, `found` is `(b, PARTS)` float32.

    Of finite ones: the scale of the other numbers must not depend on what is infinite or NaN anyway.
    """
    matrix, part = tl.program_id(0) // PARTS, tl.program_id(0) % PARTS
    V += matrix.to(tl.int64) * stride_b
    across = K // BK
    top = tl.zeros((BR, BK), dtype=tl.float32)
    for tile in range(part, R // BR * across, PARTS):
        r, k = tile // across * BR + tl.arange(0, BR), tile % across * BK + tl.arange(0, BK)
        size = tl.abs(_tile(V, r, k, rows, depth, stride_r, stride_k))
        top = tl.maximum(top, tl.where(size < float("inf"), size, 0.0))
    tl.store(found + tl.program_id(0), tl.max(tl.max(top, axis=1), axis=0))


@triton.jit
def split(
    V,
    planes,
    found,
    undo,
    rows,
    depth,
    R,
    K,
    stride_b,
    stride_r,
    stride_k,
    PARTS: tl.constexpr,
    STORED: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    """The planes of V, `(b, STORED, R, K)`, times 2^e, and `undo`, `(b,)` float32, is 2^(−e).

    2^e brings the largest number to [2^12, 2^13); e ≤ 126, so that 2^(−e) is no subnormal number, and what is smaller
    than that has a square of zero. Without PARTS numbers are copied as they are.
    """
    across, tiles = K // BK, R // BR * (K // BK)
    matrix, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    r, k = tile // across * BR + tl.arange(0, BR), tile % across * BK + tl.arange(0, BK)
    value = _tile(V + matrix * stride_b, r, k, rows, depth, stride_r, stride_k)
    plane = R.to(tl.int64) * K
    to = planes + matrix * STORED * plane + r[:, None].to(tl.int64) * K + k[None, :]
    if PARTS:
        top = tl.max(tl.load(found + matrix * PARTS + tl.arange(0, PARTS)), axis=0)
        # The biased exponent of the largest number: top is in [2^(biased − 127), 2^(biased − 126)), or subnormal.
        exponent = tl.minimum(TOP - 1 + 127 - (top.to(tl.int32, bitcast=True) >> 23), 126)
        if tile == 0:
            tl.store(undo + matrix, _power_of_two(-exponent))
        value = value * _power_of_two(exponent)
        high = _nearest(value, planes.dtype.element_ty)
        tl.store(to, high)
        if STORED == 2:
            tl.store(to + plane, (value - high.to(tl.float32)).to(planes.dtype.element_ty))
    else:
        tl.store(to, value)


@triton.jit
def _multiply(planes, left, right, R, K, STORED: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """A tile of V·Vᵀ, of the rows of the high plane from `left` on and from `right` on; the low plane is R further on.

    Tensor cores add up in less than float32: every block of K starts from zero and is added to a float32 sum. lo·lo is
    below the roundoff of the split.
    """
    total = tl.zeros((BM, BM), dtype=tl.float32)
    if STORED == 2:
        for k in range(0, K, BK):
            a0, b0 = planes.load([left, k]), planes.load([right, k]).T
            a1, b1 = planes.load([left + R, k]), planes.load([right + R, k]).T
            block = tl.dot(a0, b1)
            block = tl.dot(a1, b0, block)
            total += tl.dot(a0, b0, block)
    else:
        # Two dots to a block, or the sum would be folded into one accumulator.
        for k in range(0, K, 2 * BK):
            block = tl.dot(planes.load([left, k]), planes.load([right, k]).T, input_precision="tf32")
            a, b = planes.load([left, k + BK]), planes.load([right, k + BK]).T
            total += tl.dot(a, b, block, input_precision="tf32")
    return total


@triton.jit
def product(
    planes,
    S,
    undo,
    n,
    R,
    K,
    SCALED: tl.constexpr,
    STORED: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    """S = V·Vᵀ, `(b, n, n)` float32, a program for each tile of the lower triangle of each matrix.

    `planes`, `(b, STORED, R, K)`, is described as one matrix with K columns. What is above the diagonal is what is
    below it, in a diagonal tile as well: S is symmetric in every bit.
    """
    tiles = R // BM * (R // BM + 1) // 2
    i, j = _lower(tl.program_id(0) % tiles)
    matrix = tl.program_id(0) // tiles
    first = matrix * STORED * R
    P = _multiply(planes, first + i * BM, first + j * BM, R, K, STORED, BM, BK)
    if SCALED:
        # Two factors: their product may be out of range where S is not.
        factor = tl.load(undo + matrix)
        P = P * factor * factor
    own = tl.arange(0, BM)
    if i == j:
        P = tl.where(own[:, None] >= own[None, :], P, tl.trans(P))
    rows, columns = i * BM + own, j * BM + own
    # Offsets within a tile fit into 32 bits, those of a tile may not.
    S += matrix.to(tl.int64) * n * n
    lower, upper = S + (i * BM).to(tl.int64) * n + j * BM, S + (j * BM).to(tl.int64) * n + i * BM
    within = own[:, None] * n + own[None, :]
    tl.store(lower + within, P, mask=(rows[:, None] < n) & (columns[None, :] < n))
    if i != j:
        tl.store(upper + within, tl.trans(P), mask=(columns[:, None] < n) & (rows[None, :] < n))

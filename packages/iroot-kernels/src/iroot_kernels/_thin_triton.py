"""The Triton kernels behind `_thin`: a matrix into planes, and a term of a three-term recurrence with few columns.

A program makes a block of rows of the result, all of its columns or a block of them, from those rows of S, which it
reads once, and all of V, which the cache of the device holds.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _stored(planes, value, at, size, STORED: tl.constexpr):
    """A block of numbers as one plane or two, the second `size` numbers behind the first."""
    high = value.to(planes.dtype.element_ty)
    tl.store(planes + at, high)
    if STORED == 2:
        tl.store(planes + size + at, (value - high.to(tl.float32)).to(planes.dtype.element_ty))


@triton.jit(do_not_specialize=["rows", "columns"])
def split(
    A, planes, scale, rows, columns, between, stride, R, C, STORED: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr
):  # fmt: skip
    """A `(b, rows, columns)` float32, times `scale`, as planes `(b, STORED, R, C)`, zero beyond A.

    Numbers of a row lie side by side; `between` and `stride` are from matrix to matrix and from row to row.
    """
    tiles = (R // BR) * (C // BC)
    tile, matrix = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    r = (tile // (C // BC) * BR + tl.arange(0, BR))[:, None].to(tl.int64)
    c = (tile % (C // BC) * BC + tl.arange(0, BC))[None, :]
    inside = (r < rows) & (c < columns)
    value = tl.load(A + matrix * between + r * stride + c, mask=inside, other=0.0)
    size = R.to(tl.int64) * C
    _stored(planes + matrix * STORED * size, value * scale, r * C + c, size, STORED)


@triton.jit
def _products(S, V, left, right, column, N, READ: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr):
    """BM rows of S times BC columns of V from `READ` planes of each, whose low ones lie N rows behind the high ones."""
    P = tl.zeros((BM, BC), dtype=tl.float32)
    if READ == 2:
        for r in range(0, N, BK):
            s0, v0 = S.load([left, r]), V.load([right + r, column])
            s1, v1 = S.load([left + N, r]), V.load([right + N + r, column])
            block = tl.dot(s0, v1)
            block = tl.dot(s1, v0, block)
            P += tl.dot(s0, v0, block)
    else:
        # Two dots to a block, or the sum would be folded into one accumulator.
        for r in range(0, N, 2 * BK):
            block = tl.dot(S.load([left, r]), V.load([right + r, column]))
            P += tl.dot(S.load([left, r + BK]), V.load([right + r + BK, column]), block)
    return P


@triton.jit
def _more_products(
    S, V, W, left, right, column, N, READ: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BW: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """The same for BW more columns, with what is read of S read once."""
    P, Q = tl.zeros((BM, BC), dtype=tl.float32), tl.zeros((BM, BW), dtype=tl.float32)
    if READ == 2:
        for r in range(0, N, BK):
            s0, v0, w0 = S.load([left, r]), V.load([right + r, 0]), W.load([right + r, column])
            s1, v1, w1 = S.load([left + N, r]), V.load([right + N + r, 0]), W.load([right + N + r, column])
            P += tl.dot(s0, v0, tl.dot(s1, v0, tl.dot(s0, v1)))
            Q += tl.dot(s0, w0, tl.dot(s1, w0, tl.dot(s0, w1)))
    else:
        for r in range(0, N, 2 * BK):
            s0, s1, far = S.load([left, r]), S.load([left, r + BK]), right + r + BK
            P += tl.dot(s1, V.load([far, 0]), tl.dot(s0, V.load([right + r, 0])))
            Q += tl.dot(s1, W.load([far, column]), tl.dot(s0, W.load([right + r, column])))
    return P, Q


@triton.jit
def _next(
    P, rows, columns, here, before, part, planes, alpha, beta, gamma, weight, scale, n, k, size, K, STORED: tl.constexpr
):  # fmt: skip
    """What a block of products makes of its part of `before`, of `part` and of the planes."""
    inside = (rows < n) & (columns < k)
    at = rows * k + columns
    value = alpha * P + beta * tl.load(here + at, mask=inside, other=0.0)
    value += gamma * tl.load(before + at, mask=inside, other=0.0)
    tl.store(before + at, value, mask=inside)
    tl.store(part + at, tl.load(part + at, mask=inside, other=0.0) + weight * value, mask=inside)
    _stored(planes, value * scale, rows * K + columns, size, STORED)


@triton.jit(do_not_specialize=["first", "n", "k", "batch"])
def term(
    S,
    V,
    W,
    here,
    before,
    part,
    planes,
    first,
    alpha,
    beta,
    gamma,
    weight,
    scale,
    n,
    k,
    batch,
    N,
    K,
    STORED: tl.constexpr,
    READ: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BW: tl.constexpr,
    BK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """before ← α·S·V + β·here + γ·before, part ← part + weight·before, and before·scale as planes.

    `S` describes the planes of all matrices, `(b·STORED·N, N)`, and `V` those of the columns, twice
    `(b·STORED·N, K)`: they are read where `first` is the first row, and written to the others. `here`, `before` and
    `part` are `(b, n, k)` float32. A program has BC columns, and with BW > 0 the BW that follow them (`W`), K in all.
    """
    blocks = (K - BW) // BC
    i, which = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    matrix, j = i // (N // BM), i % (N // BM)
    rows = (j * BM + tl.arange(0, BM))[:, None].to(tl.int64)
    columns = (which * BC + tl.arange(0, BC))[None, :]
    left, right = matrix * STORED * N + j * BM, first + matrix * STORED * N
    size, at = N.to(tl.int64) * K, matrix.to(tl.int64) * n * k
    here, before, part = here + at, before + at, part + at
    planes += (tl.where(first == 0, batch, 0) + matrix).to(tl.int64) * STORED * size
    if OVERLAP:  # until here nothing was read that a launch before has written
        gdc_launch_dependents()
        gdc_wait()
    if BW == 0:
        P = _products(S, V, left, right, which * BC, N, READ, BM, BC, BK)
    else:
        P, Q = _more_products(S, V, W, left, right, BC, N, READ, BM, BC, BW, BK)
        more = (BC + tl.arange(0, BW))[None, :]
        _next(Q, rows, more, here, before, part, planes, alpha, beta, gamma, weight, scale, n, k, size, K, STORED)
    _next(P, rows, columns, here, before, part, planes, alpha, beta, gamma, weight, scale, n, k, size, K, STORED)


@triton.jit(do_not_specialize=["step", "batch"])
def power(
    S,
    V,
    planes,
    sizes,
    shifts,
    step,
    scale,
    usual,
    batch,
    N,
    STORED: tl.constexpr,
    PARTS: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Columns ← scale·2^e·S·columns in one plane, and the sums of their squares, a program's each.

    `S` describes the planes `(b·STORED·N, N)`, `V` the columns, twice `(b·N, BC)`: read where an even `step` finds them
    first, and written to the others. `sizes` is `(steps, b, N/BM)`. e, in `shifts` `(steps, b)`, is such that the
    columns before, times 2^e, have squares that add up to `usual`, roughly.
    """
    blocks = N // BM
    matrix, j = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    left, right = matrix * STORED * N + j * BM, (step % 2 * batch + matrix) * N
    part = tl.arange(0, PARTS)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    P = tl.zeros((BM, BC), dtype=tl.float32)
    for r in range(0, N, 2 * BK):
        block = tl.dot(S.load([left, r]), V.load([right + r, 0]))
        P += tl.dot(S.load([left, r + BK]), V.load([right + r + BK, 0]), block)
    shift = 0
    if step > 0:
        before = tl.load(sizes + ((step - 1) * batch + matrix) * blocks + part, mask=part < blocks, other=0.0)
        ratio = usual / tl.sum(before, axis=0)
        # A zero matrix and one that is not finite stay what they are.
        shift = tl.where((ratio > 0) & (ratio < 1e30), (tl.log2(ratio) * 0.5).to(tl.int32), 0)
    high = (P * scale * ((shift + 127) << 23).to(tl.float32, bitcast=True)).to(planes.dtype.element_ty)
    rows, columns = j * BM + tl.arange(0, BM), tl.arange(0, BC)
    other = (1 - step % 2) * batch + matrix
    tl.store(planes + (other.to(tl.int64) * N + rows[:, None]) * BC + columns[None, :], high)
    value = high.to(tl.float32)
    at = (step * batch + matrix) * blocks + j
    tl.store(sizes + at, tl.sum(tl.sum(value * value, axis=1), axis=0))
    if j == 0:
        tl.store(shifts + step * batch + matrix, shift.to(tl.float32))

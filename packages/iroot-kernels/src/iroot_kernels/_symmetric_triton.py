"""The Triton kernels behind `_symmetric`: products of commuting symmetric matrices, and the way into their planes.

Only the tiles on and below the diagonal are computed, half of the work; a plane is written a second time, transposed,
so that both operands of the next product are read along their rows. A diagonal tile is not symmetric by itself and is
averaged with its transpose: an operand that is read as its own transpose must be its own transpose.

Tensor cores add up in less than float32: every block of K starts from zero and is added to a float32 sum in registers.

What a launch does is written in two tables on the device, one row for each job (see `_symmetric.Job`), so that a launch
has few arguments and a captured one needs no host.
"""

from __future__ import annotations

import triton
import triton.language as tl

# What `Job.ints` and `Job.floats` hold: two operands, C, D, then slot of the float32, slot of the planes and flags of
# each result; four factors and a scale of each result.
INTS, FLOATS = tl.constexpr(13), tl.constexpr(15)
HEAD, INTS_EACH, FLOATS_EACH = tl.constexpr(4), tl.constexpr(3), tl.constexpr(5)
WHOLE, MIRRORED, PLANES = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4)


@triton.jit
def _lower(tile):
    """(i, j) with j ≤ i of the tile'th tile of the lower triangle, row by row."""
    i = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    return i, tile - i * (i + 1) // 2


@triton.jit
def _multiply(rows, left, right, N, STORED: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """A tile of A·B from the planes of each; rows `right` of B serve as its columns.

    `rows` describes all planes as one matrix with N columns, `left` and `right` are where the tile's rows begin in the
    high planes; those of the low planes begin N further on.
    """
    total = tl.zeros((BM, BM), dtype=tl.float32)
    if STORED == 2:
        for k in range(0, N, BK):
            a0, b0 = rows.load([left, k]), rows.load([right, k]).T
            a1, b1 = rows.load([left + N, k]), rows.load([right + N, k]).T
            block = tl.dot(a0, b1)
            block = tl.dot(a1, b0, block)
            total += tl.dot(a0, b0, block)
    else:
        # Two dots to a block, or the sum would be folded into one accumulator.
        for k in range(0, N, 2 * BK):
            block = tl.dot(rows.load([left, k]), rows.load([right, k]).T)
            total += tl.dot(rows.load([left, k + BK]), rows.load([right, k + BK]).T, block)
    return total


@triton.jit
def _results(
    P,
    whole,
    planes,
    ints,
    floats,
    i,
    j,
    n,
    N,
    matrix,
    batch,
    RESULTS: tl.constexpr,
    STORED: tl.constexpr,
    BM: tl.constexpr,
):
    """Everything that a job makes of tile (i, j) of P: α·P + β·C + δ·D + γ·I, in float32 and in planes."""
    square = N.to(tl.int64) * N
    rows, columns = i * BM + tl.arange(0, BM), j * BM + tl.arange(0, BM)
    if i == j:
        P = 0.5 * (P + tl.trans(P))
    whole += matrix * square
    planes += matrix * STORED * square
    # One result after the other: what several need is read again, from the cache, and not held in registers.
    for result in tl.static_range(RESULTS):
        r, f = ints + HEAD + INTS_EACH * result, floats + FLOATS_EACH * result
        flags = tl.load(r + 2)
        if flags != 0:
            lower, upper = rows[:, None] * N + columns[None, :], columns[:, None] * N + rows[None, :]
            C, D = tl.load(ints + 2).to(tl.int64), tl.load(ints + 3).to(tl.int64)
            beta, delta = tl.load(f + 1), tl.load(f + 2)
            value = tl.load(f) * P
            if beta != 0:
                value += beta * tl.load(whole + C * batch * square + lower)
            if delta != 0:
                value += delta * tl.load(whole + D * batch * square + lower)
            if i == j:
                value += tl.where((rows[:, None] == columns[None, :]) & (rows[:, None] < n), tl.load(f + 3), 0.0)
            if flags & WHOLE:
                target = whole + tl.load(r).to(tl.int64) * batch * square
                tl.store(target + lower, value)
                if flags & MIRRORED:
                    tl.store(target + upper, tl.trans(value))
            if flags & PLANES:
                plane = planes + tl.load(r + 1).to(tl.int64) * batch * STORED * square
                value = value * tl.load(f + 4)
                high = value.to(planes.dtype.element_ty)
                tl.store(plane + lower, high)
                if i != j:
                    tl.store(plane + upper, tl.trans(high))
                if STORED == 2:
                    rest = (value - high.to(tl.float32)).to(planes.dtype.element_ty)
                    tl.store(plane + square + lower, rest)
                    if i != j:
                        tl.store(plane + square + upper, tl.trans(rest))


@triton.jit(do_not_specialize=["first", "n", "batch"])
def product(
    rows,
    whole,
    planes,
    ints,
    floats,
    first,
    n,
    batch,
    N,
    RESULTS: tl.constexpr,
    STORED: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    """Jobs `first`, `first` + 1, … of the tables: one product of two symmetric matrices each, and its results.

    `whole` is `(slots, b, N, N)` float32 and `planes` `(slots, b, STORED, N, N)`, which `rows` describes as one matrix;
    N is n or more, zero beyond n. There is a program for each tile of the lower triangle of each matrix of each job.
    """
    tiles = (N // BM) * (N // BM + 1) // 2
    i, j = _lower(tl.program_id(0) % tiles)
    which = tl.program_id(0) // tiles
    job, matrix = first + which // batch, (which % batch).to(tl.int64)
    ints += job * INTS
    left = (tl.load(ints) * batch + matrix.to(tl.int32)) * STORED * N + i * BM
    right = (tl.load(ints + 1) * batch + matrix.to(tl.int32)) * STORED * N + j * BM
    P = _multiply(rows, left, right, N, STORED, BM, BK)
    _results(P, whole, planes, ints, floats + job * FLOATS, i, j, n, N, matrix, batch, RESULTS, STORED, BM)


@triton.jit(do_not_specialize=["n", "batch"])
def enter(
    A,
    whole,
    planes,
    ints,
    floats,
    n,
    batch,
    N,
    RESULTS: tl.constexpr,
    STORED: tl.constexpr,
    BM: tl.constexpr,
):
    """The first job of the tables with A itself, `(b, n, n)` float32, in place of a product."""
    tiles = (N // BM) * (N // BM + 1) // 2
    i, j = _lower(tl.program_id(0) % tiles)
    matrix = (tl.program_id(0) // tiles).to(tl.int64)
    rows, columns = i * BM + tl.arange(0, BM), j * BM + tl.arange(0, BM)
    inside = (rows[:, None] < n) & (columns[None, :] < n)
    P = tl.load(A + matrix * n * n + rows[:, None] * n + columns[None, :], mask=inside, other=0.0)
    _results(P, whole, planes, ints, floats, i, j, n, N, matrix, batch, RESULTS, STORED, BM)

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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

# What `Job.ints` and `Job.floats` hold: two operands, C, D, then slot of the float32, slot of the planes and flags of
# each result; four factors and a scale of each result.
INTS, FLOATS = tl.constexpr(13), tl.constexpr(15)
HEAD, INTS_EACH, FLOATS_EACH = tl.constexpr(4), tl.constexpr(3), tl.constexpr(5)
WHOLE, MIRRORED, PLANES, LOW = tl.constexpr(1), tl.constexpr(2), tl.constexpr(4), tl.constexpr(8)


@triton.jit
def _lower(tile):
    """(i, j) with j ≤ i of the tile'th tile of the lower triangle, row by row."""
    i = ((tl.sqrt(8.0 * tile.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    return i, tile - i * (i + 1) // 2


@triton.jit
def _multiply(a, b, left, right, left_low, right_low, N, READ: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """A tile of A·B from `READ` planes of each; rows of B serve as its columns.

    `a` and `b` describe all planes of either kind as one matrix with N columns, `left` and `right` are where the tile's
    rows begin in the high planes, `left_low` and `right_low` where in the low ones.
    """
    total = tl.zeros((BM, BM), dtype=tl.float32)
    if READ == 2:
        for k in range(0, N, BK):
            a0, b0 = a.load([left, k]), b.load([right, k]).T
            a1, b1 = a.load([left_low, k]), b.load([right_low, k]).T
            block = tl.dot(a0, b1)
            block = tl.dot(a1, b0, block)
            total += tl.dot(a0, b0, block)
    else:
        # Two dots to a block, or the sum would be folded into one accumulator.
        for k in range(0, N, 2 * BK):
            block = tl.dot(a.load([left, k]), b.load([right, k]).T)
            total += tl.dot(a.load([left, k + BK]), b.load([right, k + BK]).T, block)
    return total


@triton.jit
def _row(ints, floats, result: tl.constexpr):
    """What the tables say of a result: its float32 slot, planes and flags; α, β, δ, γ and its scale."""
    r, f = ints + HEAD + INTS_EACH * result, floats + FLOATS_EACH * result
    slots = tl.load(r).to(tl.int64), tl.load(r + 1).to(tl.int64), tl.load(r + 2)
    return slots + (tl.load(f), tl.load(f + 1), tl.load(f + 2), tl.load(f + 3), tl.load(f + 4))


@triton.jit
def _job(ints, floats, RESULTS: tl.constexpr):
    """A row of the tables: C, D and the results. Read before the product, not when it is there to be written."""
    first = _row(ints, floats, 0)
    second = _row(ints, floats, 1) if RESULTS > 1 else first
    third = _row(ints, floats, 2) if RESULTS > 2 else first
    return tl.load(ints + 2).to(tl.int64), tl.load(ints + 3).to(tl.int64), first, second, third


@triton.jit
def _results(
    P, job, whole, planes, i, j, n, N, height, matrix, batch, RESULTS: tl.constexpr, STORED: tl.constexpr
):  # fmt: skip
    """Everything that a job makes of tile (i, j) of P: α·P + β·C + δ·D + γ·I, in float32 and in planes.

    Of a symmetric matrix, `height` = N, the tile is on or below the diagonal; a thin one, transposed, has `height` rows
    and n = 0, and is neither mirrored nor shifted.
    """
    BM: tl.constexpr = P.shape[0]
    square = height.to(tl.int64) * N
    rows, columns = i * BM + tl.arange(0, BM), j * BM + tl.arange(0, BM)
    lower, upper = rows[:, None] * N + columns[None, :], columns[:, None] * N + rows[None, :]
    diagonal, mirror = (i == j) & (n > 0), (i != j) & (n > 0)
    if diagonal:
        P = 0.5 * (P + tl.trans(P))
    whole += matrix * square
    planes += matrix * STORED * square
    # One result after the other: what several need is read again, from the cache, and not held in registers.
    for result in tl.static_range(RESULTS):
        to_whole, to_planes, flags, alpha, beta, delta, gamma, scale = job[2 + result]
        if flags != 0:
            value = alpha * P
            if beta != 0:
                value += beta * tl.load(whole + job[0] * batch * square + lower)
            if delta != 0:
                value += delta * tl.load(whole + job[1] * batch * square + lower)
            if diagonal:
                value += tl.where((rows[:, None] == columns[None, :]) & (rows[:, None] < n), gamma, 0.0)
            if flags & WHOLE:
                tl.store(whole + to_whole * batch * square + lower, value)
                if flags & MIRRORED:
                    tl.store(whole + to_whole * batch * square + upper, tl.trans(value))
            if flags & PLANES:
                plane = planes + to_planes * batch * STORED * square
                value *= scale
                high = value.to(planes.dtype.element_ty)
                tl.store(plane + lower, high)
                if mirror:
                    tl.store(plane + upper, tl.trans(high))
                if STORED == 2:
                    if flags & LOW:
                        plane += square
                        rest = (value - high.to(tl.float32)).to(planes.dtype.element_ty)
                        tl.store(plane + lower, rest)
                        if mirror:
                            tl.store(plane + upper, tl.trans(rest))


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
    READ: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    OVERLAP: tl.constexpr,
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
    todo = _job(ints, floats + job * FLOATS, RESULTS)
    if OVERLAP:  # until here nothing was read that a launch before has written
        gdc_launch_dependents()
        gdc_wait()
    P = _multiply(rows, rows, left, right, left + N, right + N, N, READ, BM, BK)
    _results(P, todo, whole, planes, i, j, n, N, N, matrix, batch, RESULTS, STORED)


@triton.jit(do_not_specialize=["first", "batch"])
def thin_product(
    thin_rows,
    rows,
    whole,
    planes,
    ints,
    floats,
    first,
    batch,
    height,
    N,
    STORED: tl.constexpr,
    READ: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Job `first` of the tables: Xᵀ·R of a thin X and a symmetric R, and its one result.

    `whole` is `(slots, b, height, N)` float32 and `planes` `(slots, b, STORED, height, N)`, which `thin_rows` describes
    as one matrix; `rows` are those of the symmetric planes. There is a program for each tile of each matrix.
    """
    tiles = (height // BM) * (N // BM)
    tile, matrix = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    i, j = tile // (N // BM), tile % (N // BM)
    ints += first * INTS
    left = (tl.load(ints) * batch + matrix.to(tl.int32)) * STORED * height + i * BM
    right = (tl.load(ints + 1) * batch + matrix.to(tl.int32)) * STORED * N + j * BM
    todo = _job(ints, floats + first * FLOATS, 1)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    P = _multiply(thin_rows, rows, left, right, left + height, right + N, N, READ, BM, BK)
    _results(P, todo, whole, planes, i, j, 0, N, height, matrix, batch, 1, STORED)


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
    _results(P, _job(ints, floats, RESULTS), whole, planes, i, j, n, N, N, matrix, batch, RESULTS, STORED)


@triton.jit(do_not_specialize=["n", "k", "batch"])
def enter_thin(
    B,
    whole,
    planes,
    ints,
    floats,
    n,
    k,
    batch,
    height,
    N,
    STORED: tl.constexpr,
    BM: tl.constexpr,
):
    """The second job of the tables with Bᵀ itself, B `(b, n, k)` float32, in place of a product."""
    tiles = (height // BM) * (N // BM)
    tile, matrix = tl.program_id(0) % tiles, (tl.program_id(0) // tiles).to(tl.int64)
    i, j = tile // (N // BM), tile % (N // BM)
    rows, columns = i * BM + tl.arange(0, BM), j * BM + tl.arange(0, BM)
    inside = (rows[:, None] < k) & (columns[None, :] < n)
    P = tl.load(B + matrix * n * k + columns[None, :] * k + rows[:, None], mask=inside, other=0.0)
    _results(P, _job(ints + INTS, floats + FLOATS, 1), whole, planes, i, j, 0, N, height, matrix, batch, 1, STORED)

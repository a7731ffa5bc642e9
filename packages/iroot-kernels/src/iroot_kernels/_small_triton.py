# mypy: ignore-errors
"""The Triton kernel behind `_small_root`: one program holds one matrix of up to 128×128 for the whole iteration.

A matrix is read, scaled by a power of two so that its spectrum lies in (0, 1], iterated, tested, judged and written by
one program; nothing is shared, so that a bad matrix neither disturbs nor delays its neighbours. n is padded to NP by an
identity block, which is an eigenvalue 1 to the iteration and masked out of every norm.

Only operands of increments are rounded: with q(Y) = a·I + R, X ← a·X + R·X and Y ← a·Y + R·Y keep a·X and a·Y in
float32. The certificate multiplies A itself, and rounds nothing below float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A row of the table of steps: c, 1/h, m₀, m₁, m₂; scales of the planes of x, Y, X, and of the increments of q, q², q⁴.
COLUMNS = tl.constexpr(11)
SCALE_X, SCALE_Y, SCALE_ROOT, SCALE_POWERS = (tl.constexpr(i) for i in range(5, 9))
# Of a ragged batch's table: n, k, where A, B and Z begin.
PLACES = tl.constexpr(5)
# Numbers that are said of a matrix, beside its steps and status.
REPORTED = tl.constexpr(5)
NONFINITE, ASYMMETRIC, UNFINISHED, RANGE = (tl.constexpr(2**i) for i in range(4))
# What rounding may take from a bound that is a sum of 128 numbers in float32.
ROOM = tl.constexpr(1 + 2.0**-15)


@triton.jit
def _exponent(x):
    """⌊log₂ x⌋ of a positive float32, subnormal ones included."""
    small = x < 2.0**-100
    bits = tl.where(small, x * 2.0**64, x).to(tl.int32, bitcast=True)
    return ((bits >> 23) & 255) - 127 - tl.where(small, 64, 0)


@triton.jit
def _lifted(x, k):
    """x·2^k, exact where it is representable, |k| ≤ 378."""
    for _ in tl.static_range(3):
        part = tl.minimum(tl.maximum(k, -126), 127)
        x = x * ((part + 127) << 23).to(tl.float32, bitcast=True)
        k -= part
    return x


@triton.jit
def _times(R, M, r, m, PRECISION: tl.constexpr):
    """R·M; r and m are powers of two that lift them to where two planes of fp16 hold 22 bits."""
    if PRECISION == "fp16x3":
        R, M = R * r, M * m
        high, top = R.to(tl.float16), M.to(tl.float16)
        low, rest = (R - high.to(tl.float32)).to(tl.float16), (M - top.to(tl.float32)).to(tl.float16)
        P = tl.dot(high, rest)  # the smallest first
        P = tl.dot(low, top, P)
        P = tl.dot(high, top, P) * (1.0 / (r * m))
    else:
        P = tl.dot(R, M, input_precision=PRECISION)
    return P


@triton.jit
def _symmetrized(M):
    return 0.5 * (M + tl.trans(M))


@triton.jit
def _frobenius(M):
    """‖M‖_F."""
    return tl.sqrt(tl.sum(tl.sum(M * M, 1), 0))


@triton.jit
def _read(A, row_stride, n, NP: tl.constexpr):
    """A in float32, zero beyond n."""
    rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
    inside = (rows < n) & (columns < n)
    return tl.load(A + rows.to(tl.int64) * row_stride + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _inspected(A, ridge, n, symmetry, NP: tl.constexpr):
    """(status, e, U): what is wrong with A + ridge·I; 2^e·U ≥ λmax with U ≥ ½, from an A that is lifted to ½ and more.

    U is the smaller of row sum and Frobenius norm, both of them more than rounding takes away.
    """
    rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
    wrong = (A != A) | (tl.abs(A) == float("inf"))
    nonfinite = (tl.max(tl.max(wrong.to(tl.int32), 1), 0) > 0) | (ridge != ridge) | (tl.abs(ridge) == float("inf"))
    ridge = tl.where(nonfinite, 0.0, ridge)
    A = tl.where(wrong, 0.0, A)
    largest = tl.maximum(tl.max(tl.max(tl.abs(A), 1), 0), tl.abs(ridge))
    e = 1 + _exponent(tl.where(largest > 0, largest, 1.0))
    A = _lifted(A, -e)
    skew = _frobenius(A - tl.trans(A)) > symmetry * tl.sqrt(n.to(tl.float32)) * _frobenius(A)
    A = tl.abs(_symmetrized(A) + tl.where((rows == columns) & (rows < n), _lifted(ridge, -e), 0.0))
    U = tl.minimum(tl.max(tl.sum(A, 1), 0), _frobenius(A)) * ROOM
    status = tl.where(nonfinite, NONFINITE, tl.where(skew, ASYMMETRIC, tl.where(U > 0, 0, UNFINISHED)))
    return status, e, tl.where(U > 0, U, 1.0)


@triton.jit
def _shifted(A, ridge, e, usable, n, NP: tl.constexpr):
    """(S, ϱ): 2^-e·(A + ridge·I) = S + diag(ϱ), ϱ the rounding of S's diagonal, `(NP, 1)`.

    Identity beyond n, and everywhere for a matrix that is not `usable`: it is through at once.
    """
    rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
    eye = rows == columns
    S = _symmetrized(_lifted(A, -e))  # in this order: a sum may overflow
    shift = tl.where(eye & (rows < n), _lifted(ridge, -e), 0.0)
    total = S + shift
    # The two-sum of Knuth: the error of an addition is a number again.
    part = total - S
    rest = (S - (total - part)) + (shift - part)
    good = usable & (rows < n) & (columns < n)
    rest = tl.sum(tl.where(good & eye, rest, 0.0), 1)
    return tl.where(good, total, tl.where(eye, 1.0, 0.0)), rest[:, None]


@triton.jit
def _increment(Y, row, PRECISION: tl.constexpr, NP: tl.constexpr):
    """(a, R) with q(Y) = a·I + R, R = m₁·x + m₂·x², x = (Y − c)/h."""
    eye = tl.arange(0, NP)[:, None] == tl.arange(0, NP)[None, :]
    x = (Y - tl.where(eye, tl.load(row), 0.0)) * tl.load(row + 1)
    R, m = tl.load(row + 3) * x, tl.load(row + 4)
    if m != 0.0:
        s = tl.load(row + SCALE_X)
        R += m * _times(x, x, s, s, PRECISION)
    return tl.load(row + 2), R


@triton.jit
def _multiplied(X, a, R, row, first, PRECISION: tl.constexpr, NP: tl.constexpr):
    """X·q; in the `first` step, where X = I, that is no product."""
    if first:
        X = R + tl.where(tl.arange(0, NP)[:, None] == tl.arange(0, NP)[None, :], a, 0.0)
    else:
        X = a * X + _times(R, X, tl.load(row + SCALE_POWERS), tl.load(row + SCALE_ROOT), PRECISION)
    return X


@triton.jit
def _advanced(Y, a, R, row, P: tl.constexpr, SQUARES: tl.constexpr, PRECISION: tl.constexpr):
    """Y·q^p: q^(2^i) for i < SQUARES = ⌊log₂ p⌋ − 1 where p has that bit, then q^(2^SQUARES) twice or thrice.

    ⌊log₂ p⌋ + (ones in p) products, as many as forming q^p and multiplying Y by it.
    """
    m = tl.load(row + SCALE_Y)
    # A loop of its own, or the planes of all powers would be in shared memory at once.
    for i in range(SQUARES):
        r = tl.load(row + SCALE_POWERS + i)
        if (P >> i) & 1:
            Y = a * Y + _times(R, Y, r, m, PRECISION)
        R = 2.0 * a * R + _times(R, R, r, r, PRECISION)
        a = a * a
    r = tl.load(row + SCALE_POWERS + SQUARES)
    for _ in tl.static_range(P >> SQUARES):
        Y = a * Y + _times(R, Y, r, m, PRECISION)
    return _symmetrized(Y)


@triton.jit
def _iterated(
    Y, steps, width, slack, first, again, total, n, P: tl.constexpr, SQUARES: tl.constexpr,
    PRECISION: tl.constexpr, NP: tl.constexpr,
):  # fmt: skip
    """(X, finished, steps): the chain, and its last `again` steps again until it has finished, or `total` are taken.

    The test is ‖I − Y‖_F ≤ √n·width + slack after a whole step. Y is symmetric, so ‖I − Y‖_F² = Σ(1 − y_i)², and each
    |1 − y_i| is below what is accepted, ½ at most: a direction that is not finished (y near 0) adds 1, whatever the
    others do, and so does a negative one, which no step makes positive. All that have gone through the chain's
    intervals are within `width` of 1 and so accepted. What is not a number is not accepted, and not tried again.
    """
    rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
    eye = tl.where(rows == columns, 1.0, 0.0)
    X, t, stop, gap = eye, 0, first, 0.0
    accepted = tl.minimum(tl.sqrt(n.to(tl.float32)) * width + slack, 0.5)
    while t < stop:
        row = steps + t * COLUMNS
        a, R = _increment(Y, row, PRECISION, NP)
        X = _multiplied(X, a, R, row, t == 0, PRECISION, NP)
        Y = _advanced(Y, a, R, row, P, SQUARES, PRECISION)
        t += 1
        if t == stop:
            gap = _frobenius(tl.where((rows < n) & (columns < n), Y - eye, 0.0))
            if (gap > accepted) & (gap < float("inf")) & (stop < total):
                stop += again
    return _symmetrized(X), gap <= accepted, t


@triton.jit
def _largest(X, n, P: tl.constexpr, NP: tl.constexpr):
    """The largest eigenvalue of X^s = A^-1 from below: X² times X's largest column grows by that of X."""
    rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
    X = tl.where((rows < n) & (columns < n), X, 0.0)
    leading = tl.argmax(tl.sum(X * X, 0), 0)
    v = tl.sum(tl.where(columns == leading, X, 0.0), 1)
    v = v / tl.sqrt(tl.sum(v * v, 0))
    w = tl.sum(X * v[:, None], 0)
    w = w / tl.sqrt(tl.sum(w * w, 0))
    u = tl.sum(X * w[None, :], 1)
    growth = tl.sqrt(tl.sum(u * u, 0))
    power = growth
    for _ in tl.static_range(P - 1):
        power *= growth
    return power


@triton.jit
def _raised(X, n, POWER: tl.constexpr, CHECK: tl.constexpr):
    """X^q. The length of the loop is not known to the compiler, see `_judged`."""
    Z = X
    if POWER > 1:
        for _ in range((POWER - 1) * tl.minimum(n, 1)):
            Z = _times(X, Z, 1.0, 1.0, CHECK)
        Z = _symmetrized(Z)
    return Z


@triton.jit
def _judged(S, rest, X, Z, largest, n, P: tl.constexpr, POWER: tl.constexpr, CHECK: tl.constexpr, NP: tl.constexpr):
    """(estimated relative error of Z = X^q, ‖E‖_F/√n, ‖Z‖_F) with E = X^h·A·X^(s−h) − I, h = ⌊s/2⌋.

    An error δ of X that commutes with A makes E = s·X^-1·δ and moves Z by q·X^(q−1)·δ: its norm is √tr(EZEZ)·q/s. For
    s = q = 1 that holds without commuting. Beyond first order an error x of an eigencomponent lies between E/s and E:
    see iroot-solve's certificate. A^q takes no part in it, whose rounding would be κ^q.

    Where one direction leads, E is one number, and its own rounding may cancel it. That rounding is some 0.1·r of X,
    r = 2^-24·‖A‖_F/√n·λ/s, with λ the `largest` of X^s = A^-1, and an error beyond 0.6·r is seen by itself. So 0.6·r
    is added, by the share ‖Z‖₂/‖Z‖_F that the direction has of Z. 2^-24 more is for the storage of X.
    """
    rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
    inside = (rows < n) & (columns < n)
    size, root = _frobenius(tl.where(inside, Z, 0.0)), tl.sqrt(n.to(tl.float32))
    share = tl.exp2((POWER / P) * tl.log2(largest)) / size
    least = share * 0.6 * 2.0**-24 * _frobenius(tl.where(inside, S, 0.0)) / root * largest / P + 2.0**-24
    W = X
    for _ in range(P - P // 2 - 1):
        W = _times(X, W, 1.0, 1.0, CHECK)
    # Once; but the compiler does not know it. It keeps the planes of no more than two matrices for a loop, which is
    # what shared memory holds.
    for _ in range(tl.minimum(n, 1)):
        W = _times(S, W, 1.0, 1.0, CHECK) + rest * W
    for _ in range(P // 2):
        W = _times(X, W, 1.0, 1.0, CHECK)
    E = tl.where(inside, W - tl.where(rows == columns, 1.0, 0.0), 0.0)
    W = _times(E, Z, 1.0, 1.0, CHECK)
    relative = tl.sqrt(tl.abs(tl.sum(tl.sum(W * tl.trans(W), 1), 0))) / size
    error = relative * (1.0 + (P - 1.0) * tl.minimum(relative, 1.0)) / P
    return POWER * (error + least), _frobenius(E) / root, size


@triton.jit
def _written(Z, value, rows, columns, n, k, good):
    """Stores a tile; the largest of it, as stored."""
    inside = (rows < n) & (columns < k)
    stored = tl.where(good, value, float("nan")).to(Z.dtype.element_ty)
    tl.store(Z + rows.to(tl.int64) * k + columns, stored, mask=inside)
    return tl.max(tl.max(tl.where(inside & good, tl.abs(stored.to(tl.float32)), 0.0), 1), 0)


@triton.jit
def _applied(
    X, B, Z, factor, j, n, k, row_stride, good, TILE: tl.constexpr, CHECK: tl.constexpr, NP: tl.constexpr
):  # fmt: skip
    """Z = factor·2^-j·X·B by tiles of columns, each scaled by a power of two of its own.

    Returns:
        The largest of Z, whether B is finite, and ‖B‖_F/‖X·B‖_F with both over max|B|.
    """
    rows = tl.arange(0, NP)[:, None]
    largest, wrong, given, made, top = 0.0, 0, 0.0, 0.0, 0
    for begin in range(0, k, TILE):
        columns = begin + tl.arange(0, TILE)[None, :]
        inside = (rows < n) & (columns < k)
        V = tl.load(B + rows.to(tl.int64) * row_stride + columns, mask=inside, other=0.0).to(tl.float32)
        bad = tl.max(tl.max(((V != V) | (tl.abs(V) == float("inf"))).to(tl.int32), 1), 0)
        wrong |= bad
        V = tl.where(bad > 0, 0.0, V)
        size = tl.max(tl.max(tl.abs(V), 1), 0)
        scale = 1 + _exponent(tl.where(size > 0, size, 1.0))
        V = _lifted(V, -scale)
        W = _times(X, V, 1.0, 1.0, CHECK)
        # Sums of squares of all tiles in units of the largest one so far.
        if size > 0:
            unit = tl.where(made > 0, tl.maximum(top, scale), scale)
            given = _lifted(given, 2 * (top - unit)) + _lifted(tl.sum(tl.sum(V * V, 1), 0), 2 * (scale - unit))
            made = _lifted(made, 2 * (top - unit)) + _lifted(tl.sum(tl.sum(W * W, 1), 0), 2 * (scale - unit))
            top = unit
        found = _written(Z, _lifted(factor * W, scale - j), rows, columns, n, k, good & (bad == 0))
        largest = tl.maximum(largest, found)
    return largest, wrong, tl.sqrt(given / tl.where(made > 0, made, 1.0))


@triton.jit(do_not_specialize=["first", "again", "total", "n", "k", "a_batch", "a_row", "b_batch", "b_row"])
def small_root(
    A, B, Z, ridges, floats, ints, steps, places, ridge, width, slack, symmetry, first, again, total, n, k, a_batch,
    a_row, b_batch, b_row, RIDGES: tl.constexpr, RAGGED: tl.constexpr, COLUMNED: tl.constexpr, P: tl.constexpr,
    SQUARES: tl.constexpr, POWER: tl.constexpr, PRECISION: tl.constexpr, CHECK: tl.constexpr, TILE: tl.constexpr,
    NP: tl.constexpr,
):  # fmt: skip
    """Z = (A + ridge·I)^(-q/s), or times B, of one matrix per program; s = P, q = POWER.

    A is `(b, n, n)`, B `(b, n, k)`, Z like them and contiguous; or `RAGGED`, then `places` says of each matrix n, k
    and where its numbers begin. `floats` is `(b, 5)`: error, residual, ‖X‖_F‖B‖_F/(√n·‖Z‖_F), bound, λmin; `ints`
    `(b, 2)`: steps, status.
    `steps` holds `total` rows, after them 2^(-r/s) for r < s.
    """
    matrix = tl.program_id(0).to(tl.int64)
    if RAGGED:
        places += matrix * PLACES
        n, k = tl.load(places).to(tl.int32), tl.load(places + 1).to(tl.int32)
        A, B, Z = A + tl.load(places + 2), B + tl.load(places + 3), Z + tl.load(places + 4)
        a_row, b_row = n, k
    else:
        A, B, Z = A + matrix * a_batch, B + matrix * b_batch, Z + matrix * n * k
    if RIDGES:
        ridge = tl.load(ridges + matrix).to(tl.float32)
    values = _read(A, a_row, n, NP)
    status, e, U = _inspected(values, ridge, n, symmetry, NP)
    usable = status == 0
    bound = _lifted(U, e)
    e += 1 + _exponent(U)
    S, _ = _shifted(values, ridge, e, usable, n, NP)
    X, finished, taken = _iterated(S, steps, width, slack, first, again, total, n, P, SQUARES, PRECISION, NP)
    S, rest = _shifted(_read(A, a_row, n, NP), ridge, e, usable, n, NP)
    # A diverged X is not looked at.
    inverse = _largest(tl.where(usable & finished, X, 1.0), n, P, NP)
    R, X = X, _raised(X, n, POWER, CHECK)
    error, residual, size = _judged(S, rest, R, X, inverse, n, P, POWER, CHECK, NP)
    good = usable & finished & (error < float("inf"))
    status |= tl.where(good, 0, tl.where(usable, UNFINISHED, 0))
    # e·q = s·j + r with 0 ≤ r < s; division rounds towards 0, so it is kept positive.
    shifted = e * POWER + P * 4096
    j, factor = shifted // P - 4096, tl.load(steps + total * COLUMNS + shifted % P)
    if COLUMNED:
        largest, wrong, ratio = _applied(X, B, Z, factor, j, n, k, b_row, good, TILE, CHECK, NP)
        amplification = size * ratio / tl.sqrt(n.to(tl.float32))
        error *= tl.maximum(amplification, 1.0)
        status |= tl.where(wrong > 0, NONFINITE, 0)
        small = (largest > 0) & (largest < 2.0**-126)
    else:
        rows, columns = tl.arange(0, NP)[:, None], tl.arange(0, NP)[None, :]
        amplification = 1.0
        largest = _written(Z, _lifted(factor * X, -j), rows, columns, n, n, good)
        small = largest < 2.0**-126
    status |= tl.where(good & ((largest == float("inf")) | small), RANGE, 0)
    good &= (status & NONFINITE) == 0
    low = _lifted(1.0 / inverse, e)
    floats += REPORTED * matrix
    tl.store(floats, tl.where(good, error, float("inf")))
    tl.store(floats + 1, tl.where(good, residual, float("nan")))
    tl.store(floats + 2, tl.where(good, amplification, float("nan")))
    tl.store(floats + 3, tl.where(usable, bound, float("nan")))
    tl.store(floats + 4, tl.where(good, low, float("nan")))
    tl.store(ints + 2 * matrix, taken)
    tl.store(ints + 2 * matrix + 1, status)

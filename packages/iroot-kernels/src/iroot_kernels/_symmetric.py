"""The coupled iteration for the root as a list of symmetric products, each with all that is made of it (GPU).

All iterates are polynomials in one symmetric matrix, so they are symmetric and commute, and half of every product is
enough. A product P of two matrices held in 16-bit planes ends in up to three results α·P + β·C + δ·D + γ·I, written in
float32 and as planes for the next product; nothing else touches an n×n matrix between the first pass and the last. With
x = (y − c)/h and q(Y) = a·I + R (see `CoupledIteration`) R takes

    degree 1    R = m₁·x                                                                     no product
    degree 2    R = m₂·x² + m₁·x                                                             one
    degree 3    K = m₂·x² + m₁·x;   R = m₃·x·x² + K                                          two
    degree 4    L = m₄·x² + m₃·x,   K as above;   R = L·x² + K                               two
    degree 8    L = c₁·x² + c₂·x;   U = x²·L + c₃·x² + c₄·x,   V = x²·L + c₅·x²,
                K = ±(c₆·x²·L + b₂·x² + b₁·x);   R = ±U·V + K                                three

fp16 planes are scaled by powers of two that no number can outgrow: the steps bound every matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch

from iroot_kernels._chain import Chain
from iroot_kernels._polynomial import Polynomial
from iroot_kernels._precision import precision

SYMMETRIC_DEGREES = (1, 2, 3, 4, 8)
MOST_RESULTS = 3
# Planes in fp16 hold numbers below 2^13: what lies beyond the planned interval has room up to 2^16.
TOP_EXPONENT = 13
WHOLE, MIRRORED, PLANES = 1, 2, 4
# float32 slots: the two iterates; what is made on the way to R and beyond, and in the end the root, so that X before
# the last step stays; powers of q from here on.
Y_SLOT, X_SLOT, SCRATCH, POWER = range(4)
ROOT = SCRATCH


@dataclass(frozen=True)
class Result:
    """α·P + β·C + δ·D + γ·I.

    Attributes:
        factors: α, β, δ, γ.
        whole: float32 slot of its lower triangle; −1 for none.
        planes: Slot of its planes; −1 for none.
        scale: Power of two that the planes are multiplied by.
        mirrored: The upper triangle is written in float32, too.
    """

    factors: tuple[float, float, float, float]
    whole: int = -1
    planes: int = -1
    scale: float = 1.0
    mirrored: bool = False

    @property
    def flags(self) -> int:
        """What is written, in bits."""
        return WHOLE * (self.whole >= 0) | MIRRORED * self.mirrored | PLANES * (self.planes >= 0)


@dataclass(frozen=True)
class Job:
    """One product, of the planes in slots `left` and `right`; C and D are float32 slots, −1 for none."""

    left: int
    right: int
    C: int
    D: int
    results: tuple[Result, ...]

    @property
    def ints(self) -> list[int]:
        """As the kernels read it: operands, and what is written where."""
        row = [self.left, self.right, self.C, self.D]
        for result in self.results:
            row += [result.whole, result.planes, result.flags]
        return row + [0] * (3 * (MOST_RESULTS - len(self.results)))

    @property
    def floats(self) -> list[float]:
        """As the kernels read it: the factors and the scale of every result."""
        row = [number for result in self.results for number in (*result.factors, result.scale)]
        return row + [0.0] * (5 * (MOST_RESULTS - len(self.results)))


@dataclass(frozen=True)
class Launch:
    """`count` jobs from number `first` on, all of step `step`, which do not depend on one another and have up to
    `results` results."""

    first: int
    count: int
    results: int
    step: int


@dataclass(frozen=True)
class Program:
    """An iteration for the root, compiled.

    Attributes:
        jobs: The first one makes its results of A itself.
        launches: Of the others, in order.
        planes, wholes: Slots of each kind.
    """

    jobs: tuple[Job, ...]
    launches: tuple[Launch, ...]
    planes: int
    wholes: int

    @property
    def products(self) -> int:
        """n×n by n×n products."""
        return len(self.jobs) - 1


def has_form(q: Polynomial) -> bool:
    """Whether q is of a degree that is made of products here."""
    return q.degree in SYMMETRIC_DEGREES and (q.degree < 8 or q.factors is not None)


@lru_cache(maxsize=256)
def compiled(steps: tuple[Polynomial, ...], p: int, power: int, chain: Chain, name: str, upper: float) -> Program:
    """The program of an iteration whose Y starts at A and X at I.

    Args:
        steps: The polynomials.
        p: Y ← Y·q^p.
        power: X ← X·q^power.
        chain: Addition chain that ends at p.
        name: A precision with planes.
        upper: The spectrum of A lies in (0, upper].

    Raises:
        ValueError: No step, a degree that has no form here, or a precision without planes.
    """
    how = precision(name)
    if how.plane is None:
        raise ValueError(f"precision={name!r} has no planes")
    if not steps:
        raise ValueError("there are no steps")
    for q in steps:
        if not has_form(q):
            raise ValueError(f"degree {q.degree} is not one of {SYMMETRIC_DEGREES} (8 with factors)")
    return _Compiler(p, power, chain, how.plane is torch.float16).program(steps, upper)


@dataclass(frozen=True)
class _Matrix:
    """A polynomial in A, as it is held.

    Attributes:
        values: At the points of the grid.
        planes: Slot of planes that hold scale/factor times it; −1 for none.
        scale, factor: The two.
        whole: Slot of a float32 W with the matrix = stretch·W + shift·I; −1 for none.
        stretch, shift: The two.
    """

    values: Any
    planes: int = -1
    scale: float = 1.0
    factor: float = 1.0
    whole: int = -1
    stretch: float = 1.0
    shift: float = 0.0

    def times(self, m: float) -> _Matrix:
        """m times it, held the same way."""
        return replace(
            self, values=m * self.values, factor=m * self.factor, stretch=m * self.stretch, shift=m * self.shift
        )


NOTHING = _Matrix(0.0)
# Where values are taken, as shares of the upper end.
GRID = np.concatenate(([0.0], np.geomspace(1e-16, 1.0, 512), np.linspace(0.0, 1.0, 256)))


@dataclass(frozen=True)
class _Wanted:
    """α·P + β·C + δ·D + γ·I in planes, in a float32 slot (−1: not), that one mirrored."""

    alpha: float
    beta: float = 0.0
    delta: float = 0.0
    gamma: float = 0.0
    planes: bool = True
    whole: int = -1
    mirrored: bool = False


class _Compiler:
    """Steps to jobs. The values of all matrices on a grid bound them, and with them their planes."""

    def __init__(self, p: int, power: int, chain: Chain, scaled: bool) -> None:
        self.p, self.power, self.chain, self.scaled = p, power, tuple(chain), scaled
        self.jobs: list[Job] = []
        self.launches: list[Launch] = []
        self.slots, self.free = 0, list[int]()
        self.step = 0

    def program(self, steps: tuple[Polynomial, ...], upper: float) -> Program:
        """All steps in order."""
        first = steps[0]
        wanted = [
            _Wanted(1.0, whole=Y_SLOT, mirrored=True),
            _Wanted(1 / first.half_width, gamma=-first.center / first.half_width),
        ]
        if first.degree == 1:  # X = q(A) takes no product
            alpha, gamma, alone = first.monomials[1] / first.half_width, float(first(0.0)), len(steps) == 1
            wanted.append(self._root(alpha, 0.0, gamma, alone, self.power - 1))
        Y, x, *X = self._job(_Matrix(upper * GRID), _Matrix(1.0), NOTHING, NOTHING, *wanted)
        self.launches.clear()
        root = X[0] if X else None
        for number, (q, after) in enumerate(zip(steps, (*steps[1:], None), strict=True)):
            self.step = number
            root, Y, x = self._step(number, q, after, root, Y, self._as_x(q, x, Y))
        wholes = 1 + max(ROOT, *(result.whole for job in self.jobs for result in job.results))
        return Program(tuple(self.jobs), tuple(self.launches), self.slots, wholes)

    def _as_x(self, q: Polynomial, x: _Matrix, Y: _Matrix) -> _Matrix:
        """x = (Y − c)/h has planes of its own; its float32 is that of Y."""
        return replace(x, whole=Y.whole, stretch=1 / q.half_width, shift=-q.center / q.half_width)

    def _root(self, alpha: float, beta: float, gamma: float, last: bool, more: int) -> _Wanted:
        """X; in the `last` step beside the one before it. It will be multiplied `more` times in this step."""
        ends = last and not more
        return _Wanted(alpha, beta, gamma=gamma, planes=not ends, whole=ROOT if last else X_SLOT, mirrored=ends)

    def _step(
        self, number: int, q: Polynomial, after: Polynomial | None, X: _Matrix | None, Y: _Matrix, x: _Matrix
    ) -> tuple[_Matrix, _Matrix, _Matrix]:
        """X, Y and the next x after step `number` with q; `after` is the next one's, `None` for the last step."""
        a = q.monomials[0] if q.factors is None else q.factors[-1] * q.factors[-2]
        R, *made = self._increment(q, x, a if X is None else None, after is None)
        X = made[0] if made else X
        assert X is not None
        old, rest = [X], self.power - (number == 0)  # the first factor of the identity is no product
        for i in range(rest):
            X = self._job(R, X, X, NOTHING, self._root(1.0, a, 0.0, after is None, rest - 1 - i))[0]
            old.append(X)
        if after is None:
            return X, Y, x
        Y, x = self._update(a, R, Y, after, join=rest == 1)
        self._give(*old[:-1])  # what a joint launch reads is free only now
        return X, Y, x

    def _increment(self, q: Polynomial, x: _Matrix, a: float | None, last: bool) -> list[_Matrix]:
        """R, and X = a·I + R where `a` says that X begins here."""
        if q.factors is not None:
            return self._degree_eight(q, x, a, last)
        m = q.monomials
        if q.degree == 1:
            return [x.times(m[1])]
        if q.degree == 2:
            return self._final(x, x, x, m[2], m[1], a, last, x)
        square, K = _Wanted(1.0), _Wanted(m[2], m[1], planes=False, whole=SCRATCH)
        if q.degree == 3:
            x2, below = self._job(x, x, x, NOTHING, square, K)
            return self._final(x, x2, below, m[3], 1.0, a, last, x, x2)
        x2, L, below = self._job(x, x, x, NOTHING, square, _Wanted(m[4], m[3]), K)
        self._give(x)
        return self._final(L, x2, below, 1.0, 1.0, a, last, L, x2)

    def _degree_eight(self, q: Polynomial, x: _Matrix, a: float | None, last: bool) -> list[_Matrix]:
        """Three products; see `Polynomial.factors`."""
        assert q.factors is not None
        c1, c2, c3, c4, c5, c6, b2, b1, _, sign = q.factors
        x2, L = self._job(x, x, x, NOTHING, _Wanted(1.0, whole=SCRATCH), _Wanted(c1, c2))
        self._give(x)
        sums = (_Wanted(1.0, c3, c4), _Wanted(1.0, c5), _Wanted(sign * c6, sign * b2, sign * b1, 0.0, False, SCRATCH))
        U, V, K = self._job(x2, L, x2, x, *sums)
        self._give(x2, L)
        return self._final(U, V, K, sign, 1.0, a, last, U, V)

    def _final(
        self,
        left: _Matrix,
        right: _Matrix,
        C: _Matrix,
        alpha: float,
        beta: float,
        a: float | None,
        last: bool,
        *spent: _Matrix,
    ) -> list[_Matrix]:
        """R = α·left·right + β·C, in float32 only where a power of q needs it; then nobody needs `spent`."""
        ends = a is not None and last and self.power == 1
        powers = bool(self.chain[:-1]) and not last
        wanted = [] if ends else [_Wanted(alpha, beta, whole=SCRATCH if powers else -1)]
        if a is not None:
            wanted.append(self._root(alpha, beta, a, last, self.power - 1))
        made = self._job(left, right, C, NOTHING, *wanted)
        self._give(*spent)
        return [NOTHING, *made] if ends else made

    def _update(self, a: float, R: _Matrix, Y: _Matrix, after: Polynomial, join: bool) -> tuple[_Matrix, _Matrix]:
        """Y ← Y·q^p by the addition chain, and the x of the next step; the first job may `join` that of X."""
        links, ends = (self.chain[:-1], self.chain[-1]) if self.chain else ((), (1,))
        powers = {1: (a, R)}
        for number, (i, j) in enumerate(links, start=1):
            (b, S), (c, T) = powers[i], powers[j]
            whole = POWER + number - 1 if any(i + j in link for link in links) else -1
            powers[i + j] = b * c, self._job(S, T, S, T, _Wanted(1.0, c, b, whole=whole), join=join)[0]
            join = False
            later = {*ends, *(k for link in links[number:] for k in link)}
            for k in powers.keys() - later:
                self._give(powers.pop(k)[1])
        h, c = after.half_width, after.center
        for number, i in enumerate(ends, start=1):
            b, S = powers[i]
            if number < len(ends):
                H = self._job(S, Y, Y, NOTHING, _Wanted(1.0, b, whole=SCRATCH), join=join)[0]
                self._give(Y)
                Y, join = H, False
        wanted = _Wanted(1.0, b, whole=Y_SLOT, mirrored=True), _Wanted(1 / h, b / h, gamma=-c / h)
        made = self._job(S, Y, Y, NOTHING, *wanted, join=join)
        self._give(Y, *(held for _, held in powers.values()))
        return made[0], made[1]

    def _job(
        self, left: _Matrix, right: _Matrix, C: _Matrix, D: _Matrix, *wanted: _Wanted, join: bool = False
    ) -> list[_Matrix]:
        """A product and its results; with `join` in the launch of the one before."""
        made = [self._made(left, right, C, D, want) for want in wanted]
        # What is written over C or D comes last: the others read them first.
        results = sorted((result for _, result in made), key=lambda result: result.whole in {C.whole, D.whole} - {-1})
        self.jobs.append(Job(left.planes, right.planes, C.whole, D.whole, tuple(results)))
        if join:
            before = self.launches.pop()
            self.launches.append(Launch(before.first, before.count + 1, max(before.results, len(wanted)), self.step))
        else:
            self.launches.append(Launch(len(self.jobs) - 1, 1, len(wanted), self.step))
        return [matrix for matrix, _ in made]

    def _made(self, left: _Matrix, right: _Matrix, C: _Matrix, D: _Matrix, want: _Wanted) -> tuple[_Matrix, Result]:
        values = want.alpha * left.values * right.values + want.beta * C.values + want.delta * D.values + want.gamma
        scale = self._scale(float(np.abs(values).max())) if want.planes else 1.0
        slot = self._take() if want.planes else -1
        factors = (
            want.alpha * left.factor * right.factor / (left.scale * right.scale),
            want.beta * C.stretch,
            want.delta * D.stretch,
            want.gamma + want.beta * C.shift + want.delta * D.shift,
        )
        result = Result(factors, want.whole, slot, scale, want.mirrored)
        return _Matrix(values, slot, scale, whole=want.whole), result

    def _scale(self, bound: float) -> float:
        """The power of two that takes numbers up to `bound` below 2^13; 1 where planes have float32's range."""
        return 2.0 ** (TOP_EXPONENT - math.frexp(bound)[1]) if self.scaled and bound > 0 else 1.0

    def _take(self) -> int:
        if self.free:
            return heappop(self.free)
        self.slots += 1
        return self.slots - 1

    def _give(self, *matrices: _Matrix) -> None:
        """Their planes are free; several of them may be the same."""
        for slot in {matrix.planes for matrix in matrices} - {-1}:
            heappush(self.free, slot)

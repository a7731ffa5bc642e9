"""A schedule to the products of `_symmetric`: what each is made of, where it goes, how its planes are scaled."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache
from heapq import heappop, heappush
from typing import Any

import numpy as np
import torch

from iroot_kernels._chain import Chain
from iroot_kernels._polynomial import Polynomial
from iroot_kernels._symmetric import (
    POWER,
    ROOT,
    SCRATCH,
    SYMMETRIC_DEGREES,
    TOP_EXPONENT,
    X_COLUMNS,
    X_SLOT,
    Y_SLOT,
    Columns,
    Factor,
    Job,
    Launch,
    Program,
    Result,
    has_form,
    in_planes,
)


@lru_cache(maxsize=256)
def compiled(
    steps: tuple[Polynomial, ...],
    p: int,
    power: int,
    chain: Chain,
    name: str,
    upper: float,
    coarse: int = 0,
    columns: Columns | None = None,
) -> Program:
    """The program of an iteration whose Y starts at A and X at I, or at B.

    Args:
        steps: The polynomials.
        p: Y ← Y·q^p.
        power: X ← X·q^power.
        chain: Addition chain that ends at p.
        name: A precision with planes.
        upper: The spectrum of A lies in (0, upper].
        coarse: How many of the last steps read high planes only.
        columns: How to act on B; `None` for the root.

    Raises:
        ValueError: No step, a degree that has no form here, or a precision without planes.
    """
    how = in_planes(name)
    if how.plane is None:
        raise ValueError(f"precision={name!r} has no planes")
    if not steps:
        raise ValueError("there are no steps")
    recurs = columns is not None and columns.recurrence
    for q in steps[:-1] if recurs else steps:
        if not has_form(q):
            raise ValueError(f"degree {q.degree} is not one of {SYMMETRIC_DEGREES} (8 with factors)")
    fine = len(steps) - coarse if how.planes == 2 else 0
    scaled = how.plane is torch.float16
    if columns is None:
        return _Compiler(p, power, chain, scaled, fine).program(steps, upper)
    return _OnColumns(p, power, chain, scaled, fine, columns).program(steps, upper)


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


@dataclass
class _Slots:
    """Where planes are held; the lowest one that is free is taken. What is `kept` is never free again."""

    count: int = 0
    free: list[int] = field(default_factory=list)
    kept: set[int] = field(default_factory=set)

    def take(self) -> int:
        """One for new planes."""
        if self.free:
            return heappop(self.free)
        self.count += 1
        return self.count - 1

    def give(self, *matrices: _Matrix) -> None:
        """Their planes are free; several of them may be the same."""
        for slot in {matrix.planes for matrix in matrices} - {-1} - self.kept:
            heappush(self.free, slot)


class _Compiler:
    """Steps to jobs. The values of all matrices on a grid bound them, and with them their planes."""

    def __init__(self, p: int, power: int, chain: Chain, scaled: bool, fine: int) -> None:
        self.p, self.power, self.chain, self.scaled = p, power, tuple(chain), scaled
        self.fine = fine  # steps from this one on read high planes only
        self.jobs: list[Job] = []
        self.launches: list[Launch] = []
        self.slots = _Slots()
        self.step = 0

    def program(self, steps: tuple[Polynomial, ...], upper: float) -> Program:
        """All steps in order."""
        X, Y, x = self._begin(steps, upper)
        self.launches.clear()
        for number, (q, after) in enumerate(zip(steps, (*steps[1:], None), strict=True)):
            self.step = number
            X, Y, x = self._step(number, q, after, X, Y, self._as_x(q, x, Y))
        return self._made_of()

    def _begin(self, steps: tuple[Polynomial, ...], upper: float) -> tuple[_Matrix | None, _Matrix, _Matrix]:
        """X (`None`: the identity), Y and the first x, of A."""
        first = steps[0]
        wanted = [_Wanted(1.0, whole=Y_SLOT, mirrored=True), self._next_x(first)]
        if first.degree == 1:  # X = q(A) takes no product
            alpha, gamma, alone = first.monomials[1] / first.half_width, float(first(0.0)), len(steps) == 1
            wanted.append(self._root(alpha, 0.0, gamma, alone, self.power - 1))
        Y, x, *X = self._job(_Matrix(upper * GRID), _Matrix(1.0), NOTHING, NOTHING, *wanted)
        return X[0] if X else None, Y, x

    def _made_of(self) -> Program:
        wholes = 1 + max(ROOT, *(result.whole for job in self.jobs for result in job.results))
        return Program(tuple(self.jobs), tuple(self.launches), self.slots.count, wholes)

    def _next_x(self, q: Polynomial, b: float = 0.0) -> _Wanted:
        """(P + b·C − c·I)/h, what q is a polynomial in."""
        return _Wanted(1 / q.half_width, b / q.half_width, gamma=-q.center / q.half_width)

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
        self.slots.give(*old[:-1])  # what a joint launch reads is free only now
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
        self.slots.give(x)
        return self._final(L, x2, below, 1.0, 1.0, a, last, L, x2)

    def _degree_eight(self, q: Polynomial, x: _Matrix, a: float | None, last: bool) -> list[_Matrix]:
        """Three products; see `Polynomial.factors`."""
        assert q.factors is not None
        c1, c2, c3, c4, c5, c6, b2, b1, _, sign = q.factors
        x2, L = self._job(x, x, x, NOTHING, _Wanted(1.0, whole=SCRATCH), _Wanted(c1, c2))
        self.slots.give(x)
        sums = (_Wanted(1.0, c3, c4), _Wanted(1.0, c5), _Wanted(sign * c6, sign * b2, sign * b1, 0.0, False, SCRATCH))
        U, V, K = self._job(x2, L, x2, x, *sums)
        self.slots.give(x2, L)
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
        self.slots.give(*spent)
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
                self.slots.give(powers.pop(k)[1])
        for number, i in enumerate(ends, start=1):
            b, S = powers[i]
            if number < len(ends):
                H = self._job(S, Y, Y, NOTHING, _Wanted(1.0, b, whole=SCRATCH), join=join)[0]
                self.slots.give(Y)
                Y, join = H, False
        wanted = _Wanted(1.0, b, whole=Y_SLOT, mirrored=True), self._next_x(after, b)
        made = self._job(S, Y, Y, NOTHING, *wanted, join=join)
        self.slots.give(Y, *(held for _, held in powers.values()))
        return made[0], made[1]

    def _job(
        self, left: _Matrix, right: _Matrix, C: _Matrix, D: _Matrix, *wanted: _Wanted, join: bool = False
    ) -> list[_Matrix]:
        """A product and its results; with `join` in the launch of the one before."""
        made = [self._made(left, right, C, D, want, self.slots) for want in wanted]
        # What is written over C or D comes last: the others read them first.
        results = sorted((result for _, result in made), key=lambda result: result.whole in {C.whole, D.whole} - {-1})
        self.jobs.append(Job(left.planes, right.planes, C.whole, D.whole, tuple(results)))
        launch = Launch(len(self.jobs) - 1, 1, len(wanted), self.step, self._coarse)
        if join:
            before = self.launches.pop()
            launch = replace(before, count=before.count + 1, results=max(before.results, len(wanted)))
        self.launches.append(launch)
        return [matrix for matrix, _ in made]

    @property
    def _coarse(self) -> bool:
        return self.step >= self.fine

    def _made(
        self, left: _Matrix, right: _Matrix, C: _Matrix, D: _Matrix, want: _Wanted, slots: _Slots, room: int = 0
    ) -> tuple[_Matrix, Result]:
        """A result; 2^room is how much larger than the norm of the polynomial an entry may be."""
        values = want.alpha * left.values * right.values + want.beta * C.values + want.delta * D.values + want.gamma
        scale = self._scale(math.ldexp(float(np.abs(values).max()), room)) if want.planes else 1.0
        slot = slots.take() if want.planes else -1
        factors = (
            want.alpha * left.factor * right.factor / (left.scale * right.scale),
            want.beta * C.stretch,
            want.delta * D.stretch,
            want.gamma + want.beta * C.shift + want.delta * D.shift,
        )
        # What is made in a coarse step is read in such steps only.
        result = Result(factors, want.whole, slot, scale, want.mirrored, not self._coarse)
        return _Matrix(values, slot, scale, whole=want.whole), result

    def _scale(self, bound: float) -> float:
        """The power of two that takes numbers up to `bound` below 2^13; 1 where planes have float32's range."""
        return 2.0 ** (TOP_EXPONENT - math.frexp(bound)[1]) if self.scaled and bound > 0 else 1.0


class _OnColumns(_Compiler):
    """X begins as B and stays thin; the R are kept, to be applied to other columns."""

    def __init__(self, p: int, power: int, chain: Chain, scaled: bool, fine: int, columns: Columns) -> None:
        super().__init__(p, power, chain, scaled, fine)
        self.columns, self.thin = columns, _Slots()
        self.factors: list[Factor] = []

    def _begin(self, steps: tuple[Polynomial, ...], upper: float) -> tuple[_Matrix | None, _Matrix, _Matrix]:
        first = steps[0]
        wanted = _Wanted(1.0, whole=Y_SLOT, mirrored=True), self._next_x(first)
        Y, x = self._job(_Matrix(upper * GRID), _Matrix(1.0), NOTHING, NOTHING, *wanted)
        X = self._thin(_Matrix(np.ones_like(Y.values)), _Matrix(1.0), NOTHING, NOTHING, _Wanted(1.0, whole=X_COLUMNS))
        return X, Y, x

    def _made_of(self) -> Program:
        thin = [self.jobs[1], *(self.jobs[launch.first] for launch in self.launches if launch.thin)]
        wholes = 1 + max(result.whole for job in thin for result in job.results)
        return replace(super()._made_of(), thin_planes=self.thin.count, thin_wholes=wholes, factors=tuple(self.factors))

    def _step(
        self, number: int, q: Polynomial, after: Polynomial | None, X: _Matrix | None, Y: _Matrix, x: _Matrix
    ) -> tuple[_Matrix, _Matrix, _Matrix]:
        assert X is not None
        if after is None and self.columns.recurrence:
            for i in range(self.power):
                X = self._recurrence(q, x, X, last=i == self.power - 1)
            self.factors.append(Factor(0.0, x.planes, x.factor / x.scale, self._coarse, q))
            return X, Y, x
        a = q.monomials[0] if q.factors is None else q.factors[-1] * q.factors[-2]
        R = self._increment(q, x, None, after is None)[0]
        self.slots.kept.add(R.planes)
        self.factors.append(Factor(a, R.planes, R.factor / R.scale, self._coarse))
        for i in range(self.power):
            ends = after is None and i == self.power - 1
            X = self._thin(X, R, X, NOTHING, _Wanted(1.0, a, whole=X_COLUMNS, planes=not ends))
        if after is None:
            return X, Y, x
        Y, x = self._update(a, R, Y, after, join=False)
        return X, Y, x

    def _recurrence(self, q: Polynomial, x: _Matrix, X: _Matrix, last: bool) -> _Matrix:
        """q(Y)·X by Clenshaw; b_i takes the place of b_{i+2}."""
        *t, top = q.chebyshev
        b, older = X.times(top), NOTHING
        for i in reversed(range(len(t))):
            whole, factor = (1 + i % 2, 2.0) if i else (X_COLUMNS, 1.0)
            delta = 0.0 if older is NOTHING else -1.0
            wanted = _Wanted(factor, t[i], delta, planes=i > 0 or not last, whole=whole)
            made = self._thin(b, x, X, older, wanted, spent=b.planes != X.planes)
            b, older = made, b
        self.thin.give(X)
        return b

    def _thin(
        self, left: _Matrix, right: _Matrix, C: _Matrix, D: _Matrix, want: _Wanted, spent: bool = True
    ) -> _Matrix:
        """A product of a thin matrix, as its transpose, with a symmetric one; then `left` may be `spent`."""
        matrix, result = self._made(left, right, C, D, want, self.thin, self.columns.room)
        self.jobs.append(Job(left.planes, right.planes, C.whole, D.whole, (result,)))
        self.launches.append(Launch(len(self.jobs) - 1, 1, 1, self.step, self._coarse, thin=True))
        if spent:
            self.thin.give(left)
        return matrix

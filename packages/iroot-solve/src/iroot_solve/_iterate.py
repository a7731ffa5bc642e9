"""A^α by the coupled iteration: the root form, or acting on B with the factors kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from iroot_coeffs import Schedule, Step, addition_chain
from iroot_kernels import (
    CoupledIteration,
    Products,
    SymmetricRoot,
    Workspace,
    apply_polynomial,
    has_form,
    plus_transpose,
)
from iroot_precond import ritz_extremes
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._certificate import Action, Power, Root
from iroot_solve._choose import on_grid
from iroot_solve._cost import chunk
from iroot_solve._formed_root import root_action, root_again, root_parts, root_times
from iroot_solve._outcome import Outcome
from iroot_solve._scales import norm
from iroot_solve._thin import thin

RESUME_STEPS = 12
COARSE_ROUNDOFF = 2.0**-11
Resume = Callable[[Any], "Outcome | None"]


@dataclass(frozen=True)
class Iteration:
    """One coupled iteration to run.

    Attributes:
        S: `(b, n, n)` in the storage dtype of `precision`.
        B: `(b, n, k)` in the same dtype, or `None` for the root.
        schedule: The steps; its exponent says what X starts from and how often each q is applied.
        direct: Act on B and keep the factors, instead of forming the root.
        precision: Of the products.
        ws: Buffers.
        tol: Of the result; more steps are due where the last one leaves more than half of it.
        replan: Lower and upper end of a spectrum ↦ a schedule for it.
        symmetric: By symmetric products, if the steps have a form in them.
        coarse: How many of the last steps of these read one plane.
        reduced: The precision is less than was asked for, because it was predicted to be enough.
        wide: How many of the first steps are taken in float64, and S in it; the others by symmetric products.
    """

    S: Tensor
    B: Tensor | None
    schedule: Schedule
    direct: bool
    precision: str
    ws: Workspace
    tol: float
    replan: Callable[[float, float], Schedule]
    symmetric: bool = False
    coarse: int = 0
    reduced: bool = False
    wide: tuple[int, Tensor] | None = None

    def run(self) -> Outcome:
        """All steps of the schedule."""
        products = Products(self.precision)
        if self.wide is not None:
            return self._after_wide_steps(*self.wide, products)
        if self.direct and self._is_symmetric(self.schedule):
            root = self._symmetric_root(self.schedule, products)
            root(self.S, self.B)
            return self._outcome(root, self._direct_action(root), root.X, _Work(), None, root.Y)
        if self.direct:
            state = self._start(self.S, self._on(self.B), products)
            self._take(state, self.schedule)
            return self._outcome(state, self._direct_action(state), state.X, _Work(), self._resume_direct, state.Y)
        return self._root(self.S, None, self.schedule, products, self._resume_root)

    def _root(
        self, S: Tensor, start: Tensor | None, schedule: Schedule, products: Products, resume: Resume | None
    ) -> Outcome:
        """The root, chunk by chunk; Y and X before the last step are kept for `resume`."""
        X, before = self.ws.like("root", S), _Work.of(products)
        symmetric = start is None and self._is_symmetric(schedule)
        if symmetric:
            state: CoupledIteration | SymmetricRoot = self._by_symmetric_products(S, schedule, products, X)
        else:
            state = self._by_full_products(S, schedule, products, X, resume is not None, start)
        Y = self._before(state)[0]
        size, end = norm(X), schedule.steps[-1]
        Z = root_times(X, self.B, self.ws)
        outcome = self._outcome(state, root_action(X, self.ws), Z, before, resume, Y, size, end)
        if schedule.exponent < 0:
            again = partial(root_again, X, size, self.precision, str(outcome.schedule), self.reduced)
            outcome.again, outcome.holds = again, (X,)
        return outcome

    def _after_wide_steps(self, count: int, S: Tensor, products: Products) -> Outcome:
        """The root: A^(-q/s) = Y^(-q/s)·X for Y = A·X^s, X^power after `count` steps, this product in float64, too.

        What is wrong with it is wrong with Y^(-q/s), and that is what the certificate looks at.
        """
        begun, schedule = self._start(S, None, Products("fp64")), self.schedule
        for step in schedule.steps[:count]:
            begun.step(polynomial(step))
        assert begun.X is not None
        Y = self.ws.like("after wide steps", self.S).copy_(begun.Y)
        state = self._symmetric_root(replace(schedule, steps=schedule.steps[count:]), products)
        rest = self.ws.like("wide rest", S).copy_(state(Y))
        root = begun.products(rest, begun.X, out=self.ws.like("wide root", S))
        X = self.ws.like("root", self.S).copy_(plus_transpose(root, begun.Y).mul_(0.5))
        products.square += begun.products.square
        Z, size, parts = root_times(X, self.B, self.ws), norm(X), (rest, begun.X) if schedule.p > 1 else ()
        outcome = self._outcome(state, root_action(X, self.ws), Z, _Work(), None, state.Y, size, schedule.steps[-1])
        assert outcome.root is not None
        outcome.root = replace(outcome.root, parts=root_parts(parts, self.ws))
        outcome.backend, outcome.steps = f"{outcome.backend}, the first {count} in float64", len(schedule)
        outcome.again = partial(root_again, X, size, self.precision, str(schedule), self.reduced, parts=parts)
        outcome.holds = (X, *parts)
        return outcome

    def _by_full_products(
        self, S: Tensor, schedule: Schedule, products: Products, X: Tensor, keep: bool, start: Tensor | None
    ) -> CoupledIteration:
        """All steps into X, chunk by chunk; with `keep`, X before the last one stays, as Y does."""
        *body, end = [polynomial(step) for step in schedule]
        for first in range(0, S.shape[0], self._chunk()):
            part = slice(first, first + self._chunk())
            state = self._start(S[part], self._on(None, part) if start is None else start[part], products)
            for q in body:
                state.step(q)
            self._keep(part, state.Y, state.X if keep else None)
            state.step(end, last=True)
            assert state.X is not None
            plus_transpose(state.X, X[part]).mul_(0.5)
        return state

    def _by_symmetric_products(self, S: Tensor, schedule: Schedule, products: Products, X: Tensor) -> SymmetricRoot:
        """The same on a device; the iterates before the last step stay where they are."""
        state = self._symmetric_root(schedule, products)
        X.copy_(state(S))
        return state

    def _before(self, state: CoupledIteration | SymmetricRoot) -> tuple[Tensor, Callable[[], Tensor]]:
        """(Y, what makes X) before the last step."""
        if isinstance(state, SymmetricRoot):
            assert state.Y is not None
            return state.Y, state.before
        return self.ws.like("Y before", self.S), partial(self.ws.like, "X before", self.S)

    def _symmetric_root(self, schedule: Schedule, products: Products) -> SymmetricRoot:
        p = schedule.p
        return SymmetricRoot(
            [polynomial(step) for step in schedule],
            p=p,
            power=schedule.power,
            chain=addition_chain(p),
            upper=schedule.steps[0].hi,
            precision=products,
            coarse=min(self.coarse, len(schedule)),
            workspace=self.ws,
        )

    def _is_symmetric(self, schedule: Schedule) -> bool:
        """Whether the steps are taken by symmetric products; acting on B the last one needs no form."""
        if not self.symmetric or schedule.exponent > 0:
            return False
        body = schedule.steps[:-1] if self.direct else schedule.steps
        return all(has_form(polynomial(step)) for step in body)

    def _backend(self, state: CoupledIteration | SymmetricRoot) -> str:
        """What computed the products, and why."""
        if isinstance(state, SymmetricRoot):
            fewer = f", one plane in the last {self.coarse} steps" if self.coarse else ""
            return f"triton: symmetric products{fewer}"
        if self.S.device.type == "cpu":
            return "torch: on a CPU"
        why = "a step has no form in symmetric products" if self.symmetric else "no symmetric products for this"
        return f"torch: {why}"

    def _keep(self, part: slice, Y: Tensor, X: Tensor | None) -> None:
        """The iterates before the last step, for `resume`."""
        self.ws.like("Y before", self.S)[part].copy_(Y)
        if X is not None:
            self.ws.like("X before", self.S)[part].copy_(X)

    def _chunk(self) -> int:
        """Matrices whose iterates fit into the cache together."""
        if self.S.device.type != "cpu" or self.schedule.exponent > 0:
            return self.S.shape[0]
        return chunk(self.S.shape[-1], self.S.element_size())

    def _on(self, B: Tensor | None, part: slice = slice(None)) -> Tensor | None:
        """What X starts from: I (as None) or B; for a positive exponent A or A·B."""
        if self.schedule.exponent < 0:
            return B
        return self.S[part] if B is None else torch.bmm(self.S[part], B)

    def _start(self, S: Tensor, start: Tensor | None, products: Products) -> CoupledIteration:
        return CoupledIteration(
            S,
            start,
            p=self.schedule.p,
            power=self.schedule.power,
            chain=addition_chain(self.schedule.p),
            precision=products,
            workspace=self.ws,
            keep=self.direct,
        )

    def _take(self, state: CoupledIteration, schedule: Schedule) -> None:
        """Every step on B; the last by Clenshaw where that is cheaper."""
        *body, end = schedule
        for step in body:
            state.step(polynomial(step))
        assert state.X is not None
        columns = state.X.shape[-1]
        if schedule.terminal_is_skinny(columns / self.S.shape[-1]):
            state.finish(polynomial(end))
        else:
            state.step(polynomial(end), last=True)

    def _direct_action(self, state: CoupledIteration | SymmetricRoot) -> Power:
        def power(j: int, V: Tensor) -> Tensor:
            for i in range(j):
                V = V if self.schedule.exponent < 0 else torch.bmm(self.S.to(V.dtype), V)
                V = state.apply(V, f"certificate{i % 2}")
            return V if j == 0 else V.clone()

        return power

    def _drift(self, state: CoupledIteration | SymmetricRoot) -> Action:
        """W ↦ (1 − q/s)·(Y·q(Y)^s − I)·W with the last step's q, which was not applied to Y: the truncation error.

        W = A·X^(s−q) tends to A^(q/s) as Y = A·X^s tends to I.
        """
        q, last, exact = state.last, state.Y, Products("fp64")
        assert q is not None and last is not None

        def drift(W: Tensor) -> Tensor:
            Y = self.ws.buffer("wide Y", last.shape, W.dtype, W.device).copy_(last)
            U = torch.bmm(Y, W)
            for i in range(self.schedule.p):
                U = apply_polynomial(q, Y, U, exact, self.ws, f"drift{i % 2}")
            return (U - W) * (state.power / self.schedule.p)

        return drift

    def _outcome(
        self,
        state: CoupledIteration | SymmetricRoot,
        power: Power,
        Z: Tensor | None,
        before: _Work,
        resume: Resume | None,
        Y: Tensor | None,
        size: Tensor | None = None,
        end: Step | None = None,
    ) -> Outcome:
        """The outcome, with the work done since `before`.

        Args:
            state: After the last step.
            power: The action of X.
            Z: The answer.
            before: Work that was done by others.
            resume: For more steps.
            Y: That before the last step.
            size: ‖X‖_F.
            end: The last step, where it is another than the schedule's.
        """
        assert Z is not None and state.last is not None
        done = _Work.of(state.products)
        return Outcome(
            Z=Z,
            root=Root(
                power,
                self._roundoff(state) if self.direct else torch.finfo(self.S.dtype).eps / 2,
                ends=not self.direct,
                norm=size,
                drift=self._drift(state) if self.schedule.exponent > 0 else None,
            ),
            judge=torch.float64,
            strategy="direct-solve" if self.direct else "materialize-root",
            precision=self.precision,
            schedule=self.schedule,
            steps=state.steps,
            products={"square": done.square - before.square, "columns": done.columns - before.columns},
            resume=None if resume is None else lambda: resume(state),
            iterate=Y,
            end=self.schedule.steps[-1] if end is None else end,
            backend=self._backend(state),
            reduced=self.reduced,
        )

    def _roundoff(self, state: CoupledIteration | SymmetricRoot) -> float:
        """Of what was applied to B. A coarse last step reads X in 11 bits, and rounds q(Y)·X less a·X by that much."""
        assert state.last is not None
        if not self.coarse:
            return state.products.how.unit_roundoff
        q, x = state.last, np.linspace(-1.0, 1.0, 129)
        increment = float(np.abs(q(q.center + q.half_width * x) - q.monomials[0]).max())
        return state.products.how.unit_roundoff + COARSE_ROUNDOFF * increment

    def _resume_root(self, state: CoupledIteration | SymmetricRoot) -> Outcome | None:
        """More steps from Y and X before the last one."""
        alone = len(self.schedule) == 1
        Y, X = self._before(state)
        Y = self.S if alone else Y
        rest = self._rest(Y)
        if rest is None:
            return None
        start = None if alone else X()
        outcome = self._root(Y, start, rest, state.products, None)
        outcome.schedule = Extended(len(self.schedule) - 1, rest)
        return outcome

    def _resume_direct(self, state: CoupledIteration) -> Outcome | None:
        """More steps on B: the last step did not touch Y, and only its X is lost."""
        rest = self._rest(state.Y)
        if rest is None:
            return None
        before = _Work.of(state.products)
        state.undo_last()
        self._take(state, rest)
        action, end = self._direct_action(state), rest.steps[-1]
        outcome = self._outcome(state, action, state.X, before, None, state.Y, end=end)
        outcome.schedule, outcome.steps = Extended(len(self.schedule) - 1, rest), len(rest)
        return outcome

    def _rest(self, Y: Tensor) -> Schedule | None:
        """The plan for Y before the last step, where its spectrum leaves the planned interval.

        `None` where the last step's q serves the spectrum that is there: then more steps would not help.
        """
        low, high, beta = ritz_extremes(lambda V: thin(Y, V), Y, RESUME_STEPS)
        smallest, largest, bound = torch.stack((low.amin(), high.amax(), (high + beta).amax())).tolist()
        if not (0 < smallest <= largest < math.inf) or not self._unfinished((smallest, largest)):
            return None
        # Ritz values lie inside the spectrum: twice as far from 1, or half as large.
        return self.replan(*on_grid(max(smallest / 2, 2 * smallest - 1), max(bound, self.schedule.steps[-1].hi)))

    def _unfinished(self, eigenvalues: tuple[float, ...]) -> bool:
        """Whether the last step leaves an eigenvalue of Y with a truncation error above tol/2."""
        end, p = self.schedule.steps[-1], self.schedule.p
        return any(abs(float(end(y)) * y ** (1 / p) - 1) > self.tol / 2 for y in eigenvalues)


@dataclass(frozen=True)
class _Work:
    """Work done so far."""

    square: int = 0
    columns: int = 0

    @classmethod
    def of(cls, products: Products) -> _Work:
        return cls(products.square, products.columns)


@dataclass(frozen=True)
class Extended:
    """A schedule of which the first `taken` steps were followed by another one, planned on the iterate."""

    taken: int
    rest: Schedule

    def __str__(self) -> str:
        return f"{self.taken} steps, then from the iterate {self.rest}"

"""One scaled problem: run a strategy on it, certify the outcome, give Z back in the caller's units."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from iroot_coeffs import Schedule, Step
from iroot_kernels import multiplication, precision, quadratics, symmetric_products
from iroot_precond import ritz_extremes
from torch import Tensor

from iroot_solve._certificate import Array, Certificate, Matrix, PlainMatrix, appraise, measure, namespace, put
from iroot_solve._cholesky import run_cholesky
from iroot_solve._choose import factoring_is_looking, hybrid_steps, steps_for
from iroot_solve._completeness import COMPLETENESS_SEED, unfinished
from iroot_solve._config import PrecondConfig
from iroot_solve._doubled import DoubledMatrix
from iroot_solve._eigh import run_eigh
from iroot_solve._hybrid import HybridSchedule, correct, correct_on_columns
from iroot_solve._iterate import Iteration
from iroot_solve._lanczos import run_lanczos, times
from iroot_solve._matrix import ScaledMatrix
from iroot_solve._options import Options
from iroot_solve._outcome import Outcome
from iroot_solve._problem import Problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._scales import lost, magnitude
from iroot_solve._sums import (
    cayley_fixed,
    chebyshev_fixed,
    run_cayley,
    run_chebyshev,
    stored,
)
from iroot_solve._sums_by_planes import Span, by_planes, checked_by_planes, fixed_by_planes
from iroot_solve._sums_checked import cayley_checked, chebyshev_checked
from iroot_solve._task import SUMS, Candidate, Task

SIGN_STEPS = 16
# λmax over its Lanczos bound: 1.2–1.3 was seen.
LANCZOS_SHARE = 0.7
# Devices that there is a table of times for.
MEASURED = ("cpu", "cuda")


@dataclass(frozen=True)
class Facts:
    """What was read, `(b,)` each: bound, Ritz values (`None`: nobody looked), ridge of the scaled matrices, their
    exponents, symmetry defects, sizes of B."""

    upper: Array
    defect: Array
    right: Array
    ridge: Array
    exponent: Array
    low: Array | None = None
    high: Array | None = None


class Verdict(NamedTuple):
    """The certificate of an outcome, and the ends of the scaled spectrum where it found them (NaN: not)."""

    certificate: Certificate
    low: Any
    high: Any


def host(values: Tensor) -> Array:
    """The numbers on the host; waits for the device."""
    array: Array = values.cpu().numpy()
    return array


class Case:
    """A problem, scaled.

    Args:
        problem: What was passed (or the part of it that still needs an answer).
        options: The call's settings.
        ws: Buffers.

    Attributes:
        matrix: A_s and its bounds.
        ends: Estimates of λmin from above and λmax from below (Ritz values), `None` where nobody looked.
        factored: They come from a Cholesky factorisation: within a factor of two.
        kappa: The likely condition number, once it is known.
        least_share: Of `matrix.upper`, λmax is this or more.
    """

    def __init__(self, problem: Problem, options: Options, ws: SolveWorkspace) -> None:
        self.problem, self.options, self.ws = problem, options, ws
        self.matrix = ScaledMatrix(problem, options.damping, options.precond, ws, options.seed)
        self.ends: tuple[Tensor, Tensor] | None = None
        self.factored = False
        self.kappa: float | None = None
        self.least_share = 0.5
        self._right: dict[torch.dtype, Tensor] = {}
        self._exponents: Array | None = None

    def right(self, dtype: torch.dtype) -> Tensor | None:
        """B·2^-f with entries at most 1 (and D·B where a congruence was applied); `None` for the root."""
        B = self.problem.B
        if B is None or dtype in self._right:
            return self._right.get(dtype)
        buffer = self.ws.buffer(f"B {dtype}", B.shape, dtype, B.device)
        if dtype is torch.float32 and B.dtype is torch.float64:
            wide = self.right(torch.float64)
            assert wide is not None
            return self._right.setdefault(dtype, buffer.copy_(wide))
        torch.mul(B, self.matrix.scales.of_right(dtype), out=buffer)
        if self.matrix.scale is not None:
            buffer.mul_(self.matrix.scale.d.unsqueeze(-1))
        return self._right.setdefault(dtype, buffer)

    def look(self) -> None:
        """Bound and estimate the ends of the spectrum."""
        device, free = self.problem.A.device.type, self.options.strategy == "auto" and not self.options.blind
        if device != "cpu" and (self.options.blind or self._is_promised()):
            # The lower end is promised, and the upper one takes few calls and no numbers from the host.
            self.least_share = self.matrix.bound_by_power()
            if self.options.precond != PrecondConfig(ridge_rel=self.options.precond.ridge_rel):
                self.matrix.tighten()
            if self.options.blind:
                self._normalise()
            return
        self.matrix.tighten()
        if self.options.look == "none":
            return
        self.factored = self.options.look == "cholesky"
        if self.options.look == "auto":
            self.factored = free and device in MEASURED and factoring_is_looking(self.task)
        self.ends = self.matrix.factor_ends() if self.factored else self.matrix.ritz()
        if self.options.abc_t is not None or self.options.blind:
            # Steps made for [l, 1], or a plan that nothing is read for.
            self.least_share = LANCZOS_SHARE
            shift = self._normalise()
            self.ends = torch.ldexp(self.ends[0], -shift), torch.ldexp(self.ends[1], -shift)

    def _normalise(self) -> Tensor:
        """`ScaledMatrix.normalise`; wholly where nobody has made steps for it and float64 is there to judge."""
        return self.matrix.normalise(self.options.blind and self.problem.storage is torch.float32)

    def _is_promised(self) -> bool:
        """Whether the condition is, and nothing else needs a look, as a caller's steps do, or D·A·D of a congruence."""
        return self.options.kappa_max is not None and self.options.abc_t is None and not self.matrix.applied

    def read(self) -> Facts:
        """The numbers a plan needs, in one synchronisation."""
        matrix = self.matrix
        right = matrix.upper if matrix.scales.right is None else matrix.scales.right
        ridge = matrix.scaled_ridge if matrix.damping else matrix.ridge
        columns = [matrix.upper, matrix.defect, right, ridge, matrix.exponent.double()]
        if self.ends is not None:
            columns += [end.double() for end in self.ends]
        facts = Facts(*host(torch.stack(columns)))
        self._exponents = facts.exponent.astype(int)
        matrix.symmetric = not facts.defect.any()
        return facts

    @cached_property
    def task(self) -> Task:
        """What decides the choice of a strategy."""
        return task_of(self.problem, self.options)

    def run(self, candidate: Candidate, low: float, high: float) -> Outcome:
        """Carry out a candidate for a spectrum in [low, high]."""
        how = precision(candidate.precision)
        S, B = self.matrix.matrix(how.storage), self.right(how.storage)
        if candidate.strategy == "eigh":
            return run_eigh(S, B, self.problem.exponent, self.ws, self.options.cut(self.problem))
        if candidate.strategy == "lanczos":
            assert B is not None
            return run_lanczos(times(S, B.shape[-1], self.ws), B, self.problem.exponent, self.problem.tol, self.ws)
        if candidate.strategy == "cholesky":
            refinable = how.storage is torch.float32 and B is not None
            return run_cholesky(S, B, self.ws, self._pair if refinable else None)
        if candidate.strategy in SUMS:
            return self._sum(candidate, S, low, high)
        if candidate.strategy == "hybrid-pe-nsrc":
            return self._hybrid(candidate, low, high)
        return self._iterate(candidate, S, B, low, high)

    def _iterate(self, candidate: Candidate, S: Tensor, B: Tensor | None, low: float, high: float) -> Outcome:
        """A coupled iteration."""
        direct = candidate.strategy == "direct-solve"
        planned = candidate.schedule if isinstance(candidate.schedule, Schedule) else None
        given = self.given_schedule(low, high)
        schedule = given or planned or steps_for(self.task, low, high, direct)
        replan = lambda a, b: steps_for(self.task, a, b, direct)  # noqa: E731
        iteration = Iteration(S, B, schedule, direct, candidate.precision, self.ws, self.problem.tol, replan)
        fewer = candidate.symmetric and (candidate.coarse > 0 or candidate.precision == "fp16")
        wide = (candidate.wide, self.matrix.matrix(torch.float64)) if candidate.wide and given is None else None
        iteration = replace(iteration, symmetric=candidate.symmetric, coarse=candidate.coarse)
        return replace(iteration, reduced=fewer and "fp32" in self.task.precisions, wide=wide).run()

    def _sum(self, candidate: Candidate, S: Tensor, low: float, high: float) -> Outcome:
        """A Chebyshev sum for a spectrum in [low, high]."""
        right, p = self.right(S.dtype), self.problem
        assert right is not None
        if candidate.symmetric:
            return self._by_planes(S, right, low, high)
        if self.options.blind:
            settings = (right, p.exponent, low, high, p.tol, self.ws)
            if self.options.deferred:
                checked = cayley_checked if candidate.strategy == "cayley" else chebyshev_checked
                return checked(S, *settings, self.options.seed + COMPLETENESS_SEED)
            if candidate.strategy == "cayley":
                return cayley_fixed(S, *settings)
            return chebyshev_fixed(lambda V: torch.bmm(S, V), *settings)
        B = stored(right, self.ws)
        if candidate.strategy == "cayley":
            return run_cayley(S, B, p.exponent, low, high, p.tol, self.ws, self.kappa)
        return run_chebyshev(multiplication(S, B, self.ws), B, p.exponent, low, high, p.tol, self.ws, self.kappa)

    def _by_planes(self, S: Tensor, B: Tensor, low: float, high: float) -> Outcome:
        """The same from planes of A."""
        options, span = self.options, Span(self.problem.exponent, low, high, self.problem.tol)
        seed = options.seed + COMPLETENESS_SEED
        if options.deferred:
            return checked_by_planes(S, B, span, self.ws, seed)
        if options.blind:
            return fixed_by_planes(S, B, span, self.ws)
        return by_planes(S, B, span, self.ws, seed, self.kappa)

    def _hybrid(self, candidate: Candidate, low: float, high: float) -> Outcome:
        """A few steps, then corrections with residuals in float64."""
        name, planned, tol = candidate.precision, candidate.schedule, self.problem.tol
        if not isinstance(planned, HybridSchedule):
            planned = hybrid_steps(self.task, low, high)
        steps = self.given_schedule(low, high) or planned.steps
        schedule, wide, S = replace(planned, steps=steps), self._pair(), self.matrix.matrix(precision(name).storage)
        reduced = candidate.symmetric and name == "fp16" and "fp32" in self.task.precisions
        if not schedule.formed:
            B = self.right(S.dtype)
            assert B is not None
            return correct_on_columns(S, B, schedule, wide, name, self.ws, tol, reduced)
        replan = lambda a, b: steps_for(self.task, a, b, False)  # noqa: E731
        iteration = Iteration(S, None, steps, False, name, self.ws, 2 * steps.error, replan, candidate.symmetric)
        root = replace(iteration, reduced=reduced).run()
        return correct(root, schedule, wide, self.ws, tol if candidate.symmetric else None)

    def _pair(self) -> tuple[Tensor, Tensor]:
        """A_s and B_s in float64, where there is a B."""
        wide = self._wide()
        assert wide is not None
        return wide

    def _wide(self) -> tuple[Tensor, Tensor] | None:
        """A_s and B_s in float64, `None` without B."""
        B = self.right(torch.float64)
        return None if B is None else (self.matrix.matrix(torch.float64), B)

    def given_schedule(self, low: float, high: float) -> Schedule | None:
        """The caller's quadratics (a, b, c) as a schedule on [low, 1], with the range they are proved for."""
        if self.options.abc_t is None:
            return None
        steps, p = [], self.problem.exponent.denominator
        lo, hi = low, max(high, 1.0)
        for q in quadratics(self.options.abc_t):
            steps.append(Step.of_polynomial(p, q.monomials, lo, hi))
            lo, hi = steps[-1].interval_after
        return Schedule(p, tuple(steps), self.problem.exponent)

    def certify(self, outcome: Outcome, out: Tensor) -> Verdict:
        """Deliver Z into `out` and estimate its error, in one synchronisation."""
        return self._verdict(outcome, host(self._measured(outcome, out)))

    def certify_unread(self, outcome: Outcome, out: Tensor) -> Verdict:
        """The same, on the device."""
        return self._verdict(outcome, self._measured(outcome, out))

    def _measured(self, outcome: Outcome, out: Tensor) -> Tensor:
        """Everything that `_verdict` needs, `(b, …)` float64; Z is delivered into `out`."""
        if outcome.root is None:
            return self._own(outcome, out)
        wide = self.problem.storage is torch.float64
        # Against what was passed, not against what it was rounded to.
        judged = torch.float64 if wide or self.matrix.stretch is not None else outcome.judge
        A, Z = self.matrix.matrix(judged), outcome.Z
        exponent, root, B = self.problem.exponent, outcome.root, self.right(judged)
        if Z.dtype is not A.dtype:
            Z = self.ws.buffer("Z64", Z.shape, A.dtype, A.device).copy_(Z)
        judge, left = self._judge(outcome, A), self._left(A.dtype)
        measured = measure(root, judge, B, Z, exponent, self.options.seed, left, wide, self.ws)
        largest = magnitude(self.deliver(outcome, out))
        more = [outcome.lowest, outcome.highest, *self._signs(outcome, A), largest]
        unknown = torch.full_like(measured[:, 0], torch.nan)
        extra = torch.stack([unknown if value is None else value.double() for value in more], -1)
        return torch.cat((extra, measured), -1)

    def _own(self, outcome: Outcome, out: Tensor) -> Tensor:
        """The strategy's own estimate."""
        assert outcome.error is not None
        scaled = magnitude(outcome.Z)
        largest = magnitude(self.deliver(outcome, out))
        lowest = torch.full_like(outcome.error, torch.nan) if outcome.lowest is None else outcome.lowest.double()
        return torch.stack((lowest, outcome.error, largest, scaled), -1)

    def _verdict(self, outcome: Outcome, values: Any) -> Verdict:
        """What was measured, appraised: on the host an array, else a tensor."""
        xp, exponent = namespace(values), self.problem.exponent
        if outcome.root is None:
            low, error, size, scaled = values.T
            unknown = xp.full_like(low, math.nan)
            error = put(math.inf, lost(size, scaled, self.problem.dtype), error)
            return Verdict(Certificate(error, error, unknown), low, unknown)
        low, high, unfinished, positive, size = values[:, :5].T
        found = appraise(values[:, 5:], self.problem.n, outcome.Z.shape[-1], outcome.root, exponent)
        # NaN: nobody looked.
        wrong = (unfinished > 1) | (positive <= 0) | lost(size, values[:, 5], self.problem.dtype)
        return Verdict(found._replace(error=put(math.inf, wrong, found.error)), low, high)

    def _left(self, dtype: torch.dtype) -> Tensor | None:
        """What Z is multiplied by for the answer, in `dtype`."""
        gram = self.problem.gram
        left = None if gram is None else gram.left
        if left is None or left.dtype is dtype:
            return left
        return self.ws.buffer("left", left.shape, dtype, left.device).copy_(left)

    def _judge(self, outcome: Outcome, A: Tensor) -> Matrix:
        """A_s for residuals: finer than what computed Z, and not what rounding made of GᵀG."""
        gram, fine = self.problem.gram, outcome.precision == "fp64"
        if gram is not None and (fine or gram.rounding):
            return self.matrix.gram(gram)
        if self.problem.storage is torch.float32 or not fine:
            return PlainMatrix(A)
        return DoubledMatrix(A, self.ws.like("A high", A), self.ws.like("A low", A))

    def _signs(self, outcome: Outcome, A: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Above 1 where an eigenvalue was missed, and a Ritz value that tells whether X has a positive spectrum.

        A look by factorisation has missed none: inverse iteration weighs a direction by 1/λ. And of a single step Y is
        A_s itself, of which a look has seen more than could be seen here. But a promise is planned for unseen.
        """
        Y, end = outcome.iterate, outcome.end
        assert outcome.root is not None
        if Y is None or end is None:
            return None, None
        promised = self.options.kappa_max is not None
        seen = self.factored or (outcome.steps == 1 and self.ends is not None)
        # A singular matrix has positive powers, unless its condition is promised.
        trusted = not promised and (seen or self.problem.exponent > 0)
        given = self.options.abc_t is not None
        missed = None if trusted else unfinished(Y, end, self.options.seed + COMPLETENESS_SEED, self.ws, given)
        if self.options.lambda_max is None or self.options.blind or self.problem.exponent > 0:
            return missed, None
        # An eigenvalue above the promised bound may converge to −λ^(-1/p), which no residual with even p sees. It is
        # the largest of A·X in magnitude, so a few Lanczos steps find it.
        power = outcome.root.power
        return missed, ritz_extremes(lambda V: torch.bmm(A, power(1, V)), A, SIGN_STEPS)[0]

    def deliver(self, outcome: Outcome, out: Tensor) -> Tensor:
        """Z in the caller's units, into `out`; overwrites the outcome's Z."""
        Z, matrix = outcome.Z, self.matrix
        if Z.dtype is torch.float32 and self.problem.storage is torch.float64:
            Z = Z.double()  # the caller's units may lie beyond float32
        if matrix.scale is not None:
            Z = matrix.scale.undo_solution(Z)
            if self.problem.B is None:  # (D·A·D)⁻¹ = D⁻¹A⁻¹D⁻¹: the second D stands on the right
                Z = Z * matrix.scale.d.unsqueeze(-2)
        Z = matrix.undo_normalised(Z)
        left = self._left(Z.dtype)
        if left is not None:
            shape = (*left.shape[:-1], Z.shape[-1])
            Z = torch.bmm(left, Z, out=self.ws.buffer("left Z", shape, Z.dtype, Z.device))
        return matrix.scales.restore(Z, out)

    def exponents(self) -> Array:
        """The exponents of the scaling, on the host."""
        if self._exponents is None:
            self._exponents = host(self.matrix.exponent)
        return self._exponents

    def select(self, rows: Array) -> Case:
        """The same for the matrices at `rows` only."""
        if rows.size == self.problem.count:
            return self
        part = self.problem.rows(torch.from_numpy(rows).to(self.problem.A.device))
        return Case(part, self.options, SolveWorkspace())


def task_of(problem: Problem, options: Options) -> Task:
    """The shapes, the exponent and the settings that decide the choice of a strategy."""
    p = problem
    precisions = ("fp64",) if p.storage is torch.float64 else ("fp32", "fp64")
    if options.precision != "auto":
        precisions = (options.precision,)
    device, shapes, symmetric = p.A.device.type, (p.n, p.columns, p.count), symmetric_products(p.A.device)
    return Task(
        *(*shapes, p.exponent, p.tol, p.B is None, options.expected_reuse, precisions, device, symmetric),
        reduced=not options.blind,
        recorded=options.blind and device != "cpu",
        formed=p.gram is not None,
        caution=options.caution,
    )

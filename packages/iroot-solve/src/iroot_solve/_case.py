"""One scaled problem: run a strategy on it, certify the outcome, give Z back in the caller's units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from iroot_coeffs import Schedule, Step
from iroot_kernels import precision, quadratics
from iroot_precond import binary_exponent, ritz_extremes, scale_by_power_of_two, unscale_root
from torch import Tensor

from iroot_solve._certificate import Certificate, certify, unfinished
from iroot_solve._cholesky import run_cholesky
from iroot_solve._choose import ITERATIONS, Candidate, Task, steps_for
from iroot_solve._doubled import DoubledMatrix
from iroot_solve._eigh import run_eigh
from iroot_solve._iterate import Iteration
from iroot_solve._matrix import ScaledMatrix
from iroot_solve._options import Options
from iroot_solve._outcome import Outcome
from iroot_solve._problem import Problem
from iroot_solve._result import SolveWorkspace

SIGN_STEPS = 16


@dataclass(frozen=True)
class Facts:
    """What was read of one matrix: bound, Ritz values (NaN where nobody looked), symmetry defect, finiteness of B."""

    upper: float
    low: float
    high: float
    defect: float
    finite: bool


class Case:
    """A problem, scaled.

    Args:
        problem: What was passed (or the part of it that still needs an answer).
        options: The call's settings.
        ws: Buffers.

    Attributes:
        matrix: A_s and its bounds.
        ends: Smallest and largest Ritz value, NaN where nobody looked.
        B: B·2^-f with entries near 1, in the storage dtype; `None` for the root.
    """

    def __init__(self, problem: Problem, options: Options, ws: SolveWorkspace) -> None:
        self.problem, self.options, self.ws = problem, options, ws
        self.matrix = ScaledMatrix(problem, options.damping, options.precond, ws, options.seed)
        self.B, self._B_exponent = self._scaled_B()
        unknown = torch.full_like(self.matrix.upper, torch.nan)
        self.ends = (unknown, unknown)

    def _scaled_B(self) -> tuple[Tensor | None, Tensor | None]:
        if self.problem.B is None:
            return None, None
        shape = self.problem.B.shape
        stored = self.ws.buffer("B", shape, self.problem.storage, self.problem.B.device).copy_(self.problem.B)
        exponent = binary_exponent(stored)
        scaled = scale_by_power_of_two(stored, exponent, out=stored)
        return (scaled if self.matrix.scale is None else scaled.mul_(self.matrix.scale.d.unsqueeze(-1))), exponent

    def ritz(self) -> None:
        """Estimate the ends of the spectrum."""
        self.ends = self.matrix.ritz()

    def read(self) -> list[Facts]:
        """The numbers a plan needs, in one synchronisation."""
        upper = self.matrix.upper
        low, high = self.ends
        finite = torch.ones_like(upper) if self.B is None else _all_finite(self.B).to(upper.dtype)
        rows = torch.stack((upper, low, high, self.matrix.defect, finite), -1)
        return [Facts(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows.double().tolist()]

    @property
    def task(self) -> Task:
        """What decides the choice of a strategy."""
        return task_of(self.problem, self.options)

    def run(self, candidate: Candidate, low: float, high: float) -> Outcome:
        """Carry out a candidate for a spectrum in [low, high]."""
        how = precision(candidate.precision)
        S = self.matrix.matrix(how.storage)
        B = None if self.B is None else self._in(how.storage, self.B)
        if candidate.strategy == "eigh":
            return run_eigh(S, B, self.problem.exponent, self.ws)
        if candidate.strategy == "cholesky":
            return run_cholesky(S, B, self.ws)
        direct = candidate.strategy == "direct-solve"
        schedule = self.given_schedule(low, high) or candidate.schedule or steps_for(self.task, low, high, direct)
        replan = lambda a, b: steps_for(self.task, a, b, direct)  # noqa: E731
        return Iteration(S, B, schedule, direct, candidate.precision, self.ws, self.problem.tol, replan).run()

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

    def _in(self, dtype: torch.dtype, B: Tensor) -> Tensor:
        return B if B.dtype is dtype else self.ws.buffer("B64", B.shape, dtype, B.device).copy_(B)

    def certify(self, outcome: Outcome) -> Certificate:
        """The estimated error of an outcome; infinite where the root has the wrong sign."""
        A = self.matrix.matrix(outcome.judge)
        exponent, seed = self.problem.exponent, self.options.seed
        B = None if self.B is None else self._in(A.dtype, self.B)
        Z = outcome.Z
        if Z.dtype is not A.dtype:
            Z = self.ws.buffer("Z64", Z.shape, A.dtype, A.device).copy_(Z)
        wide = outcome.precision == "fp64"
        doubled = DoubledMatrix(A, self.ws.like("A high", A), self.ws.like("A low", A)) if wide else None
        found = certify(outcome.power, A, B, Z, exponent, outcome.roundoff, seed, outcome.drift, outcome.ends, doubled)
        if outcome.strategy not in ITERATIONS or exponent > 0:
            return found
        found = found._replace(error=torch.where(unfinished(outcome.power, A, exponent), torch.inf, found.error))
        if self.options.lambda_max is None:
            return found
        # An eigenvalue above the promised bound may converge to −λ^(-1/p), which no residual with even p sees. It is
        # the largest of A·X in magnitude, so a few Lanczos steps find it.
        lowest, _, _ = ritz_extremes(lambda V: torch.bmm(A, outcome.power(1, V)), A, SIGN_STEPS)
        return found._replace(error=torch.where(lowest > 0, found.error, torch.inf))

    def scaled_ridge(self, index: int) -> float:
        """What is added to the diagonal of one A_s."""
        return float(torch.ldexp(self.matrix.ridge[index], -self.matrix.exponent[index]))

    def deliver(self, outcome: Outcome) -> Tensor:
        """Z in the caller's units, in the precision it was computed in; overwrites the outcome's Z."""
        Z, exponent = outcome.Z, self.problem.exponent
        if Z.dtype is torch.float32 and self.problem.storage is torch.float64:
            Z = Z.double()  # the caller's units may lie beyond float32
        if self.matrix.scale is not None:
            Z = self.matrix.scale.undo_solution(Z)
            if self.B is None:  # (D·A·D)⁻¹ = D⁻¹A⁻¹D⁻¹: the second D stands on the right
                Z = Z * self.matrix.scale.d.unsqueeze(-2)
        # 2^(e·q/s)·2^f = 2^((e·q + f·s)/s): one factor, so that no step on the way overflows.
        total = self.matrix.exponent.long() * exponent.numerator
        if self._B_exponent is not None:
            total = total + self._B_exponent.long() * exponent.denominator
        step = type(exponent)(1, exponent.denominator)
        return unscale_root(Z, total, step, out=Z)

    def select(self, index: Tensor) -> Case:
        """The same for the matrices at `index` only."""
        if index.numel() == self.problem.count:
            return self
        p = self.problem
        part = replace(p, A=p.A[index], B=None if p.B is None else p.B[index])
        return Case(part, self.options, SolveWorkspace())


def task_of(problem: Problem, options: Options) -> Task:
    """The shapes, the exponent and the settings that decide the choice of a strategy."""
    p = problem
    precisions = ("fp64",) if p.storage is torch.float64 else ("fp32", "fp64")
    if options.precision != "auto":
        precisions = (options.precision,)
    return Task(p.n, p.columns, p.count, p.exponent, p.tol, p.B is None, options.expected_reuse, precisions)


def _all_finite(V: Tensor) -> Tensor:
    """Whether every entry is finite, `(b,)`, without a mask of V's size: NaN and infinity survive both extremes."""
    return (V.amax((-2, -1)) - V.amin((-2, -1))).isfinite()

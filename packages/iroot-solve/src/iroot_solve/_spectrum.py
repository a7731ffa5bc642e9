"""What is known of the spectrum before the iteration, and what to plan for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from iroot_solve._case import Case, Facts
from iroot_solve._choose import ITERATIONS, Candidate, choose, on_grid
from iroot_solve._cost import milliseconds
from iroot_solve._matrix import LANCZOS_STEPS
from iroot_solve._predict import rounding_error
from iroot_solve._problem import Problem
from iroot_solve._result import Status

# Below λmax/1e13 nothing in float64 tells one eigenvalue from another.
SMALLEST_RATIO = 1e-13


@dataclass(frozen=True)
class Spectrum:
    """The interval to plan for.

    Attributes:
        low: Its lower end.
        high: Its upper end: the caller's promise, or the bound.
        bound: A bound of λmax that rests on no promise.
        known: `low` is more than the caller's hint.
        broken_promise: The caller's `lambda_max` lies below a Ritz value, so it is none.
    """

    low: float
    high: float
    bound: float
    known: bool
    broken_promise: bool = False


def wants_ritz(case: Case) -> bool:
    """Whether knowing the spectrum's ends can pay: not where a factorisation in float64 costs less than looking."""
    task, strategy, options = case.task, wanted_strategy(case), case.options
    if options.kappa_max is not None or options.lambda_max is not None or strategy in ITERATIONS:
        return strategy not in ("eigh", "cholesky")
    direct = strategy if strategy != "auto" else ("cholesky" if "cholesky" in task.strategies else "eigh")
    safe = choose(replace(task, precisions=("fp64",)), 0.5, 1.0, direct)
    look = LANCZOS_STEPS * (0.08 + milliseconds("skinny32", task.n, task.batch) / 2)
    return choose(task, 0.5, 1.0, strategy).milliseconds + look < 0.95 * safe.milliseconds


def wanted_strategy(case: Case) -> str:
    """The caller's; with steps given (`abc_t`) and `auto`, the form of the iteration that takes fewer products."""
    options, task = case.options, case.task
    if options.abc_t is None or options.strategy != "auto":
        return options.strategy
    return "direct-solve" if "direct-solve" in task.strategies and 2 * task.k <= task.n else "materialize-root"


def require_symmetric(problem: Problem, facts: list[Facts]) -> None:
    """ValueError where the defect is more than rounding explains."""
    limit = 8 * math.sqrt(problem.n) * problem.unit_roundoff
    for i, fact in enumerate(facts):
        if fact.defect > limit:
            where = "A" if len(facts) == 1 else f"A[{i}]"
            raise ValueError(
                f"{where} (shape {tuple(problem.A.shape[-2:])}) is not symmetric: ‖A − Aᵀ‖_F = {fact.defect:.1e}·‖A‖_F,"
                f" where rounding explains {limit:.1e}; pass (A + A.mT) / 2, or use solve_nonspd for a general matrix"
            )


def first_status(fact: Facts, exponent_sign: int) -> Status | None:
    """What can be said before any heavy work (a positive power of zero is zero); `None`: go on."""
    if not fact.upper < math.inf or not fact.finite:
        return Status.nonfinite_input
    if fact.upper == 0:
        return Status.singular if exponent_sign < 0 else Status.converged
    return None


def spectrum(case: Case, facts: list[Facts]) -> Spectrum:
    """The interval to plan for, from what was read."""
    bound = max(fact.upper for fact in facts) or 1.0  # all zero: A^(q/s) of nothing
    high, broken = _promised(case, facts, bound)
    safety = case.options.schedule.coeff_safety
    lows = [_low(case, fact, i) for i, fact in enumerate(facts)]
    if any(low is None for low in lows):
        low, high = on_grid(case.options.l_target * high, safety * high)
        return Spectrum(low, high, bound, False, broken)
    # Plan for those that the first precision can serve; the others climb to float64 anyway, and alone.
    first, task = case.task.precisions[0], case.task
    ends = [(low, max(1.0, fact.upper / low)) for fact, low in zip(facts, lows, strict=True) if low]
    easy = [low for low, k in ends if rounding_error("materialize-root", first, k, task.exponent) <= task.tol / 2]
    low, high = on_grid(min(easy or [low for low, _ in ends]), safety * high)
    return Spectrum(low, high, bound, True, broken)


def _promised(case: Case, facts: list[Facts], bound: float) -> tuple[float, bool]:
    """(upper end, whether the promise is broken): every Ritz value is at most λmax."""
    if case.options.lambda_max is None:
        return bound, False
    scaled = torch.ldexp(torch.full_like(case.matrix.ridge, case.options.lambda_max), -case.matrix.exponent).tolist()
    if any(not value >= fact.high for value, fact in zip(scaled, facts, strict=True)):
        return bound, True
    return min(bound, max(scaled)), False


def _low(case: Case, fact: Facts, index: int) -> float | None:
    """Lower end for one matrix: promised, proved by a clear ridge, or estimated; `None` where nobody looked."""
    options, problem = case.options, case.problem
    if options.kappa_max is not None:
        return (fact.upper / 2 if math.isnan(fact.high) else fact.high) / options.kappa_max
    if math.isnan(fact.low):
        return None
    low = fact.low / ritz_safety(fact.upper / fact.low) if fact.low > 0 else 0.0
    if options.damping.ridge or options.damping.ridge_rel:
        noise = problem.n * problem.unit_roundoff * fact.upper
        low = max(low, case.scaled_ridge(index) - noise)
    return max(low, fact.upper * SMALLEST_RATIO)


def ritz_safety(kappa: float) -> float:
    """By how much less than θmin to plan for: it overestimates λmin, the more the larger κ is.

    Twenty steps overestimate 1–3 times up to κ = 1e3 and 10 times at 1e4, which then looks like 1e3. A plan for ten
    times too small a λmin costs two products more, one for too large a λmin a second round.
    """
    return min(max(2.0, 2.0 * math.sqrt(kappa / 50)), 12.0)


def candidate_for(case: Case, known: Spectrum) -> Candidate:
    """The choice; without knowledge of the spectrum what needs none: a factorisation in float64."""
    task, strategy = case.task, wanted_strategy(case)
    if known.known or strategy in ITERATIONS:
        return choose(task, known.low, known.high, strategy)
    name = strategy if strategy != "auto" else ("cholesky" if "cholesky" in task.strategies else "eigh")
    widest = "fp64" if case.options.precision == "auto" else case.options.precision
    return Candidate(name, widest, None, 0.0, 0.0, 0.0)

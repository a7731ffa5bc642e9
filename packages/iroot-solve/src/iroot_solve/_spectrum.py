"""What is known of the spectrum before the iteration, and what to plan for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from iroot_solve._case import Case, Facts
from iroot_solve._certificate import Array
from iroot_solve._choose import (
    ITERATIONS,
    LANCZOS_STEPS,
    cholesky_look_ms,
    choose,
    lanczos_ms,
    on_grid,
)
from iroot_solve._cost import FRAME_CALLS
from iroot_solve._predict import rounding_error
from iroot_solve._problem import Problem
from iroot_solve._result import Status
from iroot_solve._task import Candidate, Task

# Below λmax/1e13 nothing in float64 tells one eigenvalue from another.
SMALLEST_RATIO = 1e-13
# What a matrix is taken for that nobody looked at.
USUAL_KAPPA = 1e2
LOOKING_SHARE = 0.8
# What a refinement may be spared for.
CLEARLY = 1.15
# Two steps of inverse iteration see λmin to a factor of two.
FACTORED_SAFETY = 2.0


@dataclass(frozen=True)
class Spectrum:
    """The interval to plan for.

    Attributes:
        low: Its lower end.
        high: Its upper end: the caller's promise, or the bound.
        bound: A bound of λmax that rests on no promise.
        kappa: The likely condition number: high/low without all of the safety in `low`.
        known: `low` is more than the caller's hint.
        broken: Promises of the caller that a Ritz value contradicts, in words.
    """

    low: float
    high: float
    bound: float
    kappa: float
    known: bool
    broken: tuple[str, ...] = ()


def wants_ritz(case: Case) -> bool:
    """Whether knowing the spectrum's ends can pay."""
    options, strategy = case.options, wanted_strategy(case)
    if options.pinv:
        return False
    if options.kappa_max is not None or options.lambda_max is not None or strategy in ITERATIONS:
        return strategy not in ("eigh", "cholesky")
    return looking_pays(case.task, strategy)


@lru_cache(maxsize=1024)
def looking_pays(task: Task, strategy: str) -> bool:
    """Where it saves time over what needs no look, if the matrix is a usual one."""
    look = min(lanczos_ms(task, LANCZOS_STEPS), cholesky_look_ms(task)) + task.calls(FRAME_CALLS)
    found = choose(task, 1 / USUAL_KAPPA, 1.0, strategy).milliseconds
    return found + look < LOOKING_SHARE * first_candidate(task, strategy).milliseconds


@lru_cache(maxsize=1024)
def first_candidate(task: Task, strategy: str) -> Candidate:
    """What serves most matrices without a look at the spectrum.

    Cholesky with refinement, for κ·u up to a hundredth, where it is clearly cheaper than in the widest precision
    allowed; an eigendecomposition in that.
    """
    name = strategy if strategy != "auto" else ("cholesky" if "cholesky" in task.strategies else "eigh")
    wide = choose(replace(task, precisions=task.precisions[-1:]), 1 / USUAL_KAPPA, 1.0, name)
    if name != "cholesky" or task.root:
        return wide
    quick = choose(task, 1 / USUAL_KAPPA, 1.0, name)
    return quick if CLEARLY * quick.milliseconds < wide.milliseconds else wide


def wanted_strategy(case: Case) -> str:
    """The caller's; with steps given (`abc_t`) and `auto`, the form of the iteration that takes fewer products."""
    options, task = case.options, case.task
    if options.pinv:
        return "eigh"
    if options.abc_t is None or options.strategy != "auto":
        return options.strategy
    return "direct-solve" if "direct-solve" in task.strategies and 2 * task.k <= task.n else "materialize-root"


def symmetry_limit(problem: Problem) -> float:
    """‖A − Aᵀ‖_F/‖A‖_F that rounding explains."""
    return 8 * math.sqrt(problem.n) * problem.unit_roundoff


def require_symmetric(problem: Problem, facts: Facts) -> None:
    """ValueError where the defect is more than rounding explains."""
    if problem.gram is not None:
        return
    limit = symmetry_limit(problem)
    bad = np.flatnonzero(facts.defect > limit)
    if bad.size:
        where = "A" if problem.count == 1 else f"A[{bad[0]}]"
        raise ValueError(
            f"{where} (shape {tuple(problem.A.shape[-2:])}) is not symmetric: ‖A − Aᵀ‖_F = "
            f"{facts.defect[bad[0]]:.1e}·‖A‖_F, where rounding explains {limit:.1e}; pass (A + A.mT) / 2, or use "
            "solve_nonspd for a general matrix"
        )


def first_status(facts: Facts, zero_has_none: bool) -> Array | None:
    """What can be said before any heavy work, −1 for nothing; `None`: of none. The answer for a zero matrix is zero,
    if it has one.
    """
    finite = np.isfinite(facts.upper) & np.isfinite(facts.right)
    zero = facts.upper == 0
    if finite.all() and not zero.any():
        return None
    codes = np.where(zero, Status.singular if zero_has_none else Status.converged, -1)
    return np.where(finite, codes, Status.nonfinite_input)


def spectrum(case: Case, facts: Facts) -> Spectrum:
    """The interval to plan for, from what was read."""
    bound = float(facts.upper.max())
    high, broken = _promised(case, facts, bound)
    safety = case.options.schedule.coeff_safety
    lows, unkept = _lows(case, facts)
    broken += unkept
    if lows is None:
        low, high = on_grid(case.options.l_target * high, safety * high)
        return Spectrum(low, high, bound, high / low, False, broken)
    # Plan for those that the first precision can serve; the others climb to float64 anyway, and alone.
    first, task = case.task.precisions[0], case.task
    # The safety in a low end is there for the plan; the rounding error is likelier that of the middle.
    likely = lows if facts.low is None else np.sqrt(lows * np.fmax(lows, facts.low))
    kappas = np.maximum(1.0, facts.upper / likely)
    if case.options.kappa_max is not None and not unkept and not case.matrix.applied:  # the bound of λmax may be loose
        kappas = np.minimum(kappas, case.options.kappa_max)
    easy = np.flatnonzero(rounding_error("materialize-root", first, kappas, task.exponent) <= task.tol / 2)
    rows = easy if easy.size else slice(None)
    low, high = on_grid(float(lows[rows].min()), safety * high)
    _, grid = on_grid(1.0, float(kappas[rows].max()))
    return Spectrum(low, high, bound, grid, True, broken)


def _promised(case: Case, facts: Facts, bound: float) -> tuple[float, tuple[str, ...]]:
    """(upper end, what is broken): every Ritz value is at most λmax."""
    promise = case.options.lambda_max
    if promise is None or facts.high is None:
        return bound, ()
    scaled = np.ldexp(promise, -facts.exponent.astype(int))
    if not (scaled >= facts.high).all():
        return bound, (f"own bound: lambda_max={promise:g} is below a Ritz value",)
    return min(bound, float(scaled.max())), ()


def _lows(case: Case, facts: Facts) -> tuple[Array | None, tuple[str, ...]]:
    """(lower ends, what is broken): promised, proved by a clear ridge, or estimated; `None` where nobody looked."""
    promised, broken = _promised_low(case, facts)
    return (_estimated_lows(case, facts), broken) if promised is None else (promised, broken)


def _estimated_lows(case: Case, facts: Facts) -> Array | None:
    options, problem = case.options, case.problem
    if facts.low is None:
        return None
    positive = np.fmax(facts.low, facts.upper * SMALLEST_RATIO)
    safety = FACTORED_SAFETY if case.factored else ritz_safety(facts.upper / positive)
    low = np.where(facts.low > 0, facts.low / safety, 0.0)
    if options.damping:
        low = np.maximum(low, facts.ridge - problem.n * problem.unit_roundoff * facts.upper)
    return np.maximum(low, facts.upper * SMALLEST_RATIO)


def _promised_low(case: Case, facts: Facts) -> tuple[Array | None, tuple[str, ...]]:
    """(λmin by the promised condition `(b,)`, what is broken); `None` without a promise, where a Ritz value, which is
    λmin or more but for rounding, lies below it, and with a congruence: the promise is of A."""
    kappa = case.options.kappa_max
    if kappa is None or case.matrix.applied:
        return None, ()
    low: Array = (case.least_share * facts.upper if facts.high is None else facts.high) / kappa
    noise = 8 * math.sqrt(case.problem.n) * torch.finfo(case.problem.storage).eps * facts.upper
    if facts.low is not None and not (facts.low >= low / 2 - noise).all():
        return None, (f"own bound: kappa_max={kappa:g} is below a quotient of Ritz values",)
    return low, ()


def ritz_safety(kappa: Array, steps: int = LANCZOS_STEPS) -> Array:
    """By how much less than θmin to plan for: it overestimates λmin, the more the larger x = κ/steps² is.

    For log-spaced spectra by 1.3, 2.7 and 9.5 at x = 0.2, 1 and 2.8, κ that of the Ritz values, after 20 steps as after
    60; other spectra are easier. A plan for too small a λmin costs a product or two more, one for too large a λmin a
    second round.
    """
    x = kappa / steps**2
    return np.clip(1.15 * (1 + 1.4 * x + 0.6 * x * x), 1.15, 12.0)


def candidate_for(case: Case, known: Spectrum) -> Candidate:
    """The choice; without knowledge of the spectrum what needs none."""
    strategy = wanted_strategy(case)
    if known.known or strategy in ITERATIONS:
        return choose(case.task, known.low, known.high, strategy, known.kappa)
    return first_candidate(case.task, strategy)

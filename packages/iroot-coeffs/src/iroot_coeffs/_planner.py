"""The cheapest schedule for (p, κ, tol, k/n): exact dynamic programming over mixed degrees.

State: log κ of the interval reached. A smaller interval is never worse, because the minimax error grows with
log κ; so labels (products, log κ) are settled in the order of products, and those that do not shrink the
interval further are dropped. Step errors come from the table (rounded up); the chosen degrees are then proved
by one Remez exchange each, on the true intervals.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from ._products import inner_products, terminal_products
from ._schedule import Schedule, applied_power
from ._step import CHAIN_MARGIN, Step, minimax, roomy
from ._table import FAR_DEGREES, NEAR_DEGREES, StepErrors, step_errors

MAX_KAPPA = 1e14
SMALLEST_TOL = 1e-15
TIE = 1e-9

Degrees = tuple[int, ...]

TABLE_DEGREES: Degrees = NEAR_DEGREES + FAR_DEGREES


@dataclass(frozen=True, slots=True)
class _Problem:
    """What is asked for, with normalised arguments; hashable."""

    p: int
    exponent: Fraction
    kappa: float
    tol: float
    k_over_n: float | None
    degrees: Degrees
    terminal_degrees: Degrees
    first_degrees: Degrees

    @property
    def open_end(self) -> bool:
        """Whether the last step may have any degree, also one between those of the table."""
        return self.terminal_degrees == TABLE_DEGREES

    @property
    def power(self) -> int:
        return applied_power(self.p, self.exponent)

    @property
    def step_error(self) -> float:
        """ε with (1 + ε)^power - 1 = tol."""
        return math.expm1(math.log1p(self.tol) / self.power)

    def inner(self, degree: int, *, first: bool, factored: bool) -> float:
        starts_at_identity = first and self.exponent < 0
        return inner_products(self.p, degree, self.power, self.k_over_n, first=starts_at_identity, factored=factored)

    def terminal(self, degree: int, *, first: bool, factored: bool) -> float:
        starts_at_identity = first and self.exponent < 0
        return terminal_products(degree, self.power, self.k_over_n, first=starts_at_identity, factored=factored)


@dataclass(frozen=True, slots=True)
class _Search:
    """What the dynamic program needs of a problem; costs are (cost, degree) in the order of cost."""

    problem: _Problem
    errors: StepErrors
    target: float
    factored: bool

    @classmethod
    def of(cls, problem: _Problem, *, factored: bool) -> _Search:
        ratio = math.log1p(problem.step_error) - math.log1p(-problem.step_error)
        return cls(problem, step_errors(problem.p), math.log(ratio), factored)

    def inner_costs(self, *, first: bool) -> list[tuple[float, int]]:
        """Of equal costs only the largest degree counts."""
        cheapest: dict[float, int] = {}
        for degree in self.problem.first_degrees if first else self.problem.degrees:
            cost = self.problem.inner(degree, first=first, factored=self.factored)
            cheapest[cost] = max(degree, cheapest.get(cost, 0))
        return sorted(cheapest.items())

    def spread_after(self, degree: int, spread: float) -> float:
        """log log κ of the next step's interval, with the margin `Step.interval_after` adds."""
        return math.log(self.problem.p * math.exp(self.errors.log_bound(degree, spread)) + 4 * CHAIN_MARGIN)

    def end_costs(self, *, first: bool) -> list[tuple[float, int]]:
        terminal = self.problem.terminal
        degrees = self.problem.terminal_degrees
        return sorted((terminal(degree, first=first, factored=self.factored), degree) for degree in degrees)

    def end(self, costs: list[tuple[float, int]], spread: float, *, first: bool) -> _End | None:
        """The cheapest last step from log log κ = spread, the most accurate of equals."""
        best: _End | None = None
        for cost, degree in costs:
            if best is not None and cost > best.cost + TIE:
                break
            bound = self.errors.log_bound(degree, spread)
            if bound <= self.target and (best is None or bound < best.bound):
                best = _End(cost, bound, degree)
        return best if best is None else self._between(best, spread, first=first)

    def _between(self, end: _End, spread: float, *, first: bool) -> _End:
        """Between far degrees of the table log ε is close to linear in the degree: try the degree it says."""
        below = max((d for d in TABLE_DEGREES if d < end.degree), default=end.degree)
        if not self.problem.open_end or end.degree - below < 2:
            return end
        above = self.errors.log_bound(below, spread)
        share = (above - self.target) / (above - end.bound)
        degree = below + max(1, math.ceil(share * (end.degree - below)))
        cost = self.problem.terminal(degree, first=first, factored=self.factored)
        return _End(cost, self.target, degree) if cost < end.cost else end


@dataclass(frozen=True, slots=True)
class _End:
    cost: float
    bound: float
    degree: int

    def beats(self, other: _End, behind: float, other_behind: float) -> bool:
        """Cheaper in all, or as cheap and more accurate."""
        difference = self.cost + behind - other.cost - other_behind
        return difference < -TIE or (difference <= TIE and self.bound < other.bound)


def search(problem: _Problem, *, factored: bool) -> tuple[float, Degrees] | None:
    """Cheapest cost and degrees by the table; None where no schedule reaches the tolerance."""
    task = _Search.of(problem, factored=factored)
    inner = {first: task.inner_costs(first=first) for first in (True, False)}
    ends = {first: task.end_costs(first=first) for first in (True, False)}
    labels: list[tuple[float, float, Degrees]] = [(0.0, math.log(math.log(problem.kappa)), ())]
    best, behind, smallest = _End(math.inf, math.inf, 0), 0.0, math.inf
    route: Degrees = ()
    while labels:
        cost, spread, path = heapq.heappop(labels)
        if cost > best.cost + behind + TIE:
            break
        if spread >= smallest:
            continue
        smallest, first = spread, not path
        end = task.end(ends[first], spread, first=first)
        if end is not None and end.beats(best, cost, behind):
            best, behind, route = end, cost, (*path, end.degree)
        for step_cost, degree in inner[first]:
            if cost + step_cost >= best.cost + behind:
                break
            after = task.spread_after(degree, spread)
            if after < smallest:
                heapq.heappush(labels, (cost + step_cost, after, (*path, degree)))
    return (best.cost + behind, route) if route else None


def chain(p: int, degrees: Iterable[int], lo: float, hi: float) -> tuple[Step, ...]:
    """Minimax steps of the degrees, each on the interval the one before leads to."""
    steps: list[Step] = []
    for degree in degrees:
        steps.append(minimax(p, degree, *roomy(lo, hi, degree)))
        lo, hi = steps[-1].interval_after
    return tuple(steps)


def _realise(problem: _Problem, degrees: Degrees) -> Schedule:
    """Proved steps; a last degree that misses the tolerance (it may be interpolated) is raised."""
    *head, last = degrees
    steps = chain(problem.p, head, 1 / problem.kappa, 1.0)
    lo, hi = steps[-1].interval_after if steps else (1 / problem.kappa, 1.0)
    allowed = range(1, TABLE_DEGREES[-1] + 1) if problem.open_end else problem.terminal_degrees
    for degree in (d for d in allowed if d >= last):
        end = minimax(problem.p, degree, *roomy(lo, hi, degree))
        if end.error <= problem.step_error:
            break
    return Schedule(problem.p, (*steps, end), problem.exponent)


def _unreachable(problem: _Problem) -> ValueError:
    return ValueError(
        f"plan: tol={problem.tol:g} cannot be reached for p={problem.p}, kappa={problem.kappa:g} with "
        f"degrees {problem.degrees} in float64: ask for a larger tol or allow more degrees"
    )


@functools.lru_cache(maxsize=4096)
def _plan(problem: _Problem) -> Schedule:
    plain = search(problem, factored=False)
    short = search(problem, factored=True) if 8 in problem.degrees else None
    # degree 8 in three products only where it saves something: the plain form loses less
    for found in (short, plain):
        if found is None or (found is short and plain is not None and short[0] > plain[0] - TIE):
            continue
        schedule = _realise(problem, found[1])
        stable = all(step.degree != 8 or step.degree8() is not None for step in schedule)
        if schedule.error <= problem.step_error and (stable or found is plain):
            return schedule
    raise _unreachable(problem)


def _number(name: str, value: float, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"plan: {name} must be a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"plan: {name} must be in [{low:g}, {high:g}], got {value!r}")
    return float(value)


def _degrees(name: str, degrees: Iterable[int], allowed: Degrees) -> Degrees:
    chosen = tuple(sorted({int(d) for d in degrees}))
    if not chosen or not set(chosen) <= set(allowed):
        raise ValueError(f"plan: {name} must be a non-empty subset of {allowed}, got {chosen}")
    return chosen


def plan(
    p: int,
    *,
    kappa: float,
    tol: float,
    k_over_n: float = 1.0,
    exponent: Fraction | None = None,
    degrees: Iterable[int] = NEAR_DEGREES,
    terminal_degrees: Iterable[int] | None = None,
    first_degrees: Iterable[int] | None = None,
) -> Schedule:
    """The schedule with the fewest matrix products for A^(-1/p), spectrum in [1/κ, 1], error <= tol, proved.

    Args:
        p: order of the iteration, 1 <= p <= 128.
        kappa: hi/lo of the spectrum, 1 <= kappa <= 1e14.
        tol: bound of the relative error of every eigencomponent, 1e-15 <= tol < 1.
        k_over_n: columns of B over n when X acts on B; >= 1 means forming the root.
        exponent: another power -q/p, or q/p in (0, 1), as a Fraction; default -1/p.
        degrees: degrees allowed (within 1..8); (2,) gives the quadratic schedule, (1,) the linear one.
        terminal_degrees: degrees of the last step. Default: `degrees`; acting on B with all degrees allowed
            also 9 to 128, by degree skinny products.
        first_degrees: degrees of the first step where more follow. Default: `degrees`; symmetrized iterates in
            float32 lose 3 to 7 times less with low ones.

    Returns:
        Schedule on [1/kappa, 1]; `rescaled` moves it. Cold: a few ms; the same arguments again: some µs.

    Raises:
        TypeError, ValueError: an argument out of range, or a tolerance float64 cannot reach.
    """
    if isinstance(p, bool) or not isinstance(p, int):
        raise TypeError(f"plan: p must be an int, got {type(p).__name__}; other powers go through exponent")
    _number("p", p, 1, 128)
    _number("kappa", kappa, 1.0, MAX_KAPPA)
    _number("tol", tol, SMALLEST_TOL, math.nextafter(1.0, 0.0))
    ratio = _number("k_over_n", k_over_n, 0.0, math.inf)
    inner = degrees if degrees is NEAR_DEGREES else _degrees("degrees", degrees, NEAR_DEGREES)
    on_b = ratio < 1
    if terminal_degrees is not None:
        last = _degrees("terminal_degrees", terminal_degrees, TABLE_DEGREES)
    else:
        last = TABLE_DEGREES if on_b and inner == NEAR_DEGREES else tuple(inner)
    first = inner if first_degrees is None else _degrees("first_degrees", first_degrees, NEAR_DEGREES)
    power = Fraction(-1, p) if exponent is None else Fraction(exponent)
    # an interval of one point has no width to work on: 1e-7 costs nothing
    spread = max(float(kappa), 1 + 1e-7)
    return _plan(_Problem(p, power, spread, float(tol), ratio if on_b else None, tuple(inner), last, tuple(first)))

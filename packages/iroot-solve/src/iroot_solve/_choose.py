"""Which strategy, in which precision: the cheapest of those predicted to meet the tolerance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from iroot_coeffs import Schedule, plan

from iroot_solve._certificate import PROBES, orders
from iroot_solve._cost import cholesky_ms, eigh_ms, iteration_ms, milliseconds
from iroot_solve._predict import rounding_error

STRATEGIES = ("auto", "direct-solve", "materialize-root", "eigh", "cholesky")
ITERATIONS = ("direct-solve", "materialize-root")
MAX_KAPPA = 1e14
TRUNCATION_SHARE = 0.25
# With 10 steps a lone top eigenvalue was missed by the bound in 2 of 14,250 random starts, with 20 in none.
LANCZOS_STEPS = 20
# The certificate's columns over the calibration's.
THIN = PROBES / 16


@dataclass(frozen=True)
class Task:
    """What decides the choice.

    Attributes:
        n, k, batch: Shapes; k = n with `root` for the root itself.
        exponent: −q/s or q/s.
        tol: Target of the relative error.
        root: The root itself is wanted.
        reuse: How often the root will be applied to a right-hand side like this one.
        precisions: Precisions allowed, in the order of preference at equal cost.
    """

    n: int
    k: int
    batch: int
    exponent: Fraction
    tol: float
    root: bool
    reuse: int = 1
    precisions: tuple[str, ...] = ("fp32", "fp64")

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those that apply."""
        names = ["eigh"]
        if self.exponent < 1:
            names = ["materialize-root", *names] if self.root else ["direct-solve", "materialize-root", *names]
        if self.exponent.denominator == 1 and self.exponent.numerator == -1:
            names.append("cholesky")
        return tuple(names)

    def meets(self, error: float) -> bool:
        """Whether a predicted error, truncation and rounding together, leaves room for the estimate."""
        return error <= 0.8 * self.tol

    def check(self, strategy: str) -> None:
        """ValueError, naming the strategies that apply, unless `strategy` is one of them or auto."""
        if strategy != "auto" and strategy not in self.strategies:
            raise ValueError(
                f"strategy={strategy!r} does not apply to exponent {self.exponent}"
                f"{' without B' if self.root else ''}; those that do: auto, {', '.join(self.strategies)}"
            )


@dataclass(frozen=True)
class Candidate:
    """One way to do a task, with its predicted time and error."""

    strategy: str
    precision: str
    schedule: Schedule | None
    products: float
    milliseconds: float
    error: float


@lru_cache(maxsize=1024)
def steps_for(task: Task, low: float, high: float, direct: bool) -> Schedule:
    """The cheapest schedule on [low, high] whose truncation error leaves most of tol to rounding and its estimate."""
    kappa = min(max(high / low, 1.0), MAX_KAPPA)
    schedule = plan(
        task.exponent.denominator,
        kappa=kappa,
        tol=max(TRUNCATION_SHARE * task.tol, 4e-15),
        k_over_n=min(1.0, task.k / task.n) if direct else 1.0,
        exponent=task.exponent,
    )
    return schedule.rescaled(high)


def candidates(task: Task, low: float, high: float) -> list[Candidate]:
    """Every way that applies, cheapest first; [low, high] is the spectrum as far as it is known."""
    kappa = high / low
    found = []
    for strategy in task.strategies:
        for name in task.precisions:
            error = rounding_error(strategy, name, kappa, task.exponent)
            found.append(_candidate(task, strategy, name, low, high, error))
    return sorted(found, key=lambda candidate: candidate.milliseconds)


def on_grid(low: float, high: float) -> tuple[float, float]:
    """[low, high] widened to a grid, so that plans repeat: `high` by at most 2^(1/8), the ratio by at most 2^(1/4).

    A plan costs milliseconds the first time and microseconds after that; a quarter of an octave costs 0.1 products.
    """
    upper = 2.0 ** (math.ceil(8 * math.log2(high)) / 8)
    ratio = 2.0 ** (math.ceil(4 * math.log2(max(upper / low, 1.0))) / 4)
    return upper / ratio, upper


LANCZOS_MS = 0.03  # for the calls of a Lanczos step


def lanczos_ms(task: Task, steps: int) -> float:
    """A Lanczos process: products with one vector, by bandwidth as expensive as half of those with 16, and calls."""
    bits = 64 if task.precisions[0] == "fp64" else 32
    return steps * (LANCZOS_MS + milliseconds(f"skinny{bits}", task.n, task.batch) / 2)


def cholesky_look_ms(task: Task) -> float:
    """A factorisation and four thin products."""
    bits = 64 if task.precisions[0] == "fp64" else 32
    return milliseconds(f"cholesky{bits}", task.n, task.batch) + 4 * milliseconds(f"skinny{bits}", task.n, task.batch)


@lru_cache(maxsize=1024)
def factoring_is_looking(task: Task) -> bool:
    """Whether a Cholesky factorisation is the cheaper way to see the ends of the spectrum."""
    return cholesky_look_ms(task) < lanczos_ms(task, LANCZOS_STEPS)


@lru_cache(maxsize=1024)
def choose(task: Task, low: float, high: float, strategy: str = "auto") -> Candidate:
    """The cheapest candidate predicted to meet the tolerance; the most accurate one where none is."""
    task.check(strategy)
    named = [c for c in candidates(task, low, high) if strategy in ("auto", c.strategy)]
    good = [c for c in named if task.meets(c.error)]
    return good[0] if good else min(named, key=lambda c: (c.error, c.milliseconds))


def _candidate(task: Task, strategy: str, name: str, low: float, high: float, error: float) -> Candidate:
    bits = 64 if name == "fp64" else 32
    n, k, batch = task.n, task.k * task.reuse, task.batch
    thin = THIN * milliseconds(f"skinny{bits}", n, batch)
    if strategy == "eigh":
        ms = eigh_ms(n, min(k, n) if task.root else k, batch, bits) + certificate_ms(task, 2 * thin, True, True)
        return Candidate(strategy, name, None, 0.0, ms, error)
    if strategy == "cholesky":
        return Candidate(strategy, name, None, 0.0, cholesky_ms(n, k, batch, bits), error)
    direct = strategy == "direct-solve"
    schedule = steps_for(task, low, high, direct)
    count = schedule.products(min(1.0, k / n) if direct else None)
    columns = _thin_columns(schedule, task) * task.reuse if direct else (0 if task.root else k)
    square = schedule.products(0.0) if direct else count
    ms = iteration_ms(n, batch, square, columns, len(schedule), bits)
    wide = THIN * milliseconds("skinny64", n, batch)
    if direct:
        wide = _thin_columns(schedule, task) / task.k * wide + len(schedule) * milliseconds("pass64", n, batch)
    ms += certificate_ms(task, wide, not direct, False)
    return Candidate(strategy, name, schedule, count, ms, error + schedule.error)


def _thin_columns(schedule: Schedule, task: Task) -> float:
    """Right-hand columns multiplied in all steps together."""
    last = schedule.steps[-1].degree if schedule.terminal_is_skinny(min(1.0, task.k / task.n)) else 1
    return (len(schedule) - 1 + last) * task.k * schedule.power


def certificate_ms(task: Task, apply_ms: float, ends: bool, jumps: bool) -> float:
    """The certificate: X applied to thin matrices, A likewise, and the matrices widened to float64.

    Args:
        task: Shapes and exponent.
        apply_ms: X applied to `PROBES` columns once.
        ends: Whether E_1 and E_s are looked at.
        jumps: Whether any power of X costs one application (eigenvectors), not as many as its exponent.
    """
    s, found = task.exponent.denominator, orders(task.exponent.denominator, ends)
    pairs = len(found)
    applications = 2 * pairs if jumps else (s - found[-1]) + found[0] * (1 + pairs) / 2
    thin = THIN * milliseconds("skinny64", task.n, task.batch)
    return (applications + 1) * apply_ms + pairs * thin + 3 * milliseconds("pass64", task.n, task.batch)

"""Which strategy, in which precision: the cheapest of those predicted to meet the tolerance."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from iroot_coeffs import Schedule, plan

from iroot_solve._certificate_cost import certificate_ms, certified_ms
from iroot_solve._completeness import PROBES
from iroot_solve._cost import (
    CERTIFIED_CALLS,
    FACTORED_CALLS,
    applied_ms,
    cholesky_ms,
    chunk,
    eigh_ms,
    iteration_ms,
    milliseconds,
    substitution_ms,
)
from iroot_solve._hybrid import HybridSchedule, hybrid_schedule
from iroot_solve._hybrid_symmetric import hybrid_candidates
from iroot_solve._lanczos import SHARE, lanczos_steps
from iroot_solve._predict import rounding_error
from iroot_solve._sums import MOST_KAPPA, cayley_terms, chebyshev_terms, checked_terms
from iroot_solve._sums import SHARE as SUM_SHARE
from iroot_solve._sums_by_planes import COARSE_SHARE, PLANES, coarse_terms, one_plane_serves
from iroot_solve._sums_by_planes import SHARE as PLANE_SHARE
from iroot_solve._symmetric import symmetric_candidates
from iroot_solve._task import MAX_KAPPA, SUMS, TRUNCATION_SHARE, Candidate, Task

READING = (*SUMS, "lanczos")
ITERATIONS = ("direct-solve", "materialize-root", "hybrid-pe-nsrc", *SUMS)
STRATEGIES = ("auto", *ITERATIONS, "lanczos", "eigh", "cholesky")
# With 10 steps a lone top eigenvalue was missed by the bound in 2 of 14,250 random starts, with 20 in none.
LANCZOS_STEPS = 20
LANCZOS_CALLS, CHOLESKY_LOOK_CALLS, KRYLOV_CALLS = 16, 40, 30
# By how much a look by factorisation may cost more than one by Lanczos: of a batch, it is the worst conditioned matrix
# that counts, and the likelier to be missed.
FACTOR_WORTH, BATCH_FACTOR_WORTH = 1.5, 2.5
FEW_COLUMNS = 4
# A factorisation and the inverse from it, over the factorisation; calls of a term of a series.
INVERSE_PER_CHOLESKY, SUM_CALLS = 2.5, 8
# A product with fewer columns than this reads the matrix all the same; with one of a batch, in a call of its own.
LEAST_COLUMNS, BATCH_LEAST_COLUMNS = 8, 14
# What a matrix takes on its way to float64: scaled, added to its transpose, compared with it.
WIDENED_PASSES = 3
# With B, with the residual, and with the probes of λmin.
CHOLESKY_SOLVES = 3
RITZ_MS = 0.006  # the eigenvalues of one tridiagonal matrix
# Columns that one reading of planes serves; calls of a launch, and of a look at the rest that belongs to every eighth.
MOST_COLUMNS, PLANE_CALLS = 80, 5


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


def candidates(task: Task, low: float, high: float, kappa: float | None = None) -> list[Candidate]:
    """Every way that applies, cheapest first.

    Args:
        task: What is to be done.
        low, high: The spectrum to plan for; `low` on the safe side.
        kappa: The likely condition number, for the rounding errors; high/low by default.
    """
    kappa, found = high / low if kappa is None else kappa, list[Candidate]()
    for strategy in task.strategies:
        for name in task.precisions:
            if strategy in ("direct-solve", "materialize-root") and task.has_symmetric_products(name):
                found += symmetric_candidates(task, strategy, name, low, high, kappa)
                continue
            if strategy == "hybrid-pe-nsrc" and task.has_symmetric_products(name):
                found += hybrid_candidates(task, name, low, high, kappa)
                continue
            if strategy == "chebyshev" and task.has_symmetric_products(name) and name in ("fp32", PLANES):
                found.append(_sum_by_planes(task, high / low, kappa))
                continue
            refined = strategy == "cholesky" and not task.root and name != "fp64"
            error = rounding_error(strategy, name, kappa, task.exponent, refined, task.n)
            found.append(_candidate(task, strategy, name, low, high, error))
    return sorted(found, key=lambda candidate: candidate.milliseconds)


def hybrid_steps(task: Task, low: float, high: float) -> HybridSchedule:
    """Steps and corrections on [low, high]."""
    kappa = min(max(high / low, 1.0), MAX_KAPPA)
    found = hybrid_schedule(kappa, max(TRUNCATION_SHARE * task.tol, 4e-15), min(1.0, task.k / task.n))
    return replace(found, steps=found.steps.rescaled(high))


def on_grid(low: float, high: float) -> tuple[float, float]:
    """[low, high] widened to a grid, so that plans repeat: `high` by at most 2^(1/8), the ratio by at most 2^(1/4).

    A plan costs milliseconds the first time and microseconds after that; a quarter of an octave costs 0.1 products.
    """
    upper = 2.0 ** (math.ceil(8 * math.log2(high)) / 8)
    ratio = 2.0 ** (math.ceil(4 * math.log2(max(upper / low, 1.0))) / 4)
    return upper / ratio, upper


def lanczos_ms(task: Task, steps: int) -> float:
    """A Lanczos process: products with one vector, by bandwidth as expensive as half of those with 16, and calls.

    Orthogonalising a vector twice reads half of its `steps` predecessors four times, in float64: n numbers each.
    """
    bits, n, batch = 64 if task.precisions[0] == "fp64" else 32, task.n, task.batch
    product = task.ms(f"skinny{bits}") / 2 + 2 * steps / n * task.ms("pass64")
    return steps * (task.calls(LANCZOS_CALLS) + product) + batch * RITZ_MS


def basis_ms(task: Task, steps: int, bits: int) -> float:
    """A Lanczos process with k columns that keeps its basis: products, calls, two reads of it, eigh of each T."""
    n, k, batch = task.n, task.k * task.reuse, task.batch
    product = task.ms(f"skinny{bits}") * max(k, LEAST_COLUMNS) / 16
    basis = steps * k / n * task.ms(f"pass{bits}")
    small = 2 * milliseconds("eigh64", steps, 2 * k * batch, task.device)
    return steps * (task.calls(KRYLOV_CALLS) + product + basis) + small + task.calls(CERTIFIED_CALLS / 2)


def cholesky_look_ms(task: Task) -> float:
    """A factorisation and four thin products."""
    bits = 64 if task.precisions[0] == "fp64" else 32
    thin = 4 * task.ms(f"skinny{bits}")
    return task.ms(f"cholesky{bits}") + thin + task.calls(CHOLESKY_LOOK_CALLS)


@lru_cache(maxsize=1024)
def factoring_is_looking(task: Task) -> bool:
    """Whether a Cholesky factorisation is the better way to see the ends of the spectrum: it sees λmin to a factor of
    two, which saves steps, and leaves nothing for the certificate to look for. Of few columns a step is cheap."""
    worth = FACTOR_WORTH if task.batch == 1 else BATCH_FACTOR_WORTH
    if task.device == "cpu" and not task.root and FEW_COLUMNS * task.k < task.n:
        worth = 1.0
    return cholesky_look_ms(task) < worth * lanczos_ms(task, LANCZOS_STEPS)


@lru_cache(maxsize=1024)
def choose(task: Task, low: float, high: float, strategy: str = "auto", kappa: float | None = None) -> Candidate:
    """The cheapest candidate predicted to meet the tolerance; the most accurate one where none is."""
    task.check(strategy)
    found = candidates(task, low, high, kappa)
    if strategy == "auto":
        named = [c for c in found if c.symmetric or not (task.quiet and c.strategy in READING)]
    else:
        named = [c for c in found if c.strategy == strategy]
    good = [c for c in named if task.meets(c.with_caution(task.caution))]
    return good[0] if good else min(named, key=lambda c: (c.error, c.milliseconds))


def _candidate(task: Task, strategy: str, name: str, low: float, high: float, error: float) -> Candidate:
    bits = 64 if name == "fp64" else 32
    n, k, batch = task.n, task.k * task.reuse, task.batch
    if strategy in ("eigh", "cholesky"):
        if strategy == "eigh":
            ms = eigh_ms(n, min(k, n) if task.root else k, batch, bits, task.device)
        else:
            ms = cholesky_ms(n, k, batch, bits, task.device)
            ms += CHOLESKY_SOLVES * substitution_ms(n, batch, bits, task.device)
        # The certificate: three products in eigenvector coordinates with all its columns, or a product and a solve.
        ms += (6 if strategy == "eigh" else 3) * certified_ms(task, bits) + task.calls(FACTORED_CALLS)
        if bits == 64 and task.precisions[0] != "fp64":
            ms += WIDENED_PASSES * task.ms("pass64")
        return Candidate(strategy, name, None, 0.0, ms, error)
    if strategy == "lanczos":
        steps = lanczos_steps(high / low, task.tol, n)
        return Candidate("lanczos", name, None, 0.0, basis_ms(task, steps, bits), error + SHARE * task.tol)
    if strategy in SUMS:
        return _sum(task, strategy, name, bits, high / low, error)
    if strategy == "hybrid-pe-nsrc":
        return _hybrid(task, name, bits, hybrid_steps(task, low, high), error)
    direct = strategy == "direct-solve"
    schedule = steps_for(task, low, high, direct)
    count = schedule.products(min(1.0, k / n) if direct else None)
    thin = _thin_products(schedule, task) if direct else int(not task.root)
    columns = thin * task.k * task.reuse
    at_once = direct or task.device != "cpu"
    products = schedule.products(0.0) if direct else count
    chunks = 1 if at_once else math.ceil(batch / chunk(n, bits // 8))
    ms = iteration_ms(n, batch, products, columns, len(schedule), thin, bits, chunks, task.device, task.calls(1))
    ms += certificate_ms(task, thin if direct else 1, len(schedule) if direct else 1, not direct)
    return Candidate(strategy, name, schedule, count, ms, error + schedule.error)


def _sum(task: Task, strategy: str, name: str, bits: int, kappa: float, rounding: float) -> Candidate:
    """A series: for every term a product with k columns, and passes over them."""
    n, batch, columns = task.n, task.batch, task.k * task.reuse
    cayley = strategy == "cayley"
    terms = (cayley_terms if cayley else chebyshev_terms)(kappa, task.tol)
    if kappa > MOST_KAPPA[strategy]:
        rounding = math.inf
    thin = applied_ms(n, max(columns, LEAST_COLUMNS if batch == 1 else BATCH_LEAST_COLUMNS), batch, bits, task.device)
    thin += task.calls(SUM_CALLS) + 4 * columns / n * task.ms(f"pass{bits}")
    factor = INVERSE_PER_CHOLESKY * task.ms(f"cholesky{bits}") if cayley else 0.0
    ms = terms * thin + factor + task.calls(CERTIFIED_CALLS / 2)
    return Candidate(strategy, name, None, 0.0, ms, rounding + SUM_SHARE * task.tol)


def _sum_by_planes(task: Task, ratio: float, kappa: float) -> Candidate:
    """The series in A whose matrix is read in two planes, in the later terms in one; a term is one launch."""
    rounding = rounding_error("chebyshev", PLANES, kappa, task.exponent)
    if ratio > MOST_KAPPA["chebyshev"]:
        rounding = math.inf
    share = PLANE_SHARE / SUM_SHARE * task.tol
    terms = checked_terms(ratio, share, task.n) if task.recorded else chebyshev_terms(ratio, share)
    mixed = one_plane_serves(ratio, task.recorded)
    fine = min(terms, coarse_terms(task.exponent, ratio, task.tol)) if mixed else terms
    term = max(1.0, (task.k * task.reuse + PROBES) / MOST_COLUMNS) * task.ms("thin32")
    ms = (fine + terms) / 2 * term + terms * task.calls(1 if task.recorded else PLANE_CALLS) + task.ms("pass32")
    error = rounding + PLANE_SHARE * task.tol + (COARSE_SHARE * task.tol if fine < terms else 0.0)
    return Candidate("chebyshev", PLANES, None, 0.0, ms + task.calls(CERTIFIED_CALLS / 2), error, True)


def _hybrid(task: Task, name: str, bits: int, schedule: HybridSchedule, rounding: float) -> Candidate:
    n, k, batch, steps = task.n, task.k, task.batch, len(schedule.steps)
    thin = 2 * schedule.corrections + 1
    products = schedule.steps.products()
    ms = iteration_ms(n, batch, products, 0.0, steps, thin, bits, device=task.device, call=task.calls(1))
    ms += (schedule.corrections + 1) * task.ms(f"skinny{bits}") * k / 16
    ms += schedule.corrections * task.ms("skinny64") * k / 16 + task.ms("pass64")
    ms = task.reuse * (ms + certificate_ms(task, 1, 1, True))  # nothing is kept for the next right-hand side
    # The rounding of X is part of what the corrections square away; float64 residuals leave theirs.
    error = (schedule.steps.error + rounding) ** (schedule.corrections + 1) + rounding * 2.0 ** (
        -53 if bits == 32 else 0
    )
    return Candidate("hybrid-pe-nsrc", name, schedule, schedule.products(k / n), ms, error)


def _thin_products(schedule: Schedule, task: Task) -> int:
    """Products with the right-hand side in all steps together."""
    last = schedule.steps[-1].degree if schedule.terminal_is_skinny(min(1.0, task.k / task.n)) else 1
    return (len(schedule) - 1 + last) * schedule.power

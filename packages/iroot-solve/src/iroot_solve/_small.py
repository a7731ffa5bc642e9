"""Small matrices on a GPU: a program to a matrix, one launch and one read for a whole batch.

The kernel scales, iterates and judges every matrix by itself (`iroot_kernels.SmallRoot`). What it is sure of is
returned; the others (not symmetric, not finite, indefinite, worse conditioned than float32 can serve) go the usual way,
which climbs and words the errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from iroot_coeffs import Schedule, plan
from iroot_kernels import SmallResult, SmallRoot, small_matrices
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._certificate import Array
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._problem import Problem
from iroot_solve._report import Report
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._task import TRUNCATION_SHARE

# Larger ones are padded to 128 × 128, where batched symmetric products were faster on an H200.
LARGEST, MOST_POWERS = 64, 8
# What is planned for where nothing is promised; the kernel repeats steps for what is worse conditioned.
KAPPA = 1e4
# By how much the kernel's bound of λmax, rounded up to a power of two, exceeds it: 1 to 7.1 over 1,000 matrices of five
# kinds of spectra, n = 4 … 64. Where it is more, steps are repeated.
SLACK = 6.0
# The kernel's estimate is a trace, not a sample, and what its own rounding may hide is in it: 1.06 times the truth or
# more, of 291 errors above 2e-5 (n = 6 and 16, κ = 5e2 … 6e4, four kinds of spectra).
SHARE = 0.8
# Error of a root over κ·q/s, for what is not done again: the worst of 512 log-spaced ones (1.0e-4 with p = 2, κ = 1e4,
# n = 64; 8.8e-5 with n = 32).
ROUNDING = 2e-8
# Of tol: what was seen has a safety of two to five in it.
HOPELESS = 5.0
# Right-hand sides of one program follow one another: many of them for few matrices are for a product of their own.
MOST_COLUMNS, MANY = 1024, 128
# Bits of the kernel's status.
NONFINITE, ASYMMETRIC = 1, 2
LEAST_RIDGE = 2.0**-126

Usual = Callable[[Problem, Options, SolveWorkspace, Tensor], SolveResult]


def small(
    problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor, usual: Usual, seen: float | None = None
) -> SolveResult | None:
    """The result with its answer in `Z`, or `None` where the usual way is to find all of it, as where the condition
    `seen` in calls like this one is beyond float32.

    Cost: one launch and one synchronisation (none for a blind call); the `usual` way for the matrices that are left.
    """
    if not _applies(problem, options) or (seen is not None and _rounding(problem, seen) > HOPELESS * problem.tol):
        return None
    schedule = planned(problem.exponent, options.kappa_max or KAPPA, problem.tol)
    ridge = options.damping.amount(problem) if options.damping else None
    root = SmallRoot(
        [polynomial(step) for step in schedule], p=schedule.p, power=schedule.power, precision="fp16x3", workspace=ws
    )
    found = root(problem.A, problem.B, ridge=0.0 if ridge is None else ridge.float(), out=Z)
    ledger = _account(Ledger.empty(Z), schedule)
    if options.blind:
        ledger.products = _work(root, len(schedule), problem)
        return _blind(Report(problem, options, ws, ledger), found, ridge, options.deferred)
    good = _note(ledger, found, ridge, problem.tol)
    if good is None or not good.any():
        return None
    ledger.products = _work(root, ledger.steps, problem)
    if not good.all():
        _finish(problem, options, ledger, np.flatnonzero(~good), usual)
    ledger.codes[good] = Status.converged
    return Report(problem, options, ws, ledger).finish()


def _applies(problem: Problem, options: Options) -> bool:
    """Nothing is asked for but the root of float32 (or 16-bit) matrices of up to 64 × 64 on such a device."""
    asked = options.pinv or options.abc_t is not None or options.precision != "auto" or options.expected_reuse > 1
    verified = options.verify or options.blind
    fits = problem.gram is None and problem.storage is torch.float32
    shapes = fits_on_chip(problem.n, problem.columns, problem.count, problem.exponent)
    reachable = problem.reachable_tol > 0 and options.strategy == "auto" and options.lambda_max is None
    plain = options.precond.mode == "none" and options.look == "auto"
    sure = options.fallback or _safely_blind(problem, options)
    good = fits and shapes and reachable and plain and verified and sure and not asked
    return bool(good) and small_matrices(problem.A.device)


def fits_on_chip(n: int, k: int, batch: int, exponent: Fraction) -> bool:
    """Whether matrices, right-hand sides and exponent are for the kernel."""
    powers = -MOST_POWERS <= exponent.numerator < 0 and exponent.denominator <= MOST_POWERS
    return n <= LARGEST and powers and (k <= MOST_COLUMNS or batch >= MANY)


def _safely_blind(problem: Problem, options: Options) -> bool:
    """Whether what is promised of κ leaves room for rounding: twice the worst seen where nobody will look at it."""
    if not options.blind or options.kappa_max is None:
        return False
    rounding = _rounding(problem, options.kappa_max)
    if options.deferred:
        return rounding + TRUNCATION_SHARE * problem.tol <= SHARE * problem.tol
    return 2 * rounding + TRUNCATION_SHARE * problem.tol <= problem.tol / 2


def _rounding(problem: Problem, kappa: float) -> float:
    """Of matrices of this condition."""
    return ROUNDING * abs(problem.exponent.numerator) / problem.exponent.denominator * kappa


@lru_cache(maxsize=256)
def planned(exponent: Fraction, kappa: float, tol: float) -> Schedule:
    """Steps of degrees 1 and 2 on [1/(6·κ), 1]."""
    return plan(
        exponent.denominator,
        kappa=min(SLACK * kappa, 1e14),
        tol=TRUNCATION_SHARE * tol,
        exponent=exponent,
        degrees=(1, 2),
    )


def _account(ledger: Ledger, schedule: Schedule) -> Ledger:
    """What was done to every matrix."""
    ledger.strategy, ledger.precision, ledger.backend = "materialize-root", "fp16x3", "triton: a program to a matrix"
    ledger.schedule, ledger.steps = schedule, len(schedule)
    return ledger


def _work(root: SmallRoot, steps: int, problem: Problem) -> dict[str, int]:
    """Products of the matrix with the most steps."""
    columns = {} if problem.B is None else {"columns": problem.columns}
    return {"square": root.products(steps), **columns}


def _note(ledger: Ledger, found: SmallResult, ridge: Tensor | None, tol: float) -> Array | None:
    """Everything that the kernel says, in one synchronisation; which answers it is sure of.

    `None` where a matrix is not symmetric: the usual way refuses all of them, and names it. A ridge that float32 holds
    to less than its precision is not what was asked for.
    """
    numbers = (found.error, found.residual, found.amplification, found.bound, found.low, found.steps, found.status)
    rows = [number.double() for number in numbers]
    rows.append(torch.zeros_like(rows[0]) if ridge is None else ridge)
    error, residual, amplification, bound, low, steps, status, added = torch.stack(rows).cpu().numpy()
    ledger.error, ledger.residual, ledger.amplification = error, residual, amplification
    ledger.lambda_max, ledger.lambda_min, ledger.ridge = bound, low, added
    ledger.steps = int(steps.max())
    if (status.astype(int) & ASYMMETRIC).any():
        return None
    good: Array = _sure(status, error, added, tol)
    return good


def _sure(status: Any, error: Any, added: Any, tol: float) -> Any:
    """Which answers need no second look; arrays or tensors."""
    return (status == 0) & (error <= SHARE * tol) & ((added == 0) | (added >= LEAST_RIDGE))


def _finish(problem: Problem, options: Options, ledger: Ledger, rows: Array, usual: Usual) -> None:
    """The usual way for the matrices at `rows`."""
    shape = torch.Size((rows.size, problem.height, problem.columns))
    part = problem.rows(torch.from_numpy(rows).to(problem.A.device))
    part = replace(part, batch=torch.Size((rows.size,)), shape=shape, folded=False)
    ways = ledger.strategy, ledger.precision, ledger.backend, ledger.schedule
    products, steps = ledger.products, ledger.steps
    Z = torch.empty(shape, dtype=problem.dtype, device=problem.A.device)
    result = usual(part, replace(options, on_failure="warn", quiet=True, out=None), SolveWorkspace(), Z)
    ledger.take(rows, result)
    stats = result.stats
    ledger.strategy, ledger.precision, ledger.backend, ledger.schedule = ways
    ledger.products = {
        kind: products.get(kind, 0) + stats.products.get(kind, 0) for kind in {**products, **stats.products}
    }
    ledger.steps = steps + stats.steps
    ledger.fallbacks = [f"{stats.strategy} in {stats.precision} for {rows.size} of {problem.count}", *stats.fallbacks]


def _blind(report: Report, found: SmallResult, ridge: Tensor | None, deferred: bool) -> SolveResult:
    """What is known stays on the device; a matrix that was not finished (deferred: misses the tolerance) is NaN."""
    ledger, problem = report.ledger, report.problem
    added = torch.zeros_like(found.bound) if ridge is None else ridge
    known = (found.error, found.residual, found.amplification)
    if deferred:
        codes = _codes(found, _sure(found.status, found.error, added, problem.tol))
        ledger.Z.masked_fill_((codes != Status.converged)[:, None, None], torch.nan)
    else:
        codes = torch.full_like(found.status, Status.unverified, dtype=torch.int8)
        known = (torch.full_like(found.error, torch.nan),) * 3
    numbers = torch.stack([number.double() for number in (*known, found.bound, found.low, added)])
    return report.result(codes, numbers)


def _codes(found: SmallResult, good: Tensor) -> Tensor:
    """`Status`, int8."""
    codes = torch.where(good, int(Status.converged), int(Status.stagnated))
    codes = torch.where(found.bound == 0, int(Status.singular), codes)
    return torch.where((found.status & NONFINITE) > 0, int(Status.nonfinite_input), codes).to(torch.int8)

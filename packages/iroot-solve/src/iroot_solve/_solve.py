"""A problem that was read, through bounds, plan, iteration and certificate to the result."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from iroot_kernels import precision
from torch import Tensor

from iroot_solve._blind import solve_blind
from iroot_solve._case import Case, task_of
from iroot_solve._certificate import Array
from iroot_solve._device import on_device
from iroot_solve._errors import PreconditionerIgnoredWarning
from iroot_solve._gram_formed import finer
from iroot_solve._ladder import Ledger, planned, settle
from iroot_solve._matrix import CONGRUENCES
from iroot_solve._options import Options, require_blind
from iroot_solve._plain import plain
from iroot_solve._problem import Problem
from iroot_solve._repeats import Repeat, repeat_of, replayed
from iroot_solve._report import Report
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._reuse import recall, remember
from iroot_solve._small import small
from iroot_solve._spectrum import (
    candidate_for,
    first_candidate,
    first_status,
    require_symmetric,
    spectrum,
    wanted_strategy,
    wants_ritz,
)


def solve(problem: Problem, options: Options, workspace: SolveWorkspace | None) -> SolveResult:
    """The solver behind every public function for symmetric positive definite matrices."""
    ws = SolveWorkspace() if workspace is None else workspace
    require_blind(options, ws)
    # On the host as on the device: overflow is infinity, and infinity is no answer.
    device = problem.A.device
    with on_device(device), torch.no_grad(), _without_autocast(device.type), np.errstate(all="ignore"):
        Z = destination(problem, options.out)
        task_of(problem, options).check(options.strategy)
        if problem.empty:
            ledger = Ledger.empty(Z.zero_())
            ledger.codes[:], ledger.error[:] = Status.converged, 0.0
            return Report(problem, options, ws, ledger).result()
        repeat = repeat_of(problem, options, workspace)
        result = None if repeat is None else replayed(repeat, problem, options, ws, Z, solve)
        if result is not None:
            return result
        seen = None if repeat is None else repeat.kappa
        if repeat is not None and repeat.caution > 1:
            options = replace(options, caution=repeat.caution)
        result = plain(problem, options, ws, Z) or small(problem, options, ws, Z, _part, seen)
        if result is not None:
            if repeat is not None:
                repeat.learn(result.stats)
            return result
        _warn_if_ignored(problem, options)
        if options.blind:
            return solve_blind(problem, options, ws, Z)
        case, ledger = Case(problem, options, ws), Ledger.empty(Z)
        return _checked(case, ledger, repeat)


def _part(problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor) -> SolveResult:
    """What is left of a batch, the usual way."""
    return _checked(Case(problem, options, ws), Ledger.empty(Z))


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Entering torch.autocast costs as much as ten operations: only where it is on."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _checked(case: Case, ledger: Ledger, repeat: Repeat | None = None) -> SolveResult:
    """The usual way: read the facts, choose, run, certify, climb."""
    options, problem = case.options, case.problem
    kept = recall(case)
    unknown = kept is None and case.ends is None
    if unknown and wants_ritz(case):
        case.look()
    elif unknown:
        case.matrix.matrix(precision(first_candidate(case.task, wanted_strategy(case)).precision).storage)
    facts = case.read()
    require_symmetric(problem, facts)
    ledger.note(facts)
    early = first_status(facts, problem.exponent < 0 and not options.pinv)
    if early is not None:
        return _around(case, ledger, early)
    known = spectrum(case, facts)
    candidate = candidate_for(case, known)
    exact = finer(case, facts, known, candidate)
    if exact is not None:
        return _checked(exact, ledger)
    ledger.fallbacks += known.broken
    case.kappa = known.kappa
    again = None if kept is None else kept.outcome(case)
    outcome = again or planned(case, candidate, known.low, known.high)
    if options.verify:
        settled = settle(case, ledger, np.arange(problem.count), outcome, known.low, known.bound)
        if settled and again is None and not ledger.fallbacks:
            remember(case, outcome)
        if repeat is not None:
            repeat.wary(ledger.caution)
        if settled and repeat is not None and options.kappa_max is None:
            repeat.note(case, ledger, known)
    else:
        case.deliver(outcome, ledger.Z)
        ledger.account(outcome, problem.gram)
    return Report(problem, options, case.ws, ledger, case).finish()


def _around(case: Case, ledger: Ledger, early: Array) -> SolveResult:
    """Some matrices have no answer: the others are solved without them."""
    problem, options = case.problem, case.options
    ledger.codes[:] = np.where(early < 0, Status.stagnated, early)
    zero = np.flatnonzero(early == Status.converged)
    ledger.Z[torch.from_numpy(zero)], ledger.error[zero] = 0.0, 0.0
    report = Report(problem, options, case.ws, ledger, case)
    fine = np.flatnonzero(early < 0)
    if (options.on_failure == "raise" and (early > Status.converged).any()) or not fine.size:
        return report.finish()
    rows = torch.from_numpy(fine).to(problem.A.device)
    part = replace(
        problem.rows(rows),
        batch=torch.Size((fine.size,)),
        shape=torch.Size((fine.size, problem.height, problem.columns)),
    )
    ledger.take(fine, solve(part, replace(options, on_failure="warn", quiet=True, out=None), None))
    return report.finish()


def destination(problem: Problem, out: Tensor | None) -> Tensor:
    """`(b, n, k)` for Z: fresh, or a view of `out` where that is not A or B as well."""
    shape = (problem.count, problem.height, problem.columns)
    if out is None:
        return torch.empty(shape, dtype=problem.dtype, device=problem.A.device)
    fits = out.shape == problem.shape and out.dtype == problem.dtype and out.device == problem.A.device
    if not fits or not out.is_contiguous() or problem.folded:
        raise ValueError(
            f"out must be contiguous with shape {tuple(problem.shape)}, dtype {problem.dtype} and device "
            f"{problem.A.device} (and no batch of B may share one A), not {tuple(out.shape)}, {out.dtype}, {out.device}"
        )
    given = [V.untyped_storage().data_ptr() for V in (problem.A, problem.B) if V is not None]
    if out.untyped_storage().data_ptr() in given:
        # What is passed is needed until there is an answer.
        return torch.empty(shape, dtype=problem.dtype, device=problem.A.device)
    return out.view(shape)


def _warn_if_ignored(problem: Problem, options: Options) -> None:
    if options.strategy == "eigh" and problem.exponent != -1:
        warn_of_ignored_scaling(options, "with strategy='eigh'")


def warn_of_ignored_scaling(options: Options, where: str) -> None:
    """Say that a congruence was asked for where none can help."""
    if options.precond.mode in CONGRUENCES:
        warnings.warn(
            f"PrecondConfig(mode={options.precond.mode!r}) changes nothing {where}; drop it",
            PreconditionerIgnoredWarning,
            stacklevel=5,
        )

"""A problem that was read, through bounds, plan, iteration and certificate to the result."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from torch import Tensor

from iroot_solve._case import Case, Facts, task_of
from iroot_solve._choose import ITERATIONS, choose
from iroot_solve._errors import PreconditionerIgnoredWarning
from iroot_solve._ladder import Ledger, settle
from iroot_solve._matrix import CONGRUENCES
from iroot_solve._options import Options
from iroot_solve._problem import Problem
from iroot_solve._report import Report
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._spectrum import candidate_for, first_status, require_symmetric, spectrum, wants_ritz

# λmax of a normalised matrix, as a share of its Lanczos bound: 1.2–1.3 was seen, and scaling to [1/2, 1) adds up to 2.
BLIND_SHARE = 0.35


def solve(problem: Problem, options: Options, workspace: SolveWorkspace | None) -> SolveResult:
    """The solver behind every public function for symmetric positive definite matrices."""
    ws = SolveWorkspace() if workspace is None else workspace
    with torch.no_grad(), torch.autocast(problem.A.device.type, enabled=False):
        ledger = Ledger.empty(_destination(problem, options.out))
        task_of(problem, options).check(options.strategy)
        if problem.empty:
            ledger.codes.fill_(int(Status.converged))
            ledger.error.zero_()
            return Report(problem, options, ws, ledger).result()
        case = Case(problem, options, ws)
        _warn_if_ignored(problem, options)
        return _blind(case, ledger) if options.blind else _checked(case, ledger)


def _checked(case: Case, ledger: Ledger) -> SolveResult:
    """The usual way: read the facts, choose, run, certify, climb."""
    options, problem = case.options, case.problem
    if wants_ritz(case):
        case.ritz()
    facts = case.read()
    require_symmetric(problem, facts)
    sign = 1 if problem.exponent > 0 else -1
    early = [first_status(fact, sign) for fact in facts]
    if any(status is not None for status in early):
        return _around(case, ledger, facts, early)
    known = spectrum(case, facts)
    if known.broken_promise:
        ledger.fallbacks.append(f"own bound: lambda_max={options.lambda_max:g} is below a Ritz value")
    outcome = case.run(candidate_for(case, known), known.low, known.high)
    report = Report(problem, options, case.ws, ledger, case)
    if not options.verify:
        ledger.Z.copy_(case.deliver(outcome))
        ledger.account(outcome)
        return report.finish()
    index = torch.arange(problem.count, device=ledger.Z.device)
    if settle(case, ledger, index, outcome, known.low, known.bound) and problem.tol >= 2 * problem.unit_roundoff:
        ledger.codes.fill_(int(Status.converged))
        return report.result()
    return report.finish()


def _around(case: Case, ledger: Ledger, facts: list[Facts], early: list[Status | None]) -> SolveResult:
    """Some matrices have no answer: the others are solved without them."""
    problem, options = case.problem, case.options
    codes = [int(Status.stagnated if status is None else status) for status in early]
    ledger.codes.copy_(torch.tensor(codes, dtype=torch.int8))
    zero = [i for i, status in enumerate(early) if status is Status.converged]
    ledger.Z[zero], ledger.error[zero] = 0.0, 0.0
    report = Report(problem, options, case.ws, ledger, case)
    fine = [i for i, status in enumerate(early) if status is None]
    wrong = any(status not in (None, Status.converged) for status in early)
    if (options.on_failure == "raise" and wrong) or not fine:
        return report.finish()
    rows = torch.tensor(fine, device=problem.A.device)
    part = replace(
        problem,
        A=problem.A[rows],
        B=None if problem.B is None else problem.B[rows],
        batch=torch.Size((len(fine),)),
        shape=torch.Size((len(fine), problem.n, problem.columns)),
    )
    ledger.take(rows, solve(part, replace(options, on_failure="warn", quiet=True, out=None), None))
    return report.finish()


def _blind(case: Case, ledger: Ledger) -> SolveResult:
    """Nothing is read back: the plan follows from the promised condition number alone."""
    case.ritz()
    case.matrix.normalise()
    kappa, strategy = case.options.kappa_max, case.options.strategy
    assert kappa is not None
    if strategy == "auto":
        strategy = next(name for name in ITERATIONS if name in case.task.strategies)
    low, high = BLIND_SHARE / kappa, 1.0
    finite = case.matrix.blank()
    outcome = case.run(choose(case.task, low, high, strategy), low, high)
    ledger.Z.copy_(case.deliver(outcome))
    ledger.Z.masked_fill_(~finite[:, None, None], torch.nan)
    ledger.account(outcome)
    ledger.codes.fill_(int(Status.unverified))
    return Report(case.problem, case.options, case.ws, ledger, case).result()


def _destination(problem: Problem, out: Tensor | None) -> Tensor:
    """`(b, n, k)` for Z: fresh, or a view of `out`."""
    shape = (problem.count, problem.n, problem.columns)
    if out is None:
        return torch.empty(shape, dtype=problem.A.dtype, device=problem.A.device)
    fits = out.shape == problem.shape and out.dtype == problem.A.dtype and out.device == problem.A.device
    if not fits or not out.is_contiguous() or problem.folded:
        raise ValueError(
            f"out must be contiguous with shape {tuple(problem.shape)}, dtype {problem.A.dtype} and device "
            f"{problem.A.device} (and no batch of B may share one A), not {tuple(out.shape)}, {out.dtype}, {out.device}"
        )
    return out.view(shape)


def _warn_if_ignored(problem: Problem, options: Options) -> None:
    if options.strategy == "eigh" and options.precond.mode in CONGRUENCES and problem.exponent != -1:
        warnings.warn(
            f"PrecondConfig(mode={options.precond.mode!r}) changes nothing with strategy='eigh'; drop it",
            PreconditionerIgnoredWarning,
            stacklevel=4,
        )

"""A solve that reads nothing back: its plan follows from a promised condition number, and what is known of the result
stays where that is.

Every operation is queued, none waits, and nothing is copied from the host, so that a graph can record it. With
`verify="deferred"` the certificate is queued as well: statuses, errors and the NaN of matrices that failed are tensors
like Z, there for whoever reads them later. There is no ladder: no operation of it can depend on what nobody has read.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from iroot_solve._case import Case
from iroot_solve._certificate import Certificate, put
from iroot_solve._choose import candidates
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._outcome import Outcome
from iroot_solve._problem import Problem
from iroot_solve._report import Report
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._spectrum import symmetry_limit
from iroot_solve._task import Candidate, Task

# A normalised bound lies in [1/2, 1).
NORMALISED = 0.5
# Of tol, for what is predicted: without a ladder spectra that round more, and what an estimate adds, have to fit in.
ROOM = 0.25
# Of κ·q/s: the error that rounding GᵀG from float64 to float32 makes, numbers independently, in matrices without
# structure: about 2^-25·‖A‖_F/√n of the smallest eigenvalue, ‖A‖_F a third of √n·‖A‖.
COPIED = 2.0**-26
FORMS = ("direct-solve", "materialize-root", "hybrid-pe-nsrc", "chebyshev", "cholesky")


def solve_blind(problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor) -> SolveResult:
    """Z and what is known of it; matrices without an answer are NaN."""
    case = Case(problem, options, ws)
    case.look()
    low, high = _spectrum(case)
    candidate, finite = _candidate(case, low, high), case.matrix.upper < torch.inf
    if candidate.strategy in ("eigh", "cholesky"):
        case.matrix.blank()
    outcome = case.run(candidate, low, high)
    if options.deferred:
        status, certificate = _judged(case, outcome, Z, finite)
        Z.masked_fill_((status != Status.converged)[:, None, None], torch.nan)
    else:
        case.deliver(outcome, Z).masked_fill_(~finite[:, None, None], torch.nan)
        status = torch.full_like(finite, Status.unverified, dtype=torch.int8)
        certificate = Certificate(*torch.full_like(case.matrix.upper, math.nan).expand(3, -1))
    ledger = Ledger.empty(Z)
    ledger.account(outcome, problem.gram)
    return Report(problem, options, ws, ledger, case).result(status, torch.stack((*certificate, *_ends(case))))


def _spectrum(case: Case) -> tuple[float, float]:
    """What is planned for: λmax is `least_share` of its bound or more, and the bound 1, or in [1/2, 1)."""
    assert case.options.kappa_max is not None
    share = case.least_share * (NORMALISED if case.matrix.stretch is None else 1.0)
    return share / case.options.kappa_max, 1.0


def _candidate(case: Case, low: float, high: float) -> Candidate:
    """Of the caller's strategy, or the cheapest that a graph can hold."""
    task, strategy = case.task, case.options.strategy
    names = recordable(task, strategy) or ("eigh",)
    if names == ("eigh",) and (case.options.deferred or case.ws.recording):
        raise ValueError(f"exponent={task.exponent} is for eigh, and a call that reads nothing back cannot take that")
    assert case.options.kappa_max is not None
    kappa, gram = case.options.kappa_max, case.problem.gram
    copied = 0.0 if gram is None else COPIED * kappa * abs(float(task.exponent))
    return fastest(task, low, high, kappa, names, copied)


@lru_cache(maxsize=256)
def fastest(
    task: Task, low: float, high: float, kappa: float, names: tuple[str, ...], copied: float = 0.0
) -> Candidate:
    """The cheapest candidate of these strategies that is predicted to be well within the tolerance, or the most
    accurate one.

    Cholesky in float64: a refinement of less is for those who have seen that they need one.

    Args:
        task: What is to be done.
        low, high: The spectrum to plan for.
        kappa: The condition number, for the rounding errors.
        names: Of strategies.
        copied: Error of Z from rounding A to float32.
    """
    found = [
        candidate if candidate.precision == "fp64" else replace(candidate, error=candidate.error + copied)
        for candidate in candidates(task, low, high, kappa)
        if candidate.strategy in names and (len(names) == 1 or _recorded(candidate))
    ]
    good = [c for c in found if c.with_caution(task.caution) <= ROOM * task.tol]
    return good[0] if good else min(found, key=lambda c: (c.error, c.milliseconds))


def _recorded(candidate: Candidate) -> bool:
    """Whether it is for a graph, where nobody has asked for its strategy by name."""
    if candidate.strategy == "cholesky":
        return candidate.precision == "fp64"
    return candidate.strategy != "chebyshev" or candidate.symmetric


def recordable(task: Task, strategy: str) -> tuple[str, ...]:
    """The strategies that a graph can hold, of those that apply."""
    return tuple(name for name in FORMS if name in task.strategies) if strategy == "auto" else (strategy,)


def _judged(case: Case, outcome: Outcome, Z: Tensor, finite: Tensor) -> tuple[Tensor, Certificate]:
    """`Status` `(b,)` int8, and the certificate: of the matrix as `solve` would have refused it, too."""
    matrix, problem = case.matrix, case.problem
    found = case.certify_unread(outcome, Z).certificate
    if matrix.scales.right is not None:
        finite = finite & (matrix.scales.right < torch.inf)
    zero = matrix.upper == 0
    symmetric = matrix.defect <= symmetry_limit(problem)
    error = put(math.inf, ~(finite & symmetric), put(_of_zero(problem), zero, found.error))
    status = torch.full_like(zero, Status.stagnated, dtype=torch.int8)
    status.masked_fill_(error <= problem.reachable_tol, Status.converged)
    if problem.exponent < 0:
        status.masked_fill_(zero, Status.singular)
    return status.masked_fill_(~finite, Status.nonfinite_input), found._replace(error=error)


def _of_zero(problem: Problem) -> float:
    """The error of what comes out for a zero matrix: zero, which has positive powers."""
    return 0.0 if problem.exponent > 0 else math.inf


def _ends(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """(bound of λmax, estimate of λmin, ridge) in units of A; NaN where nobody looked."""
    matrix = case.matrix
    unit = torch.exp2(matrix.exponent.double())
    low = torch.full_like(unit, math.nan) if case.ends is None else case.ends[0] * unit
    return matrix.upper * unit, low, matrix.ridge

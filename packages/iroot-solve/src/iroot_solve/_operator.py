"""(A + ridge·I)^α·B where A is only known by what it does: V ↦ A·V."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from iroot_kernels import Workspace
from iroot_precond import ldexp, scale_by_power_of_two
from torch import Tensor

from iroot_solve._device import on_device
from iroot_solve._ladder import Ledger
from iroot_solve._lanczos import run_lanczos
from iroot_solve._options import Options, require_blind
from iroot_solve._outcome import Outcome
from iroot_solve._problem import Problem, check_dtype
from iroot_solve._report import Report
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._scales import lost, magnitude
from iroot_solve._solve import destination, warn_of_ignored_scaling
from iroot_solve._sums import chebyshev_fixed, run_chebyshev
from iroot_solve._sums_checked import chebyshev_checked

STRATEGIES = ("auto", "lanczos", "chebyshev")
PRECISIONS = {torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


def is_operator(A: object) -> bool:
    """Whether A is something to multiply by, and no tensor."""
    return not isinstance(A, Tensor) and (callable(A) or callable(getattr(A, "matmul", None)))


def placeholder(B: Tensor | None) -> Any:
    """A matrix of zeros, without memory, that stands for an operator on B."""
    if not isinstance(B, Tensor) or not B.ndim:
        raise ValueError("A is an operator: pass B, a tensor (..., n, k) or (n,)")
    check_dtype("B", B)
    batch, n = (B.shape[:-2], B.shape[-2]) if B.ndim > 1 else (B.shape[:0], B.shape[0])
    return B.new_zeros(()).expand(*batch, n, n)


class Operator:
    """A + ridge·I on flat batches.

    Args:
        A: A callable or an object with `matmul`; gets and gives `(..., n, k)` like the caller's B.
        problem: Holds B and its batch.
        ridge: Added to the diagonal.
    """

    def __init__(self, A: Any, problem: Problem, ridge: float) -> None:
        self.multiply: Callable[[Tensor], Tensor] = A.matmul if hasattr(A, "matmul") else A
        self.problem, self.ridge = problem, ridge

    def __call__(self, V: Tensor) -> Tensor:
        """(A + ridge·I)·V for V `(b, n, k)`, multiplied in the caller's dtype."""
        b, n, k = V.shape
        found = self.multiply(V.to(self.problem.dtype).reshape(*self.problem.batch, n, k))
        if not isinstance(found, Tensor) or found.shape != (*self.problem.batch, n, k):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"A must map (..., n, k) to the same shape, but made {shape} of {(*self.problem.batch, n, k)}"
            )
        found = found.to(V.dtype).reshape(b, n, k)
        return found.add(V, alpha=self.ridge) if self.ridge else found


def solve_operator(A: Any, problem: Problem, options: Options, workspace: SolveWorkspace | None) -> SolveResult:
    """`solve_spd` for an operator: lanczos, or chebyshev where the ends of the spectrum are promised.

    Raises:
        ValueError: Settings that need the entries of A.
        IrootError: As `solve_spd`; there is no rung below the first.
    """
    _check(problem, options)
    warn_of_ignored_scaling(options, "for an operator")
    ws = SolveWorkspace() if workspace is None else workspace
    require_blind(options, ws, options.strategy == "chebyshev")
    with on_device(problem.A.device), torch.no_grad(), np.errstate(all="ignore"):
        ledger = Ledger.empty(destination(problem, options.out))
        report, operator = Report(problem, options, ws, ledger), Operator(A, problem, options.damping.ridge)
        if problem.empty:
            ledger.Z.zero_()
            ledger.codes[:], ledger.error[:] = Status.converged, 0.0
        elif options.blind and options.strategy == "chebyshev":
            return _blind(operator, report)
        else:
            _solve(operator, problem, options, ledger, ws)
        return report.finish()


def _check(problem: Problem, options: Options) -> None:
    if options.deferred and options.strategy != "chebyshev":
        raise ValueError("verify='deferred' applies to an operator with strategy='chebyshev' only: others read numbers")
    if problem.B is None:
        raise ValueError("A is an operator: its root has no entries; pass B")
    if options.strategy not in STRATEGIES:
        raise ValueError(
            f"strategy={options.strategy!r} does not apply to an operator; those that do: {', '.join(STRATEGIES)}"
        )
    if options.damping.ridge_rel:
        raise ValueError("ridge_rel needs A's diagonal, which an operator does not have; pass ridge")
    if options.pinv:
        raise ValueError("on_singular='pinv' needs A's eigenvalues, which an operator does not have")
    if abs(problem.exponent) > 1:
        raise ValueError(f"exponent={problem.exponent} does not apply to an operator: it must lie in [-1, 1]")
    promised = options.lambda_max is not None and options.kappa_max is not None
    if options.strategy == "chebyshev" and not (promised and problem.exponent < 0):
        raise ValueError("strategy='chebyshev' for an operator needs lambda_max, kappa_max and a negative exponent")


def _scaled(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """2^-f·B with entries of at most 1, f, and which are finite; the others are 0."""
    assert problem.B is not None
    size = magnitude(problem.B)
    fine = size.isfinite()
    f = torch.frexp(torch.where(fine, size, 1.0)).exponent
    return scale_by_power_of_two(problem.B.to(problem.storage), f).masked_fill(~fine[:, None, None], 0.0), f, fine


def _blind(A: Operator, report: Report) -> SolveResult:
    """As many terms as the promised spectrum needs; nothing is read, and the error known where Z is, or not at all."""
    problem, options, ledger = report.problem, report.options, report.ledger
    B, f, fine = _scaled(problem)
    settings = (A, B, problem.exponent, *_promised(options), problem.tol, report.ws)
    if options.deferred:
        outcome = chebyshev_checked(*settings, options.seed, PRECISIONS[problem.dtype])
    else:
        outcome = chebyshev_fixed(*settings)
    ledger.account(outcome)
    ledger.Z.copy_(ldexp(outcome.Z, f[:, None, None]))
    numbers = torch.full((6, problem.count), torch.nan, dtype=torch.float64, device=f.device)
    numbers[5] = options.damping.ridge
    codes = torch.full_like(f, Status.unverified, dtype=torch.int8)
    if outcome.error is not None:
        gone = lost(magnitude(ledger.Z), magnitude(outcome.Z), problem.dtype)
        numbers[:2] = error = torch.where(gone | ~fine, torch.inf, outcome.error)
        codes = torch.where(error <= problem.reachable_tol, int(Status.converged), int(Status.stagnated))
        codes = torch.where(fine, codes, int(Status.nonfinite_input)).to(torch.int8)
    unanswered = ~fine if outcome.error is None else codes != Status.converged
    ledger.Z.masked_fill_(unanswered[:, None, None], torch.nan)
    return report.result(codes, numbers)


def _solve(A: Operator, problem: Problem, options: Options, ledger: Ledger, ws: Workspace) -> None:
    B, f, fine = _scaled(problem)
    outcome = _run(A, B, problem, options, ws)
    ledger.Z.copy_(ldexp(outcome.Z, f[:, None, None]))
    assert outcome.error is not None
    gone = lost(magnitude(ledger.Z), magnitude(outcome.Z), problem.dtype)
    ledger.error = torch.where(gone, torch.inf, outcome.error).cpu().numpy()
    ledger.residual = ledger.error
    ledger.account(outcome)
    ledger.ridge[:] = options.damping.ridge
    if outcome.lowest is not None:
        ledger.lambda_min = outcome.lowest.cpu().numpy().astype(float)
        # A Ritz value of zero, up to rounding, is fine for a positive power: only where there is no answer.
        ledger.codes[np.isinf(ledger.error) & (ledger.lambda_min <= 0)] = Status.not_positive_definite
    ledger.codes[~fine.cpu().numpy()] = Status.nonfinite_input


def _run(A: Operator, B: Tensor, problem: Problem, options: Options, ws: Workspace) -> Outcome:
    name = PRECISIONS[problem.dtype]
    if options.strategy != "chebyshev":
        return run_lanczos(A, B, problem.exponent, problem.tol, ws, name=name)
    low, high = _promised(options)
    return run_chebyshev(A, B, problem.exponent, low, high, problem.tol, ws, name=name)


def _promised(options: Options) -> tuple[float, float]:
    """The ends of the spectrum."""
    assert options.lambda_max is not None and options.kappa_max is not None
    return options.lambda_max / options.kappa_max, options.lambda_max

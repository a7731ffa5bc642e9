"""(GᵀG + ridge·I)^α·B by Golub–Kahan bidiagonalisation: no GᵀG, and rounding of κ(G)·u instead of κ(G)²·u.

Products with G perturb it by about u·‖G‖, and its singular values σ relatively by κ(G)·u; (σ² + r)^α moves by 2|α|
times that (`iroot_kernels.golub_kahan_apply`).
"""

from __future__ import annotations

import numpy as np
import torch
from iroot_kernels import golub_kahan_apply
from iroot_precond import ldexp, power_of_two
from torch import Tensor

from iroot_solve._device import on_device
from iroot_solve._ladder import Ledger
from iroot_solve._lanczos import SHARE
from iroot_solve._options import Options
from iroot_solve._predict import rounding_error
from iroot_solve._problem import Problem
from iroot_solve._report import Report
from iroot_solve._result import DirectSchedule, SolveResult, SolveWorkspace, Status
from iroot_solve._scales import lost, magnitude
from iroot_solve._solve import destination
from iroot_solve._wide_gram import scaled_right_hand_side


def solve_golub_kahan(problem: Problem, options: Options, ws: SolveWorkspace) -> SolveResult:
    """`solve_gram_spd` with strategy="lanczos", for any aspect of G.

    Raises:
        ValueError: Without B; a power outside [−1, 1]; the pseudo-inverse.
        IrootError: As `solve_gram_spd`; there is no rung below the first.
    """
    if problem.B is None or options.pinv or abs(problem.exponent) > 1:
        raise ValueError("strategy='lanczos' of a Gram matrix needs B, an exponent in [-1, 1] and on_singular='error'")
    with on_device(problem.A.device), torch.no_grad(), np.errstate(all="ignore"):
        ledger = Ledger.empty(destination(problem, options.out))
        _solve(problem, options, ledger, ws)
        return Report(problem, options, ws, ledger).finish()


def _solve(problem: Problem, options: Options, ledger: Ledger, ws: SolveWorkspace) -> None:
    source, alpha, damping = problem.gram, problem.exponent, options.damping
    assert source is not None
    B, f, usable = scaled_right_hand_side(problem, ws)
    G = source.G if bool(usable.all()) else source.G.masked_fill(~usable[:, None, None], 0.0)
    unit = power_of_two(2 * source.exponent, torch.float64)
    ridge = damping.ridge / unit + damping.ridge_rel * G.square().sum((-2, -1)) / problem.n
    found = golub_kahan_apply(
        lambda V: torch.bmm(G, V),
        lambda U: torch.bmm(G.mT, U),
        B,
        float(alpha),
        tol=SHARE * problem.tol,
        max_steps=problem.n,
        ridge=ridge,
        ws=ws,
    )
    kappa = (found.ritz_high / found.ritz_low).sqrt().clamp_min(1.0).nan_to_num(1.0)
    error = found.error + rounding_error("lanczos", "fp64", 2 * kappa, alpha)
    error = torch.where(found.converged | (found.error > problem.tol), error, torch.inf)
    undo = 2 * source.exponent * alpha.numerator // alpha.denominator + f
    ledger.Z.copy_(ldexp(found.Z, undo[:, None, None]))
    gone = lost(magnitude(ledger.Z), magnitude(found.Z), problem.dtype)
    _record(ledger, torch.where(gone, torch.inf, error), usable)
    low, high, ledger.ridge = (torch.stack((found.ritz_low, found.ritz_high, ridge)) * unit).cpu().numpy()
    ledger.lambda_min, ledger.lambda_max = low, high
    ledger.codes[found.indefinite.cpu().numpy() & usable.cpu().numpy()] = Status.singular
    ledger.strategy, ledger.precision, ledger.steps = "lanczos", "fp64", found.steps
    ledger.schedule = DirectSchedule("lanczos", f"golub-kahan in fp64: {found.steps} steps, (RᵀR + r)^({alpha})·e₁")
    ledger.products = {"columns": found.products // problem.count}


def _record(ledger: Ledger, error: Tensor, usable: Tensor) -> None:
    """The estimate, and which matrices have no answer."""
    ledger.error = error.cpu().numpy()
    ledger.residual = ledger.error
    ledger.codes = np.where(usable.cpu().numpy(), Status.stagnated, Status.nonfinite_input).astype(np.int8)

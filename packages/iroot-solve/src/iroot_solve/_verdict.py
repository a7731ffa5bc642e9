"""From numbers to a status for every matrix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._errors import (
    IrootError,
    NonFiniteInputError,
    NotPositiveDefiniteError,
    SingularMatrixError,
    StagnationError,
)
from iroot_solve._outcome import Outcome
from iroot_solve._problem import Problem
from iroot_solve._result import SolveResult, Status

NO_ANSWER = (Status.singular, Status.not_positive_definite, Status.nonfinite_input, Status.no_principal_root)


def suspicious(outcome: Outcome, lowest: Array, highest: Array, problem: Problem, cut: float | None) -> Array:
    """Where float64 eigenvalues do not show a definite matrix, `(b,)`.

    A semidefinite one will do for a positive exponent, and for the pseudo-inverse up to its `cut`.
    """
    if outcome.eigenvalues is None or outcome.precision != "fp64":
        return np.zeros(lowest.shape, dtype=bool)
    strict = problem.exponent < 0 and cut is None
    noise = max(_noise_share(problem.n), cut or 0.0) * np.maximum(np.abs(lowest), np.abs(highest))
    found: Array = lowest <= noise if strict else lowest < -noise
    return found


def _noise_share(n: int) -> float:
    """Eigenvalues of this size, relative to the largest, may be rounding."""
    return 8 * math.sqrt(n) * 2.0**-53


def eigenvalue_noise(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of this size may be rounding, `(b,)`."""
    return _noise_share(eigenvalues.shape[-1]) * eigenvalues.abs().amax(-1)


def spectrum_status(S: Tensor, eigenvalues: Tensor) -> Tensor:
    """Status of suspicious matrices: not definite, singular, or only graded (`stagnated`: look at the error).

    An eigenvalue within rounding of zero says singular only if the matrix scaled to a unit diagonal has one too: a
    graded matrix has tiny eigenvalues without being near a singular one.
    """
    negative = eigenvalues[..., 0] < -eigenvalue_noise(eigenvalues)
    diagonal = S.diagonal(dim1=-2, dim2=-1)
    d = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    scaled = torch.linalg.eigvalsh(d.unsqueeze(-1) * S * d.unsqueeze(-2))
    graded = (diagonal > 0).all(-1) & (scaled[..., 0] > eigenvalue_noise(scaled))
    status = torch.where(graded, int(Status.stagnated), int(Status.singular))
    return torch.where(negative, int(Status.not_positive_definite), status).to(torch.int8)


def error_for(problem: Problem, result: SolveResult, codes: Array) -> IrootError | None:
    """The exception for the worst status, or `None` where all is well."""
    worst = Status(int(codes.max()))
    if worst in (Status.converged, Status.unverified):
        return None
    failed = np.flatnonzero(codes == worst).tolist()
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    where = problem.name if len(codes) == 1 else f"{problem.name}[{failed[0]}]{others}"
    where += f" (shape {tuple(problem.A.shape[-2:])}, {problem.dtype})"
    make, text = _MESSAGES[worst]
    return make(f"{where} {text(problem, result, failed[0])}", result)


def _entry(values: Tensor, index: int) -> float:
    """The value of one matrix; one A may serve a batch of right-hand sides."""
    return float(values.reshape(-1)[min(index, values.numel() - 1)])


def _nonfinite(problem: Problem, result: SolveResult, index: int) -> str:
    source = problem.A if problem.gram is None else problem.gram.G
    name = "B" if bool(torch.isfinite(source[index]).all()) else ("A" if problem.gram is None else "G")
    return f"cannot be solved: {name} contains NaN or infinity; mask or clean it with torch.nan_to_num before the call"


def _not_positive(problem: Problem, result: SolveResult, index: int) -> str:
    low, high = (_entry(values, index) for values in (result.stats.lambda_min, result.stats.lambda_max))
    text = f"is not positive definite: λmin = {low:.3g}, λmax ≤ {high:.3g}"
    if problem.dtype in (torch.float16, torch.bfloat16):
        return text + (
            f"; rounding to {problem.dtype} alone can do that: pass ridge_rel ≥ 1e-2, or A as it was before rounding"
        )
    if abs(low) <= problem.n * problem.unit_roundoff * high:
        return text + ", which rounding of its entries explains; pass a ridge above that, e.g. ridge_rel=1e-6"
    return text + "; pass ridge > −λmin, or solve_nonspd for a general matrix"


def _singular(problem: Problem, result: SolveResult, index: int) -> str:
    kind = "zero" if not bool(problem.A[index].any()) else "exactly singular"
    return f"is {kind}: there is no inverse root; pass ridge > 0 (or ridge_rel), or on_singular='pinv'"


def _stagnated(problem: Problem, result: SolveResult, index: int) -> str:
    error, kappa = (_entry(values, index) for values in (result.stats.error, result.stats.kappa_proxy))
    floor = torch.finfo(problem.dtype).eps
    reason = (
        f"tol={problem.tol:g} is below the rounding of {problem.dtype} (2u = {floor:.1e})"
        if problem.tol < floor
        else f"tol={problem.tol:g} is out of reach at κ ≈ {kappa:.1e}"
    )
    return f"was solved to an estimated error of {error:.1e} only: {reason}; pass a larger tol or a ridge"


_MESSAGES = {
    Status.nonfinite_input: (NonFiniteInputError, _nonfinite),
    Status.not_positive_definite: (NotPositiveDefiniteError, _not_positive),
    Status.singular: (SingularMatrixError, _singular),
    Status.stagnated: (StagnationError, _stagnated),
}

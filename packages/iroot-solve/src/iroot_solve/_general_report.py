"""From the ledger to the result, for general matrices: statuses, and errors that say what was wrong."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np
import torch

from iroot_solve._certificate import Array
from iroot_solve._errors import (
    IrootError,
    NonFiniteInputError,
    NoPrincipalRootError,
    SingularMatrixError,
    StagnationError,
    StagnationWarning,
)
from iroot_solve._report import FIRST_WITHOUT, Report
from iroot_solve._result import SolveResult, Status


@dataclass
class GeneralReport(Report):
    """Also knows why there is no answer.

    Attributes:
        eigenvalues: By row: an eigenvalue on the negative real axis, in units of A.
    """

    eigenvalues: dict[int, complex] = field(default_factory=dict)

    def note_rank(self, rows: Array, rank: Array) -> None:
        """These matrices were looked at: singular where the rank is less than n."""
        n, ledger = self.problem.n, self.ledger
        ledger.codes[rows[rank < n]] = Status.singular
        if ledger.rank is None:
            ledger.rank = np.full(ledger.codes.shape, n, dtype=np.int64)
        ledger.rank[rows] = rank

    def note_eigenvalue(self, row: int, value: complex) -> None:
        """This matrix has no principal root."""
        self.eigenvalues[row] = value

    def finish(self) -> SolveResult:
        """Decide every status, then return, warn or raise."""
        self._decide()
        codes, rootless = self.ledger.codes, np.array(list(self.eigenvalues), dtype=np.int64)
        codes[rootless] = Status.no_principal_root
        self._blank((codes >= FIRST_WITHOUT) | ((codes == Status.stagnated) & np.isinf(self.ledger.error)))
        if self.options.on_failure == "nan":
            self._forget(codes == Status.stagnated)
        result = self.result()
        error = self._error(result)
        if error is not None and self.options.on_failure == "raise":
            raise error
        if error is not None and self.options.on_failure == "warn":
            warnings.warn(str(error), StagnationWarning, stacklevel=4)
        return result

    def _error(self, result: SolveResult) -> IrootError | None:
        """The exception for the worst status, or `None` where all is well."""
        codes = self.ledger.codes
        worst = Status(int(codes.max()))
        if worst in (Status.converged, Status.unverified):
            return None
        failed = np.flatnonzero(codes == worst).tolist()
        row = failed[0]
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        where = "A" if len(codes) == 1 else f"A[{row}]{others}"
        where += f" (shape {tuple(self.problem.A.shape[-2:])}, {self.problem.dtype})"
        if worst == Status.nonfinite_input:
            return NonFiniteInputError(f"{where} cannot be solved: {self._nonfinite(row)}", result)
        if worst == Status.singular:
            return SingularMatrixError(f"{where} is {self._singular(row)}", result)
        if worst == Status.no_principal_root:
            return NoPrincipalRootError(f"{where} has {self._rootless(row)}", result)
        return StagnationError(f"{where} was solved {self._stagnated(row)}", result)

    def _nonfinite(self, row: int) -> str:
        name = "B" if bool(torch.isfinite(self.problem.A[row]).all()) else "A"
        return f"{name} contains NaN or infinity; mask or clean it with torch.nan_to_num before the call"

    def _singular(self, row: int) -> str:
        assert self.ledger.rank is not None
        rank, n = int(self.ledger.rank[row]), self.problem.n
        kind = "zero" if rank == 0 else "singular to working precision"
        return (
            f"{kind}: its estimated rank is {rank} of {n}, so there is no inverse; drop dependent rows and columns, or "
            "take the least-squares solution torch.linalg.pinv(A) @ B"
        )

    def _rootless(self, row: int) -> str:
        p, value = self.problem.exponent.denominator, self.eigenvalues[row]
        shown = f"{value.real:.6g}" if not value.imag else f"{value.real:.6g}{value.imag:+.2g}i"
        return (
            f"no principal root of order {p}: its eigenvalue {shown} lies on the closed negative real axis or within "
            "rounding of it, where A^(-1/p) is not defined for p ≥ 2; p_val=1 is, or move the spectrum, e.g. by A + c·I"
        )

    def _stagnated(self, row: int) -> str:
        problem, ledger = self.problem, self.ledger
        error, floor = ledger.error[row], torch.finfo(problem.dtype).eps
        if problem.tol < floor:
            reason = f"tol={problem.tol:g} is below the rounding of {problem.dtype} (2u = {floor:.1e})"
        else:
            condition = ledger.lambda_max[row] / ledger.lambda_min[row]
            reason = f"tol={problem.tol:g} is out of reach at condition {condition:.1e}, or Z is beyond {problem.dtype}"
        return f"to an estimated error of {error:.1e} only: {reason}; pass a larger tol, or A and B in float64"

"""From the ledger to the result: statuses, stats, and what `on_failure` asks for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from iroot_solve._case import Case
from iroot_solve._errors import StagnationWarning
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._problem import Problem
from iroot_solve._result import SolveResult, SolveStats, SolveWorkspace, Status, unshape
from iroot_solve._verdict import NO_ANSWER, error_for


@dataclass
class Report:
    """Everything a result is made of."""

    problem: Problem
    options: Options
    ws: SolveWorkspace
    ledger: Ledger
    case: Case | None = None

    def finish(self) -> SolveResult:
        """Decide every status, then return, warn or raise."""
        self._decide()
        codes = self.ledger.codes.tolist()
        self._blank([i for i, code in enumerate(codes) if code in NO_ANSWER])
        if self.options.on_failure == "nan":
            self.ledger.Z[[i for i, code in enumerate(codes) if code == Status.stagnated]] = torch.nan
        result = self.result()
        error = error_for(self.problem, result, codes)
        if error is not None and self.options.on_failure == "raise":
            raise error
        if error is not None and self.options.on_failure == "warn" and not self.options.quiet:
            warnings.warn(str(error), StagnationWarning, stacklevel=5)
        return result

    def _decide(self) -> None:
        """Converged where the error meets the tolerance, unless the spectrum has already said otherwise."""
        ledger, problem = self.ledger, self.problem
        if not self.options.verify:
            found = torch.full_like(ledger.codes, int(Status.unverified))
        else:
            reachable = problem.tol >= 2 * problem.unit_roundoff
            reached = (ledger.error <= problem.tol) & reachable
            found = torch.where(reached, int(Status.converged), int(Status.stagnated)).to(torch.int8)
        decided = ledger.codes >= int(min(NO_ANSWER))
        ledger.codes = torch.where(decided, ledger.codes, found)

    def _blank(self, rows: list[int]) -> None:
        """No answer: NaN, with an infinite error."""
        if rows:
            self.ledger.Z[rows] = torch.nan
            self.ledger.error[rows] = torch.inf

    def result(self) -> SolveResult:
        """The result as the ledger stands."""
        Z = self.problem.restore(self.ledger.Z) if self.options.out is None else self.options.out
        return SolveResult(Z, self.ws, self._stats(), self.ledger.schedule)

    def _stats(self) -> SolveStats:
        ledger = self.ledger
        upper, lowest, ridge = self._spectrum()
        limit = self.problem.n * self.problem.unit_roundoff * upper

        def shaped(values: Tensor) -> Tensor:
            return unshape(values, self.problem.batch)

        return SolveStats(
            status_code=shaped(ledger.codes),
            error=shaped(ledger.error if self.options.verify else torch.full_like(ledger.error, torch.nan)),
            residual=shaped(ledger.residual if self.options.verify else torch.full_like(ledger.error, torch.nan)),
            amplification=shaped(ledger.amplification),
            lambda_max=shaped(upper),
            lambda_min=shaped(lowest),
            kappa_proxy=shaped(torch.where(lowest <= 0, torch.inf, upper / lowest)),
            ridge=shaped(ridge),
            data_limited=shaped((lowest > 0) & (lowest < limit)),
            strategy=ledger.strategy,
            precision=ledger.precision,
            products=ledger.products,
            steps=ledger.steps,
            fallbacks=tuple(ledger.fallbacks),
            precond="none" if self.case is None else self.case.matrix.precond,
        )

    def _spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """λmax bound, λmin estimate and ridge, in units of A."""
        lowest = self.ledger.lambda_min
        if self.case is None:
            nothing = torch.zeros_like(lowest)
            return nothing, lowest, nothing
        matrix = self.case.matrix
        ritz = torch.ldexp(self.case.ends[0].double(), matrix.exponent)
        lowest = torch.where(lowest.isnan(), ritz, lowest)
        return torch.ldexp(matrix.upper.double(), matrix.exponent), lowest, matrix.ridge

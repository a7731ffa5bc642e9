"""From the ledger to the result: statuses, stats, and what `on_failure` asks for."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iroot_solve._case import Case
from iroot_solve._certificate import Array
from iroot_solve._errors import StagnationWarning
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._problem import Problem
from iroot_solve._result import SolveResult, SolveStats, SolveWorkspace, Status, unshape
from iroot_solve._verdict import NO_ANSWER, error_for

FIRST_WITHOUT = int(min(NO_ANSWER))
CONVERGED, STAGNATED = np.int8(Status.converged), np.int8(Status.stagnated)


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
        codes = self.ledger.codes
        self._blank(codes >= FIRST_WITHOUT)
        if self.options.on_failure == "nan":
            self._forget(codes == Status.stagnated)
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
        found: Array = np.full_like(ledger.codes, Status.unverified)
        if self.options.verify:
            found = np.where(ledger.error <= problem.reachable_tol, CONVERGED, STAGNATED)
        ledger.codes = np.where(ledger.codes >= FIRST_WITHOUT, ledger.codes, found)

    def _blank(self, rows: Array) -> None:
        """No answer: NaN, with an infinite error."""
        self._forget(rows)
        self.ledger.error[rows] = np.inf

    def _forget(self, rows: Array) -> None:
        if rows.any():
            self.ledger.Z[torch.from_numpy(np.flatnonzero(rows)).to(self.ledger.Z.device)] = torch.nan

    def result(self, codes: Tensor | None = None, numbers: Tensor | None = None) -> SolveResult:
        """The result as the ledger stands; `codes` `(b,)` and `numbers` `(6, b)` where they were never read."""
        ledger, batch = self.ledger, self.problem.batch
        stats = SolveStats.of(
            batch,
            self._on_device(ledger.codes) if codes is None else codes,
            self._on_device(self._numbers()) if numbers is None else numbers,
            strategy=ledger.strategy,
            precision=ledger.precision,
            backend=ledger.backend,
            products=ledger.products,
            steps=ledger.steps,
            fallbacks=tuple(ledger.fallbacks),
            precond="none" if self.case is None else self.case.matrix.precond,
            noise=self.problem.n * self.problem.unit_roundoff,
            cut=None if ledger.cut is None else unshape(self._on_device(ledger.cut), batch),
            rank=None if ledger.rank is None else unshape(self._on_device(ledger.rank), batch),
        )
        return SolveResult(self.Z, self.ws, stats, ledger.schedule)

    @property
    def Z(self) -> Tensor:
        """Z in the caller's shape."""
        Z, out = self.ledger.Z, self.options.out
        if out is None:
            return self.problem.restore(Z)
        return out if out.data_ptr() == Z.data_ptr() else out.copy_(Z.view(out.shape))

    def _numbers(self) -> Array:
        """What the ledger knows of every matrix, `(6, b)`."""
        ledger = self.ledger
        error, residual = ledger.error, ledger.residual
        if not self.options.verify:
            error, residual = np.full((2, self.problem.count), np.nan)
        held = (error, residual, ledger.amplification, ledger.lambda_max, ledger.lambda_min, ledger.ridge)
        found: Array = np.stack(held)
        return found

    def _on_device(self, values: Array) -> Tensor:
        """Beside Z, and the host does not wait for it."""
        tensor, device = torch.from_numpy(values), self.ledger.Z.device
        return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)

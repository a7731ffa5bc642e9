"""A^(1/p)·Z = B as the solvers for general matrices see it, and what they make of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._ladder import Ledger
from iroot_solve._problem import Problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._scales import Scales, lost


@dataclass(frozen=True)
class Rung:
    """One way to an answer."""

    strategy: str
    precision: str

    def __str__(self) -> str:
        return f"{self.strategy} in {self.precision}"


class System:
    """A_s and B_s in float64, entries at most 1: scaled by powers of two as `Scales` undoes them.

    Attributes:
        A: `(b, n, n)`.
        B: `(b, n, k)`, or `None` for the root itself.
        scales: How Z goes back.
        size, right_size: max|a_ij| and max|b_ij| of what was passed (0 without B), on the host as all that follows.
        undo, exponent: Z = 2^undo·Z_s and A = 2^exponent·A_s.
    """

    def __init__(self, problem: Problem, ws: SolveWorkspace) -> None:
        self.problem, self.ws = problem, ws
        self._eigen: tuple[Tensor, Tensor] | None = None
        self.scales = Scales(problem, None)
        A = ws.buffer("A fp64", problem.A.shape, torch.float64, problem.A.device).copy_(problem.A)
        self.A = A.mul_(2 * self.scales.half(torch.float64))
        self.B: Tensor | None = None
        if problem.B is not None:
            B = ws.buffer("B fp64", problem.B.shape, torch.float64, problem.B.device).copy_(problem.B)
            self.B = B.mul_(self.scales.of_right(torch.float64))
        size = self.scales.size
        right = torch.zeros_like(size) if self.scales.right is None else self.scales.right
        facts = torch.stack((size, right, self.scales.undo.double(), self.scales.exponent.double()))
        self.size, self.right_size, undo, exponent = facts.cpu().numpy()
        self.undo: Array = undo.astype(int)
        self.exponent: Array = exponent.astype(int)

    def select(self, rows: Array) -> System:
        """The same for the matrices at `rows` only."""
        if rows.size == self.problem.count:
            return self
        index = torch.from_numpy(rows).to(self.A.device)
        part = System(self.problem.rows(index), SolveWorkspace())
        if self._eigen is not None:
            part._eigen = self._eigen[0][index], self._eigen[1][index]
        return part

    @property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues `(b, n)` and eigenvectors `(b, n, n)` of A_s, complex128; kept."""
        if self._eigen is None:
            values, vectors = torch.linalg.eig(self.A)
            self._eigen = values, vectors
        return self._eigen

    @property
    def right(self) -> Tensor:
        """B_s, the identity where there is none."""
        if self.B is not None:
            return self.B
        b, n = self.A.shape[:2]
        return torch.eye(n, dtype=self.A.dtype, device=self.A.device).expand(b, n, n)

    @property
    def doubled(self) -> bool:
        """The numbers passed need more than float64 residuals."""
        return self.problem.dtype is torch.float64


@dataclass
class Attempt:
    """Z_s `(b, n, k)` float64, and what is known of it, `(b,)` each.

    Attributes:
        error, residual, amplification: Of Z.
        largest: max|z_ij|.
        lowest, highest: Ends of the singular values (p = 1) or of the moduli of the eigenvalues.
        hopeless: No inverse was found in float64: look at the rank.
    """

    Z: Tensor
    error: Array
    residual: Array
    amplification: Array
    largest: Array
    lowest: Array
    highest: Array
    hopeless: Array
    strategy: str
    precision: str
    schedule: object
    steps: int = 0
    products: dict[str, int] = field(default_factory=dict)

    def record(self, ledger: Ledger, rows: Array, system: System) -> None:
        """Take the answers that are better than those there are; one beyond the range of its dtype is none."""
        gone = lost(np.ldexp(self.largest, system.undo), self.largest, ledger.Z.dtype)
        error = np.where(gone & ~np.isnan(self.largest), np.inf, self.error)  # NaN: nobody looked
        if ledger.strategy == "none" and rows.size == ledger.Z.shape[0]:
            system.scales.restore(self.Z, ledger.Z)
            better = np.arange(rows.size)
        else:
            better = np.flatnonzero(~(error >= ledger.error[rows]))
            Z = system.scales.restore(self.Z, ledger.Z.new_empty(self.Z.shape))
            ledger.Z[torch.from_numpy(rows[better]).to(Z.device)] = Z[torch.from_numpy(better).to(Z.device)]
        ledger.error[rows[better]] = error[better]
        ledger.residual[rows[better]] = self.residual[better]
        ledger.amplification[rows[better]] = self.amplification[better]
        ledger.lambda_min[rows] = np.ldexp(self.lowest, system.exponent)
        ledger.lambda_max[rows] = np.ldexp(self.highest, system.exponent)
        self._account(ledger)

    def _account(self, ledger: Ledger) -> None:
        for kind, count in self.products.items():
            ledger.products[kind] = ledger.products.get(kind, 0) + count
        ledger.steps += self.steps
        ledger.strategy, ledger.precision, ledger.schedule = self.strategy, self.precision, self.schedule

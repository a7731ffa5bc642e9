"""A^(1/p)·Z = B as the solvers for general matrices see it, and what they make of it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from functools import cached_property

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


@dataclass(frozen=True)
class Units:
    """Z = 2^undo·Z_s and A = 2^exponent·A_s, integers `(b,)` on the host."""

    undo: Array
    exponent: Array

    @classmethod
    def of(cls, facts: Array) -> Units:
        """From `System.facts`."""
        return cls(facts[2].astype(int), facts[3].astype(int))


@dataclass(frozen=True)
class Hardness:
    """What Newton–Schulz steps were up against.

    Attributes:
        kappa: The bound of σ_max over the smallest σ.
        noise: What rounding adds to X·A, in norm.
        corrections: Steps of refinement beyond what was predicted.
    """

    kappa: float
    noise: float
    corrections: int

    def joined(self, other: Hardness | None) -> Hardness:
        """The larger of each."""
        if other is None:
            return self
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Hardness(*(max(pair) for pair in pairs))


class System:
    """A_s and B_s in float64, entries at most 1: scaled by powers of two as `Scales` undoes them.

    Attributes:
        A: `(b, n, n)`.
        B: `(b, n, k)`, or `None` for the root itself.
        scales: How Z goes back.
        facts: On the device `(4, b)`, and read when they are first asked for:
        size, right_size: max|a_ij| and max|b_ij| of what was passed (0 without B).
        units: How Z and singular values go back.
    """

    def __init__(self, problem: Problem, ws: SolveWorkspace) -> None:
        self.problem, self.ws = problem, ws
        self._eigen: tuple[Tensor, Tensor] | None = None
        self.scales = Scales(problem, None)
        self.A = self._scaled("A fp64", problem.A, 2 * self.scales.half(torch.float64))
        self.B: Tensor | None = None
        if problem.B is not None:
            self.B = self._scaled("B fp64", problem.B, self.scales.of_right(torch.float64))
        size = self.scales.size
        right = torch.zeros_like(size) if self.scales.right is None else self.scales.right
        self.facts = torch.stack((size, right, self.scales.undo.double(), self.scales.exponent.double()))

    def _scaled(self, name: str, M: Tensor, factor: Tensor) -> Tensor:
        """M·factor in float64: at once on a device, and on a CPU, which would make a copy first, in its place."""
        out = self.ws.buffer(name, M.shape, torch.float64, M.device)
        return out.copy_(M).mul_(factor) if M.device.type == "cpu" else torch.mul(M, factor, out=out)

    @cached_property
    def _read(self) -> Array:
        found: Array = self.facts.cpu().numpy()
        return found

    @property
    def size(self) -> Array:
        found: Array = self._read[0]
        return found

    @property
    def right_size(self) -> Array:
        found: Array = self._read[1]
        return found

    @property
    def units(self) -> Units:
        return Units.of(self._read)

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
        hardness: For a plan that reads nothing; `None` of other strategies.
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
    hardness: Hardness | None = None

    def record(self, ledger: Ledger, rows: Array, system: System) -> None:
        """Take the answers that are better than those there are."""
        if ledger.strategy == "none" and rows.size == ledger.Z.shape[0]:
            system.scales.restore(self.Z, ledger.Z)
            self.note(ledger, rows, np.arange(rows.size), system.units)
            return
        better = np.flatnonzero(~(self._error(ledger, system.units) >= ledger.error[rows]))
        Z = system.scales.restore(self.Z, ledger.Z.new_empty(self.Z.shape))
        ledger.Z[torch.from_numpy(rows[better]).to(Z.device)] = Z[torch.from_numpy(better).to(Z.device)]
        self.note(ledger, rows, better, system.units)

    def note(self, ledger: Ledger, rows: Array, better: Array, units: Units) -> None:
        """All but Z, which is there."""
        ledger.error[rows[better]] = self._error(ledger, units)[better]
        ledger.residual[rows[better]] = self.residual[better]
        ledger.amplification[rows[better]] = self.amplification[better]
        ledger.lambda_min[rows] = np.ldexp(self.lowest, units.exponent)
        ledger.lambda_max[rows] = np.ldexp(self.highest, units.exponent)
        self._account(ledger)

    def _error(self, ledger: Ledger, units: Units) -> Array:
        """That of Z in its dtype: one beyond the range of that is no answer."""
        gone = lost(np.ldexp(self.largest, units.undo), self.largest, ledger.Z.dtype)
        found: Array = np.where(gone & ~np.isnan(self.largest), np.inf, self.error)  # NaN: nobody looked
        return found

    def _account(self, ledger: Ledger) -> None:
        for kind, count in self.products.items():
            ledger.products[kind] = ledger.products.get(kind, 0) + count
        ledger.steps += self.steps
        ledger.strategy, ledger.precision, ledger.schedule = self.strategy, self.precision, self.schedule

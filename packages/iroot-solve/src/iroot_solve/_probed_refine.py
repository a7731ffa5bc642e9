"""A⁻¹·B from an approximate inverse in float32, B and the probes of its certificate in one matrix.

The steps and the certificate of `_refine`, for a device, where a call costs as much as a thin product: Gaussian vectors
V stand beside B, so that one correction serves both, and the norms of all columns are read at once.

X may lack a direction of small σ altogether: then no X·R shows it, but V − A·Z does. Each column has a part of size 1
there, by chance, of which m corrections leave (1 − y)^m if X·A has the eigenvalue y; of all other directions, √n
together, they leave next to nothing. A norm over V of at most UNSEEN is asked for: P(χ²₄ ≤ UNSEEN²) = 8e-7.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._refine import CONTRACTS, MAX_ROUNDS, PROBES, Refined, doubled_residual, gaussian

# Corrections between two looks.
MOST_AT_ONCE = 8
UNSEEN = 0.05


class FormedInverse(Protocol):
    """X ≈ A⁻¹.

    Attributes:
        X: `(b, n, n)` float32.
        highest: A bound of σ_max(A) `(b,)`.
        found: There is one for some matrix; for others X is NaN.
    """

    X: Tensor
    found: bool
    highest: Array


class ProbedRefinement:
    """Z ← Z + X·(C − A·Z) with C = [B, V].

    Args:
        X: The approximate inverse `(b, n, n)` float32.
        A: `(b, n, n)` float64, entries at most 1.
        B: `(b, n, k)` float64, entries at most 1.
        doubled: Residuals in doubled precision.
        ws: Buffers.
        seed: Of V.
    """

    def __init__(self, X: Tensor, A: Tensor, B: Tensor, doubled: bool, ws: Workspace, seed: int) -> None:
        b, n, self.k = B.shape
        self.X, self.A, self.ws = X, A, ws
        shape = b, n, self.k + PROBES
        self.C, self.Z, self.R = (ws.buffer(f"probed {x}", shape, torch.float64, B.device) for x in "CZR")
        self.narrow, self.D = (ws.buffer(f"probed {x} fp32", shape, torch.float32, B.device) for x in "RD")
        V = ws.hold(gaussian(n, PROBES, B.device, seed))
        torch.cat((B, V.expand(b, n, PROBES)), -1, out=self.C)
        self.split = doubled_residual(A, ws) if doubled else None
        self.columns = shape[-1]
        self.rounds = 0
        self.Z.copy_(self._times(self.C))

    def run(self, F: FormedInverse, tol: float, first: int) -> Refined:
        """`first` steps, then as many as it takes to an error of `tol` and UNSEEN, while they help; X is that of F."""
        if not F.found:
            return self._refined(np.vstack((np.full((1, len(self.C)), np.inf), np.full((5, len(self.C)), np.nan))))
        seen = Probed(self.measured(first).cpu().numpy(), self.k, self.A.shape[-1])
        missing = seen.missing(tol)
        going = seen.contraction < CONTRACTS
        while self.rounds < MAX_ROUNDS and (going := going & ~(missing <= 1)).any():
            for _ in range(_steps(missing[going].max(), seen.contraction[going].max())):
                self._step()
            seen.now(torch.stack(self._state()).cpu().numpy())
            before, missing = missing, seen.missing(tol)
            going = going & (missing < CONTRACTS * before)
        return self._refined(seen.facts(F.highest))

    def measured(self, steps: int) -> Tensor:
        """So many steps, and what `Probed` reads, `(8, b, k + PROBES)` float64."""
        sizes = [self._sizes(self.Z), self._sizes(self._correction())]
        for _ in range(steps):
            self._step()
        return torch.stack([*self._state(), *sizes, self._sizes(self.C), self._transposed(), self._largest()])

    def blind(self, steps: int) -> Refined:
        """So many steps, and no look at what came of them."""
        self._correction()
        for _ in range(steps):
            self._step()
        return self._refined(np.full((6, self.Z.shape[0]), np.nan))

    def _refined(self, facts: Array) -> Refined:
        return Refined(self.Z[..., : self.k], facts, self.columns, self.rounds)

    def _times(self, R: Tensor) -> Tensor:
        """X·R, a buffer."""
        return torch.bmm(self.X, self.narrow.copy_(R), out=self.D)

    def _correction(self) -> Tensor:
        """D = X·(C − A·Z)."""
        self.columns += 2 * self.C.shape[-1]
        if self.split is not None:
            self.residual = self.split(self.C, self.Z)
        else:
            self.residual = torch.baddbmm(self.C, self.A, self.Z, alpha=-1, out=self.R)
        return self._times(self.residual)

    def _step(self) -> None:
        """The correction that is there, and the next one."""
        self.Z.add_(self.D)
        self._correction()
        self.rounds += 1

    def _sizes(self, V: Tensor) -> Tensor:
        """Norms of the columns, float64 `(b, k + PROBES)`."""
        found: Tensor = torch.linalg.vector_norm(V, dim=1, dtype=torch.float64)
        return found

    def _transposed(self) -> Tensor:
        """Norms of Xᵀ·Z."""
        self.columns += self.C.shape[-1]
        found = self.ws.like("probed transposed", self.D)
        return self._sizes(torch.bmm(self.X.mT, self.narrow.copy_(self.Z), out=found))

    def _largest(self) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self.Z, torch.inf, dim=1)
        return found

    def _state(self) -> list[Tensor]:
        return [self._sizes(V) for V in (self.Z, self.D, self.residual)]


class Probed:
    """What is known of Z = [A⁻¹·B, A⁻¹·V] from norms of columns, `(b, k + PROBES)` each.

    Args:
        sizes: `(8, b, k + PROBES)`: of Z, of D and the residual for it; of Z and D before the first step; of C; of
            Xᵀ·Z; max|z_ij|.
        k: Columns of B.
        n: Rows.
    """

    def __init__(self, sizes: Array, k: int, n: int) -> None:
        self.k, self.n = k, n
        start, step, self._C, self._transposed, self._largest = sizes[3:]
        self._inverse, self._solution = _norm(sizes[0, :, k:]), _norm(sizes[0, :, :k])
        self.contraction = _norm(step[:, k:]) / _norm(start[:, k:])
        self.now(sizes[:3])

    def now(self, sizes: Array) -> None:
        """Those of Z, D and the residual: ‖X·(B − A·Z)‖_F/‖Z‖_F is the error, V's residual what X does not see."""
        z, d, r = sizes
        d, z = _norm(d[:, : self.k]), _norm(z[:, : self.k])
        self.error: Array = np.where(d > 0, d / z, d)  # 0 for B = 0; NaN stays
        self.unseen = _norm(r[:, self.k :])

    def missing(self, tol: float) -> Array:
        """The larger of the error over `tol` and of V's residual over UNSEEN, `(b,)`."""
        found: Array = np.maximum(self.error / tol, self.unseen / UNSEEN)
        return found

    def facts(self, highest: Array) -> Array:
        """As `Refined` has them, for this bound of σ_max; σ_min from ‖Z‖/‖Xᵀ·Z‖ for Z = A⁻¹·V."""
        k = self.k
        good = (self.contraction < CONTRACTS) & (self.unseen <= UNSEEN) & (self.error < np.inf)
        found: Array = np.stack(
            (
                np.where(good, self.error, np.inf),
                self.contraction,
                self._inverse / PROBES**0.5 * _norm(self._C[:, :k]) / (self.n**0.5 * self._solution),
                self._inverse / _norm(self._transposed[:, k:]),
                highest,
                self._largest[:, :k].max(-1, initial=0.0),
            )
        )
        return found


def _norm(columns: Array) -> Array:
    found: Array = np.sqrt((columns**2).sum(-1))
    return found


def _steps(missing: float, contraction: float) -> int:
    """How many more that contraction is predicted to take."""
    return min(max(1, math.ceil(math.log(missing) / -math.log(max(contraction, 1e-3)))), MOST_AT_ONCE)

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
        F: The approximate inverse.
        A: `(b, n, n)` float64, entries at most 1.
        B: `(b, n, k)` float64, entries at most 1.
        doubled: Residuals in doubled precision.
        ws: Buffers.
        seed: Of V.
    """

    def __init__(self, F: FormedInverse, A: Tensor, B: Tensor, doubled: bool, ws: Workspace, seed: int) -> None:
        b, n, self.k = B.shape
        self.F, self.A, self.ws = F, A, ws
        shape = b, n, self.k + PROBES
        self.C, self.Z, self.R = (ws.buffer(f"probed {x}", shape, torch.float64, B.device) for x in "CZR")
        self.narrow, self.D = (ws.buffer(f"probed {x} fp32", shape, torch.float32, B.device) for x in "RD")
        torch.cat((B, gaussian(n, PROBES, B.device, seed).expand(b, n, PROBES)), -1, out=self.C)
        self.split = doubled_residual(A, ws) if doubled else None
        self.columns = shape[-1]
        self.rounds = 0
        self.Z.copy_(self._times(self.C))

    def run(self, tol: float, first: int) -> Refined:
        """`first` steps, then as many as it takes to an error of `tol` and UNSEEN, while they help."""
        if not self.F.found:
            return self._refined(np.vstack((np.full((1, len(self.C)), np.inf), np.full((5, len(self.C)), np.nan))))
        sizes = [self._sizes(self.Z), self._sizes(self._correction())]
        for _ in range(first):
            self._step()
        sizes += [self._sizes(V) for V in (self.Z, self.D, self.residual, self.C)]
        facts, missing = self._facts(torch.stack([*sizes, self._transposed(), self._largest()]).cpu().numpy(), tol)
        going = good = facts[1] < CONTRACTS
        while self.rounds < MAX_ROUNDS and (going := going & ~(missing <= 1)).any():
            for _ in range(_steps(missing[going].max(), facts[1][going].max())):
                self._step()
            before, (facts[0], missing) = missing, self._error(tol)
            going = going & (missing < CONTRACTS * before)
        good = good & (self.unseen <= UNSEEN)
        facts[0] = np.where(good & (facts[0] < np.inf), facts[0], np.inf)
        return self._refined(facts)

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
        return torch.bmm(self.F.X, self.narrow.copy_(R), out=self.D)

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
        return self._sizes(torch.bmm(self.F.X.mT, self.narrow.copy_(self.Z), out=found))

    def _largest(self) -> Tensor:
        found: Tensor = torch.linalg.vector_norm(self.Z, torch.inf, dim=1)
        return found

    def _error(self, tol: float) -> tuple[Array, Array]:
        """The error, and what is missing to the end. Reads once."""
        z, d, r = torch.stack([self._sizes(V) for V in (self.Z, self.D, self.residual)]).cpu().numpy()
        return self._judged(z, d, r, tol)

    def _judged(self, z: Array, d: Array, r: Array, tol: float) -> tuple[Array, Array]:
        """‖X·(B − A·Z)‖_F/‖Z‖_F, and the larger of that over `tol` and of V's residual over UNSEEN, `(b,)` each."""
        d, z = _norm(d[:, : self.k]), _norm(z[:, : self.k])
        error: Array = np.where(d > 0, d / z, d)  # 0 for B = 0; NaN stays
        self.unseen = _norm(r[:, self.k :])
        return error, np.maximum(error / tol, self.unseen / UNSEEN)

    def _facts(self, sizes: Array, tol: float) -> tuple[Array, Array]:
        """As `Refined` has them, and what is missing; σ_min from ‖Z‖/‖Xᵀ·Z‖ for Z = A⁻¹·V."""
        start, step, z, d, r, c, transposed, largest = sizes
        k, n = self.k, self.A.shape[-1]
        error, missing = self._judged(z, d, r, tol)
        inverse = _norm(z[:, k:])
        found: Array = np.stack(
            (
                error,
                _norm(step[:, k:]) / _norm(start[:, k:]),
                inverse / PROBES**0.5 * _norm(c[:, :k]) / (n**0.5 * _norm(z[:, :k])),
                inverse / _norm(transposed[:, k:]),
                self.F.highest,
                largest[:, :k].max(-1, initial=0.0),
            )
        )
        return found, missing


def _norm(columns: Array) -> Array:
    found: Array = np.sqrt((columns**2).sum(-1))
    return found


def _steps(missing: float, contraction: float) -> int:
    """How many more that contraction is predicted to take."""
    return min(max(1, math.ceil(math.log(missing) / -math.log(max(contraction, 1e-3)))), MOST_AT_ONCE)

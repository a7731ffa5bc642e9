"""A⁻¹·B from an approximate inverse F: iterative refinement, and how far it has come.

With F·A = I − G the steps Z ← Z + F·(B − A·Z) multiply the error of Z by G. Residuals are computed in float64 from
what was passed in less, and in doubled precision for a float64 A or F: where Z has stopped moving, a residual in F's
own precision is made of the rounding errors that Z has adapted to, and shows nothing of them (Higham, "Accuracy and
Stability of Numerical Algorithms" (2002), §12).

The error e of Z is read from d = F·(B − A·Z) = −(I − G)·e, so ‖d‖_F/‖Z‖_F is that of Z within a factor 1 ± ‖G‖. How
large G is, the same correction of A⁻¹·V shows for Gaussian vectors V, which have a part in every direction: for a
singular A the null vector v has F·A·v = 0, so G·v = v and the ratio is 1, whatever B is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._certificate import Array, probe_signs
from iroot_solve._doubled import DoubledMatrix
from iroot_solve._scales import magnitude, norm, unit
from iroot_solve._thin import thin

# An F that leaves more than this of an error is no inverse.
CONTRACTS = 0.5
MAX_ROUNDS, PROBES, SKETCH = 30, 4, 16


class Inverse(Protocol):
    """F ≈ A⁻¹, acting on tensors of its `dtype`."""

    dtype: torch.dtype

    def solve(self, R: Tensor, out: Tensor | None = None) -> Tensor:
        """F·R for R `(b, n, k)`."""

    def transposed(self, R: Tensor) -> Tensor:
        """Fᵀ·R."""


@dataclass(frozen=True)
class Refined:
    """Z = A⁻¹·B, float64 `(b, n, k)` in a buffer of the workspace, and what is known of it.

    Attributes:
        facts: `(6, b)`: the error ‖Z − Z⋆‖_F/‖Z⋆‖_F, infinite where F is no inverse; the contraction
            ‖G·A⁻¹V‖_F/‖A⁻¹V‖_F; the amplification ‖A⁻¹‖_F·‖B‖_F/(√n·‖Z‖_F); an estimate of σ_min(A), from above, and a
            bound of σ_max(A); max|z_ij|, before the last refinement steps. NaN where nobody looked.
        columns: Right-hand columns multiplied by an n×n matrix.
        rounds: Refinement steps.
    """

    Z: Tensor
    facts: Array
    columns: int
    rounds: int


class Refinement:
    """Z ← Z + F·(B − A·Z).

    Args:
        F: The approximate inverse.
        A: `(b, n, n)` float64, entries at most 1.
        B: `(b, n, k)` float64.
        doubled: Residuals in doubled precision.
        ws: Buffers.
        seed: Of the probes.
    """

    def __init__(self, F: Inverse, A: Tensor, B: Tensor, doubled: bool, ws: Workspace, seed: int) -> None:
        self.F, self.A, self.B, self.seed, self.ws = F, A, B, seed, ws
        self.residual = doubled_residual(A, ws) if doubled else _plain(A)
        self.columns = self.rounds = 0
        self.Z = self._start(B)

    def _start(self, B: Tensor) -> Tensor:
        """F·B in a buffer; entries of B are at most 1."""
        self.columns += B.shape[-1]
        Z = self.ws.like("Z refined", B)
        if self.F.dtype is B.dtype:
            return self.F.solve(B, out=Z)
        stored = self.ws.buffer("B stored", B.shape, self.F.dtype, B.device).copy_(B)
        return Z.copy_(self.F.solve(stored, out=self.ws.like("Z stored", stored)))

    def _apply(self, R: Tensor) -> Tensor:
        """F·R in float64; what F rounds to float32 is scaled first."""
        self.columns += R.shape[-1]
        if self.F.dtype is torch.float64:
            return self.F.solve(R)
        scaled, size = unit(R)
        return self.F.solve(scaled.to(self.F.dtype)).double().mul_(size[:, None, None])

    def _correction(self, B: Tensor, Z: Tensor) -> Tensor:
        """F·(B − A·Z)."""
        self.columns += B.shape[-1]
        return self._apply(self.residual(B, Z))

    def step(self, rows: Tensor | None = None) -> None:
        """One refinement step, of the matrices where `rows` is true."""
        d = self._correction(self.B, self.Z)
        self.Z.add_(d if rows is None else torch.where(rows[:, None, None], d, 0.0))
        self.rounds += 1

    def run(self, tol: float, first: int) -> Refined:
        """`first` steps, then as many as it takes to an error of `tol`, while they help."""
        for _ in range(first):
            self.step()
        facts: Array = torch.stack((self._error(), *self._facts())).cpu().numpy()
        error, inverse = facts[0], facts[1] < CONTRACTS
        going = inverse & ~(error <= tol)
        for _ in range(MAX_ROUNDS):
            if not going.any():
                break
            self.step(torch.from_numpy(going).to(self.Z.device))
            before, error = error, self._error().cpu().numpy()
            going &= ~(error <= tol) & (error < CONTRACTS * before)
        facts[0] = np.where(inverse & (error < np.inf), error, np.inf)
        return Refined(self.Z, facts, self.columns, self.rounds)

    def blind(self, steps: int) -> Refined:
        """So many steps, and no look at what came of them."""
        for _ in range(steps):
            self.step()
        return Refined(self.Z, np.full((6, self.Z.shape[0]), np.nan), self.columns, self.rounds)

    def _error(self) -> Tensor:
        """‖F·(B − A·Z)‖_F/‖Z‖_F `(b,)`; of ±1 combinations of the columns, where there are many."""
        B, Z, k = self.B, self.Z, self.B.shape[-1]
        size, count = norm(Z), 1
        if k > SKETCH:
            signs = probe_signs(k, SKETCH, Z.device, self.seed).expand(Z.shape[0], k, SKETCH)
            B, Z, count = torch.bmm(B, signs), torch.bmm(Z, signs), SKETCH
        found = norm(self._correction(B, Z)) / count**0.5
        return torch.where(found > 0, found / size, found)  # 0 for B = 0; NaN stays

    def _facts(self) -> tuple[Tensor, ...]:
        """Contraction, amplification and σ_min, from A⁻¹·V; σ_max ≤ min(‖A‖_F, (‖A‖₁‖A‖_∞)^½), and max|z_ij|."""
        b, n = self.B.shape[:2]
        V = gaussian(n, PROBES, self.B.device, self.seed).expand(b, n, PROBES)
        X = self._apply(V)
        size = norm(X)
        contraction = norm(self._correction(V, X)) / size
        amplification = size / PROBES**0.5 * norm(self.B) / (n**0.5 * norm(self.Z))
        unit_X, _ = unit(X)
        lowest = norm(unit_X) / norm(self.F.transposed(unit_X.to(self.F.dtype)))
        sums = [torch.linalg.vector_norm(self.A, 1, dim=dim).amax(-1) for dim in (-1, -2)]
        highest = torch.minimum(norm(self.A), (sums[0] * sums[1]).sqrt())
        return contraction, amplification, lowest, highest, magnitude(self.Z)


def _plain(A: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda B, Z: B - (thin(A, Z) if Z.shape[-1] <= SKETCH else torch.bmm(A, Z))


def doubled_residual(A: Tensor, ws: Workspace) -> Callable[[Tensor, Tensor], Tensor]:
    split = DoubledMatrix(A, ws.like("A high", A), ws.like("A low", A))
    return lambda B, Z: split.residual(B.mT, Z.mT).mT


@lru_cache(maxsize=32)
def gaussian(n: int, columns: int, device: torch.device, seed: int) -> Tensor:
    """Normal numbers `(n, columns)` from an own generator; kept, so not to be written to."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn((n, columns), generator=generator, device=device, dtype=torch.float64)

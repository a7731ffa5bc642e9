"""A^(-1/p) of a general matrix by its eigenvectors: X = V·Λ^(-1/p)·V⁻¹, corrected by Newton steps in that basis.

Let E = I − X^p·A and X = X* + Δ. To first order Σ_{k<p} X^k·Δ·X^(p−1−k) = −E·A⁻¹, and with x = λ^(-1/p), Ẽ = V⁻¹·E·V

    (V⁻¹·Δ·V)_ij = −Ẽ_ij·x_j / g(x_i/x_j),   g(ρ) = 1 + ρ + … + ρ^(p−1):

the error of X, whatever its source, for the price of E and four products; it is subtracted and looked at again. g is
small where x_i/x_j is near a p-th root of unity other than 1, which is where A is near a matrix without a principal
root: there the root is ill-conditioned, and ‖E‖ alone would hide it. V⁻¹·E·V loses κ(V)²·u of its digits, so that
eigenvectors serve up to κ(V) ≈ 1e6; a defective matrix has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._root_defect import root_defect
from iroot_solve._scales import magnitude, norm

# ‖V‖_F·‖V⁻¹‖_F/n up to which corrections are good to a few digits: κ(V)²·u = 1e-4.
LARGEST_CONDITION = 1e6
MAX_CORRECTIONS = 4
# Where E·Z is not small against Z, no first-order formula holds.
LINEAR = 0.1


@dataclass(frozen=True)
class GeneralRoot:
    """Z = X·B with X ≈ A^(-1/p), float64 `(b, n, k)`, and what it is worth.

    Attributes:
        facts: `(4, b)`: the error of Z, ‖E·Z‖_F/‖Z‖_F, ‖X‖_F·‖B‖_F/(√n·‖Z‖_F) and max|z_ij|.
        square: Real products n×n by n×n.
        steps: Corrections, or Newton steps.
    """

    Z: Tensor
    facts: Array
    square: int = 0
    steps: int = 0

    @property
    def error(self) -> Array:
        """Of Z, `(b,)`."""
        found: Array = self.facts[0]
        return found


def eig_root(
    A: Tensor, eigen: tuple[Tensor, Tensor], B: Tensor | None, p: int, tol: float | None, doubled: bool
) -> GeneralRoot:
    """Corrected until the error is `tol`, or no longer falls.

    Args:
        A: `(b, n, n)` float64.
        eigen: Eigenvalues and eigenvectors.
        B: `(b, n, k)` float64, or `None` for the root.
        p: ≥ 2.
        tol: Of Z; `None` for the uncorrected root, without a look at it.
        doubled: E in doubled precision.

    Returns:
        The root. Cost beyond the eigenvectors: 18 products, and 16 and E for each look.
    """
    basis = EigenBasis(*eigen, p)
    X, steps = basis.root(), 0
    if tol is None:
        return unchecked(X, B, 18)
    known, D = _look(basis, A, X, B, p, doubled)
    going = known.error > tol
    while going.any() and steps < MAX_CORRECTIONS:
        better = torch.where(torch.from_numpy(going).to(X.device)[:, None, None], X + D, X)
        found, D = _look(basis, A, better, B, p, doubled)
        improved = found.error < known.error / 2
        steps += 1
        if not improved.any():
            break
        kept = torch.from_numpy(improved).to(X.device)[:, None, None]
        X = torch.where(kept, better, X)
        known = GeneralRoot(torch.where(kept, found.Z, known.Z), np.where(improved, found.facts, known.facts))
        going &= improved & (known.error > tol)
    return GeneralRoot(known.Z, known.facts, 18 + 20 * (steps + 1), steps)


class EigenBasis:
    """V, V⁻¹ and x = λ^(-1/p)."""

    def __init__(self, values: Tensor, vectors: Tensor, p: int) -> None:
        self.p, self.V = p, vectors
        factors, pivots, _ = torch.linalg.lu_factor_ex(vectors)
        identity = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
        self.inverse = torch.linalg.lu_solve(factors, pivots, identity.expand_as(vectors))
        # The principal power: exp(−log(λ)/p), |arg λ| < π.
        self.x = values.pow(-1 / p)
        self.condition = norm(vectors.abs()) * norm(self.inverse.abs()) / vectors.shape[-1]

    def root(self) -> Tensor:
        """V·diag(x)·V⁻¹, real because eigenvalues come in conjugate pairs."""
        return torch.bmm(self.V * self.x.unsqueeze(-2), self.inverse).real.contiguous()

    def correction(self, E: Tensor) -> Tensor:
        """−Δ."""
        right = self.x.unsqueeze(-2)
        ratio = self.x.unsqueeze(-1) / right
        g = torch.ones_like(ratio)
        for _ in range(self.p - 1):
            g = g * ratio + 1
        inner = torch.bmm(torch.bmm(self.inverse, E.to(self.V.dtype)), self.V)
        return torch.bmm(torch.bmm(self.V, inner * right / g), self.inverse).real.contiguous()


def unchecked(X: Tensor, B: Tensor | None, square: int, steps: int = 0) -> GeneralRoot:
    """Nothing is known of it."""
    return GeneralRoot(X if B is None else torch.bmm(X, B), np.full((4, X.shape[0]), np.nan), square, steps)


def _look(
    basis: EigenBasis, A: Tensor, X: Tensor, B: Tensor | None, p: int, doubled: bool
) -> tuple[GeneralRoot, Tensor]:
    """What X is worth, and −Δ."""
    E = root_defect(X, A, p, doubled)
    D = basis.correction(E)
    Z = X if B is None else torch.bmm(X, B)
    change = D if B is None else torch.bmm(D, B)
    facts = appraise_root(X, Z, B, E, change)
    facts[0] = np.where(basis.condition.cpu().numpy() <= LARGEST_CONDITION, facts[0], np.inf)
    return GeneralRoot(Z, facts), D


def appraise_root(X: Tensor, Z: Tensor, B: Tensor | None, E: Tensor, wrong: Tensor) -> Array:
    """The facts of a `GeneralRoot`; `wrong` is what is wrong with Z, but for the rounding of the product X·B.

    That is added; where E·Z is large it counts, and where anything is not finite all is lost.
    """
    b, n = X.shape[:2]
    size = norm(Z)
    given = size.new_full((b,), n**0.5) if B is None else norm(B)
    norms = torch.stack((size, given, norm(X), norm(wrong), norm(torch.bmm(E, Z)), magnitude(Z))).cpu().numpy()
    zero = (norms[1] == 0) & np.isfinite(norms[2])
    whole = np.where(zero, 1.0, norms[0])
    amplification, residual = norms[2] * norms[1] / (n**0.5 * whole), norms[4] / whole
    error = norms[3] / whole + (0.0 if B is None else 2.0**-53) * amplification
    error = np.maximum(error, np.where(residual > LINEAR, residual, 0.0))
    return np.stack((np.where(error < np.inf, error, np.inf), residual, amplification, norms[5]))

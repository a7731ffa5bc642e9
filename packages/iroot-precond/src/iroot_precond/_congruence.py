"""Scalings with a record of how they are undone: congruences A_s = D·A·D and scalars A_s = c·A.

For p = 1 a congruence is undone exactly, A⁻¹B = D·(D·A·D)⁻¹·(D·B). For no other power: no diagonal relates
(D·A·D)^(-1/p) to A^(-1/p). A scalar is undone for every power, A^(-1/p) = c^(1/p)·(c·A)^(-1/p). All
factors are powers of two, so that applying and undoing them rounds nothing (short of underflow).

Each scaling expects entries near 1 (`scale_by_power_of_two`); rows whose measure is not positive keep d = 1.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from iroot_precond._bounds import absolute_row_sums, scaled_frobenius_bound
from iroot_precond._scaling import exponent_of, power_of_two, unscale_root


@dataclass(frozen=True, eq=False, slots=True)
class Congruence:
    """A_s = D·A·D with D = diag(d).

    Attributes:
        d: Powers of two (..., n).
    """

    d: Tensor

    def apply(self, A: Tensor, /, *, out: Tensor | None = None) -> Tensor:
        """D·A·D (..., n, n), in ``out`` or a new tensor."""
        return torch.mul(A, self.d[..., :, None], out=out).mul_(self.d[..., None, :])

    def apply_rhs(self, B: Tensor, /) -> Tensor:
        """D·B (..., n, k): the right-hand side that belongs to A_s, for p = 1."""
        return self.d[..., None] * B

    def undo_solution(self, Z: Tensor, /) -> Tensor:
        """D·Z (..., n, k): A⁻¹·B from Z = A_s⁻¹·(D·B). Valid for p = 1 only."""
        return self.d[..., None] * Z


@dataclass(frozen=True, eq=False, slots=True)
class Scalar:
    """A_s = c·A.

    Attributes:
        c: Powers of two (...).
    """

    c: Tensor

    @property
    def exponent(self) -> Tensor:
        """log2 c (...), int32."""
        return torch.frexp(self.c).exponent - 1

    def apply(self, A: Tensor, /, *, out: Tensor | None = None) -> Tensor:
        """c·A (..., n, n), in ``out`` or a new tensor."""
        return torch.mul(A, self.c[..., None, None], out=out)

    def undo_root(self, Z: Tensor, exponent: Fraction | int, /) -> Tensor:
        """A^α·B = c^(-α)·A_s^α·B (..., n, k) for the exponent α."""
        return unscale_root(Z, -self.exponent, exponent)


def _inverse_square_roots(x: Tensor, eps: float) -> Tensor:
    """Powers of two nearest to x^(-1/2), x (..., n) floored at eps·max(x); 1 where x is not in (0, ∞)."""
    valid = x.isfinite() & (x > 0)
    x = torch.where(valid, x, 1)
    if eps > 0 and x.shape[-1]:
        x = torch.maximum(x, eps * torch.where(valid, x, 0).amax(-1, keepdim=True))
    mantissa, exponent = torch.frexp(x)
    k = torch.round(-(exponent + torch.log2(mantissa)) / 2).to(torch.int32)
    return torch.where(valid, power_of_two(k, x.dtype), 1)


def jacobi_scaling(A: Tensor, /, *, eps: float = 1e-12) -> Congruence:
    """d_i = a_ii^(-1/2): the diagonal of D·A·D lies in [1/2, 2) (van der Sluis 1969: n times the best κ).

    Args:
        A: Matrices (..., n, n) with entries near 1.
        eps: Floor of a_ii relative to the largest; guards the division only.

    Returns:
        The congruence; d = 1 where a_ii ≤ 0.
    """
    return Congruence(_inverse_square_roots(A.diagonal(dim1=-2, dim2=-1), eps))


def ruiz_scaling(A: Tensor, /, *, iters: int = 2, eps: float = 1e-12) -> Congruence:
    """Ruiz's equilibration: ``iters`` times d_i ← d_i·(max_j |d_i·a_ij·d_j|)^(-1/2), rows towards maximum 1.

    Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", 2001.

    Args:
        A: Matrices (..., n, n) with entries near 1.
        iters: Number of sweeps, ≥ 0.
        eps: Floor of a row's maximum relative to the largest; guards the division only.

    Returns:
        The congruence; d = 1 for zero rows.
    """
    total = Congruence(A.new_ones(A.shape[:-1]))
    for _ in range(iters if A.shape[-1] else 0):
        rows = total.apply(A).abs().amax(-1)
        total = Congruence(total.d * _inverse_square_roots(rows, eps))
    return total


def aol_scaling(A: Tensor, /, *, eps: float = 1e-12) -> Congruence:
    """d_i = (Σ_j |a_ij|)^(-1/2), the almost-orthogonal Lipschitz scaling: ‖D·A·D‖₂ ≤ 2 (1 before rounding D).

    For a factor G the scaling of its columns comes from A = GᵀG (Prach, Lampert, "Almost-orthogonal
    layers for efficient general-purpose Lipschitz networks", 2022, Theorem 1).

    Args:
        A: Symmetric matrices (..., n, n) with entries near 1.
        eps: Floor of a row's sum relative to the largest; guards the division only.

    Returns:
        The congruence; d = 1 for zero rows.
    """
    return Congruence(_inverse_square_roots(absolute_row_sums(A), eps))


def row_norm_scaling(A: Tensor, /, *, eps: float = 1e-12) -> Congruence:
    """d_i = ‖a_i‖₂^(-1/2).

    Args:
        A: Symmetric matrices (..., n, n) with entries near 1.
        eps: Floor of a row's norm relative to the largest; guards the division only.

    Returns:
        The congruence; d = 1 for zero rows.
    """
    return Congruence(_inverse_square_roots(torch.linalg.vector_norm(A, dim=-1), eps))


def frobenius_scaling(A: Tensor, /) -> Scalar:
    """The power of two c with ‖c·A‖_F in [1/2, 1) up to rounding; 1 for zero and non-finite matrices.

    Args:
        A: Matrices (..., n, n) with entries near 1.

    Returns:
        The scalar.
    """
    return Scalar(power_of_two(-exponent_of(scaled_frobenius_bound(A)), A.dtype))

"""How far a matrix is from symmetric: ‖A − Aᵀ‖_F / ‖A‖_F, exactly or by probes, and its symmetric part."""

from typing import NamedTuple

import torch
from torch import Tensor

from iroot_precond._exact_product import exact_operand, without_autocast
from iroot_precond._random import signs
from iroot_precond._scaling import binary_exponent, layout, power_of_two, scale_by_power_of_two


class SymmetryProbe(NamedTuple):
    """Result of `symmetry_defect_probe`.

    Attributes:
        defect: Estimate of ‖A − Aᵀ‖_F / ‖A‖_F, (...).
        finite: Whether every entry is finite, (...), bool; exact, not an estimate.
    """

    defect: Tensor
    finite: Tensor


def _norm(X: Tensor) -> Tensor:
    rows: Tensor = torch.linalg.vector_norm(X, dim=-1)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norm


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator / torch.where(denominator == 0, 1, denominator)


def symmetry_defect(A: Tensor, /) -> Tensor:
    """‖A − Aᵀ‖_F / ‖A‖_F, between 0 and 2; 0 for zero and NaN for non-finite matrices.

    Computed on the power-of-two scaled matrix: right for every magnitude.

    Args:
        A: Matrices (..., n, n), float32 or float64.

    Returns:
        Defects (...) in the dtype of A.

    Raises:
        TypeError: Another dtype.
    """
    S = scale_by_power_of_two(A, binary_exponent(A))
    return _ratio(_norm(S - S.mT), _norm(S))


def symmetry_defect_probe(
    A: Tensor, /, generator: torch.Generator | None = None, *, probes: int = 8, exponent: Tensor | None = None
) -> SymmetryProbe:
    """Estimate of the symmetry defect from A·V and Aᵀ·V with ±1 probes V, O(n²·probes), no matrix of scratch.

    For independent signs E‖(A − Aᵀ)v‖² = ‖A − Aᵀ‖_F² and E‖A·v‖² = ‖A‖_F²; the ratio of the root mean squares
    is returned. Its rounding noise is about √n·u. Non-finite entries are always found: signs cannot cancel an
    infinity or a NaN.

    Args:
        A: Matrices (..., n, n), float32 or float64.
        generator: Source of the probes; default: CPU, seed 0.
        probes: Number of probes.
        exponent: `binary_exponent` of A, if it is there already.

    Returns:
        Defects and finiteness, (...) each.

    Raises:
        TypeError: Another dtype.
    """
    e = binary_exponent(A) if exponent is None else exponent
    bias = layout(A.dtype).bias
    # The scale goes to the thin side: |a_ij|·2^-e ≤ 1, so that sums of n terms cannot overflow.
    scale = power_of_two((-e).clamp(1 - bias, bias), A.dtype)[..., None, None]
    V = scale * signs((probes, A.shape[-1]), A.device, generator).to(A.dtype)
    operand = exact_operand(A)
    with without_autocast(A.device):
        left, right = V.to(operand.dtype) @ operand, V.to(operand.dtype) @ operand.mT
    finite = right.isfinite().all(-1).all(-1)
    return SymmetryProbe(_ratio(_norm(left - right), _norm(right)).to(A.dtype), finite)


def symmetric_part(A: Tensor, /, *, out: Tensor | None = None) -> Tensor:
    """(A + Aᵀ)/2: exactly symmetric, and bitwise A where A is symmetric, denormals included.

    Args:
        A: Matrices (..., n, n), entries below half the largest number; not modified.
        out: Destination (..., n, n), not A itself; allocated if None.

    Returns:
        ``out``, or a new tensor.
    """
    # The sum first: it commutes, so both triangles round alike, and halving a sum of equal denormals is
    # exact.
    return torch.add(A, A.mT, out=out).mul_(0.5)

"""Damping A + r·I with r = ridge + ridge_rel·mean(a_ii), which is the mean of the eigenvalues.

>>> import torch
>>> from iroot_precond import add_ridge, ridge_amount
>>> A = torch.tensor([[3.0, 1.0], [1.0, 1.0]])
>>> add_ridge(A, ridge_amount(A, ridge=0.5, ridge_rel=0.25)).tolist()
[[4.0, 1.0], [1.0, 2.0]]
"""

import math

import torch
from torch import Tensor

from iroot_precond._scaling import exponent_of, layout, ldexp


def _checked(name: str, value: float) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value}")
    return value


def _mean(x: Tensor) -> Tensor:
    """Mean (...) of ``x`` (..., n), 0 for n = 0; taken at a power-of-two scale: the sum cannot overflow."""
    if x.shape[-1] == 0:
        return x.new_zeros(x.shape[:-1])
    e = exponent_of(x.abs().amax(-1))
    return ldexp(ldexp(x, -e[..., None]).mean(-1), e)


def ridge_amount(A: Tensor, ridge: float = 0.0, ridge_rel: float = 0.0) -> Tensor:
    """ridge + ridge_rel·mean(a_ii), per matrix, in units of A.

    Args:
        A: Matrices (..., n, n), float32 or float64.
        ridge: Absolute damping, ≥ 0, in units of A.
        ridge_rel: Damping relative to the mean of the diagonal, ≥ 0.

    Returns:
        Amounts (...) in the dtype of A.

    Raises:
        TypeError: Another dtype.
        ValueError: A negative or non-finite setting.
    """
    layout(A.dtype)
    _checked("ridge", ridge), _checked("ridge_rel", ridge_rel)
    amount = A.new_full(A.shape[:-2], ridge)
    if ridge_rel == 0:
        return amount
    return amount + ridge_rel * _mean(A.diagonal(dim1=-2, dim2=-1))


def add_ridge(A: Tensor, amount: Tensor, /, *, out: Tensor | None = None) -> Tensor:
    """A + amount·I, on a copy or in ``out``.

    Args:
        A: Matrices (..., n, n); not modified (unless it is ``out``).
        amount: What to add to each diagonal, (...), in units of A.
        out: Destination (..., n, n); allocated if None.

    Returns:
        ``out``, or a new tensor.
    """
    result = A.clone(memory_format=torch.contiguous_format) if out is None else out.copy_(A)
    result.diagonal(dim1=-2, dim2=-1).add_(amount[..., None])
    return result

"""Gram matrices GᵀG and GGᵀ, normalised like any other, with the record of how that is undone.

With G = 2^g·G_s, entries of G_s at most 1:  GᵀG = 2^2g·G_sᵀG_s, which neither overflows nor underflows.

    >>> import torch
    >>> from iroot_precond import precond_gram_spd
    >>> G = torch.tensor([[3.0, 0.0], [0.0, 4.0], [4.0, 0.0]], dtype=torch.float64)
    >>> A_norm, stats = precond_gram_spd(G)
    >>> stats.undo(torch.linalg.inv(A_norm), 1).diagonal().tolist() == [1 / 25, 1 / 16]
    True
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from iroot_precond._precond import PrecondStats, precond_spd
from iroot_precond._ridge import add_ridge, ridge_amount
from iroot_precond._scaling import binary_exponent, ldexp, scale_by_power_of_two


def precond_gram_spd(
    G: Tensor, mode: str = "none", *, ridge: float = 0.0, ridge_rel: float = 0.0, **settings: Any
) -> tuple[Tensor, PrecondStats]:
    """`precond_spd` of GᵀG + ridge·I.

    Args:
        G: `(..., m, n)`, float32 or float64, any magnitude; not modified.
        mode: As in `precond_spd`; "jacobi" divides the columns of G by their norms.
        ridge: Absolute damping, in units of GᵀG.
        ridge_rel: Damping relative to the mean of the diagonal of GᵀG.
        **settings: The other keyword arguments of `precond_spd`.

    Returns:
        (A_norm `(..., n, n)`, stats). Cost: one product of n×m by m×n.

    Raises:
        TypeError, ValueError: As `precond_spd`.
    """
    g = binary_exponent(G)
    S = scale_by_power_of_two(G, g)
    A = S.mT @ S
    amount = ldexp(torch.full_like(A[..., 0, 0], ridge), -2 * g) + ridge_amount(A, 0.0, ridge_rel)
    A_norm, stats = precond_spd(add_ridge(A, amount, out=A), mode, **settings)
    return A_norm, replace(stats, exponent=stats.exponent + 2 * g, ridge=ldexp(amount, 2 * g))


def precond_gram_dual_spd(G: Tensor, mode: str = "none", **settings: Any) -> tuple[Tensor, PrecondStats]:
    """`precond_spd` of GGᵀ + ridge·I, for Gᵀ·(GGᵀ + ridge·I)^(-1/p)·B; arguments as in `precond_gram_spd`.

    Examples:
        >>> import torch
        >>> from iroot_precond import precond_gram_dual_spd
        >>> K_norm, stats = precond_gram_dual_spd(torch.tensor([[3.0, 0.0, 4.0]]))
        >>> float(stats.undo(K_norm.rsqrt(), 2))
        0.20000000298023224
    """
    return precond_gram_spd(G.mT, mode, **settings)

"""The root itself, and just Z."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from iroot_solve._spd import solve_spd


def inverse_root(A: Tensor, p: int = 2, **settings: Any) -> Tensor:
    """A^(-1/p) itself, symmetric.

    Args:
        A: `(..., n, n)` symmetric positive definite.
        p: p ≥ 1.
        **settings: Keyword arguments of `solve_spd` (tol, ridge, strategy, workspace, out, …).

    Returns:
        `(..., n, n)` in A's dtype. Prefer `inverse_root_apply` where only A^(-1/p)·B is needed.

    Raises:
        TypeError, ValueError, IrootError: As `solve_spd`.

    Examples:
        >>> import torch
        >>> from iroot_solve import inverse_root
        >>> X = inverse_root(torch.tensor([[4.0, 0.0], [0.0, 16.0]]))
        >>> torch.allclose(X, torch.tensor([[0.5, 0.0], [0.0, 0.25]]))
        True
    """
    return solve_spd(A, None, **_with_power(p, settings)).Z


def inverse_root_apply(A: Tensor, B: Tensor, p: int = 2, **settings: Any) -> Tensor:
    """Z = A^(-1/p)·B, and nothing else.

    Args:
        A: `(..., n, n)` symmetric positive definite.
        B: `(..., n, k)` or `(n,)`.
        p: p ≥ 1.
        **settings: Keyword arguments of `solve_spd`.

    Returns:
        Z in the shape of B (with the broadcast batch) and A's dtype.

    Raises:
        TypeError, ValueError, IrootError: As `solve_spd`.

    Examples:
        >>> import torch
        >>> from iroot_solve import inverse_root_apply
        >>> Z = inverse_root_apply(torch.tensor([[4.0, 0.0], [0.0, 16.0]]), torch.ones(2))
        >>> torch.allclose(Z, torch.tensor([0.5, 0.25]))
        True
    """
    return solve_spd(A, B, **_with_power(p, settings)).Z


def _with_power(p: int, settings: dict[str, Any]) -> dict[str, Any]:
    """p, unless an exponent stands in its place."""
    return settings if "exponent" in settings else {"p_val": p, **settings}

"""Quadratic schedules given as numbers: rows (a, b, c) stand for q(y) = a + b·y + c·y²."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor

from iroot_kernels._coupled import CoupledIteration
from iroot_kernels._polynomial import Polynomial
from iroot_kernels._uncoupled import UncoupledIteration
from iroot_kernels._workspace import Workspace

Rows = Tensor | Iterable[Sequence[float]]


def quadratics(abc_t: Rows) -> list[Polynomial]:
    """The polynomials of a `(T, 3)` table (a tensor on a GPU is read once: keep it on the CPU to avoid the wait)."""
    if isinstance(abc_t, Tensor) and abc_t.ndim != 2:
        raise ValueError(f"abc_t must have shape (T, 3), not {tuple(abc_t.shape)}")
    rows = abc_t.tolist() if isinstance(abc_t, Tensor) else [tuple(map(float, row)) for row in abc_t]
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError("abc_t must have shape (T, 3) with T ≥ 1: one row (a, b, c) for each step")
    return [Polynomial.of_monomials(row) for row in rows]


def inverse_proot_pe_quadratic_coupled(
    A_norm: Tensor, abc_t: Rows, p_val: int = 2, ws: Workspace | None = None, *, precision: str = "auto"
) -> tuple[Tensor, Workspace]:
    """A_norm^(-1/p) by quadratic coupled steps.

    Args:
        A_norm: `(..., n, n)` symmetric, spectrum in the interval the schedule was made for, at most (0, 1].
        abc_t: `(T, 3)` rows (a, b, c).
        p_val: p ≥ 1.
        ws: Workspace to reuse.
        precision: `auto` (fp64 for float64, else fp32) or one of `PRECISIONS`.

    Returns:
        The root `(..., n, n)`, valid until the workspace is used again, and the workspace.
        Cost: per step 1 (q) + 1 (X; none in the first) + chain of p + 1 (Y; none in the last) products.
    """
    A, name = _storage(A_norm, precision)
    ws = Workspace() if ws is None else ws
    root = CoupledIteration(A, p=p_val, precision=name, workspace=ws)
    _run(root, quadratics(abc_t))
    return _symmetric(root.X, ws).reshape(A_norm.shape), ws


def inverse_solve_pe_quadratic_coupled(
    A_norm: Tensor,
    M_norm: Tensor,
    abc_t: Rows,
    p_val: int = 2,
    ws: Workspace | None = None,
    *,
    precision: str = "auto",
) -> tuple[Tensor, Workspace]:
    """A_norm^(-1/p) M_norm by quadratic coupled steps acting on M_norm, without the root.

    Args:
        A_norm: `(..., n, n)` symmetric, spectrum in the interval the schedule was made for, at most (0, 1].
        M_norm: `(..., n, k)` right-hand side with the batch of `A_norm`.
        abc_t: `(T, 3)` rows (a, b, c).
        p_val: p ≥ 1.
        ws: Workspace to reuse.
        precision: `auto` (fp64 for float64, else fp32) or one of `PRECISIONS`.

    Returns:
        Z `(..., n, k)`, valid until the workspace is used again, and the workspace.
    """
    if M_norm.shape[:-1] != A_norm.shape[:-1]:
        raise ValueError(f"M_norm {tuple(M_norm.shape)} must have shape (..., n, k) like A_norm {tuple(A_norm.shape)}")
    A, name = _storage(A_norm, precision)
    M = M_norm.to(A.dtype).reshape(A.shape[0], *M_norm.shape[-2:])
    ws = Workspace() if ws is None else ws
    root = CoupledIteration(A, M, p=p_val, precision=name, workspace=ws)
    _run(root, quadratics(abc_t))
    assert root.X is not None
    return root.X.reshape(M_norm.shape), ws


def inverse_proot_pe_quadratic_uncoupled(
    A_norm: Tensor, abc_t: Rows, p_val: int = 2, ws: Workspace | None = None, *, precision: str = "auto"
) -> tuple[Tensor, Workspace]:
    """A_norm^(-1/p) by quadratic uncoupled steps X ← X·q(X^h A X^(p−h)); arguments and result as the coupled form.

    Cost: p products a step more than the coupled form's X update, none for Y.
    """
    A, name = _storage(A_norm, precision)
    ws = Workspace() if ws is None else ws
    root = UncoupledIteration(A, p=p_val, precision=name, workspace=ws)
    for q in quadratics(abc_t):
        root.step(q)
    return _symmetric(root.X, ws).reshape(A_norm.shape), ws


def _run(root: CoupledIteration, steps: Sequence[Polynomial]) -> None:
    for t, q in enumerate(steps, start=1):
        root.step(q, last=t == len(steps))


def _storage(A: Tensor, name: str) -> tuple[Tensor, str]:
    """`A` as (b, n, n) in the storage dtype, and the precision's name."""
    if name == "auto":
        name = "fp64" if A.dtype is torch.float64 else "fp32"
    dtype = torch.float64 if name == "fp64" else torch.float32
    return A.to(dtype).reshape(prod(A.shape[:-2]), *A.shape[-2:]), name


def _symmetric(X: Tensor | None, ws: Workspace) -> Tensor:
    """The symmetric part: the antisymmetric part of a polynomial in a symmetric matrix is rounding alone."""
    assert X is not None
    return torch.add(X, X.mT, out=ws.like("root", X)).div_(2)

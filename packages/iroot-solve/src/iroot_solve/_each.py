"""Matrices of different sizes in one call: those of equal shape are one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from iroot_solve._errors import IrootError
from iroot_solve._result import SolveResult, SolveStats, SolveWorkspace
from iroot_solve._spd import solve_spd

Workspaces = dict[Hashable, SolveWorkspace]


def solve_each(
    matrices: Sequence[Tensor],
    rhs: Sequence[Tensor] | None = None,
    *,
    workspaces: Workspaces | None = None,
    **settings: Any,
) -> list[SolveResult]:
    """Z_i = (A_i + ridge·I)^(-1/p)·B_i for matrices of any sizes, as optimizers hold them.

    Matrices of equal shape, dtype and device are stacked and solved as one batch: on a GPU one launch for each size up
    to 64 × 64, one solve for each larger one.

    Args:
        matrices: `(n_i, n_i)` symmetric positive definite.
        rhs: `(n_i, k_i)`, one for each; `None` for the roots themselves.
        workspaces: An empty dict at first, then the same one every time: buffers by shape.
        **settings: Keyword arguments of `solve_spd` (p_val, tol, ridge, on_failure, …), but for workspace and out.

    Returns:
        A result for each matrix, in the order of `matrices`; its stats are scalars; those that count work (products,
        steps, fallbacks) are of its batch.

    Raises:
        TypeError, ValueError: As `solve_spd`; not one right-hand side for each matrix.
        IrootError: As `solve_spd`, of the first batch that fails; the message names its matrices by their places.

    Examples:
        >>> import torch
        >>> from iroot_solve import solve_each
        >>> roots = solve_each([4.0 * torch.eye(2), 9.0 * torch.eye(3), 16.0 * torch.eye(2)])
        >>> [round(float(root.Z[0, 0]), 3) for root in roots]
        [0.5, 0.333, 0.25]
    """
    if rhs is not None and len(rhs) != len(matrices):
        raise ValueError(f"rhs has {len(rhs)} tensors for {len(matrices)} matrices; give one for each")
    for name in {"workspace", "out"} & settings.keys():
        raise ValueError(f"{name} is for one shape; solve_each takes workspaces, and returns new tensors")
    held = {} if workspaces is None else workspaces
    results: dict[int, SolveResult] = {}
    for shape, places in _groups(matrices, rhs).items():
        A = torch.stack([matrices[i] for i in places])
        B = None if rhs is None else torch.stack([rhs[i] for i in places])
        held[shape] = workspace = held.get(shape, SolveWorkspace())
        found = _solved(A, B, places, {**settings, "workspace": workspace})
        results.update((i, _one(found, j)) for j, i in enumerate(places))
    return [results[i] for i in range(len(matrices))]


def _groups(matrices: Sequence[Tensor], rhs: Sequence[Tensor] | None) -> dict[Hashable, list[int]]:
    """Places of the matrices that make one batch."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for i, A in enumerate(matrices):
        right = None if rhs is None else _kind("rhs", i, rhs[i])
        found[_kind("matrices", i, A), right].append(i)
    return dict(found)


def _kind(name: str, i: int, M: Tensor) -> Hashable:
    """What the tensors of a batch have in common."""
    if not isinstance(M, Tensor) or M.ndim != 2:
        what = type(M).__name__ if not isinstance(M, Tensor) else f"a tensor of shape {tuple(M.shape)}"
        raise TypeError(f"{name}[{i}] must be a matrix, not {what}")
    return M.shape, M.dtype, M.device


def _solved(A: Tensor, B: Tensor | None, places: list[int], settings: dict[str, Any]) -> SolveResult:
    try:
        return solve_spd(A, B, **settings)
    except IrootError as error:
        raise type(error)(f"matrices {places} as a batch: {error}", error.result) from error
    except ValueError as error:
        raise ValueError(f"matrices {places} as a batch: {error}") from error


def _one(found: SolveResult, j: int) -> SolveResult:
    """The result of matrix j of a batch."""
    numbers = {field.name: getattr(found.stats, field.name) for field in fields(SolveStats)}
    scalars: dict[str, Any] = {name: value[j] for name, value in numbers.items() if isinstance(value, Tensor)}
    return found._replace(Z=found.Z[j], stats=replace(found.stats, **scalars))

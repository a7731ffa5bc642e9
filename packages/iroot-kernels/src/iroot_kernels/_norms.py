"""Frobenius norms of a batch: right where squares of single numbers are not, and fast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def frobenius_norms(V: Tensor, small: bool = False) -> Tensor:
    """‖V‖_F of every matrix, in float64: of the norms of the rows, which are fast to take and lose n·u at most.

    Rows are what lies together in memory: along the other dimension a CPU reads a cache line for every number.

    Args:
        V: `(..., m, n)`.
        small: Squares of all numbers may be below V's dtype: they are added in float64.

    Returns:
        Norms `(...)`, float64. Cost: one pass over V.

    Examples:
        >>> import torch
        >>> from iroot_kernels import frobenius_norms
        >>> frobenius_norms(torch.tensor([[3.0, 0.0], [0.0, 4.0]])).item()
        5.0
    """
    held = V.mT if V.stride(-1) > V.stride(-2) else V
    rows = torch.linalg.vector_norm(held, dim=-1, dtype=torch.float64 if small else None)
    found: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    return found

"""A⁻¹ by one LU factorisation with partial pivoting, P·A = L·U; of one in float32, refinement brings float64."""

from __future__ import annotations

import torch
from iroot_kernels import Workspace
from torch import Tensor


class LU:
    """Where a pivot is zero what it solves is not finite: the caller sees it.

    Args:
        A: `(b, n, n)` float64, entries at most 1.
        dtype: Of the factors, float32 or float64.
        ws: Where they live.
    """

    def __init__(self, A: Tensor, dtype: torch.dtype, ws: Workspace) -> None:
        self.dtype = dtype
        stored = A if dtype is A.dtype else ws.buffer("A fp32", A.shape, dtype, A.device).copy_(A)
        # Column by column, as LAPACK writes them.
        factors = ws.buffer(f"lu {dtype}", A.shape, dtype, A.device).mT
        pivots = ws.buffer("pivots", A.shape[:-1], torch.int32, A.device)
        info = ws.buffer("info", A.shape[:-2], torch.int32, A.device)
        torch.linalg.lu_factor_ex(stored, out=(factors, pivots, info))
        self._factors, self._pivots = factors, pivots

    def solve(self, R: Tensor, out: Tensor | None = None) -> Tensor:
        """A⁻¹·R. Cost: n²·k multiply-adds."""
        found: Tensor = torch.linalg.lu_solve(self._factors, self._pivots, R, out=out)
        return found

    def transposed(self, R: Tensor) -> Tensor:
        """A⁻ᵀ·R."""
        found: Tensor = torch.linalg.lu_solve(self._factors, self._pivots, R, adjoint=True)
        return found

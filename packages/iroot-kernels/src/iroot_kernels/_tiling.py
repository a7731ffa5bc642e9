"""How products are cut on a device, and which devices there are kernels for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch

# All sizes are padded with zeros to a multiple of the smaller tile.
TILE = 64
# A matrix has fewer numbers than int32, and so have all planes rows.
MOST = 2**31 - 1
SMALL, LARGE = 1024, 3072
# Of the largest tile: 3 stages of a block of two planes of two operands.
SHARED_BYTES = 3 * 2 * 2 * 128 * 64 * 2


@dataclass(frozen=True)
class Tiling:
    """How a product is cut.

    Attributes:
        size: Rows and columns of a tile.
        depth: Of a block along K. Tensor cores add up a block in less than float32, so that its depth is in the error.
        warps, stages: Of a program.
    """

    size: int
    depth: int
    warps: int
    stages: int


Choice = Callable[[int, int, int, int], Tiling]
"""(N, planes that are read, step, batch) ↦ how products are cut."""


def tiling(N: int, planes: int, step: int, batch: int = 1) -> Tiling:
    """The fastest of those that were measured on an H200 (n = 512 … 4096).

    The first step meets the smallest eigenvalues, and its rounding is most of the error: blocks half as deep take a
    third of it away at large κ, at a fifth more time for this step; a quarter as deep another fifth, for a tenth more
    where one small matrix leaves most of the device idle anyway. In later steps they gain nothing.
    """
    fine = step == 0 and planes == 2
    if fine and N <= SMALL and batch == 1:
        return Tiling(64, 16, 4, 8)
    if N >= LARGE and N % (2 * TILE) == 0:
        return Tiling(128, 32, 8, 4) if fine else Tiling(128, 64, 8, 3)
    if fine or N % 128:  # blocks of one plane go in pairs, and these must fill N
        return Tiling(64, 32, 4, 4)
    return Tiling(64, 64, 4, 3)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device: that of the data, while this lasts."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=8)
def symmetric_products(device: torch.device) -> bool:
    """Whether `SymmetricRoot` runs on the device: NVIDIA's, with 192 KiB of shared memory (H100 and later), and Triton.

    AMD's are of type cuda, too, and nobody has run the kernels there.
    """
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stub lacks this one
    return bool(properties.shared_memory_per_block_optin >= SHARED_BYTES)

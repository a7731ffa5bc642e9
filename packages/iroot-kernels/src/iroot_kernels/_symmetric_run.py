"""Launching a compiled iteration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from iroot_kernels._symmetric import Launch, Program
from iroot_kernels._tiling import TILE, Choice, Tiling, current

DEEP = 128


@dataclass(frozen=True)
class Held:
    """Where matrices are held.

    Attributes:
        whole: `(slots, b, N, N)` float32.
        planes: `(slots, b, planes, N, N)` in 16 bits.
        thin_whole, thin_planes: Those of transposed thin matrices, with K rows.
    """

    whole: Tensor
    planes: Tensor
    thin_whole: Tensor
    thin_planes: Tensor


@lru_cache(maxsize=256)
def tables_of(program: Program, device: torch.device) -> tuple[Tensor, Tensor]:
    """The program on the device. Whoever captures a launch holds them for as long as the graph."""
    ints = torch.tensor([job.ints for job in program.jobs], dtype=torch.int32)
    floats = torch.tensor([job.floats for job in program.jobs], dtype=torch.float32)
    return ints.to(device), floats.to(device)


def run(
    program: Program, tables: tuple[Tensor, Tensor], A: Tensor, B: Tensor | None, held: Held, choose: Choice
) -> None:
    """The first job on A and the second on B, then one launch after the other.

    Args:
        program: What to do.
        tables: The same on the device.
        A: `(b, n, n)`, contiguous.
        B: `(b, n, k)`, contiguous, where the program acts on columns.
        held: Buffers.
        choose: How products are cut.
    """
    cuts = _cuts(program, held, choose)
    with current(A.device):
        _enter(program, A, B, held, tables, cuts[0].size if cuts else TILE)
        _launch(program, held, tables, cuts, A.shape[-1])


def _cuts(program: Program, held: Held, choose: Choice) -> list[Tiling]:
    """The tiles of each step."""
    batch, stored, N = held.planes.shape[1:4]
    steps = {launch.step: _read(launch, stored) for launch in program.launches}
    cuts = [choose(N, read, step, batch) for step, read in steps.items()]
    size = cuts[0].size if cuts else TILE
    if N % size or any(cut.size != size for cut in cuts):
        # A diagonal tile is written whole, and read whole: smaller ones leave holes in it.
        found = sorted({cut.size for cut in cuts})
        raise ValueError(f"the tiles of all steps must be of one size that divides {N}, not {found}")
    return cuts


def _tiles(N: int, size: int) -> int:
    """Those on and below the diagonal."""
    return N // size * (N // size + 1) // 2


def _enter(program: Program, A: Tensor, B: Tensor | None, held: Held, tables: tuple[Tensor, Tensor], size: int) -> None:
    """What is passed, into planes."""
    from iroot_kernels import _symmetric_triton as kernels

    (b, n), (stored, N) = A.shape[:2], held.planes.shape[2:4]
    kernels.enter[(_tiles(N, size) * b,)](
        *(A, held.whole, held.planes, *tables, n, b, N, len(program.jobs[0].results), stored, size),
        num_warps=8 if size > TILE else 4,
    )
    if B is not None:
        K = held.thin_whole.shape[-2]
        kernels.enter_thin[(K // TILE * (N // TILE) * b,)](
            *(B, held.thin_whole, held.thin_planes, *tables, n, B.shape[-1], b, K, N, stored, TILE)
        )


def _launch(program: Program, held: Held, tables: tuple[Tensor, Tensor], cuts: list[Tiling], n: int) -> None:
    """Each launch may begin before the one before it has ended, and waits before it reads."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from iroot_kernels import _symmetric_triton as kernels

    b, stored, N = held.planes.shape[1:4]
    K, overlap = held.thin_whole.shape[-2], held.whole.is_cuda

    @lru_cache
    def rows(thin: bool, size: int, depth: int) -> TensorDescriptor:
        planes = held.thin_planes if thin else held.planes
        return TensorDescriptor.from_tensor(planes.view(-1, N), [size, depth])

    for launch in program.launches:
        cut = cuts[launch.step]
        if launch.thin:
            cut = _thin_cut(N, _read(launch, stored), cut)
        size = cut.size
        how = (stored, _read(launch, stored), size, cut.depth, overlap)
        settings = {"num_warps": cut.warps, "num_stages": cut.stages, "launch_pdl": overlap}
        right = rows(False, size, cut.depth)
        if launch.thin:
            count, left = K // size * (N // size) * b, rows(True, size, cut.depth)
            thin = (left, right, held.thin_whole, held.thin_planes, *tables, launch.first, b, K, N)
            kernels.thin_product[(count,)](*thin, *how, **settings)
        else:
            count = _tiles(N, size) * b * launch.count
            where = (right, held.whole, held.planes, *tables, launch.first, n, b, N)
            kernels.product[(count,)](*where, launch.results, *how, **settings)


def _thin_cut(N: int, read: int, cut: Tiling) -> Tiling:
    """A thin product takes the time to read the planes: of one in deep blocks, 18 instead of 21 µs for N = 4096."""
    depth = DEEP if read == 1 and N % (2 * DEEP) == 0 else cut.depth
    return Tiling(TILE, depth, 4, 3)


def _read(launch: Launch, stored: int) -> int:
    """How many planes of each operand it reads."""
    return 1 if launch.coarse else stored

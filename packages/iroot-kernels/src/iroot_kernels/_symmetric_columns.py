"""Applying the factors of a program that has run to other columns, by its thin launches alone."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from iroot_kernels._symmetric import Program
from iroot_kernels._symmetric_run import Held, _cuts, _launch
from iroot_kernels._tiling import TILE, Choice, current


def run_columns(program: Program, tables: tuple[Tensor, Tensor], B: Tensor, held: Held, choose: Choice) -> None:
    """What the second job and the thin launches of a program do to B. Its symmetric matrices are where they were left.

    Args:
        program: It acts on columns.
        tables: The same on the device.
        B: `(b, n, k)` float32, contiguous.
        held: Buffers; the thin ones may be others than those that the program has run in.
        choose: How products are cut.
    """
    from iroot_kernels import _symmetric_triton as kernels

    b, stored, N = held.planes.shape[1:4]
    (n, k), K = B.shape[1:], held.thin_whole.shape[-2]
    thin = replace(program, launches=tuple(launch for launch in program.launches if launch.thin))
    # Tiles are of one size for all steps, those without a thin launch among them.
    cuts = _cuts(program, held, choose)
    with current(B.device):
        kernels.enter_thin[(K // TILE * (N // TILE) * b,)](
            *(B, held.thin_whole, held.thin_planes, *tables, n, k, b, K, N, stored, TILE)
        )
        _launch(thin, held, tables, cuts, n)

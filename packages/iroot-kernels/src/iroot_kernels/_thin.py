"""V_{j+1} = α·S·V_j + β·V_j + γ·V_{j−1} for a symmetric S and few columns V, from planes of 16 bits.

What a product with k ≪ n columns takes is the time to read S. Two planes of fp16 are as many bytes as float32, and
tensor cores multiply them to u = 2^-22 in less time than it takes to read them; the high plane alone is half as many
bytes, to 2^-11. A term is one launch: the product, the recurrence, its share of a sum, and the planes of V_{j+1}.

fp16 holds numbers from 2^-24 to 2^16. Entries of S are at most 1 and take the factor 2^14. Where the recurrence does
not grow, as that of T_j on [−1, 1], no entry of V_j exceeds the norm of a column of V_0, √n times its largest entry;
with entries of 8 at most, V_j takes the factor 2^12/√n. Where it grows beyond that its planes overflow to infinity,
and so does what is made of it: it is not finite, not wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iroot_kernels._tiling import MOST, SHARED_BYTES, TILE, current
from iroot_kernels._workspace import Workspace

PLANE, STORED = torch.float16, 2
# Powers of two: of S, of V but for √n. Blocks of one plane go in pairs: sizes are multiples of two.
TOP, TOP_COLUMNS, DEPTH = 14, 12, 64
LEAST_COLUMNS, MOST_COLUMNS, MOST_STAGES = 16, 128, 5


@dataclass(frozen=True)
class PlaneMatrix:
    """A symmetric matrix in two planes of fp16.

    Attributes:
        n: Its size.
        planes: `(b, 2, N, N)`, N the next multiple of 128, zero beyond n.
        ws: Where planes and columns live.

    Examples:
        >>> import torch
        >>> from iroot_kernels import PlaneMatrix, Workspace, symmetric_products
        >>> if symmetric_products(torch.device("cuda", 0)) if torch.cuda.is_available() else False:
        ...     S, ws = torch.eye(64, device="cuda")[None] / 2, Workspace()
        ...     V, U, total = (torch.full((1, 64, 16), x, device="cuda") for x in (1.0, 0.0, 0.0))
        ...     PlaneMatrix.of(S, ws).recurrence(V).term(V, U, total, 2.0, 1.0, -1.0, 0.5)
        ...     assert torch.equal(U, torch.full_like(U, 2.0)) and torch.equal(total, torch.full_like(U, 1.0))
    """

    n: int
    planes: Tensor
    ws: Workspace

    @classmethod
    def of(cls, S: Tensor, ws: Workspace, name: str = "matrix") -> PlaneMatrix:
        """S `(b, n, n)` float32, contiguous, with entries of at most 1; `name` is that of its buffer.

        Cost: it is read once, and written once.
        """
        b, n = S.shape[:2]
        N = _padded(n, 2 * DEPTH)
        if b * STORED * N > MOST:
            raise ValueError(f"S has shape {tuple(S.shape)}: matrices this large, or this many, are for several calls")
        planes = ws.buffer(f"{name} planes", (b, STORED, N, N), PLANE, S.device)
        _split(S, planes, 2.0**TOP)
        return cls(n, planes, ws)

    def recurrence(self, V: Tensor, coarse: int | None = None) -> PlaneRecurrence:
        """A recurrence that begins with V.

        Args:
            V: `(b, n, k)` float32, contiguous, entries of about 8 at most.
            coarse: The term from which it reads the high planes only, the first being 0; `None`: in none.
        """
        return PlaneRecurrence(self, V, coarse)


class PlaneRecurrence:
    """Its terms, in their order; the planes of the latest are kept in the workspace."""

    def __init__(self, matrix: PlaneMatrix, V: Tensor, coarse: int | None) -> None:
        b, N, k = V.shape[0], matrix.planes.shape[-1], V.shape[-1]
        self.matrix, self.coarse, self.terms = matrix, coarse, 0
        self.block = min(max(1 << (k - 1).bit_length(), LEAST_COLUMNS), MOST_COLUMNS)
        K = _padded(k, self.block)
        if 2 * b * STORED * N > MOST or N * K > MOST:
            raise ValueError(f"V has shape {tuple(V.shape)}: this many columns are for several calls")
        self.planes = matrix.ws.buffer(f"columns planes {K}", (2, b, STORED, N, K), PLANE, V.device)
        self.scale = 2.0 ** (TOP_COLUMNS - math.ceil(math.log2(N) / 2))
        _split(V, self.planes[0], self.scale)
        self._rows = _described(matrix.planes, TILE, DEPTH), _described(self.planes, DEPTH, self.block)

    def term(
        self, here: Tensor, before: Tensor, part: Tensor, alpha: float, beta: float, gamma: float, weight: float
    ) -> None:
        """before ← α·S·here + β·here + γ·before, then part ← part + weight·before.

        Args:
            here: The latest `(b, n, k)` float32, contiguous: V at first, then what was `before`.
            before: The one before that.
            part: A sum.
            alpha, beta, gamma, weight: Numbers.

        Cost: reads both planes of S, from `coarse` on the high one.
        """
        from iroot_kernels import _thin_triton as kernels

        (b, n, k), (N, K) = here.shape, self.planes.shape[-2:]
        read = 1 if self.coarse is not None and self.terms >= self.coarse else STORED
        first, overlap = self.terms % 2 * b * STORED * N, here.is_cuda
        numbers = (alpha / (2.0**TOP * self.scale), beta, gamma, weight, self.scale)
        with current(here.device):
            kernels.term[(b * (N // TILE) * (K // self.block),)](
                *(*self._rows, here, before, part, self.planes, first, *numbers, n, k, b, N, K),
                *(STORED, read, TILE, self.block, DEPTH, overlap),
                num_warps=4,
                num_stages=min(MOST_STAGES, SHARED_BYTES // (4 * DEPTH * (TILE + self.block))),
                launch_pdl=overlap,
            )
        self.terms += 1


def _described(planes: Tensor, rows: int, columns: int) -> Any:
    """All planes as one matrix, of which a kernel reads blocks."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(planes.view(-1, planes.shape[-1]), [rows, columns])


def _split(A: Tensor, planes: Tensor, scale: float) -> None:
    """A·scale into planes."""
    from iroot_kernels import _thin_triton as kernels

    (b, rows, columns), (R, C) = A.shape, planes.shape[-2:]
    block = min(TILE, C)
    with current(A.device):
        kernels.split[(b * (R // TILE) * (C // block),)](
            *(A, planes, scale, rows, columns, R, C, STORED, TILE, block), num_warps=4
        )


def _padded(size: int, step: int) -> int:
    """The next multiple of step."""
    return -(-size // step) * step

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

from iroot_kernels._tiling import MOST, TILE, current, symmetric_products
from iroot_kernels._workspace import Workspace

PLANE = torch.float16
# Powers of two: of S, of V but for √n, of normal numbers whose size is looked at.
TOP, TOP_COLUMNS, TOP_POWER = 14, 12, 5
LEAST_COLUMNS, MOST_COLUMNS, LEAST = 16, 128, 192
# Numbers along N in a block, and blocks in flight; with more than 64 columns. Blocks of one plane go in pairs.
NARROW, WIDE = (128, 3), (64, 4)


@dataclass(frozen=True)
class PlaneMatrix:
    """A symmetric matrix in one plane of fp16, or two.

    Attributes:
        n: Its size.
        planes: `(b, planes, N, N)`, N the next multiple of 256, zero beyond n.
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

    @staticmethod
    def serves(S: Tensor) -> bool:
        """Whether there are kernels for S, and enough of it for them: it is padded to a multiple of 256."""
        return S.dtype is torch.float32 and S.shape[-1] >= LEAST and symmetric_products(S.device)

    @classmethod
    def of(cls, S: Tensor, ws: Workspace, name: str = "matrix", planes: int = 2) -> PlaneMatrix:
        """S in planes.

        Args:
            S: `(b, n, n)` float32, row by row, with entries of at most 1, or little more (below 4).
            ws: Buffers.
            name: Of the buffer.
            planes: 1 or 2.

        Raises:
            TypeError, ValueError: Another dtype or shape, or too large.

        Cost: it is read once, and its planes are written once.
        """
        if S.dtype is not torch.float32:
            raise TypeError(f"S must be float32, not {S.dtype}")
        if S.ndim != 3 or S.shape[-1] != S.shape[-2] or S.stride(-1) != 1:
            raise ValueError(f"S must have shape (b, n, n), row by row, not {tuple(S.shape)} with strides {S.stride()}")
        b, n = S.shape[:2]
        N = _padded(n, 2 * NARROW[0])
        if b * planes * N > MOST:
            raise ValueError(f"S has shape {tuple(S.shape)}: matrices this large, or this many, are for several calls")
        held = ws.buffer(f"{name} planes", (b, planes, N, N), PLANE, S.device)
        _split(S, held, 2.0**TOP)
        return cls(n, held, ws)

    def recurrence(self, V: Tensor, coarse: int | None = None) -> PlaneRecurrence:
        """A recurrence that begins with V.

        Args:
            V: `(b, n, k)` float32, contiguous, entries of about 8 at most.
            coarse: The term from which it reads the high planes only, the first being 0; `None`: in none.

        Raises:
            TypeError, ValueError: Another dtype or shape, or too many columns.
        """
        return PlaneRecurrence(self, V, coarse)

    def power(self, V: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """S^count·V from the high plane, for its size.

        A step is divided by √N and a power of two that brings the columns before it back to the size of normal numbers:
        in fp16 they have room for what S makes of them, 1/√N … √N.

        Args:
            V: `(b, n, 16)` float32, contiguous, normal numbers.
            count: Of products, 1 or more.

        Returns:
            (f, e) with ‖S^count·V‖_F = f·2^e, `(b,)` float32 each. Cost: the high plane of S is read `count` times, a
            launch each; three more for the result.
        """
        from iroot_kernels import _thin_triton as kernels

        (b, stored, N), (depth, stages), overlap = self.planes.shape[:3], NARROW, V.is_cuda
        blocks, root = N // TILE, math.ceil(math.log2(N) / 2)
        columns = self.ws.buffer("power planes", (2, b, 1, N, LEAST_COLUMNS), PLANE, V.device)
        sizes = self.ws.buffer("power sizes", (count, b, blocks), torch.float32, V.device)
        shifts = self.ws.buffer("power shifts", (count, b), torch.float32, V.device)
        _split(V, columns[0], 2.0**TOP_POWER)
        rows = _described(self.planes, TILE, depth), _described(columns, depth, LEAST_COLUMNS)
        numbers = 2.0 ** -(TOP + root), 2.0 ** (2 * TOP_POWER) * self.n * LEAST_COLUMNS
        with current(V.device):
            for step in range(count):
                kernels.power[(b * blocks,)](
                    *(*rows, columns, sizes, shifts, step, *numbers, b, N, stored),
                    *(1 << (blocks - 1).bit_length(), TILE, LEAST_COLUMNS, depth, overlap),
                    num_warps=4,
                    num_stages=stages,
                    launch_pdl=overlap,
                )
        return sizes[-1].sum(-1).sqrt_(), shifts.sum(0).neg_().add_(root * count - TOP_POWER)


class PlaneRecurrence:
    """Its terms, in their order; the planes of the latest are kept in the workspace.

    Examples:
        >>> import torch
        >>> from iroot_kernels import PlaneMatrix, PlaneRecurrence, Workspace
        >>> if PlaneMatrix.serves(torch.empty(256, 256, device="cuda")) if torch.cuda.is_available() else False:
        ...     S = 0.5 * torch.eye(256, device="cuda")[None]
        ...     here, before, total = (torch.full((1, 256, 16), x, device="cuda") for x in (1.0, 0.0, 0.0))
        ...     terms = PlaneRecurrence(PlaneMatrix.of(S, Workspace()), here, coarse=None)
        ...     for alpha in (1.0, 2.0):  # T_1(S)·V = V/2, T_2(S)·V = −V/2
        ...         terms.term(here, before, total, alpha, 0.0, -1.0, 1.0)
        ...         here, before = before, here
        ...     assert torch.equal(here, torch.full_like(here, -0.5)) and not total.any()
    """

    def __init__(self, matrix: PlaneMatrix, V: Tensor, coarse: int | None) -> None:
        if V.dtype is not torch.float32:
            raise TypeError(f"V must be float32, not {V.dtype}")
        (b, stored, N), k = matrix.planes.shape[:3], V.shape[-1]
        if V.shape != (b, matrix.n, k) or not k or not V.is_contiguous():
            raise ValueError(f"V must be contiguous with shape {(b, matrix.n)} + (k,), k ≥ 1, not {tuple(V.shape)}")
        self.matrix, self.coarse, self.terms = matrix, coarse, 0
        self.block, self.more = _blocks(k)
        K = _padded(k - self.more, self.block) + self.more
        if 2 * b * stored * N > MOST or N * K > MOST:
            raise ValueError(f"V has shape {tuple(V.shape)}: this many columns are for several calls")
        self.planes = matrix.ws.buffer(f"columns planes {K}", (2, b, stored, N, K), PLANE, V.device)
        self.scale = 2.0 ** (TOP_COLUMNS - math.ceil(math.log2(N) / 2))
        _split(V, self.planes[0], self.scale)
        self.depth, self.stages = NARROW if self.block + self.more <= TILE else WIDE
        widths = self.block, self.more or self.block
        described = [_described(self.planes, self.depth, width) for width in widths]
        self._rows = _described(matrix.planes, TILE, self.depth), *described

    def term(
        self, here: Tensor, before: Tensor, part: Tensor, alpha: float, beta: float, gamma: float, weight: float
    ) -> None:
        """before ← α·S·here + β·here + γ·before, then part ← part + weight·before.

        Args:
            here: The latest `(b, n, k)` float32, contiguous: V at first, then what was `before`.
            before: The one before that.
            part: A sum.
            alpha: Of the product.
            beta: Of `here`.
            gamma: Of `before`.
            weight: Of what is added to `part`.

        Cost: reads both planes of S, from `coarse` on the high one.
        """
        from iroot_kernels import _thin_triton as kernels

        (b, n, k), (stored, N, K) = here.shape, self.planes.shape[-3:]
        read = 1 if self.coarse is not None and self.terms >= self.coarse else stored
        first, overlap = self.terms % 2 * b * stored * N, here.is_cuda
        numbers = (alpha / (2.0**TOP * self.scale), beta, gamma, weight, self.scale)
        with current(here.device):
            kernels.term[(b * (N // TILE) * ((K - self.more) // self.block),)](
                *(*self._rows, here, before, part, self.planes, first, *numbers, n, k, b, N, K),
                *(stored, read, TILE, self.block, self.more, self.depth, overlap),
                num_warps=4,
                num_stages=self.stages,
                launch_pdl=overlap,
            )
        self.terms += 1


def _blocks(k: int) -> tuple[int, int]:
    """Columns of a program: a power of two, and so many more where one more alone would be twice as many."""
    if TILE < k <= 3 * TILE // 2:
        return TILE, max(1 << (k - TILE - 1).bit_length(), LEAST_COLUMNS)
    return min(max(1 << (k - 1).bit_length(), LEAST_COLUMNS), MOST_COLUMNS), 0


def _described(planes: Tensor, rows: int, columns: int) -> Any:
    """All planes as one matrix, of which a kernel reads blocks."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(planes.view(-1, planes.shape[-1]), [rows, columns])


def _split(A: Tensor, planes: Tensor, scale: float) -> None:
    """A·scale into planes."""
    from iroot_kernels import _thin_triton as kernels

    (b, rows, columns), (stored, R, C) = A.shape, planes.shape[-3:]
    block = min(TILE, C & -C)  # a power of two that divides C
    with current(A.device):
        kernels.split[(b * (R // TILE) * (C // block),)](
            *(A, planes, scale, rows, columns, *A.stride()[:2], R, C, stored, TILE, block), num_warps=4
        )


def _padded(size: int, step: int) -> int:
    """The next multiple of step."""
    return -(-size // step) * step

"""Running a compiled iteration where the kernels are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from iroot_kernels._chain import Chain, binary_chain, check_chain
from iroot_kernels._polynomial import Polynomial
from iroot_kernels._products import Products
from iroot_kernels._symmetric import ROOT, X_SLOT, Y_SLOT, Program, compiled
from iroot_kernels._workspace import Workspace

# All sizes are padded with zeros to a multiple of the smaller tile.
TILE = 64
# A matrix has fewer numbers than int32, and so have all planes rows.
MOST = 2**31 - 1
LARGE = 3072
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


def tiling(N: int, planes: int, step: int) -> Tiling:
    """The fastest of those that were measured on an H200 (n = 512 … 4096).

    The first step meets the smallest eigenvalues, and its rounding is most of the error: blocks half as deep take a
    third of it away at large κ, at a fifth more time for this step. In later steps they gain nothing.
    """
    fine = step == 0 and planes == 2
    if N >= LARGE and N % (2 * TILE) == 0:
        return Tiling(128, 32, 8, 4) if fine else Tiling(128, 64, 8, 3)
    if fine or N % 128:  # blocks of one plane go in pairs, and these must fill N
        return Tiling(64, 32, 4, 4)
    return Tiling(64, 64, 4, 3)


@lru_cache(maxsize=8)
def symmetric_products(device: torch.device) -> bool:
    """Whether `SymmetricRoot` runs on the device: NVIDIA's, with 192 KiB of shared memory (H100 and later), and Triton.

    AMD's are of type cuda, too, and nobody has run the kernels there.
    """
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stub lacks this one
    return bool(properties.shared_memory_per_block_optin >= SHARED_BYTES)


class SymmetricRoot:
    """A^(-q/s) of symmetric matrices by fixed steps, made of symmetric products: half the work of full ones.

    For a GPU with Triton (`symmetric_products`). It launches a kernel for each product, one for two of them where they
    may share it, and nothing else; nothing is read back, so that it can be captured in a graph. Results are the same
    bits in every run.

    Args:
        steps: The polynomials, of degree 1, 2, 3, 4, or 8 with factors (`has_form`).
        p: Y ← Y·q^p.
        power: X ← X·q^power: 1 for A^(-1/p), q for A^(-q/p).
        chain: Addition chain that ends at p; square-and-multiply by default.
        upper: Bound of λmax that the steps were made for.
        precision: fp16x3, bf16x3, fp16 or bf16, or `Products` that already count.
        workspace: Buffers to use, in two planes 36·n² bytes for each matrix with p = 1, 2 or 4, 40·n² with 3 or 8.
        choose: (N, planes, step) ↦ `Tiling`, of one size for all steps.

    Attributes:
        X: The root, a view of the workspace.
        Y: The iterate before the last step, likewise.
        steps: Steps taken.
        last: The polynomial of the last one.
        products: The products used, with their counts.

    Example:
        >>> import torch
        >>> from iroot_kernels import Polynomial, SymmetricRoot, symmetric_products
        >>> if symmetric_products(torch.device("cuda", 0)) if torch.cuda.is_available() else False:
        ...     A = torch.tensor([[[0.5, 0.1], [0.1, 0.4]]], device="cuda")
        ...     newton_schulz = Polynomial.of_monomials((1.5, -0.5))
        ...     X = SymmetricRoot([newton_schulz] * 8, p=2)(A)
        ...     assert torch.dist(X @ A @ X, torch.eye(2, device="cuda")) < 1e-5
    """

    def __init__(
        self,
        steps: Sequence[Polynomial],
        *,
        p: int,
        power: int = 1,
        chain: Chain | None = None,
        upper: float = 1.0,
        precision: str | Products = "fp16x3",
        workspace: Workspace | None = None,
        choose: Callable[[int, int, int], Tiling] = tiling,
    ) -> None:
        self.products = precision if isinstance(precision, Products) else Products(precision)
        chain = binary_chain(p) if chain is None else tuple(chain)
        check_chain(chain, p)
        self.program = compiled(tuple(steps), p, power, chain, self.products.how.name, upper)
        self.p, self.power, self.choose = p, power, choose
        self.ws = self.products.ws = Workspace() if workspace is None else workspace
        self.steps, self.last = len(steps), steps[-1]
        self.X: Tensor | None = None
        self.Y: Tensor | None = None
        self._whole: Tensor | None = None

    def __call__(self, A: Tensor) -> Tensor:
        """The root of A.

        Args:
            A: `(b, n, n)` symmetric, float32, spectrum in (0, upper].

        Returns:
            `X`, `(b, n, n)` float32. Cost: `program.products` products, each half of a full one.

        Raises:
            ValueError, TypeError: Another shape or dtype.
        """
        if A.ndim != 3 or A.shape[-1] != A.shape[-2]:
            raise ValueError(f"A must have shape (b, n, n), not {tuple(A.shape)}")
        if A.dtype is not torch.float32:
            raise TypeError(f"A must be float32, not {A.dtype}")
        n = A.shape[-1]
        N = -(-n // TILE) * TILE
        if max(N * N, self.program.planes * A.shape[0] * self.products.how.planes * N) > MOST:
            raise ValueError(f"A has shape {tuple(A.shape)}: matrices this large, or this many, are for several calls")
        whole, planes = self._buffers(A, N)
        _run(self.program, A.contiguous(), whole, planes, self.choose)
        self.products.square += self.program.products
        self._whole = whole
        self.X, self.Y = whole[ROOT, :, :n, :n], whole[Y_SLOT, :, :n, :n]
        return self.X

    def before(self) -> Tensor:
        """X before the last step, `(b, n, n)`; only after more than one step."""
        assert self._whole is not None and self.Y is not None and self.steps > 1
        n = self.Y.shape[-1]
        L = self._whole[X_SLOT, :, :n, :n].tril()
        return L + L.tril(-1).mT

    def _buffers(self, A: Tensor, N: int) -> tuple[Tensor, Tensor]:
        """Slots in float32 and of planes."""
        how, b = self.products.how, A.shape[0]
        assert how.plane is not None
        whole = self.ws.buffer("symmetric whole", (self.program.wholes, b, N, N), torch.float32, A.device)
        shape = (self.program.planes, b, how.planes, N, N)
        return whole, self.ws.buffer("symmetric planes", shape, how.plane, A.device)


@lru_cache(maxsize=256)
def _tables(program: Program, device: torch.device) -> tuple[Tensor, Tensor]:
    """The program on the device."""
    ints = torch.tensor([job.ints for job in program.jobs], dtype=torch.int32)
    floats = torch.tensor([job.floats for job in program.jobs], dtype=torch.float32)
    return ints.to(device), floats.to(device)


def _run(program: Program, A: Tensor, whole: Tensor, planes: Tensor, choose: Callable[[int, int, int], Tiling]) -> None:
    """The first job on A, then one launch after the other."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    from iroot_kernels import _symmetric_triton as kernels

    (b, n), (stored, N) = A.shape[:2], planes.shape[2:4]
    ints, floats = _tables(program, A.device)
    rows = planes.view(-1, N)
    cuts = [choose(N, stored, step) for step in range(program.launches[-1].step + 1)] if program.launches else []
    size = cuts[0].size if cuts else TILE
    if N % size or any(cut.size != size for cut in cuts):
        # A diagonal tile is written whole, and read whole: smaller ones leave holes in it.
        found = sorted({cut.size for cut in cuts})
        raise ValueError(f"the tiles of all steps must be of one size that divides {N}, not {found}")
    count = N // size * (N // size + 1) // 2 * b
    kernels.enter[(count,)](
        *(A, whole, planes, ints, floats, n, b, N, len(program.jobs[0].results), stored, size),
        num_warps=8 if size > TILE else 4,
    )
    described = {cut: TensorDescriptor.from_tensor(rows, [cut.size, cut.depth]) for cut in set(cuts)}
    for launch in program.launches:
        cut = cuts[launch.step]
        kernels.product[(count * launch.count,)](
            *(described[cut], whole, planes, ints, floats, launch.first, n, b, N),
            *(launch.results, stored, size, cut.depth),
            num_warps=cut.warps,
            num_stages=cut.stages,
        )

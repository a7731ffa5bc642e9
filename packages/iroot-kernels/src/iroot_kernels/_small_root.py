"""Inverse roots of batches of small matrices, a whole iteration in one launch: a program to a matrix (GPU).

The host lays the steps out as a table of numbers and says how matrices lie in memory; see `_small_triton` for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from iroot_kernels._polynomial import Polynomial
from iroot_kernels._small_table import on_device, table
from iroot_kernels._tiling import current
from iroot_kernels._workspace import Workspace

LARGEST = 128
MOST_POWERS = 8
MOST_MATRICES = 2**31 - 1
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Of the operands of a product. ieee has no tensor core: for the interpreter, and to compare with.
UNIT_ROUNDOFF = {
    "fp16x3": 2.0**-22,
    "tf32x3": 2.0**-22,
    "bf16x6": 2.0**-24,
    "bf16x3": 2.0**-16,
    "tf32": 2.0**-11,
    "ieee": 2.0**-24,
}
# Of the largest program: three planes in bf16 of both operands of a product, and one more.
SHARED_BYTES = (3 * 2 + 1) * 128 * 128 * 2

NONFINITE, ASYMMETRIC, UNFINISHED, OUT_OF_RANGE = 1, 2, 4, 8


@dataclass(frozen=True)
class Launch:
    """How a program runs.

    Attributes:
        warps: Of a program.
        stages: Of its loops.
        tile: Columns of B at a time, a power of two ≥ 16.
        check: Precision of the certificate's products. Operands of 22 bits would show their own rounding of A only.
    """

    warps: int
    stages: int
    tile: int
    check: str = "bf16x6"


def small_launch(NP: int, precision: str) -> Launch:
    """For matrices padded to NP: the fewest warps whose registers hold the iterates in the loop.

    Compiled for an H100: 16 and 32 spill nothing. 64 keeps on the stack what is used before and after the loop. 128
    spills in the loop, too, about a matrix a step; with 16 warps it needs more shared memory than there is.
    """
    warps = {16: 1, 32: 2, 64: 4, 128: 8}[NP]
    return Launch(warps, 1, min(NP, 64), "ieee" if precision == "ieee" else "bf16x6")


@lru_cache(maxsize=8)
def small_matrices(device: torch.device) -> bool:
    """Whether `SmallRoot` runs on the device: NVIDIA's, with 224 KiB of shared memory (as an H100), and Triton."""
    if device.type != "cuda" or torch.version.hip is not None or find_spec("triton") is None:
        return False
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stub lacks this one
    return bool(properties.shared_memory_per_block_optin >= SHARED_BYTES)


class SmallResult(NamedTuple):
    """What is known of every matrix, tensors of `(b,)` but for Z.

    Attributes:
        Z: `(b, n, n)`, or `(b, n, k)`; NaN where `status` has one of the bits 1, 2, 4.
        error: Estimated relative error of Z, inf where there is none.
        residual: ‖X^h·A·X^(s−h) − I‖_F/√n with X = A^(-1/s), h = ⌊s/2⌋.
        amplification: ‖X‖_F‖B‖_F/(√n·‖Z‖_F), what the error of X is multiplied by at most; 1 for the root.
        bound: λmax or more.
        low: λmin, or somewhat more.
        steps: Steps taken.
        status: 0, or a sum of 1 (input not finite), 2 (not symmetric), 4 (not finished: singular, indefinite, or worse
            conditioned than the rounds suffice for) and 8 (a result beyond float32's range, or below its normal one).
    """

    Z: Tensor
    error: Tensor
    residual: Tensor
    amplification: Tensor
    bound: Tensor
    low: Tensor
    steps: Tensor
    status: Tensor


class SmallRoot:
    """(A + ridge·I)^(-q/s), or its product with B, of a batch of matrices of up to 128×128 in one launch.

    For a GPU with Triton (`small_matrices`). A program scales its matrix by a power of two, exactly, so that its
    spectrum lies in (0, 1], takes the steps, repeats the last ones until its own test finds it finished, estimates its
    error, and writes one status. Nothing is read back, so that it can be captured in a graph after a first call.
    Keep the object for as long as the graph. Results are the same bits in every run, and scale exactly with powers of
    2^s.

    Args:
        steps: Polynomials of degree 1 or 2 for a spectrum in [lo, 1]. The scaling leaves λmax in (1/(2√n), 1].
        p: s; Y ← Y·q^s, 1 … 8.
        power: q, 1 … 8: the root to this power, q − 1 products at the end.
        again: How many of the last steps are repeated; all of them by default. Their first one must accept [0, 1].
        rounds: How often at most.
        precision: Of the iteration's products: fp16x3, tf32x3, bf16x6, bf16x3, tf32 or ieee.
        workspace: For a copy of A or B whose rows are not contiguous.
        choose: (NP, precision) ↦ `Launch`.

    Examples:
        >>> import torch
        >>> from iroot_kernels import Polynomial, SmallRoot, small_matrices
        >>> if small_matrices(torch.device("cuda", 0)) if torch.cuda.is_available() else False:
        ...     A = torch.tensor([[[0.5, 0.1], [0.1, 0.4]]], device="cuda")
        ...     result = SmallRoot([Polynomial.of_monomials((1.5, -0.5))] * 8, p=2)(A)
        ...     assert torch.dist(result.Z @ A @ result.Z, torch.eye(2, device="cuda")) < 1e-5
    """

    def __init__(
        self,
        steps: Sequence[Polynomial],
        *,
        p: int,
        power: int = 1,
        again: int | None = None,
        rounds: int = 3,
        precision: str = "fp16x3",
        workspace: Workspace | None = None,
        choose: Any = small_launch,
    ) -> None:
        again = len(steps) if again is None else again
        _check_plan(steps, p, power, again, rounds, precision)
        self.p, self.power, self.precision, self.choose = p, power, precision, choose
        self.table = table(tuple(steps), p, again, rounds)
        self.ws = Workspace() if workspace is None else workspace
        self._numbers: Tensor | None = None

    def __call__(
        self, A: Tensor, B: Tensor | None = None, *, ridge: float | Tensor = 0.0, out: Tensor | None = None
    ) -> SmallResult:
        """The root of every matrix, or its product with B.

        Args:
            A: `(b, n, n)` symmetric, n ≤ 128, float32, float16 or bfloat16; any batch and row stride.
            B: `(b, n, k)`, one of these dtypes.
            ridge: Added to the diagonal; a number, or `(b,)` float32.
            out: For Z, contiguous; float32 by default.

        Returns:
            The result. Cost: one launch.

        Raises:
            ValueError, TypeError: Another shape or dtype.
        """
        _check_matrices(A, B, ridge, out)
        (b, n), k = A.shape[:2], A.shape[2] if B is None else B.shape[2]
        Z = torch.empty((b, n, k), dtype=torch.float32, device=A.device) if out is None else out
        floats, ints = _reports(b, A.device)
        if b and n:
            A, B = self._in_rows("small A", A), None if B is None else self._in_rows("small B", B)
            strides = (A.stride(0), A.stride(1), *((0, 0) if B is None else (B.stride(0), B.stride(1))))
            self._run(b, n, k, A, B, Z, floats, ints, ridge, strides, None)
        return SmallResult(Z, *floats.unbind(1), *ints.unbind(1))

    def _in_rows(self, name: str, M: Tensor) -> Tensor:
        """M with contiguous rows."""
        return M if M.stride(-1) == 1 or M.shape[-1] == 1 else self.ws.like(name, M).copy_(M)

    def ragged(
        self, matrices: Sequence[Tensor], rhs: Sequence[Tensor] | None = None, *, ridge: float = 0.0
    ) -> list[SmallResult]:
        """The same of matrices `(n_i, n_i)` of any sizes, with `(n_i, k_i)` right-hand sides; see `small_roots`."""
        _check_list(matrices, rhs)
        results: list[SmallResult | None] = [None] * len(matrices)
        for NP in sorted({padded(A.shape[0]) for A in matrices}):
            group = [i for i, A in enumerate(matrices) if padded(A.shape[0]) == NP]
            given = None if rhs is None else [rhs[i] for i in group]
            for i, result in zip(group, self._group(NP, [matrices[i] for i in group], given, ridge), strict=True):
                results[i] = result
        return [result for result in results if result is not None]

    def _group(self, NP: int, matrices: list[Tensor], rhs: list[Tensor] | None, ridge: float) -> list[SmallResult]:
        """One launch for matrices of one padded size, each of which lies in one buffer with the others."""
        right = matrices if rhs is None else rhs
        sizes = [(A.shape[0], B.shape[1]) for A, B in zip(matrices, right, strict=True)]
        A = torch.cat([A.reshape(-1) for A in matrices])
        B = None if rhs is None else torch.cat([B.reshape(-1) for B in rhs])
        at = np.cumsum([[0, 0, 0], *([n * n, n * k, n * k] for n, k in sizes)], axis=0)
        rows = np.column_stack([np.array(sizes), at[:-1, 0], at[:-1, 1], at[:-1, 2]])
        places = torch.from_numpy(rows.astype(np.int64)).to(A.device, non_blocking=True)
        Z = torch.empty(int(at[-1, 2]), dtype=torch.float32, device=A.device)
        floats, ints = _reports(len(matrices), A.device)
        self._run(len(matrices), NP, NP, A, B, Z, floats, ints, ridge, (0, 0, 0, 0), places)
        parts = zip(torch.split(Z, [n * k for n, k in sizes]), sizes, floats, ints, strict=True)
        return [SmallResult(z.view(size), *f.unbind(), *i.unbind()) for z, size, f, i in parts]

    def _run(
        self,
        b: int,
        n: int,
        k: int,
        A: Tensor,
        B: Tensor | None,
        Z: Tensor,
        floats: Tensor,
        ints: Tensor,
        ridge: float | Tensor,
        strides: tuple[int, ...],
        places: Tensor | None,
    ) -> None:
        """The launch."""
        NP, plan = padded(n), self.table
        how = self.choose(NP, self.precision)
        each = isinstance(ridge, Tensor)
        unit = UNIT_ROUNDOFF[self.precision]
        slack = LARGEST * 2.0**-22 + 16 * math.sqrt(NP) * unit
        self._numbers = self.ws.hold(on_device(plan, self.p, A.device))
        with current(A.device):
            _kernels().small_root[(b,)](
                *(A, Z if B is None else B, Z, ridge if each else floats, floats, ints),
                *(self._numbers, ints if places is None else places, 0.0 if each else float(ridge)),
                *(plan.width, slack, 8 * torch.finfo(A.dtype).eps / 2),
                *(plan.first, plan.again, len(plan.rows), n, k, *strides),
                *(each, places is not None, B is not None, self.p, max(self.p.bit_length() - 2, 0), self.power),
                *(self.precision, how.check, how.tile, NP),
                num_warps=how.warps,
                num_stages=how.stages,
            )

    def products(self, steps: int) -> int:
        """n×n by n×n products of so many steps, without the certificate's."""
        rows = self.table.rows[:steps]
        squares = sum(row[4] != 0.0 for row in rows)  # m₂
        powers = self.p.bit_length() - 1 + self.p.bit_count()
        return squares + len(rows) - 1 + len(rows) * powers + self.power - 1


def small_roots(
    matrices: Sequence[Tensor], rhs: Sequence[Tensor] | None = None, *, root: SmallRoot, ridge: float = 0.0
) -> list[SmallResult]:
    """The roots of matrices of different sizes, a launch for each of the padded sizes 16, 32, 64 and 128.

    Args:
        matrices: `(n_i, n_i)` of one dtype and device.
        rhs: `(n_i, k_i)`, likewise.
        root: What is done to each.
        ridge: Added to every diagonal.

    Returns:
        Results as of one matrix at a time, bit by bit; their numbers have no batch dimension.
    """
    return root.ragged(matrices, rhs, ridge=ridge)


def padded(n: int) -> int:
    """The size that a matrix is padded to."""
    return max(16, 1 << (n - 1).bit_length())


def _kernels() -> ModuleType:
    from iroot_kernels import _small_triton

    return _small_triton


def _reports(b: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """`(b, 5)` float32 and `(b, 2)` int32."""
    floats = torch.zeros((b, 5), dtype=torch.float32, device=device)
    return floats, torch.zeros((b, 2), dtype=torch.int32, device=device)


def _check_plan(steps: Sequence[Polynomial], p: int, power: int, again: int, rounds: int, precision: str) -> None:
    if not steps:
        raise ValueError("there are no steps")
    for q in steps:
        if q.degree not in (1, 2):
            raise ValueError(f"steps are of degree 1 or 2 here, not {q.degree}")
    if not (1 <= p <= MOST_POWERS and 1 <= power <= MOST_POWERS):
        raise ValueError(f"p={p} and power={power} must be integers from 1 to {MOST_POWERS}")
    if not (1 <= again <= len(steps) and rounds >= 0):
        raise ValueError(f"again={again} must be from 1 to {len(steps)}, the number of steps, and rounds={rounds} ≥ 0")
    if precision not in UNIT_ROUNDOFF:
        raise ValueError(f"precision={precision!r} is not one of {', '.join(UNIT_ROUNDOFF)}")


def _check_matrices(A: Tensor, B: Tensor | None, ridge: float | Tensor, out: Tensor | None) -> None:
    if A.ndim != 3 or A.shape[1] != A.shape[2] or A.shape[1] > LARGEST:
        raise ValueError(f"A must have shape (b, n, n) with n ≤ {LARGEST}, not {tuple(A.shape)}")
    if A.shape[0] > MOST_MATRICES:
        raise ValueError(f"A has {A.shape[0]} matrices: more than {MOST_MATRICES} are for several calls")
    if B is not None and (B.ndim != 3 or B.shape[:2] != A.shape[:2]):
        raise ValueError(f"B must have shape {tuple(A.shape[:2])} + (k,) like A, not {tuple(B.shape)}")
    for M in (A,) if B is None else (A, B):
        if M.dtype not in DTYPES:
            raise TypeError(f"A and B must be float32, float16 or bfloat16, not {M.dtype}")
    if isinstance(ridge, Tensor) and (ridge.shape != A.shape[:1] or ridge.dtype is not torch.float32):
        raise ValueError(f"ridge must be a number or ({A.shape[0]},) float32, not {tuple(ridge.shape)} {ridge.dtype}")
    for name, given in (("B", B), ("ridge", ridge), ("out", out)):
        if isinstance(given, Tensor) and given.device != A.device:
            raise ValueError(f"{name} must be on {A.device} like A, not on {given.device}")
    shape = A.shape if B is None else B.shape
    if out is not None and (out.shape != shape or out.dtype not in DTYPES or not out.is_contiguous()):
        raise ValueError(f"out must be contiguous, {tuple(shape)}, of float32 or 16 bits")


def _check_list(matrices: Sequence[Tensor], rhs: Sequence[Tensor] | None) -> None:
    for i, A in enumerate(matrices):
        if A.ndim != 2 or A.shape[0] != A.shape[1] or not 1 <= A.shape[0] <= LARGEST:
            raise ValueError(f"matrix {i} must have shape (n, n) with 1 ≤ n ≤ {LARGEST}, not {tuple(A.shape)}")
        if A.dtype is not matrices[0].dtype or A.dtype not in DTYPES:
            raise TypeError(f"matrix {i} is {A.dtype}: all must be float32, all float16 or all bfloat16")
    if rhs is None:
        return
    if any(B.ndim != 2 for B in rhs) or [B.shape[0] for B in rhs] != [A.shape[0] for A in matrices]:
        raise ValueError("there must be a right-hand side (n_i, k_i) for each matrix")
    if any(B.dtype is not rhs[0].dtype or B.dtype not in DTYPES for B in rhs):
        raise TypeError("right-hand sides must be all float32, all float16 or all bfloat16")
    if len({M.device for M in (*matrices, *rhs)}) > 1:
        raise ValueError("matrices and right-hand sides must be on one device")

"""Fixed steps in one plane: X is held in 16 bits, and nothing of its size is rounded to float32 and back.

X/unit ≈ Z in fp16 (or bf16), as it lies in memory. A segment forms Y = ZᵀZ by `symmetric_rank_k`, exactly but for the
float32 sum, the factor Q = q_k(Y_k)…q_1(Y_1) by `SymmetricRoot`, and Z ← Z·Q by one product of 16-bit matrices: cuBLAS
writes 16 bits. All scales are in the factor: that of G in the first one, none in later ones.

What it loses. Z is rounded once a segment, to u of the plane, and so is Q: X·Q is off by about 2u·‖X‖·‖Q‖, between any
two directions, and later steps lift that by L, as they do with u·‖X‖ of iterates in float32 whose operands are rounded.
With u = 2^-11 this is an eighth of what the same steps lose with all iterates in bf16.

Only one thing loses more: the Y of a segment of several steps are rounded to u, L²·u (`_polar_iteration`), and that may
even diverge. An eigenvalue near 0 becomes −u, and q, which is made for y > 0, lifts it by more than L²: beyond −1 it
grows by ever larger factors, and fp16 overflows. So L²·u is limited to 1/8, and to 1 in the first segment, where the
singular values share a norm of 1 and most of Y is smaller than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from iroot_kernels import Polynomial, Workspace, precision, symmetric_rank_k
from iroot_precond import power_of_two
from torch import Tensor

from iroot_solve._polar_iteration import ending, parted
from iroot_solve._polar_products import Halves, reached, scaled
from iroot_solve._scales import magnitude, norm

# Z = UNIT·X: entries of X are 1/√m or so, and fp16 keeps 11 bits above 2^-14.
UNIT = 64.0
# ‖Z‖_F of the first one lies below 2^START, and its largest entry on the way there below 2^ENTRY.
START, ENTRY = 9, 10
# Of L²·u, in the first segment and in later ones.
FIRST_LOSS, LATER_LOSS = 1.0, 1 / 8


class PlaneIteration:
    """X ← X·q(XᵀX) of a batch, X/‖G‖_F the first one.

    Args:
        G: `(b, m, n)` or, with as many columns or more, `(b, n, m)`, of 32 or 16 bits. Not changed.
        name: A precision of one plane.
        ws: Buffers.

    Attributes:
        Z: The iterate times UNIT, in 16 bits, a buffer.
        steps: Steps taken.
        rectangular: Products m×n×n.
        backend: What computed them.
    """

    def __init__(self, G: Tensor, name: str, ws: Workspace) -> None:
        self.ws, self.wide = ws, G.shape[-1] >= G.shape[-2]
        self.products = Halves("fp16" if name == "tf32" else name, ws)
        self.backend = self.products.backend(G.device)
        self.Z = self._entered(G)
        self.steps = self.rectangular = 0

    @property
    def square(self) -> int:
        """Products n×n×n so far."""
        return self.products.square.square

    def run(self, steps: Sequence[Polynomial], lengths: Sequence[int]) -> None:
        """All steps, in segments."""
        parts, top, unit = [], 1.0, 1.0
        for part in parted(steps, lengths):
            parts.append((tuple(scaled(q, unit) for q in part), unit * top))
            top, unit = reached(part, top), UNIT**2
        self.products.reserve(parts)
        for i, (part, top) in enumerate(parts):
            self._segment(part, top, first=i == 0)
        self.steps += len(steps)

    def write(self, U: Tensor) -> None:
        """X, into U."""
        torch.mul(self.Z, 1 / UNIT, out=U)

    def _entered(self, G: Tensor) -> Tensor:
        """Z = 2^e·G with ‖Z‖_F in [2^(START − 1), 2^START)."""
        plane = self.products.square.how.plane
        assert plane is not None
        Z = self.ws.buffer("polar plane0", G.shape, plane, G.device)
        # float64 has a power of two for every number there may be.
        torch.mul(G, _power(ENTRY - _exponent(magnitude(G)), torch.float64), out=Z)
        rows = torch.linalg.vector_norm(Z, dim=-1, dtype=torch.float32)
        return Z.mul_(_power(START - _exponent(norm(rows[:, None])), torch.float32))

    def _segment(self, steps: tuple[Polynomial, ...], top: float, first: bool) -> None:
        Y = self._gram()
        factor: Tensor | float = 1.0
        if first:  # trace Y = ‖Z‖_F²
            size = Y.diagonal(dim1=-2, dim2=-1).sum(-1, dtype=torch.float64)
            size = torch.where(size > 0, size, 1.0)[:, None, None]
            Y.mul_(size.reciprocal().float())
            factor = (UNIT / size.sqrt()).float()
        root = self.products.root(steps, Y, top)
        Q = torch.mul(root, factor, out=self.ws.buffer("polar factor", root.shape, self.Z.dtype, root.device))
        Z = self.ws.other("polar plane", self.Z)
        self.Z = torch.bmm(Q, self.Z, out=Z) if self.wide else torch.bmm(self.Z, Q, out=Z)
        self.rectangular += 1

    def _gram(self) -> Tensor:
        """ZᵀZ, or ZZᵀ where that is smaller."""
        b, n = self.Z.shape[0], min(self.Z.shape[-2:])
        self.rectangular += 1
        Y = self.ws.buffer("polar Y", (b, n, n), torch.float32, self.Z.device)
        return symmetric_rank_k(self.Z, transposed=self.wide, out=Y, workspace=self.ws)


def shortened(lifts: Sequence[float], name: str) -> tuple[int, ...]:
    """Lengths of segments that lose no more than they may in one plane: in fp16 L ≤ 16, of the first one L ≤ 45."""
    u = precision(name).unit_roundoff
    return ending(lifts, math.sqrt(LATER_LOSS / u), math.sqrt(FIRST_LOSS / u))


def _exponent(size: Tensor) -> Tensor:
    """e with size < 2^e; 0 for 0 and for what is not finite."""
    return torch.frexp(torch.where(size.isfinite(), size, 0.0)).exponent


def _power(e: Tensor, dtype: torch.dtype) -> Tensor:
    """2^e, `(b, 1, 1)`."""
    return power_of_two(e, dtype)[:, None, None]

"""The products of Newton–Schulz steps: X in one plane of fp16, Y = X·A, Z = q(Y) but for its constant.

What `_newton_schulz`, which looks at every step, and `_schulz_planned`, which looks at none, have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from iroot_kernels import Workspace
from torch import Tensor

PLANE, UNIT = torch.float16, 2.0**-11
# The square root of ‖Y₀²‖_F bounds those of the rounded A but for this.
MARGIN = 1.02


@dataclass(frozen=True)
class Quadratic:
    """q(y) = a + b·y + c·y², the residual of which is ε in [lo, hi]."""

    a: float
    b: float
    c: float
    error: float

    def image(self, y: float) -> float:
        """y·q(y)."""
        return y * (self.a + y * (self.b + y * self.c))


@lru_cache(maxsize=256)
def quadratic(lo: float, hi: float) -> Quadratic:
    """1 − y·q(y) = T₃(x − s·y)/T₃(x) with x = (hi + lo)/(hi − lo), s = 2/(hi − lo)."""
    x, s = (hi + lo) / (hi - lo), 2 / (hi - lo)
    top = 4 * x**3 - 3 * x
    return Quadratic((12 * x**2 - 3) * s / top, -12 * x * s**2 / top, 4 * s**3 / top, 1 / top)


class SchulzProducts:
    """The buffers of one iteration, and its steps.

    Args:
        A: `(b, n, n)` float64, entries at most 1.
        ws: Where everything lives.

    Attributes:
        A: In one plane.
        iterate: X in one plane, once there is one.
        X: In float32, for the last step; before it the buffer holds Y₀².
        Y, Z: X·A, and b·Y + c·Y².
        square: Products n×n×n.
        steps: Steps.
    """

    def __init__(self, A: Tensor, ws: Workspace) -> None:
        self.ws, self.square, self.steps = ws, 0, 0
        self.A = ws.buffer("schulz A", A.shape, PLANE, A.device).copy_(A)
        self.X = ws.buffer("schulz inverse", A.shape, torch.float32, A.device)
        self.Y, self.Z = (ws.like(f"schulz {name}", self.A) for name in "YZ")

    def begin(self) -> Tensor:
        """Y₀ = AᵀA, and Y₀² in `X`; ‖Y₀²‖_F `(b,)`."""
        self._times(self.A.mT, self.A)
        self._in_float(self.Y, self.Y, 0.0)
        found: Tensor = torch.linalg.vector_norm(self.X, dim=(-2, -1))
        return found

    def first(self, q: Quadratic, alpha: float) -> None:
        """X ← α·Z·Aᵀ + a·Aᵀ."""
        self._update(self.A.mT, q, self.ws.like("schulz X0", self.A), alpha)

    def multiply(self) -> Tensor:
        """Y = X·A."""
        return self._times(self.iterate, self.A)

    def step(self, q: Quadratic) -> None:
        """X ← q(Y)·X."""
        self._polynomial(q)
        self._update(self.iterate, q, self.ws.other("schulz X", self.iterate), 1.0)

    def finish(self, q: Quadratic) -> None:
        """The last step, in float32."""
        self._polynomial(q)
        self._in_float(self.Z, self.iterate, q.a, self.iterate)
        self.steps += 1

    def _times(self, L: Tensor, R: Tensor) -> Tensor:
        self.square += 1
        return torch.bmm(L, R, out=self.Y)

    def _polynomial(self, q: Quadratic) -> None:
        """Z = b·Y + c·Y²."""
        self.square += 1
        torch.baddbmm(self.Y, self.Y, self.Y, beta=q.b, alpha=q.c, out=self.Z)

    def _update(self, X: Tensor, q: Quadratic, out: Tensor, alpha: float) -> None:
        """X ← a·X + α·Z·X."""
        self.square, self.steps = self.square + 1, self.steps + 1
        self.iterate = torch.baddbmm(X, self.Z, X, beta=q.a, alpha=alpha, out=out)

    def _in_float(self, L: Tensor, R: Tensor, beta: float, added: Tensor | None = None) -> None:
        """X ← L·R + β·`added` in float32, of factors in 16 bits."""
        self.square += 1
        out = self.X if added is None else self.X.copy_(added)
        if L.device.type == "cuda":
            torch.baddbmm(out, L, R, out_dtype=torch.float32, beta=beta, out=out)
            return
        wide = [self.ws.buffer(f"schulz wide {i}", M.shape, out.dtype, M.device).copy_(M) for i, M in enumerate((L, R))]
        torch.baddbmm(out, *wide, beta=beta, out=out)

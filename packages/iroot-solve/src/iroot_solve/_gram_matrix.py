"""GᵀG + ridge·I as products with G: what an error of the formed GᵀG cannot hide behind."""

from __future__ import annotations

import torch
from iroot_kernels import Workspace
from iroot_precond import ldexp
from torch import Tensor


class GramMatrix:
    """D·(2^e·GᵀG + ridge·I)·D, which is never formed.

    Args:
        G: `(b, m, n)` float64.
        exponent: e, integers `(b,)`.
        ridge: `(b,)`.
        d: The diagonal of D `(b, n)`; `None` for I. D is applied to the ridge, too.
        ws: A buffer for products with G, which may be much longer than what they are of.
    """

    def __init__(
        self, G: Tensor, exponent: Tensor, ridge: Tensor, d: Tensor | None = None, ws: Workspace | None = None
    ) -> None:
        self.G, self.exponent, self.ridge, self.d = G, exponent[:, None, None], ridge[:, None, None], d
        self.ws = Workspace() if ws is None else ws

    def times(self, Z: Tensor) -> Tensor:
        """(A·Z)ᵀ from the rows Zᵀ `(b, k, n)`. Cost: 2·k·m·n multiply-adds."""
        rows = Z if self.d is None else Z * self.d.unsqueeze(-2)
        shape = (*rows.shape[:-1], self.G.shape[-2])
        long = torch.bmm(rows, self.G.mT, out=self.ws.buffer("rows·Gᵀ", shape, rows.dtype, rows.device))
        found = ldexp(torch.bmm(long, self.G), self.exponent) + self.ridge * rows
        return found if self.d is None else found * self.d.unsqueeze(-2)

    def residual(self, B: Tensor, Z: Tensor) -> Tensor:
        """(B − A·Z)ᵀ from rows."""
        return B - self.times(Z)

"""The triple form for p = 2: X → A^(-1/2), Y → A^(1/2), P = X·Y, and P never symmetrized.

X ← q(P)·X, Y ← Y·q(P), P ← X·Y (Denman–Beavers in product form; Higham 2008, §6.3). Its stability lives in the order
of the factors: P is the product of the X and Y at hand, and symmetrizing it destroys that (symmetrizing X and Y alone
does no harm). In return 11-bit products reach κ = 1e6 where the product form diverges. Expand its polynomials about 0
(`Polynomial.of_monomials`): about 1 it is unstable.
"""

from __future__ import annotations

from torch import Tensor

from iroot_kernels._coupled import check_state
from iroot_kernels._polynomial import Polynomial, increment
from iroot_kernels._products import Products
from iroot_kernels._workspace import Workspace


class TripleIteration:
    """State of one triple iteration (p = 2, the root only).

    Args:
        A: `(b, n, n)` symmetric, in the storage dtype of `precision`. Not changed.
        precision: How products are rounded, or `Products` that already count.
        workspace: Buffers to use.

    Attributes:
        X: Tends to A^(-1/2).
        Y: Tends to A^(1/2).
        P: X·Y, tends to I.
    """

    def __init__(self, A: Tensor, *, precision: str | Products = "fp16", workspace: Workspace | None = None) -> None:
        self.products = precision if isinstance(precision, Products) else Products(precision)
        check_state(A, 2, 1, self.products)
        self.ws = self.products.ws = Workspace() if workspace is None else workspace
        self.X: Tensor | None = None
        self.Y = self.P = A
        self.steps = 0

    def step(self, q: Polynomial, *, last: bool = False) -> None:
        """A step. Cost: building q, one product for X (none in the first step), two for Y and P but `last`."""
        a, R = increment(q, self.P, self.products, self.ws)
        self.steps += 1
        self.X = self._times(a, R)
        if last:
            return
        self.Y = self.products(self.Y, R, C=self.Y, beta=a, out=self.ws.other("Y", self.Y))
        # P = X·Y from the factors as they are, no shortcut: their order is the stability.
        self.P = self.products(self.X, self.Y, out=self.ws.like("P", R))

    def _times(self, a: float, R: Tensor) -> Tensor:
        """a·X + R·X."""
        if self.X is not None:
            return self.products(R, self.X, C=self.X, beta=a, out=self.ws.other("X", self.X))
        X = self.ws.like("X0", R).copy_(R)
        X.diagonal(dim1=-2, dim2=-1).add_(a)
        return X

"""The uncoupled iteration: X ← X·q(X^h·A·X^(p−h)), the residual formed afresh in every step.

It costs p products more a step than the coupled form, and in exact arithmetic gives the same iterates. Because the
residual belongs to the X at hand it can restart from any nearby X that commutes with A, such as the root of a matrix
that has changed little. Rounding that does not commute with A grows in every step, for even p and large κ most (p = 2,
κ = 1e4, float64: 1e-10 after a whole schedule, 0.5 after six steps more): take no step more than needed.
"""

from __future__ import annotations

from torch import Tensor

from iroot_kernels._coupled import check_state
from iroot_kernels._polynomial import Polynomial, increment
from iroot_kernels._products import Products
from iroot_kernels._workspace import Workspace


class UncoupledIteration:
    """State of one uncoupled iteration.

    Args:
        A: `(b, n, n)` symmetric, in the storage dtype of `precision`. Not changed.
        X: `(b, n, n)` start, commuting with A; `None` for the identity.
        p: Integer ≥ 1.
        precision: How products are rounded, or `Products` that already count.
        workspace: Buffers to use.

    Attributes:
        X: Tends to A^(-1/p).
    """

    def __init__(
        self,
        A: Tensor,
        X: Tensor | None = None,
        *,
        p: int,
        precision: str | Products = "fp32",
        workspace: Workspace | None = None,
    ) -> None:
        self.products = precision if isinstance(precision, Products) else Products(precision)
        check_state(A, p, 1, self.products)
        if X is not None and (X.shape != A.shape or X.dtype != A.dtype):
            raise ValueError(f"X must be {A.dtype} of shape {tuple(A.shape)} like A, not {X.dtype} {tuple(X.shape)}")
        self.ws = self.products.ws = Workspace() if workspace is None else workspace
        self.A, self.X, self.p = A, X, p

    def residual(self) -> Tensor:
        """Y = X^h·A·X^(p−h), h = ⌊p/2⌋. Cost: p products."""
        if self.X is None:
            return self.A
        Y = self.A
        for k in range(self.p):
            left, right = (Y, self.X) if k % 2 == 0 else (self.X, Y)
            Y = self.products(left, right, out=self.ws.like(f"Y{k % 2}", Y))
        return Y

    def step(self, q: Polynomial) -> None:
        """One step with q. Cost: p products for the residual, those of building q, and one for X."""
        a, R = increment(q, self.residual(), self.products, self.ws)
        if self.X is None:
            self.X = self.ws.like("U0", R).copy_(R)
            self.X.diagonal(dim1=-2, dim2=-1).add_(a)
            return
        # On the right, as in X·q(X^h·A·X^(p−h)): for odd p the residual is not symmetric, and R·X diverges.
        self.X = self.products(self.X, R, C=self.X, beta=a, out=self.ws.other("U", self.X))

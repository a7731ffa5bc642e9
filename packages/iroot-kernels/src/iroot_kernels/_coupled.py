"""The coupled iteration in product form: Y ← Y·q(Y)^p, X ← X·q(Y), every update an increment.

Y starts at A and tends to I; X starts at I (or at B) and tends to A^(-1/p) (or A^(-1/p)·B), because Y = A·X^p all the
way. With q(Y) = a·I + R the updates are X ← a·X + R·X: only R·X is a product, so its rounding is relative to the
increment. Higham, "Functions of Matrices" (2008), §7; Guo & Higham (2006).

X and Y are multiplied on the same side: Y ← a·Y + R·Y, never a·Y + Y·R. The iterates are dense and not symmetrized, so
R commutes with them only up to rounding, and with X on the left and Y on the right that part grows: 4–10 fold in the
float32 error of p = 2, κ = 1e4, degree 4 and 6. On the same side symmetrizing gains nothing.
"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from iroot_kernels._chain import Chain, binary_chain, check_chain
from iroot_kernels._polynomial import Polynomial, apply_polynomial, increment
from iroot_kernels._products import Products
from iroot_kernels._workspace import Workspace


class CoupledIteration:
    """State of one coupled iteration on a batch of matrices.

    Args:
        A: `(b, n, n)` symmetric, spectrum in (0, u] with u the upper end the steps were made for; float64 for `fp64`,
            else float32. Not changed.
        start: What X starts from, `(b, n, k)`; `None` for the identity (the root form).
        p: Y ← Y·q^p. Integer ≥ 1.
        power: X ← X·q^power: 1 for A^(-1/p), q for A^(-q/p); s − q with `start` = A·B for A^(q/s)·B.
        chain: Addition chain that ends at p; square-and-multiply by default.
        precision: How products are rounded, one of `PRECISIONS`, or `Products` that already count.
        workspace: Buffers to use.
        keep: Keep every increment R_t, so that `apply` can act on further right-hand sides (n² numbers a step).

    Attributes:
        Y: The iterate `(b, n, n)`, tends to I.
        X: The root, or the root acting on `start`; `None` before the first step of a root form.
        steps: Steps taken.
        last: The polynomial of the last one.
        products: The products used, with their counts.

    Examples:
        >>> import torch
        >>> from iroot_kernels import CoupledIteration, Polynomial
        >>> A = torch.tensor([[[0.5, 0.1], [0.1, 0.4]]], dtype=torch.float64)
        >>> root = CoupledIteration(A, p=2, precision="fp64")
        >>> for _ in range(8):                      # Newton-Schulz: q(y) = (3 - y)/2
        ...     root.step(Polynomial.of_monomials((1.5, -0.5)))
        >>> torch.dist(root.X @ A @ root.X, torch.eye(2)) < 1e-12
        tensor(True)
    """

    def __init__(
        self,
        A: Tensor,
        start: Tensor | None = None,
        *,
        p: int,
        power: int = 1,
        chain: Chain | None = None,
        precision: str | Products = "fp32",
        workspace: Workspace | None = None,
        keep: bool = False,
    ) -> None:
        self.products = precision if isinstance(precision, Products) else Products(precision)
        check_state(A, p, power, self.products)
        _check_start(A, start)
        self.chain = binary_chain(p) if chain is None else tuple(chain)
        check_chain(self.chain, p)
        self.p, self.power, self.keep = p, power, keep
        self.ws = self.products.ws = Workspace() if workspace is None else workspace
        self.Y = A
        self.X = None if start is None else self.ws.like("X0", start).copy_(start)
        self.steps = 0
        self.factors: list[tuple[float, Tensor]] = []
        self.last: Polynomial | None = None
        self.terminal: Polynomial | None = None
        self._before: Tensor | None = None
        self._can_undo = False

    def step(self, q: Polynomial, *, last: bool = False) -> None:
        """One step with q. The `last` one leaves Y as it was.

        Cost: building q, `power` products for X (none for the first factor of the identity), and the length of the
        chain + 1 for Y unless `last`.
        """
        self._can_undo = False
        if last:
            self._remember()
        name = f"R{self.steps}" if self.keep else "R"
        self.last = q
        a, R = increment(q, self.Y, self.products, self.ws, name)
        for _ in range(self.power):
            self.X = self._times(a, R)
        if self.keep:
            self.factors.append((a, R))
        self.steps += 1
        if not last:
            self._update_Y(a, R)

    def finish(self, q: Polynomial) -> None:
        """The last step without forming q(Y): Clenshaw's recurrence on X, d products with k columns, any degree.

        X before it stays in its buffer and Y is as it was, so that the iteration can still go another way from there.
        """
        assert self.X is not None, "finish acts on a start; the root form ends with step(q, last=True)"
        self._remember()
        for i in range(self.power):
            self.X = apply_polynomial(q, self.Y, self.X, self.products, self.ws, f"W{i % 2}")
        self.terminal = self.last = q
        self.steps += 1

    def _remember(self) -> None:
        """Keep X for `undo_last`: one update leaves its buffer alone, several come back to it."""
        self._before, self._can_undo = self.X, True
        if self.X is not None and self.power > 1:
            self._before = self.ws.like("before", self.X).copy_(self.X)

    def undo_last(self) -> None:
        """Forget the last step: X as before it, and Y, which it did not touch. Possible once.

        Raises:
            RuntimeError: The last step is not there to be forgotten.
        """
        if not self._can_undo:
            raise RuntimeError("undo_last needs a last step: step(q, last=True) or finish(q)")
        self.X, self._before, self._can_undo = self._before, None, False
        self.steps -= 1
        if self.terminal is not None:
            self.terminal = None
        elif self.keep:
            self.factors.pop()

    def apply(self, V: Tensor, name: str = "V") -> Tensor:
        """What the iteration has applied to `start` so far, applied to `V` `(b, n, k)`; needs `keep`.

        Args:
            V: In the storage dtype, or float64: then the factors are used as if they were exact.
            name: Prefix of the buffers that hold the result.

        Returns:
            (a_T + R_T)…(a_1 + R_1)·V, a buffer of the workspace. Cost: one product with k columns a step.
        """
        products = self.products if V.dtype is self.Y.dtype else Products("fp64")
        here = self.ws.like(f"{name}0", V).copy_(V)
        for a, R in self.factors:
            for _ in range(self.power):
                here = products(self._as(R, V), here, C=here, beta=a, out=self.ws.other(name, here))
        if self.terminal is not None:
            for i in range(self.power):
                here = apply_polynomial(self.terminal, self._as(self.Y, V), here, products, self.ws, f"{name}t{i % 2}")
        return here

    def _as(self, M: Tensor, V: Tensor) -> Tensor:
        """`M` in the dtype of `V`."""
        return M if M.dtype is V.dtype else self.ws.buffer("wide", M.shape, V.dtype, M.device).copy_(M)

    def _times(self, a: float, R: Tensor) -> Tensor:
        """a·X + R·X."""
        if self.X is None:
            X = self.ws.like("X0", R).copy_(R)
            X.diagonal(dim1=-2, dim2=-1).add_(a)
            return X
        return self.products(R, self.X, C=self.X, beta=a, out=self.ws.other("X", self.X))

    def _update_Y(self, a: float, R: Tensor) -> None:
        """Y ← Y·q^i·q^j with (i, j) the chain's last link: as many products as forming q^p and multiplying."""
        links, ends = (self.chain[:-1], self.chain[-1]) if self.chain else ((), (1,))
        powers = {1: (a, R)}
        for i, j in links:
            powers[i + j] = self._power(powers[i], powers[j], f"R^{i + j}")
        for i in ends:
            a_i, R_i = powers[i]
            self.Y = self.products(R_i, self.Y, C=self.Y, beta=a_i, out=self.ws.other("Y", self.Y))

    def _power(self, left: tuple[float, Tensor], right: tuple[float, Tensor], name: str) -> tuple[float, Tensor]:
        """(a + R)(b + S) = ab + (a·S + b·R + R·S)."""
        (a, R), (b, S) = left, right
        C = torch.mul(S, a, out=self.ws.like(name, R)).add_(R, alpha=b)
        return a * b, self.products(R, S, C=C, out=C)


def check_state(A: Tensor, p: int, power: int, products: Products) -> None:
    """Raise unless A is a batch of square matrices in the storage dtype, and the exponents are positive integers."""
    if A.ndim != 3 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must have shape (b, n, n), not {tuple(A.shape)}")
    if A.dtype != products.how.storage:
        raise TypeError(f"A must be {products.how.storage} for precision {products.how.name!r}, not {A.dtype}")
    if not (isinstance(p, Integral) and isinstance(power, Integral) and p >= 1 and power >= 1):
        raise ValueError(f"p={p} and power={power} must be integers ≥ 1")


def _check_start(A: Tensor, start: Tensor | None) -> None:
    if start is None:
        return
    if start.dtype != A.dtype or start.device != A.device:
        raise TypeError(f"start must be {A.dtype} on {A.device} like A, not {start.dtype} on {start.device}")
    if start.ndim != 3 or start.shape[:2] != A.shape[:2]:
        raise ValueError(f"start must have shape {tuple(A.shape[:2])} + (k,) like A, not {tuple(start.shape)}")

"""A polynomial q of a matrix Y, as an increment: q(Y) = a·I + R.

q is given by Chebyshev coefficients in x = (y − c)/h. About the middle c of a step's interval the constant a carries
the bulk of q(Y), and R is small where the spectrum has gathered, so that rounding R costs little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from iroot_kernels._products import Products
from iroot_kernels._workspace import Workspace


@dataclass(frozen=True)
class Polynomial:
    """q(y) = Σ_k t_k T_k(x) with x = (y − center)/half_width.

    Attributes:
        center: c.
        half_width: h.
        chebyshev: t_0 … t_d.
        factors: (c1, …, c6, b2, b1, b0, sign) of the three-product form of degree 8 in powers of x, or `None`:
            y₂ = x²(c1 x² + c2 x), q = sign·[(y₂ + c3 x² + c4 x)(y₂ + c5 x²) + c6 y₂ + b2 x² + b1 x + b0]
            (Sastre 2018, "Efficient evaluation of matrix polynomials").
    """

    center: float
    half_width: float
    chebyshev: tuple[float, ...]
    factors: tuple[float, ...] | None = None

    @classmethod
    def of_monomials(cls, coefficients: Sequence[float]) -> Polynomial:
        """q(y) = c_0 + c_1 y + …, expanded about 0 (x = y)."""
        # numpy drops zeros at the end: a step that is linear in fact costs no product, a constant one stays a step.
        t = (*(float(t) for t in chebyshev.poly2cheb(coefficients)), 0.0)
        return cls(0.0, 1.0, t[:-1] if len(t) > 2 else t)

    def __call__(self, y: Any) -> Any:
        """q(y) of a number or an array."""
        return chebyshev.chebval((y - self.center) / self.half_width, self.chebyshev)

    @property
    def degree(self) -> int:
        return len(self.chebyshev) - 1

    @cached_property
    def monomials(self) -> tuple[float, ...]:
        """Coefficients of 1, x, x², …"""
        m = [float(m) for m in chebyshev.cheb2poly(self.chebyshev)]
        return (*m, *[0.0] * (len(self.chebyshev) - len(m)))


def increment(q: Polynomial, Y: Tensor, products: Products, ws: Workspace, name: str = "R") -> tuple[float, Tensor]:
    """(a, R) with q(Y) = a·I + R, in the fewest products: 0, 1, 2, 2, 3, 3, 4, 4 for degree 1 … 8.

    Args:
        q: The polynomial, degree ≥ 1.
        Y: `(b, n, n)`; not changed.
        products: The products to use.
        ws: Where R and the powers live.
        name: Name of R's buffer.

    Returns:
        The constant a and R `(b, n, n)`. Degree 8 with `q.factors` takes 3 products.

    Raises:
        ValueError: If q has degree 0.
    """
    if q.degree < 1:
        raise ValueError(f"q.chebyshev={q.chebyshev} must have degree ≥ 1")
    x, out = _shifted(q, Y, ws), ws.like(name, Y)
    if q.factors is not None:
        return _degree_eight(q.factors, x, products, ws, out)
    m = q.monomials
    if q.degree == 1:
        return m[0], torch.mul(x, m[1], out=out)
    if q.degree == 2:  # one pass: m_2 x² and m_1 x in the same product
        return m[0], products(x, x, C=x, alpha=m[2], beta=m[1], out=out)
    return _paterson_stockmeyer(m, x, products, ws, out)


def _shifted(q: Polynomial, Y: Tensor, ws: Workspace) -> Tensor:
    """x = (Y − c·I)/h; Y itself where that is the identity map."""
    if q.center == 0.0 and q.half_width == 1.0:
        return Y
    x = torch.mul(Y, 1.0 / q.half_width, out=ws.like("x", Y))
    x.diagonal(dim1=-2, dim2=-1).sub_(q.center / q.half_width)
    return x


def block_size(degree: int) -> int:
    """Paterson–Stockmeyer's s: powers up to x^s, then Horner in x^s; the smallest s with the fewest products."""
    return min(range(2, degree + 1), key=lambda s: (s - 1) + -(-degree // s) - 1)


def _paterson_stockmeyer(
    m: Sequence[float], x: Tensor, products: Products, ws: Workspace, out: Tensor
) -> tuple[float, Tensor]:
    """Σ m_k x^k by Horner in x^s, each partial sum held as constant + increment.

    With H = a·I + R the next block is  H·x^s + Σ_{0<i<s} m_i x^i + m_0·I:  a·x^s is added, only R·x^s is a product.
    """
    d = len(m) - 1
    s = block_size(d)
    powers = {1: x}
    for i in range(2, s + 1):
        powers[i] = products(x, powers[i - 1], out=ws.like(f"x{i}", x))
    a, R = m[d], None
    top = d - s
    if d % s:
        top = d - d % s
        a, R = m[top], _combine({i: m[top + i] for i in range(1, d % s + 1)}, powers, ws.like("block0", x))
        top -= s
    for block, low in enumerate(range(top, -1, -s), start=1):
        C = _combine(
            {i: m[low + i] for i in range(1, s)} | {s: a}, powers, ws.like(f"block{block % 2}", x) if low else out
        )
        a, R = m[low], C if R is None else products(R, powers[s], C=C, out=C)
    assert R is not None
    return a, R


def _combine(terms: dict[int, float], powers: dict[int, Tensor], out: Tensor) -> Tensor:
    """Σ terms[i]·powers[i]."""
    (first, factor), *rest = terms.items()
    if factor == 1.0 and rest:
        (second, share), *rest = rest
        torch.add(powers[first], powers[second], alpha=share, out=out)
    else:
        torch.mul(powers[first], factor, out=out)
    for i, factor in rest:
        out.add_(powers[i], alpha=factor)
    return out


def _degree_eight(
    factors: Sequence[float], x: Tensor, products: Products, ws: Workspace, out: Tensor
) -> tuple[float, Tensor]:
    """Degree 8 in three products: x², y₂ and the product of two factors."""
    c1, c2, c3, c4, c5, c6, b2, b1, b0, sign = factors
    x2 = products(x, x, out=ws.like("x2", x))
    left = _combine({1: c2, 2: c1}, {1: x, 2: x2}, ws.like("block0", x))
    y2 = products(x2, left, out=ws.like("x3", x))
    terms = {1: x, 2: x2, 3: y2}
    left = _combine({3: 1.0, 2: c3, 1: c4}, terms, left)
    right = _combine({3: 1.0, 2: c5}, terms, ws.like("block1", x))
    C = _combine({3: sign * c6, 2: sign * b2, 1: sign * b1}, terms, out)
    return sign * b0, products(left, right, C=C, alpha=sign, out=out)


def apply_polynomial(q: Polynomial, Y: Tensor, V: Tensor, products: Products, ws: Workspace, name: str) -> Tensor:
    """q(Y)·V by Clenshaw's recurrence  b_k = t_k V + 2x·b_{k+1} − b_{k+2},  q(Y)V = t_0 V + x·b_1 − b_2.

    Args:
        q: The polynomial, any degree.
        Y: `(b, n, n)`.
        V: `(b, n, k)`; must not be a buffer called `name`0 … `name`2 of `ws`.
        products: The products to use.
        ws: Where the result lives.
        name: Prefix of the three buffers.

    Returns:
        `(b, n, k)`, a buffer of `ws`. Cost: d products with k columns.
    """
    c, h, t = q.center, q.half_width, q.chebyshev
    b1, b2, free = (ws.like(f"{name}{i}", V) for i in range(3))
    torch.mul(V, t[-1], out=b1)
    b2.zero_()
    for k in range(q.degree - 1, -1, -1):
        factor = 2.0 if k else 1.0
        # free ← t_k V − b_{k+2} − (factor·c/h) b_{k+1}, then + (factor/h) Y b_{k+1}
        torch.mul(V, t[k], out=free).sub_(b2).sub_(b1, alpha=factor * c / h)
        products(Y, b1, C=free, alpha=factor / h, out=free)
        b1, b2, free = free, b1, b2
    return b1

"""Products with A in doubled precision, for the certificate of a float64 result.

A = A₁ + A₂ and Z = Z₁ + Z₂ with A₁, Z₁ cut to b = ⌊(52 − log₂n)/2⌋ bits of their row's or column's largest entry: every
sum in A₁·Z₁ is exact, and the rest is 2^-b smaller, so its rounding is u·2^-b instead of u (Ozaki et al. 2012,
"Error-free transformations of matrix multiplication").
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def leading_bits(M: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """`M` rounded to b bits below the largest entry along `dim`: (M + c) − c with c a power of two times 3/2."""
    bits = (52 - math.ceil(math.log2(max(M.shape[dim], 2)))) // 2
    largest = torch.maximum(M.amax(dim, keepdim=True), -M.amin(dim, keepdim=True))
    exponent = torch.frexp(largest).exponent + (53 - bits)
    c = torch.ldexp(torch.full_like(largest, 1.5), exponent - 1)
    return torch.add(M, c, out=out).sub_(c)


class DoubledMatrix:
    """A symmetric float64 matrix, split once.

    Args:
        A: `(b, n, n)`, entries at most 1.
        high, low: Buffers like A, for A₁ and A₂.
    """

    def __init__(self, A: Tensor, high: Tensor, low: Tensor) -> None:
        self.high = leading_bits(A, -1, out=high)
        self.low = torch.sub(A, self.high, out=low)
        self.whole = A

    def times(self, Z: Tensor) -> Tensor:
        """(A·Z)ᵀ from the rows Zᵀ `(b, k, n)`. Cost: three products with k columns."""
        return -self.residual(torch.zeros_like(Z), Z)

    def residual(self, B: Tensor, Z: Tensor) -> Tensor:
        """(B − A·Z)ᵀ from rows, the largest terms first: they cancel. Cost: three products with k columns."""
        Z1, high = leading_bits(Z, -1), self.high.mT
        return B - torch.bmm(Z1, high) - torch.bmm(Z - Z1, high) - torch.bmm(Z, self.low.mT)

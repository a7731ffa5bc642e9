"""E = I − X^p·A: how far X is from A^(-1/p), in doubled precision where float64 is not enough.

Numbers are pairs H + L of float64 matrices. H₁·H₂ is split as in `_doubled`: H = H' + H'' with H' cut so that H₁'·H₂'
is exact, and all other products are 2^-b smaller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iroot_solve._doubled import leading_bits

Pair = tuple[Tensor, Tensor | None]


def root_defect(X: Tensor, A: Tensor, p: int, doubled: bool) -> Tensor:
    """E of float64 X and A `(b, n, n)`. Cost: ⌊log₂p⌋ + (ones in binary p) products, 3–5 times that doubled."""
    identity = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    if not doubled:
        return identity - torch.bmm(torch.linalg.matrix_power(X, p), A)
    high, low = _product(_power((X, None), p), (A, None))
    return (identity - high) - low if low is not None else identity - high


def _power(X: Pair, p: int) -> Pair:
    """X^p by squaring."""
    if p == 1:
        return X
    half = _power(X, p // 2)
    square = _product(half, half)
    return _product(square, X) if p % 2 else square


def _product(P: Pair, Q: Pair) -> Pair:
    """P·Q to about 2^-74. Cost: 3 products, and one for each low part."""
    (H1, L1), (H2, L2) = P, Q
    cut1, cut2 = leading_bits(H1, -1), leading_bits(H2, -2)
    high = torch.bmm(cut1, cut2)
    low = torch.baddbmm(torch.bmm(cut1, H2 - cut2), H1 - cut1, H2)
    if L2 is not None:
        low = torch.baddbmm(low, H1, L2)
    if L1 is not None:
        low = torch.baddbmm(low, L1, H2)
    total = high + low  # Knuth's exact sum: H and L stay as far apart as their digits
    shift = total - high
    return total, (high - (total - shift)) + (low - shift)

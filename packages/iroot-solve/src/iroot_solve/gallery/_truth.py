"""(A + ridge·I)^α·B of the stored numbers: by eigendecomposition in float64, or in mpmath where that is not enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

KINDS = ("random", "top", "bottom")
ALIGNED = 3
COLUMNS = 8
# A float64 eigendecomposition gives the root to about κ·2⁻⁵³: 1e-8 here, below the rounding of any float32 result.
FLOAT64_KAPPA = 1e8
MPMATH_N = 64
DIGITS = 40


@dataclass(frozen=True)
class Truth:
    """An eigendecomposition of A + ridge·I, finer than what is judged by it.

    Attributes:
        values: Eigenvalues, ascending, float64 `(n,)`; tiny ones have their digits only where mpmath made them.
        vectors: Eigenvectors, float64 `(n, n)`.
        exact: (values, vectors) of mpmath numbers, `None` where float64 was fine enough.
        digits: mpmath's working precision.
    """

    values: Tensor
    vectors: Tensor
    exact: tuple[Any, Any] | None = None
    digits: int = DIGITS

    @classmethod
    def of(cls, A: Tensor, ridge: float = 0.0, ridge_rel: float = 0.0) -> Truth:
        """Of A `(n, n)` as stored, in any dtype, plus ridge + ridge_rel·mean(diag A) on the diagonal.

        mpmath serves float64 A (a float64 `eigh` would judge itself) and κ > 1e8, for n ≤ 64; seconds at n = 64.
        """
        wide = A.double()
        shift = ridge + ridge_rel * float(wide.diagonal().mean())
        values, vectors = torch.linalg.eigh(wide + shift * torch.eye(len(wide), dtype=torch.float64))
        hard = A.dtype is torch.float64 or not float(values[-1]) < FLOAT64_KAPPA * float(values[0])
        return _exact(wide, shift) if hard and len(wide) <= MPMATH_N else cls(values, vectors)

    @property
    def kappa(self) -> float:
        """λmax/λmin; infinite where A is not positive definite."""
        low, high = float(self.values[0]), float(self.values[-1])
        return high / low if low > 0 and high / low < math.inf else math.inf

    def right_hand_side(self, kind: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
        """B `(n, k)`: eight random columns, or the eigenvectors of the three largest (top) or smallest (bottom) values.

        Times a power of two near √λmax, so that neither B nor A^(-1/p)·B leaves the range of the dtype for any p ≥ 1.
        """
        if kind == "random":
            generator = torch.Generator().manual_seed(seed)
            B = torch.randn(len(self.values), COLUMNS, dtype=torch.float64, generator=generator)
        else:
            B = self.vectors[:, -ALIGNED:] if kind == "top" else self.vectors[:, :ALIGNED]
        return (B * 2.0 ** (math.frexp(float(self.values[-1]))[1] // 2)).to(dtype)

    def power(self, exponent: Fraction, B: Tensor | None) -> Tensor:
        """(A + ridge·I)^exponent·B in float64, or the power itself for `None`."""
        right = torch.eye(len(self.values), dtype=torch.float64) if B is None else B.double()
        if self.exact is None:
            return (self.vectors * self.values.pow(float(exponent))) @ (self.vectors.mT @ right)
        import mpmath  # type: ignore[import-untyped]

        with mpmath.workdps(self.digits):
            values, V = self.exact
            alpha = mpmath.mpf(exponent.numerator) / exponent.denominator
            powers = np.array([mpmath.power(value, alpha) for value in values])
            Z = (V * powers) @ (V.T @ np.vectorize(mpmath.mpf, otypes=[object])(right.numpy()))
        return torch.from_numpy(Z.astype(np.float64))

    def error(self, Z: Tensor, exponent: Fraction, B: Tensor | None) -> float:
        """‖Z − Z⋆‖_F/‖Z⋆‖_F; infinite where Z holds anything that is not a number."""
        return relative_error(Z, self.power(exponent, B))


def relative_error(Z: Tensor, true: Tensor) -> float:
    """‖Z − Z⋆‖_F/‖Z⋆‖_F with both scaled by max |Z⋆|, so that no square overflows or vanishes."""
    top = true.abs().amax()
    error = float(torch.linalg.vector_norm(Z.double() / top - true / top) / torch.linalg.vector_norm(true / top))
    return error if math.isfinite(error) else math.inf


def _exact(A: Tensor, shift: float) -> Truth:
    """By mpmath. λmin of D·C·D is at least λmin(C)·min d²: the spread of the diagonal asks for as many digits more."""
    import mpmath

    diagonal = A.diagonal().abs()
    spread = math.log10(float(diagonal.max())) - math.log10(max(float(diagonal.min()), 5e-324))
    digits = DIGITS + math.ceil(spread)
    with mpmath.workdps(digits):
        M = mpmath.matrix(A.tolist()) + mpmath.mpf(shift) * mpmath.eye(len(A))
        values, vectors = mpmath.eigsy(M)
        order = sorted(range(len(A)), key=lambda i: values[i])
        E = np.array([values[i] for i in order])
        V = np.array([[vectors[i, j] for j in order] for i in range(len(A))])
    lowered = torch.from_numpy(E.astype(np.float64)), torch.from_numpy(V.astype(np.float64))
    return Truth(*lowered, (E, V), digits)

"""A^α·B by a Chebyshev sum in A, or in its Cayley transform after one Cholesky factorisation.

On [l, u], κ = u/l, the sum in A needs about √κ/2·ln(4/tol) terms, each a product with k columns; the one in
(A − σI)·(A + σI)⁻¹, σ = √(l·u), about κ^¼/2·ln(4/tol), each a solve with k columns (`iroot_kernels._cayley`). Both are
proved on the interval only: the certificate, which applies the sum again, sees what lies outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import torch
from iroot_coeffs import chebyshev_expansion
from iroot_kernels import Workspace, cayley_apply, cayley_coefficients, chebyshev_apply
from torch import Tensor

from iroot_solve._certificate import Action, Root
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule

# Of the truncation in the tolerance.
SHARE = 0.25
# A sum in A of more terms is no way to a root.
MOST_KAPPA = 1e6
UNIT = 2.0**-53


def chebyshev_degree(kappa: float, tol: float) -> int:
    """About as many terms as the sum in A has."""
    return math.ceil(math.sqrt(kappa) / 2 * math.log(4 / (SHARE * tol))) + 2


def cayley_degree(kappa: float, tol: float) -> int:
    """About as many terms as the sum in the Cayley transform has."""
    return math.ceil(math.sqrt(math.sqrt(kappa)) / 2 * math.log(4 / (SHARE * tol))) + 2


@lru_cache(maxsize=256)
def _chebyshev_terms(exponent: Fraction, low: float, high: float, tol: float) -> tuple[float, ...]:
    """c_j of x^α on [low, high], relative to high^α, that leave SHARE·tol, or what their rounding leaves."""
    floor = 32 * UNIT * (high / low) ** -float(exponent)
    coefficients, _ = chebyshev_expansion(-1 / exponent, low / high, 1.0, tol=max(SHARE * tol, floor))
    return tuple(coefficients.tolist())


@lru_cache(maxsize=256)
def _cayley_terms(exponent: Fraction, kappa: float, tol: float) -> tuple[float, ...]:
    return tuple(cayley_coefficients(float(exponent), kappa, max(SHARE * tol, 256 * UNIT * kappa)).tolist())


def run_chebyshev(
    action: Action, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: Workspace
) -> Outcome:
    """Z = A^exponent·B, −1 ≤ exponent < 0, for a spectrum in [low, high].

    Args:
        action: V ↦ A·V in B's dtype.
        B: `(b, n, k)`, float32 or float64.
        exponent: α.
        low, high: Ends, high/low ≤ 1e6.
        tol: Of the result.
        ws: Where Z lives.

    Returns:
        The outcome. Cost: as many products with k columns as the sum has terms.
    """
    terms = _chebyshev_terms(exponent, low, high, tol)

    def apply(V: Tensor) -> Tensor:
        return chebyshev_apply(action, V, terms, low, high, exponent=float(exponent), ws=ws)

    return _outcome("chebyshev", apply, B, len(terms) - 1, ws)


def run_cayley(S: Tensor, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: Workspace) -> Outcome:
    """Z = S^exponent·B for S `(b, n, n)` with a spectrum in [low, high].

    Returns:
        The outcome; NaN where S + √(low·high)·I has no Cholesky factor. Cost: one factorisation and a solve with k
        columns for every term; the certificate factors again.
    """
    terms = _cayley_terms(exponent, high / low, tol)

    def apply(V: Tensor) -> Tensor:
        matrix = S if V.dtype is S.dtype else S.to(V.dtype)
        return cayley_apply(matrix, V.contiguous(), terms, low, high, exponent=float(exponent), ws=ws)[0]

    return _outcome("cayley", apply, B, len(terms) - 1, ws)


def _outcome(name: str, apply: Callable[[Tensor], Tensor], B: Tensor, degree: int, ws: Workspace) -> Outcome:
    """Z, and X as the certificate applies it: the same sum in the same precision."""
    Z = ws.buffer(f"{name} Z", B.shape, B.dtype, B.device).copy_(apply(B))

    def power(j: int, V: Tensor) -> Tensor:
        U = V.to(B.dtype)
        for _ in range(j):
            U = apply(U).clone()
        return U.to(V.dtype)

    precision = "fp64" if B.dtype is torch.float64 else "fp32"
    return Outcome(
        Z=Z,
        root=Root(power, ends=False),
        judge=torch.float64,
        strategy=name,
        precision=precision,
        schedule=DirectSchedule(name, f"{name} in {precision}: a sum of degree {degree}"),
        steps=degree,
        products={"columns": degree * B.shape[-1]} | ({"cholesky": B.shape[0]} if name == "cayley" else {}),
    )

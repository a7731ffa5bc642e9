"""A^α·B by a Chebyshev series in A, or in its Cayley transform after one Cholesky factorisation.

On [l, u], κ = u/l, the series in A needs about √κ/2·ln(4/tol) terms, each a product with k columns; the one in
(A − σI)·(A + σI)⁻¹, σ = √(l·u), about κ^¼/2·ln(4/tol), each a solve with k columns (`iroot_kernels._cayley`). Where it
is stopped follows from its terms (`iroot_kernels._series`), and so does the estimate of the error, to which rounding is
added as for Lanczos.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import torch
from iroot_coeffs import chebyshev_expansion
from iroot_kernels import (
    SeriesResult,
    Workspace,
    cayley_apply,
    cayley_coefficients,
    cayley_series,
    chebyshev_apply,
    chebyshev_series,
)
from torch import Tensor

from iroot_solve._certificate import Action
from iroot_solve._outcome import Outcome
from iroot_solve._predict import rounding_error
from iroot_solve._result import DirectSchedule

# Of the rest in the tolerance.
SHARE = 0.25
# Beyond that κ a series has too many terms, or its coefficients too few digits, to be a way to a root.
MOST_KAPPA = {"chebyshev": 1e6, "cayley": 1e8}
UNIT = 2.0**-53
ROWS_FROM = 12


def chebyshev_terms(kappa: float, tol: float) -> int:
    """About as many as the series in A needs."""
    return math.ceil(math.sqrt(kappa) / 2 * math.log(4 / (SHARE * tol))) + 4


def checked_terms(kappa: float, tol: float, n: int) -> int:
    """About as many as `_sums_checked` adds up there, which has to tell a missed eigenvalue from n that are not."""
    return math.ceil(math.sqrt(kappa) / 2 * math.log(20 * math.sqrt(n) / (SHARE * tol)))


def cayley_terms(kappa: float, tol: float) -> int:
    """About as many as the series in the Cayley transform needs."""
    return math.ceil(math.sqrt(math.sqrt(kappa)) / 2 * math.log(4 / (SHARE * tol))) + 4


@lru_cache(maxsize=256)
def chebyshev_series_of(exponent: Fraction, kappa: float) -> tuple[float, ...]:
    """Those of x^α on [1/κ, 1], down to their rounding."""
    tol = 32 * UNIT * kappa ** -float(exponent)
    coefficients, _ = chebyshev_expansion(-1 / exponent, 1 / kappa, 1.0, tol=tol)
    return tuple(coefficients.tolist())


@lru_cache(maxsize=256)
def cayley_series_of(exponent: Fraction, kappa: float) -> tuple[float, ...]:
    """Those of the Cayley transform, down to their rounding."""
    tol = 32 * UNIT * kappa ** max(0.5, -float(exponent))
    return tuple(cayley_coefficients(float(exponent), kappa, tol).tolist())


def run_chebyshev(
    action: Action,
    B: Tensor,
    exponent: Fraction,
    low: float,
    high: float,
    tol: float,
    ws: Workspace,
    kappa: float | None = None,
    name: str = "",
) -> Outcome:
    """Z = A^exponent·B, −1 ≤ exponent < 0.

    Args:
        action: V ↦ A·V in B's dtype.
        B: `(b, n, k)`, float32 or float64.
        exponent: α.
        low: About the lower end of the spectrum, taken for at least high/1e6.
        high: A bound of the upper end.
        tol: Of the result.
        ws: Where Z lives.
        kappa: The likely condition number, for the rounding errors; high/low by default.
        name: Precision of the action, if it is not that of B.

    Returns:
        The outcome with an `error` of its own. Cost: a product with k columns for every term.
    """
    low = max(low, high / MOST_KAPPA["chebyshev"])
    coefficients = chebyshev_series_of(exponent, high / low)
    found = chebyshev_series(action, B, coefficients, low, high, exponent=float(exponent), tol=SHARE * tol, ws=ws)
    return series_outcome("chebyshev", found, B, exponent, kappa or high / low, name)


def run_cayley(
    S: Tensor,
    B: Tensor,
    exponent: Fraction,
    low: float,
    high: float,
    tol: float,
    ws: Workspace,
    kappa: float | None = None,
) -> Outcome:
    """Z = S^exponent·B for S `(b, n, n)` with a spectrum in about [low, high]; arguments as in `run_chebyshev`.

    Returns:
        The outcome with an `error` of its own; NaN where S + √(low·high)·I has no Cholesky factor. Cost: one
        factorisation and a solve with k columns for every term.
    """
    low = max(low, high / MOST_KAPPA["cayley"])
    coefficients = cayley_series_of(exponent, high / low)
    found = cayley_series(S, B, coefficients, low, high, exponent=float(exponent), tol=SHARE * tol, ws=ws)
    return series_outcome("cayley", found, B, exponent, kappa or high / low)


def chebyshev_fixed(
    action: Action, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: Workspace
) -> Outcome:
    """The same with as many terms as [low, high] needs: nothing is read, and nothing is known of the error."""
    terms = without_tail(chebyshev_series_of(exponent, high / low), SHARE * tol)
    Z = chebyshev_apply(action, B, terms, low, high, exponent=float(exponent), ws=ws)
    return _fixed("chebyshev", Z, len(terms))


def cayley_fixed(
    S: Tensor, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: Workspace
) -> Outcome:
    """Likewise."""
    alpha = float(exponent)
    terms = without_tail(cayley_series_of(exponent, high / low), SHARE * tol * (high / low) ** (alpha / 2))
    Z, _ = cayley_apply(S, B, terms, low, high, exponent=alpha, ws=ws)
    return _fixed("cayley", Z, len(terms))


def _fixed(strategy: str, Z: Tensor, terms: int) -> Outcome:
    name = "fp64" if Z.dtype is torch.float64 else "fp32"
    plan = DirectSchedule(strategy, f"{strategy} in {name}: {terms} terms")
    return Outcome(Z, None, Z.dtype, strategy, name, plan, terms, {"columns": terms * Z.shape[-1]})


def without_tail(coefficients: tuple[float, ...], tol: float) -> tuple[float, ...]:
    """Without a tail of less than tol."""
    tail = 0.0
    for count in range(len(coefficients), 0, -1):
        tail += abs(coefficients[count - 1])
        if tail > tol:
            return coefficients[:count]
    return coefficients[:1]


def stored(B: Tensor, ws: Workspace) -> Tensor:
    """B as products with it are fastest: row by row for one matrix and many columns, else column by column."""
    if B.shape[0] == 1 and B.shape[-1] >= ROWS_FROM:
        return B if B.is_contiguous() else B.contiguous()
    return ws.buffer("B columns", B.mT.shape, B.dtype, B.device).mT.copy_(B)


def series_outcome(
    strategy: str,
    found: SeriesResult,
    B: Tensor,
    exponent: Fraction,
    kappa: float,
    name: str = "",
    more: float = 0.0,
    spread: float | Tensor = 1.0,
) -> Outcome:
    """What the series gave; the rounding error, as predicted and `more`, is multiplied by `spread`."""
    name = name or ("fp64" if B.dtype is torch.float64 else "fp32")
    products = {"columns": found.terms * B.shape[-1]} | ({"cholesky": B.shape[0]} if strategy == "cayley" else {})
    return Outcome(
        Z=found.Z,
        root=None,
        judge=B.dtype,
        strategy=strategy,
        precision=name,
        schedule=DirectSchedule(strategy, f"{strategy} in {name}: {found.terms} terms, κ ≈ {kappa:.3g}"),
        steps=found.terms,
        products=products,
        error=found.error + (rounding_error(strategy, name, kappa, exponent) + more) * spread,
    )

"""A^α·B by the Chebyshev series in A, whose matrix is read in two planes of 16 bits, and in one where that is enough.

A term takes the time to read what it reads of A, up to 128 columns at once: n = 8192 in two planes 0.1 ms of an H100,
in one 0.055 (float32: 0.2 to 0.35). Measured against eigendecompositions (log-spaced, power-law, two-valued spectra and
a lone small eigenvalue; κ = 10 … 10⁴, n = 1024 and 4096, p = 2 and 4), random B: rounding leaves 0.03 … 0.3·u at κ = 10
and 0.01 … 0.18·κ·u/p beyond, u = 2^-22. For B of the 16 top eigenvectors it is up to 3.5·κ·u/p, as f(A) leaves less of
them: the absolute error is the same. Hence 16 random columns beside B, which show what f(A) makes of any.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from iroot_kernels import Counted, PlaneMatrix, SeriesResult, chebyshev_series
from torch import Tensor

from iroot_solve._completeness import PROBES
from iroot_solve._outcome import Outcome
from iroot_solve._result import SolveWorkspace
from iroot_solve._sums import MOST_KAPPA, chebyshev_series_of, series_outcome, without_tail
from iroot_solve._sums_checked import LEAST_RATIO, checked, of_columns, plan_of, probed

PLANES = "fp16x3"
# Of the tolerance: the rest of the sum, and what terms in one plane add; at most.
SHARE, COARSE_SHARE = 0.1, 0.05
# What one plane adds to a V_j, over ‖B‖.
COARSE = 2.0**-10


@lru_cache(maxsize=256)
def coarse_from(exponent: Fraction, kappa: float, tol: float) -> int:
    """The term from which A may be rounded to one plane of 11 bits.

    An error e of V_j = T_j(X)·B is one of Σ_{i≥j} c_i·U_{i−j}(X)·e in the sum, |U_m| ≤ m + 1. Rounding S and V_{j−1} in
    2·X·V_{j−1}, numbers independently, makes ‖e‖ ≤ COARSE·‖B‖, COARSE = 4·2^-12.3·‖S‖_F/(√n·u) and a little more, in
    directions that differ from term to term: squares add up. ‖Z‖ ≥ ‖B‖, for x^α ≥ 1 on [1/κ, 1].
    """
    c = np.abs(chebyshev_series_of(exponent, kappa))
    weights = np.cumsum(np.cumsum(c[::-1]))[::-1][1:]  # Σ_{i≥j} (i − j + 1)·|c_i| for j = 1, 2, …
    error = COARSE * np.sqrt(np.cumsum((weights**2)[::-1]))[::-1]
    return int(np.count_nonzero(error > COARSE_SHARE * tol))


def coarse_terms(kappa: float, tol: float) -> int:
    """About as many as `coarse_from` leaves in two planes."""
    return max(0, math.ceil(math.sqrt(kappa) / 2 * math.log(COARSE * kappa / (4 * COARSE_SHARE * tol))))


def by_planes(
    S: Tensor,
    B: Tensor,
    exponent: Fraction,
    low: float,
    high: float,
    tol: float,
    ws: SolveWorkspace,
    seed: int,
    kappa: float | None = None,
) -> Outcome:
    """Z = S^exponent·B, −1 ≤ exponent < 0, with an `error` of its own.

    Args:
        S: `(b, n, n)` float32 with entries of at most 1, on a device with kernels for it.
        B: `(b, n, k)` float32.
        exponent: α.
        low: About the lower end of the spectrum.
        high: A bound of the upper end.
        tol: Of the result.
        ws: Where everything lives.
        seed: Of the random columns.
        kappa: The likely condition number, for the rounding errors; high/low by default.

    Returns:
        The outcome. Cost: for every term S in planes is read once; one synchronisation every eight.
    """
    low, W = max(low, high / MOST_KAPPA["chebyshev"]), probed(B, ws, seed, True)
    found = _sum(S, W, exponent, low, high, tol, ws, None)
    outcome = of_columns("chebyshev", found, W, exponent, kappa or high / low, PLANES)
    return _with_coarse(outcome, exponent, high / low, tol)


def checked_by_planes(
    S: Tensor, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: SolveWorkspace, seed: int
) -> Outcome:
    """The same of as many terms as a promise needs, nothing read; see `_sums_checked`."""
    low, W = min(low, high / LEAST_RATIO), probed(B, ws, seed, True)
    plan = plan_of("chebyshev", exponent, high / low, SHARE * tol, B.shape[-2])
    found = _sum(S, W, exponent, low, high, tol, ws, plan.counted)
    return _with_coarse(checked("chebyshev", found, plan, W, exponent, high / low, PLANES), exponent, high / low, tol)


def fixed_by_planes(
    S: Tensor, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: SolveWorkspace
) -> Outcome:
    """The same without an error: as many terms as [low, high] needs."""
    terms = without_tail(chebyshev_series_of(exponent, high / low), SHARE * tol)
    found = _sum(S, B.contiguous(), exponent, low, high, tol, ws, Counted(len(terms)))
    outcome = series_outcome("chebyshev", found, B, exponent, high / low, PLANES)
    outcome.error = None
    return _with_backend(outcome, coarse_from(exponent, high / low, tol))


def _sum(
    S: Tensor,
    W: Tensor,
    exponent: Fraction,
    low: float,
    high: float,
    tol: float,
    ws: SolveWorkspace,
    counted: Counted | None,
) -> SeriesResult:
    terms, kappa = chebyshev_series_of(exponent, high / low), high / low
    return chebyshev_series(
        PlaneMatrix.of(S, ws, "series"),
        W,
        terms,
        low,
        high,
        exponent=float(exponent),
        tol=SHARE * tol,
        ws=ws,
        counted=counted,
        coarse=coarse_from(exponent, kappa, tol),
        probes=PROBES if counted is None else 0,
    )


def _with_coarse(outcome: Outcome, exponent: Fraction, kappa: float, tol: float) -> Outcome:
    """What terms in one plane may have added is part of the error."""
    fine = coarse_from(exponent, kappa, tol)
    if fine < outcome.steps:
        assert outcome.error is not None
        outcome.error = outcome.error + COARSE_SHARE * tol
    return _with_backend(outcome, fine)


def _with_backend(outcome: Outcome, fine: int) -> Outcome:
    """What computed the products."""
    coarse = max(0, outcome.steps - 1 - fine)
    outcome.backend = "triton: products with columns" + (f", one plane in the last {coarse} terms" if coarse else "")
    return outcome

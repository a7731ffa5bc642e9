"""A^α·B by the Chebyshev series in A, whose matrix is read in two planes of 16 bits, and in one where that is enough.

A term takes the time to read what it reads of A, up to 128 columns at once: n = 8192 in two planes 0.1 ms of an H100,
in one 0.055 (float32: 0.2 to 0.35). Measured against eigendecompositions (log-spaced, power-law, two-valued spectra and
a lone small eigenvalue; κ = 10 … 10⁴, n = 1024 and 4096, p = 2 and 4), random B: rounding leaves 0.03 … 0.3·u at κ = 10
and 0.01 … 0.18·κ·u/p beyond, u = 2^-22. For B of the 16 top eigenvectors it is up to 3.5·κ·u/p, as f(A) leaves less of
them: the absolute error is the same. Hence 16 random columns beside B, which show what f(A) makes of any. And where all
but one small eigenvalue are the same it is up to 4·κ·u/p of what that has in Z: hence a look at what planes make of Z
(`shifted`).
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from iroot_kernels import Counted, PlaneMatrix, Products, SeriesResult, chebyshev_series
from torch import Tensor

from iroot_solve._completeness import PROBES
from iroot_solve._outcome import Outcome
from iroot_solve._result import SolveWorkspace
from iroot_solve._sums import MOST_KAPPA, chebyshev_series_of, series_outcome, without_tail
from iroot_solve._sums_checked import LEAST_RATIO, checked, of_columns, plan_of, probed

PLANES = "fp16x3"
# Of the tolerance: the rest of the sum, and what terms in one plane add; at most.
SHARE, COARSE_SHARE = 0.1, 0.05
# What one plane adds to a V_j, over ‖B‖, and where the effect is looked at.
COARSE, PLACES = 2.0**-10, 513
# By how much one plane lowers the smallest eigenvalue, of the largest: numbers rounded independently act on the q·n
# eigenvectors of one as a matrix of norm 2·√q·2^-12.3·‖S‖_F/√n, and ‖S‖_F/√n ≤ √(1 − q) where they add little to it.
MOVED = 2.0**-12


@lru_cache(maxsize=256)
def coarse_from(exponent: Fraction, kappa: float, tol: float) -> int:
    """The term from which A may be rounded to one plane of 11 bits.

    An error e of V_j = T_j(X)·B is one of S_j(X)·e in the sum, S_j = Σ_{i≥j} c_i·U_{i−j}. Rounding S and V_{j−1} in
    2·X·V_{j−1}, numbers independently, makes ‖e‖ ≤ COARSE·‖B‖, COARSE = 4·2^-12.3·‖S‖_F/(√n·u) and a little more.
    Where the spectrum is two values, ±1 of X, V_j is one of two, by turns, and so is e: every other one adds up. An e
    in all directions is at most max |S_j/f| of f(A)·V with V in all directions; how much more of Z that is, random
    columns show, as for all that is rounded.
    """
    c, x = chebyshev_series_of(exponent, kappa), np.cos(np.linspace(0.0, math.pi, PLACES))
    f = ((1 + 1 / kappa + (1 - 1 / kappa) * x) / 2) ** float(exponent)
    here, after, totals = np.zeros_like(x), np.zeros_like(x), [0.0, 0.0]
    for j in range(len(c) - 1, 0, -1):
        here, after = c[j] + 2 * x * here - after, here
        totals[j % 2] += float(np.abs(here / f).max())
        if COARSE * math.hypot(*totals) > COARSE_SHARE * tol:
            return j
    return 0


def one_plane_serves(kappa: float, room: bool) -> bool:
    """Whether no eigenvalue on [1/κ, 1] is moved more than half way to 0, with `room` a quarter.

    Below the interval V_j grows exponentially, and at its ends errors of it do with j.
    """
    return (4 if room else 2) * MOVED * kappa <= 1


def coarse_terms(exponent: Fraction, kappa: float, tol: float) -> int:
    """About as many as `coarse_from` leaves in two planes; fitted to it for p = 1, 2, 4, tol ≤ 1e-3, κ ≤ 2e3."""
    growth = 0.65 * COARSE / (2 * COARSE_SHARE * tol) * abs(float(exponent)) ** 1.72 * kappa**0.9
    return max(0, math.ceil(math.sqrt(kappa) / 2 * math.log(growth)))


class Span(NamedTuple):
    """A^exponent on [low, high], to tol.

    Attributes:
        exponent: α, −1 ≤ α < 0.
        low: About the lower end of the spectrum.
        high: A bound of the upper end.
        tol: Of the result.
        room: For what one plane moves: the series begins that much below, for those who take what it shows outside for
            an eigenvalue that was missed.
    """

    exponent: Fraction
    low: float
    high: float
    tol: float
    room: bool = False

    @property
    def one_plane(self) -> bool:
        """Whether one is read at all."""
        return one_plane_serves(self.high / self.low, self.room)

    @property
    def begin(self) -> float:
        """Where the interval of the series begins."""
        return self.low - MOVED * self.high if self.room and self.one_plane else self.low

    @property
    def end(self) -> float:
        """Where it ends: one plane raises the largest eigenvalue by up to 2·2^-12.3, where all are the largest."""
        return self.high * (1 + 2 * MOVED) if self.one_plane else self.high

    @property
    def kappa(self) -> float:
        """Of that interval."""
        return self.end / self.begin

    @property
    def coarse(self) -> int | None:
        """The term from which one plane is read; `None`: in none."""
        return coarse_from(self.exponent, self.kappa, self.tol) if self.one_plane else None

    def sum(self, matrix: PlaneMatrix, W: Tensor, counted: Counted | None) -> SeriesResult:
        """The series for W, B with probes unless `counted` knows of none."""
        return chebyshev_series(
            matrix,
            W,
            chebyshev_series_of(self.exponent, self.kappa),
            self.begin,
            self.end,
            exponent=float(self.exponent),
            tol=SHARE * self.tol,
            ws=matrix.ws,
            counted=counted,
            coarse=self.coarse,
            probes=PROBES if counted is None else 0,
        )

    def more(self, terms: int) -> float:
        """What those in one plane add to the error, at most."""
        return COARSE_SHARE * self.tol if self._in_one_plane(terms) else 0.0

    def backend(self, terms: int) -> str:
        """What computed the products of so many terms."""
        coarse = self._in_one_plane(terms)
        return "triton: products with columns" + (f", one plane in the last {coarse}" if coarse else "")

    def _in_one_plane(self, terms: int) -> int:
        return 0 if self.coarse is None else max(0, terms - 1 - self.coarse)


def by_planes(S: Tensor, B: Tensor, span: Span, ws: SolveWorkspace, seed: int, kappa: float | None = None) -> Outcome:
    """Z = S^α·B with an `error` of its own.

    Args:
        S: `(b, n, n)` float32 with entries of at most 1, on a device with kernels for it.
        B: `(b, n, k)` float32.
        span: What is asked for.
        ws: Where everything lives.
        seed: Of the random columns.
        kappa: The likely condition number, for the rounding errors; high/low by default.

    Returns:
        The outcome. Cost: for every term S in planes is read once; one synchronisation every eight.
    """
    span = span._replace(low=max(span.low, span.high / MOST_KAPPA["chebyshev"]))
    W, matrix = probed(B, ws, seed, True), PlaneMatrix.of(S, ws, "series")
    found = span.sum(matrix, W, None)
    kappa, more = kappa or span.high / span.low, span.more(found.terms)
    outcome = of_columns("chebyshev", found, W, span.exponent, kappa, PLANES, more)
    return _looked_at(outcome, matrix, S, span, kappa)


def checked_by_planes(S: Tensor, B: Tensor, span: Span, ws: SolveWorkspace, seed: int) -> Outcome:
    """The same of as many terms as a promise needs, nothing read; see `_sums_checked`."""
    span = span._replace(low=min(span.low, span.high / LEAST_RATIO), room=True)
    W, kappa = probed(B, ws, seed, True), span.high / span.low
    plan = plan_of("chebyshev", span.exponent, span.kappa, SHARE * span.tol, B.shape[-2])
    matrix = PlaneMatrix.of(S, ws, "series")
    found = span.sum(matrix, W, plan.counted)
    outcome = checked("chebyshev", found, plan, W, span.exponent, kappa, PLANES, span.more(found.terms))
    return _looked_at(outcome, matrix, S, span, kappa)


def fixed_by_planes(S: Tensor, B: Tensor, span: Span, ws: SolveWorkspace) -> Outcome:
    """The same without an error: as many terms as [low, high] needs."""
    terms = without_tail(chebyshev_series_of(span.exponent, span.kappa), SHARE * span.tol)
    found = span.sum(PlaneMatrix.of(S, ws, "series"), B.contiguous(), Counted(len(terms)))
    outcome = series_outcome("chebyshev", found, B, span.exponent, span.high / span.low, PLANES)
    outcome.error, outcome.backend = None, span.backend(found.terms)
    return outcome


def _looked_at(outcome: Outcome, matrix: PlaneMatrix, S: Tensor, span: Span, kappa: float) -> Outcome:
    """With what shifts the spectrum in its error."""
    assert outcome.error is not None
    outcome.error = outcome.error + shifted(matrix, S, outcome.Z, span.exponent, span.high / kappa, span.high)
    outcome.backend = span.backend(outcome.steps)
    return outcome


def shifted(matrix: PlaneMatrix, S: Tensor, Z: Tensor, exponent: Fraction, low: float, high: float) -> Tensor:
    """Relative error of Z `(b,)` float64, if what planes make of products with S is a shift of its spectrum.

    Tensor cores cut sums off: where numbers of the diagonal are large and all others small, as of I − vvᵀ, what is left
    is S + δ·I with |δ| up to 2^-20, the same in every term, which of the smallest eigenvalue is κ times as much. Of a
    column z of Z that is an error of α·δ·S⁻¹z, δ = zᵀ(S' − S)z/zᵀz. S has its spectrum in [l, u], and λ^-2 is convex:
    with m = zᵀSz/zᵀz and w = (u − m)/(u − l), ‖S⁻¹z‖² ≤ (w/l² + (1 − w)/u²)·‖z‖², which one small eigenvalue and a
    z of it attain. Of most matrices and columns δ is next to nothing: sums are cut off upwards and downwards.

    Args:
        matrix: S in planes.
        S: `(b, n, n)` float32.
        Z: `(b, n, k)` float32.
        exponent: α.
        low, high: l and u.

    Cost: a product with k columns from planes, and one in float32.
    """
    ws, tiny = matrix.ws, torch.finfo(Z.dtype).tiny
    size = torch.linalg.vector_norm(Z, dim=-2, dtype=torch.float64)
    unit = math.sqrt(Z.shape[-2]) / size.clamp_min(tiny)  # numbers as planes of columns are made for
    here = ws.buffer("shifted", Z.shape, Z.dtype, Z.device).copy_(Z * unit.unsqueeze(-2))
    planes, unused = (ws.buffer(f"shifted {name}", Z.shape, Z.dtype, Z.device).zero_() for name in ("planes", "sum"))
    matrix.recurrence(here).term(here, planes, unused, 1.0, 0.0, 0.0, 0.0)
    exact = Products("fp32", ws)(S, here, out=ws.buffer("shifted exact", Z.shape, Z.dtype, Z.device)).double()
    delta, mean = ((here * M).sum(-2) / Z.shape[-2] for M in (planes - exact, exact))
    w = ((high - mean) / max(high - low, tiny)).clamp_(0.0, 1.0)
    errors = abs(float(exponent)) * delta * (w / low**2 + (1 - w) / high**2).sqrt_() * size
    whole: Tensor = torch.linalg.vector_norm(errors, dim=-1) / torch.linalg.vector_norm(size, dim=-1).clamp_min(tiny)
    return whole.nan_to_num(math.inf, math.inf)

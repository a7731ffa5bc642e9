"""Σ_j c_j·T_j(X)·B, stopped where the rest no longer counts.

The terms come by V_{j+1} = 2·X·V_j − V_{j−1}, and are added up in blocks: D is the norm of the last block. The c_j of
x^α on [l, u] fall like ρ^(−j), ρ = (√κ + 1)/(√κ − 1), and so do the blocks where the spectrum lies in [l, u]. An
eigenvalue λ in (0, l) makes its part of V_j grow like r^j, r < ρ: the series converges there too, only more slowly, and
c_j·V_j shows it. With the ratio q of two blocks (at least that of their coefficients) the rest is about D·q/(1 − q).

What that cannot see: a part so small in B that it hides behind the last block and then hardly falls, as that of a tiny
eigenvalue does (its terms fall like j^(−1−α)). It is at most j times the last block.

Random columns V beside B, independent normal numbers, have the same share of every eigenvalue: with b(x) = Σ c_j·T_j(x)
over the last block ‖b(X)·V‖_F² over their number is Σ b(x)² over the eigenvalues on average, which is next to nothing
unless one lies outside [l, u].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iroot_kernels._cayley import shifted_solve
from iroot_kernels._chebyshev import per_matrix
from iroot_kernels._rows import Action
from iroot_kernels._thin import PlaneMatrix
from iroot_kernels._workspace import Workspace

# Terms between two looks at the rest.
CHEBYSHEV_BLOCK, CAYLEY_BLOCK = 8, 4


class Recurrence(Protocol):
    """U ← factor·X·V − U, then part ← part + c·U."""

    def __call__(self, V: Tensor, U: Tensor, part: Tensor, c: float, factor: float = 2.0) -> None:
        """In place; V is what was U the time before, B at first."""


class SeriesResult(NamedTuple):
    """What the sum gave.

    Attributes:
        Z: `(b, n, k)`, stored as B is, in a buffer of the workspace.
        terms: Terms added.
        error: Estimate of ‖rest‖_F/‖Z‖_F, `(b,)` float64; inf where Z is not finite.
        converged: error ≤ tol, `(b,)` bool.
        probed: ‖b(X)·V‖_F²/k' of k' probes and the last block, `(b,)` float64; `None` without probes.
    """

    Z: Tensor
    terms: int
    error: Tensor
    converged: Tensor
    probed: Tensor | None = None


class Counted(NamedTuple):
    """A sum of as many terms as were asked for, of which nothing is read.

    Attributes:
        terms: How many, without c_0: whole blocks, three at least, and no more than there are coefficients for.
        probes: The last so many columns are random ones, and no part of the error.

    Examples:
        >>> import torch
        >>> from iroot_kernels import Counted, cayley_coefficients, cayley_series
        >>> A, B = torch.diag(torch.tensor([4.0, 9.0]))[None], torch.ones(1, 2, 1)
        >>> c = cayley_coefficients(-0.5, 9.0, 1e-6)
        >>> found = cayley_series(A, B, c, 1.0, 9.0, exponent=-0.5, tol=1e-3, counted=Counted(8))
        >>> found.terms, bool(found.converged), [round(float(z), 3) for z in found.Z.flatten()]
        (10, True, [0.5, 0.333])
    """

    terms: int
    probes: int = 0

    def blocks(self, coefficients: int, block: int) -> tuple[int, int]:
        """(terms of a block, the last term) of so many coefficients and a block of so many terms, or of fewer."""
        block = max(2, min(block, (coefficients - 1) // 3))
        return block, max(3, min(-(-self.terms // block), (coefficients - 1) // block)) * block


def series_apply(
    double: Recurrence,
    B: Tensor,
    coefficients: Sequence[float],
    *,
    tol: float,
    ws: Workspace | None = None,
    block: int = 8,
    probes: int = 0,
) -> SeriesResult:
    """Σ_j c_j·T_j(X)·B up to a rest of `tol`·‖Z‖_F for every matrix, or all of it.

    Args:
        double: The recurrence; V and U `(b, n, k)`, stored as B is.
        B: `(b, n, k)`, float32 or float64, stored row by row (faster for one matrix and many columns) or column by
            column. Not changed.
        coefficients: c_0 …, more than will be needed.
        tol: Of the rest.
        ws: Buffers: four of B's size.
        block: Terms between two looks at the rest.
        probes: The last so many columns are random ones, and no part of the error.

    Returns:
        `SeriesResult`, with f(A)·V in the last columns of Z. Cost: one `double` a term, one synchronisation a block.
    """
    ws, k = Workspace() if ws is None else ws, B.shape[-1] - probes
    # Three blocks at least, for their ratio to be seen, and the last as long as the others.
    block = max(2, min(block, (len(coefficients) - 1) // 3))
    c = [float(value) for value in coefficients]
    c += [0.0] * (max(2 * block, -(-(len(c) - 1) // block) * block) + 1 - len(c))
    rest = _Rest(c, tol, block)
    for j, part, Z in _blocks(double, B, c, ws, block):
        if rest.settled(j, *torch.stack((_norm(part[..., :k]), _norm(Z[..., :k]))).cpu().numpy()):
            break
    error = torch.from_numpy(rest.error).to(B.device)
    return SeriesResult(Z, j + 1, error, error <= tol)


def counted_apply(
    double: Recurrence,
    B: Tensor,
    coefficients: Sequence[float],
    counted: Counted,
    *,
    tol: float,
    ws: Workspace | None = None,
    block: int = 8,
) -> SeriesResult:
    """The same to a given number of terms, with the estimate where the numbers are: nothing waits.

    Args:
        double: As in `series_apply`, like all that is not explained.
        B: With the probes as its last columns.
        coefficients: More than `counted.terms`, for how they go on to be known.
        counted: How many terms, and probes.
        tol: For `converged`.
        ws: Buffers.
        block: Terms of a block.

    Returns:
        `SeriesResult`, with f(A)·V in the last columns of Z. Cost: one `double` a term; no synchronisation.
    """
    ws, k = Workspace() if ws is None else ws, B.shape[-1] - counted.probes
    block, last = counted.blocks(len(coefficients), block)
    c = [float(value) for value in coefficients]
    c += [0.0] * (last + 2 - len(c))
    norms: list[Tensor] = []
    for j, part, Z in _blocks(double, B, c, ws, block):
        norms = [*norms[-2:], _norm(part[..., :k])]
        if j == last:
            error = _left(norms, _norm(Z[..., :k]), _Rest(c, tol, block), last)
            break
    probed = _norm(part[..., k:]).square_().div_(counted.probes) if counted.probes else None
    return SeriesResult(Z, last + 1, error, error <= tol, probed)


def _blocks(
    double: Recurrence, B: Tensor, c: Sequence[float], ws: Workspace, block: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(j, the block that ends with term j, the sum up to there), to the end of the coefficients."""
    here, before, part, Z = (like(f"series {name}", B, ws) for name in ("here", "before", "part", "Z"))
    torch.mul(here.copy_(B), c[0], out=part)
    before.zero_()
    Z.zero_()
    for j in range(1, len(c)):
        double(here, before, part, c[j], 1.0 if j == 1 else 2.0)
        here, before = before, here
        if j % block == 0 or j + 1 == len(c):
            yield j, part, Z.add_(part)
            part.zero_()


def chebyshev_series(
    action: Action | PlaneMatrix,
    B: Tensor,
    coefficients: Sequence[float],
    low: float | Tensor,
    high: float | Tensor,
    *,
    exponent: float,
    tol: float,
    ws: Workspace | None = None,
    counted: Counted | None = None,
    coarse: int | None = None,
    probes: int = 0,
) -> SeriesResult:
    """A^exponent·B for A known by its products, as far as the series is needed.

    Args:
        action: V ↦ A·V for V `(b, n, k)` in the dtype of B and stored as B is. It may return the same buffer always.
            Or A itself in planes, for B in float32, contiguous, with entries of about 8 at most.
        B: `(b, n, k)`, float32 or float64; see `series_apply`.
        coefficients: Those of x^exponent on [low/high, 1], as many as there are.
        low: Lower end of the spectrum, a number or one per matrix (b,): a bad guess costs terms.
        high: A bound of its upper end.
        exponent: α.
        tol: Of the rest, relative to Z.
        ws: Buffers.
        counted: How many terms, where nothing is to be read.
        coarse: The term from which planes are read by halves; see `PlaneMatrix`.
        probes: The last so many columns are random ones, and no part of the error; `counted` has its own.

    Returns:
        `SeriesResult`. Cost: a product with k columns for every term, one synchronisation every eight (none if
        `counted`).

    Raises:
        TypeError: Planes, and ends of the spectrum that are tensors.
    """
    if isinstance(action, PlaneMatrix):
        double = _by_planes(action, B, low, high, coarse)
        low, high = per_matrix(low, B), per_matrix(high, B)
    else:
        low, high = per_matrix(low, B), per_matrix(high, B)
        double = _by_action(action, 2 / (high - low), -(high + low) / (high - low), B.dtype)
    if counted is None:
        found = series_apply(double, B, coefficients, tol=tol, ws=ws, block=CHEBYSHEV_BLOCK, probes=probes)
    else:
        found = counted_apply(double, B, coefficients, counted, tol=tol, ws=ws, block=CHEBYSHEV_BLOCK)
    return found._replace(Z=found.Z.mul_((high**exponent).to(B.dtype)))


def cayley_series(
    A: Tensor,
    B: Tensor,
    coefficients: Sequence[float],
    low: float | Tensor,
    high: float | Tensor,
    *,
    exponent: float,
    tol: float,
    ws: Workspace | None = None,
    counted: Counted | None = None,
) -> SeriesResult:
    """A^exponent·B by the series in (A − σI)·(A + σI)⁻¹, σ = √(low·high), as far as it is needed.

    Args:
        A: `(b, n, n)` symmetric, float32 or float64.
        B: `(b, n, k)` of the same dtype.
        coefficients: `cayley_coefficients(exponent, high/low, …)`, as many as there are.
        low: Lower end of the spectrum.
        high: Upper end; the ratio is that of the coefficients.
        exponent: α.
        tol: Of the rest, relative to Z.
        ws: Buffers.
        counted: As in `chebyshev_series`.

    Returns:
        `SeriesResult`; NaN where A + σ·I has no Cholesky factor. Cost: one factorisation and a solve with k columns for
        every term, one synchronisation every four (none if `counted`).
    """
    ws = Workspace() if ws is None else ws
    low, high = per_matrix(low, B), per_matrix(high, B)
    sigma, root = (low * high).sqrt(), (high / low).sqrt()
    half_width = (root - 1) / (root + 1)
    solve, failed = shifted_solve(A, sigma, B, ws)
    double = _by_action(solve, -2 * sigma / half_width, 1 / half_width, B.dtype)
    if counted is None:
        found = series_apply(double, B, coefficients, tol=tol, ws=ws, block=CAYLEY_BLOCK)
    else:
        found = counted_apply(double, B, coefficients, counted, tol=tol, ws=ws, block=CAYLEY_BLOCK)
    Z = found.Z.mul_((sigma**exponent).to(B.dtype)).masked_fill_(failed[:, None, None], torch.nan)
    error = found.error.masked_fill(failed, torch.inf)
    return found._replace(Z=Z, error=error, converged=error <= tol)


def _by_action(action: Action, slope: Tensor, offset: Tensor, dtype: torch.dtype) -> Recurrence:
    """For X = slope·A + offset·I."""
    slope, offset = slope.to(dtype), offset.to(dtype)

    def double(V: Tensor, U: Tensor, part: Tensor, c: float, factor: float = 2.0) -> None:
        U.neg_().addcmul_(V, offset, value=factor).addcmul_(action(V), slope, value=factor)
        part.add_(U, alpha=c)

    return double


def _by_planes(S: PlaneMatrix, B: Tensor, low: float | Tensor, high: float | Tensor, coarse: int | None) -> Recurrence:
    """The same for S in planes, and one interval for all matrices."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise TypeError("by planes the ends of the spectrum must be numbers")
    slope, offset, recurrence = 2 / (high - low), -(high + low) / (high - low), S.recurrence(B, coarse)

    def double(V: Tensor, U: Tensor, part: Tensor, c: float, factor: float = 2.0) -> None:
        recurrence.term(V, U, part, factor * slope, factor * offset, -1.0, c)

    return double


def like(name: str, B: Tensor, ws: Workspace) -> Tensor:
    """A buffer of B's shape, stored as B is: row by row, else column by column."""
    if B.is_contiguous():
        return ws.buffer(name, B.shape, B.dtype, B.device)
    return ws.buffer(f"{name} columns", B.mT.shape, B.dtype, B.device).mT


def _left(norms: list[Tensor], size: Tensor, rest: _Rest, j: int) -> Tensor:
    """The error as `_Rest` estimates it after a block that ends at j, of the norms of the last three."""
    rest.planned = rest.planned_from(j - rest.block)
    now = torch.maximum(norms[-1], rest.planned * norms[-2])
    fall = torch.where(norms[-3] > 0, now / norms[-3], 0.0).sqrt_()
    ratio = fall.clamp_min_(rest.planned_from(j)).clamp_(0.0, 0.99)
    error = torch.where(size > 0, now * ratio / ((1 - ratio) * size), 0.0)
    return torch.where(norms[-1].isfinite() & size.isfinite(), error, math.inf)


class _Rest:
    """The estimates of what is left, one a matrix.

    Args:
        c: The coefficients.
        tol: Where they are settled.
        block: Terms of a block.
    """

    def __init__(self, c: list[float], tol: float, block: int) -> None:
        self.c, self.tol, self.block = c, tol, block
        self.before: list[NDArray[np.float64]] = []
        self.planned = 0.0
        self.error: NDArray[np.float64] = np.empty(0)

    def settled(self, j: int, parts: NDArray[np.float64], sizes: NDArray[np.float64]) -> bool:
        """Take the blocks that end at j into account; whether every matrix is below `tol`.

        One block alone proves nothing: how its terms fall is seen by the next, better by the next but one, for a block
        may be small or large by chance. Nor does the last one there is.
        """
        now, finite = parts, np.isfinite(parts) & np.isfinite(sizes)
        if self.before:
            now = np.maximum(parts, self.planned * self.before[-1])
        self.planned = self.planned_from(j)
        with np.errstate(all="ignore"):
            ratio = np.clip(np.maximum(self.planned, self._fall(now)), 0.0, 0.99)
            self.error = np.where(sizes > 0, now * ratio / ((1 - ratio) * sizes), 0.0)
        if not self.before or j + 1 >= len(self.c):  # nothing says how the terms go on
            self.error = np.where(self.error > 0, np.inf, 0.0)
        self.error = np.where(finite, self.error, np.inf)
        self.before = [*self.before[-1:], parts]
        return bool((self.error <= self.tol).all())

    def _fall(self, now: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a block is to the one before, from the last two or three."""
        if not self.before:
            return np.zeros_like(now)
        first = self.before[0]
        return np.asarray(np.where(first > 0, now / first, 0.0) ** (1 / len(self.before)))

    def planned_from(self, j: int) -> float:
        """What the next block is to this one, by their coefficients; where there are no more, as it was before."""
        now = max((abs(value) for value in self.c[max(0, j - self.block + 1) : j + 1]), default=0.0)
        after = max((abs(value) for value in self.c[j + 1 : j + self.block + 1]), default=0.0)
        return after / now if after and now else self.planned


def _norm(V: Tensor) -> Tensor:
    """‖V‖_F `(b,)` float64, along what lies together."""
    rows = torch.linalg.vector_norm(V if V.is_contiguous() else V.mT, dim=-1)
    found: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    return found

"""The error of Z, estimated from Z.

Let X be the computed A^(-q/s), Δ its error, and  E_m = X^m·A^q·X^(s+1−m) − X  for m = 1 … s. To first order, in A's
eigenbasis with x_i = λ_i^(-q/s),  (E_m)_ij = Δ_ij·σ_m(x_i/x_j),  σ_m(ρ) = Σ_{k=m−s}^{m−1} ρ^k:  a sum of s positive
terms, one of them 1, and σ_m(1) = s. So, with Z = X·B,

    ‖E_m·B‖_F / (s·‖Z‖_F)

is exact for errors that commute with A (truncation, unfinished eigenvalues). For others it may be 1/s of the truth,
because σ_m ≥ 1 says no more, or exceed it by up to κ^(q(s−1)/s)/s. Two orders m + m' = s + 1 share that factor between
them: for independent Δ_ij

    E⟨E_m·B, E_m'·B⟩ = Σ |Δ_ij|²·σ_m(ρ)·σ_m'(ρ)·b_j²,

which exceeds the truth only by the geometric mean, and is not below it: σ_m·σ_m' = (Σ_k ρ^(k−(s−1)/2))² ≥ s². The
estimate is the smallest of this one and the ‖E_m·B‖_F/‖Z‖_F, which are not below the truth either; the inner product,
which may cancel by chance, more so for few columns k, counts for at least 0.7/√k of the geometric mean of its norms. It
needs no root beyond the action of X, and it is an estimate for the B at hand, for more columns than 16 (8 where s > 2)
for ±1 combinations of them. For p = 1 it is ‖X·(A·Z − B)‖_F/‖Z‖_F, the residual carried through the inverse.

What no E_m sees is an error that Z has and X has not: the rounding of the last product, u·‖X‖·‖B‖. It is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from iroot_kernels import Workspace
from numpy.typing import NDArray
from torch import Tensor

from iroot_solve._scales import norm as _norm
from iroot_solve._scales import unit

LEAST_SHARE = 0.7
# A residual in float32 of fewer terms may be small by chance.
CHANCE_SIZE = 64

Array = NDArray[Any]
Action = Callable[[Tensor], Tensor]
Power = Callable[[int, Tensor], Tensor]
"""(j, V) ↦ X^j·V."""


class Matrix(Protocol):
    """A symmetric matrix, as the certificate multiplies by it; thin matrices as rows `(b, k, n)`."""

    def times(self, Z: Tensor) -> Tensor:
        """(A·Z)ᵀ from Zᵀ."""

    def residual(self, B: Tensor, Z: Tensor) -> Tensor:
        """(B − A·Z)ᵀ from Bᵀ and Zᵀ."""


class PlainMatrix:
    """A whose own precision is enough."""

    def __init__(self, A: Tensor) -> None:
        self.whole = A

    def times(self, Z: Tensor) -> Tensor:
        return torch.bmm(Z, self.whole)

    def residual(self, B: Tensor, Z: Tensor) -> Tensor:
        return torch.baddbmm(B, Z, self.whole, alpha=-1)


def times_power(A: Matrix, q: int, Z: Tensor, B: Tensor | None) -> Tensor:
    """(A^q·Z − B)ᵀ from rows."""
    for _ in range(q if B is None else q - 1):
        Z = A.times(Z)
    return Z if B is None else -A.residual(B, Z)


@dataclass(frozen=True)
class Root:
    """The computed X = A^(-q/s) (for a positive exponent W = A^(q/s)), as the certificate sees it.

    Attributes:
        power: The action of its powers.
        roundoff: Unit roundoff of the products that applied it to B.
        ends: It is cheap to apply: look at E_1 and E_s too, which is sharper where B is aligned with extreme
            eigenvectors, for twice the work.
        norm: ‖X‖_F `(b,)` where it is known.
        parts: (j, V) ↦ R^j·V and P^j·V, where X = R·P and P, a polynomial in A, is known to so many more digits that
            all error is R's. Then R is the root of A^q·P^s that is judged, which is conditioned better: what a
            residual overrates, by powers of x_i/x_j, is less.
        drift: W ↦ an error of W = X·V that no E_m can see, where the strategy knows of one.
        sandwich: (A, q, orders, s, W, B) ↦ X^m·(A^q·X^(s−m)·W − B) for the m of `orders`, where that is cheaper all at
            once; thin matrices go in and out as rows, `(b, k, n)` and `(b, len(orders)·k, n)`. A root with a drift
            adds k rows, W + drift(W).
    """

    power: Power
    roundoff: float = 0.0
    ends: bool = True
    norm: Tensor | None = None
    parts: tuple[Power, Power] | None = None
    drift: Action | None = None
    sandwich: Callable[[Matrix, int, tuple[int, ...], int, Tensor, Tensor | None], Tensor] | None = None


class Certificate(NamedTuple):
    """Per matrix `(b,)`: estimated relative error of Z, measured residual, norm of X over its mean action on B.

    Arrays on the host, or tensors where nobody has read them.
    """

    error: Any
    residual: Any
    amplification: Any


def judging_dtype(S: Tensor) -> torch.dtype:
    """That in which a residual of S shows the error of what S's own precision has computed."""
    return S.dtype if S.shape[-1] >= CHANCE_SIZE else torch.float64


@lru_cache(maxsize=32)
def probe_signs(n: int, columns: int, device: torch.device, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """±1 numbers `(n, columns)` from an own generator; kept, so not to be written to."""
    generator = torch.Generator(device).manual_seed(seed)
    bits = torch.randint(0, 2, (n, columns), generator=generator, device=device, dtype=dtype)
    return bits.mul_(2).sub_(1)


def probes(n: int, most: int, like: Tensor, seed: int, ws: Workspace | None = None) -> Tensor:
    """Up to `most` columns of ±1 numbers `(n, …)` where `like` is; a graph that is recorded in `ws` may read them."""
    found = probe_signs(n, min(most, n), like.device, seed, like.dtype)
    return found if ws is None else ws.hold(found)


def measure(
    root: Root,
    A: Matrix,
    B: Tensor | None,
    Z: Tensor,
    exponent: Fraction,
    seed: int,
    left: Tensor | None = None,
    wide: bool = True,
    ws: Workspace | None = None,
) -> Tensor:
    """What `appraise` needs to estimate ‖Z − A^exponent·B‖_F/‖Z‖_F: everything that is done on the device.

    Args:
        root: What was computed; acts on `(b, n, m)` in Z's dtype.
        A: In the precision in which residuals are wanted.
        B: `(b, n, k)`, or `None` for the root; in Z's dtype.
        Z: `(b, n, k)`: the claimed result.
        exponent: −q/s or q/s.
        seed: Of the probes.
        left: `(b, l, n)`: the error of left·Z is wanted.
        wide: The numbers may use all of Z's dtype's range, so that a square of theirs may leave it.
        ws: Holds the probes for a graph.

    Returns:
        `(b, …)` float64: ‖W‖, ‖V‖, ‖X‖_F, then for −q/s the inner products ⟨E_m·V, E_m'·V⟩, for q/s the norms of
        W^(s−1)·Z − A^q·B, of A^q·B, and of the drift. Cost: at most 4(s + q + 1) products with min(k, 16) columns
        (8 for s > 2).
    """
    s, q = exponent.denominator, abs(exponent.numerator)
    V, W = _probes(B, Z, probe_count(s), seed, ws)
    if wide:
        V, W = _scaled(V, W)
    onto = (lambda rows: rows) if left is None else (lambda rows: torch.bmm(rows, left.mT))
    columns = [_norm(onto(W)), _norm(V), _root_norm(root, Z, seed, ws) if root.norm is None else root.norm.double()]
    if exponent.numerator > 0:
        columns += _positive(root, A, V, W, s, q, onto)
        return torch.stack(columns, -1)
    gram = _gram(root, A, V, W, s, q, orders(s, root.ends), onto)
    return torch.cat((torch.stack(columns, -1), gram.flatten(1)), -1)


def appraise(values: Any, n: int, k: int, root: Root, exponent: Fraction) -> Certificate:
    """The certificate of an n×k Z from what was measured; what is not finite is infinitely wrong.

    On the host for an array, whose floating-point warnings are the caller's to silence; for a tensor where that lies.
    """
    xp = namespace(values)
    (size, given, norm), rest = values[:, :3].T, values[:, 3:]
    s = exponent.denominator
    if exponent.numerator > 0:
        residual = rest[:, 0] / rest[:, 1]
        error = residual + rest[:, 2] / size
    else:
        share = LEAST_SHARE / math.sqrt(max(1, min(k, probe_count(s))))
        error, residual = _negative(rest, size, orders(s, root.ends), s, share)
    amplification = norm * given / (size * math.sqrt(n))
    error = error + root.roundoff * xp.clip(amplification, 1.0, None)
    zero = (given == 0) & (size == 0)  # scaled to Z, a nonzero B may vanish
    error = put(0.0, zero, xp.nan_to_num(error, nan=math.inf, posinf=math.inf))
    return Certificate(error, put(0.0, zero, residual), amplification)


def namespace(values: Any) -> Any:
    """What computes with them: torch or numpy."""
    return torch if isinstance(values, Tensor) else np


def put(number: float, where: Any, values: Any) -> Any:
    """The values, but the number at those places; on a device a call, where `where` takes a constant there first."""
    return values.masked_fill(where, number) if isinstance(values, Tensor) else np.where(where, number, values)


def _negative(rest: Any, size: Any, found: tuple[int, ...], s: int, share: float) -> tuple[Any, Any]:
    """(error, residual) from the inner products of the E_m·V: σ_m·σ_m' ≥ s² for the middle pair, σ_m ≥ 1 for one.

    The inner product is taken for at least `share` of the product of the norms. With one row and column more than
    `found`, the last is a drift.
    """
    xp, M = namespace(rest), math.isqrt(rest.shape[1])
    gram = rest.reshape(-1, M, M)
    norms = xp.sqrt(xp.diagonal(gram, 0, 1, 2)).T / size
    if s == 1:  # all below comes to that
        return (norms[0] + norms[1] if M > 1 else norms[0]), norms[0]
    low, high = found.index((s + 1) // 2), found.index((s + 2) // 2)
    middle = xp.maximum(xp.sqrt(xp.abs(gram[:, low, high])) / size, share * xp.sqrt(norms[low] * norms[high]))
    smallest = xp.minimum(middle, s * xp.amin(norms[: len(found)], 0))
    error = _root_error(smallest, s)
    return (error + norms[-1] if M > len(found) else error), norms[low]


def probe_count(s: int) -> int:
    """How many columns are looked at: for s ≤ 2 the estimate is the truth on average, and scatters; above, it exceeds
    it."""
    return 16 if s <= 2 else 8


def _probes(B: Tensor | None, Z: Tensor, count: int, seed: int, ws: Workspace | None) -> tuple[Tensor, Tensor]:
    """Rows Vᵀ, Wᵀ `(b, m, n)`, W = X·V as claimed: the columns of B and Z, or `count` random combinations of them."""
    k = Z.shape[-1]
    if B is not None and k <= count:
        return B.mT, Z.mT
    signs = probes(k, count, Z, seed, ws).mT.expand(Z.shape[0], -1, k)
    W = torch.bmm(signs, Z.mT)
    return (signs if B is None else torch.bmm(signs, B.mT)), W


def _scaled(V: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """Both over max|W|: the estimate is linear in them, and squares of W must not overflow."""
    largest = W.abs().amax((-2, -1), keepdim=True)
    usable = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    return V / usable, W / usable


def orders(s: int, ends: bool) -> tuple[int, ...]:
    """The m to look at, descending: the middle pair, and the ends while 1/s is no more than a factor of ten."""
    middle = {(s + 1) // 2, (s + 2) // 2} if s > 1 else {1}
    return tuple(sorted(middle | ({1, s} if ends and s <= 8 else set()), reverse=True))


def _gram(
    root: Root,
    A: Matrix,
    V: Tensor,
    W: Tensor,
    s: int,
    q: int,
    found: tuple[int, ...],
    onto: Action,
) -> Tensor:
    """⟨E_m·V, E_m'·V⟩ for all m, m' in `found`, float64: E_m·V = X^m·A^q·X^(s−m)·W − W, or X·(A^q·W − V) for s = 1;
    of left·E_m·V where the answer is left·Z.

    One row and column more for what the root's `drift` does to W, if the sandwich brings it along.
    """
    b, k, n = W.shape
    rows = (root.sandwich or _Sandwich(*(root.parts or (root.power, None))))(A, q, found, s, W, V if s == 1 else None)
    gaps = rows.view(b, -1, k, n)
    if s > 1:
        gaps = gaps - W.unsqueeze(1)
    elif gaps.shape[1] > len(found):
        gaps[:, -1] -= W
    gaps = onto(gaps.reshape(b, -1, n)).view(b, gaps.shape[1], -1)
    return torch.bmm(gaps, gaps.mT).double()


@dataclass(frozen=True)
class _Sandwich:
    """Rows (X^m·(A^q·X^(s−m)·W − B))ᵀ for every m, from powers of X alone; of R, and A^q·P^s, where X has these parts.

    The right-hand powers build on one another; the left-hand ones act on all columns that still need them at once.
    """

    power: Power
    known: Power | None = None

    def __call__(self, A: Matrix, q: int, found: tuple[int, ...], s: int, W: Tensor, B: Tensor | None) -> Tensor:
        inner, taken, P = [], 0, W.mT
        for m in found:
            P, taken = self.power(s - m - taken, P), s - m
            filtered = P if self.known is None else self.known(s, P)
            inner.append(times_power(A, q, filtered.mT, B))
        block = inner[0]
        for i, m in enumerate(found):
            block = self.power(m - (found[i + 1] if i + 1 < len(found) else 0), block.mT).mT
            if i + 1 < len(found):
                block = torch.cat((block, inner[i + 1]), 1)
        return block.contiguous()


def _root_error(relative: Any, s: int) -> Any:
    """From a residual E to the error of an eigencomponent, between E/s (to first order) and E (towards 1).

    1 − (1 − E)^(1/s) ≤ E/s + E²·(1 − 1/s) for E ≤ 1: its Taylor coefficients are positive, and their sum is 1.
    """
    return relative * ((1 + (s - 1) * namespace(relative).clip(relative, None, 1.0)) / s)


def _positive(root: Root, A: Matrix, V: Tensor, W: Tensor, s: int, q: int, onto: Action) -> list[Tensor]:
    """‖W^(s−1)·Z − A^q·B‖, ‖A^q·B‖ with W = A^(q/s), and the drift.

    The first over the second is s times an error that commutes with A, but only once one that mixes a large eigenvalue
    with small ones, as rounding does: that is what it is taken for. Large eigenvalues weigh more in it than in Z. What
    it may miss at small ones is truncation, which `drift` sees.
    """
    U = times_power(A, q, V, None)
    gap, size = _norm(onto(root.power(s - 1, W.mT).mT - U)), _norm(onto(U))
    return [gap, size, torch.zeros_like(gap) if root.drift is None else _norm(onto(root.drift(W.mT).mT))]


def _root_norm(root: Root, Z: Tensor, seed: int, ws: Workspace | None) -> Tensor:
    """‖X‖_F from four ±1 probes."""
    b, n = Z.shape[:2]
    signs = probes(n, 4, Z, seed + 1, ws)
    X = root.power(1, signs.expand(b, n, -1))
    X, largest = unit(X)
    return _norm(X) * (largest / math.sqrt(X.shape[-1]))

"""A^α·B by a series of as many terms as a promise needs, with a certificate that nothing is read for.

The estimate of the rest is that of `iroot_kernels._series`, and rests on B. It says little of an eigenvalue outside
[l, u] that B hardly shows and that is most of the answer, or of one that is just beginning to show. Therefore 16
columns V of normal numbers run beside B, whose last block b(X)·V is Σ b(x)² in the mean (x the place of an eigenvalue,
[l, u] ↦ [−1, 1]).

Let x⋆ < −1 be where the sum of J terms misses the share SHARE·tol of f, and likewise x⋆ > 1. Beyond them it misses
more, between them less: if no eigenvalue is beyond, Z is right to SHARE·tol whatever B is. One beyond contributes
b(x⋆)² or more, and is seen where ‖b(X)·V‖²/16 is above a tenth of that (see `_completeness`: but for a probability of
3·10⁻⁶). Eigenvalues in [l, u] contribute n·(Σ|c_j|)² at most, the sum over the block: J is such that this is a tenth of
that tenth (or as large as there are coefficients for, and the limit with it). Cost: half as many terms again or more,
about √κ/2·ln(20·√n) (κ^¼/2 after the Cayley transform), and 16 more columns.

What is left to the estimate: an eigenvalue near u + l, where the terms of a block, of alternating signs, may cancel;
only a promise of λmax that an operator breaks can leave one there. What rounds is a prediction, from the promised κ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from iroot_kernels import Counted, SeriesResult, cayley_series, chebyshev_series, multiplication
from numpy.typing import NDArray
from torch import Tensor

from iroot_solve import _completeness
from iroot_solve._certificate import Action
from iroot_solve._completeness import LIMIT, PROBES
from iroot_solve._outcome import Outcome
from iroot_solve._result import SolveWorkspace
from iroot_solve._scales import norm
from iroot_solve._sums import SHARE, cayley_series_of, chebyshev_series_of, series_outcome, without_tail

BLOCKS = {"chebyshev": 8, "cayley": 4}
# So that there are coefficients for three blocks.
LEAST_RATIO = 2.0
# Of the limit, for what eigenvalues in [l, u] contribute.
INSIDE = 0.1


class Plan(NamedTuple):
    """The terms of a sum, and what ‖b(X)·V‖²/16 is at most where no eigenvalue is missed."""

    counted: Counted
    limit: float


def chebyshev_checked(
    S: Tensor | Action,
    B: Tensor,
    exponent: Fraction,
    low: float,
    high: float,
    tol: float,
    ws: SolveWorkspace,
    seed: int,
    name: str = "",
) -> Outcome:
    """Z = A^exponent·B, −1 ≤ exponent < 0, with an `error` of its own, infinite where an eigenvalue was missed.

    Args:
        S: A `(b, n, n)`, or V ↦ A·V.
        B: `(b, n, k)`, float32 or float64.
        exponent: α.
        low, high: The ends of the spectrum as promised.
        tol: Of the result.
        ws: Where Z lives; holds the probes for a graph.
        seed: Of the probes.
        name: Precision of the action, if it is not that of B.

    Returns:
        The outcome. Cost: a product with k + 16 columns for every term; no synchronisation.
    """
    alpha, low, W = float(exponent), min(low, high / LEAST_RATIO), probed(B, ws, seed)
    action = multiplication(S, W, ws) if isinstance(S, Tensor) else S
    coefficients, plan = (
        chebyshev_series_of(exponent, high / low),
        plan_of("chebyshev", exponent, high / low, SHARE * tol, B.shape[-2]),
    )
    found = chebyshev_series(
        action, W, coefficients, low, high, exponent=alpha, tol=SHARE * tol, ws=ws, counted=plan.counted
    )
    return checked("chebyshev", found, plan, W, exponent, high / low, name)


def cayley_checked(
    S: Tensor, B: Tensor, exponent: Fraction, low: float, high: float, tol: float, ws: SolveWorkspace, seed: int
) -> Outcome:
    """The same by the Cayley transform of S `(b, n, n)`, after one factorisation."""
    alpha, low, W = float(exponent), min(low, high / LEAST_RATIO), probed(B, ws, seed)
    coefficients = cayley_series_of(exponent, high / low)
    plan = plan_of("cayley", exponent, high / low, SHARE * tol, B.shape[-2])
    found = cayley_series(S, W, coefficients, low, high, exponent=alpha, tol=SHARE * tol, ws=ws, counted=plan.counted)
    return checked("cayley", found, plan, W, exponent, high / low)


def probed(B: Tensor, ws: SolveWorkspace, seed: int, rows: bool = False) -> Tensor:
    """[B, V] `(b, n, k + 16)`, stored as products with it are fastest, or row by row."""
    b, n, k = B.shape
    V, rows = ws.hold(_completeness.normal_numbers(n, B.device, seed, B.dtype)), rows or b == 1
    shape = (b, n, k + PROBES) if rows else (b, k + PROBES, n)
    W = ws.buffer("B and probes", shape, B.dtype, B.device)
    W = W if rows else W.mT
    W[..., :k].copy_(B)
    W[..., k:].copy_(V)
    return W


def checked(
    strategy: str,
    found: SeriesResult,
    plan: Plan,
    W: Tensor,
    exponent: Fraction,
    kappa: float,
    name: str = "",
    more: float = 0.0,
) -> Outcome:
    """Of the columns of B, with an infinite error where the last block of the probes is above the limit."""
    outcome = of_columns(strategy, found, W, exponent, kappa, name, more)
    assert found.probed is not None and outcome.error is not None
    outcome.error = torch.where(found.probed <= plan.limit, outcome.error, math.inf)
    return outcome


def of_columns(
    strategy: str, found: SeriesResult, W: Tensor, exponent: Fraction, kappa: float, name: str = "", more: float = 0.0
) -> Outcome:
    """Of the columns of B, without the probes; `more` is rounded besides what is predicted.

    What is rounded on the way is an error in all directions: relative to ‖B‖·‖f(A)·V‖/‖V‖ it is what was measured for
    random B, and of a B that f(A) leaves small, as one of the top eigenvectors, so many times more of Z.
    """
    outcome = series_outcome(strategy, found, W, exponent, kappa, name, more, _spread(found.Z, W))
    outcome.Z = found.Z[..., :-PROBES]
    return outcome


def _spread(Z: Tensor, W: Tensor) -> Tensor:
    """‖B‖/‖Z‖·‖f(A)·V‖/‖V‖ `(b,)` float64, 1 at least."""
    (z, v), (b, x) = ([norm(part) for part in (M[..., :-PROBES], M[..., -PROBES:])] for M in (Z, W))
    return torch.where(z > 0, b * v / (z * x), 1.0).clamp_min_(1.0)


@lru_cache(maxsize=256)
def plan_of(strategy: str, exponent: Fraction, kappa: float, share: float, n: int) -> Plan:
    """The fewest terms that let the probes tell one eigenvalue of which the sum misses `share` from n of which it does
    not, or all there are."""
    cayley, alpha = strategy == "cayley", float(exponent)
    c = np.asarray((cayley_series_of if cayley else chebyshev_series_of)(exponent, kappa))
    truth, end = _in_cayley(alpha, kappa) if cayley else _in_place(alpha, kappa)
    block, least = Counted(0).blocks(len(c), BLOCKS[strategy])
    enough = len(without_tail(tuple(c.tolist()), share * (kappa ** (alpha / 2) if cayley else 1.0)))
    below, above = max(least, enough) // block - 1, max(least // block, (len(c) - 1) // block)

    def weights(blocks: int) -> tuple[float, float]:
        """(a tenth of what one that is missed contributes at least, what all that are not contribute at most)."""
        count = blocks * block
        places = [_place(c[: count + 1], truth, sign * end, share) for sign in (-1.0, 1.0)]
        part = np.where(np.arange(count + 1) > count - block, c[: count + 1], 0.0)
        return LIMIT * min(_outside(part, x) ** 2 for x in places), n * float(np.abs(part).sum()) ** 2

    while above - below > 1:
        middle = (below + above) // 2
        missed, inside = weights(middle)
        below, above = (below, middle) if inside <= INSIDE * missed else (middle, above)
    missed, inside = weights(above)
    return Plan(Counted(above * block, PROBES), max(missed, inside / INSIDE))


def _in_place(alpha: float, kappa: float) -> tuple[Callable[[float], float], float]:
    """x ↦ f on [1/κ, 1] ↦ [−1, 1], and the place of 0, mirrored."""
    low = 1 / kappa
    return lambda x: (((1 - low) * x + (1 + low)) / 2) ** alpha, (1 + low) / (1 - low)


def _in_cayley(alpha: float, kappa: float) -> tuple[Callable[[float], float], float]:
    """The same for c = (y − σ)/(y + σ), [−a, a] ↦ [−1, 1]; infinity is the mirror image of 0."""
    root = math.sqrt(kappa)
    a = (root - 1) / (root + 1)
    return lambda x: ((1 + a * x) / (1 - a * x)) ** alpha, 1 / a


def _outside(c: NDArray[np.float64], x: float) -> float:
    """Σ c_j·T_j(x) for |x| ≥ 1."""
    j = np.arange(len(c))
    return float(np.dot(c, np.where(j % 2, math.copysign(1.0, x), 1.0) * np.cosh(j * math.acosh(abs(x)))))


def _place(c: NDArray[np.float64], truth: Callable[[float], float], end: float, share: float) -> float:
    """Between ±1 and `end`, where the sum comes to miss `share` of the truth."""
    inside, beyond = math.copysign(1.0, end), end
    for _ in range(40):
        middle = (inside + beyond) / 2
        value = truth(middle)
        inside, beyond = (middle, beyond) if abs(_outside(c, middle) - value) <= share * value else (inside, middle)
    return beyond

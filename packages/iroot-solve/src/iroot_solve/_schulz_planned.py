"""Newton–Schulz steps that read nothing: planned for a κ and an η that calls before have seen.

`_newton_schulz` takes its intervals from looks at Y. Here they are followed: with A over its bound Y₀ has its
eigenvalues in [1/κ², 1], and a step for [lo, hi], lo the smallest eigenvalue but not so small that 1 − ε comes near 0,
brings them to

    [min(y·q(y), 1 − ε − ϱ), 1 + ε + ϱ],   y the smallest before, ϱ the part of η that eigenvalues move by.

A smaller κ than planned ends nearer to 1. One larger by δ is (1 + δ)² times too small before the last step, which then
leaves more of it. η grows threefold in a step, as √a does, to what was seen in the end. All numbers of the steps are
constants of a graph; A is what is scaled, by a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._hybrid import corrections_for
from iroot_solve._newton_schulz import (
    CLOSE,
    FAR,
    LAST,
    MOST_NOISE,
    NOISE,
    SEEN_MORE,
    left_by_correction,
)
from iroot_solve._schulz_products import MARGIN, Quadratic, SchulzProducts, quadratic

# Where nothing is in vain there may be more of them than of those that look.
MOST_PLANNED = 13
# Of η, which is a norm, the eigenvalues of Y move by half (the circular law); and what is allowed for at most.
SPREAD, WIDEST = 0.6, 0.4
# The most that lo = FAR·hi, whose ε is 0.67, bears of that.
NARROW = 0.1
# Of the way of the smallest eigenvalue, for what rounding adds to it.
SLOWER = 0.95


@dataclass(frozen=True)
class SchulzPlan:
    """What is fixed before.

    Attributes:
        steps: All but the last.
        last: In float32.
        corrections: Of the refinement.
    """

    steps: tuple[Quadratic, ...]
    last: Quadratic
    corrections: int


def planned(kappa: float, noise: float, corrections: int, tol: float) -> SchulzPlan | None:
    """Steps for this κ and η, and what brings an error of `tol`, with so many `corrections` more; `None`: no way."""
    low, high, grown = kappa**-2, 1.0, 1.5
    steps: list[Quadratic] = []
    while not steps or max(1 - low, high - 1) > LAST:
        if len(steps) + 1 == MOST_PLANNED or noise > MOST_NOISE:
            return None
        reached = min(noise, NOISE * (grown * quadratic(FAR * high, high).a) ** 0.5)
        wide = min(SPREAD * reached, WIDEST)
        q = quadratic(max((FAR if wide <= NARROW else CLOSE) * high, low), high)
        steps.append(q)
        grown *= q.a
        low, high = min(SLOWER * q.image(low), 1 - q.error - wide), 1 + q.error + wide
    reach = max(1 - low, high - 1) + SEEN_MORE
    last = quadratic(1 - reach, 1 + reach)
    left = min(left_by_correction(last.error, noise), 0.5)
    return SchulzPlan(tuple(steps), last, corrections_for(left, tol) + corrections)


class PlannedNewtonSchulz:
    """X ≈ A⁻¹ in float32, and anything for a matrix that the plan does not fit.

    Args:
        A: `(b, n, n)` float64, entries at most 1.
        ws: Where everything lives.
        plan: The steps.

    Attributes:
        X: `(b, n, n)`; NaN for a matrix that is zero or not finite.
        highest: A bound of σ_max `(b,)`, float64.
        products: What was done.
    """

    def __init__(self, A: Tensor, ws: Workspace, plan: SchulzPlan) -> None:
        self.products = held = SchulzProducts(A, ws)
        self.highest: Tensor = held.begin().double().pow_(0.25).mul_(MARGIN)
        scale = self.highest.reciprocal()[:, None, None]
        self._start(A, scale, plan.steps[0])
        for q in plan.steps[1:]:
            held.multiply()
            held.step(q)
        held.multiply()
        held.finish(plan.last)
        self.X = held.X.mul_(scale.float())

    def _start(self, A: Tensor, scale: Tensor, q: Quadratic) -> None:
        """The first step, of A over its bound: rounded anew, not twice."""
        held = self.products
        torch.mul(A, scale, out=held.A)
        square = scale.square()
        held.X.mul_(square.square().mul_(q.c / q.b).float())
        torch.addcmul(held.X, held.Y, square.float(), out=held.Z)
        held.first(q, q.b)

"""X ← X·q(XᵀX): singular values move by σ ↦ σ·q(σ²), singular vectors stay.

With q ≈ y^(-1/2) the step of an inverse square root of XᵀX is a step towards the polar factor of X, so a schedule for
p = 2 on [l², u²] serves singular values in [l, u]. It is run in segments. A segment of one step forms Y = XᵀX and takes
X ← a·X + X·(q(Y) − a·I): the plain form, two products with X a step. A longer one forms Y once, runs the coupled
iteration on it for R = q_k(Y_k)…q_1(Y_1), and multiplies out, X ← X·R: the Gram form, where a step costs three products
of n×n instead, so that it pays for m > 1.5·n.

What a segment loses. Let L = Π q_i be what it lifts the smallest singular values by; R = r(Y) with r ≤ L, and r falls
from L where L·√y reaches 1, so r' ≤ L³. Y is computed with an error of u, which moves R by up to L³·u between two
directions of σ ≈ 1/L, and X·R by σ·L³·u = L²·u. Among smaller σ it moves X·R by less, in proportion to what is left to
be lifted. So a segment moves the polar factor by about L²·u, and by κ²·u if there is only one. Forming XᵀX afresh from
X·R starts the next one from an exact Gram matrix of what is there: with one restart, where L passes √κ, what is lost is
κ·u, as much as rounding G itself costs. Segments end where L² would pass a given limit, or, without a tolerance to
derive it from, at √κ. (Gram matrices with a restart, for Newton–Schulz steps in optimizers: "Gram Newton–Schulz".)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from iroot_kernels import CoupledIteration, Polynomial, Products, Workspace, increment
from torch import Tensor

# A step in a segment costs three n×n products more and two m×n ones less.
GRAM_FROM = 1.5


def segments(lifts: Sequence[float], limit: float) -> tuple[int, ...]:
    """Lengths of the segments whose lift stays below `limit`, at least one step each.

    Args:
        lifts: What each step multiplies the smallest singular values by.
        limit: Largest L; 0 for the plain form.
    """
    lengths, total = [0], 1.0
    for lift in lifts:
        if lengths[-1] and total * lift > limit:
            lengths.append(0)
            total = 1.0
        lengths[-1] += 1
        total *= lift
    return tuple(lengths)


def restarted(lifts: Sequence[float]) -> tuple[int, ...]:
    """Lengths of two segments of about the same lift, √κ each: the larger one as small as may be."""
    if len(lifts) < 2:
        return (len(lifts),)
    cut = min(range(1, len(lifts)), key=lambda i: max(math.prod(lifts[:i]), math.prod(lifts[i:])))
    return cut, len(lifts) - cut


class PolarIteration:
    """State of one iteration on a batch.

    Args:
        X: `(b, m, n)`, m ≥ n, in the storage dtype of `precision`, singular values in the interval of the steps. It is
            not changed.
        precision: Of the products.
        ws: Buffers.

    Attributes:
        X: The iterate, a buffer of `ws` after the first step.
        steps: Steps taken.
        rectangular: Products m×n×n.
        square: The products n×n×n, counted.
    """

    def __init__(self, X: Tensor, precision: str, ws: Workspace) -> None:
        self.X, self.ws = X, ws
        self.square, self._wide = Products(precision, ws), Products(precision, ws)
        self.steps = self.rectangular = 0

    def run(self, steps: Sequence[Polynomial], lengths: Sequence[int], size: Tensor | None = None) -> None:
        """All steps, in segments.

        Args:
            steps: The polynomials.
            lengths: Of the segments.
            size: `(b, 1, 1)`: the steps are made for X/size. The factor is folded into the first segment.
        """
        first = 0
        for length in lengths:
            self._segment(steps[first : first + length], size if first == 0 else None)
            first += length

    def gram(self) -> Tensor:
        """XᵀX, a buffer."""
        b, _, n = self.X.shape
        self.rectangular += 1
        return self._wide(self.X.mT, self.X, out=self.ws.buffer("polar Y", (b, n, n), self.X.dtype, self.X.device))

    def _segment(self, steps: Sequence[Polynomial], size: Tensor | None) -> None:
        Y = self.gram()
        if size is not None:
            Y.div_(size).div_(size)
        if len(steps) == 1:
            a, R = increment(steps[0], Y, self.square, self.ws)
            X = self._wide(self.X, R, C=self.X, beta=a, out=self._next())
        else:
            X = self._wide(self.X, self._root(Y, steps), out=self._next())
        self.X = X if size is None else X.div_(size)
        self.rectangular += 1
        self.steps += len(steps)

    def _root(self, Y: Tensor, steps: Sequence[Polynomial]) -> Tensor:
        """q_k(Y_k)…q_1(Y_1), symmetric."""
        root = CoupledIteration(Y, None, p=2, precision=self.square, workspace=self.ws)
        for i, q in enumerate(steps, start=1):
            root.step(q, last=i == len(steps))
        assert root.X is not None
        return torch.add(root.X, root.X.mT, out=self.ws.like("polar R", Y)).mul_(0.5)

    def _next(self) -> Tensor:
        return self.ws.other("polar X", self.X)

"""X ← X·q(XᵀX): singular values move by σ ↦ σ·q(σ²), singular vectors stay.

With q ≈ y^(-1/2) the step of an inverse square root of XᵀX is a step towards the polar factor of X, so a schedule for
p = 2 on [l², u²] serves singular values in [l, u]. It is run in segments. A segment of one step forms Y = XᵀX and takes
X ← a·X + X·(q(Y) − a·I): the plain form, two products with X a step. A longer one forms Y once, runs the coupled
iteration on it for R = q_k(Y_k)…q_1(Y_1), and multiplies out, X ← X·R: the Gram form, where a step costs three products
of n×n instead, so that it pays for m > 1.5·n, or m > n where these are halves (`_polar_products`).

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

from iroot_kernels import Polynomial, Workspace
from torch import Tensor

from iroot_solve._polar_products import products, reached


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


def ending(lifts: Sequence[float], limit: float, first: float) -> tuple[int, ...]:
    """Lengths of segments whose lift stays below `limit`, counted from the end; the two at the beginning are one where
    its lift stays below `first`."""
    lengths = segments(lifts[::-1], limit)[::-1]
    joined = sum(lengths[:2])
    return (joined, *lengths[2:]) if math.prod(lifts[:joined]) <= first else lengths


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
        products: What they and the products n×n×n are made by.
    """

    def __init__(self, X: Tensor, precision: str, ws: Workspace) -> None:
        self.X, self.ws = X, ws
        self.products = products(X.device, precision, X.shape[-1], ws)
        self.steps = self.rectangular = 0

    @property
    def square(self) -> int:
        """Products n×n×n so far."""
        return self.products.square.square

    @property
    def backend(self) -> str:
        """What computed them."""
        return self.products.backend(self.X.device)

    def run(
        self, steps: Sequence[Polynomial], lengths: Sequence[int], size: Tensor | None = None, top: float = 1.0
    ) -> None:
        """All steps, in segments.

        Args:
            steps: The polynomials.
            lengths: Of the segments.
            size: `(b, 1, 1)`: the steps are made for X/size. The factor is folded into the first segment.
            top: A bound of the eigenvalues of XᵀX/size².
        """
        parts = []
        for part in parted(steps, lengths):
            parts.append((part, top))
            top = reached(part, top)
        self.products.reserve(parts)
        for part, top in parts:
            self._segment(part, top, size)
            size = None

    def gram(self) -> Tensor:
        """XᵀX, a buffer."""
        self.rectangular += 1
        return self.products.gram(self.X)

    def _segment(self, steps: tuple[Polynomial, ...], top: float, size: Tensor | None) -> None:
        Y, a = self.gram(), 0.0
        if size is not None:
            Y.div_(size).div_(size)
        if len(steps) == 1:
            a, R = self.products.increment(steps[0], Y, top)
        else:
            R = self.products.root(steps, Y, top)
        X = self.products.times(self.X, R, a, self.ws.other("polar X", self.X))
        self.X = X if size is None else X.div_(size)
        self.rectangular += 1
        self.steps += len(steps)


def parted(steps: Sequence[Polynomial], lengths: Sequence[int]) -> list[tuple[Polynomial, ...]]:
    """The steps of each segment."""
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    return [tuple(steps[end - length : end]) for end, length in zip(ends, lengths, strict=True)]

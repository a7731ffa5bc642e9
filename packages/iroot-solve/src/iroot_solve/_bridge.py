"""From the steps of iroot_coeffs to the polynomials of iroot_kernels: plain numbers, no more."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from iroot_coeffs import Step
from iroot_kernels import Polynomial


@lru_cache(maxsize=1024)
def polynomial(step: Step) -> Polynomial:
    """The step's q, about the middle of its interval; degree 8 in its three-product form where that is stable."""
    short = step.degree8() if step.degree == 8 else None
    if short is None:
        return Polynomial(step.center, step.half_width, step.chebyshev)
    nodes = np.cos(np.pi * (np.arange(9) + 0.5) / 9)
    values = step(short.shift + short.scale * nodes)
    coefficients = np.polynomial.chebyshev.chebfit(nodes, values, 8)
    b0, b1, b2 = short.b
    factors = (*short.c, b2, b1, b0, short.sign)
    return Polynomial(short.shift, short.scale, tuple(float(c) for c in coefficients), factors)

"""The steps of an iteration as `_small_triton` reads them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iroot_kernels._polynomial import Polynomial

# 2^13: what lies a little beyond the planned intervals has room in fp16.
TOP_EXPONENT = 13
# Where the steps are looked at: the spectrum of a scaled matrix, singular ones included.
GRID = np.concatenate(([0.0], np.geomspace(2.0**-40, 1.0, 2048), np.linspace(0.0, 1.0, 512)))

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """The steps as the kernel reads them.

    Attributes:
        rows: Numbers of all steps and of all repetitions, one row each.
        first: Steps of the chain.
        again: Steps of a repetition.
        width: How far from 1 the chain leaves what it was made for.
    """

    rows: tuple[tuple[float, ...], ...]
    first: int
    again: int
    width: float


def power_scale(bound: float) -> float:
    """The power of two that takes numbers up to `bound` below 2^13."""
    if not 0.0 < bound < math.inf:
        return 1.0
    return 2.0 ** min(max(TOP_EXPONENT - math.frexp(bound)[1], -60), 60)


@lru_cache(maxsize=256)
def table(steps: tuple[Polynomial, ...], p: int, again: int, rounds: int) -> Table:
    """All rows; the scales of fp16 planes come from the values of every matrix on a grid of the spectrum."""
    order = steps + steps[len(steps) - again :] * rounds
    x, y, rows = np.ones_like(GRID), GRID, []
    with np.errstate(all="ignore"):  # where rounds drive what overflows there is no scale, and no answer
        for q in order:
            rows.append(_row(q, p, x, y))
            r = q(y)
            x, y = x * r, y * r**p
    return Table(tuple(rows), len(steps), again, _width(steps, p))


def _row(q: Polynomial, p: int, x: Array, y: Array) -> tuple[float, ...]:
    """c, 1/h, m₀, m₁, m₂; scales for x, Y, X, and the increments of q, q², q⁴."""
    m = (*q.monomials, 0.0)[:3]
    r, a = q(y), m[0]
    inner = max(float(np.abs(y * r**i).max()) for i in range(p + 1))
    powers = [float(np.abs(r**i - a**i).max()) for i in (1, 2, 4)]
    shifted = float(np.abs((y - q.center) / q.half_width).max())
    return (
        q.center,
        1 / q.half_width,
        *m,
        *(power_scale(size) for size in (shifted, inner, float(np.abs(x).max()), *powers)),
    )


def _width(steps: tuple[Polynomial, ...], p: int) -> float:
    """max |y·q(y)^p − 1| over the last step's interval; where it names none, of what the chain makes of [¼, 1]."""
    last = steps[-1]
    lo, hi = last.center - last.half_width, last.center + last.half_width
    if lo > 0:
        y = np.linspace(lo, hi, 4097)
        return float(np.abs(y * last(y) ** p - 1).max())
    y = np.linspace(0.25, 1.0, 4097)
    for q in steps:
        y = y * q(y) ** p
    return float(np.abs(y - 1).max())


@lru_cache(maxsize=256)
def on_device(table: Table, p: int, device: torch.device) -> Tensor:
    """The rows, and 2^(-r/p) for r < p."""
    numbers = [number for row in table.rows for number in row]
    return torch.tensor([*numbers, *(2.0 ** (-r / p) for r in range(p))], dtype=torch.float32).to(device)

"""Iterations by symmetric products as candidates: in which planes, from which first step, at what time and error.

What rounding does to them was measured: `rounding_cuda.json` (see `_calibrate_rounding`) has the error of X for each
way of rounding, degree of the first step, p and κ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np
from iroot_coeffs import Schedule, plan
from iroot_kernels import SYMMETRIC_DEGREES

from iroot_solve._certificate_cost import certificate_ms
from iroot_solve._cost import PASSES_PER_PRODUCT, PRODUCT_CALLS
from iroot_solve._task import MAX_KAPPA, Candidate, Task

# Of the first step. A low degree leaves small eigenvalues small, where later rounding counts, a high one rounds more.
BEGINNINGS = (2, 3, 4)
# Of the last one, acting on B by a recurrence.
ENDINGS = (*SYMMETRIC_DEGREES, 12, 16, 24, 32)
# What float32 is replaced by: all in one plane, the last step in one, none.
IN_FLOAT32 = (("fp16", 0), ("fp16x3", 1), ("fp16x3", 0))
# Of tol, for the truncation error. Here it is rounding that takes the rest, and an estimate of both above tol/2 costs a
# solve in float64; less of it costs a product.
TRUNCATION_SHARE = 0.1
# Likewise of a recorded call, for which there has to be room beside what is rounded.
RECORDED_SHARE = 0.05
# How much more a coarse last step may round than was measured: that depends on what is left for it to do.
COARSE_SCATTER = 3.0
# First steps in float64; how much more is rounded after them than was measured for the condition that they leave, or p²
# times, if that is more (an H200, κ = 1e4 … 1e6, n = 512 … 4096, p = 1, 2, 4: of log-spaced spectra 3, 4 and 7 times in
# the median, at most 6, 14 and 21, growing a little with n; of two values 5, 5, 6, at most 20, 37, 117); its least.
MOST_WIDE, WIDE_SCATTER, LEAST_LEFT = (1, 2), 5.0, 10.0


def symmetric_candidates(
    task: Task, strategy: str, name: str, low: float, high: float, kappa: float
) -> Iterator[Candidate]:
    """Every way to round, from each first step.

    Args:
        task: What is to be done.
        strategy: direct-solve or materialize-root.
        name: A precision; fp32 stands for all that `auto` may take in its place.
        low, high: The spectrum to plan for.
        kappa: The likely condition number, for the rounding errors.
    """
    ways = IN_FLOAT32 if name == "fp32" else ((name, 0),)
    for planes, coarse in ways if task.reduced else ways[-1:]:
        for first in BEGINNINGS:
            yield _candidate(task, strategy, planes, coarse, first, (low, high), kappa)
    if name == "fp32" and strategy == "materialize-root" and not task.formed:
        for first, wide in product(BEGINNINGS, MOST_WIDE):
            yield from _with_wide_steps(task, first, wide, (low, high), kappa)


def _candidate(
    task: Task, strategy: str, planes: str, coarse: int, first: int, spectrum: tuple[float, float], kappa: float
) -> Candidate:
    direct = strategy == "direct-solve"
    schedule = symmetric_steps(task, *spectrum, direct, first)
    last = schedule.steps[-1].degree
    thin = schedule.power * (len(schedule) - 1 + last) if direct else int(not task.root)
    ms = _square_ms(task, schedule, direct, planes, coarse) + task.reuse * thin * task.factor_ms()
    ms += certificate_ms(task, thin if direct else 1, len(schedule) if direct else 1, not direct)
    error = symmetric_rounding(planes, coarse, schedule.steps[0].degree, kappa, task.exponent) + schedule.error
    square = schedule.products(0.0 if direct else None)
    return Candidate(strategy, planes, schedule, square, ms, error, True, coarse)


def _with_wide_steps(
    task: Task, first: int, wide: int, spectrum: tuple[float, float], kappa: float
) -> Iterator[Candidate]:
    """The first `wide` steps in float64, if there are others, and these in two planes."""
    schedule = symmetric_steps(task, *spectrum, False, first)
    if len(schedule) <= wide:
        return
    rest = replace(schedule, steps=schedule.steps[wide:])
    whole = sum(schedule.products_of(i) for i in range(wide)) + 1  # X of the others times what these have made of it
    ms = whole * (task.ms("mm64") + PASSES_PER_PRODUCT * task.ms("pass64") + task.calls(PRODUCT_CALLS))
    ms += rest.products() * task.symmetric_ms(False) + task.reuse * int(not task.root) * task.factor_ms()
    ms += certificate_ms(task, 1, 1, True)
    error = wide_rounding(schedule, wide, kappa) + schedule.error
    square = whole + rest.products()
    yield Candidate("materialize-root", "fp16x3", schedule, square, ms, error, True, wide=wide)


def wide_rounding(schedule: Schedule, wide: int, kappa: float) -> float:
    """Error of X from rounding after `wide` steps in float64.

    What a step rounds, as a share of Y's largest eigenvalue, is κ times that of the smallest, and what the first one
    rounds is nearly all of the error. A step lifts the smallest q(0)^p times: of those that follow there is as much as
    for κ/q(0)^p, and it is of the part of X that q made large.
    """
    lifted = math.prod(float(step(0.0)) ** schedule.p for step in schedule.steps[:wide])
    left, degree = max(kappa / lifted, LEAST_LEFT), max(schedule.steps[wide].degree, BEGINNINGS[0])
    scatter = max(WIDE_SCATTER, schedule.p**2)
    return scatter * symmetric_rounding("fp16x3", 0, degree, left, schedule.exponent)


@lru_cache(maxsize=1024)
def symmetric_steps(task: Task, low: float, high: float, direct: bool, first: int) -> Schedule:
    """The cheapest schedule on [low, high] that has a form in symmetric products, from a first step of that degree."""
    kappa, of_tol = min(max(high / low, 1.0), MAX_KAPPA), RECORDED_SHARE if task.recorded else TRUNCATION_SHARE
    tol = max(of_tol * task.tol, 4e-15)
    share = min(1.0, math.ceil(16 * task.factor_ms() / task.symmetric_ms(False)) / 16) if direct else 1.0
    return _from_degree(first, kappa, tol, task.exponent, share).rescaled(high)


def _from_degree(first: int, kappa: float, tol: float, exponent: Fraction, share: float) -> Schedule:
    """A plan from a first step of that degree; a thin product takes `share` of the time of a symmetric one."""
    return plan(
        exponent.denominator,
        kappa=kappa,
        tol=tol,
        k_over_n=share,
        exponent=exponent,
        degrees=SYMMETRIC_DEGREES,
        first_degrees=(first,),
        terminal_degrees=ENDINGS if share < 1 else None,
    )


def fewest_products(exponent: Fraction, kappa: float, tol: float, share: float = 1.0) -> Schedule:
    """Of the schedules from each first degree the one with the fewest products, and of those the one that rounds least.

    Args:
        exponent: −q/s.
        kappa: Of the spectrum, in [1/κ, 1].
        tol: Of the truncation error.
        share: What a product with B takes of the time of a symmetric one; 1 for the root.
    """
    found = (_from_degree(first, kappa, tol, exponent, share) for first in BEGINNINGS)

    def cost(schedule: Schedule) -> tuple[float, float]:
        rounding = symmetric_rounding("fp16x3", 0, schedule.steps[0].degree, kappa, exponent)
        return schedule.products(share if share < 1 else None), rounding

    return min(found, key=cost)


def _square_ms(task: Task, schedule: Schedule, direct: bool, planes: str, coarse: int) -> float:
    """The products of n×n matrices, the last `coarse` steps in one plane."""
    counts = [schedule.products_of(i, 0.0 if direct else None) for i in range(len(schedule))]
    fine = 0 if planes in ("fp16", "bf16") else len(counts) - coarse
    return sum(counts[:fine]) * task.symmetric_ms(False) + sum(counts[fine:]) * task.symmetric_ms(True)


@lru_cache(maxsize=1)
def _measured() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(files("iroot_solve").joinpath("rounding_cuda.json").read_text())
    return data


def symmetric_rounding(planes: str, coarse: int, first: int, kappa: float, exponent: Fraction) -> float:
    """Error of X from rounding, interpolated; it grows like κ beyond the table. That of the next lower p
    or degree where one was not measured; that of X^q for q ≠ 1."""
    data, s = _measured(), exponent.denominator
    rows = data["errors"][f"{planes}-{coarse}" if coarse else planes]
    errors = rows[str(max(int(d) for d in rows if int(d) <= first))]
    p = max(int(p) for p in errors if int(p) <= s)
    x, y = np.log(data["kappa"]), np.log(errors[str(p)])
    at = math.log(max(kappa, 1.0))
    error = math.exp(float(np.interp(at, x, y)) + max(at - float(x[-1]), 0.0))
    return abs(exponent.numerator) * error * (COARSE_SCATTER if coarse else 1.0)

"""A fixed number of given steps, as optimizers take them: no certificate, nothing is read from the device.

Each method divides G by its Frobenius norm, so that its singular values lie in (0, 1], and moves them by
σ ↦ σ·q_1(σ²) ↦ …. Here G is scaled by a power of two and the factor f = ‖2^-g·G‖_F that is left is folded into the
first step, X·q_1(XᵀX/f²)/f: the numbers passed are not rounded.

Where symmetric products are halves, 16-bit numbers are multiplied in one plane of fp16 and held in it
(`_polar_planes`): 11 bits in every step, of which a bfloat16 result keeps 8. To a float16 result, 11 bits as well, they
add errors of the size of its own rounding times what the steps lift. float32 is multiplied in two planes, 22 bits.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from iroot_coeffs import Schedule, named
from iroot_kernels import Polynomial, Workspace, precision, quadratics
from iroot_precond import binary_exponent, scale_by_power_of_two

from iroot_solve._bridge import polynomial
from iroot_solve._polar_iteration import PolarIteration, restarted
from iroot_solve._polar_ledger import PolarLedger
from iroot_solve._polar_planes import PlaneIteration, shortened
from iroot_solve._polar_products import gram_from, halved
from iroot_solve._polar_result import PolarProblem
from iroot_solve._result import Status
from iroot_solve._scales import norm

# Singular values in [1e-3, 1], as Polar Express was published for.
NAMED_KAPPA = 1e6


def read_steps(schedule: Any, steps: int | None) -> tuple[Polynomial, ...]:
    """The polynomials of a name, a Schedule or rows (a, b, c); the last one is repeated where more are asked for.

    Raises:
        TypeError: A Schedule for another p, or steps not an int.
        ValueError: An unknown name (the message lists them), rows of another shape, steps < 1.
    """
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int)):
        raise TypeError(f"steps must be an int, not {steps!r}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps} must be ≥ 1")
    if isinstance(schedule, str):
        return _named(schedule, steps)
    if isinstance(schedule, Schedule):
        if schedule.p != 2 or schedule.power != 1 or schedule.exponent > 0:
            raise ValueError(f"schedule is for exponent {schedule.exponent}; the polar factor needs -1/2, plan(2, …)")
        found = tuple(polynomial(step) for step in schedule.rescaled(1.0))
    else:
        found = tuple(quadratics(schedule))
    if steps is None:
        return found
    return found[:steps] + found[-1:] * (steps - len(found))


@lru_cache(maxsize=64)
def _named(name: str, steps: int | None) -> tuple[Polynomial, ...]:
    return tuple(polynomial(step) for step in named(name, 2, kappa=NAMED_KAPPA, steps=steps))


def take_steps(problem: PolarProblem, steps: tuple[Polynomial, ...], ledger: PolarLedger, ws: Workspace) -> None:
    """Exactly these steps; zero stays zero, and what is not finite becomes NaN."""
    form, lengths = _form(problem, steps)
    take = _in_planes if _in_one_plane(problem) else _in_storage
    iteration = take(problem, steps, lengths, ledger, ws)
    ledger.count(iteration)
    ledger.strategy, ledger.precision, ledger.backend = form, problem.fixed, iteration.backend
    ledger.codes[:] = Status.unverified
    ledger.error[:] = ledger.defect[:] = np.nan


def _in_one_plane(problem: PolarProblem) -> bool:
    """Whether the iterates are held in the 16 bits that they are multiplied in."""
    return halved(problem.G.device, problem.fixed, problem.G.shape[-1]) and precision(problem.fixed).planes == 1


def _form(problem: PolarProblem, steps: tuple[Polynomial, ...]) -> tuple[str, tuple[int, ...]]:
    """plain or gram, and the segments."""
    (m, n), device = problem.G.shape[-2:], problem.G.device
    form = problem.strategy
    if form == "auto":
        better = halved(device, problem.fixed, n) and m > gram_from(device, problem.fixed, n) * n
        form = "gram" if better else "plain"
    if form == "plain":
        return form, (1,) * len(steps)
    lifts = [max(float(q(0.0)), 1.0) for q in steps]
    return form, shortened(lifts, problem.fixed) if _in_one_plane(problem) else restarted(lifts)


def _in_planes(
    problem: PolarProblem, steps: tuple[Polynomial, ...], lengths: tuple[int, ...], ledger: PolarLedger, ws: Workspace
) -> PlaneIteration:
    """In 16 bits, in the caller's layout."""
    wide = problem.wide
    iteration = PlaneIteration(problem.G.mT if wide else problem.G, problem.fixed, ws)
    iteration.run(steps, lengths)
    iteration.write(ledger.U.mT if wide else ledger.U)
    return iteration


def _in_storage(
    problem: PolarProblem, steps: tuple[Polynomial, ...], lengths: tuple[int, ...], ledger: PolarLedger, ws: Workspace
) -> PolarIteration:
    """In the storage dtype of the precision."""
    storage = precision(problem.fixed).storage
    G = ws.buffer("polar G", problem.G.shape, storage, problem.G.device).copy_(problem.G)
    G = scale_by_power_of_two(G, binary_exponent(G), out=G)
    size = norm(G).to(G.dtype)
    iteration = PolarIteration(G, problem.fixed, ws)
    iteration.run(steps, lengths, torch.where(size > 0, size, 1.0)[:, None, None])
    ledger.U.copy_(iteration.X)
    return iteration


def check_fixed(problem: PolarProblem, tol: float | None, rtol: float | None) -> None:
    """ValueError for what has no meaning where the steps are given."""
    for name, value in (("tol", tol), ("rtol", rtol)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r} needs schedule=None: a fixed schedule takes its steps and checks nothing"
            )
    if problem.strategy in ("eigh", "svd"):
        raise ValueError(
            f"strategy={problem.strategy!r} does not apply to a schedule; those that do: auto, plain, gram"
        )


def checked(schedule: Any, steps: int | None) -> tuple[Polynomial, ...] | None:
    """The steps, or `None` for the tolerance-controlled mode."""
    if schedule is not None:
        return read_steps(schedule, steps)
    if steps is not None:
        raise ValueError(f"steps={steps} counts the steps of a schedule: pass schedule=, e.g. 'polar-express'")
    return None

"""Quadratic schedules as plain arrays (a, b, c): q(y) = a + b y + c y^2."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ._schedule import Schedule
from ._step import Step, check_exponent, minimax, roomy

QUADRATIC_TOL = 1e-3
PRECOMPUTED_L = 0.05
PRECOMPUTED_STEPS = 4
MAX_STEPS = 64
MODES = ("auto", "tuned", "precomputed")

# minimax quadratics for x^(-1/2), chained from [0.05, 1]: errors 0.19, 4.1e-3, 4.3e-8, 7e-16
PRECOMPUTED_QUADRATIC_L005: tuple[tuple[float, float, float], ...] = (
    (4.021682729788481, -7.899396757196609, 5.063925550844226),
    (1.9126079049068503, -1.2911807047417414, 0.3791413197715224),
    (1.875017577131324, -1.2500195300039527, 0.3750019530028195),
    (1.8749956739358633, -1.2499913478340965, 0.37499567389823346),
)


def quadratic_steps(
    p: int,
    lo: float,
    hi: float,
    *,
    tol: float | None = None,
    count: int | None = None,
    safety: float = 1.0,
    final_safety: bool = True,
) -> Schedule:
    """Minimax quadratics, each on [lo, safety·hi] of the interval reached.

    They end at an error <= tol, or after `count` steps. With `final_safety` False the last step is the one
    for [lo, hi] itself: safety covers rounding of the steps before it, the last one need not pay for it.

    Raises:
        ValueError: the tolerance is out of reach, as it is when the safety itself costs more.
    """
    steps: list[Step] = []
    while len(steps) < MAX_STEPS:
        final = minimax(p, 2, *roomy(lo, hi * (safety if final_safety else 1.0), 2))
        if (count is not None and len(steps) == count - 1) or (tol is not None and final.error <= tol):
            return Schedule(p, (*steps, final))
        steps.append(minimax(p, 2, *roomy(lo, hi * safety, 2)))
        lo, hi = steps[-1].interval_after
    raise ValueError(f"coeff_safety={safety:g} leaves an error of {final.error:.1e} > {tol}: lower it")


def _validated(l_target: float, coeff_mode: str, coeff_safety: float, p_val: int) -> None:
    check_exponent(p_val)
    if isinstance(p_val, Fraction):
        raise TypeError("p_val must be an int; other powers go through a schedule's exponent")
    if coeff_mode not in MODES:
        raise ValueError(f"coeff_mode must be one of {MODES}, got {coeff_mode!r}")
    if not (isinstance(l_target, (int, float)) and 1e-14 <= l_target < 1):
        raise ValueError(f"l_target must be in [1e-14, 1), got {l_target!r}")
    if not (isinstance(coeff_safety, (int, float)) and 1 <= coeff_safety <= 2):
        raise ValueError(f"coeff_safety must be in [1, 2], got {coeff_safety!r}")


def build_pe_schedules(
    l_target: float = PRECOMPUTED_L,
    coeff_mode: str = "auto",
    coeff_seed: int = 0,
    coeff_safety: float = 1.0,
    coeff_no_final_safety: bool = False,
    p_val: int = 2,
) -> tuple[NDArray[np.float64], str]:
    """Quadratic steps for A^(-1/p) with the spectrum of A in [l_target, 1].

    Args:
        l_target: lower end of the spectrum, 1e-14 <= l_target < 1.
        coeff_mode: "auto" or "tuned": as many minimax quadratics as an error of 1e-3 takes; "precomputed":
            the four steps for l = 0.05, whatever l_target is (p = 2: `PRECOMPUTED_QUADRATIC_L005`).
        coeff_seed: accepted and unused: nothing is random.
        coeff_safety: s in [1, 2]: each step is the best one on [lo, s·hi], so that a spectrum up to s times
            the expected end is still contracted.
        coeff_no_final_safety: the last step does without it.
        p_val: order p, int >= 1.

    Returns:
        Rows (a, b, c) of q(y) = a + b y + c y^2, shape (T, 3), float64; and one line that says what they are.

    Raises:
        TypeError, ValueError: an argument out of range, by name.
    """
    _validated(l_target, coeff_mode, coeff_safety, p_val)
    del coeff_seed
    precomputed = coeff_mode == "precomputed"
    if precomputed and p_val == 2 and coeff_safety == 1:
        steps = np.array(PRECOMPUTED_QUADRATIC_L005)
        return steps, f"precomputed minimax quadratics for p=2, l={PRECOMPUTED_L:g}: {len(steps)} steps"
    schedule = quadratic_steps(
        p_val,
        PRECOMPUTED_L if precomputed else float(l_target),
        1.0,
        tol=None if precomputed else QUADRATIC_TOL,
        count=PRECOMPUTED_STEPS if precomputed else None,
        safety=float(coeff_safety),
        final_safety=not coeff_no_final_safety,
    )
    safety = "" if coeff_safety == 1 else f", safety {coeff_safety:g}"
    rows = np.array([_three(step) for step in schedule])
    return rows, f"{coeff_mode} minimax quadratics{safety}: {schedule}"


def _three(step: Step) -> tuple[float, float, float]:
    a, b, c = step.monomial
    return a, b, c

"""What a certificate costs."""

from __future__ import annotations

from iroot_solve._certificate import orders, probe_count
from iroot_solve._cost import CERTIFIED_CALLS, THIN_CALLS
from iroot_solve._task import Task

# The certificate of an iteration, measured, over its products and conversions: norms, sums, a few Lanczos steps.
CERTIFICATE_FACTOR = 1.8


def certified_ms(task: Task, bits: int) -> float:
    """One thin product of a certificate: the calibration's has 16 columns."""
    return probe_count(task.exponent.denominator) / 16 * task.ms(f"skinny{bits}")


def certificate_ms(task: Task, products: int, factors: int, ends: bool) -> float:
    """The certificate of an iteration: X applied to thin matrices, A likewise, and matrices widened to float64.

    Args:
        task: Shapes and exponent.
        products: Thin products of one application of X.
        factors: Matrices that X is made of.
        ends: Whether E_1 and E_s are looked at.
    """
    s, found = task.exponent.denominator, orders(task.exponent.denominator, ends)
    # How often X is applied, once more for its norm where that is not known, and for how many probes in all.
    applied = s - found[-1] + found[0] + (0 if ends else 1)
    probes = s - found[-1] + found[0] * (1 + len(found)) / 2 + (0 if ends else 1)
    thin = certified_ms(task, 64)
    widened = (1 if ends else applied * factors) + 1
    ms = (probes * products + len(found)) * thin + widened * task.ms("pass64")
    return CERTIFICATE_FACTOR * ms + task.calls(CERTIFIED_CALLS + applied * products * THIN_CALLS)

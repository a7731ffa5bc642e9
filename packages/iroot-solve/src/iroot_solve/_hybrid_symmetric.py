"""A⁻¹·B by steps and corrections as a candidate where there are symmetric products: planes, stop, X formed or not.

With p = 1 a step of degree 1 takes one product, of Y with itself, and one with k columns. What the planes round is part
of what a correction leaves of an error e. ρ is the error of X over X, as it was measured (`rounding_cuda.json`):

- An error δ in an early Y makes one of A⁻¹·δ·e: the share ‖δ‖_F·‖A⁻¹‖_F/n of e whatever e is, if δ is spread over all
  eigenvectors, and that is what ρ is, too. So are the thin products: what they round, they round of the vector at hand.
  Acting on columns ε + 4ρ is planned for (1.1 to 4.7 times the ρ of the same matrix was seen for log-spaced, power-law
  and clustered spectra and for a lone small eigenvalue, κ = 10 … 10⁴, n = 128 under the interpreter).
- A late product rounds X by a share of ‖X‖ in all directions, Δ, and Δ·A·e is that share of ‖A⁻¹‖·‖A‖ = κ: invisible
  in ρ, and in Z before the first correction. A formed X leaves up to ε + ρ·κ/2, so that in one plane it is none from
  κ = 10³ on, and in two planes one where its launches are fewer.

Residuals are in float64. In float32 one is wrong by about u·‖A‖·‖Z‖, which X carries into Z as up to κ·u: at κ = 10³
that is 6e-5, above half of the usual tolerance, and at κ = 10² it would save no more than a conversion of A and half of
what a residual reads, each less than a product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from iroot_coeffs import Schedule, plan

from iroot_solve._cost import CERTIFIED_CALLS
from iroot_solve._hybrid import HybridSchedule, corrections_for
from iroot_solve._symmetric import symmetric_rounding
from iroot_solve._task import COLUMNS, MAX_KAPPA, TRUNCATION_SHARE, Candidate, Task

STOPS = (0.3, 0.1, 0.03, 0.01)
# A correction that is predicted to leave more than this may leave all of it.
MOST_LEFT = 0.3
# What rounding leaves of an error, over ρ, and where X is formed over ρ·κ.
LEFT, FORMED_LEFT = 4.0, 0.5
ONE_PLANE = ("fp16", "bf16")
# Degrees; a step with X formed takes two products more than a polynomial does, one without takes one more.
BODY, FORMED_BEGINNINGS, BEGINNINGS, ENDINGS = (1, 2, 3, 4), (2, 3, 4), (1, 2), (1, 2, 3, 4, 8, 12, 16)
# Torch calls: of a correction by an X that is there, and by its factors, which scales what it rounds.
FORMED_CALLS, CALLS = 5, 12
# Applications of X by the certificate: to what is left, and, where X is not there to be summed, for its norm.
FORMED_PROBES, PROBES = 1, 2


def hybrid_candidates(task: Task, name: str, low: float, high: float, kappa: float) -> Iterator[Candidate]:
    """The cheapest stop for each kind of planes, without X and, in two of them, with it.

    Args:
        task: What is to be done.
        name: A precision; fp32 stands for all that `auto` may take in its place.
        low, high: The spectrum to plan for.
        kappa: The likely condition number, for the rounding errors.
    """
    ways = ("fp16", "fp16x3") if name == "fp32" else (name,)
    # A recorded call has no ladder that could come back here: its corrections are planned for what one plane leaves.
    for planes in ways if task.reduced or task.recorded else ways[-1:]:
        for formed in (False,) if planes in ONE_PLANE else (False, True):
            found = [_candidate(task, planes, formed, stop, (low, high), kappa) for stop in STOPS]
            yield min(
                found, key=lambda c: (not task.meets(c.error), c.milliseconds if task.meets(c.error) else c.error)
            )


def _candidate(
    task: Task, planes: str, formed: bool, stop: float, spectrum: tuple[float, float], kappa: float
) -> Candidate:
    low, high = spectrum
    ratio = min(max(high / low, 1.0), MAX_KAPPA)
    share = 1.0 if formed else _share(task, planes, stop)
    steps = _steps(ratio, stop, share, formed).rescaled(high)
    rounding = (FORMED_LEFT * kappa if formed else LEFT) * symmetric_rounding(
        planes, 0, steps.steps[0].degree, kappa, task.exponent
    )
    left, tol = steps.error + rounding, max(TRUNCATION_SHARE * task.tol, 4e-15)
    corrections = corrections_for(min(left, MOST_LEFT), tol)
    schedule = HybridSchedule(steps, corrections, formed, rounding)
    error = schedule.error + kappa * 2.0**-53 if left <= MOST_LEFT else max(left, task.tol)
    ms = task.reuse * hybrid_ms(task, schedule, planes)  # nothing is kept for the next right-hand side
    return Candidate("hybrid-pe-nsrc", planes, schedule, schedule.products(task.k / task.n), ms, error, True)


@lru_cache(maxsize=1024)
def _steps(kappa: float, stop: float, share: float, formed: bool) -> Schedule:
    """The cheapest steps on [1/κ, 1]; a thin product, as often as X will be applied, takes `share` of a square one."""
    return plan(
        1,
        kappa=kappa,
        tol=stop,
        k_over_n=share,
        degrees=BODY,
        first_degrees=FORMED_BEGINNINGS if formed else BEGINNINGS,
        terminal_degrees=None if formed else ENDINGS,
    )


def _share(task: Task, planes: str, stop: float) -> float:
    """Of all thin products of one factor in the time of a square one, in sixteenths, so that plans repeat."""
    applications = corrections_for(stop, TRUNCATION_SHARE * task.tol) + 1 + PROBES
    one = planes in ONE_PLANE
    share = applications * task.factor_ms(one) / task.symmetric_ms(one)
    return min(15, math.ceil(16 * share)) / 16


def hybrid_ms(task: Task, schedule: HybridSchedule, planes: str) -> float:
    """Products, applications of X and residuals, those of the certificate among them."""
    m, formed = schedule.corrections, schedule.formed
    applied = _reading_ms(task, 32) if formed else schedule.factors * task.factor_ms(planes in ONE_PLANE)
    ms = schedule.steps.products(None if formed else 0.0) * task.symmetric_ms(planes in ONE_PLANE)
    ms += (m + 1 + (FORMED_PROBES if formed else PROBES)) * applied
    ms += (m + 1) * _reading_ms(task, 64) + task.ms("pass64")
    return ms + task.calls(CERTIFIED_CALLS + (m + 1) * (FORMED_CALLS if formed else CALLS))


def _reading_ms(task: Task, bits: int) -> float:
    """A matrix times k columns: it is read once for 64 of them."""
    return task.ms(f"skinny{bits}") * math.ceil(task.k / COLUMNS)

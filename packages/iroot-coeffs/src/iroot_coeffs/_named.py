"""Schedules from the literature, with the range each of their steps provably has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._schedule import Schedule
from ._step import Step, minimax, roomy

Coefficients = tuple[float, ...]

MAX_STEPS = 200


@dataclass(frozen=True, slots=True)
class NamedSchedule:
    """Where a schedule comes from and how its polynomials are made.

    Attributes:
        name: key in `NAMED`.
        source: publication.
        note: what it is, and what is changed against the source.
        orders: the p it exists for; empty: every p >= 1.
        steps: number of steps by default; None: as many as the tolerance takes.
        polynomial: (index, p) -> coefficients in powers of y; None: minimax of degree 1 on the interval.
    """

    name: str
    source: str
    note: str
    orders: tuple[int, ...]
    steps: int | None
    polynomial: Callable[[int, int], Coefficients] | None


def _newton(_: int, p: int) -> Coefficients:
    return (p + 1) / p, -1 / p


def _newton_schulz_5(_: int, p: int) -> Coefficients:
    return 15 / 8, -10 / 8, 3 / 8


def _muon(_: int, p: int) -> Coefficients:
    return MUON


def _polar_express(index: int, p: int) -> Coefficients:
    a, b, c = POLAR_EXPRESS[min(index, len(POLAR_EXPRESS) - 1)]
    s = POLAR_EXPRESS_SAFETY if index < len(POLAR_EXPRESS) - 1 else 1.0
    return a / s, b / s**3, c / s**5


MUON = (3.4445, -4.7750, 2.0315)

# odd polynomials a x + b x^3 + c x^5 as published, before the safety factor
POLAR_EXPRESS: tuple[tuple[float, float, float], ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
POLAR_EXPRESS_SAFETY = 1.01

NAMED: dict[str, NamedSchedule] = {
    entry.name: entry
    for entry in (
        NamedSchedule(
            name="newton",
            source="Guo & Higham, A Schur-Newton method for the matrix pth root, SIMAX 28 (2006), eq. (1.2)",
            note="q(y) = ((p + 1) - y)/p, the same linear step throughout; Newton-Schulz for p = 1 and p = 2",
            orders=(),
            steps=None,
            polynomial=_newton,
        ),
        NamedSchedule(
            name="newton-schulz",
            source="Higham, Functions of Matrices (2008), §5.3, eq. (5.22)",
            note="q(y) = (3 - y)/2",
            orders=(2,),
            steps=None,
            polynomial=_newton,
        ),
        NamedSchedule(
            name="newton-schulz-5",
            source="Kenney & Laub, Rational iterative methods for the matrix sign function, SIMAX 12 (1991)",
            note="q(y) = (15 - 10 y + 3 y^2)/8, the Padé [2/0] member",
            orders=(2,),
            steps=None,
            polynomial=_newton_schulz_5,
        ),
        NamedSchedule(
            name="muon",
            source="Jordan et al., Muon: an optimizer for hidden layers in neural networks (2024)",
            note="slope at 0 as large as possible; does not converge to 1, so its error stays about 0.3",
            orders=(2,),
            steps=5,
            polynomial=_muon,
        ),
        NamedSchedule(
            name="polar-express",
            source="Amsel, Persson, Musco & Gower, The Polar Express, arXiv:2505.16932, Implementation 1",
            note="minimax quintics for singular values in [1e-3, 1], each but the last divided in its "
            "argument by the safety factor 1.01, as published; the last is repeated",
            orders=(2,),
            steps=8,
            polynomial=_polar_express,
        ),
        NamedSchedule(
            name="cans",
            source="Grishina, Smirnov & Rakhuba, Accelerating Newton-Schulz iteration for orthogonalization "
            "via Chebyshev-type polynomials, arXiv:2506.10935",
            note="the optimal odd cubic on each interval reached, that is the minimax step of degree 1",
            orders=(2,),
            steps=10,
            polynomial=None,
        ),
    )
}


def named(name: str, p: int = 2, *, kappa: float = 1e4, steps: int | None = None, tol: float = 1e-3) -> Schedule:
    """A schedule from the literature for a spectrum in [1/kappa, 1], with proved ranges.

    Args:
        name: a key of `NAMED`.
        p: order; most exist for p = 2 only.
        kappa: hi/lo of the spectrum.
        steps: number of steps; default: the published one, else as many as `tol` takes.
        tol: error at which a schedule without a published length ends.

    Raises:
        ValueError: unknown name, an order the schedule does not exist for, a tolerance out of reach.
    """
    if name not in NAMED:
        raise ValueError(f"named: unknown schedule {name!r}, known are {', '.join(NAMED)}")
    entry = NAMED[name]
    if entry.orders and p not in entry.orders:
        raise ValueError(f"named: {name} exists for p in {entry.orders}, got {p}")
    count = entry.steps if steps is None else steps
    if count is not None and count < 1:
        raise ValueError(f"named: steps must be >= 1, got {count}")
    return Schedule(p, _chain(entry, p, 1 / kappa, count, tol))


def _chain(entry: NamedSchedule, p: int, lo: float, count: int | None, tol: float) -> tuple[Step, ...]:
    steps: list[Step] = []
    hi = 1.0
    for index in range(MAX_STEPS if count is None else count):
        if entry.polynomial is None:
            step = minimax(p, 1, *roomy(lo, hi, 1))
        else:
            step = Step.of_polynomial(p, entry.polynomial(index, p), lo, hi)
        steps.append(step)
        if count is None and step.error <= tol:
            return tuple(steps)
        lo, hi = step.interval_after
    if count is None:
        raise ValueError(f"named: {entry.name} has error {steps[-1].error:.1e} after {MAX_STEPS} steps")
    return tuple(steps)

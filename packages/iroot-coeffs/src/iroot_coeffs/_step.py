"""One step of an inverse-root iteration: a polynomial q on [lo, hi] with the proved range of q(y) y^(1/p)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _degree8, _minimax

SMALLEST, LARGEST = 1e-100, 1e100
MAX_RATIO = 1e15
MAX_DEGREE = 256
UNIT = 2.0**-53
CHAIN_MARGIN = 1e-12

Exponent = int | Fraction


@dataclass(frozen=True, slots=True)
class Step:
    """A polynomial q with low <= q(y) y^(1/p) <= high on [lo, hi].

    Coupled iterations map the spectrum by y -> y q(y)^p and the root by X -> X q(Y).

    Attributes:
        p: int >= 1 or a positive Fraction; q approximates y^(-1/p).
        lo, hi: interval the range holds on.
        chebyshev: coefficients of T_k((2y - lo - hi)/(hi - lo)), k = 0..degree.
        low, high: proved range, rounded outwards; `low` has relative accuracy when it is tiny.
        error_floor: no polynomial of this degree has an error below it (0: nothing known).
        gap_ceiling: no polynomial of this degree has 1 - error above it (1: nothing known).
    """

    p: Exponent
    lo: float
    hi: float
    chebyshev: tuple[float, ...]
    low: float
    high: float
    error_floor: float = 0.0
    gap_ceiling: float = 1.0

    @property
    def degree(self) -> int:
        """Degree of q."""
        return len(self.chebyshev) - 1

    @property
    def error(self) -> float:
        """Proved bound of |q(y) y^(1/p) - 1| on [lo, hi]."""
        return max(1 - self.low, self.high - 1)

    @property
    def gap(self) -> float:
        """1 - error; for a minimax step with relative accuracy, `low` being 1 - error = 2 - `high` then."""
        return self.low if self.low < 0.5 else 1 - self.error

    @property
    def center(self) -> float:
        """Middle of [lo, hi]."""
        return self.lo + (self.hi - self.lo) / 2

    @property
    def half_width(self) -> float:
        """Half the length of [lo, hi]."""
        return (self.hi - self.lo) / 2

    @property
    def center_value(self) -> float:
        """q(center): what remains of q when q(Y) is written as q(center)·I plus an increment."""
        return math.fsum(c * (0, 1, 0, -1)[(k + 1) % 4] for k, c in enumerate(self.chebyshev))

    @property
    def image(self) -> tuple[float, float]:
        """(low^p, high^p), rounded outwards: contains y q(y)^p for every y of [lo, hi]."""
        exponent = float(self.p)
        return self.low**exponent * (1 - 4 * UNIT), self.high**exponent * (1 + 4 * UNIT)

    @property
    def interval_after(self) -> tuple[float, float]:
        """The image widened by 1e-12: the interval for the next step, with room for a later `rescaled`."""
        low, high = self.image
        return low * (1 - CHAIN_MARGIN), high * (1 + CHAIN_MARGIN)

    @property
    def monomial(self) -> tuple[float, ...]:
        """Coefficients of q in powers of y, each correctly rounded; ill-conditioned beyond degree 8."""
        center = (Fraction(self.lo) + Fraction(self.hi)) / 2
        half = (Fraction(self.hi) - Fraction(self.lo)) / 2
        in_t = _chebyshev_to_powers([Fraction(c) for c in self.chebyshev])
        return tuple(float(c) for c in _compose(in_t, -center / half, 1 / half))

    def shifted(self) -> tuple[float, float, tuple[float, ...]]:
        """(center, half_width, coefficients of q in powers of x = (y - center)/half_width).

        Well conditioned up to degree 8: x lies in [-1, 1].
        """
        in_t = _chebyshev_to_powers([Fraction(c) for c in self.chebyshev])
        return self.center, self.half_width, tuple(float(c) for c in in_t)

    def degree8(self) -> _degree8.Degree8 | None:
        """The form of q in three products, for degree 8; None where it has no stable real solution."""
        return _degree8.factored(self.chebyshev, 1 / Fraction(self.p), self.lo, self.hi)

    def __call__(self, y: ArrayLike) -> NDArray[np.float64]:
        """q(y), elementwise, in float64 (Clenshaw)."""
        # from the left end, so that t is -1 at lo however small lo is
        t = (np.asarray(y, dtype=np.float64) - self.lo) / self.half_width - 1
        return np.asarray(np.polynomial.chebyshev.chebval(t, np.array(self.chebyshev)))

    def rescaled(self, factor: float) -> Step:
        """The same step for [lo·factor, hi·factor]: q(y/factor) factor^(-1/p).

        The coefficients are rounded again, by at most `blur` in q; raising c_0 by as much keeps `low` to 8 u
        relative and costs 2·blur in `high`. Constant cost.
        """
        _check_positive("factor", factor)
        lo, hi = self.lo * factor, self.hi * factor
        check_interval(lo, hi)
        a = float(1 / Fraction(self.p))
        first, *others = (c * factor**-a for c in self.chebyshev)
        blur = 2 * UNIT * math.fsum(map(abs, (first, *others)))
        high = self.high * (1 + 8 * UNIT) + 2 * blur * hi**a
        return Step(
            p=self.p,
            lo=lo,
            hi=hi,
            chebyshev=(first + blur, *others),
            low=self.low * (1 - 8 * UNIT) if self.low > 0 else self.low * (1 + 8 * UNIT),
            high=high,
            error_floor=self.error_floor,
            gap_ceiling=self.gap_ceiling,
        )

    @classmethod
    def of_polynomial(cls, p: Exponent, monomial: Sequence[float], lo: float, hi: float) -> Step:
        """Any polynomial, by its coefficients in powers of y, with its proved range on [lo, hi].

        The range is that of the exact polynomial; `chebyshev` holds its coefficients correctly rounded.

        Raises:
            ValueError: no coefficients, or an interval that is not 0 < lo < hi within [1e-100, 1e100].
        """
        a = check_exponent(p)
        check_interval(lo, hi)
        if len(monomial) == 0 or len(monomial) > MAX_DEGREE + 1 or not np.all(np.isfinite(monomial)):
            raise ValueError(f"monomial: 1 to {MAX_DEGREE + 1} finite numbers needed, got {monomial!r}")
        center = (Fraction(lo) + Fraction(hi)) / 2
        half = (Fraction(hi) - Fraction(lo)) / 2
        exact = _powers_to_chebyshev(_compose([Fraction(float(c)) for c in monomial], center, half))
        low, high = _minimax.proved_range(exact, a, lo, hi)
        return cls(p, lo, hi, tuple(float(c) for c in exact), low, high)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON."""
        return {
            "p": str(self.p),
            "lo": self.lo,
            "hi": self.hi,
            "chebyshev": list(self.chebyshev),
            "low": self.low,
            "high": self.high,
            "error_floor": self.error_floor,
            "gap_ceiling": self.gap_ceiling,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Step:
        """Inverse of `to_dict`."""
        names = ("lo", "hi", "low", "high", "error_floor", "gap_ceiling")
        numbers = {name: float(data[name]) for name in names}
        p = Fraction(data["p"])
        exponent: Exponent = int(p) if p.denominator == 1 and "/" not in data["p"] else p
        return cls(p=exponent, chebyshev=tuple(float(c) for c in data["chebyshev"]), **numbers)


def _chebyshev_to_powers(c: list[Fraction]) -> list[Fraction]:
    """Coefficients in powers of t by Clenshaw's recurrence on polynomials, exactly."""
    b1: list[Fraction] = []
    b2: list[Fraction] = []
    for value in reversed(c[1:]):
        b1, b2 = _plus([value], _plus([Fraction(0), *(2 * x for x in b1)], [-x for x in b2])), b1
    return _plus([c[0]], _plus([Fraction(0), *b1], [-x for x in b2]))


def _plus(x: list[Fraction], y: list[Fraction]) -> list[Fraction]:
    size = max(len(x), len(y))
    zero = Fraction(0)
    return [(x[i] if i < len(x) else zero) + (y[i] if i < len(y) else zero) for i in range(size)]


def _powers_to_chebyshev(c: list[Fraction]) -> list[Fraction]:
    """Chebyshev coefficients of sum c_k t^k by Horner, with t T_k = (T_{k+1} + T_{|k-1|})/2, exactly."""
    result: list[Fraction] = [Fraction(0)]
    for value in reversed(c):
        shifted = [Fraction(0)] * (len(result) + 1)
        for k, x in enumerate(result):
            shifted[k + 1] += x / 2
            shifted[abs(k - 1)] += x / 2
        result = _plus([value], shifted)
    return result[: len(c)]


def _compose(c: list[Fraction], shift: Fraction, scale: Fraction) -> list[Fraction]:
    """Coefficients in x of sum c_k (shift + scale x)^k, by Horner, exactly."""
    result: list[Fraction] = [Fraction(0)]
    for value in reversed(c):
        moved, stretched = [shift * x for x in result], [scale * x for x in result]
        result = _plus([value], _plus(moved, [Fraction(0), *stretched]))
    return result[: len(c)]


def _check_positive(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")


def check_exponent(p: Exponent) -> Fraction:
    """a = 1/p, or an error that names p."""
    if isinstance(p, bool) or not isinstance(p, (int, Fraction)):
        raise TypeError(f"p must be an int or a fractions.Fraction, got {type(p).__name__}")
    if p <= 0 or (isinstance(p, int) and p < 1):
        raise ValueError(f"p must be an integer >= 1 or a positive Fraction, got {p}")
    return 1 / Fraction(p)


def check_interval(lo: float, hi: float) -> None:
    """0 < lo < hi, within what the proofs cover."""
    _check_positive("lo", lo)
    _check_positive("hi", hi)
    if not lo < hi:
        raise ValueError(f"lo must be below hi, got [{lo}, {hi}]")
    if lo < SMALLEST or hi > LARGEST:
        raise ValueError(f"[{lo}, {hi}] leaves [{SMALLEST}, {LARGEST}]: scale the problem first")
    if hi / lo > MAX_RATIO:
        raise ValueError(f"hi/lo = {hi / lo:.3g} exceeds {MAX_RATIO:g}: float64 cannot resolve it")


def roomy(lo: float, hi: float, degree: int) -> tuple[float, float]:
    """[lo, hi], widened to a relative half width of 2ρ/(1 + ρ²), ρ = u^(1/(d+1)), if it is narrower.

    The minimax error falls like ρ^(d+1), so it is still about u there; on a narrower interval the high
    coefficients would be made of rounding errors, and do harm to an eigenvalue that rounding pushed outside.
    """
    rate = UNIT ** (1 / (degree + 1))
    width = 2 * rate / (1 + rate**2)
    center = lo + (hi - lo) / 2
    return min(lo, center * (1 - width)), max(hi, center * (1 + width))


def minimax(p: Exponent, degree: int, lo: float, hi: float) -> Step:
    """Best relative approximation of y^(-1/p) on [lo, hi]: min over q of max |q(y) y^(1/p) - 1|.

    Both `error` and `gap` = 1 - error are within 1e-3 of the optimum for error >= 1e-12 and degree <= 8;
    below, the float64 coefficients themselves are only good to a few u: `error` is still an upper bound, at
    most the optimum plus a few u. `error_floor` and `gap_ceiling` bound the optimum from the other side.

    Args:
        p: int >= 1, or a positive Fraction (Fraction(4, 3) means y^(-3/4)).
        degree: 1 <= degree <= 256.
        lo: lower end of the interval, > 0.
        hi: upper end, hi/lo <= 1e15.

    Raises:
        TypeError, ValueError: an argument out of range, by name.

    Source: Remez exchange on the exact extrema, `_minimax.py`.
    """
    a = check_exponent(p)
    check_interval(lo, hi)
    if isinstance(degree, bool) or not isinstance(degree, (int, np.integer)):
        raise TypeError(f"degree must be an int, got {type(degree).__name__}")
    if not 1 <= degree <= MAX_DEGREE:
        raise ValueError(f"degree must be in 1..{MAX_DEGREE}, got {degree}")
    lo, hi = float(lo), float(hi)
    found = _minimax.best(a, int(degree), lo, hi)
    return Step(p, lo, hi, found.chebyshev, found.low, found.high, found.error_floor, found.gap_ceiling)

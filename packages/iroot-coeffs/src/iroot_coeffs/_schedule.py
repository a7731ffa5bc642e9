"""A chain of steps whose intervals fit into one another, and what it costs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ._products import LARGEST_BUILT, apply_products, build_products, inner_products, terminal_products
from ._step import Step

FORMAT = "iroot-schedule-1"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps q_1, ..., q_T for A^(-1/p): Y <- Y q(Y)^p from Y = A, X <- X q(Y) from X = I (or X = B).

    Attributes:
        p: order of the iteration, int >= 1.
        steps: each step's interval contains the image of the one before; checked on construction.
        exponent: power of A that is wanted, a multiple of 1/p; -1/p unless said otherwise.

    Raises:
        ValueError: no steps, a step of another p, or intervals that do not chain.
    """

    p: int
    steps: tuple[Step, ...]
    exponent: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if isinstance(self.p, bool) or not isinstance(self.p, int) or self.p < 1:
            raise ValueError(f"p must be an integer >= 1, got {self.p!r}")
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.exponent:
            object.__setattr__(self, "exponent", Fraction(-1, self.p))
        applied_power(self.p, self.exponent)
        _check_chain(self.p, self.steps)

    @property
    def lo(self) -> float:
        """Lower end of the spectrum the proof covers."""
        return self.steps[0].lo

    @property
    def hi(self) -> float:
        """Upper end of the spectrum the proof covers."""
        return self.steps[0].hi

    @property
    def kappa(self) -> float:
        """hi/lo."""
        return self.hi / self.lo

    @property
    def power(self) -> int:
        """r such that X <- X q(Y)^r gives the exponent (from X = A for positive exponents)."""
        return applied_power(self.p, self.exponent)

    @property
    def error(self) -> float:
        """Proved bound of |x^(1/p) prod q - 1| over the spectrum: the last step's error."""
        return self.steps[-1].error

    def error_of(self, power: int) -> float:
        """(1 + error)^power - 1: the relative error of X^power."""
        return math.expm1(power * math.log1p(self.error))

    @property
    def final_error(self) -> float:
        """Proved relative error of A^exponent: `error_of(power)`."""
        return self.error_of(self.power)

    def products(self, k_over_n: float | None = None, power: int | None = None) -> float:
        """Matrix products n×n×n the schedule takes.

        Args:
            k_over_n: columns of B over n, when X acts on B; None: root form.
            power: factors of q applied to X in each step; None: `self.power`.
        """
        applied = self.power if power is None else power
        return sum(self.products_of(i, k_over_n, applied) for i in range(len(self.steps)))

    def products_of(self, index: int, k_over_n: float | None = None, power: int | None = None) -> float:
        """Products of one step (see `products`)."""
        applied = self.power if power is None else power
        index = range(len(self.steps))[index]
        step = self.steps[index]
        factored = step.degree == 8 and step.degree8() is not None
        first = index == 0 and self.exponent < 0
        if index == len(self.steps) - 1:
            return terminal_products(step.degree, applied, k_over_n, first=first, factored=factored)
        return inner_products(self.p, step.degree, applied, k_over_n, first=first, factored=factored)

    def terminal_is_skinny(self, k_over_n: float, power: int | None = None) -> bool:
        """Whether the last step is taken by degree·power skinny products: where that is cheaper than forming q(Y), and
        where its degree is too high for powers of Y."""
        applied = self.power if power is None else power
        last = self.steps[-1]
        if last.degree > LARGEST_BUILT:
            return True
        built = build_products(last.degree, factored=last.degree == 8 and last.degree8() is not None)
        whole = built + apply_products(applied, k_over_n, first=False)
        return last.degree * applied * k_over_n < whole

    def rescaled(self, hi: float) -> Schedule:
        """The same schedule for spectra in [hi/κ, hi]: only the first step changes."""
        first = self.steps[0].rescaled(hi / self.hi)
        return Schedule(self.p, (first, *self.steps[1:]), self.exponent)

    def then(self, other: Schedule) -> Schedule:
        """This schedule followed by another one, whose interval must contain the image of this one.

        Raises:
            ValueError: different p or exponent, or intervals that do not chain.
        """
        if (other.p, other.exponent) != (self.p, self.exponent):
            raise ValueError(f"cannot join schedules for {self.exponent} (p={self.p}) and {other.exponent}")
        return Schedule(self.p, self.steps + other.steps, self.exponent)

    def __add__(self, other: Schedule) -> Schedule:
        return self.then(other)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __str__(self) -> str:
        degrees = "-".join(str(step.degree) for step in self.steps)
        power = "" if self.exponent == Fraction(-1, self.p) else f", exponent {self.exponent}"
        quality = f"ε ≤ {self.final_error:.1e}, {self.products():g} products"
        return f"p={self.p}{power}, κ={self.kappa:.3g}: degrees {degrees}, {quality}"

    def to_json(self) -> str:
        """A JSON object; `from_json` gives back an equal schedule."""
        data = {
            "format": FORMAT,
            "p": self.p,
            "exponent": str(self.exponent),
            "steps": [step.to_dict() for step in self.steps],
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Inverse of `to_json`.

        Raises:
            ValueError: not such an object, or steps that do not chain.
        """
        data: Any = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"from_json: expected an object with format {FORMAT!r}")
        steps = tuple(Step.from_dict(step) for step in data["steps"])
        return cls(int(data["p"]), steps, Fraction(data["exponent"]))


def applied_power(p: int, exponent: Fraction) -> int:
    """r >= 1 with A^exponent = (A^(-1/p))^r, or = A (A^(-1/p))^r for 0 < exponent < 1.

    Raises:
        ValueError: an exponent that is no multiple of 1/p, is 0, or is >= 1.
    """
    count = p * exponent
    if count.denominator != 1:
        raise ValueError(f"exponent {exponent} is no multiple of 1/{p}: use p={exponent.denominator}")
    if count == 0 or count >= p:
        raise ValueError(f"exponent must be negative or in (0, 1), got {exponent}: multiply by A for the rest")
    return int(-count) if count < 0 else int(p - count)


def _check_chain(p: int, steps: tuple[Step, ...]) -> None:
    if not steps:
        raise ValueError("a Schedule needs at least one step")
    for i, step in enumerate(steps):
        if step.p != p:
            raise ValueError(f"step {i} is for p={step.p}, the schedule for p={p}")
        if i == 0:
            continue
        if steps[i - 1].low <= 0:
            raise ValueError(f"step {i - 1} is not positive on its interval: nothing can follow it")
        low, high = steps[i - 1].image
        if not (step.lo <= low and high <= step.hi):
            reached = f"[{low}, {high}]"
            raise ValueError(f"step {i} covers [{step.lo}, {step.hi}], but step {i - 1} leads to {reached}")

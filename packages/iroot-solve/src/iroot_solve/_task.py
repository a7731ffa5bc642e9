"""What decides the choice of a strategy, and what a choice is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from iroot_coeffs import Schedule
from iroot_kernels import precision

from iroot_solve._cost import calls_ms, milliseconds
from iroot_solve._hybrid import HybridSchedule

# Milliseconds of a small kernel in a graph: 2 to 2.3 µs on an H200 (a certificate of 125 of them, n = 1024).
GRAPH_CALL = 2.2e-3
# Torch calls that take the host as long as the launch of a product.
LAUNCH_CALLS = 1.6
# Columns of a thin product, and what it takes of a term of a recurrence with 80.
COLUMNS, THIN_SHARE = 64, 0.65
SUMS = ("chebyshev", "cayley")
MAX_KAPPA = 1e14
# Of tol, for the truncation error: most is left to rounding and its estimate.
TRUNCATION_SHARE = 0.25
# All matrices are padded to 64 × 64: of much smaller ones full products are cheaper, and take less memory.
SMALLEST_SYMMETRIC = 32


@dataclass(frozen=True)
class Task:
    """What decides the choice.

    Attributes:
        n, k, batch: Shapes; k = n with `root` for the root itself.
        exponent: −q/s or q/s.
        tol: Target of the relative error.
        root: The root itself is wanted.
        reuse: How often the root will be applied to a right-hand side like this one.
        precisions: Precisions allowed, in the order of preference at equal cost.
        device: Its type.
        symmetric: Symmetric products run there.
        reduced: Whether `auto` may round more than float32 does, where that is enough.
        recorded: A graph repeats the calls: they are kernels, and the host is not there.
        formed: A is GᵀG, and was rounded when it was formed.
        caution: How many times what was predicted is rounded, as far as is known.
    """

    n: int
    k: int
    batch: int
    exponent: Fraction
    tol: float
    root: bool
    reuse: int = 1
    precisions: tuple[str, ...] = ("fp32", "fp64")
    device: str = "cpu"
    symmetric: bool = False
    reduced: bool = True
    recorded: bool = False
    formed: bool = False
    caution: float = 1.0

    def ms(self, operation: str) -> float:
        """Predicted time of an operation on matrices of these shapes."""
        return milliseconds(operation, self.n, self.batch, self.device)

    def calls(self, count: float) -> float:
        """Predicted time of so many torch calls on next to nothing."""
        return GRAPH_CALL * count if self.recorded else calls_ms(count, self.device)

    def symmetric_ms(self, coarse: bool) -> float:
        """Predicted time of a symmetric product, in one plane or in two; the host takes its own for a launch."""
        ms = self.ms("coarse32" if coarse else "symmetric32")
        return ms if self.recorded else max(ms, self.calls(LAUNCH_CALLS))

    def factor_ms(self, coarse: bool = False) -> float:
        """The same of a thin product with all columns."""
        ms = THIN_SHARE * (0.5 if coarse else 1.0) * self.ms("thin32") * math.ceil(self.k / COLUMNS)
        return ms if self.recorded else max(ms, self.calls(LAUNCH_CALLS))

    @property
    def quiet(self) -> bool:
        """On a device what reads numbers back while it runs is for those who ask for it by name."""
        return self.device != "cpu"

    @property
    def strategies(self) -> tuple[str, ...]:
        """Those that apply."""
        names = ["eigh"]
        if not self.root and abs(self.exponent) <= 1:
            names = [*(SUMS if self.exponent < 0 else ()), "lanczos", "eigh"]
        if self.exponent < 1:
            names = ["materialize-root", *names] if self.root else ["direct-solve", "materialize-root", *names]
        if self.exponent == -1:
            names += ["cholesky"] if self.root else ["hybrid-pe-nsrc", "cholesky"]
        return tuple(names)

    def has_symmetric_products(self, name: str) -> bool:
        """Whether an iteration in this precision is made of them: in planes, or in float32 that nobody asked for by
        name."""
        planes = precision(name).plane is not None or (name == "fp32" and len(self.precisions) > 1)
        return self.symmetric and planes and self.exponent < 0 and self.n >= SMALLEST_SYMMETRIC

    def meets(self, error: float) -> bool:
        """Whether a predicted error, truncation and rounding together, leaves room for the estimate."""
        return error <= self.tol / 2

    def check(self, strategy: str) -> None:
        """ValueError, naming the strategies that apply, unless `strategy` is one of them or auto."""
        if strategy != "auto" and strategy not in self.strategies:
            raise ValueError(
                f"strategy={strategy!r} does not apply to exponent {self.exponent}"
                f"{' without B' if self.root else ''}; those that do: auto, {', '.join(self.strategies)}"
            )


@dataclass(frozen=True)
class Candidate:
    """One way to do a task, with its predicted time and error.

    Attributes:
        strategy, precision: Their names.
        schedule: The steps of an iteration.
        products: n×n by n×n products.
        milliseconds, error: Predicted.
        symmetric: By kernels for symmetric matrices: products, half of full ones, or a series that reads planes.
        coarse: How many of the last steps of these round more.
        wide: How many of the first steps of these are taken in float64.
    """

    strategy: str
    precision: str
    schedule: Schedule | HybridSchedule | None
    products: float
    milliseconds: float
    error: float
    symmetric: bool = False
    coarse: int = 0
    wide: int = 0

    @property
    def truncated(self) -> float:
        """Of the error, what is not rounding."""
        return self.schedule.error if isinstance(self.schedule, Schedule) else 0.0

    def with_caution(self, caution: float) -> float:
        """The error, where so many times what was predicted is rounded; in float64 there are no surprises."""
        return self.error if self.precision == "fp64" else self.truncated + caution * (self.error - self.truncated)

    def caution_of(self, error: float) -> float:
        """The caution with which it would have been this error, or more: a power of two, so that choices repeat."""
        rounded = max(self.error - self.truncated, 2.0**-53)
        return 2.0 ** math.ceil(math.log2(max((error - self.truncated) / rounded, 1.0)))

"""The coupled iteration for the root as a list of symmetric products, each with all that is made of it (GPU).

All iterates are polynomials in one symmetric matrix, so they are symmetric and commute, and half of every product is
enough. A product P of two matrices held in 16-bit planes ends in up to three results α·P + β·C + δ·D + γ·I, written in
float32 and as planes for the next product; nothing else touches an n×n matrix between the first pass and the last. With
x = (y − c)/h and q(Y) = a·I + R (see `CoupledIteration`) R takes

    degree 1    R = m₁·x                                                                     no product
    degree 2    R = m₂·x² + m₁·x                                                             one
    degree 3    K = m₂·x² + m₁·x;   R = m₃·x·x² + K                                          two
    degree 4    L = m₄·x² + m₃·x,   K as above;   R = L·x² + K                               two
    degree 8    L = c₁·x² + c₂·x;   U = x²·L + c₃·x² + c₄·x,   V = x²·L + c₅·x²,
                K = ±(c₆·x²·L + b₂·x² + b₁·x);   R = ±U·V + K                                three

fp16 planes are scaled by powers of two that no number can outgrow: the steps bound every matrix.

Acting on B, only Y is made of symmetric products. X begins as B and is held as its transpose, k rows, so that the rows
of R are still what is read; the last q(Y) may act on X by Clenshaw's recurrence instead of being formed,

    b_i = t_i·X + 2·x·b_{i+1} − b_{i+2},   q(Y)·X = t_0·X + x·b_1 − b_2      (t_i: Chebyshev coefficients of q).
"""

from __future__ import annotations

from dataclasses import dataclass

from iroot_kernels._polynomial import Polynomial
from iroot_kernels._precision import Precision, precision

SYMMETRIC_DEGREES = (1, 2, 3, 4, 8)
MOST_RESULTS = 3
# Planes in fp16 hold numbers below 2^13: what lies beyond the planned interval has room up to 2^16.
TOP_EXPONENT = 13
WHOLE, MIRRORED, PLANES, LOW = 1, 2, 4, 8
# float32 slots: the two iterates; what is made on the way to R and beyond, and in the end the root, so that X before
# the last step stays; powers of q from here on.
Y_SLOT, X_SLOT, SCRATCH, POWER = range(4)
ROOT = SCRATCH
# Those of thin matrices: X and the two b of the recurrence, which take turns.
X_COLUMNS = 0


@dataclass(frozen=True)
class Result:
    """α·P + β·C + δ·D + γ·I.

    Attributes:
        factors: α, β, δ, γ.
        whole: float32 slot of its lower triangle; −1 for none.
        planes: Slot of its planes; −1 for none.
        scale: Power of two that the planes are multiplied by.
        mirrored: The upper triangle is written in float32, too.
        low: The low plane is written: somebody reads it.
    """

    factors: tuple[float, float, float, float]
    whole: int = -1
    planes: int = -1
    scale: float = 1.0
    mirrored: bool = False
    low: bool = True

    @property
    def flags(self) -> int:
        """What is written, in bits."""
        planes = self.planes >= 0
        return WHOLE * (self.whole >= 0) | MIRRORED * self.mirrored | PLANES * planes | LOW * (planes and self.low)


@dataclass(frozen=True)
class Job:
    """One product, of the planes in slots `left` and `right`; C and D are float32 slots, −1 for none.

    With thin matrices all slots but `right` are those of transposed thin ones.
    """

    left: int
    right: int
    C: int
    D: int
    results: tuple[Result, ...]

    @property
    def ints(self) -> list[int]:
        """As the kernels read it: operands, and what is written where."""
        row = [self.left, self.right, self.C, self.D]
        for result in self.results:
            row += [result.whole, result.planes, result.flags]
        return row + [0] * (3 * (MOST_RESULTS - len(self.results)))

    @property
    def floats(self) -> list[float]:
        """As the kernels read it: the factors and the scale of every result."""
        row = [number for result in self.results for number in (*result.factors, result.scale)]
        return row + [0.0] * (5 * (MOST_RESULTS - len(self.results)))


@dataclass(frozen=True)
class Launch:
    """`count` jobs from number `first` on, all of step `step`, which do not depend on one another and have up to
    `results` results; `thin` ones act on columns, and `coarse` ones read high planes only."""

    first: int
    count: int
    results: int
    step: int
    coarse: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Factor:
    """q(Y) = a·I + R with planes of R/`unit` in a slot, or, at the `end`, the last step's x there and q to apply."""

    a: float
    planes: int
    unit: float
    coarse: bool
    end: Polynomial | None = None


@dataclass(frozen=True)
class Program:
    """An iteration for the root, compiled.

    Attributes:
        jobs: The first one makes its results of A itself; the second one, acting on B, of B.
        launches: Of the others, in order.
        planes, wholes: Slots of each kind.
        thin_planes, thin_wholes: Those of transposed thin matrices.
        factors: What `X` was multiplied by, acting on B.
    """

    jobs: tuple[Job, ...]
    launches: tuple[Launch, ...]
    planes: int
    wholes: int
    thin_planes: int = 0
    thin_wholes: int = 0
    factors: tuple[Factor, ...] = ()

    @property
    def products(self) -> int:
        """n×n by n×n products."""
        return sum(launch.count for launch in self.launches if not launch.thin)

    @property
    def thin_products(self) -> int:
        """Products of thin matrices."""
        return sum(launch.count for launch in self.launches if launch.thin)


def in_planes(name: str) -> Precision:
    """The precision that `name` runs in here: tf32 as one plane of fp16, the same 11 bits at twice the speed."""
    return precision("fp16" if name == "tf32" else name)


def formed(q: Polynomial) -> int:
    """Products that form q(Y)."""
    return {1: 0, 2: 1, 3: 2, 4: 2, 8: 3}[q.degree]


def has_form(q: Polynomial) -> bool:
    """Whether q is of a degree that is made of products here."""
    return q.degree in SYMMETRIC_DEGREES and (q.degree < 8 or q.factors is not None)


@dataclass(frozen=True)
class Columns:
    """How an iteration acts on B.

    Attributes:
        room: X·B has entries below 2^room times the norm of X: B's are at most 1, of at most 4^room rows.
        recurrence: The last q(Y) acts on X without being formed.
    """

    room: int
    recurrence: bool

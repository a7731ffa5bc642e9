"""The maintained matrix of cases, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import torch

POWERS = (1, 2, 3, 4, 8)
KAPPAS = (1e1, 1e3, 1e5)
SPECTRA = ("log-spaced", "power law", "cluster and tail", "Wishart")


@dataclass(frozen=True)
class Point:
    """Sizes and condition of one problem.

    Attributes:
        n: Size of the matrix that the power is taken of.
        k: Columns of B; n with the root itself.
        kappa: Condition number of that matrix, ridge included.
        m: Rows of G, for gram and dual.
        batch: Number of matrices; 1 for a single one, without a batch dimension.
    """

    n: int
    k: int
    kappa: float
    m: int | None = None
    batch: int = 1

    @property
    def rows(self) -> int:
        """Of what is passed: of G, or of A."""
        return self.n if self.m is None else self.m

    @property
    def leading(self) -> tuple[int, ...]:
        """The batch dimension, if there is one."""
        return () if self.batch == 1 else (self.batch,)


@dataclass(frozen=True)
class Case:
    """One row of the matrix.

    Attributes:
        name: What filters look at.
        problem: spd, gram, dual or nonspd.
        p: A^(-1/p).
        points: Where it is measured.
        root: The root itself is wanted: there is no B.
        spectrum: One of `SPECTRA`, of symmetric matrices.
        damped: A is singular but for its rounding, and the ridge makes κ what it is.
    """

    name: str
    problem: str
    p: int
    points: tuple[Point, ...]
    root: bool = False
    spectrum: str = "log-spaced"
    damped: bool = False

    def solvable(self, dtype: torch.dtype) -> tuple[Point, ...]:
        """The points whose matrix stays nonsingular when it is rounded to a dtype: κ·u ≤ 1/16, or damped after that."""
        if self.damped:
            return self.points
        return tuple(point for point in self.points if point.kappa * torch.finfo(dtype).eps <= 1 / 8)


def _single(sizes: Iterable[tuple[int, int]], kappas: Iterable[float] = KAPPAS) -> tuple[Point, ...]:
    return tuple(Point(n, k, kappa) for (n, k), kappa in product(sizes, kappas))


def _tall(shape: tuple[int, int], k: int) -> tuple[Point, ...]:
    m, n = shape
    return tuple(Point(n, k, kappa, m=m) for kappa in KAPPAS)


def _batch(batch: int, n: int, k: int) -> tuple[Point, ...]:
    return tuple(Point(n, k, kappa, batch=batch) for kappa in KAPPAS)


def _batches(kappa: float, *shapes: tuple[int, int]) -> tuple[Point, ...]:
    """Roots of so many matrices of each size."""
    return tuple(Point(n, n, kappa, batch=batch) for batch, n in shapes)


def _spd(p: int) -> tuple[Case, Case]:
    thin, square = _single([(256, 16), (1024, 16)]), _single([(128, 128), (512, 512)])
    return Case(f"SPD p={p} k<n", "spd", p, thin), Case(f"SPD p={p} k=n", "spd", p, square)


CASES: tuple[Case, ...] = (
    *(case for p in POWERS for case in _spd(p)),
    Case("Root p=2", "spd", 2, _single([(128, 128), (512, 512)]), root=True),
    Case("Gram p=2", "gram", 2, _tall((2048, 512), 16)),
    Case("Gram p=4", "gram", 4, _tall((2048, 512), 16)),
    Case("Gram wide p=2", "gram", 2, _tall((256, 1024), 16)),
    Case("Dual p=2", "dual", 2, _tall((1024, 512), 16)),
    Case("Non-SPD p=1", "nonspd", 1, _single([(256, 16), (1024, 16)])),
    Case("Batch 64 p=2", "spd", 2, _batch(64, 64, 16) + _batch(64, 128, 16)),
    Case("Batch 256x64 p=4", "spd", 4, _batch(256, 64, 64), root=True),
)

# Systems for a GPU, and the κ at which products are to be faster than factorisations.
SYSTEMS, WELL_CONDITIONED = tuple((n, 64) for n in (1024, 2048, 4096)), (1e1, 1e2, 1e3)
# Of batches, and the size of their matrices.
BATCHES = ((512, 64), (256, 128), (64, 256), (32, 512), (16, 1024))
# Roots of the sizes that a GPU is for; run where they are asked for by name.
LARGE: tuple[Case, ...] = (
    *(
        Case(f"Large root p={p}", "spd", p, _single([(n, n) for n in (1024, 2048, 4096)], (1e2, 1e4, 1e6)), root=True)
        for p in (1, 2, 4)
    ),
    *(
        Case(f"Large {name} p=2", "spd", 2, _single([(2048, 2048)], (1e4,)), root=True, spectrum=name)
        for name in SPECTRA[1:]
    ),
    Case("Large damped p=2", "spd", 2, _single([(1024, 1024), (2048, 2048)], (1e8,)), root=True, damped=True),
    Case(
        "Many matrices p=2", "spd", 2, _batches(1e4, (512, 64), (256, 128), (64, 256), (32, 512), (16, 1024)), root=True
    ),
    Case("Many matrices p=4", "spd", 4, _batches(1e3, (10**6, 16), (512, 64)), root=True),
    Case("Large thin p=2", "spd", 2, _single([(n, 64) for n in (1024, 2048, 4096)], (1e2, 1e4))),
    Case("Large inverse p=1", "spd", 1, _single(SYSTEMS, WELL_CONDITIONED)),
    Case("Large non-SPD p=1", "nonspd", 1, _single(SYSTEMS, WELL_CONDITIONED)),
    Case("Large columns p=2", "spd", 2, _single([(8192, 16), (8192, 64)], (1e2, 1e3))),
    Case("Large polar p=2", "dual", 2, (Point(4096, 4096, 1e1, m=4096), Point(2048, 8192, 1e1, m=8192)), root=True),
)


def names() -> tuple[str, ...]:
    """Of all cases."""
    return tuple(case.name for case in (*CASES, *LARGE))


def select(only: str) -> tuple[Case, ...]:
    """The cases with this in their name, in any case of letters; those for a GPU only where it says "large" or "many".

    Raises:
        ValueError: There is none.
    """
    among = (*CASES, *LARGE) if any(word in only.lower() for word in ("large", "many")) else CASES
    found = tuple(case for case in among if only.lower() in case.name.lower())
    if not found:
        raise ValueError(f"--only: no case has {only!r} in its name; there are: {', '.join(names())}")
    return found


def named(name: str) -> Case:
    """The case of exactly this name.

    Raises:
        ValueError: There is none.
    """
    for case in (*CASES, *LARGE):
        if case.name == name:
            return case
    raise ValueError(f"there is no case {name!r}; there are: {', '.join(names())}")

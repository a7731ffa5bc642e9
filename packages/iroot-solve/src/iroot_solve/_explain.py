"""What would be done, and why."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from iroot_kernels import small_matrices, symmetric_products

from iroot_solve._choose import candidates, choose
from iroot_solve._problem import TOLERANCES, read_exponent
from iroot_solve._small import fits_on_chip
from iroot_solve._task import Candidate, Task


@dataclass(frozen=True)
class Explanation:
    """The plan that would be used, and the others.

    Attributes:
        task: The shapes and the tolerance.
        kappa: The assumed condition number.
        chosen: What `auto` would do.
        candidates: Every way that applies, cheapest predicted time first.
        device: Where; the times are those of the calibration for a device of this type.
        on_chip: A launch with a program to a matrix comes first, and `chosen` is for what it leaves; there is no
            calibration of its time.
    """

    task: Task
    kappa: float
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    device: str
    on_chip: bool = False

    @property
    def strategy(self) -> str:
        return "materialize-root" if self.on_chip else self.chosen.strategy

    @property
    def precision(self) -> str:
        return "fp16x3" if self.on_chip else self.chosen.precision

    @property
    def products(self) -> float:
        """n×n×n products of the chosen plan."""
        return self.chosen.products

    @property
    def error(self) -> float:
        """Predicted relative error."""
        return self.chosen.error

    def reason(self, candidate: Candidate) -> str:
        """Why a candidate was or was not taken."""
        good = self.task.meets(candidate.error)
        if candidate == self.chosen:
            return "chosen: the cheapest that meets tol" if good else "chosen: the most accurate"
        return "slower" if good else "predicted error too large"

    def __str__(self) -> str:
        t = self.task
        head = (
            f"A^({t.exponent}), n={t.n}, k={t.k}, batch {t.batch}, κ={self.kappa:.3g}, tol={t.tol:g} on {self.device}: "
            f"{self.strategy} in {self.precision}{_wide(self.chosen)}"
        )
        rows = [
            f"  {c.strategy:16s} {c.precision:6s} {c.products:6.1f} products {c.milliseconds:10.3f} ms  "
            f"error {c.error:.1e}  {self.reason(c)}{_wide(c)}"
            for c in self.candidates
        ]
        first = ["  first, for all: one launch, a program to a matrix; what it leaves:"] if self.on_chip else []
        return "\n".join([head, *first, *rows])


def _wide(candidate: Candidate) -> str:
    """What is not in its precision."""
    return f", the first {candidate.wide} of its steps in fp64" if candidate.wide else ""


def explain(
    n: int,
    k: int,
    p: int = 2,
    kappa: float = 1e4,
    tol: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = 1,
    *,
    exponent: Fraction | None = None,
) -> Explanation:
    """The plan that would be used: strategy, precision, products, predicted error and time, and why the others lost.

    Args:
        n: Matrix size.
        k: Right-hand columns; k = n asks for the root itself.
        p: p ≥ 1.
        kappa: Condition number to assume.
        tol: Target of the relative error; the dtype's default.
        device: Where it would run.
        dtype: Of the inputs.
        batch: Number of matrices.
        exponent: Another power, instead of −1/p.

    Returns:
        An `Explanation`; printing it gives the table.

    Raises:
        TypeError, ValueError: An argument out of range, by name.

    Examples:
        >>> from iroot_solve import explain
        >>> explain(n=2048, k=16, p=2, kappa=100.0).strategy
        'chebyshev'
    """
    if dtype not in TOLERANCES:
        raise TypeError(f"dtype={dtype} is not one of {', '.join(str(d) for d in TOLERANCES)}")
    if n < 1 or k < 1 or batch < 1:
        raise ValueError(f"n={n}, k={k} and batch={batch} must be ≥ 1")
    if not 1 <= kappa <= 1e14:
        raise ValueError(f"kappa={kappa!r} must lie in [1, 1e14]")
    power = read_exponent(None if exponent is not None else p, exponent)
    precisions = ("fp64",) if dtype is torch.float64 else ("fp32", "fp64")
    where, wanted = torch.device(device), TOLERANCES[dtype] if tol is None else tol
    # Of a device that is not here those of the calibration are told, which were measured on an H200.
    there = where.type == "cuda" and torch.cuda.is_available()
    symmetric = symmetric_products(where) if there else where.type == "cuda"
    task = Task(n, k, batch, power, wanted, k == n, precisions=precisions, device=where.type, symmetric=symmetric)
    low, high = 1 / kappa, 1.0
    small = where.type == "cuda" and dtype is not torch.float64 and fits_on_chip(n, k, batch, power)
    chosen, found = choose(task, low, high), tuple(candidates(task, low, high))
    return Explanation(task, kappa, chosen, found, str(device), small and (small_matrices(where) if there else True))

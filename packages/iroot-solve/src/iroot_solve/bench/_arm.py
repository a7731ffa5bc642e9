"""What an arm of a benchmark is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from iroot_solve._result import SolveResult


@dataclass(frozen=True)
class Problem:
    """One problem; all tensors on the device, in the dtype of the run.

    Attributes:
        kind: spd, gram, dual or nonspd.
        A: `(n, n)` or `(b, n, n)`; for spd and nonspd.
        G: `(m, n)`; for gram and dual.
        B: `(…, n, k)`, for dual `(m, k)`; `None` where the root itself is wanted, for dual the polar factor.
        p: A^(-1/p).
        kappa: Condition number of A (of GᵀG + ridge·I on the range that counts), as constructed: for arms that need
            bounds.
        tol: Target of the relative error.
        ridge: Added to the diagonal, in units of A.
    """

    kind: str
    A: Tensor | None
    G: Tensor | None
    B: Tensor | None
    p: int
    kappa: float
    tol: float
    ridge: float

    @property
    def source(self) -> Tensor:
        """A, or G where that is what is passed."""
        matrix = self.A if self.G is None else self.G
        assert matrix is not None
        return matrix


@dataclass(frozen=True)
class Arm:
    """A routine that answers problems.

    Attributes:
        name: Of its rows: "coupled-newton".
        page: What it is and what it is not, one paragraph of Markdown with the source.
        applies: Whether it answers such a problem, and is worth a row there.
        make: Sets up outside the timing and returns the call that is timed, with all allocations as its users have
            them.
        needs: Registry package that must be installed.
    """

    name: str
    page: str
    applies: Callable[[Problem], bool]
    make: Callable[[Problem], Callable[[], Tensor | SolveResult]]
    needs: str | None = None

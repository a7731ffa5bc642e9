"""What is known so far of every matrix of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._polar_iteration import PolarIteration
from iroot_solve._polar_planes import PlaneIteration
from iroot_solve._result import Status


@dataclass
class PolarLedger:
    """What is known of every matrix so far.

    Attributes:
        U: `(b, m, n)` in the output's dtype.
        codes, error, defect, rank: Arrays `(b,)`.
    """

    U: Tensor
    codes: Array
    error: Array
    defect: Array
    rank: Array
    strategy: str = "none"
    precision: str = "none"
    backend: str = "none"
    steps: int = 0
    products: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("square", "rectangular", "eigh", "svd"), 0))
    fallbacks: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, U: Tensor, count: int) -> PolarLedger:
        """Nothing known."""
        codes = np.full(count, Status.stagnated, np.int8)
        return cls(U, codes, np.full(count, np.inf), np.full(count, np.inf), np.full(count, -1, np.int64))

    def write(self, index: Array, X: Tensor, measures: Array, rank: Array, how: tuple[str, str, str]) -> None:
        """X for the matrices at `index`; `measures` are error and defect, `how` is strategy, precision and backend."""
        if len(index):
            self.U[torch.from_numpy(index).to(X.device)] = X.to(self.U.dtype)
            self.error[index], self.defect[index] = measures
            self.rank[index] = rank
            self.strategy, self.precision, self.backend = how

    def count(self, iteration: PolarIteration | PlaneIteration) -> None:
        """The work of an iteration."""
        self.products["square"] += iteration.square
        self.products["rectangular"] += iteration.rectangular
        self.steps += iteration.steps

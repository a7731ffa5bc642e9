"""What a strategy hands back, for the scaled problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from iroot_coeffs import Step
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._certificate import Root

if TYPE_CHECKING:
    from iroot_solve._task import Candidate


@dataclass
class Outcome:
    """Z = A_s^exponent·B_s as computed, and what is needed to judge it.

    Attributes:
        Z: `(b, n, k)` in the precision it was computed in; a buffer of the workspace.
        root: The computed root, as the certificate sees it; `None` where the strategy has an `error` of its own.
        judge: dtype in which the residual is to be evaluated.
        strategy: Its name.
        precision: Its precision.
        steps: Steps of the iteration.
        products: Work by kind.
        schedule: The plan.
        eigenvalues: `(b, n)` ascending, where the strategy found them.
        lowest: `(b,)` estimate of λmin, where the strategy has one.
        highest: `(b,)` λmax to rounding, where the strategy found it.
        resume: Goes on from before the last step, for a spectrum whose lower end is smaller than planned.
        iterate, end: Y before the last step of an iteration, and that step.
        error: `(b,)` float64, the relative error of Z as the strategy estimates it.
        again: The same for another right-hand side (`None`: the root itself), from what `holds` holds. It knows no
            workspace, but is given one.
        holds: Buffers that `again` needs as they are.
        backend: What computed the products, and why.
        reduced: They were rounded more than float32's, because that was predicted to be enough.
        chosen: What it is an outcome of, where that was a choice.
    """

    Z: Tensor
    root: Root | None
    judge: torch.dtype
    strategy: str
    precision: str
    schedule: object
    steps: int = 0
    products: dict[str, int] = field(default_factory=dict)
    eigenvalues: Tensor | None = None
    lowest: Tensor | None = None
    highest: Tensor | None = None
    resume: Callable[[], Outcome | None] | None = None
    iterate: Tensor | None = None
    end: Step | None = None
    error: Tensor | None = None
    again: Callable[[Workspace, Tensor | None], Outcome] | None = None
    holds: tuple[Tensor, ...] = ()
    backend: str = "torch"
    reduced: bool = False
    chosen: Candidate | None = None

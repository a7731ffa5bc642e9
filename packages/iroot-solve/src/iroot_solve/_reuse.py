"""What a call leaves for the next one with the same matrix: bounds, and the root or the factorisation.

With `expected_reuse` above 1 the workspace keeps them while the caller's tensor is the same object and not written to,
and while nobody else has used the buffers: a write to either moves its version counter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from iroot_kernels import Workspace, precision
from torch import Tensor

from iroot_solve._case import Case
from iroot_solve._outcome import Outcome

NAME = "solved"


@dataclass(frozen=True)
class Kept:
    """What is known of a matrix. Nothing in it knows the workspace, which would then wait for the garbage collector.

    Attributes:
        ends, factored, least_share: Of the `Case`.
        upper: Bound of λmax(A_s).
        again: Of the outcome, where what it was made from can be applied to another right-hand side.
        dtype: Of that right-hand side.
        holds, versions: What `again` needs as it is, and the versions of that.
    """

    ends: tuple[Tensor, Tensor] | None
    factored: bool
    least_share: float
    upper: Tensor
    again: Callable[[Workspace, Tensor | None], Outcome] | None
    dtype: torch.dtype
    holds: tuple[Tensor, ...]
    versions: tuple[int, ...]

    def outcome(self, case: Case) -> Outcome | None:
        """The outcome for the case's right-hand side; `None` where it has to be made anew."""
        if self.again is None or _versions(self.holds) != self.versions:
            return None
        return self.again(case.ws, case.right(self.dtype))


def recall(case: Case) -> Kept | None:
    """What is kept of the case's matrix, which then has its bounds already."""
    owner = _owner(case)
    kept: Kept | None = None if owner is None else case.ws.kept(NAME, owner, _settings(case))
    if kept is not None:
        case.matrix.matrix(case.problem.storage)
        case.matrix.upper, case.least_share = kept.upper, kept.least_share
        case.ends, case.factored = kept.ends, kept.factored
    return kept


def remember(case: Case, outcome: Outcome) -> None:
    """Keep what was found, for as long as it stays true."""
    owner = _owner(case)
    if owner is None:
        return
    lasting = outcome.again is not None and not any(held.is_inference() for held in outcome.holds)
    again, holds = (outcome.again, outcome.holds) if lasting else (None, ())
    ends, dtype = case.ends, precision(outcome.precision).storage
    kept = Kept(ends, case.factored, case.least_share, case.matrix.upper, again, dtype, holds, _versions(holds))
    case.ws.put(NAME, owner, _settings(case), kept)


def _versions(holds: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(held._version for held in holds)


def _owner(case: Case) -> Tensor | None:
    """Whose life the bounds share; `None` where nothing is to be kept."""
    options, problem = case.options, case.problem
    if options.expected_reuse == 1 or options.abc_t is not None or case.matrix.applied:
        return None
    return problem.passed if problem.gram is None else problem.A


def _settings(case: Case) -> tuple[object, ...]:
    problem = case.problem
    options = replace(case.options, out=None, on_failure="raise", quiet=False, verify=True)
    return problem.exponent, problem.tol, problem.count, problem.folded, problem.gram is None, options

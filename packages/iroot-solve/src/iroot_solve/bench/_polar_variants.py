"""Arms for the polar factor U of G, whose transpose is the dual form for p = 2 of the identity: (GᵀG)^(-1/2)·Gᵀ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from iroot_solve._polar import orthogonalize
from iroot_solve._result import SolveWorkspace
from iroot_solve.bench._arm import Arm, Problem

LOOSE = 1e-2


def polar(name: str, what: str, *, captured: bool = False, **settings: object) -> Arm:
    """`orthogonalize` with these settings, called "orthogonalize-" `name`; `what` it is, for its page."""

    def make(problem: Problem) -> Callable[[], Tensor]:
        workspace = SolveWorkspace()
        if captured and problem.source.is_cuda:
            replay = workspace.capture(orthogonalize, problem.source, **settings).replay
            return lambda: replay().mT
        call = partial(orthogonalize, workspace=workspace, on_failure="nan", **settings)
        return lambda: call(problem.source).mT

    page = (
        f"`orthogonalize`, {what}, with a workspace that it keeps; in the dtype that is passed. Its transpose is the "
        "answer. Source: this library."
    )
    return Arm(f"orthogonalize-{name}", page, is_polar, make)


def is_polar(problem: Problem) -> bool:
    """U itself is wanted."""
    return problem.kind == "dual" and problem.p == 2 and problem.B is None and not problem.ridge


REPLAYED = "replayed as a graph where there is a GPU, without an error estimate"
POLAR = (
    polar("muon", f"five steps of Muon’s quintic, {REPLAYED}", captured=True, schedule="muon", steps=5),
    polar("express", f"eight steps of Polar Express, {REPLAYED}", captured=True, schedule="polar-express", steps=8),
    polar("accurate", f"to an estimated error of {LOOSE:g}", tol=LOOSE),
)

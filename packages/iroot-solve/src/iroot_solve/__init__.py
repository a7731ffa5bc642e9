"""Inverse p-th roots, (A + ridge·I)^(-1/p)·B: true to the matrix that was passed, with the error reported."""

import iroot_solve._compiled  # noqa: F401 (registers torch.ops.iroot.solve)
from iroot_solve._apply import apply_inverse_root_auto, apply_inverse_root_gram_spd
from iroot_solve._config import PrecondConfig, ScheduleConfig
from iroot_solve._each import solve_each
from iroot_solve._errors import (
    IrootError,
    NonFiniteInputError,
    NoPrincipalRootError,
    NotPositiveDefiniteError,
    PreconditionerIgnoredWarning,
    SingularMatrixError,
    StagnationError,
    StagnationWarning,
)
from iroot_solve._explain import Explanation, explain
from iroot_solve._gram import apply_inverse_root_gram_rhs_spd, solve_gram_spd
from iroot_solve._hybrid import hybrid_pe_nsrc_solve
from iroot_solve._nonspd import solve_nonspd
from iroot_solve._polar import orthogonalize
from iroot_solve._polar_result import PolarResult, PolarStats
from iroot_solve._replay import Replay
from iroot_solve._result import SolveResult, SolveStats, SolveWorkspace, Status
from iroot_solve._root import inverse_root, inverse_root_apply
from iroot_solve._schedules import build_pe_schedules, build_schedule
from iroot_solve._spd import solve_spd

__version__ = "0.1.0"

__all__ = [
    "Explanation",
    "IrootError",
    "NoPrincipalRootError",
    "NonFiniteInputError",
    "NotPositiveDefiniteError",
    "PolarResult",
    "PolarStats",
    "PrecondConfig",
    "PreconditionerIgnoredWarning",
    "Replay",
    "ScheduleConfig",
    "SingularMatrixError",
    "SolveResult",
    "SolveStats",
    "SolveWorkspace",
    "StagnationError",
    "StagnationWarning",
    "Status",
    "apply_inverse_root_auto",
    "apply_inverse_root_gram_rhs_spd",
    "apply_inverse_root_gram_spd",
    "build_pe_schedules",
    "build_schedule",
    "explain",
    "hybrid_pe_nsrc_solve",
    "inverse_root",
    "inverse_root_apply",
    "orthogonalize",
    "solve_each",
    "solve_gram_spd",
    "solve_nonspd",
    "solve_spd",
]

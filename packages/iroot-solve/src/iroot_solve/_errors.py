"""What can go wrong, by name; every message says what to change."""

from __future__ import annotations

from typing import Any

import torch


class IrootError(torch.linalg.LinAlgError):  # type: ignore[name-defined, misc]
    """No answer of the wanted accuracy. `result` and `stats` hold the best one there is."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
        self.stats = None if result is None else result.stats


class NotPositiveDefiniteError(IrootError):
    """A + ridge·I has a negative eigenvalue."""


class SingularMatrixError(IrootError):
    """A + ridge·I is exactly singular, or zero."""


class NoPrincipalRootError(IrootError):
    """A has an eigenvalue on the closed negative real axis, where A^(-1/p), p ≥ 2, is not defined."""


class StagnationError(IrootError):
    """The tolerance is out of reach of the data's condition and the output's precision."""


class NonFiniteInputError(IrootError, ValueError):
    """A or B contains NaN or infinity."""


class StagnationWarning(UserWarning):
    """`on_failure="warn"`: an answer was returned that misses the tolerance, or NaN where there is none."""


class PreconditionerIgnoredWarning(UserWarning):
    """A preconditioner setting changed nothing at all."""

"""The spectrum of a problem as few numbers: which problems a run solved, for its plots."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from iroot_solve.bench._arm import Problem
from iroot_solve.bench._problems import in_parts

POINTS = 33
DIGITS = 4


def thinned(problem: Problem) -> list[float | None]:
    """At most 33 quantiles of the eigenvalues, evenly spaced and with both ends.

    Args:
        problem: Its matrices as they are; those of a batch are taken together.

    Returns:
        Decimal logarithms to four places, from small to large; `None` where an eigenvalue is not positive.
    """
    values = np.sort(eigenvalues(problem).flatten().cpu().numpy())
    shares = np.linspace(0, 1, min(POINTS, values.size))
    # Those that are there, not numbers between them: interpolating would smooth a gap.
    found = np.quantile(values, shares, method="nearest")
    return [round(math.log10(value), DIGITS) + 0.0 if value > 0 else None for value in found.tolist()]


def eigenvalues(problem: Problem) -> Tensor:
    """Those of A + r·I or GᵀG + r·I in float64 (for the dual form on the range of Gᵀ); singular values for nonspd."""
    matrix, r = problem.source.double(), problem.ridge
    if problem.kind == "spd":
        values = torch.cat([torch.linalg.eigvalsh(part) for part in in_parts(matrix)])
        return values.view(matrix.shape[:-1]) + r
    sigma: Tensor = torch.linalg.svdvals(matrix)
    if problem.kind == "nonspd":
        return sigma
    missing = matrix.shape[-1] - sigma.shape[-1] if problem.kind == "gram" else 0
    return torch.nn.functional.pad(sigma.square(), (0, missing)) + r

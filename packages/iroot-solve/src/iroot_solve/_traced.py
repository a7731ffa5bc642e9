"""`solve_spd` as torch.compile sees it: one operator (of `_compiled`), and the result made of what it returns."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from iroot_solve._result import NUMBERS, DirectSchedule, SolveResult, SolveStats, SolveWorkspace

UNKNOWN = "in a compiled graph"


# Settings that an operator's schema has no room for, as they are where nobody sets them.
OTHERS = {
    "lambda_max": None,
    "abc_t": None,
    "schedule_config": None,
    "precond_config": None,
    "expected_reuse": 1,
    "fallback": True,
    "on_singular": "error",
    "rcond": None,
    "seed": 0,
    "out": None,
}


def traced(
    A: Tensor, B: Tensor | None, exponent: Fraction, workspace: SolveWorkspace | None, settings: dict[str, Any]
) -> SolveResult:
    """The operator's tensors in a result; what a graph cannot know (strategy, work, plan) says so.

    Args:
        A, B, exponent: As of `solve_spd`.
        workspace: Goes through; buffers are the graph's affair.
        settings: All others.

    Raises:
        ValueError: One of `OTHERS` is set.
    """
    for name, default in OTHERS.items():
        value = settings.pop(name)
        if value is not default and value != default:
            raise ValueError(f"{name} does not go through torch.compile; those that do: {', '.join(settings)}")
    settings["verify"] = str(settings["verify"])
    operator = torch.ops.iroot.solve
    Z, codes, numbers = operator(A, B, exponent.numerator, exponent.denominator, **settings)
    stats = SolveStats(
        status_code=codes,
        **dict(zip(NUMBERS, numbers.unbind(0), strict=True)),
        strategy=UNKNOWN,
        precision=UNKNOWN,
        products={},
        steps=0,
        backend=UNKNOWN,
    )
    return SolveResult(Z, workspace or SolveWorkspace(), stats, DirectSchedule(UNKNOWN))

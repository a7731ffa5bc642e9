"""The solver as an operator of torch: who knows the shapes of what comes back need not look inside.

`solve_spd`, and with it `inverse_root` and `inverse_root_apply`, becomes `torch.ops.iroot.solve` where it is compiled
(`_traced`), so that `torch.compile(fullgraph=True)` goes through; what runs is the same solve.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Optional

import torch
from torch import Tensor

from iroot_solve._problem import read_problem
from iroot_solve._result import NUMBERS
from iroot_solve._spd import solve_spd


# The schema is read from the annotations, which therefore say Optional.
@torch.library.custom_op("iroot::solve", mutates_args=())
def solve_op(
    A: Tensor,
    B: Optional[Tensor],  # noqa: UP045
    numerator: int,
    denominator: int,
    tol: Optional[float] = None,  # noqa: UP045
    ridge: float = 0.0,
    ridge_rel: float = 0.0,
    kappa_max: Optional[float] = None,  # noqa: UP045
    strategy: str = "auto",
    precision: str = "auto",
    on_failure: str = "raise",
    verify: str = "True",
) -> tuple[Tensor, Tensor, Tensor]:
    """Z of `solve_spd`, `status_code`, and the numbers of its stats `(6, …)`."""
    Z, _, stats, _ = solve_spd(
        A,
        B,
        exponent=Fraction(numerator, denominator),
        tol=tol,
        ridge=ridge,
        ridge_rel=ridge_rel,
        kappa_max=kappa_max,
        strategy=strategy,
        precision=precision,
        on_failure=on_failure,
        verify={"True": True, "False": False}.get(verify, verify),
    )
    # Contiguous tensors of their own: where one A serves a batch of right-hand sides there are expansions.
    return Z.contiguous(), stats.status_code.clone(), torch.stack([getattr(stats, name) for name in NUMBERS])


@solve_op.register_fake
def _shapes(
    A: Tensor, B: Tensor | None, numerator: int, denominator: int, *settings: Any, **more: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Empty ones."""
    problem = read_problem(A, B, p_val=None, exponent=Fraction(numerator, denominator), tol=None)
    codes = A.new_empty(problem.batch, dtype=torch.int8)
    return A.new_empty(problem.shape), codes, A.new_empty((6, *problem.batch), dtype=torch.float64)

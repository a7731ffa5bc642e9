"""Every case, power and kind of right-hand side, solved and judged: one sample each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from iroot_solve._errors import IrootError
from iroot_solve._result import SolveResult
from iroot_solve._spd import solve_spd
from iroot_solve.gallery._cases import POWERS, Case
from iroot_solve.gallery._truth import KINDS, Truth, relative_error

# What is asked of the solver: its own choice, and all that the iteration in float32 can give without falling back.
_FINEST = {"tol": 2.0**-23, "precision": "fp32", "fallback": False}
ARMS: dict[str, dict[str, Any]] = {
    "auto": {},
    "float32 on B": {"strategy": "direct-solve", **_FINEST},
    "float32 root": {"strategy": "materialize-root", **_FINEST},
}
PROMISE = 1.01


@dataclass(frozen=True)
class Sample:
    """One solve beside the truth.

    Attributes:
        case, n, dtype, tol, expected: Of the case.
        arm, p, side: What was asked for; `side` is the kind of B.
        kappa: λmax/λmin of the matrix as passed, with its ridge.
        status, strategy, precision, products, steps, fallbacks: As the solver reports them.
        error: ‖Z − Z⋆‖_F/‖Z⋆‖_F; NaN where there is no truth.
        estimate: What the solver says the error is.
        eigh_error: Error of V·λ^(-1/p)·Vᵀ·B by `torch.linalg.eigh` in the dtype of the case (16-bit: in float32).
    """

    case: str
    n: int
    dtype: str
    tol: float
    expected: str
    arm: str
    p: int
    side: str
    kappa: float
    status: str
    strategy: str
    precision: str
    products: dict[str, int]
    steps: int
    fallbacks: tuple[str, ...]
    error: float
    estimate: float
    eigh_error: float

    @property
    def surprising(self) -> bool:
        """Converged and wrong, or a status that the case does not allow."""
        if self.arm != "auto":
            return False
        wrong = self.status == "converged" and not self.error <= self.tol
        return wrong or (self.status != self.expected and (self.expected, self.status) != ("stagnated", "converged"))


def survey(cases: Iterable[Case], powers: tuple[int, ...] = POWERS) -> Iterator[Sample]:
    """Samples in the order of the table; the arms in float32 only for float32 cases that an answer is expected of."""
    for case in cases:
        truth, A = case.truth(), case.matrix()
        fine = case.dtype is torch.float32 and case.status == "converged" and truth.kappa < 2.0**24
        for p in powers:
            for side in KINDS:
                B = truth.right_hand_side(side, case.dtype)
                for arm in ARMS if fine and side == "random" else ("auto",):
                    yield _sample(case, truth, A, B, p, side, arm)


def attempt(A: Tensor, B: Tensor | None, **options: Any) -> SolveResult:
    """The result of `solve_spd`, also where it comes with an exception."""
    try:
        return solve_spd(A, B, **options)
    except IrootError as failure:
        if not isinstance(failure.result, SolveResult):
            raise
        return failure.result


def eigh_root(A: Tensor, B: Tensor, p: int, shift: float) -> Tensor:
    """(A + shift·I)^(-1/p)·B the usual way, in float32 at least; NaN where an eigenvalue comes out negative."""
    S = A.double() if A.dtype is torch.float64 else A.float()
    values, vectors = torch.linalg.eigh(S + shift * torch.eye(len(S), dtype=S.dtype))
    root: Tensor = (vectors * values.pow(-1 / p)) @ (vectors.mT @ B.to(S.dtype))
    return root


def _sample(case: Case, truth: Truth, A: Tensor, B: Tensor, p: int, side: str, arm: str) -> Sample:
    # Without a promise the float32 arms would stop at the first plan, which a Ritz value may have made too short.
    promise = {"kappa_max": PROMISE * truth.kappa} if arm != "auto" else {}
    asked = {"tol": case.tol, "ridge": case.ridge, "ridge_rel": case.ridge_rel, **promise, **ARMS[arm]}
    result = attempt(A, B, p_val=p, **asked)
    stats, known = result.stats, math.isfinite(truth.kappa)
    shift = case.ridge + case.ridge_rel * float(A.double().diagonal().mean())
    true = truth.power(Fraction(-1, p), B) if known else None
    return Sample(
        case=case.name,
        n=case.n,
        dtype=str(case.dtype).removeprefix("torch."),
        tol=asked["tol"],
        expected=case.expected(p, side),
        arm=arm,
        p=p,
        side=side,
        kappa=truth.kappa,
        status=str(stats.status),
        strategy=stats.strategy,
        precision=stats.precision,
        products=dict(stats.products),
        steps=stats.steps,
        fallbacks=stats.fallbacks,
        error=math.nan if true is None else relative_error(result.Z, true),
        estimate=float(stats.error),
        eigh_error=math.nan if true is None else relative_error(eigh_root(A, B, p, shift), true),
    )

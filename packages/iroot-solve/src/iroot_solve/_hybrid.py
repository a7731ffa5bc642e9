"""A⁻¹·B by a few coupled steps and residual correction (p = 1).

Steps that leave X = A⁻¹·(I − E), ‖E‖ ≤ ε, cost less the larger ε is. Then Z ← Z + X·(B − A·Z) takes the error from E·Z⋆
to E²·Z⋆, E³·Z⋆, …: m corrections of two thin products each leave ε^(m+1), and with residuals in float64 the rounding
errors of X count as part of E (iterative refinement: Higham, "Accuracy and Stability of Numerical Algorithms" (2002),
ch. 12). By symmetric products X need not be formed: its factors act on B and on every residual (`correct_on_columns`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from iroot_coeffs import Schedule, plan
from iroot_kernels import CoupledIteration, SymmetricRoot, Workspace, quadratics
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._certificate import Action, Power, Root
from iroot_solve._outcome import Outcome
from iroot_solve._scales import norm

STOPS = (0.3, 0.1, 0.03, 0.01, 1e-3)
# A correction that leaves more than this of the one before is the last one.
CONTRACTS = 0.5
MOST_CORRECTIONS = 40


@dataclass(frozen=True)
class HybridSchedule:
    """Steps, and how many corrections follow them.

    Attributes:
        steps: They leave ε.
        corrections: m.
        formed: X is formed; otherwise its factors act.
        rounding: What a correction leaves of an error beside ε, as predicted.
    """

    steps: Schedule
    corrections: int
    formed: bool = True
    rounding: float = 0.0

    @property
    def left(self) -> float:
        """Of an error, by one correction."""
        return self.steps.error + self.rounding

    @property
    def error(self) -> float:
        """(ε + rounding)^(m+1)."""
        return float(self.left ** (self.corrections + 1))

    @property
    def factors(self) -> int:
        """Thin products of one application of X."""
        return 1 if self.formed else len(self.steps) - 1 + self.steps.steps[-1].degree

    def products(self, k_over_n: float) -> float:
        """n×n×n products, thin ones by their share."""
        square = self.steps.products(None if self.formed else 0.0)
        return square + ((self.corrections + 1) * self.factors + self.corrections) * k_over_n

    def __str__(self) -> str:
        kept = "" if self.formed else ", X kept as its factors"
        return f"{self.steps}, then {self.corrections} residual corrections{kept}"


@lru_cache(maxsize=1024)
def hybrid_schedule(kappa: float, tol: float, k_over_n: float) -> HybridSchedule:
    """The cheapest stop on [1/κ, 1], by products."""
    found = []
    for stop in STOPS:
        steps = plan(1, kappa=kappa, tol=stop)
        found.append(HybridSchedule(steps, corrections_for(steps.error, tol)))
    return min(found, key=lambda schedule: schedule.products(k_over_n))


def corrections_for(left: float, tol: float) -> int:
    """The smallest m ≥ 1 with left^(m+1) ≤ tol."""
    return max(1, math.ceil(math.log(tol) / math.log(left)) - 1)


@dataclass(frozen=True)
class Correction:
    """Z ← Z + X·(B − A·Z).

    Attributes:
        X: V ↦ X·V for V `(b, n, k)` float64, stored column by column; in any dtype.
        A: `(b, n, n)` float64.
        B: `(b, n, k)` float64.
        ws: Where Z and the residual live.
    """

    X: Action
    A: Tensor
    B: Tensor
    ws: Workspace

    def run(self, count: int, first: Tensor | None = None) -> Tensor:
        """Z after so many corrections of `first`, which is X·B. Cost: 2·count + 1 times k columns, or one less."""
        B = self.B
        if first is None:
            R = self.ws.buffer("residual", B.mT.shape, B.dtype, B.device)
            first = self.X(R.copy_(B.mT).mT)
        Z = self.ws.like("Z corrected", B).copy_(first)
        for _ in range(count):
            self.step(Z)
        return Z

    def step(self, Z: Tensor) -> Tensor:
        """One correction, which is returned. Thin matrices as rows: (A·Z)ᵀ = Zᵀ·Aᵀ."""
        R = self.ws.buffer("residual", Z.mT.shape, Z.dtype, Z.device)
        d = self.X(torch.baddbmm(self.B.mT, Z.mT, self.A.mT, alpha=-1, out=R).mT)
        Z.add_(d)
        return d

    def converged(self, done: int, tol: float) -> tuple[Tensor, int] | None:
        """Z after more than `done` corrections and their number; `None` where more are no use.

        They go on while any matrix gains by them: the last one was above tol/2, and at most half of the one before.
        Everything from the start, because the first Z may be in other units by now. Cost: a synchronisation for each.
        """
        Z, before, count = self.run(0), torch.ones(self.B.shape[0], dtype=torch.float64), 0
        going = torch.tensor(True)
        while going.any() and count < MOST_CORRECTIONS:
            now = (norm(self.step(Z)) / norm(Z)).cpu()
            going, before, count = (now <= CONTRACTS * before) & (now > tol / 2), now, count + 1
        return (Z, count) if count > done else None


def correct(
    outcome: Outcome, schedule: HybridSchedule, wide: tuple[Tensor, Tensor], ws: Workspace, tol: float | None = None
) -> Outcome:
    """Refine X·B.

    Args:
        outcome: Of the steps: X is its Z, A⁻¹ to ε.
        schedule: Says how often.
        wide: A and B in float64.
        ws: Where Z lives.
        tol: Where the error of X is mostly rounding, which no plan can promise: more corrections are tried before more
            steps, and the certificate needs no wide copy of X.

    Returns:
        The outcome with Z in float64. Cost: 2·m + 1 thin products.
    """
    assert outcome.root is not None
    X = partial(_times, outcome.Z, ws)
    power = outcome.root.power if tol is None else _power(X)

    def resume() -> Outcome | None:
        again = None if outcome.resume is None else outcome.resume()
        return None if again is None else correct(again, schedule, wide, ws)

    steps = replace(
        outcome,
        root=Root(power, norm=outcome.root.norm),  # the residual of Z shows all of its error
        strategy="hybrid-pe-nsrc",
        resume=resume,
        again=None,  # X alone is no answer for another right-hand side
        holds=(),
    )
    return _corrected(steps, schedule, Correction(X, *wide, ws), tol)


def correct_on_columns(
    S: Tensor,
    B: Tensor,
    schedule: HybridSchedule,
    wide: tuple[Tensor, Tensor],
    name: str,
    ws: Workspace,
    tol: float,
    reduced: bool = False,
) -> Outcome:
    """The same by symmetric products, without X: a step is one product or more, and its factor is kept in its planes.

    Args:
        S: A in float32.
        B: In float32.
        schedule: Says how often.
        wide: A and B in float64.
        name: A precision with planes.
        ws: Where everything lives.
        tol: Of the result, for more corrections than planned.
        reduced: The precision is less than was asked for.

    Returns:
        The outcome with Z in float64. Cost: the products of the steps, less those for X; with k columns `factors`
        times m + 1 that read one or two planes of 16 bits, and m residuals.
    """
    steps = schedule.steps
    state = SymmetricRoot(
        [polynomial(step) for step in steps], p=1, upper=steps.steps[0].hi, precision=name, workspace=ws
    )
    first, X = state(S, B), state.again
    taken = Outcome(
        Z=first,
        root=Root(_power(X)),
        judge=torch.float64,
        strategy="hybrid-pe-nsrc",
        precision=name,
        schedule=schedule,
        steps=len(steps),
        products={"square": state.products.square},
        iterate=state.Y,
        end=steps.steps[-1],
        backend="triton: symmetric products",
        reduced=reduced,
    )
    return _corrected(taken, schedule, Correction(X, *wide, ws), tol, first)


def _corrected(
    outcome: Outcome,
    schedule: HybridSchedule,
    correction: Correction,
    tol: float | None,
    first: Tensor | None = None,
) -> Outcome:
    """The outcome of the steps with a corrected Z; if that is not enough, of more corrections, and then what `outcome`
    resumes with."""

    def counted(count: int) -> dict[str, int]:
        thin = (count + 1) * schedule.factors + count
        return {**outcome.products, "columns": thin * correction.B.shape[-1]}

    def more() -> Outcome | None:
        found = None if tol is None else correction.converged(schedule.corrections, tol)
        if found is None:
            return None if outcome.resume is None else outcome.resume()
        Z, count = found
        longer = replace(schedule, corrections=count)
        return replace(outcome, Z=Z, schedule=longer, products=_columns_only(counted(count)), steps=0)

    Z = correction.run(schedule.corrections, first)
    return replace(outcome, Z=Z, schedule=schedule, products=counted(schedule.corrections), resume=more)


def _columns_only(products: dict[str, int]) -> dict[str, int]:
    """The steps were counted before."""
    return {"columns": products["columns"]}


def _times(X: Tensor, ws: Workspace, V: Tensor) -> Tensor:
    """X·V in the dtype of X, for V stored column by column."""
    rows = V.mT
    if V.dtype is not X.dtype:
        rows = ws.buffer("narrow", rows.shape, X.dtype, V.device).copy_(rows)
    return torch.bmm(rows, X.mT, out=ws.buffer("step", rows.shape, X.dtype, V.device)).mT


def _power(X: Action) -> Power:
    """X^j·V as X acts, rounding what it rounds: enough for the size of an error."""

    def power(j: int, V: Tensor) -> Tensor:
        for _ in range(j):
            V = X(V).to(V.dtype, copy=True)
        return V

    return power


def hybrid_pe_nsrc_solve(
    A_norm: Tensor, B: Tensor, abc_t: Any, corrections: int = 2, ws: Workspace | None = None
) -> tuple[Tensor, Workspace]:
    """Z = A_norm⁻¹·B by quadratic steps and residual correction; the low level, without checks of the answer.

    Args:
        A_norm: `(..., n, n)` symmetric, spectrum in the interval that `abc_t` was made for, at most (0, 1].
        B: `(..., n, k)` with the batch of `A_norm`.
        abc_t: `(T, 3)` rows (a, b, c) for p = 1 (`build_schedule`).
        corrections: How often Z ← Z + X·(B − A·Z) follows; each multiplies the error by that of the steps.
        ws: Workspace to reuse.

    Returns:
        Z `(..., n, k)`, valid until the workspace is used again, and the workspace. Cost: three products a step (two in
        the first and in the last) and 2·corrections + 1 thin ones.

    Raises:
        ValueError: `abc_t` is not `(T, 3)`; corrections < 0.

    Examples:
        >>> import torch
        >>> from iroot_solve import build_schedule, hybrid_pe_nsrc_solve
        >>> abc_t, _ = build_schedule("cpu", p_val=1)
        >>> Z, ws = hybrid_pe_nsrc_solve(torch.diag(torch.tensor([0.25, 1.0])), torch.ones(2, 1), abc_t)
        >>> torch.allclose(Z, torch.tensor([[4.0], [1.0]]), rtol=1e-5)
        True
    """
    if corrections < 0:
        raise ValueError(f"corrections={corrections} must be ≥ 0")
    ws, n = Workspace() if ws is None else ws, A_norm.shape[-1]
    dtype = torch.float64 if A_norm.dtype is torch.float64 else torch.float32
    A, right = A_norm.to(dtype).reshape(-1, n, n), B.to(dtype).reshape(-1, n, B.shape[-1])
    X = _steps(A, quadratics(abc_t), ws)
    Z = torch.bmm(X, right, out=ws.like("Z", right))
    for _ in range(corrections):
        Z = Z.baddbmm_(X, torch.baddbmm(right, A, Z, alpha=-1))
    return Z.reshape(B.shape), ws


def _steps(A: Tensor, steps: Sequence[Any], ws: Workspace) -> Tensor:
    """All steps on the root."""
    name = "fp64" if A.dtype is torch.float64 else "fp32"
    root = CoupledIteration(A, None, p=1, precision=name, workspace=ws)
    for t, q in enumerate(steps, start=1):
        root.step(q, last=t == len(steps))
    assert root.X is not None
    return root.X

"""The coupled iterations of Distributed Shampoo, of second (Newton) and third (Chebyshev) order.

    X ← X·T,   M ← Tᵖ·M,   from X = z^(1/p)·I, M = z·A;   M → I, X → A^(-1/p)

    Newton     T = I + (I − M)/p
    Chebyshev  T = I + (I − M)/p + (1 + p)·(I − M)²/(2p²)

T is the Taylor polynomial of M^(-1/p) about I.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from iroot_solve.bench.rivals._by_root import by_root

MAX_STEPS = 100
NEWTON_TOLERANCE = 1e-6
CHEBYSHEV_TOLERANCE = 1e-8
DIVERGED = 1.2
STAGNATED = 1e-3
INACCURATE = 0.1


def coupled_newton(A: Tensor, p: int) -> Tensor:
    """Second order, z = (p + 1)/(2·‖A‖_F), until max|M − I| ≤ 1e-6."""
    identity = _eye(A)
    X, M = _first_step(A, p, (p + 1) / (2 * torch.linalg.matrix_norm(A)))
    steps = 1
    while _distance(M, identity) > NEWTON_TOLERANCE and steps < MAX_STEPS:
        T = _newton_factor(M, p)
        X = X @ T
        M = torch.linalg.matrix_power(T, p) @ M
        steps += 1
    return X


def third_order(A: Tensor, p: int) -> Tensor:
    """Third order after one Newton step, z = 1/tr A, until max|M − I| ≤ 1e-8 or it stops falling.

    Raises:
        ArithmeticError: max|A·Xᵖ − I| > 0.1.
    """
    identity = _eye(A)
    X, M = _first_step(A, p, 1 / A.trace())
    error = _distance(M, identity)
    steps = 1
    while error > CHEBYSHEV_TOLERANCE and steps < MAX_STEPS:
        R = identity - M
        T = torch.addmm(identity, R.mul((1 + p) / (2 * p**2)).add_(identity, alpha=1 / p), R)
        X = X @ T
        M = torch.linalg.matrix_power(T, p) @ M
        steps += 1
        before, error = error, _distance(M, identity)
        if error > DIVERGED * before or (error == before and before < STAGNATED):
            break
    defect = _distance(A @ torch.linalg.matrix_power(X, p), identity)
    if defect > INACCURATE:
        raise ArithmeticError(f"max|A·X^p − I| = {defect:.1e} exceeds {INACCURATE}")
    return X


def _first_step(A: Tensor, p: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """X and M after a Newton step: X = z^(1/p)·I takes no product."""
    M = A * z
    T = _newton_factor(M, p)
    return T * z ** (1 / p), torch.linalg.matrix_power(T, p) @ M


def _newton_factor(M: Tensor, p: int) -> Tensor:
    T = M.mul(-1 / p)
    T.diagonal().add_((p + 1) / p)
    return T


def _distance(M: Tensor, identity: Tensor) -> float:
    """max|M − I|; waits for the device."""
    return float(torch.dist(M, identity, p=torch.inf))


def _eye(A: Tensor) -> Tensor:
    return torch.eye(len(A), dtype=A.dtype, device=A.device)


COUPLED_NEWTON = (
    by_root(
        "coupled-newton",
        "The coupled inverse Newton iteration, as Distributed Shampoo runs it: scaled by (p + 1)/(2·‖A‖_F), until "
        "max|M − I| ≤ 1e-6 or 100 steps, no damping. One host read a step; a batch is a loop, as its code takes one "
        "matrix at a time. Written from the formula; not Meta's code, which also multiplies X = z^(1/p)·I in its "
        "first step. Source: Guo and Higham, SIAM J. Matrix Anal. Appl. 28 (2006), 788–804; Anil et al., "
        "arXiv:2002.09018; scaling and tolerance of `_matrix_inverse_root_newton` in facebookresearch/optimizers (Shi "
        "et al., arXiv:2309.06497).",
        lambda problem: partial(coupled_newton, p=problem.p),
        batched=False,
    ),
    by_root(
        "third-order",
        "The coupled iteration of third order (Chebyshev's; Lakić's family), as Distributed Shampoo runs it: scaled "
        "by 1/tr A, one Newton step first, until max|M − I| ≤ 1e-8, or grows by 1.2, or stands still below 1e-3; no "
        "damping. It raises where max|A·Xᵖ − I| > 0.1. One host read a step; a batch is a loop. In float32 1e-8 is "
        "below rounding; the steps after convergence multiply denormal numbers, which takes a CPU up to ten times as "
        "long as other products. Written from the formula; not Meta's code. Source: Lakić, ZAMM 78 (1998), 167–172; "
        "scaling and rules of `_matrix_inverse_root_higher_order` (order 3, `CoupledHigherOrderConfig`) in "
        "facebookresearch/optimizers.",
        lambda problem: partial(third_order, p=problem.p),
        batched=False,
    ),
)

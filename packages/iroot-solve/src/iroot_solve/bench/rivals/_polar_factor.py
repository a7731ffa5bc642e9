"""Quintic Newton–Schulz iterations for the polar factor of G, which give the dual form for p = 2 without GᵀG.

    X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X,   X → U = G·(GᵀG)^(-1/2),   (GᵀG)^(-1/2)·Gᵀ·B = Uᵀ·B

This is how the optimizers that they are published for use them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from iroot_coeffs import MUON
from torch import Tensor

from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench.rivals._by_root import FLOATING
from iroot_solve.bench.rivals._newton_schulz import SAFETY, polar_express_steps

MUON_STEPS = 5
TINY = 1e-7


def muon(G: Tensor) -> Tensor:
    """Five times the same quintic, from G/‖G‖_F."""
    return _polar_factor(G, 1.0, [MUON] * MUON_STEPS)


def polar_express(G: Tensor) -> Tensor:
    """Eight quintics, from G/(1.01·‖G‖_F)."""
    return _polar_factor(G, SAFETY, polar_express_steps())


def _polar_factor(G: Tensor, safety: float, steps: Sequence[tuple[float, ...]]) -> Tensor:
    """U `(m, n)`; the iteration runs on the side with fewer rows."""
    X = G.mT if G.shape[-2] > G.shape[-1] else G
    X = X / (torch.linalg.matrix_norm(X) * safety + TINY)
    for a, b, c in steps:
        A = X @ X.mT
        X = torch.addmm(X, torch.addmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.mT if G.shape[-2] > G.shape[-1] else X


def _by_polar_factor(name: str, page: str, polar_factor: Callable[[Tensor], Tensor]) -> Arm:
    def make(problem: Problem) -> Callable[[], Tensor]:
        G, B = problem.G, problem.B
        assert G is not None

        def call() -> Tensor:
            U = polar_factor(G)
            return U.mT if B is None else U.mT @ B

        return call

    return Arm(name, page, _applies, make)


def _applies(problem: Problem) -> bool:
    return problem.kind == "dual" and problem.p == 2 and not problem.ridge and problem.source.dtype in FLOATING


POLAR_FACTOR = (
    _by_polar_factor(
        "muon-5",
        "Muon's five Newton–Schulz steps for the polar factor U of G, then Uᵀ·B. One quintic for all steps, with the "
        "slope at 0 as large as possible: it does not converge to 1, by design; singular values above 3e-3·‖G‖_F "
        "end within 0.32 of it. From G/(‖G‖_F + 1e-7). Its users run it in bfloat16; here it runs in the dtype of the "
        "problem. Written from the formula. Source: Jordan et al., Muon: an optimizer for hidden layers in neural "
        "networks (2024), kellerjordan.github.io/posts/muon.",
        muon,
    ),
    _by_polar_factor(
        "polar-express",
        "The eight published quintics of Polar Express for the polar factor U of G, then Uᵀ·B: minimax for singular "
        "values above 1e-3·‖G‖_F, safety factor 1.01, from G/(1.01·‖G‖_F + 1e-7). Its users stop after five "
        "or six steps and run in bfloat16; here it takes all eight in the dtype of the problem. Written from the "
        "formula. Source: Amsel, Persson, Musco and Gower, arXiv:2505.16932, Implementation 1.",
        polar_express,
    ),
)

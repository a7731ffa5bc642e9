"""Arms that form A^(-1/p) and multiply by it, which is what the published iterations are made for.

    spd      A + r·I                                Z = X·B
    gram     GᵀG + r·I                              Z = X·B
    dual     the smaller of GᵀG + r·I, GGᵀ + r·I    Z = X·(GᵀB) or Gᵀ·(X·B)

with X the root of the matrix on the left, formed inside the time; the root itself where there is no B.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iroot_solve.bench._arm import Arm, Problem

Root = Callable[[Tensor], Tensor]
SYMMETRIC = ("spd", "gram", "dual")
LAPACK_DTYPES = (torch.float32, torch.float64)
FLOATING = (*LAPACK_DTYPES, torch.bfloat16, torch.float16)


def by_root(
    name: str,
    page: str,
    solver: Callable[[Problem], Root],
    *,
    orders: tuple[int, ...] = (),
    kinds: tuple[str, ...] = SYMMETRIC,
    batched: bool = True,
    dtypes: tuple[torch.dtype, ...] = LAPACK_DTYPES,
    needs: str | None = None,
) -> Arm:
    """An arm of a function that returns the root.

    Args:
        name, page, needs: Of the arm.
        solver: Gives, outside the time, the function matrix -> matrix^(-1/p); it is called for every matrix of a batch
            where it takes no batches.
        orders: The p it exists for; empty for every p ≥ 2.
        kinds: Of the problems that it answers.
        batched: Whether it takes `(b, n, n)`.
        dtypes: It is meant for.
    """

    def applies(problem: Problem) -> bool:
        known = problem.p in orders if orders else problem.p > 1
        return known and problem.kind in kinds and problem.source.dtype in dtypes

    def make(problem: Problem) -> Callable[[], Tensor]:
        root = solver(problem)

        def call() -> Tensor:
            M = matrix(problem)
            X = root(M) if batched or M.ndim == 2 else torch.stack([root(element) for element in M])
            return applied(X, problem)

        return call

    return Arm(name, page, applies, make, needs)


def matrix(problem: Problem) -> Tensor:
    """What the root is taken of, ridge included."""
    M = problem.source if problem.G is None else _gram_matrix(problem.G, smaller=problem.kind == "dual")
    if problem.ridge:
        M = M.clone() if problem.G is None else M
        M.diagonal(dim1=-2, dim2=-1).add_(problem.ridge)
    return M


def applied(X: Tensor, problem: Problem) -> Tensor:
    """Z of the root X."""
    G, B = problem.G, problem.B
    if problem.kind != "dual" or G is None:
        return X if B is None else X @ B
    right = torch.eye(len(G), dtype=G.dtype, device=G.device) if B is None else B
    return G.mT @ (X @ right) if _wide(G) else X @ (G.mT @ right)


def _gram_matrix(G: Tensor, smaller: bool) -> Tensor:
    return G @ G.mT if smaller and _wide(G) else G.mT @ G


def _wide(G: Tensor) -> bool:
    return G.shape[-2] < G.shape[-1]

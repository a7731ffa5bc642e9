"""Inverse roots of the package pytorch-optimizer: its own code, with its own settings."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from iroot_solve.bench._arm import Problem
from iroot_solve.bench.rivals._by_root import by_root

PACKAGE = "pytorch-optimizer"


def _schur_newton(problem: Problem) -> Callable[[Tensor], Tensor]:
    solve = import_module("pytorch_optimizer.optimizer.utils").compute_power_schur_newton

    def root(A: Tensor) -> Tensor:
        X: Tensor = solve(A, problem.p)
        return X

    return root


def _newton_db(problem: Problem) -> Callable[[Tensor], Tensor]:
    """DASH's inverse root; an optimizer needs a parameter to exist."""
    dash = import_module("pytorch_optimizer").DASH([torch.nn.Parameter(torch.zeros(1))])

    def root(A: Tensor) -> Tensor:
        X: Tensor = dash.compute_inverse_root(A.reshape(-1, *A.shape[-2:]), problem.p, dash.param_groups[0])
        return X.reshape(A.shape)

    return root


PYTORCH_OPTIMIZER = (
    by_root(
        "schur-newton",
        "`compute_power_schur_newton` of pytorch-optimizer, as its Scalable Shampoo calls it: the coupled Newton "
        "iteration of arm `coupled-newton`, but until max|M − I| ≤ 1e-3 or it grows by 1.2, and **damped**: it adds "
        "1e-6·λmax·I, with λmax of a hundred power iterations from a random vector. So it is the root of another "
        "matrix: for κ = 1e5 the smallest eigenvalue is 10 % larger. One host read a step; a batch is a loop. The "
        "package's own code with its defaults. Source: pytorch-optimizer on PyPI; Guo and Higham, SIAM J. Matrix "
        "Anal. Appl. 28 (2006), 788–804.",
        _schur_newton,
        batched=False,
        needs=PACKAGE,
    ),
    by_root(
        "newton-db",
        "The inverse root of DASH in pytorch-optimizer (“Newton-DB”): ten coupled Newton–Schulz steps, for p = 4 ten "
        "for the square root and ten more, whatever the matrix; ten steps do not finish the small eigenvalues of κ = "
        "1e3. Scaled by twice the result of ten power iterations in bfloat16 from 16 random vectors; damped by "
        "1e-10·I. No stopping rule, no host read, batches at once. The package's own code with its defaults. Source: "
        "pytorch-optimizer on PyPI; Modoranu et al., DASH, arXiv:2602.02016.",
        _newton_db,
        orders=(2, 4),
        needs=PACKAGE,
    ),
)

"""Spectral functions of the package torchspd: its own code."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from iroot_solve.bench._arm import Problem
from iroot_solve.bench.rivals._by_root import by_root


def _power(problem: Problem) -> Callable[[Tensor], Tensor]:
    powm = import_module("torchspd").powm

    def root(A: Tensor) -> Tensor:
        X: Tensor = powm(A, -1 / problem.p)
        return X

    return root


TORCHSPD = (
    by_root(
        "torchspd",
        "`torchspd.powm`: `torch.linalg.eigh` of (A + Aᵀ)/2 and V·λ^(-1/p)·Vᵀ, with a derivative that survives equal "
        "eigenvalues. No damping; eigenvalues that are not positive count as zero, without a word. What differs from "
        "`eigh` in the dtype of the problem is the derivative, which is not measured here. The package's own code. "
        "Source: torchspd on PyPI.",
        _power,
        needs="torchspd",
    ),
)

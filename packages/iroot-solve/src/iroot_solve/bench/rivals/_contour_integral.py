"""Contour integral quadrature of the package linear-operator: its own code, with its own settings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module

from torch import Tensor

from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench.rivals._by_root import LAPACK_DTYPES, matrix


def _make(problem: Problem) -> Callable[[], Tensor]:
    with warnings.catch_warnings():
        # It still uses torch.jit.script.
        warnings.simplefilter("ignore", DeprecationWarning)
        sqrt_inv_matmul = import_module("linear_operator").sqrt_inv_matmul

    def call() -> Tensor:
        Z: Tensor = sqrt_inv_matmul(matrix(problem), problem.B)
        return Z

    return call


def _applies(problem: Problem) -> bool:
    B, source = problem.B, problem.source
    thin = B is not None and B.shape[-1] < source.shape[-1]
    return thin and problem.p == 2 and problem.kind in ("spd", "gram") and source.dtype in LAPACK_DTYPES


CONTOUR_INTEGRAL = (
    Arm(
        "contour-integral",
        "Contour integral quadrature, `linear_operator.sqrt_inv_matmul`, GPyTorch's way to A^(-1/2)·B: 15 shifted "
        "systems by one MINRES to 1e-4, shifts from at most 20 conjugate gradient steps that estimate the ends of the "
        "spectrum. It acts on B and forms no root; made for k ≪ n and products that are cheaper than n²·k. No "
        "damping, no preconditioner. Of a Gram problem it gets GᵀG + r·I, formed inside the time. The package's own "
        "code with its defaults. Source: linear-operator on PyPI; Pleiss, Jankowiak, Eriksson, Damle and Gardner, "
        "NeurIPS 33 (2020), arXiv:2006.11267.",
        _applies,
        _make,
        needs="linear-operator",
    ),
)

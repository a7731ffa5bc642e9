"""What the tests share: matrices with a known spectrum, their true roots, and steps found here from scratch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import cycle

import numpy as np
import pytest
import torch
from iroot_kernels import Polynomial
from numpy.polynomial.chebyshev import chebvander
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Kernels run on a CPU where there is no GPU. Triton decides that when it is first imported, its own functions included.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

Schedule = Callable[..., list[Polynomial]]


def extrema(residual: np.ndarray) -> np.ndarray:
    """Where |residual| is largest in every run of one sign."""
    runs = np.split(np.arange(len(residual)), np.flatnonzero(np.diff(np.sign(residual))) + 1)
    return np.array([run[np.argmax(np.abs(residual[run]))] for run in runs])


@cache
def remez(p: int, degree: int, lo: float, hi: float) -> tuple[tuple[float, ...], float]:
    """(t, ε): Σ t_k T_k(x) is the best relative approximation of y^(-1/p) on [lo, hi], ε its error on a grid."""
    grid = np.union1d(np.geomspace(lo, hi, 6000), np.linspace(lo, hi, 6000))
    center, half = (hi + lo) / 2, (hi - lo) / 2
    basis = chebvander((grid - center) / half, degree) * grid[:, None] ** (1 / p)
    at = np.searchsorted(grid, center - half * np.cos(np.pi * np.arange(degree + 2) / (degree + 1)))
    at = at.clip(0, len(grid) - 1)
    for _ in range(100):
        signs = (-1.0) ** np.arange(degree + 2)
        *t, level = np.linalg.solve(np.column_stack([basis[at], signs]), np.ones(degree + 2))
        residual = basis @ t - 1
        error = np.abs(residual).max()
        if error <= max(1.001 * abs(level), 1e-10):  # below 1e-10 the signs of the residual are rounding
            break
        at = extrema(residual)
        while len(at) > degree + 2:  # of too many alternations drop the smaller end
            at = at[1:] if abs(residual[at[0]]) < abs(residual[at[-1]]) else at[:-1]
    else:
        raise ArithmeticError(f"no minimax polynomial for {(p, degree, lo, hi)}")
    return tuple(map(float, t)), float(error)


def step(p: int, degree: int, lo: float, hi: float) -> tuple[Polynomial, float]:
    """The best step for a spectrum in [lo, hi], and its error.

    Half the width h is 1e-17^(1/(d + 1)) at least: ε ~ h^(d+1) gains nothing below that, and away from the interval
    the coefficients' rounding would grow to u·|2/h|^d, which an eigenvalue below `lo` (zero, say) would meet.
    """
    half = max((hi - lo) / 2, 1e-17 ** (1 / (degree + 1)))
    center = (hi + lo) / 2
    t, error = remez(p, degree, center - half, center + half)
    return Polynomial(center, half, t), error


@pytest.fixture(scope="session")
def schedule() -> Schedule:
    """schedule(p, κ, degrees, tol): steps for a spectrum in [0.9/κ, 1.001], the degrees used in turn, until ε ≤ tol.

    0.9 and 1.001 leave room for the rounding of the matrix to float32, which moves λmin = 1e-6 by a few per cent.
    """

    def make(p: int, kappa: float, degrees: Sequence[int], tol: float = 1e-8) -> list[Polynomial]:
        lo, hi, steps = 0.9 / kappa, 1.001, []
        for degree in cycle(degrees):
            q, error = step(p, degree, lo, hi)
            steps.append(q)
            if error <= tol:
                return steps
            # The grid of `remez` may miss a little of the extrema.
            error = min(error * 1.001, (error + 1) / 2)
            lo, hi = (1 - error) ** p, (1 + error) ** p
        raise AssertionError

    return make


def orthogonal(n: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator)).Q


def symmetric(values: ArrayLike, batch: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    eigenvalues = torch.from_numpy(np.array(values, dtype=np.float64))
    Q = torch.stack([orthogonal(len(eigenvalues), generator) for _ in range(batch)])
    A = (Q * eigenvalues) @ Q.mT
    return (A + A.mT) / 2, Q


@pytest.fixture(scope="session")
def with_spectrum() -> Callable[..., tuple[Tensor, Tensor]]:
    """with_spectrum(values, batch, seed): (A, its eigenvectors) in a dense random eigenbasis, `(batch, n, n)` each."""
    return symmetric


@pytest.fixture(scope="session")
def spd() -> Callable[..., Tensor]:
    """spd(n, κ, batch, dtype): log-spaced spectrum in [1/κ, 1], dense random eigenbasis, `(batch, n, n)`."""

    @cache
    def make(n: int, kappa: float, batch: int = 1, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
        return symmetric(np.geomspace(1 / kappa, 1, n), batch, seed)[0].to(dtype)

    return make


@pytest.fixture(scope="session")
def rhs() -> Callable[..., Tensor]:
    """rhs(n, k, batch, dtype): normal numbers, `(batch, n, k)`."""

    def make(n: int, k: int, batch: int = 1, dtype: torch.dtype = torch.float64, seed: int = 7) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, n, k, generator=generator, dtype=torch.float64).to(dtype)

    return make


@pytest.fixture(scope="session")
def power() -> Callable[[Tensor, float], Tensor]:
    """power(A, exponent) in float64 through numpy's eigendecomposition of the values that A stores."""

    def make(A: Tensor, exponent: float) -> Tensor:
        values, vectors = np.linalg.eigh(A.double().cpu().numpy())
        return torch.from_numpy((vectors * values[..., None, :] ** exponent) @ vectors.swapaxes(-1, -2))

    return make


@pytest.fixture(scope="session")
def error() -> Callable[[Tensor | None, Tensor], float]:
    """error(X, truth): ‖X − truth‖_F/‖truth‖_F, the largest of the batch, inf where X is not finite."""

    def measure(X: Tensor | None, truth: Tensor) -> float:
        assert X is not None
        relative = torch.linalg.matrix_norm(X.double().cpu() - truth) / torch.linalg.matrix_norm(truth)
        return float(torch.nan_to_num(relative, nan=float("inf")).max())

    return measure


class Allocations(TorchDispatchMode):
    """Records the operators whose result of at least `least` numbers lives in storage that no argument brought.

    Counts the matrix products of one matrix on the way.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.made: list[str] = []
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        held = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        self.products += "addmm" in str(func)
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.numel() >= self.least and t.untyped_storage()._cdata not in held:
                self.made.append(str(func))
        return result


@pytest.fixture(scope="session")
def allocations() -> type[Allocations]:
    return Allocations


@pytest.fixture
def flags() -> Iterator[None]:
    """Restores torch's global precision flags."""
    matmuls = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)
    before = [matmul.fp32_precision for matmul in matmuls]
    yield
    torch.set_float32_matmul_precision("highest")
    for matmul, value in zip(matmuls, before, strict=True):
        matmul.fp32_precision = value

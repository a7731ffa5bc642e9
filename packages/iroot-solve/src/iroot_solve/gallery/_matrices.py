"""Dense symmetric float64 matrices: random eigenbases with a wanted spectrum, and classical ones with their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iroot_solve.gallery._spectra import Spectrum, log_spaced

Array = NDArray[np.float64]


class Matrix(NamedTuple):
    """A float64 `(n, n)`, exactly symmetric, and its spectrum `(n,)`, descending, where it is known by construction."""

    A: Tensor
    spectrum: Tensor | None


def random_basis(n: int, seed: int) -> Array:
    """An orthogonal matrix, uniformly distributed: QR of a Gaussian one with the signs of R removed."""
    Q, R = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return np.asarray(Q * np.sign(np.diag(R)))


def dense(values: Spectrum, scale: float = 1.0, seed: int = 0) -> Matrix:
    """scale·V·diag(values)·Vᵀ with a random V; a scale that is no power of two costs one rounding more."""
    V = random_basis(len(values), seed)
    return _symmetric((V * (values * scale)) @ V.T, values * scale)


def wishart(n: int, samples: int, seed: int = 0) -> Matrix:
    """GᵀG/m of a Gaussian G `(m, n)`: a sample covariance; of rank m for m < n."""
    G = np.random.default_rng(seed).standard_normal((samples, n))
    return _symmetric(G.T @ G / samples)


def hilbert(n: int) -> Matrix:
    """1/(i + j + 1): κ grows like e^(3.5·n)."""
    i = np.arange(n)
    return _symmetric(1.0 / (i[:, None] + i + 1.0))


def kahan_gram(n: int, theta: float) -> Matrix:
    """KᵀK of Kahan's triangular matrix, whose small singular value no pivot shows."""
    K = np.sin(theta) ** np.arange(n)[:, None] * (np.eye(n) - np.cos(theta) * np.triu(np.ones((n, n)), 1))
    return _symmetric(K.T @ K)


def graded(n: int, decades: float, shuffled: bool = False, kappa: float = 10.0, seed: int = 0) -> Matrix:
    """D·C·D with C of unit diagonal and condition about κ, and D² from 10^decades down to 10^-decades.

    Its tiny eigenvalues are determined by its entries to κ(C)·u each (Demmel and Veselić, SIAM J. Matrix Anal. Appl.
    13, 1992), although far below u·λmax. Shuffled, the diagonal is in no order that a tridiagonalisation could use.
    """
    V = random_basis(n, seed)
    C = (V * log_spaced(n, kappa)) @ V.T
    d = 10.0 ** np.linspace(decades / 2, -decades / 2, n) / np.sqrt(np.diag(C))
    order = np.random.default_rng(seed + 1).permutation(n) if shuffled else np.arange(n)
    return _symmetric((d[:, None] * C * d)[np.ix_(order, order)])


def _symmetric(A: NDArray[np.floating[Any]], values: Spectrum | None = None) -> Matrix:
    spectrum = None if values is None else torch.from_numpy(np.array(values))
    return Matrix(torch.from_numpy(np.tril(A) + np.tril(A, -1).T), spectrum)

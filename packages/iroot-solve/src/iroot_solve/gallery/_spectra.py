"""Spectra that are hard in different ways, largest eigenvalue first and near 1; float64 `(n,)`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Spectrum = NDArray[np.float64]


def log_spaced(n: int, kappa: float) -> Spectrum:
    """κ^(-i/(n−1)): every decade counts alike."""
    return np.geomspace(1.0, 1.0 / kappa, n)


def one_tiny(n: int, kappa: float) -> Spectrum:
    """[1/2, 1] and a single 1/κ, which a residual of all of X hardly sees."""
    return np.append(np.linspace(1.0, 0.5, n - 1), 1.0 / kappa)


def cluster_and_tail(n: int, kappa: float) -> Spectrum:
    """Three quarters within 1 % of 1, the rest log-spaced down to 1/κ."""
    tail = n // 4
    return np.concatenate((np.linspace(1.0, 0.99, n - tail), np.geomspace(0.5, 1.0 / kappa, tail)))


def power_law(n: int, exponent: float) -> Spectrum:
    """i^(-exponent): covariances of natural data."""
    return np.arange(1.0, n + 1) ** -exponent


def two_values(n: int, kappa: float) -> Spectrum:
    """Half 1, half 1/κ: no Krylov direction tells how many there are."""
    return np.where(np.arange(n) < n // 2, 1.0, 1.0 / kappa)


def marchenko_pastur(n: int, aspect: float) -> Spectrum:
    """Quantiles of the limit law of Wishart spectra with n/m = aspect < 1, by its density on a fine grid."""
    lower, upper = (1 - aspect**0.5) ** 2, (1 + aspect**0.5) ** 2
    x = lower + (upper - lower) * np.sin(np.linspace(0.0, np.pi / 2, 20001)) ** 2
    density = np.sqrt((x - lower) * (upper - x)) / x
    mass = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x)))
    quantiles = np.interp((np.arange(n) + 0.5) / n, mass / mass[-1], x)
    return np.asarray(quantiles[::-1] / upper)


def semidefinite(n: int, rank: int) -> Spectrum:
    """[1/2, 1] on `rank` directions, 0 on the others."""
    return np.append(np.linspace(1.0, 0.5, rank), np.zeros(n - rank))

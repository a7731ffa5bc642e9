"""Where q(y) y^a can have extrema: the real roots of g = a q + y q', from Chebyshev coefficients."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNIT = 2.0**-53
SAMPLED_DEGREE = 20


@functools.lru_cache(maxsize=256)
def derivative_matrices(degree: int) -> tuple[Array, Array]:
    """d/dt and t d/dt on Chebyshev coefficients, both (degree + 1, degree + 1)."""
    k = np.arange(degree + 1)
    odd_above = (k[None, :] > k[:, None]) & ((k[None, :] + k[:, None]) % 2 == 1)
    derivative = np.where(odd_above, 2.0 * k[None, :], 0.0)
    derivative[0] /= 2
    times_t = np.zeros((degree + 1, degree + 1))
    for j in range(1, degree + 1):
        times_t[j - 1, j] = 0.5
        times_t[j, j - 1] = 0.5
    if degree >= 1:
        times_t[1, 0] = 1.0
    return derivative, times_t @ derivative


def slope_coefficients(c: Array, a: Array, low_end: Array) -> Array:
    """Chebyshev coefficients (..., d + 1) of g = a q + y q' on [l, 1]; y/(dy/dt) = (1 + l)/(1 - l) + t."""
    ratio = (1 + low_end) / (1 - low_end)
    derivative, t_derivative = derivative_matrices(c.shape[-1] - 1)
    # einsum, not BLAS: threads cost more than such small products, far more while other threads spin
    slope = np.einsum("jk,...k->...j", derivative, c)
    return np.asarray(a * c + ratio * slope + np.einsum("jk,...k->...j", t_derivative, c))


def chebyshev_roots(g: Array) -> NDArray[np.complex128]:
    """All d roots (..., d) of polynomials with Chebyshev coefficients g (..., d + 1)."""
    d = g.shape[-1] - 1
    # one that vanished is lifted to far under rounding: the root goes far away instead of to infinity
    least = 2.0**-100 * np.max(np.abs(g), axis=-1, keepdims=True) + 1e-300
    ratio = -0.5 * g[..., :-1] / np.where(np.abs(g[..., -1:]) < least, least, g[..., -1:])
    if d == 1:
        return (2 * ratio).astype(np.complex128)
    root_half = math.sqrt(0.5)
    matrix = np.zeros((*g.shape[:-1], d, d))
    k = np.arange(d - 1)
    matrix[..., k, k + 1] = matrix[..., k + 1, k] = np.where(k == 0, root_half, 0.5)
    scale = np.where(np.arange(d) == 0, 1 / root_half, 1.0)
    matrix[..., :, -1] += ratio * scale
    # rotated, so that the large column comes first: the eigenvalues are then more accurate
    return np.linalg.eigvals(matrix[..., ::-1, ::-1]).astype(np.complex128)


def sampled_roots(g: Array) -> Array | None:
    """The d roots of one polynomial if its signs at 8 (d + 1) points show all of them, else None.

    d sign changes are all the roots there can be, so finding them is a proof; two Newton steps in the angle
    leave 1e-8 of their spacing. Cheaper than eigenvalues from degree 20 on.
    """
    d = len(g) - 1
    n = 8 * (d + 1)
    values = np.fft.rfft(g, 2 * n).real
    j = np.flatnonzero(values[:-1] * values[1:] < 0)
    if len(j) != d:
        return None
    theta = (j + values[j] / (values[j] - values[j + 1])) * (math.pi / n)
    k = np.arange(d + 1.0)
    for _ in range(2):
        angles = theta[:, None] * k
        value, slope = np.einsum("ij,j->i", np.cos(angles), g), np.einsum("ij,j->i", np.sin(angles), k * g)
        theta = theta + value / slope
    return np.asarray(np.cos(theta[::-1]))


def all_roots(g: Array) -> NDArray[np.complex128]:
    """All d roots of one polynomial."""
    roots = sampled_roots(g) if len(g) > SAMPLED_DEGREE else None
    return chebyshev_roots(g) if roots is None else roots.astype(np.complex128)


def critical_points(c: Array, a: float, low_end: float) -> Array:
    """-1, 1 and the real parts of all roots of a q + y q' inside: every extremum of q y^a is among them."""
    g = slope_coefficients(c, np.float64(a), np.float64(low_end))
    # a leading coefficient under rounding only makes roots at infinity
    relevant = np.flatnonzero(np.abs(g) > UNIT * 2**-6 * np.max(np.abs(g)))
    size = int(relevant[-1]) + 1 if relevant.size else 1
    roots = all_roots(g[:size]).real if size > 1 else np.empty(0)
    return np.concatenate(([-1.0], np.unique(roots[np.abs(roots) < 1]), [1.0]))


def basis(t: Array, size: int) -> Array:
    """T_k(t_i), (N, size)."""
    return np.asarray(np.cos(np.arccos(t)[:, None] * np.arange(float(size))))

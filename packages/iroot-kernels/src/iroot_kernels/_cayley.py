"""A^α·B by a Chebyshev sum in the Cayley transform of A, after one Cholesky factorisation.

With σ = √(l·u) the transform c = (x − σ)/(x + σ) takes [l, u] to [−a, a], a = (√κ − 1)/(√κ + 1), κ = u/l, and

    x^α = σ^α·g(c),     g(c) = ((1 + c)/(1 − c))^α.

The nearest singularities of g are ±1, so that its Chebyshev sum on [−a, a] converges like (1 + 2·κ^(-1/4))^(-d), where
that of x^α on [l, u] converges like (1 + 2·κ^(-1/2))^(-d): the degree grows like κ^¼ instead of κ^½, for any α. A
product with c is one with an inverse, c·V = V − 2σ·(A + σ·I)^(-1)·V, of a matrix of condition √κ: it is formed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor

from iroot_kernels._chebyshev import clenshaw, per_matrix
from iroot_kernels._rows import Action
from iroot_kernels._workspace import Workspace

_LARGEST = 2**14


def cayley_coefficients(exponent: float, kappa: float, tol: float) -> NDArray[np.float64]:
    """Coefficients (d + 1,) of the shortest Chebyshev sum of g on [−a, a] with a relative error of at most `tol`.

    Args:
        exponent: α.
        kappa: κ ≥ 1, the ratio of the ends of the interval.
        tol: max |sum/g − 1| on the interval, measured on a grid.

    Raises:
        ValueError: κ < 1, or `tol` is out of reach: the coefficients' rounding is u·κ^|α| of the smallest value.
    """
    if not kappa >= 1 or not tol > 0:
        raise ValueError(f"kappa={kappa} must be ≥ 1 and tol={tol} > 0")
    size = 32
    while size <= _LARGEST:
        g = _values(exponent, kappa, size)
        c, kept = _interpolated(g), size // 2
        error = _Error(c, _values(exponent, kappa, 2 * size))
        if error(kept) <= tol / 2:
            return c[: _fewest(error, kept, tol)]
        # More points do not help where the coefficients have come down to their rounding.
        size = 2 * size if np.abs(c[kept:]).max() > 2.0**-50 * g.max() else _LARGEST + 1
    raise ValueError(f"cayley_coefficients: tol={tol} is out of reach for kappa={kappa}: raise tol or lower kappa")


def _values(exponent: float, kappa: float, size: int) -> NDArray[np.float64]:
    """g at the points a·cos(π·i/size); 1 ± c from 1 − a and half angles, accurate where c is close to ±1."""
    half_angle = np.pi / 2 * np.arange(size + 1) / size
    rest = 2 / (math.sqrt(kappa) + 1)
    up, down = rest + 2 * (1 - rest) * np.cos(half_angle) ** 2, rest + 2 * (1 - rest) * np.sin(half_angle) ** 2
    return np.asarray((up / down) ** exponent)


def _interpolated(g: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients of the interpolant of values at cos(π·i/N), by a cosine transform."""
    c = np.fft.rfft(np.concatenate((g, g[-2:0:-1]))).real / (len(g) - 1)
    c[[0, -1]] /= 2
    return np.asarray(c)


class _Error:
    """The relative error of a sum cut after `count` coefficients, on the grid of the given values of g."""

    def __init__(self, c: NDArray[np.float64], g: NDArray[np.float64]) -> None:
        self.c, self.g = c, g
        self.x = np.cos(np.pi * np.arange(len(g)) / (len(g) - 1))

    def __call__(self, count: int) -> float:
        return float(np.abs(chebyshev.chebval(self.x, self.c[:count]) / self.g - 1).max())


def _fewest(error: _Error, enough: int, tol: float) -> int:
    """The fewest coefficients with an error ≤ tol, by bisection below `enough`."""
    below = 0
    while enough - below > 1:
        middle = (below + enough) // 2
        below, enough = (below, middle) if error(middle) <= tol else (middle, enough)
    return enough


def cayley_apply(
    A: Tensor,
    B: Tensor,
    coefficients: Sequence[float] | NDArray[np.float64],
    low: float | Tensor,
    high: float | Tensor,
    *,
    exponent: float,
    ws: Workspace | None = None,
) -> tuple[Tensor, Tensor]:
    """A^exponent·B for symmetric positive definite A with spectrum in [low, high].

    Args:
        A: `(b, n, n)`, float32 or float64; the lower triangle is read. Not changed.
        B: `(b, n, k)` like A. Not changed.
        coefficients: `cayley_coefficients(exponent, high/low, tol)`.
        low: l > 0, a number or one per matrix (b,).
        high: u ≥ l, a number or one per matrix (b,). The ratio u/l must be the coefficients' kappa for every matrix:
            lower `low` where it is smaller.
        exponent: α.
        ws: Buffers: two of A's size, four of B's, with Z.

    Returns:
        Z `(b, n, k)`, stored column by column in a buffer of the workspace, and failed (b,) bool: the factorisation met
        a pivot ≤ 0, so A + √(low·high)·I is not positive definite; Z is NaN there. Rounding: about u·κ.

    Raises:
        TypeError: A is not float32 or float64, or B is not like A.
        ValueError: Shapes that do not fit, or no coefficients.

    Cost: one Cholesky factorisation and inverse (n³ multiply-adds) and d products with k columns; no synchronisation.
    """
    if A.dtype not in (torch.float32, torch.float64) or B.dtype != A.dtype:
        raise TypeError(f"A and B must both be float32 or float64, not {A.dtype} and {B.dtype}")
    if A.ndim != 3 or B.ndim != 3 or A.shape[1] != A.shape[2] or A.shape[:2] != B.shape[:2] or len(coefficients) == 0:
        raise ValueError(
            f"A {tuple(A.shape)} and B {tuple(B.shape)} must have shapes (b, n, n) and (b, n, k), "
            f"and coefficients, here {len(coefficients)}, must hold c_0 at least"
        )
    ws = Workspace() if ws is None else ws
    low, high = per_matrix(low, B), per_matrix(high, B)
    sigma, root = (low * high).sqrt(), (high / low).sqrt()
    half_width = (root - 1) / (root + 1)
    columns = ws.buffer("cayley columns", B.mT.shape, B.dtype, B.device).mT
    solve, failed = shifted_solve(A, sigma, columns, ws)
    Z = clenshaw(solve, B, [float(c) for c in coefficients], -2 * sigma / half_width, 1 / half_width, ws)
    return Z.mul_((sigma**exponent).to(B.dtype)).masked_fill_(failed[:, None, None], torch.nan), failed


def cholesky_inverse(L: Tensor, out: Tensor, ws: Workspace) -> Tensor:
    """(L·Lᵀ)⁻¹ by LAPACK; on a GPU, where torch's routine may leave the device, as L⁻ᵀ·L⁻¹, which a graph can hold.

    Args:
        L: `(b, n, n)` lower triangular.
        out: `(b, n, n)`, not L.
        ws: Where L⁻¹ lives.

    Returns:
        `out`. Cost: 2n³/3 multiply-adds; on a GPU a triangular solve with n columns, and a product.

    Examples:
        >>> import torch
        >>> from iroot_kernels import Workspace, cholesky_inverse
        >>> L = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])
        >>> cholesky_inverse(L, torch.empty_like(L), Workspace()).diagonal(dim1=-2, dim2=-1)
        tensor([[0.2500, 0.0625]])
    """
    return torch.cholesky_inverse(L, out=out) if L.device.type == "cpu" else _by_solves(L, out, ws)


def _by_solves(L: Tensor, out: Tensor, ws: Workspace) -> Tensor:
    """U·Uᵀ with U = L⁻ᵀ."""
    U = ws.like("inverse factor", out).zero_()
    U.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    torch.linalg.solve_triangular(L, U.mT, upper=False, out=U.mT)  # column by column
    return torch.bmm(U, U.mT, out=out)


def shifted_solve(A: Tensor, sigma: Tensor, B: Tensor, ws: Workspace) -> tuple[Action, Tensor]:
    """V ↦ (A + σ·I)⁻¹·V for V like B, always into the same buffer, and where there is no Cholesky factor.

    The inverse is formed: it has condition √κ, and a product with it takes a fraction of two triangular solves.
    """
    shifted = ws.like("cayley shifted", A).copy_(A)
    shifted.diagonal(dim1=-2, dim2=-1).add_(sigma[..., 0].to(A.dtype))
    L = ws.like("cayley factor", A).mT
    info = ws.buffer("cayley info", A.shape[:1], torch.int32, A.device)
    torch.linalg.cholesky_ex(shifted, out=(L, info))
    L.masked_fill_((info != 0)[:, None, None], torch.nan)  # LAPACK would raise for a zero on the diagonal
    inverse = cholesky_inverse(L, shifted, ws)
    return multiplication(inverse, B, ws), info != 0


def multiplication(S: Tensor, B: Tensor, ws: Workspace) -> Action:
    """V ↦ S·V for symmetric S `(b, n, n)` and V stored as B is, always into the same buffer."""
    if B.is_contiguous():
        rows = ws.buffer("multiplied", B.shape, S.dtype, S.device)
        return lambda V: torch.bmm(S, V, out=rows)
    columns = ws.buffer("multiplied columns", B.mT.shape, S.dtype, S.device)
    return lambda V: torch.bmm(V.mT, S, out=columns).mT

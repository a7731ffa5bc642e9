"""A^(-1/p) of a general matrix, defective or not: square roots, then coupled Newton steps.

p = 2^r·q with q odd. Square roots by the product form of the Denman–Beavers iteration (Cheng, Higham, Kenney & Laub
2001; Higham, "Functions of Matrices" (2008), §6.3) with the determinantal scaling μ = |det M|^(-1/2n):

    M ← (I + (μ²·M + (μ²·M)⁻¹)/2)/2,   X ← μ·X·(I + (μ²·M)⁻¹)/2,   Y ← μ·Y·(I + (μ²·M)⁻¹)/2

from M = X = A, Y = I: M → I, X → A^½, Y → A^-½ for every spectrum away from (−∞, 0]. For q = 1 that is all. Otherwise
roots are taken until the spectrum of C = A^(1/2^m) lies within a third of its centre c and within π/8 of the real axis,
where the coupled Newton iteration (Guo & Higham 2006)

    X ← X·G,   M ← G^q·M,   G = ((q + 1)·I − M)/q,   from X = c^(-1/q)·I, M = C/c

converges to C^(-1/q) at once; then A^(-1/p) = C^(-2^(m−r)/q).

The error: X is exactly the root of A·(I − E)⁻¹ ≈ A·(I + E), E = I − X^p·A. The root of A·(I + t·E) is computed too, and
differs from X by t − 1 times the error of X, but for rounding errors of its own, which with t = 100 count for a
hundredth. This needs no eigenvectors and no normality.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._eig_root import GeneralRoot, appraise_root, unchecked
from iroot_solve._root_defect import root_defect
from iroot_solve._scales import norm

MAX_STEPS = 50
MAGNIFIED = 100.0
# ‖M − I‖_F: no scaling below the first; below the second a step that does not halve it is the last.
NEAR, CLOSE = 1e-2, 1e-6


def newton_root(A: Tensor, values: Tensor, B: Tensor | None, p: int, verify: bool, doubled: bool) -> GeneralRoot:
    """The root and what it is worth.

    Args:
        A: `(b, n, n)` float64.
        values: Its eigenvalues, none on the closed negative real axis.
        B: `(b, n, k)` float64, or `None` for the root.
        p: ≥ 2.
        verify: Whether to look at the error.
        doubled: E in doubled precision.

    Returns:
        The root. Cost: an LU factorisation, its inverse and two products for every step, six to nine steps a square
        root; and all of that again for the error.
    """
    first = CoupledNewton(A, values, p)
    X = first.root(A)
    if not verify:
        return unchecked(X, B, 5 * first.steps, first.steps)
    E = root_defect(X, A, p, doubled)
    again = CoupledNewton(A, values, p)
    change = (again.root(torch.baddbmm(A, A, E, alpha=MAGNIFIED)) - X) / MAGNIFIED
    Z, moved = (X, change) if B is None else (torch.bmm(X, B), torch.bmm(change, B))
    steps = first.steps + again.steps
    return GeneralRoot(Z, appraise_root(X, Z, B, E, moved), 5 * steps, steps)


class CoupledNewton:
    """One run; counts its steps."""

    def __init__(self, A: Tensor, values: Tensor, p: int) -> None:
        self.twos = (p & -p).bit_length() - 1
        self.q = p >> self.twos
        self.identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)
        self.roots, self.center = self.twos, torch.ones_like(A[:, 0, 0])
        self.steps = 0
        if self.q > 1:
            self.roots, self.center = _reduction(values, self.twos)

    def root(self, A: Tensor) -> Tensor:
        """A^(-1/p)."""
        X, Y = A, A
        for _ in range(self.roots):
            X, Y = self._square_root(X)
        if self.q == 1:
            return Y
        found: Tensor = torch.linalg.matrix_power(self._inverse_root(X), 2 ** (self.roots - self.twos))
        return found

    def _square_root(self, A: Tensor) -> tuple[Tensor, Tensor]:
        """A^½ and A^-½."""
        M, X, Y = A, A, self.identity
        going = _Going(M, self.identity)
        while going.on(M):
            factors, pivots, _ = torch.linalg.lu_factor_ex(M)
            scale = self._scale(factors, going.gap)
            inverse = torch.linalg.lu_solve(factors, pivots, self.identity) / scale.square()
            G = (self.identity + inverse) * (scale / 2)
            X, Y = torch.bmm(X, G), torch.bmm(Y, G)
            M = (self.identity + (scale.square() * M + inverse) / 2) / 2
            self.steps += 1
        return X, Y

    def _scale(self, factors: Tensor, gap: Tensor) -> Tensor:
        """μ `(b, 1, 1)`; 1 near convergence, where scaling does harm."""
        log_det = factors.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)
        mu = torch.exp(-log_det / (2 * factors.shape[-1]))
        return torch.where(gap < NEAR, 1.0, mu)[:, None, None]

    def _inverse_root(self, C: Tensor) -> Tensor:
        """C^(-1/q), q odd."""
        c, q = self.center[:, None, None], self.q
        X, M = self.identity * c.pow(-1 / q), C / c
        going = _Going(M, self.identity)
        while going.on(M):
            G = ((q + 1) * self.identity - M) / q
            X, M = torch.bmm(X, G), torch.bmm(torch.linalg.matrix_power(G, q), M)
            self.steps += 1
        return X


class _Going:
    """Whether M ← … has still to go on, in any matrix of the batch."""

    def __init__(self, M: Tensor, identity: Tensor) -> None:
        self.identity, self.steps = identity, 0
        self.gap = torch.full_like(M[:, 0, 0], math.inf)

    def on(self, M: Tensor) -> bool:
        """Until ‖M − I‖_F is rounding or has stopped falling; matrices that are lost do not count."""
        before, self.gap = self.gap, norm(M - self.identity)
        floor = M.shape[-1] * torch.finfo(M.dtype).eps
        done = (self.gap <= floor) | ((self.gap < CLOSE) & (self.gap > before / 2)) | ~self.gap.isfinite()
        self.steps += 1
        return self.steps <= MAX_STEPS and not bool(done.all())


def _reduction(values: Tensor, least: int) -> tuple[int, Tensor]:
    """How many square roots bring the spectra into the region of convergence, and their centres then."""
    size: Array = values.abs().cpu().numpy()
    angle = float(values.angle().abs().max())
    high, low = size.max(-1), size.min(-1)
    spread = float(np.log2(high / low).max())
    m = least
    while spread / 2**m > 1 or angle / 2**m > math.pi / 8:
        m += 1
    center = (high ** (0.5**m) + low ** (0.5**m)) / 2
    return m, torch.from_numpy(center).to(values.device)

"""How far X is from the polar factor U of G = U·H, to first order.

    X − U = U·K + U·D + E,    K skew, D symmetric, E with columns orthogonal to the range of U.

    XᵀX − I ≈ 2·D                            of a singular value exactly: σ − 1 = (σ² − 1)/(σ + 1)
    S = (XᵀG − GᵀX)/2 ≈ −(K·H + H·K)/2       blind to D; K_ij = −2·S_ij/(σ_i + σ_j) in the eigenbasis of H
    (I − X·Xᵀ)·G ≈ −E·H                      up to terms in the range of U, which are taken out

The defect alone cannot see a rotation K, and rounding makes one: in the directions of small singular values it is all
there is. Dividing by σ_i + σ_j takes an eigendecomposition of H. Without one, let Q span the directions of the 16
smallest σ, to the accuracy of two inverse power iterations on the probes, and P = I − Q·Qᵀ. Then

    QᵀSQ       is divided as it ought to be, in the basis of Ritz vectors;
    P·S·Q      by H instead of H + σ_i with σ_i ≤ H there: at most twice too large;
    P·S·P      by 2·√(σ_i·σ_j) ≤ σ_i + σ_j:  ‖K‖_F ≤ ‖Cᵀ·S·C‖_F with C·Cᵀ = H⁻¹ on probes, the same between equal σ,
               too large by √(σ_j/σ_i)/2 between σ_i ≪ σ_j, none of which is among the 16.

C = L⁻ᵀ comes from a Cholesky factorisation H = L·Lᵀ of the symmetric part of XᵀG, which shows on the way that it is
positive definite: that X is the polar factor and not another isometry. The largest Ritz value of H⁻¹ is 1/σ_min.

Products with X and G are float64, so that the numbers measured are the errors of X and not their own; H only divides,
and is as precise as X.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from iroot_kernels import Products, Workspace
from torch import Tensor

from iroot_solve._polar_products import best
from iroot_solve._scales import norm
from iroot_solve._thin import thin

PROBES = 16


@dataclass(frozen=True)
class PolarMeasure:
    """What was seen of every matrix, float64 `(b,)`.

    Attributes:
        error: Estimate of ‖X − U‖_F/√r; not finite where there is none.
        defect: ‖XᵀX − P‖_F/√r, P the projection onto the rows of U.
        smallest: Estimate of σ_min of G, from above; 0 where H is not positive definite.
    """

    error: Tensor
    defect: Tensor
    smallest: Tensor


def measure_full_rank(G: Tensor, X: Tensor, ws: Workspace, seed: int) -> PolarMeasure:
    """For X with n columns that ought to be orthonormal.

    Args:
        G: `(b, m, n)`, float32 or float64, entries near 1.
        X: `(b, m, n)` in the same dtype.
        ws: Buffers.
        seed: Of the probes.

    Returns:
        The measures. Cost: a product n×m×n, a Cholesky factorisation and its inverse, and thin products in float64.
    """
    n = X.shape[-1]
    C, fine = _inverse_root(G, X, ws)
    wide = _Wide(widened("G", G, ws), widened("X", X, ws), C)
    V = _probes(n, wide.X, seed)
    defect = norm(thin(wide.X.mT, thin(wide.X, V)) - V)
    Q, sigma = wide.smallest(V)
    rotation, outside = wide.rotation(Q, sigma, V), wide.outside(V)
    error = (defect.square() / 4 + rotation + outside.square()).sqrt() + torch.where(fine, 0.0, torch.inf)
    smallest = torch.where(fine, sigma[:, -1], 0.0)
    return PolarMeasure(error / math.sqrt(n), defect / math.sqrt(n), smallest)


def _inverse_root(G: Tensor, X: Tensor, ws: Workspace) -> tuple[Tensor, Tensor]:
    """C `(b, n, n)` with C·Cᵀ = H⁻¹, as precise as X, and where H is positive definite; C = I elsewhere."""
    b, _, n = X.shape
    exact = Products("fp64" if X.dtype is torch.float64 else best(X.device, n), ws)
    H = exact(X.mT, G, out=ws.buffer("polar H", (b, n, n), X.dtype, X.device))
    L, info = torch.linalg.cholesky_ex((H + H.mT).mul_(0.5))
    fine = (info == 0) & L.diagonal(dim1=-2, dim2=-1).isfinite().all(-1)
    eye = torch.eye(n, dtype=X.dtype, device=X.device)
    L = torch.where(fine[:, None, None], L, eye)
    return torch.linalg.solve_triangular(L, eye.expand(b, n, n), upper=False).double().mT, fine


@dataclass(frozen=True)
class _Wide:
    """G, X and C in float64, where global flags reduce no product; V are probes `(b, n, k)`."""

    G: Tensor
    X: Tensor
    C: Tensor

    def inverse(self, V: Tensor) -> Tensor:
        """H⁻¹·V."""
        return self.root(self.root(V, transposed=True))

    def root(self, V: Tensor, transposed: bool = False) -> Tensor:
        """C·V or Cᵀ·V."""
        return thin(self.C.mT if transposed else self.C, V)

    def skew(self, V: Tensor) -> Tensor:
        """S·V."""
        return (thin(self.X.mT, thin(self.G, V)) - thin(self.G.mT, thin(self.X, V))) / 2

    def smallest(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Q `(b, n, k)` and its σ `(b, k)`, the smallest one last."""
        Q = torch.linalg.qr(self.inverse(self.inverse(V))).Q
        values, vectors = torch.linalg.eigh(torch.bmm(Q.mT, self.inverse(Q)))
        return torch.bmm(Q, vectors), 1 / values.clamp_min(torch.finfo(values.dtype).tiny)

    def rotation(self, Q: Tensor, sigma: Tensor, V: Tensor) -> Tensor:
        """‖K‖_F²."""
        SQ = self.skew(Q)
        A = torch.bmm(Q.mT, SQ)
        within = 2 * A / (sigma.unsqueeze(-1) + sigma.unsqueeze(-2))
        across = 2 * _without(Q, self.inverse(SQ - torch.bmm(Q, A)))
        rest = self.root(_without(Q, self.skew(_without(Q, self.root(V)))), transposed=True)
        return norm(within).square() + 2 * norm(across).square() + norm(rest).square()

    def outside(self, V: Tensor) -> Tensor:
        """‖E‖_F from (I − X·Xᵀ)·(G − X·Xᵀ·G)·H⁻¹."""
        E = thin(self.G, self.inverse(V))
        for _ in range(2):
            E = E - thin(self.X, thin(self.X.mT, E))
        return norm(E)


def _without(Q: Tensor, V: Tensor) -> Tensor:
    """P·V."""
    return V - torch.bmm(Q, torch.bmm(Q.mT, V))


def measure_partial(G: Tensor, X: Tensor, sigma: Tensor, V: Tensor) -> PolarMeasure:
    """For X = U·Vᵀ from singular vectors: K by its definition; rows that are off, Vᵀ·E = 0, as well as columns.

    Args:
        G: `(b, m, n)` float64.
        X: `(b, m, n)` float64.
        sigma: `(b, n)`; 0 where a direction belongs to the null space.
        V: `(b, n, n)`, right singular vectors as columns.

    Returns:
        The measures. Cost: ten products with n columns.
    """
    kept = (sigma > 0).double()
    V = V * kept.unsqueeze(-2)
    inverse = (kept / torch.where(sigma > 0, sigma, 1.0)).unsqueeze(-2)
    U, GV = torch.bmm(X, V), torch.bmm(G, V)
    defect = norm(torch.bmm(U.mT, U) - torch.diag_embed(kept))
    M = torch.bmm(U.mT, GV)
    both = sigma.unsqueeze(-1) + sigma.unsqueeze(-2)
    K = torch.where(both > 0, (M - M.mT) / torch.where(both > 0, both, 1.0), 0.0)
    columns = _without(U, _without(U, GV * inverse))
    rows = _without(V, torch.bmm(G.mT, U) * inverse)
    parts = (defect.square() / 4, *(norm(part).square() for part in (K, columns, rows)))
    size = kept.sum(-1).clamp_min(1.0).sqrt()
    return PolarMeasure(torch.stack(parts).sum(0).sqrt() / size, defect / size, sigma.amin(-1))


def _probes(n: int, like: Tensor, seed: int) -> Tensor:
    """V with E‖A·V‖_F² = ‖A‖_F²: signs over √16, or I where that is no larger, `(b, n, k)` float64."""
    if n <= PROBES:
        return torch.eye(n, dtype=torch.float64, device=like.device).expand(like.shape[0], n, n)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (n, PROBES), generator=generator, dtype=torch.float64) * 2 - 1
    if like.device.type != "cpu":
        signs = signs.pin_memory().to(like.device, non_blocking=True)
    return (signs / math.sqrt(PROBES)).expand(like.shape[0], n, PROBES)


def widened(name: str, M: Tensor, ws: Workspace) -> Tensor:
    """M in float64: itself, or a buffer."""
    if M.dtype is torch.float64:
        return M
    return ws.buffer(f"polar wide {name}", M.shape, torch.float64, M.device).copy_(M)

"""A^α by the symmetric eigendecomposition: V·f(Λ)·Vᵀ·B, f(λ) = λ^α."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache, partial

import torch
from iroot_kernels import Workspace, plus_transpose
from torch import Tensor

from iroot_solve._certificate import Matrix, Root, judging_dtype, times_power
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule
from iroot_solve._thin import thin


def run_eigh(S: Tensor, B: Tensor | None, exponent: Fraction, ws: Workspace, cut: float | None = None) -> Outcome:
    """Eigenvalues ≤ 0 are taken as the smallest normal number (0 where α > 0): the caller looks at them first.

    Args:
        S: `(b, n, n)` symmetric, float32 or float64.
        B: `(b, n, k)`, or `None` for the root.
        exponent: α.
        ws: Where Λ, V and Z live.
        cut: Eigenvalues up to this share of the largest count as zero, and f(0) = 0.

    Returns:
        The outcome. Cost: one `eigh` (5–20 products) and two products with k columns.
    """
    name = "fp64" if S.dtype is torch.float64 else "fp32"
    values = ws.buffer(f"lambda_{name}", S.shape[:-1], S.dtype, S.device)
    vectors = ws.like(f"vectors_{name}", S).mT  # column by column, as LAPACK writes them
    torch.linalg.eigh(S, out=(values, vectors))
    alpha = float(exponent)
    f = values.clamp_min(torch.finfo(S.dtype).tiny if alpha < 0 else 0.0).pow(alpha)
    if cut is not None:
        f.masked_fill_(values <= cut * values[:, -1:], 0.0)
    eigen = _Eigen(vectors, f, values)
    outcome = _applied(eigen, _plan(name, exponent), ws, B)
    outcome.products["eigh"] = S.shape[0]
    outcome.again, outcome.holds = partial(_again, eigen, exponent), (vectors, values)
    return outcome


def _again(eigen: _Eigen, exponent: Fraction, ws: Workspace, B: Tensor | None) -> Outcome:
    """The eigenvectors that are there, for another right-hand side."""
    return _applied(eigen, f"{_plan(eigen.name, exponent)}, V from an earlier call", ws, B)


@lru_cache(maxsize=64)
def _plan(name: str, exponent: Fraction) -> str:
    return f"eigh in {name}: V·λ^({exponent})·Vᵀ·B"


def _applied(eigen: _Eigen, plan: str, ws: Workspace, B: Tensor | None) -> Outcome:
    """Z, and what its certificate needs, from eigenvectors that are there."""
    root = Root(
        eigen.power,
        torch.finfo(eigen.V.dtype).eps / 2,
        norm=torch.linalg.vector_norm(eigen.f, dim=-1),
        sandwich=eigen.sandwich,
        drift=eigen.drift,
    )
    return Outcome(
        Z=eigen.root(ws) if B is None else eigen.apply(B, ws),
        root=root,
        judge=judging_dtype(eigen.V),
        strategy="eigh",
        precision=eigen.name,
        schedule=DirectSchedule("eigh", plan),
        products={"square": 1} if B is None else {"columns": 2 * B.shape[-1]},
        eigenvalues=eigen.values,
        lowest=eigen.values[..., 0],
        highest=eigen.values[..., -1],
    )


class _Eigen:
    """X = V·f(Λ)·Vᵀ: any power of it costs one way to eigenvector coordinates and back."""

    def __init__(self, vectors: Tensor, f: Tensor, values: Tensor) -> None:
        self.V, self.f, self.values = vectors, f, values
        self.name = "fp64" if vectors.dtype is torch.float64 else "fp32"

    def root(self, ws: Workspace) -> Tensor:
        """X itself."""
        weighted = torch.mul(self.V.mT, self.f.unsqueeze(-1), out=ws.like("weighted", self.V.mT))
        X = torch.bmm(self.V, weighted, out=ws.like("X", weighted))
        # The root is symmetric, its product only nearly.
        return plus_transpose(X, ws.like("Z", X)).mul_(0.5)

    def apply(self, B: Tensor, ws: Workspace) -> Tensor:
        """X·B."""
        like = (B.shape, self.V.dtype, B.device)
        inner = torch.bmm(self.V.mT, B, out=ws.buffer("inner", *like))
        return torch.bmm(self.V, inner.mul_(self.f.unsqueeze(-1)), out=ws.buffer("Z", *like))

    def power(self, j: int, W: Tensor) -> Tensor:
        """X^j·W."""
        if j == 0:
            return W
        V = self.V.to(W.dtype)
        return thin(V, thin(V.mT, W).mul_(self.f.pow(j).unsqueeze(-1)))

    def drift(self, W: Tensor) -> Tensor:
        """V·Vᵀ·W − W: vectors that are not orthogonal spoil every power of X alike."""
        V = self.V.to(W.dtype)
        return thin(V, thin(V.mT, W)) - W

    def sandwich(self, A: Matrix, q: int, orders: tuple[int, ...], s: int, W: Tensor, B: Tensor | None) -> Tensor:
        """Rows (X^m·(A^q·X^(s−m)·W − B))ᵀ for m in `orders`, and (V·Vᵀ·W)ᵀ at the end, all in one go."""
        b, k, n = W.shape
        V = self.V.to(W.dtype)
        c = torch.bmm(W, V)
        powers = self.f.view(b, 1, 1, n).pow(_column((*orders, *(s - m for m in orders)), self.f.dtype, self.f.device))
        left, right = powers.chunk(2, 1)
        c4 = c.view(b, 1, k, n)
        U = torch.bmm((right * c4).view(b, -1, n), V.mT)
        U = torch.bmm(times_power(A, q, U, B), V).view(b, -1, k, n)
        return torch.bmm(torch.cat((left * U, c4), 1).view(b, -1, n), V.mT)


@lru_cache(maxsize=64)
def _column(numbers: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`(len(numbers), 1, 1)`, kept: a copy to a device would make the host wait for it."""
    return torch.tensor(numbers, dtype=dtype, device=device)[:, None, None]

"""A^α by the symmetric eigendecomposition: V·f(Λ)·Vᵀ·B, f(λ) = λ^α."""

from __future__ import annotations

from fractions import Fraction

import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule
from iroot_solve._thin import thin


def run_eigh(S: Tensor, B: Tensor | None, exponent: Fraction, ws: Workspace) -> Outcome:
    """Eigenvalues ≤ 0 are taken as the smallest normal number (0 where α > 0): the caller looks at them first.

    Args:
        S: `(b, n, n)` symmetric, float32 or float64.
        B: `(b, n, k)`, or `None` for the root.
        exponent: α.
        ws: Where Λ, V and Z live.

    Returns:
        The outcome. Cost: one `eigh` (5–20 products) and two products with k columns.
    """
    name = "fp64" if S.dtype is torch.float64 else "fp32"
    values = ws.buffer(f"lambda_{name}", S.shape[:-1], S.dtype, S.device)
    vectors = ws.like(f"vectors_{name}", S)
    torch.linalg.eigh(S, out=(values, vectors))
    positive = values.clamp_min(torch.finfo(S.dtype).tiny if exponent < 0 else 0.0)

    def power(j: int, V: Tensor) -> Tensor:
        if j == 0:
            return V
        scaled = thin(vectors.mT, V).mul_(positive.pow(float(j * exponent)).unsqueeze(-1))
        return thin(vectors, scaled)

    def drift(W: Tensor) -> Tensor:
        """V·Vᵀ·W − W: vectors that are not orthogonal spoil every power of X alike."""
        return thin(vectors, thin(vectors.mT, W)) - W

    f = positive.pow(float(exponent)).unsqueeze(-2)
    weighted = torch.mul(vectors, f, out=ws.like("weighted", S))
    if B is None:
        X = torch.bmm(weighted, vectors.mT, out=ws.like("X", S))
        Z = torch.add(X, X.mT, out=ws.like("Z", S)).mul_(0.5)  # the root is symmetric, its product only nearly
    else:
        inner = torch.bmm(vectors.mT, B.to(S.dtype), out=ws.buffer("inner", B.shape, S.dtype, S.device))
        Z = torch.bmm(weighted, inner, out=ws.buffer("Z", B.shape, S.dtype, S.device))
    columns = 0 if B is None else 2 * B.shape[-1]
    return Outcome(
        Z=Z,
        power=power,
        judge=S.dtype,
        roundoff=torch.finfo(S.dtype).eps / 2,
        strategy="eigh",
        precision=name,
        schedule=DirectSchedule("eigh", f"eigh in {name}: V·λ^({exponent})·Vᵀ·B"),
        products={"eigh": S.shape[0], "columns": columns, "square": int(B is None)},
        eigenvalues=values,
        lowest=values[..., 0],
        drift=drift,
    )

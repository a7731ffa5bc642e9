"""Vectors as rows: what the Krylov processes do with k columns of b right-hand sides held as (b·k, n).

A column of B is contiguous as a row, so is a basis (b·k, m, n) for every column, and the products of one basis with one
vector become one batched product. Norms and inner products are summed in float64. Where a global flag would reduce
float32 products, the rows are float64, which no flag reduces: the basis would lose its orthogonality.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from iroot_kernels._workspace import Workspace

Action = Callable[[Tensor], Tensor]

# A norm below 4·u times the largest coefficient so far is rounding of the very operations that gave it. One that is
# rounding and not below this does no harm either: the process goes on from a vector of rounding, all but uncoupled.
_NOISE = 4


def reduced(B: Tensor) -> bool:
    """Whether a global flag makes float32 products on the device of B less than float32 (flags are read, never set)."""
    cuda = B.device.type == "cuda"
    matmul = torch.backends.cuda.matmul if cuda else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return B.dtype is torch.float32 and matmul.fp32_precision not in ("none", "ieee")


def widened(action: Action, B: Tensor) -> Action:
    """The action for vectors held in float64 of a matrix that multiplies in the dtype of B."""
    return lambda V: action(V.to(B.dtype)).to(V.dtype)


def normalise(B: Tensor, out: Tensor, norm: Tensor) -> None:
    """out ← columns of B (b, n, k), normalised, as rows (b·k, n); norm ← what they were divided by, (b·k) float64."""
    b, n, k = B.shape
    torch.linalg.vector_norm(B, dim=-2, dtype=torch.float64, out=norm.view(b, k))
    out.view(b, k, n).copy_(B.mT)
    divide(out, norm, out)


def divide(rows: Tensor, norm: Tensor, out: Tensor) -> None:
    """out ← rows/norm; zero where the norm is zero."""
    factor = torch.where(norm == 0, torch.inf, norm).to(rows.dtype)
    torch.div(rows, factor[:, None], out=out)


def inner(left: Tensor, right: Tensor, out: Tensor, ws: Workspace) -> None:
    """out ← row by row inner products."""
    product = torch.mul(left, right, out=ws.like("krylov product", left))
    torch.sum(product, -1, dtype=torch.float64, out=out)


def subtract(rows: Tensor, factor: Tensor, others: Tensor) -> None:
    """rows ← rows − factor·others."""
    rows.addcmul_(others, factor.to(rows.dtype)[:, None], value=-1)


def orthogonalise(rows: Tensor, Q: Tensor, m: int, ws: Workspace) -> None:
    """w ← w − Q·(Qᵀ·w) for every row w and its basis, the first m rows of Q (b·k, M, n)."""
    w, basis = rows.unsqueeze(1), Q[:, :m]
    h = ws.buffer("krylov h", (Q.shape[0] * Q.shape[1],), Q.dtype, Q.device)[: Q.shape[0] * m].view(-1, 1, m)
    # Only calls with out= are left alone by torch.autocast.
    torch.bmm(w, basis.mT, out=h)
    torch.baddbmm(w, h, basis, alpha=-1, out=w)


def measure(rows: Tensor, out: Tensor, scale: Tensor, other: Tensor) -> None:
    """out ← the norms of rows, zero where they are rounding; scale ← the larger of it, |other| and the norms."""
    torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64, out=out)
    torch.maximum(scale, torch.maximum(other.abs(), out), out=scale)
    out.masked_fill_(out <= _NOISE * torch.finfo(rows.dtype).eps / 2 * scale, 0)


def combine(y: Tensor, Q: Tensor, ws: Workspace) -> Tensor:
    """Σ_j y_j·q_j for y (b·k, m) and rows q_j of Q (b·k, m, n): (b·k, n) in a buffer."""
    Z = ws.buffer("krylov Z", (Q.shape[0], 1, Q.shape[-1]), Q.dtype, Q.device)
    return torch.bmm(y.unsqueeze(1), Q[:, : y.shape[-1]], out=Z).squeeze(1)


def to_host(coefficients: Tensor, m: int, b: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """β₀ (b, k), α and β (b, k, m), and which rows of T a breakdown left alone (b, k, m), from (1 + 2M, b·k).

    One copy, and so one synchronisation.
    """
    table = coefficients[: 1 + 2 * m].cpu().T.reshape(b, -1, 1 + 2 * m)
    norm, alpha, beta = table[..., 0], table[..., 1::2], table[..., 2::2]
    active = (torch.cat((norm[..., None], beta[..., :-1]), -1) != 0).cummin(-1).values
    return norm, alpha, beta, active


def to_device(x: Tensor, like: Tensor) -> Tensor:
    """x from the host on the device of `like`, without a synchronisation: from pinned memory a copy is queued."""
    if like.device.type == "cuda":
        return x.pin_memory().to(like.device, non_blocking=True)
    return x.to(like.device)

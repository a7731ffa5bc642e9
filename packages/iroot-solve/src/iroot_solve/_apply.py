"""The low level: a matrix that is already normalized, a schedule that is already there, no checks of the answer."""

from __future__ import annotations

from typing import Any

import torch
from iroot_kernels import CoupledIteration, Workspace, quadratics
from torch import Tensor

NAMES = ("auto", "direct-solve", "materialize-root")


def apply_inverse_root_auto(
    A_norm: Tensor,
    M_norm: Tensor,
    abc_t: Any,
    p_val: int = 2,
    ws: Workspace | None = None,
    strategy: str = "auto",
    expected_reuse: int = 1,
    precision: str = "auto",
) -> tuple[Tensor, Workspace]:
    """Z = A_norm^(-1/p)·M_norm by quadratic steps, on the right-hand side or through the root, whichever costs less.

    Args:
        A_norm: `(..., n, n)` symmetric, spectrum in the interval that `abc_t` was made for, at most (0, 1]
            (`iroot_precond.precond_spd` makes one).
        M_norm: `(..., n, k)` with the batch of `A_norm`.
        abc_t: `(T, 3)` rows (a, b, c).
        p_val: p ≥ 1.
        ws: Workspace to reuse.
        strategy: auto, direct-solve or materialize-root.
        expected_reuse: How many right-hand sides like this one the root would serve.
        precision: auto (fp64 for float64, else fp32) or one of `iroot_kernels.PRECISIONS`.

    Returns:
        Z `(..., n, k)`, valid until the workspace is used again, and the workspace. Cost per step: one product for
        q, the chain of p plus one for Y (none in the last step), and one for the root (none in the first) or k/n on
        M_norm.

    Raises:
        ValueError: Unknown strategy; shapes that do not fit.

    Examples:
        >>> import torch
        >>> from iroot_solve import apply_inverse_root_auto, build_schedule
        >>> abc_t, _ = build_schedule("cpu", p_val=2)
        >>> Z, ws = apply_inverse_root_auto(torch.diag(torch.tensor([0.25, 1.0])), torch.ones(2, 1), abc_t)
        >>> torch.allclose(Z, torch.tensor([[2.0], [1.0]]), rtol=1e-3)
        True
    """
    if strategy not in NAMES:
        raise ValueError(f"strategy={strategy!r} is not one of {', '.join(NAMES)}")
    name = precision if precision != "auto" else ("fp64" if A_norm.dtype is torch.float64 else "fp32")
    dtype = torch.float64 if name == "fp64" else torch.float32
    A = A_norm.to(dtype).reshape(-1, *A_norm.shape[-2:])
    M = M_norm.to(dtype).reshape(A.shape[0], *M_norm.shape[-2:])
    steps, ws = quadratics(abc_t), Workspace() if ws is None else ws
    direct = strategy == "direct-solve" or (strategy == "auto" and _direct_is_cheaper(A, M, len(steps), expected_reuse))
    root = CoupledIteration(A, M if direct else None, p=p_val, precision=name, workspace=ws)
    for t, q in enumerate(steps, start=1):
        root.step(q, last=t == len(steps))
    assert root.X is not None
    Z = root.X if direct else root.products(root.X, M, out=ws.like("Z", M))
    return Z.reshape(M_norm.shape), ws


def apply_inverse_root_gram_spd(
    G_norm: Tensor, M_norm: Tensor, abc_t: Any, p_val: int = 2, ws: Workspace | None = None, **settings: Any
) -> tuple[Tensor, Workspace]:
    """`apply_inverse_root_auto` for A_norm = G_normᵀ·G_norm.

    Args:
        G_norm: `(..., m, n)` with singular values in the square root of the interval that `abc_t` was made for.
        M_norm: `(..., n, k)`, as in `apply_inverse_root_auto`, like all that follow.
        abc_t: `(T, 3)` rows (a, b, c).
        p_val: p ≥ 1.
        ws: Workspace to reuse.
        **settings: Its other keyword arguments.

    Returns:
        As `apply_inverse_root_auto`; one product of n×m by m×n more.
    """
    return apply_inverse_root_auto(G_norm.mT @ G_norm, M_norm, abc_t, p_val, ws, **settings)


def _direct_is_cheaper(A: Tensor, M: Tensor, steps: int, reuse: int) -> bool:
    """T·k columns for every right-hand side, against (T − 1)·n for the root and k for every right-hand side."""
    n, k = A.shape[-1], M.shape[-1]
    return steps * k * reuse < (steps - 1) * n + k * reuse

"""A root that was formed, applied to right-hand sides and probes."""

from __future__ import annotations

import torch
from iroot_kernels import Products, Workspace
from torch import Tensor

from iroot_solve._certificate import Power, Root
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule
from iroot_solve._thin import thin


def root_again(
    X: Tensor,
    size: Tensor,
    name: str,
    plan: str,
    reduced: bool,
    ws: Workspace,
    B: Tensor | None,
    parts: tuple[Tensor, ...] = (),
) -> Outcome:
    """The root that is there, for another right-hand side; R and P where it is R·P."""
    return Outcome(
        Z=root_times(X, B, ws),
        root=Root(root_action(X, ws), torch.finfo(X.dtype).eps / 2, norm=size, parts=root_parts(parts, ws)),
        judge=torch.float64,
        strategy="materialize-root",
        precision=name,
        schedule=DirectSchedule("materialize-root", f"{plan}, formed by an earlier call"),
        products={"columns": 0 if B is None else B.shape[-1]},
        reduced=reduced,
    )


def root_times(X: Tensor, B: Tensor | None, ws: Workspace) -> Tensor:
    """X·B in the full precision of X, whatever the precision of the steps and global flags."""
    if B is None:
        return X
    exact = Products("fp64" if X.dtype is torch.float64 else "fp32", ws)
    return exact(X, B, out=ws.like("Z", B))


def root_parts(parts: tuple[Tensor, ...], ws: Workspace) -> tuple[Power, Power] | None:
    """The action of R^j and of P^j."""
    return (root_action(parts[0], ws), root_action(parts[1], ws)) if parts else None


def root_action(X: Tensor, ws: Workspace) -> Power:
    """X^j·V for V of any dtype."""
    wide: list[Tensor] = []

    def power(j: int, V: Tensor) -> Tensor:
        if not wide:
            wide.append(X if X.dtype is V.dtype else ws.buffer("wide", X.shape, V.dtype, X.device).copy_(X))
        for _ in range(j):
            V = thin(wide[0], V)
        return V

    return power

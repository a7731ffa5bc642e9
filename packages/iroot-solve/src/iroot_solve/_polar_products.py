"""The products that a polar iteration is made of: whole, or, where the kernels run, half of those that are symmetric.

    whole   Y = XᵀX by matmul, q(Y) and the coupled iteration by `Products`.
    halves  Y = XᵀX by `symmetric_rank_k`, everything of Y by `SymmetricRoot`: tiles on and below the diagonal.

X·R is not symmetric, and whole in both. Counted in whole products n×n×n, with a = m/n and f of them to form q(Y),

                         whole                   halves
    plain, a step        2·a + f                 1.5·a + f/2
    gram, k steps        2·a + k·f + 3·(k − 1)   1.5·a + (k·f + 3·(k − 1))/2

so that a segment of k steps saves (k − 1)·(2·a − 3) or 1.5·(k − 1)·(a − 1): the Gram form pays from a = 1.5, or from 1.
By the clock the halves of one plane gain less: at n = 4096 one takes 0.21 ms of an H200 (`coarse32` of its table), in
which cuBLAS, at 650 TFLOP/s, makes a whole product of one plane; with h = g = w for half a product of Y, XᵀX and X·R
the Gram form pays from a = 3·h/(g + w) = 1.5 there, and from 0.9 in two planes, where w is three products and passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from iroot_kernels import (
    CoupledIteration,
    Polynomial,
    Products,
    SymmetricRoot,
    Workspace,
    has_form,
    increment,
    precision,
    symmetric_products,
    symmetric_rank_k,
)
from torch import Tensor

T = TypeVar("T")
# m/n from which the Gram form pays: of whole products, of halves in two planes, of halves in one.
GRAM_FROM, GRAM_FROM_HALVES, GRAM_FROM_PLANE = 1.5, 1.0, 1.5
# A matrix of planes has fewer numbers than int32.
LARGEST = 46_336


def halved(device: torch.device, name: str, n: int) -> bool:
    """Whether products in the precision `name` are made by the kernels."""
    planes = precision(name).plane is not None or name == "tf32"
    return planes and n <= LARGEST and symmetric_products(device)


def best(device: torch.device, n: int) -> str:
    """What stands for float32 on a device: two planes of fp16 where they are multiplied by halves."""
    return "fp16x3" if halved(device, "fp16x3", n) else "fp32"


def gram_from(device: torch.device, name: str, n: int) -> float:
    """The aspect m/n from which the Gram form is faster."""
    if not halved(device, name, n):
        return GRAM_FROM
    return GRAM_FROM_HALVES if precision(name).planes == 2 else GRAM_FROM_PLANE


def reached(steps: Sequence[Polynomial], top: float) -> float:
    """A bound of the squares of singular values after these steps, from [0, top]."""
    for q in steps:
        top = _moved(q, top)
    return top


@lru_cache(maxsize=1024)
def _moved(q: Polynomial, top: float) -> float:
    """The largest y·q(y)² for y in [0, top]. Nothing on top of it: at the ends of its interval a step of degree 8 is
    steep, and planes have room for what rounding adds."""
    y = top * np.linspace(0.0, 1.0, 1025)
    return float((y * q(y) ** 2).max())


class Whole:
    """Products of all of both operands.

    Args:
        name: The precision.
        ws: Buffers.

    Attributes:
        square: The products n×n×n, counted.
        slack: The error of `gram`, beyond m·|X|ᵀ|X|, in units of 2u.
    """

    slack = 0

    def __init__(self, name: str, ws: Workspace) -> None:
        self.ws, self.square, self._wide = ws, Products(name, ws), Products(name, ws)

    @property
    def name(self) -> str:
        return self.square.how.name

    def backend(self, device: torch.device) -> str:
        """What computes the products, and why."""
        return "torch: on a CPU" if device.type == "cpu" else "torch: no symmetric products for this"

    def gram(self, X: Tensor) -> Tensor:
        """XᵀX, a buffer."""
        return self._wide(X.mT, X, out=self._gram(X))

    def increment(self, q: Polynomial, Y: Tensor, top: float) -> tuple[float, Tensor]:
        """(a, R) with q(Y) = a·I + R, of a Y with eigenvalues in [0, top]."""
        return increment(q, Y, self.square, self.ws)

    def root(self, steps: tuple[Polynomial, ...], Y: Tensor, top: float) -> Tensor:
        """q_k(Y_k)…q_1(Y_1), symmetric."""
        root = CoupledIteration(Y, None, p=2, precision=self.square, workspace=self.ws)
        for i, q in enumerate(steps, start=1):
            root.step(q, last=i == len(steps))
        assert root.X is not None
        return torch.add(root.X, root.X.mT, out=self.ws.like("polar R", Y)).mul_(0.5)

    def times(self, X: Tensor, R: Tensor, a: float, out: Tensor) -> Tensor:
        """a·X + X·R."""
        return self._wide(X, R, C=X if a else None, beta=a, out=out)

    def reserve(self, parts: Sequence[tuple[tuple[Polynomial, ...], float]]) -> None:
        """Room for all segments, their steps and `top`."""

    def _gram(self, X: Tensor) -> Tensor:
        b, _, n = X.shape
        return self.ws.buffer("polar Y", (b, n, n), X.dtype, X.device)


class Halves(Whole):
    """Symmetric products of the lower halves; steps without a form are whole."""

    # Of two planes of fp16: 3·2^-22 from the planes, and at most 72·2^-23 within the tensor cores' blocks.
    slack = 96

    def __init__(self, name: str, ws: Workspace) -> None:
        super().__init__(name, ws)
        self._slots = Slots(ws)

    def backend(self, device: torch.device) -> str:
        return "triton: symmetric products"

    def gram(self, X: Tensor) -> Tensor:
        name = "fp16" if self.name == "tf32" else self.name  # the same 11 bits at twice the speed
        return symmetric_rank_k(X, precision=name, out=self._gram(X), workspace=self.ws)

    def increment(self, q: Polynomial, Y: Tensor, top: float) -> tuple[float, Tensor]:
        if not has_form(q):
            return super().increment(q, Y, top)
        R = self._root((q,), top)(Y)
        a = float(q.monomials[0] if q.factors is None else q.factors[-1] * q.factors[-2])
        R.diagonal(dim1=-2, dim2=-1).sub_(a)
        return a, R

    def root(self, steps: tuple[Polynomial, ...], Y: Tensor, top: float) -> Tensor:
        return self._root(steps, top)(Y) if all(map(has_form, steps)) else super().root(steps, Y, top)

    def reserve(self, parts: Sequence[tuple[tuple[Polynomial, ...], float]]) -> None:
        for steps, top in parts:
            if all(map(has_form, steps)):
                self._slots.reserve(self._root(steps, top))

    def _root(self, steps: tuple[Polynomial, ...], top: float) -> SymmetricRoot:
        return SymmetricRoot(steps, p=2, upper=top, precision=self.square, workspace=self._slots)


class Slots(Workspace):
    """Buffers of another workspace, those of a `SymmetricRoot` as large as the largest of several needs them.

    Programs differ in how many slots they have, and would displace one another's at every step.
    """

    def __init__(self, ws: Workspace) -> None:
        super().__init__()
        self.ws, self.most = ws, dict[str, int]()

    def reserve(self, root: SymmetricRoot) -> None:
        """Room for it."""
        for name, count in (("symmetric whole", root.program.wholes), ("symmetric planes", root.program.planes)):
            self.most[name] = max(count, self.most.get(name, 0))

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
        most = max(self.most.get(name, 0), *shape[:1])
        held = self.ws.buffer(name, (most, *shape[1:]), dtype, device)
        return held if most == shape[0] else held[: shape[0]]

    def hold(self, constant: T) -> T:
        return self.ws.hold(constant)


def products(device: torch.device, name: str, n: int, ws: Workspace) -> Whole:
    """Those of a device."""
    return (Halves if halved(device, name, n) else Whole)(name, ws)


def scaled(q: Polynomial, unit: float) -> Polynomial:
    """y ↦ q(y/unit)."""
    return replace(q, center=q.center * unit, half_width=q.half_width * unit)

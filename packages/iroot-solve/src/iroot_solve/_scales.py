"""The powers of two that take A and B to entries of at most 1, and Z back.

A = 2^(s·m)·A_s and B = 2^f·B_s make A^(±q/s)·B = 2^(±q·m + f)·A_s^(±q/s)·B_s: with an exponent that is a multiple of
s the scaling is undone by a power of two, whatever the root. All three factors are exact.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from iroot_kernels import frobenius_norms
from iroot_precond import ldexp, power_of_two
from torch import Tensor

from iroot_solve._problem import Problem

# 2^±125 (2^±1021) is a normal number of the dtype, and so is half of it.
LARGEST_EXPONENT = {torch.float32: 125, torch.float64: 1021}


# As it is called all over this package.
norm = frobenius_norms


def unit(V: Tensor) -> tuple[Tensor, Tensor]:
    """V over its largest entry, and that `(b,)`: where squares of V may overflow."""
    largest = V.abs().amax((-2, -1), keepdim=True)
    return V / torch.where(largest > 0, largest, 1.0), largest[..., 0, 0]


def magnitude(V: Tensor) -> Tensor:
    """max|v_ij| of every matrix, float64 `(b,)`; not finite where V is not. On a device it is read once."""
    if V.device.type != "cpu":
        found: Tensor = torch.linalg.vector_norm(V, math.inf, (-2, -1), dtype=V.dtype)
        return found.double()
    return torch.maximum(V.amax((-2, -1)), -V.amin((-2, -1))).double()


def lost(size: Any, scaled: Any, dtype: torch.dtype) -> Any:
    """Where Z in the caller's dtype is no answer, arrays or tensors: not finite, or all of it below the normal numbers.

    Args:
        size: max|z_ij| in the caller's units.
        scaled: The same, or a norm, before these were restored: what was zero then has lost nothing.
        dtype: The caller's.
    """
    range_ = torch.finfo(dtype)
    return ~(size <= range_.max) | ((size < range_.tiny) & (scaled > 0))


class Scales:
    """The exponents of one problem.

    Args:
        problem: What was passed.
        ridge: What will be added to the diagonal, in the caller's units, float64 `(b,)`; `None` for nothing.

    Attributes:
        size: max|a_ij| `(b,)`; not finite where A is not.
        right: The same of B, `None` without one.
        exponent: s·m, int32 `(b,)`, of the caller's matrix: A and what it was scaled by before.
        undo: ±q·m + f, int32 `(b,)`.
    """

    def __init__(self, problem: Problem, ridge: Tensor | None) -> None:
        alpha, self.storage = problem.exponent, problem.storage
        gram = problem.gram
        shift = None if gram is None else 2 * gram.exponent
        self.size = magnitude(problem.A)
        self.right = None if problem.B is None else magnitude(problem.B)
        if ridge is not None and shift is not None:
            ridge = ridge * power_of_two(-shift, torch.float64)
        damped = self.size if ridge is None else self.size + ridge
        sizes = damped.unsqueeze(0) if self.right is None else torch.stack((damped, self.right))
        limit = max(LARGEST_EXPONENT[self.storage] - alpha.denominator + 1, 0)
        exponents = torch.frexp(sizes).exponent.clamp_(-limit, limit).unbind(0)
        m = self.exponent = exponents[0]
        if alpha.denominator > 1:  # ⌈e/s⌉
            m = torch.div(m + (alpha.denominator - 1), alpha.denominator, rounding_mode="floor")
            self.exponent = m * alpha.denominator
        powers = [-1 - self.exponent]
        if shift is not None:
            self.exponent = self.exponent + shift
            m = m + torch.div(shift, alpha.denominator, rounding_mode="floor")
        if self.right is None:
            self.undo = m * alpha.numerator
        else:
            self.undo = torch.add(exponents[1], m, alpha=alpha.numerator)
        if gram is not None and gram.dual:
            self.undo = self.undo + gram.exponent
        powers.append(self.undo)
        if self.right is not None:
            powers.append(-exponents[1])
        self._powers = torch.stack(powers)
        self._made: dict[torch.dtype, tuple[Tensor, ...]] = {}
        # Exponents up to q/s times those of A, and those of B.
        share = abs(alpha.numerator) / alpha.denominator * (1 if shift is None else 2) + (shift is not None)
        self._reach = LARGEST_EXPONENT[self.storage] * (1 + share)

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """2^(-1 − s·m), 2^undo (where that is a number of `dtype`) and 2^-f, `(b, 1, 1)` each."""
        if dtype not in self._made:
            self._made[dtype] = power_of_two(self._powers, dtype)[:, :, None, None].unbind(0)
        return self._made[dtype]

    def half(self, dtype: torch.dtype) -> Tensor:
        """Half the factor of A, `(b, 1, 1)`: the sum with the transpose brings the other half."""
        return self._factors(dtype)[0]

    def of_right(self, dtype: torch.dtype) -> Tensor:
        """The factor of B, `(b, 1, 1)`."""
        return self._factors(dtype)[2]

    def restore(self, Z: Tensor, out: Tensor) -> Tensor:
        """Z_s in the caller's units, into `out`; may overwrite Z_s."""
        count = math.ceil(self._reach / LARGEST_EXPONENT[Z.dtype])
        if count == 1:
            return torch.mul(Z, self._factors(Z.dtype)[1], out=out)
        return out.copy_(ldexp(Z, self.undo[:, None, None], count=count, out=Z))

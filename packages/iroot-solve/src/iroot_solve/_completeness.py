"""Whether an iteration has reached every eigenvalue, seen with random probes.

An E_m of the certificate weighs an eigenvector by its share in the computed Z. A direction that the iteration has
hardly begun on, although it dominates the true Z, has no share there. But the iterate knows it: before the last step,
made for [l, u], the eigenvalues y of Y are in that interval where the steps have done their work, and near 0 where they
have hardly begun. With x(y) = (u + l − 2y)/(u − l), the Chebyshev polynomial T_j, and k = 16 columns V of independent
normal numbers

    N = ‖T_j(x(Y))·V‖_F² / (k·T_j(x(0))²),   E N = Σ (T_j(x(y))/T_j(x(0)))²,

in which y = 0 weighs 1, and all y in [l, u] together n/T_j(x(0))² or less: 0.02 for the smallest j that allows it, a
few products with Y. A matrix is called unfinished where N > 0.1. A lone y = 0 stays below that with the probability
that χ² of 16 degrees of freedom is below 1.6, 3·10⁻⁶, whatever its eigenvector: of signs a vector with two entries may
see nothing. The numbers are not those of the certificate, whose mistakes they are to find.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from iroot_coeffs import Step
from iroot_kernels import PlaneMatrix, Products
from torch import Tensor

from iroot_solve._result import SolveWorkspace
from iroot_solve._scales import norm

PROBES, LIMIT, SHARE = 16, 0.1, 0.02
# Between the seeds of its probes and those of the certificate.
COMPLETENESS_SEED = 7919
# Of l/u: beyond it what is left is rounding.
NARROWEST = 0.998
# Products at most: beyond them a larger l is taken, and what lies below that counts as unfinished. A plan for a loose
# tolerance and a large p may need many; a caller's last step may have been meant to leave its interval unfinished.
CAP, CALLERS_CAP, CAP_PER_DEGREE = 200, 8, 3
# Entries of Y that its planes hold: no more than u, which is 4^(p/2) or so after steps of degree 1 or 2.
MOST_ENTRY = 3.95


def degree(n: int, end: Step, given: bool = False) -> tuple[int, float]:
    """(j, x(0)): the smallest j with T_j(x(0))² ≥ n/0.02, up to the cap.

    Args:
        n: Of Y.
        end: The last step.
        given: By the caller.
    """
    wanted, ratio = math.acosh(math.sqrt(n / SHARE)), min(end.lo / end.hi, NARROWEST)
    j = math.ceil(wanted / math.acosh((1 + ratio) / (1 - ratio))) if ratio > 0 else math.inf
    cap = max(CALLERS_CAP, CAP_PER_DEGREE * end.degree) if given else CAP
    return (int(j), (1 + ratio) / (1 - ratio)) if j <= cap else (cap, math.cosh(wanted / cap))


@lru_cache(maxsize=32)
def normal_numbers(n: int, device: torch.device, seed: int, dtype: torch.dtype) -> Tensor:
    """`(n, 16)` from an own generator; kept, so not to be written to."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(n, PROBES, generator=generator, device=device, dtype=dtype)


def unfinished(Y: Tensor, end: Step, seed: int, ws: SolveWorkspace, given: bool = False) -> Tensor:
    """N over its limit, float64 `(b,)`: above 1 an eigenvalue was missed, or Y is nothing that a bound holds for.

    Args:
        Y: `(b, n, n)` before the last step.
        end: That step.
        seed: Of the probes.
        ws: Buffers; holds the probes for a graph.
        given: The steps are the caller's.

    Returns:
        Cost: j products with 16 columns.
    """
    b, n = Y.shape[:2]
    j, start = degree(n, end, given)
    V = ws.hold(normal_numbers(n, Y.device, seed, Y.dtype)).expand(b, n, -1)
    # x(y) = x(0)·(1 − y/c) with c = (u + l)/2, and u = c·(1 + 1/x(0)).
    slope = (start + 1) / end.hi
    by_planes = PlaneMatrix.serves(Y) and end.hi <= MOST_ENTRY
    grown = (_by_planes if by_planes else _by_products)(Y, V, j, start, slope, ws)
    found = norm(grown).square_().div_(LIMIT * PROBES * math.cosh(j * math.acosh(start)) ** 2)
    return found.nan_to_num_(math.inf, math.inf)


def _by_products(Y: Tensor, V: Tensor, j: int, start: float, slope: float, ws: SolveWorkspace) -> Tensor:
    """T_j(start − slope·Y)·V."""
    exact = Products("fp64" if Y.dtype is torch.float64 else "fp32", ws)
    before, here = V, exact(Y, V, C=V, alpha=-slope, beta=start, out=ws.like("missed0", V))
    for i in range(1, j):
        # T_{i+1} = 2x·T_i − T_{i−1}
        free = ws.like(f"missed{i % 3}", V)
        torch.sub(torch.mul(here, 2 * start, out=free), before, out=free)
        before, here = here, exact(Y, here, C=free, alpha=-2 * slope, out=free)
    return here


def _by_planes(Y: Tensor, V: Tensor, j: int, start: float, slope: float, ws: SolveWorkspace) -> Tensor:
    """The same from one plane of Y: its 11 bits are enough to tell 0 from [l, u], where |T_j| ≤ 1."""
    here, before, part = (ws.buffer(f"missed{i}", V.shape, V.dtype, V.device) for i in range(3))
    here.copy_(V)
    before.zero_()
    part.zero_()
    recurrence = PlaneMatrix.of(Y, ws, "missed", planes=1).recurrence(here)
    for i in range(j):
        factor = 2.0 if i else 1.0
        recurrence.term(here, before, part, -factor * slope, factor * start, -1.0, 0.0)
        here, before = before, here
    return here

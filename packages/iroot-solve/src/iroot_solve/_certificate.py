"""The error of Z, estimated from Z.

Let X be the computed A^(-q/s), Δ its error, and  E_m = X^m·A^q·X^(s+1−m) − X  for m = 1 … s. To first order, in A's
eigenbasis with x_i = λ_i^(-q/s),  (E_m)_ij = Δ_ij·σ_m(x_i/x_j),  σ_m(ρ) = Σ_{k=m−s}^{m−1} ρ^k:  a sum of s positive
terms, one of them 1, and σ_m(1) = s. So, with Z = X·B,

    ‖E_m·B‖_F / (s·‖Z‖_F)

is exact for errors that commute with A (truncation, unfinished eigenvalues). For others it may be 1/s of the truth,
because σ_m ≥ 1 says no more, or exceed it by up to κ^(q(s−1)/s)/s. Two orders m + m' = s + 1 share that factor between
them: for independent Δ_ij

    E⟨E_m·B, E_m'·B⟩ = Σ |Δ_ij|²·σ_m(ρ)·σ_m'(ρ)·b_j²,

which exceeds the truth only by the geometric mean, and is not below it: σ_m·σ_m' = (Σ_k ρ^(k−(s−1)/2))² ≥ s². The
estimate is the smallest of this one and the ‖E_m·B‖_F/‖Z‖_F, which are not below the truth either; the inner product,
which may cancel by chance, counts for at least a tenth of the geometric mean of its norms. It needs no root beyond the
action of X, and it is an estimate for the B at hand, for more than 8 columns for ±1 combinations of them. For p = 1 it
is ‖X·(A·Z − B)‖_F/‖Z‖_F, the residual carried through the inverse.

What no E_m sees is an error that Z has and X has not: the rounding of the last product, u·‖X‖·‖B‖. It is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import torch
from iroot_precond import ritz_extremes
from torch import Tensor

from iroot_solve._doubled import DoubledMatrix
from iroot_solve._thin import thin

PROBES = 8
COMPLETENESS_STEPS = 4

Action = Callable[[Tensor], Tensor]
Power = Callable[[int, Tensor], Tensor]
"""(j, V) ↦ X^j·V."""


class Certificate(NamedTuple):
    """Per matrix: estimated relative error of Z, measured residual, and the norm of X over its mean action on B."""

    error: Tensor
    residual: Tensor
    amplification: Tensor


def probe_signs(n: int, columns: int, device: torch.device, seed: int) -> Tensor:
    """±1 numbers `(n, columns)` from an own generator."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(0, 2, (n, columns), generator=generator, device=device).double() * 2 - 1


def certify(
    power: Power,
    A: Tensor,
    B: Tensor | None,
    Z: Tensor,
    exponent: Fraction,
    roundoff: float,
    seed: int,
    drift: Action | None = None,
    ends: bool = True,
    doubled: DoubledMatrix | None = None,
) -> Certificate:
    """Estimate ‖Z − A^exponent·B‖_F/‖Z‖_F.

    Args:
        power: The action of powers of X (for a positive exponent: of W = A^exponent) on `(b, n, m)` in A's dtype.
        A: `(b, n, n)`, in the precision in which residuals are wanted.
        B: `(b, n, k)`, or `None` for the root.
        Z: `(b, n, k)`: the claimed result.
        exponent: −q/s or q/s.
        roundoff: Unit roundoff of the products that applied X to B.
        seed: Of the probes.
        drift: W ↦ an error of W = X·V that no E_m can see, where the strategy knows of one.
        doubled: A for products in doubled precision, where Z was computed in that of A.
        ends: Look at E_1 and E_s too: sharper where B is aligned with extreme eigenvectors, for twice the work.

    Returns:
        The certificate. Cost: at most 4(s + q + 1) products with min(k, 8) columns.
    """
    V, W = _scaled(*_probes(B, Z, A, seed))
    s, q = exponent.denominator, abs(exponent.numerator)
    size = _norm(W)
    if exponent > 0:
        measured = _positive(power, A, V, W, s, q)
        error = measured / s
    else:
        gaps = _gaps(power, doubled or PlainMatrix(A), V, W, s, q, ends)
        measured = _ratio(_norm(gaps[(s + 1) // 2]), size)
        error = _root_error(_ratio(_smallest(gaps, s), size), s)
    if drift is not None:
        error = error + _ratio(_norm(drift(W)), size)
    amplification = _amplification(power, V, size, seed)
    if roundoff:
        error = error + roundoff * amplification.clamp_min(1.0)
    return Certificate(torch.nan_to_num(error, nan=math.inf, posinf=math.inf), measured, amplification)


def _probes(B: Tensor | None, Z: Tensor, A: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """(V, W) with W = X·V as claimed: the columns of B and Z, or 8 random combinations of them."""
    n, k = Z.shape[-2:]
    if B is not None and k <= PROBES:
        return B.to(A.dtype), Z.to(A.dtype)
    signs = probe_signs(k, min(PROBES, k), A.device, seed).to(A.dtype).expand(A.shape[0], k, -1)
    W = torch.bmm(Z.to(A.dtype), signs)
    return (signs if B is None else torch.bmm(B.to(A.dtype), signs)), W


def _scaled(V: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """Both over max|W|: the estimate is linear in them, and squares of W must not overflow."""
    largest = W.abs().amax((-2, -1), keepdim=True)
    usable = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    return V / usable, W / usable


def orders(s: int, ends: bool) -> tuple[int, ...]:
    """The m to look at, descending: the middle pair, and the ends while 1/s is no more than a factor of ten."""
    middle = {(s + 1) // 2, (s + 2) // 2} if s > 1 else {1}
    return tuple(sorted(middle | ({1, s} if ends and s <= 8 else set()), reverse=True))


class PlainMatrix:
    """A whose own precision is enough."""

    def __init__(self, A: Tensor) -> None:
        self.whole = A

    def times(self, Z: Tensor) -> Tensor:
        """A·Z."""
        return thin(self.whole, Z)

    def residual(self, B: Tensor, Z: Tensor) -> Tensor:
        """B − A·Z."""
        return B - self.times(Z)


def _gaps(
    power: Power, A: PlainMatrix | DoubledMatrix, V: Tensor, W: Tensor, s: int, q: int, ends: bool
) -> dict[int, Tensor]:
    """E_m·V = X^m·A^q·X^(s−m)·W − W for the m of `orders`; for s = 1, where V is at hand, −X·(V − A^q·W).

    The right-hand powers build on one another; the left-hand ones act on all columns that still need them at once.
    """
    found, inner, taken, P = orders(s, ends), [], 0, W
    for m in found:
        P, taken = power(s - m - taken, P), s - m
        U = P
        for _ in range(q - 1):
            U = A.times(U)
        inner.append(A.residual(V, U) if s == 1 else A.times(U))
    block = inner[0]
    for i, m in enumerate(found):
        block = power(m - (found[i + 1] if i + 1 < len(found) else 0), block)
        if i + 1 < len(found):
            block = torch.cat((block, inner[i + 1]), -1)
    parts = torch.tensor_split(block, len(found), -1)
    return {m: part if s == 1 else part - W for m, part in zip(found, parts, strict=True)}


def _smallest(gaps: dict[int, Tensor], s: int) -> Tensor:
    """s times the smallest bound of ‖Δ·V‖_F: σ_m·σ_m' ≥ s² for the middle pair, only σ_m ≥ 1 for one order."""
    norms = {m: _norm(gap) for m, gap in gaps.items()}
    low, high = (s + 1) // 2, (s + 2) // 2 if s > 1 else 1
    inner = (gaps[low] * gaps[high]).sum((-2, -1)).abs().sqrt()
    estimate = torch.maximum(inner, 0.1 * (norms[low] * norms[high]).sqrt())
    for norm in norms.values():
        estimate = torch.minimum(estimate, s * norm)
    return estimate


def _root_error(relative: Tensor, s: int) -> Tensor:
    """1 − (1 − E)^(1/s), the error of an eigencomponent with residual E (E/s to first order); max(1, E/s) beyond 1."""
    below = -torch.expm1(torch.log1p(-relative.clamp(max=1 - 1e-6)) / s)
    error = torch.where(relative < 1, below, (relative / s).clamp_min(1.0))
    return torch.nan_to_num(error, nan=math.inf, posinf=math.inf)


def _positive(power: Power, A: Tensor, V: Tensor, W: Tensor, s: int, q: int) -> Tensor:
    """‖W^(s−1)·Z − A^q·B‖/‖A^q·B‖ with W = A^(q/s): to first order s times the relative error of Z.

    Large eigenvalues weigh more in it than in Z. What it may miss at small ones is truncation, which `drift` sees.
    """
    U = V
    for _ in range(q):
        U = thin(A, U)
    return torch.nan_to_num(_ratio(_norm(power(s - 1, W) - U), _norm(U)), nan=math.inf)


def unfinished(power: Power, A: Tensor, exponent: Fraction) -> Tensor:
    """Where some eigenvalue of Y = X^h·A^q·X^(s−h) is below 1/2, `(b,)`.

    An E_m weighs an eigenvector by its share in the computed Z. A direction that the iteration has hardly begun on,
    although it dominates the true Z, has no share there. As an eigenvalue of Y it stands alone near 0, and a few
    Lanczos steps from a random start find it.
    """
    s, q = exponent.denominator, abs(exponent.numerator)

    def action(V: Tensor) -> Tensor:
        V = power(s - s // 2, V)
        for _ in range(q):
            V = thin(A, V)
        return power(s // 2, V)

    lowest, _, _ = ritz_extremes(action, A, COMPLETENESS_STEPS)
    return ~(lowest >= 0.5)


def _amplification(power: Power, V: Tensor, size: Tensor, seed: int) -> Tensor:
    """‖X‖_F·‖B‖_F/(√n·‖Z‖_F) with ‖X‖_F from four ±1 probes."""
    n = V.shape[-2]
    X = power(1, probe_signs(n, min(4, n), V.device, seed + 1).to(V.dtype).expand(V.shape[0], n, -1))
    # ‖X‖_F over the largest entry first: squares of X may overflow.
    largest = X.abs().amax((-2, -1), keepdim=True)
    root = _norm(X / torch.where(largest > 0, largest, 1.0)) / math.sqrt(X.shape[-1])
    return _ratio(root * (largest[..., 0, 0] * _norm(V)), size) / math.sqrt(n)


def _norm(V: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(V, dim=(-2, -1))
    return norm


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator/denominator with 0/0 = 0."""
    return torch.where(numerator == 0, 0.0, numerator / denominator)

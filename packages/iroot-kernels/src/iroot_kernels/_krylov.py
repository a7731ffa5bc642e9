"""The small side of a Krylov method: y = f(T)·e₁ for f(x) = x^α, and how far Q·y is from f(A)·q₁.

Let A·Q = Q·T + β_m·q_{m+1}·e_mᵀ with orthonormal Q and T = W·diag(θ)·Wᵀ, and let f[θ, x] be the divided difference.
The error of the m-th approximation has a closed form (Saad 1992; Frommer, Güttel, Schweitzer 2014):

    f(A)·q₁ − Q·f(T)·e₁ = β_m·g(A)·q_{m+1},     g(x) = e_mᵀ·f[T, x]·e₁ = Σ_i W_mi·f[θ_i, x]·W_1i.

For −1 ≤ α ≤ 1 both f and g are mixtures of (x + t)^(-1), t ≥ 0, of one sign, so |g| falls and

    ‖error‖ ≤ E(m, low) = β₀·β_m·|g(low)|     for every low ≤ λ_min.                                         (bound)

E costs nothing beside the eigenvectors of T (the Gauss–Radau rule with a node at `low` would need those of a second
matrix, and bounds no norm), but overestimates: 2–7 times for spread spectra, up to κ times once a tiny isolated
eigenvalue has been found. What the process did meanwhile calibrates it. Because Q is orthonormal,

    D = ‖Z_m − Z_{m−d}‖ = β₀·‖y_m − [y_{m−d}; 0]‖     exactly;

if errors fall as E(m) = E(m, θ_min) does, the error of m − d is at most D/(1 − E(m)/E(m − d)), a share
c = D/(E(m − d) − E(m)) of its bound. The estimate is E(m)·min(1, c), c the larger of the last two: one c alone is low
where E(m − d) happened to be high.

D by itself is no evidence. While a tiny eigenvalue λ with eigenvector v has not been met, Z stands still, and D is as
small as one likes. Two things tell.

(1) With `low`: Qᵀ·(A − λ)·v = 0 gives Qᵀv = −β_m·(vᵀq_{m+1})·(T − λ)^(-1)·e_m, so by ‖Qᵀv‖² + (vᵀq_{m+1})² ≤ 1

    |vᵀq_{m+1}| ≤ τ(λ) = (1 + β_m²·‖(T − λ)^(-1)·e_m‖²)^(-1/2),

and an eigenvalue anywhere in [low, θ_min] contributes at most E(m, low)·τ(low) to the error, for both fall with λ. The
estimate is at least that. It is small once θ_min has come down to `low`; the sharper `low`, the fewer steps it costs.

(2) Without: the residual of the Galerkin solution of A·x = b, b − Q·T^(-1)·e₁·β₀ = ±β₀·β_m·(e_mᵀT^(-1)e₁)·q_{m+1}, is a
polynomial of A, one at zero, times b: of a v not met, λ ≪ θ_min, it still holds all of vᵀb. For α < 0 nothing counts as
converged until the residual is below what most random B have along any v (`small_share`). An eigenvalue below θ_min
whose eigenvector makes up less of B than that and than tol can remain unseen; only `low` excludes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from iroot_kernels._rows import to_device


class LanczosResult(NamedTuple):
    """What a Krylov method gives; the tensors of shape (b,) are on the device of B.

    Attributes:
        Z: f(A)·B `(b, n, k)`, stored column by column in a buffer of the workspace; NaN for matrices that failed.
        steps: Dimension m of the Krylov spaces.
        products: Right-hand columns multiplied by one matrix, as `Products.columns` counts.
        error: Estimate of ‖Z − f(A)B‖_F/‖f(A)B‖_F without rounding, (b,) float64; inf for matrices that failed.
        bound: A bound of the same where `low` was given and −1 ≤ α ≤ 1, else inf; (b,) float64.
        converged: error ≤ tol, and for α < 0 without `low` no sign of an eigenvalue not met, (b,) bool.
        indefinite: A Ritz value shows that f is not defined: ≤ 0 for α < 0, negative beyond rounding for α > 0.
        ritz_low: Smallest Ritz value, ≥ λ_min up to rounding, (b,) float64; NaN where B = 0.
        ritz_high: Largest Ritz value, ≤ λ_max up to rounding.
    """

    Z: Tensor
    steps: int
    products: int
    error: Tensor
    bound: Tensor
    converged: Tensor
    indefinite: Tensor
    ritz_low: Tensor
    ritz_high: Tensor


@dataclass(frozen=True)
class Projected:
    """T of every column by its eigenpairs, float64 on the host.

    Attributes:
        theta: Eigenvalues (b, k, m).
        vectors: W (b, k, m, m).
        norm: β₀ (b, k), the norms of the columns of B; NaN where the column met a number that is not finite.
        coupling: β_m (b, k), zero where the Krylov space is exhausted.
    """

    theta: Tensor
    vectors: Tensor
    norm: Tensor
    coupling: Tensor

    @property
    def first(self) -> Tensor:
        """First components of the eigenvectors (b, k, m)."""
        return self.vectors[..., 0, :]

    @property
    def last(self) -> Tensor:
        """Last components of the eigenvectors (b, k, m)."""
        return self.vectors[..., -1, :]


@dataclass(frozen=True)
class Check:
    """What is known at one dimension m, float64 on the host.

    Attributes:
        y: β₀·f(T)·e₁ (b, k, m).
        envelope: E(m, θ_min), (b,).
        share: c, (b,).
        error: Estimate, relative (b,).
        bound: E/‖Z‖ where it is one, else inf (b,).
        excess: error/tol, or what an eigenvalue not met asks for where that is more (b,).
        converged: excess ≤ 1 (b,).
        failed: Indefinite or not finite (b,).
        indefinite: f is not defined at a Ritz value (b,).
        ends: Smallest and largest Ritz value (b,).
    """

    y: Tensor
    envelope: Tensor
    share: Tensor
    error: Tensor
    bound: Tensor
    excess: Tensor
    converged: Tensor
    failed: Tensor
    indefinite: Tensor
    ends: tuple[Tensor, Tensor]

    def rows(self) -> Tensor:
        """y as (b·k, m), NaN where the matrix failed."""
        return torch.where(self.failed[:, None, None], torch.nan, self.y).flatten(0, 1)

    def result(self, Z: Tensor, dtype: torch.dtype, passes: int) -> LanczosResult:
        """With Z = Q·y in `dtype`; `passes` products were made for every dimension of y."""
        k, m = self.y.shape[1:]
        facts = (self.error, self.bound, self.converged, self.indefinite, *self.ends)
        return LanczosResult(Z.to(dtype), m, passes * m * k, *(to_device(x, Z) for x in facts))


class Process(Protocol):
    """A Krylov process that grows by one dimension at a time."""

    def step(self, j: int) -> None:
        """From dimension j to j + 1."""

    def projected(self, m: int) -> Projected:
        """T of dimension m. Cost: the one synchronisation of a check."""


def divided_difference(theta: Tensor, x: Tensor, exponent: float) -> Tensor:
    """(θ^α − x^α)/(θ − x) for θ ≥ 0, x > 0, to full accuracy also where θ is close to x."""
    delta = (theta - x) / x
    slope = torch.expm1(exponent * torch.log1p(delta)) / torch.where(delta == 0, 1, delta)
    return torch.where(delta == 0, exponent, slope) * torch.pow(x, exponent - 1)


class Estimator:
    """Judges one check after another, each with the last one in view.

    Args:
        exponent: α of f(x) = x^α.
        tol: Relative error in the Frobenius norm at which a matrix counts as converged.
        low: Lower bound of the spectrum, a number or (b,), or `None`; where it is not positive it says nothing.
        noise: Rounding of Ritz values, relative to the largest.
        n: Length of the vectors.
    """

    def __init__(self, exponent: float, tol: float, low: float | Tensor | None, noise: float, n: int) -> None:
        self.exponent, self.tol, self.noise, self.n = exponent, tol, noise, n
        self.low = torch.as_tensor(0.0 if low is None else low, dtype=torch.float64, device="cpu")
        self.last: Check | None = None

    def check(self, T: Projected) -> Check:
        """Take T into account."""
        theta, ends, failed = self._usable(T)
        smallest = theta.amin((-2, -1))
        y = (T.vectors @ (theta**self.exponent * T.first).unsqueeze(-1)).squeeze(-1) * T.norm[..., None]
        size = torch.linalg.vector_norm(y, dim=(-2, -1))
        size = torch.where(size > 0, size, 1)
        x = torch.maximum(smallest, self.noise * theta.amax((-2, -1)))
        envelope = torch.linalg.vector_norm(self._envelopes(T, theta, x), dim=-1)
        share = self._share(y, envelope)
        usable = share if self.last is None else torch.maximum(share, self.last.share)
        bound, unseen = self._below(T, theta, smallest)
        error = torch.where(envelope > 0, torch.maximum(envelope * usable, unseen), 0) / size
        excess = torch.maximum(error / self.tol, self._unmet(T, theta))
        self.last = Check(
            y=y,
            envelope=envelope,
            share=share,
            error=torch.where(failed, torch.inf, error),
            bound=torch.where(failed, torch.inf, bound / size),
            excess=excess,
            converged=(excess <= 1) & ~failed,
            failed=failed,
            indefinite=self._indefinite(*ends),
            ends=ends,
        )
        return self.last

    def _indefinite(self, low: Tensor, high: Tensor) -> Tensor:
        return low <= 0 if self.exponent < 0 else low < -self.noise * high

    def _usable(self, T: Projected) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
        """θ (b, k, m) with numbers at which f is defined, the smallest and largest θ there was, and what failed."""
        # Columns of zeros have a T that means nothing; their y is zero whatever f is there.
        seen = (T.norm != 0)[..., None]
        low = torch.where(seen, T.theta, torch.inf).amin((-2, -1))
        high = torch.where(seen, T.theta, -torch.inf).amax((-2, -1))
        finite = T.norm.isfinite().all(-1)
        low, high = (torch.where(finite & (low <= high), end, torch.nan) for end in (low, high))
        failed = self._indefinite(low, high) | ~finite
        theta = torch.where(seen, T.theta, high[:, None, None]).clamp(min=0)
        return torch.where((failed | low.isnan())[:, None, None], 1, theta), (low, high), failed

    def _envelopes(self, T: Projected, theta: Tensor, x: Tensor) -> Tensor:
        """E(m, x) of every column (b, k)."""
        g = (T.last * divided_difference(theta, x[:, None, None], self.exponent) * T.first).sum(-1)
        return T.norm * T.coupling * g

    def _below(self, T: Projected, theta: Tensor, smallest: Tensor) -> tuple[Tensor, Tensor]:
        """The bound E(m, low), and what of it one eigenvalue between `low` and θ_min can account for."""
        known = self.low > 0
        # A Ritz value below `low` refutes it: nothing is bounded then, and nothing guarded against.
        tiny = torch.finfo(smallest.dtype).tiny
        low = torch.where(known, torch.minimum(self.low, smallest), smallest).clamp(min=tiny)
        bounds = self._envelopes(T, theta, low)
        gap = (theta - low[:, None, None]).clamp(min=tiny)
        unseen = bounds * torch.rsqrt(1 + (T.coupling[..., None] * T.last / gap).square().sum(-1))
        slack = self.noise * theta.amax((-2, -1))
        rigorous = known & (self.low <= smallest + slack) & (abs(self.exponent) <= 1)
        bound, unseen = (torch.linalg.vector_norm(e, dim=-1) for e in (bounds, unseen))
        return torch.where(rigorous, bound, torch.inf), torch.where(known, unseen, 0)

    def _unmet(self, T: Projected, theta: Tensor) -> Tensor:
        """The Galerkin residual, in units of what a random B has along a vector; 0 for α > 0 and with `low`."""
        if self.exponent > 0:
            return torch.zeros_like(self.low)
        residual = T.norm * T.coupling * (T.last / theta * T.first).sum(-1)
        residual, whole = (torch.linalg.vector_norm(x, dim=-1) for x in (residual, T.norm))
        ordinary = small_share(T.norm.shape[-1]) / math.sqrt(self.n) * whole
        return torch.where((residual > 0) & (self.low <= 0), residual / ordinary, 0)

    def _share(self, y: Tensor, envelope: Tensor) -> Tensor:
        """c = D/(E(m − d) − E(m)) of every matrix, at most 1; 1 where E has not fallen."""
        if self.last is None:
            return torch.ones_like(envelope)
        grown = y.clone()
        grown[..., : self.last.y.shape[-1]] -= self.last.y
        moved = torch.linalg.vector_norm(grown, dim=(-2, -1))
        before = self.last.envelope
        return torch.where(envelope < before, moved / (before - envelope), 1).clamp(max=1)


def small_share(k: int) -> float:
    """What ‖vᵀB‖·√n/‖B‖_F exceeds for 19 of 20 Gaussian B (k = 1: 23 of 25): √(χ²_k/k), by Wilson and Hilferty."""
    cube_root = 1 - 2 / (9 * k) - 1.645 * math.sqrt(2 / (9 * k))
    return max(0.1, math.pow(max(cube_root, 0), 1.5))


def rounding(n: int, dtype: torch.dtype) -> float:
    """What rounding may do to a Ritz value, relative to the largest: products err by √n·u, hardly one by 8 of it."""
    return 8 * math.sqrt(n) * torch.finfo(dtype).eps / 2


def check_arguments(B: Tensor, exponent: float, tol: float, max_steps: int, check_every: int) -> None:
    """Raise unless B is (b, n, k) of a supported dtype and the numbers make sense."""
    if B.ndim != 3:
        raise ValueError(f"B must have shape (b, n, k), not {tuple(B.shape)}")
    if B.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"B must be float32 or float64, not {B.dtype}: convert it")
    if exponent == 0 or not tol > 0 or max_steps < 1 or check_every < 1:
        raise ValueError(
            f"exponent={exponent} must not be 0, tol={tol} must be > 0, "
            f"max_steps={max_steps} and check_every={check_every} must be ≥ 1"
        )


def empty_result(B: Tensor) -> LanczosResult:
    """For a B without a number."""
    zeros = B.new_zeros(B.shape[0], dtype=torch.float64)
    return LanczosResult(
        torch.empty_like(B), 0, 0, zeros, zeros, zeros == 0, zeros != 0, zeros + torch.nan, zeros + torch.nan
    )


def steps_to_go(before: Check | None, now: Check, every: int) -> int:
    """How far the next check is: where `excess` should be below 1, at least m/8 and `every`, at most a third of m.

    An eigendecomposition of T costs as much as many products: checks a fixed distance apart would dominate.
    """
    m = now.y.shape[-1]
    least, most = max(every, m // 8), max(every, m // 3)
    if before is None:
        return most
    pending = ~(now.converged | now.failed)
    rate = torch.log(before.excess / now.excess)[pending] / (m - before.y.shape[-1])
    # A third more than the last rate asks for: half of all checks would come a little too early.
    needed = 1.3 * torch.log(now.excess)[pending] / rate.clamp(min=1e-9)
    return min(max(int(needed.max().nan_to_num(nan=1e9).clamp(max=1e9)), least), most)


def drive(process: Process, estimator: Estimator, most: int, every: int) -> Check:
    """Step and check until every matrix is finished or `most` steps are made; the last check."""
    made, target, before = 0, min(every, most), None
    while True:
        for j in range(made, target):
            process.step(j)
        made = target
        now = estimator.check(process.projected(made))
        if made == most or bool((now.converged | now.failed).all()):
            return now
        target = min(most, made + steps_to_go(before, now, every))
        before = now

"""The matrix as the solvers see it: scaled by an exact power of two, symmetric, damped, with its spectral bounds.

A_s = 2^-e·(sym(A) + ridge·I) has entries at most 1. It is built in the dtype that is asked for, straight from what was
passed: a float64 one then holds the ridge unrounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from iroot_kernels import PlaneMatrix, scaled_symmetric_part
from iroot_precond import (
    Congruence,
    aol_scaling,
    inflation,
    jacobi_scaling,
    power_of_two,
    ritz_extremes,
    row_norm_scaling,
    row_sum_bound,
    ruiz_scaling,
    scale_by_power_of_two,
    scaled_bound,
    symmetric_action,
)
from torch import Tensor

from iroot_solve._cholesky import ends
from iroot_solve._choose import LANCZOS_STEPS
from iroot_solve._completeness import COMPLETENESS_SEED, LIMIT, PROBES, normal_numbers
from iroot_solve._config import PrecondConfig
from iroot_solve._gram_matrix import GramMatrix
from iroot_solve._problem import Gram, Problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._scales import Scales, norm

# From this size on row sums are too loose, and a few Lanczos steps bound λmax better.
TOP_SIZE, TOP_STEPS = 128, 4
CONGRUENCES = ("jacobi", "ruiz", "aol", "row-norm")

# Entries of A_s may all be near 2^-s: beyond this s float32 is not for their squares.
MOST_SQUARED = 8
# λmax is bounded by this power of A_s on normal numbers; of a large one a series needs a closer bound, √κ terms of it.
POWER, LARGE_POWER, LARGE = 8, 16, 8192
# By how much what was rounded on the way may lower it: 8 products of 11 bits, where torch may use tf32.
ROUNDED = 1.001


@dataclass(frozen=True)
class Damping:
    """ridge + ridge_rel·mean(diag A) is added to the diagonal."""

    ridge: float = 0.0
    ridge_rel: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("ridge", self.ridge), ("ridge_rel", self.ridge_rel)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value!r} must be finite and ≥ 0")

    def __bool__(self) -> bool:
        return bool(self.ridge or self.ridge_rel)

    def amount(self, problem: Problem) -> Tensor:
        """Per matrix, in the caller's units, in float64."""
        A = problem.A
        found = torch.full(A.shape[:-2], self.ridge, dtype=torch.float64, device=A.device)
        if not self.ridge_rel:
            return found
        mean = A.diagonal(dim1=-2, dim2=-1).double().mean(-1)
        if problem.gram is not None:
            mean = mean * power_of_two(2 * problem.gram.exponent, torch.float64)
        return found.add_(mean, alpha=self.ridge_rel)


class ScaledMatrix:
    """A_s in the dtypes that are asked for, and its bounds.

    Args:
        problem: What was passed.
        damping: The explicit ridge.
        config: Preconditioner settings.
        ws: Buffers.
        seed: Of the Lanczos start.

    Attributes:
        scales: The powers of two that A, B and Z are scaled by.
        exponent: e, int32 `(b,)`: that of `scales` and `shift`.
        shift: What `normalise` added to e, `None` before it; no multiple of s.
        stretch: What it divided by besides, float64 `(b,)`, or `None`: A_s is 2^-e·(…)/stretch, and `upper` is still
            in units of 2^e.
        ridge: What is added to A's diagonal, in units of A, float64 `(b,)`.
        upper: Bound of λmax(A_s), float64 `(b,)`: ‖A_s‖_F, or what is tighter.
        defect: ‖A − Aᵀ‖_F/‖A‖_F, `(b,)`.
        scale: The congruence that was applied (p = 1), or `None`.
        applied: A congruence belongs to A_s.
        symmetric: A is known to equal its transpose.
        precond: What the preconditioner setting did, in words.
    """

    upper: Tensor
    defect: Tensor

    def __init__(
        self, problem: Problem, damping: Damping, config: PrecondConfig, ws: SolveWorkspace, seed: int
    ) -> None:
        self.problem, self.damping, self.config, self.ws, self.seed = problem, damping, config, ws, seed
        self.scale: Congruence | None = None
        self.shift: Tensor | None = None
        self.stretch: Tensor | None = None
        self.symmetric = False
        self._built: dict[torch.dtype, Tensor] = {}
        self._blank: Tensor | None = None
        self._wide_unit: Tensor | None = None
        self.applied = config.mode in CONGRUENCES and problem.exponent == -1
        ridge = damping.amount(problem) if damping else None
        self.scales = Scales(problem, ridge)
        self.exponent = self.scales.exponent
        self.ridge = torch.zeros_like(self.scales.size) if ridge is None else ridge
        self.precond = f"{config.mode}: not needed" if config.mode != "none" else "none"

    @property
    def scaled_ridge(self) -> Tensor:
        """What is added to the diagonal of A_s, float64 `(b,)`."""
        return self.ridge * power_of_two(-self.exponent, torch.float64)

    def gram(self, source: Gram) -> GramMatrix:
        """A_s = 2^-e·(GᵀG + ridge·I)/stretch as products with G."""
        d = None if self.scale is None else self.scale.d.double()
        if self.stretch is not None:
            even = self.stretch.rsqrt()[:, None]
            d = even if d is None else d * even
        return GramMatrix(source.G, 2 * source.exponent - self.exponent, self.scaled_ridge, d, self.ws)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """A_s in `dtype`."""
        if dtype not in self._built:
            A = self._convertible(dtype)
            self._built[dtype] = self._build(dtype) if A is None else self._converted(A, dtype)
        return self._built[dtype]

    def _convertible(self, dtype: torch.dtype) -> Tensor | None:
        """An A_s whose conversion is the one asked for.

        Float64 to float32: its magnitude may have been beyond float32 before the scaling. Float32 to float64 where
        neither a sum nor a ridge rounded it.
        """
        if dtype is torch.float32 and self.problem.A.dtype is torch.float64:
            return self.matrix(torch.float64)
        return self._built.get(torch.float32) if self.symmetric and not self.damping else None

    def _converted(self, A: Tensor, dtype: torch.dtype) -> Tensor:
        return self.ws.buffer(f"S {dtype}", A.shape, dtype, A.device).copy_(A)

    def _build(self, dtype: torch.dtype) -> Tensor:
        """From A as passed; the first one gives `upper` and `defect`, which neither ridge nor congruence may hide."""
        A, first = self.problem.A, not self._built
        half, unit = self.scales.half(dtype), self._unit(dtype)
        half = half if unit is None else half * unit
        small = self.problem.exponent.denominator > MOST_SQUARED
        out = self.ws.buffer(f"S {dtype}", A.shape, dtype, A.device)
        S, norms = scaled_symmetric_part(A, half, norms=first, small=small, out=out, workspace=self.ws)
        if norms is not None:
            size, skew = norms
            self.upper = size * (2 * inflation(A.shape[-1], dtype))
            self.defect = skew.div_(size.clamp_min(1e-300))  # a zero matrix is symmetric
        if self.damping:
            ridge = self.ridge * power_of_two(-self.scales.exponent, torch.float64)  # `shift` is still to come
            ridge = ridge if unit is None else ridge * unit[:, 0, 0]
            S.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
            self.upper = self.upper + ridge if first else self.upper
        if self.applied:
            self._congruence(S)
        if self.shift is not None and unit is None:
            scale_by_power_of_two(S, self.shift, out=S)
        if self._blank is not None:
            S.masked_fill_(self._blank, 0.0)
        return S

    def _congruence(self, S: Tensor) -> None:
        """S ← D·S·D, the same D in every dtype."""
        if self.scale is None:
            self.scale, self.precond = self._scaling(S), f"{self.config.mode}: applied and undone"
            self.upper = norm(self.scale.apply(S, out=S)) * inflation(S.shape[-1], S.dtype)
        else:
            Congruence(self.scale.d.to(S.dtype)).apply(S, out=S)

    def _scaling(self, S: Tensor) -> Congruence:
        mode, eps = self.config.mode, self.config.eps
        if mode == "ruiz":
            return ruiz_scaling(S, iters=self.config.ruiz_iters, eps=eps)
        make = {"jacobi": jacobi_scaling, "aol": aol_scaling, "row-norm": row_norm_scaling}
        return make[mode](S, eps=eps)

    def tighten(self) -> None:
        """Bounds that cost passes over the matrix: row sums, or what the preconditioner setting asks for.

        A congruence bounds λmax(A) ≤ λmax(D·A·D)·max d⁻².
        """
        S, config, mode = self.matrix(self.problem.storage), self.config, self.config.mode
        generator = torch.Generator().manual_seed(self.seed)
        T = self.ws.buffer(f"T {S.dtype}", S.shape, S.dtype, S.device)
        self._bound(scaled_bound(S, config.lambda_max_est, config.lambda_max_safety, generator=generator, work=T))
        if self.applied or mode == "none":
            return
        self.precond = f"{mode}: bound"
        if mode in CONGRUENCES:
            scale = self._scaling(S)
            self._bound(row_sum_bound(scale.apply(S, out=T)) * scale.d.pow(-2).amax(-1))
            self.precond = f"{mode}: bound only (D·A·D has other roots than A)"

    def _bound(self, bound: Tensor) -> None:
        """Take a bound where it is smaller; NaN, of a matrix that is not finite, stays."""
        self.upper = torch.minimum(self.upper, torch.where(bound > 0, bound.double(), torch.inf))

    def ritz(self, steps: int = LANCZOS_STEPS) -> tuple[Tensor, Tensor]:
        """Ritz values (θmin, θmax) of A_s, estimates from inside; `upper` gains θmax + β."""
        S = self.matrix(self.problem.storage)
        generator = torch.Generator().manual_seed(self.seed)
        low, high, beta = ritz_extremes(symmetric_action(S), S, steps, generator)
        self._bound((torch.maximum(high, -low) + beta) * inflation(S.shape[-1], S.dtype))
        return low, high

    def factor_ends(self) -> tuple[Tensor, Tensor]:
        """(near λmin from above, near λmax from below) of A_s, from `ends`.

        `upper` of a larger matrix gains a few Lanczos steps; on a device a power, which is fewer calls.
        """
        low, high = ends(self.matrix(self.problem.storage), self.ws, self.seed)
        if self.problem.n < TOP_SIZE:
            return low, high
        if self.problem.A.device.type == "cpu":
            return low, self.ritz(TOP_STEPS)[1].double()
        self.bound_by_power()
        return low, high

    def bound_by_power(self) -> float:
        """`upper` gains (‖A_s^m·V‖_F²/1.6)^(1/2m) with 16 columns V of normal numbers, for m thin products.

        ‖A^m·V‖_F² ≥ λmax^2m·χ² with χ² of 16 degrees of freedom, which is below 1.6 with a probability of 3·10⁻⁶.

        Returns:
            What λmax is of `upper` at least: at worst all n eigenvalues are equal, and χ² of 16·n degrees of freedom
            stays below 32·(n + 1).
        """
        S, n = self.matrix(self.problem.storage), self.problem.n
        by_planes = PlaneMatrix.serves(S)
        power = LARGE_POWER if by_planes and n >= LARGE else POWER
        size, exponent = self._power_by_planes(S, power) if by_planes else self._power(S, power)
        root = torch.ldexp((size.double() / math.sqrt(PROBES * LIMIT)).pow_(1 / power), exponent)
        slack = ROUNDED * inflation(n, S.dtype)
        self._bound(root.mul_(slack))
        return math.pow(2 * (n + 1) / LIMIT, -0.5 / power) / slack**2

    def _power(self, S: Tensor, power: int) -> tuple[Tensor, Tensor]:
        """(f, e) with ‖A_s^power·V‖_F = f·2^(power·e)."""
        shift = torch.frexp(self.upper).exponent
        scale = power_of_two(-shift, S.dtype)[:, None, None]  # no product is larger than V
        V = self._probes(S).mT.expand(S.shape[0], -1, S.shape[-1])
        for i in range(power):
            out = self.ws.buffer(f"power {i % 2}", V.shape, S.dtype, S.device)
            V = torch.bmm(V, S, out=out).mul_(scale)
        return norm(V, small=True), shift

    def _power_by_planes(self, S: Tensor, power: int) -> tuple[Tensor, Tensor]:
        """The same, from one plane of A_s."""
        V = self._probes(S).expand(*S.shape[:2], -1).contiguous()
        size, exponent = PlaneMatrix.of(S, self.ws, "power", planes=1).power(V, power)
        return size, exponent.double().div_(power)

    def _probes(self, S: Tensor) -> Tensor:
        """`(n, 16)` normal numbers."""
        return self.ws.hold(normal_numbers(S.shape[-1], S.device, self.seed + COMPLETENESS_SEED, S.dtype))

    def blank(self) -> None:
        """Put zeros in place of matrices that are not finite, which factorisations refuse."""
        self._blank = ~self.upper.isfinite()[:, None, None]
        for S in self._built.values():
            S.masked_fill_(self._blank, 0.0)

    def normalise(self, wholly: bool = False) -> Tensor:
        """Scale again by 2^-shift, so that `upper` lies in [1/2, 1): steps for [l, 1] fit without reading `upper`.

        Args:
            wholly: Divide by that, too, `stretch`, so that the spectrum reaches as far as the bound allows. It rounds,
                in the dtype at hand: the judge has to be wider.
        """
        self.upper, self.shift = torch.frexp(self.upper)
        if wholly:
            self.stretch = torch.where(self.upper > 0, self.upper, 1.0)
            self._wide_unit = torch.ldexp(self.stretch.reciprocal(), -self.shift)[:, None, None]
        for dtype, S in self._built.items():
            unit = self._unit(dtype)
            S = scale_by_power_of_two(S, self.shift, out=S) if unit is None else S.mul_(unit)
        self.exponent = self.exponent + self.shift
        return self.shift

    def _unit(self, dtype: torch.dtype) -> Tensor | None:
        """2^-shift/stretch `(b, 1, 1)`; `None` without a stretch, where a power of two may be beyond `dtype`."""
        return None if self._wide_unit is None else self._wide_unit.to(dtype)

    def undo_normalised(self, Z: Tensor) -> Tensor:
        """Z in the units that A_s had before it was normalised, in place."""
        if self.shift is None:
            return Z
        unit = torch.exp2(self.shift.double()) if self.stretch is None else torch.ldexp(self.stretch, self.shift)
        return Z.mul_(unit.pow(float(self.problem.exponent)).to(Z.dtype)[:, None, None])

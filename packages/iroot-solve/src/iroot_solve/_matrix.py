"""The matrix as the solvers see it: scaled by an exact power of two, symmetric, damped, with its spectral bounds.

A_s = 2^-e·(sym(A) + ridge·I) has entries at most 1. It is built in the dtype that is asked for, straight from what was
passed: a float64 one then holds the ridge unrounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from iroot_kernels import precision, symmetric_rank_k
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
from iroot_solve._config import PrecondConfig
from iroot_solve._gram_matrix import GramMatrix
from iroot_solve._problem import Gram, Problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._scales import Scales, magnitude, norm
from iroot_solve._transpose import plus_transpose

# From this size on row sums are too loose, and a few Lanczos steps bound λmax better.
TOP_SIZE, TOP_STEPS = 128, 4
CONGRUENCES = ("jacobi", "ruiz", "aol", "row-norm")


# Entries of A_s lie above 2^-s, those of A_s⁴ above 2^-4s: beyond this s they are scaled before they are squared.
MOST_POWERS_SQUARED = 8
# A sum of n products on tensor cores, which cut off where others round, in units of n·u.
SUM_ROUNDING = 2.0


def _square_roundoffs(dtype: torch.dtype) -> tuple[float, float]:
    """Of what A² and A⁴ are computed from."""
    if dtype is torch.float64:
        return 0.0, 0.0
    return precision("fp16x3").unit_roundoff, precision("fp16").unit_roundoff


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
        self.symmetric = False
        self._built: dict[torch.dtype, Tensor] = {}
        self._blank: Tensor | None = None
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
        """A_s = 2^-e·(GᵀG + ridge·I) as products with G."""
        d = None if self.scale is None else self.scale.d.double()
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
        half = self.scales.half(dtype)
        T = torch.mul(A, half, out=self.ws.buffer(f"T {dtype}", A.shape, dtype, A.device))
        S = plus_transpose(T, self.ws.buffer(f"S {dtype}", A.shape, dtype, A.device))
        if first:
            small = self.problem.exponent.denominator > MOST_POWERS_SQUARED  # entries may all be near 2^-s
            size = norm(T, small)
            self.upper = size * (2 * inflation(A.shape[-1], dtype))
            # T − S/2 = (T − Tᵀ)/2, and a zero matrix is symmetric.
            self.defect = norm(T.sub_(S, alpha=0.5), small).mul_(2).div_(size.clamp_min(1e-300))
        if self.damping:
            ridge = self.ridge * power_of_two(-self.scales.exponent, torch.float64)  # `shift` is still to come
            S.diagonal(dim1=-2, dim2=-1).add_(ridge[:, None])
            self.upper = self.upper + ridge if first else self.upper
        if self.applied:
            self._congruence(S)
        if self.shift is not None:
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

        `upper` of a larger matrix gains a few Lanczos steps; on a device two squares, which are fewer calls.
        """
        low, high = ends(self.matrix(self.problem.storage), self.ws, self.seed)
        if self.problem.n < TOP_SIZE:
            return low, high
        if self.problem.A.device.type == "cpu":
            return low, self.ritz(TOP_STEPS)[1].double()
        self.bound_by_squares()
        return low, high

    def bound_by_squares(self) -> float:
        """`upper` gains ‖A_s⁴‖_F^¼, for two products, of which the second may round to 11 bits, and few calls.

        A square as computed is off by δ|A||A| at most, hence by δ‖A‖_F² in norm, and ‖A‖₂² ≤ ‖A²‖_F:

            ‖A_s‖₂² ≤ ‖Â₂‖₂ + δ‖A_s‖_F²,   ‖Â₂‖₂² ≤ ‖Â₄‖_F + δ'‖Â₂‖_F².

        Returns:
            What λmax is of `upper` at least: of n equal eigenvalues, the worst case, ‖A⁴‖_F^¼ = n^⅛·λ.
        """
        S, n = self.matrix(self.problem.storage), self.problem.n
        shift = None
        if self.problem.exponent.denominator > MOST_POWERS_SQUARED:
            shift = torch.frexp(magnitude(S)).exponent
            S = scale_by_power_of_two(S, shift, out=self.ws.buffer(f"T {S.dtype}", S.shape, S.dtype, S.device))
        A2 = self._square(S, "fp16x3", "A²")
        A4 = self._square(A2, "fp16", "A⁴")
        fine, coarse = (SUM_ROUNDING * n * torch.finfo(S.dtype).eps + 2 * u for u in _square_roundoffs(S.dtype))
        first, second, fourth = (norm(A) for A in (S, A2, A4))
        inner = second.square_().mul_(coarse).add_(fourth).sqrt_()
        bound = first.square_().mul_(fine).add_(inner).sqrt_() * inflation(n, S.dtype) ** 2
        self._bound(bound if shift is None else torch.ldexp(bound, shift))
        return 0.99 / (math.sqrt(math.sqrt(math.sqrt(n) + coarse * n) + fine * n) * inflation(n, S.dtype) ** 4)

    def _square(self, S: Tensor, name: str, buffer: str) -> Tensor:
        """S·S."""
        out = self.ws.like(buffer, S)
        if S.dtype is torch.float64:
            return torch.bmm(S, S, out=out)
        return symmetric_rank_k(S, precision=name, out=out, workspace=self.ws)

    def blank(self) -> Tensor:
        """Put zeros in place of matrices that are not finite, which factorisations refuse; `(b,)`, False for those."""
        finite = self.upper.isfinite()
        self._blank = ~finite[:, None, None]
        for S in self._built.values():
            S.masked_fill_(self._blank, 0.0)
        return finite

    def normalise(self) -> Tensor:
        """Scale again by 2^-shift, so that `upper` lies in [1/2, 1): steps for [l, 1] fit without reading `upper`."""
        self.shift = torch.frexp(self.upper).exponent
        for S in self._built.values():
            scale_by_power_of_two(S, self.shift, out=S)
        self.exponent, self.upper = self.exponent + self.shift, torch.ldexp(self.upper, -self.shift)
        return self.shift

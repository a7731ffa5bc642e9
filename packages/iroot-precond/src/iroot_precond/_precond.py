"""`precond_spd`: ridge, exact scaling and spectral bounds of an SPD matrix, with the record of their undoing.

    A_norm = 2^-e · scaling(A + ridge·I),   spectrum in (0, lambda_max],  lambda_max in [1/2, 1)

Only explicit damping shifts the spectrum, and `PrecondStats.undo` takes every scaling back:

    >>> import torch
    >>> from iroot_precond import precond_spd
    >>> A = torch.tensor([[400.0, 100.0], [100.0, 300.0]], dtype=torch.float64)
    >>> A_norm, stats = precond_spd(A)
    >>> Z = stats.undo(torch.linalg.inv(A_norm), 1)
    >>> torch.allclose(Z, torch.linalg.inv(A), rtol=1e-14)
    True
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from iroot_precond._bounds import absolute_row_sums, chosen_bound, power_guess, scaled_row_sum_bound
from iroot_precond._congruence import (
    Congruence,
    Scalar,
    aol_scaling,
    frobenius_scaling,
    jacobi_scaling,
    row_norm_scaling,
    ruiz_scaling,
)
from iroot_precond._ridge import ridge_amount
from iroot_precond._scaling import (
    exponent_of,
    layout,
    max_abs,
    power_of_two,
    scale_by_power_of_two,
    unscale_root,
)

MODES = ("none", "frob", "jacobi", "ruiz", "aol", "row-norm")
ESTIMATORS = ("row_sum", "frobenius", "lanczos", "power", "min")


@dataclass(frozen=True, eq=False, slots=True)
class PrecondStats:
    """What was done to A, how it is undone, what is known of A_norm's spectrum; tensors: one entry a matrix.

    Attributes:
        mode: The scaling asked for.
        exponent: e (int32): A_norm = 2^-e · scale(A + ridge·I).
        scale: The scaling besides 2^-e: None, a `Scalar` or a `Congruence`.
        ridge: What was added to the diagonal, in units of A.
        lambda_max: Bound of λ_max(A_norm) by the chosen estimator times the safety factor; in [1/2, 1) (0 for
            zero matrices).
        rho_proxy: The smallest bound of the spectral radius of A_norm that was computed, without safety
            factor.
        gersh_lo: min_i (a_ii − Σ_{j≠i} |a_ij|) of A_norm: Gershgorin's lower bound of λ_min, often negative.
        kappa_proxy: rho_proxy / max(gersh_lo, l_target·rho_proxy), at most 1/l_target; infinite for zero
            matrices.
        lambda_max_guess: The power iteration's guess of λ_max(A_norm) where it was asked for; never used as a
            bound.
    """

    mode: str
    exponent: Tensor
    scale: Scalar | Congruence | None
    ridge: Tensor
    lambda_max: Tensor
    rho_proxy: Tensor
    gersh_lo: Tensor
    kappa_proxy: Tensor
    lambda_max_guess: Tensor | None = None

    def apply_rhs(self, B: Tensor, /) -> Tensor:
        """The right-hand side (..., n, k) for A_norm: D·B for a congruence (p = 1 only), else B itself."""
        return self.scale.apply_rhs(B) if isinstance(self.scale, Congruence) else B

    def undo(self, Z: Tensor, p: int = 1, *, exponent: Fraction | int | None = None) -> Tensor:
        """(A + ridge·I)^α·B from Z = A_norm^α·apply_rhs(B), α = −1/p.

        Args:
            Z: Results (..., n, k) for A_norm; not modified.
            p: The root, ≥ 1.
            exponent: α itself, for other powers; p is then not used.

        Returns:
            A new tensor (..., n, k), exact but for the one rounding of 2^(r/p), which is 1 where p divides
            the total exponent.

        Raises:
            ValueError: p < 1, or a congruence with α ≠ −1, which nothing can undo.
        """
        if p < 1:
            raise ValueError(f"p must be an integer >= 1, got {p}")
        alpha = Fraction(-1, p) if exponent is None else Fraction(exponent)
        if isinstance(self.scale, Congruence):
            if alpha != -1:
                raise ValueError(
                    f"the {self.mode} congruence D A D cannot be undone for the exponent {alpha}, "
                    "only for -1 (p = 1); use mode='none' or 'frob'"
                )
            Z = self.scale.undo_solution(Z)
        e = self.exponent - self.scale.exponent if isinstance(self.scale, Scalar) else self.exponent
        return unscale_root(Z, e, alpha)


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """How the upper end is bounded."""

    estimator: str
    safety: float
    lanczos_steps: int
    generator: torch.Generator | None

    def bounds(self, S: Tensor, row_sums: Tensor) -> tuple[Tensor, Tensor]:
        """(chosen bound times safety, smallest bound) of the spectral radius of ``S``, entries near 1."""
        rows = scaled_row_sum_bound(row_sums, S.dtype)
        chosen = chosen_bound(S, row_sums, self.estimator, self.lanczos_steps, self.generator)
        return chosen * self.safety, torch.minimum(chosen, rows)


def _check_matrix(A: Tensor) -> None:
    layout(A.dtype)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"A must be square, (..., n, n), got shape {tuple(A.shape)}")


def _check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {name} {value!r}; valid: {', '.join(valid)}")


def _check_settings(eps: float, ruiz_iters: int, l_target: float, safety: float) -> None:
    if not 0 <= eps < 1:
        raise ValueError(f"eps is a relative guard and must lie in [0, 1), got {eps}")
    if ruiz_iters < 0:
        raise ValueError(f"ruiz_iters must be >= 0, got {ruiz_iters}")
    if not 0 < l_target <= 1:
        raise ValueError(f"l_target must lie in (0, 1], got {l_target}")
    if not 1 <= safety < math.inf:
        raise ValueError(f"lambda_max_safety multiplies a bound and must be >= 1, got {safety}")


def _scaling(S: Tensor, mode: str, eps: float, ruiz_iters: int) -> Scalar | Congruence | None:
    if mode == "frob":
        return frobenius_scaling(S)
    if mode == "jacobi":
        return jacobi_scaling(S, eps=eps)
    if mode == "ruiz":
        return ruiz_scaling(S, iters=ruiz_iters, eps=eps)
    if mode == "aol":
        return aol_scaling(S, eps=eps)
    return row_norm_scaling(S, eps=eps) if mode == "row-norm" else None


def _damped(A: Tensor, ridge: float, ridge_rel: float, out: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return (S, e, amount), S = 2^-e·(A + amount·I), its largest entry in [1/2, 1) for diagonals ≥ 0."""
    amount = ridge_amount(A, ridge, ridge_rel)
    magnitude = max_abs(A)
    if not (ridge or ridge_rel) or A.shape[-1] == 0:
        e = exponent_of(magnitude)
        return scale_by_power_of_two(A, e, out=out), e, amount
    # The damped diagonal replaces A's own before scaling: the ridge may exceed A by more than the dtype's
    # range.
    diagonal = A.diagonal(dim1=-2, dim2=-1) + amount[..., None]
    e = exponent_of(torch.maximum(magnitude, diagonal.abs().amax(-1)))
    S = scale_by_power_of_two(A, e, out=out)
    S.diagonal(dim1=-2, dim2=-1).copy_(scale_by_power_of_two(diagonal[..., None], e)[..., 0])
    return S, e, amount


def _gershgorin_low(S: Tensor, row_sums: Tensor) -> Tensor:
    """min_i (s_ii − Σ_{j≠i} |s_ij|), 0 for n = 0."""
    diagonal = S.diagonal(dim1=-2, dim2=-1)
    if diagonal.shape[-1] == 0:
        return S.new_zeros(S.shape[:-2])
    return (diagonal + diagonal.abs() - row_sums).amin(-1)


def _kappa_proxy(rho: Tensor, gersh_lo: Tensor, l_target: float) -> Tensor:
    return torch.where(rho == 0, torch.inf, rho / torch.maximum(gersh_lo, l_target * rho))


def precond_spd(
    A: Tensor,
    mode: str = "none",
    eps: float = 1e-12,
    ruiz_iters: int = 2,
    ridge_rel: float = 0.0,
    l_target: float = 0.05,
    lambda_max_est: str = "row_sum",
    lambda_max_power_iters: int = 8,
    lambda_max_safety: float = 1.02,
    *,
    ridge: float = 0.0,
    lanczos_steps: int = 10,
    generator: torch.Generator | None = None,
    out: Tensor | None = None,
    work: Tensor | None = None,
) -> tuple[Tensor, PrecondStats]:
    """Damp, scale and bound a symmetric positive definite matrix. No synchronisation, A is not modified.

    Args:
        A: Symmetric matrices (..., n, n), float32 or float64, any magnitude.
        mode: "none", the scalar "frob", or a congruence "jacobi", "ruiz", "aol", "row-norm" (undone for p = 1
            only).
        eps: Relative guard of the scalings' divisions; changes nothing else.
        ruiz_iters: Sweeps of "ruiz".
        ridge_rel: Damping relative to the mean of A's diagonal.
        l_target: Assumed lower end of the normalised spectrum; enters kappa_proxy only.
        lambda_max_est: The bound used: "row_sum", "frobenius", "lanczos" or "min" (of all three). "power"
            bounds like "min" and fills `PrecondStats.lambda_max_guess`.
        lambda_max_power_iters: Power iterations of that guess.
        lambda_max_safety: Factor ≥ 1 on the bound.
        ridge: Absolute damping, in units of A.
        lanczos_steps: Products with one vector for "lanczos", "power" and "min".
        generator: Source of random starts; default: CPU, seed 0.
        out: Destination (..., n, n) of A_norm; allocated if None.
        work: Scratch (..., n, n), not ``out``; with both nothing of that size is allocated by "none" and
            "row_sum".

    Returns:
        (A_norm (..., n, n), stats). Non-finite matrices give non-finite bounds, theirs only.

    Raises:
        TypeError: A dtype other than float32 and float64.
        ValueError: A is not square, or a setting is unknown or out of range; the message names what is valid.
    """
    _check_matrix(A)
    _check_choice("mode", mode, MODES)
    _check_choice("lambda_max_est", lambda_max_est, ESTIMATORS)
    _check_settings(eps, ruiz_iters, l_target, lambda_max_safety)
    S, e, amount = _damped(A, ridge, ridge_rel, out)
    scale = _scaling(S, mode, eps, ruiz_iters)
    S = S if scale is None else scale.apply(S, out=S)
    row_sums = absolute_row_sums(S, work=work)
    spectrum = _Spectrum(lambda_max_est, lambda_max_safety, lanczos_steps, generator)
    lambda_max, rho = spectrum.bounds(S, row_sums)
    shift = exponent_of(lambda_max)
    factor = power_of_two(-shift, S.dtype)
    A_norm = S.mul_(factor[..., None, None])
    gersh_lo, rho = _gershgorin_low(A_norm, row_sums * factor[..., None]), rho * factor
    guess = power_guess(A_norm, lambda_max_power_iters, generator) if lambda_max_est == "power" else None
    kappa = _kappa_proxy(rho, gersh_lo, l_target)
    exponent, lambda_max = e + shift, lambda_max * factor
    return A_norm, PrecondStats(mode, exponent, scale, amount, lambda_max, rho, gersh_lo, kappa, guess)

"""What a caller may set about schedules and scalings."""

from __future__ import annotations

from dataclasses import dataclass

from iroot_precond import ESTIMATORS, MODES

COEFF_MODES = ("auto", "tuned", "precomputed")


@dataclass(frozen=True)
class ScheduleConfig:
    """How coefficients are found.

    Attributes:
        l_target: Assumed lower end of the normalized spectrum, 0 < l < 1: a hint, used where nothing better is known.
        coeff_mode: `auto` and `tuned` plan minimax quadratics; `precomputed` is the shipped schedule for l = 0.05.
        coeff_seed: Accepted and unused: planning is deterministic.
        coeff_safety: ≥ 1; widens the upper end of every step's interval.
        coeff_no_final_safety: Leave the last step unwidened.
    """

    l_target: float = 0.05
    coeff_mode: str = "auto"
    coeff_seed: int = 0
    coeff_safety: float = 1.0
    coeff_no_final_safety: bool = False

    def __post_init__(self) -> None:
        _check_l_target(self.l_target)
        if self.coeff_mode not in COEFF_MODES:
            raise ValueError(f"coeff_mode={self.coeff_mode!r} is not one of {', '.join(COEFF_MODES)}")
        if not self.coeff_safety >= 1:
            raise ValueError(f"coeff_safety={self.coeff_safety!r} must be ≥ 1")


@dataclass(frozen=True)
class PrecondConfig:
    """How the matrix is scaled before the iteration; every scaling is undone.

    Attributes:
        mode: none, frob, aol, jacobi, ruiz or row-norm. The last four are congruences, undone exactly for p = 1
            only; for p ≥ 2 they serve the bounds.
        eps: Guards divisions, relative; never added to the matrix.
        ruiz_iters: Sweeps of `ruiz`.
        ridge_rel: Ridge relative to the mean of A's diagonal.
        l_target: As in `ScheduleConfig`; the smaller of the two counts.
        lambda_max_est: row_sum, frobenius, lanczos, min or power (a guess, reported, never used as a bound).
        lambda_max_power_iters: Steps of `power`.
        lambda_max_safety: ≥ 1; multiplies the bound.
    """

    mode: str = "none"
    eps: float = 1e-12
    ruiz_iters: int = 2
    ridge_rel: float = 0.0
    l_target: float = 0.05
    lambda_max_est: str = "row_sum"
    lambda_max_power_iters: int = 8
    lambda_max_safety: float = 1.02

    def __post_init__(self) -> None:
        _check_l_target(self.l_target)
        if self.mode not in MODES:
            raise ValueError(f"mode={self.mode!r} is not one of {', '.join(MODES)}")
        if self.lambda_max_est not in ESTIMATORS:
            raise ValueError(f"lambda_max_est={self.lambda_max_est!r} is not one of {', '.join(ESTIMATORS)}")
        if not self.ridge_rel >= 0:
            raise ValueError(f"ridge_rel={self.ridge_rel!r} must be ≥ 0")
        if not self.lambda_max_safety >= 1:
            raise ValueError(f"lambda_max_safety={self.lambda_max_safety!r} must be ≥ 1")


def _check_l_target(value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"l_target={value!r} must lie in (0, 1)")

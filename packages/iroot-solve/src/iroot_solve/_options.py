"""Everything a solver call may set, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from iroot_kernels import quadratics
from torch import Tensor

from iroot_solve._config import PrecondConfig, ScheduleConfig
from iroot_solve._matrix import Damping

ON_FAILURE = ("raise", "warn", "nan")


@dataclass(frozen=True)
class Options:
    """See `solve_spd` for what each of them means; `quiet` is for a part of a batch, whose warning is the whole's."""

    damping: Damping = Damping()
    kappa_max: float | None = None
    lambda_max: float | None = None
    abc_t: Any = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precond: PrecondConfig = field(default_factory=PrecondConfig)
    strategy: str = "auto"
    expected_reuse: int = 1
    precision: str = "auto"
    on_failure: str = "raise"
    verify: bool = True
    fallback: bool = True
    quiet: bool = False
    seed: int = 0
    out: Tensor | None = None

    def __post_init__(self) -> None:
        if self.on_failure not in ON_FAILURE:
            raise ValueError(f"on_failure={self.on_failure!r} is not one of {', '.join(ON_FAILURE)}")
        if self.kappa_max is not None and not self.kappa_max >= 1:
            raise ValueError(f"kappa_max={self.kappa_max!r} must be ≥ 1: a promised bound of λmax/λmin")
        if self.lambda_max is not None and not self.lambda_max > 0:
            raise ValueError(f"lambda_max={self.lambda_max!r} must be > 0: a promised bound of the largest eigenvalue")
        if self.abc_t is not None:
            quadratics(self.abc_t)  # raises unless it is (T, 3)
        if self.expected_reuse < 1:
            raise ValueError(f"expected_reuse={self.expected_reuse!r} must be ≥ 1")

    @property
    def l_target(self) -> float:
        """The smaller of the two."""
        return min(self.schedule.l_target, self.precond.l_target)

    @property
    def blind(self) -> bool:
        """Nothing is read back: a promised condition, no certificate, failures left as NaN."""
        return not self.verify and self.kappa_max is not None and self.on_failure == "nan"


def merge_ridges(ridge_rel: float, precond: PrecondConfig | None) -> tuple[float, PrecondConfig]:
    """One relative ridge from the two places it may be given in.

    Raises:
        ValueError: Both are given and differ.
    """
    config = PrecondConfig() if precond is None else precond
    if ridge_rel and config.ridge_rel and ridge_rel != config.ridge_rel:
        raise ValueError(f"ridge_rel={ridge_rel} and PrecondConfig.ridge_rel={config.ridge_rel} differ; give one")
    return ridge_rel or config.ridge_rel, config

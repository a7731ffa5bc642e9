"""Everything a solver call may set, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from iroot_kernels import Workspace, quadratics
from torch import Tensor

from iroot_solve._config import PrecondConfig, ScheduleConfig
from iroot_solve._matrix import CONGRUENCES, Damping
from iroot_solve._problem import Problem

ON_FAILURE = ("raise", "warn", "nan")
ON_SINGULAR = ("error", "pinv")
LOOKS = ("auto", "lanczos", "cholesky", "none")
DEFERRABLE = ("auto", "direct-solve", "materialize-root", "hybrid-pe-nsrc", "chebyshev", "cayley", "cholesky")


@dataclass(frozen=True)
class Options:
    """See `solve_spd` for what each of them means.

    `deferred` is verify="deferred", with `verify` off. Three are not the caller's: `quiet` is for a part of a batch,
    whose warning is the whole's; `look` says how the ends of the spectrum are found where they are looked for, and is
    for studies of that; `caution` is that of the `Task`, for a call whose like was more wrong than was predicted.
    """

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
    deferred: bool = False
    fallback: bool = True
    quiet: bool = False
    on_singular: str = "error"
    rcond: float | None = None
    seed: int = 0
    out: Tensor | None = None
    look: str = "auto"
    caution: float = 1.0

    def __post_init__(self) -> None:
        if self.on_failure not in ON_FAILURE:
            raise ValueError(f"on_failure={self.on_failure!r} is not one of {', '.join(ON_FAILURE)}")
        if self.on_singular not in ON_SINGULAR:
            raise ValueError(f"on_singular={self.on_singular!r} is not one of {', '.join(ON_SINGULAR)}")
        if self.look not in LOOKS:
            raise ValueError(f"look={self.look!r} is not one of {', '.join(LOOKS)}")
        if self.rcond is not None and not 0 <= self.rcond < 1:
            raise ValueError(f"rcond={self.rcond!r} must lie in [0, 1): a share of the largest eigenvalue")
        if self.pinv and self.strategy not in ("auto", "eigh"):
            raise ValueError(f"strategy={self.strategy!r} does not apply to on_singular='pinv'; auto and eigh do")
        if self.blind and self.strategy == "lanczos":
            raise ValueError("strategy='lanczos' reads numbers back while it runs: it cannot go without verify")
        if self.blind and self.precond.mode in CONGRUENCES:
            raise ValueError(
                f"PrecondConfig(mode={self.precond.mode!r}) changes the condition number that kappa_max promises, and "
                "without a look there is no plan for what it becomes"
            )
        if self.deferred:
            self._check_deferred()
        if self.kappa_max is not None and not self.kappa_max >= 1:
            raise ValueError(f"kappa_max={self.kappa_max!r} must be ≥ 1: a promised bound of λmax/λmin")
        if self.lambda_max is not None and not self.lambda_max > 0:
            raise ValueError(f"lambda_max={self.lambda_max!r} must be > 0: a promised bound of the largest eigenvalue")
        if self.abc_t is not None:
            quadratics(self.abc_t)  # raises unless it is (T, 3)
        if self.expected_reuse < 1:
            raise ValueError(f"expected_reuse={self.expected_reuse!r} must be ≥ 1")

    def _check_deferred(self) -> None:
        """What is not read cannot be acted on."""
        if not self.blind:
            raise ValueError(
                "verify='deferred' reads nothing: it needs a promised kappa_max, on_failure='nan' and no pseudo-inverse"
            )
        if self.strategy not in DEFERRABLE:
            raise ValueError(
                f"strategy={self.strategy!r} cannot be verified later; those that can: {', '.join(DEFERRABLE)}"
            )

    @property
    def l_target(self) -> float:
        """The smaller of the two."""
        return min(self.schedule.l_target, self.precond.l_target)

    @property
    def pinv(self) -> bool:
        """The root on the numerical range is wanted."""
        return self.on_singular == "pinv"

    def cut(self, problem: Problem) -> float | None:
        """Eigenvalues of up to this share of the largest count as zero; `None`: none do.

        By default what rounding of the input explains: n·u of A; max(m, n)·u of the singular values of a G, but not
        below what forming GᵀG in float64 leaves.
        """
        if not self.pinv:
            return None
        if self.rcond is not None:
            return self.rcond
        if problem.gram is None:
            return problem.n * problem.unit_roundoff
        return max((max(problem.gram.G.shape[-2:]) * problem.unit_roundoff) ** 2, problem.n * 2.0**-53)

    @property
    def blind(self) -> bool:
        """Nothing is read back: a promised condition, no certificate or a deferred one, failures left as NaN."""
        promised = self.kappa_max is not None and self.on_failure == "nan" and not self.pinv
        return promised and not self.verify


def require_blind(options: Options, ws: Workspace, possible: bool = True) -> None:
    """ValueError where a graph is being recorded of a call that would read numbers back.

    Args:
        options: Of the call.
        ws: Knows of the graph.
        possible: There is a way to do without.
    """
    if not ws.recording:
        return
    if not possible:
        raise ValueError("a recorded call reads nothing back, and this solver does")
    if not options.blind:
        raise ValueError(
            "a recorded call reads nothing back: pass kappa_max=…, on_failure='nan', and verify='deferred' or False"
        )
    if options.strategy not in DEFERRABLE:
        raise ValueError(
            f"a recorded call reads nothing back, and strategy={options.strategy!r} does; these do not: "
            f"{', '.join(DEFERRABLE)}"
        )
    if options.precond.lambda_max_est not in ("row_sum", "frobenius"):
        raise ValueError(f"lambda_max_est={options.precond.lambda_max_est!r} copies numbers from the host")
    if isinstance(options.abc_t, Tensor) and options.abc_t.device.type != "cpu":
        raise ValueError("abc_t is read by the host: a recorded call reads nothing back; pass abc_t.cpu()")


def merge_ridges(ridge_rel: float, precond: PrecondConfig | None) -> tuple[float, PrecondConfig]:
    """One relative ridge from the two places it may be given in.

    Raises:
        ValueError: Both are given and differ.
    """
    config = PrecondConfig() if precond is None else precond
    if ridge_rel and config.ridge_rel and ridge_rel != config.ridge_rel:
        raise ValueError(f"ridge_rel={ridge_rel} and PrecondConfig.ridge_rel={config.ridge_rel} differ; give one")
    return ridge_rel or config.ridge_rel, config

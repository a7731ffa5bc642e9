"""The table: every matrix by name, size, dtype and the status it has to end with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from iroot_solve.gallery import _matrices as m
from iroot_solve.gallery import _spectra as s
from iroot_solve.gallery._matrices import Matrix
from iroot_solve.gallery._truth import KINDS, Truth

Builder = Callable[[], Matrix]
POWERS = (1, 2, 3, 4, 8)
_DEFAULT = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Case:
    """One matrix of the gallery.

    Attributes:
        name: What makes it hard.
        n: Size.
        dtype: Of the matrix as passed to a solver.
        status: What a call with `precision="auto"` has to end with.
        make: Builds it in float64.
        tol: Tolerance to ask for: the default of the dtype, or more where κ·2⁻⁵³ is more.
        ridge, ridge_rel: Damping to ask for.
        powers, kinds: The p and the right-hand sides for which `status` holds. For the others A^(-1/p)·B is out of the
            reach of float64, and nothing better than `stagnated` can be asked for.
    """

    name: str
    n: int
    dtype: torch.dtype
    status: str
    make: Builder
    tol: float = 0.0
    ridge: float = 0.0
    ridge_rel: float = 0.0
    powers: tuple[int, ...] = POWERS
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if not self.tol:
            object.__setattr__(self, "tol", _DEFAULT[self.dtype])

    @property
    def label(self) -> str:
        """Name, size and dtype; unique in `CASES`."""
        return f"{self.name} n={self.n} {str(self.dtype).removeprefix('torch.')}"

    def build(self) -> Matrix:
        """The float64 matrix `(n, n)` before it is rounded to `dtype`, and its spectrum where it is known."""
        return self.make()

    def matrix(self) -> Tensor:
        """The matrix as passed: rounded to `dtype`, its stored numbers being exact data from here on."""
        return self.build().A.to(self.dtype)

    def truth(self) -> Truth:
        """The eigendecomposition of the matrix as passed plus its ridge; kept for the life of the process."""
        return _truth(self)

    def expected(self, p: int, kind: str) -> str:
        """The status to end with for A^(-1/p)·B with B of that kind."""
        return self.status if p in self.powers and kind in self.kinds else "stagnated"

    def allows(self, status: str, p: int, kind: str) -> bool:
        """Whether a status is right; where `stagnated` is the worst to expect, a result within `tol` may say so."""
        expected = self.expected(p, kind)
        return status == expected or (expected, status) == ("stagnated", "converged")


@cache
def _truth(case: Case) -> Truth:
    return Truth.of(case.matrix(), case.ridge, case.ridge_rel)


def _spectral(n: int, spectrum: Callable[..., s.Spectrum], *arguments: float, scale: float = 1.0) -> Builder:
    return lambda: m.dense(spectrum(n, *arguments), scale)


def _float32() -> tuple[Case, ...]:
    """κ·2⁻²⁴ is up to a hundred here; float64 inside still gives 1e-4."""
    case = partial(Case, n=96, dtype=torch.float32, status="converged")
    return (
        *(case(f"log-spaced {k:.0e}", make=_spectral(96, s.log_spaced, k)) for k in (1e2, 1e4, 1e6)),
        *(case(f"one tiny {k:.0e}", make=_spectral(96, s.one_tiny, k)) for k in (1e4, 1e6)),
        *(case(f"cluster and tail {k:.0e}", make=_spectral(96, s.cluster_and_tail, k)) for k in (1e4, 1e6)),
        case("two values 1e+04", make=_spectral(96, s.two_values, 1e4)),
        *(case(f"power law {a}", make=_spectral(96, s.power_law, a)) for a in (1, 2, 3)),
        case("Wishart 2:1", make=partial(m.wishart, 96, 192)),
        case("Wishart 1.1:1", make=partial(m.wishart, 96, 106)),
        case("Marchenko–Pastur 0.5", make=_spectral(96, s.marchenko_pastur, 0.5)),
        case("Marchenko–Pastur 0.95", make=_spectral(96, s.marchenko_pastur, 0.95)),
        case("Hilbert", n=6, make=partial(m.hilbert, 6)),
        case("Hilbert", n=8, make=partial(m.hilbert, 8)),
        case("Hilbert", n=10, make=partial(m.hilbert, 10), status="not_positive_definite"),
        case("KᵀK of Kahan", n=16, make=partial(m.kahan_gram, 16, 1.2)),
        case("KᵀK of Kahan", n=32, make=partial(m.kahan_gram, 32, 1.3)),
        case("rank 48", make=_spectral(96, s.semidefinite, 48), status="not_positive_definite"),
        case("rank 48, ridge 1e-4", make=_spectral(96, s.semidefinite, 48), ridge=1e-4),
        case("rank 48, ridge_rel 1e-6", make=_spectral(96, s.semidefinite, 48), ridge_rel=1e-6),
        case("Wishart of rank 32, ridge_rel 1e-3", make=partial(m.wishart, 96, 32), ridge_rel=1e-3),
        case("graded 1e±3", n=16, make=partial(m.graded, 16, 3)),
        case("graded 1e±15", n=16, make=partial(m.graded, 16, 15), powers=(1,)),
        case("graded 1e±15, shuffled", n=16, make=partial(m.graded, 16, 15, True), powers=(1,)),
        case("scaled to 1e+20", make=_spectral(96, s.log_spaced, 1e4, scale=1e20)),
        case("scaled to 1e-20", make=_spectral(96, s.log_spaced, 1e4, scale=1e-20)),
        case("denormal, scaled to 1e-40", make=_spectral(96, s.log_spaced, 1e2, scale=1e-40)),
        case("larger, log-spaced 1e+04", n=300, make=_spectral(300, s.log_spaced, 1e4)),
        case("larger, power law 2", n=257, make=_spectral(257, s.power_law, 2)),
    )


def _float64() -> tuple[Case, ...]:
    """The tolerance is 1e-10 while κ·2⁻⁵³ is well below it, then about 100·κ·2⁻⁵³."""
    case = partial(Case, n=24, dtype=torch.float64, status="converged")
    # With B in the top eigenvectors the stored digits of A and B cancel in every small component of A⁻¹·B.
    graded = partial(case, n=16, powers=(1,), kinds=("random", "bottom"))
    return (
        *(case(f"log-spaced {k:.0e}", make=_spectral(24, s.log_spaced, k)) for k in (1e2, 1e4)),
        case("log-spaced 1e+06", make=_spectral(24, s.log_spaced, 1e6), tol=1e-8),
        case("log-spaced 1e+10", n=48, make=_spectral(48, s.log_spaced, 1e10), tol=1e-5),
        case("log-spaced 1e+10, default tol", make=_spectral(24, s.log_spaced, 1e10), status="stagnated"),
        case("one tiny 1e+06", make=_spectral(24, s.one_tiny, 1e6), tol=1e-8),
        case("one tiny 1e+10", make=_spectral(24, s.one_tiny, 1e10), tol=1e-5),
        case("cluster and tail 1e+10", make=_spectral(24, s.cluster_and_tail, 1e10), tol=1e-5),
        case("power law 3", make=_spectral(24, s.power_law, 3)),
        case("Wishart 2:1", make=partial(m.wishart, 24, 48)),
        case("Marchenko–Pastur 0.5", make=_spectral(24, s.marchenko_pastur, 0.5)),
        case("Hilbert", n=6, make=partial(m.hilbert, 6), tol=1e-6),
        case("Hilbert", n=8, make=partial(m.hilbert, 8), tol=1e-4),
        case("Hilbert", n=12, make=partial(m.hilbert, 12), status="singular"),
        case("KᵀK of Kahan", n=20, make=partial(m.kahan_gram, 20, 1.2), tol=1e-7),
        case("KᵀK of Kahan", n=24, make=partial(m.kahan_gram, 24, 1.2), tol=1e-5),
        case("rank 12", make=_spectral(24, s.semidefinite, 12), status="singular"),
        case("rank 12, ridge 1e-4", make=_spectral(24, s.semidefinite, 12), ridge=1e-4),
        case("graded 1e±3", n=16, make=partial(m.graded, 16, 3), tol=1e-8),
        graded("graded 1e±150", make=partial(m.graded, 16, 150)),
        graded("graded 1e±150, shuffled", make=partial(m.graded, 16, 150, True)),
        case("scaled to 1e+150", make=_spectral(24, s.log_spaced, 1e4, scale=1e150)),
        case("scaled to 1e-150", make=_spectral(24, s.log_spaced, 1e4, scale=1e-150)),
        case("denormal, scaled to 1e-310", make=_spectral(24, s.log_spaced, 1e2, scale=1e-310)),
    )


def _sixteen_bits() -> tuple[Case, ...]:
    """Rounding moves every eigenvalue by about 2·√n·u·rms(A_ij) of bfloat16's u = 2⁻⁹: κ = 1e4 does not survive it."""
    case = partial(Case, n=96, dtype=torch.bfloat16, status="converged")
    half = partial(case, dtype=torch.float16)
    return (
        case("log-spaced 1e+02", make=_spectral(96, s.log_spaced, 1e2)),
        case("log-spaced 1e+04", make=_spectral(96, s.log_spaced, 1e4), status="not_positive_definite"),
        case("log-spaced 1e+04, ridge_rel 1e-2", make=_spectral(96, s.log_spaced, 1e4), ridge_rel=1e-2),
        case("power law 1", make=_spectral(96, s.power_law, 1)),
        case("Wishart 2:1", make=partial(m.wishart, 96, 192)),
        case("Marchenko–Pastur 0.5", make=_spectral(96, s.marchenko_pastur, 0.5)),
        case("rank 48", make=_spectral(96, s.semidefinite, 48), status="not_positive_definite"),
        case("rank 48, ridge_rel 1e-2", make=_spectral(96, s.semidefinite, 48), ridge_rel=1e-2),
        half("log-spaced 1e+02", make=_spectral(96, s.log_spaced, 1e2)),
        half("rank 48, ridge_rel 1e-2", make=_spectral(96, s.semidefinite, 48), ridge_rel=1e-2),
    )


CASES: tuple[Case, ...] = (*_float32(), *_float64(), *_sixteen_bits())

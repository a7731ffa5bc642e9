"""Arms of the maintained matrix: the library's own strategies, and what torch and scipy users write today.

Variants, which run only when they are named, are in `_variants`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from iroot_solve._gram import apply_inverse_root_gram_rhs_spd, solve_gram_spd
from iroot_solve._nonspd import solve_nonspd
from iroot_solve._repeats import RECORDED_FROM
from iroot_solve._result import SolveResult, SolveWorkspace
from iroot_solve._spd import solve_spd
from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench._polar_variants import is_polar
from iroot_solve.bench._variants import VARIANTS
from iroot_solve.bench.rivals import RIVALS

Call = Callable[[], Tensor | SolveResult]
Answer = Callable[[Problem, Tensor, Tensor | None], Tensor]
# Chebyshev and Lanczos take about √κ products with B.
SERIES_KAPPA = 1e3
HYPERPOWER_KAPPA = 1e2
SCIPY_N = 256


def own(strategy: str, applies: Callable[[Problem], bool], what: str) -> Arm:
    """One of the library's strategies, with its certificate and its fallbacks, on a workspace of its own."""

    def make(problem: Problem) -> Call:
        solve = _solver(problem)
        workspace = SolveWorkspace()

        def call() -> SolveResult:
            return solve(workspace, strategy)

        for _ in range(RECORDED_FROM + 1 if problem.source.is_cuda else 0):
            call()
        return call

    page = (
        f"`strategy={strategy!r}` of iroot-solve: {what} The error is estimated and the ladder of fallbacks stands "
        "behind it, both inside the time; nothing but the workspace, which on a GPU has learnt from calls before and "
        "recorded what repeats, is carried from one call to the next. Source: this library."
    )
    return Arm(strategy, page, applies, make)


def _solver(problem: Problem) -> Callable[[SolveWorkspace, str], SolveResult]:
    """The public function for this kind of problem."""
    A, G, B, p, tol = problem.A, problem.G, problem.B, problem.p, problem.tol

    def solve(workspace: SolveWorkspace, strategy: str) -> SolveResult:
        asked: dict[str, Any] = {
            "p_val": p,
            "tol": tol,
            "workspace": workspace,
            "strategy": strategy,
            "on_failure": "warn",
        }
        if problem.kind == "nonspd":
            assert A is not None
            return solve_nonspd(A, B, **asked)
        if problem.kind == "spd":
            return solve_spd(A, B, ridge=problem.ridge, **asked)
        assert G is not None
        if problem.kind == "gram":
            return solve_gram_spd(G, B, ridge=problem.ridge, reuse_precond=False, **asked)
        assert B is not None
        return apply_inverse_root_gram_rhs_spd(G, B, ridge=problem.ridge, reuse_precond=False, **asked)

    return solve


def _thin(problem: Problem) -> bool:
    """One matrix, and fewer columns than it has."""
    B, matrix = problem.B, problem.source
    return B is not None and matrix.ndim == 2 and B.shape[-1] < matrix.shape[-1]


def _spd(problem: Problem) -> bool:
    return problem.kind == "spd"


def _tall(problem: Problem) -> bool:
    """The n×n matrix is formed, from G where there is one."""
    return not is_polar(problem) and problem.kind != "nonspd" and problem.source.shape[-2] >= problem.source.shape[-1]


def _short_series(problem: Problem) -> bool:
    return problem.kind in ("spd", "gram") and _tall(problem) and _thin(problem) and problem.kappa <= SERIES_KAPPA


OWN = (
    own("auto", lambda problem: not is_polar(problem), "what the library chooses by its models of cost and error."),
    own("materialize-root", _tall, "the coupled iteration forms the root, which then multiplies B."),
    own(
        "direct-solve",
        lambda problem: _spd(problem) and _thin(problem) and problem.p > 1,
        "the coupled iteration acts on B, and no root is formed.",
    ),
    own(
        "hybrid-pe-nsrc",
        lambda problem: _spd(problem) and _thin(problem) and problem.p == 1,
        "a few steps towards the inverse, then corrections by the residual.",
    ),
    own("cholesky", lambda problem: _spd(problem) and problem.p == 1, "LAPACK's Cholesky factorisation, refined."),
    own(
        "chebyshev",
        lambda problem: _spd(problem) and _short_series(problem),
        "a Chebyshev series of products with B; about √κ of them, so it has rows up to κ = 1e3 only.",
    ),
    own(
        "cayley",
        lambda problem: _spd(problem) and _thin(problem) and problem.p > 1,
        "a Chebyshev series in (A + σI)⁻¹ after one Cholesky factorisation.",
    ),
    own("lanczos", _short_series, "a block Krylov space of A and B (of G, without GᵀG); rows up to κ = 1e3 only."),
    own(
        "hyperpower",
        lambda problem: problem.kind == "nonspd" and problem.kappa <= HYPERPOWER_KAPPA,
        "an inverse of a general matrix by products alone; meant for small κ, rows up to 1e2 only.",
    ),
)


def baseline(name: str, dtype: torch.dtype, applies: Callable[[Problem], bool], answer: Answer, what: str) -> Arm:
    """A routine in one dtype, with the conversions inside the time; not in float32 where float64 is passed."""

    def fits(problem: Problem) -> bool:
        return applies(problem) and (dtype is torch.float64 or problem.source.dtype is not torch.float64)

    def make(problem: Problem) -> Call:
        matrix, B = problem.source, problem.B
        return lambda: answer(problem, matrix.to(dtype), None if B is None else B.to(dtype)).to(matrix.dtype)

    bits = torch.finfo(dtype).bits
    page = f"{what} In float{bits}, whatever is passed. It estimates no error. Source: torch’s documentation."
    return Arm(f"{name}{bits}", page, fits, make)


def by_eigh(problem: Problem, matrix: Tensor, B: Tensor | None) -> Tensor:
    """V·(λ + r)^(-1/p)·Vᵀ·B; the smaller of GᵀG and GGᵀ for the dual, GᵀG for the other."""
    if problem.G is None:
        return _eigh_power(problem, matrix, B)
    G = matrix
    if problem.kind == "gram":
        return _eigh_power(problem, G.mT @ G, B)
    if G.shape[-2] < G.shape[-1]:
        return G.mT @ _eigh_power(problem, G @ G.mT, B)
    return _eigh_power(problem, G.mT @ G, G.mT if B is None else G.mT @ B)


def _eigh_power(problem: Problem, A: Tensor, B: Tensor | None) -> Tensor:
    values, V = torch.linalg.eigh(A)
    scaled = V * (values + problem.ridge).pow(-1 / problem.p).unsqueeze(-2)
    root: Tensor = scaled @ (V.mT if B is None else V.mT @ B)
    return root


def by_cholesky(problem: Problem, A: Tensor, B: Tensor | None) -> Tensor:
    """A⁻¹·B for p = 1."""
    L = torch.linalg.cholesky(A)
    return torch.cholesky_inverse(L) if B is None else torch.cholesky_solve(B, L)


def by_lu(problem: Problem, A: Tensor, B: Tensor | None) -> Tensor:
    """A⁻¹·B for a general A and p = 1."""
    Z: Tensor = torch.linalg.inv(A) if B is None else torch.linalg.solve(A, B)
    return Z


def _scipy_power(problem: Problem) -> Call:
    from scipy.linalg import fractional_matrix_power  # type: ignore[import-untyped]

    A = problem.source
    dtype = torch.float64 if A.dtype is torch.float64 else torch.float32
    array = A.to(dtype).numpy()

    def call() -> Tensor:
        X = torch.from_numpy(fractional_matrix_power(array, -1 / problem.p).real)
        return (X if problem.B is None else X.to(dtype) @ problem.B.to(dtype)).to(A.dtype)

    return call


def _scipy_applies(problem: Problem) -> bool:
    A = problem.source
    return _spd(problem) and problem.p > 1 and A.ndim == 2 and len(A) <= SCIPY_N and A.device.type == "cpu"


EIGH = (
    "`torch.linalg.eigh`, then V·λ^(-1/p)·Vᵀ·B: what most people write. A negative eigenvalue that rounding made gives "
    "NaN. From G it forms GᵀG (the smaller of GᵀG and GGᵀ for the dual form) in the same dtype."
)
CHOLESKY = "`torch.linalg.cholesky` and `cholesky_solve` (`cholesky_inverse` for the inverse itself), p = 1."
LU = "`torch.linalg.solve`, LAPACK’s LU with partial pivoting, p = 1."
SCIPY = (
    "`scipy.linalg.fractional_matrix_power`: Schur form and Padé approximants, for any matrix and any power; it does "
    f"not use the symmetry. In float32 at least, on a CPU, up to n = {SCIPY_N}. Source: Higham and Lin, SIAM J. Matrix "
    "Anal. Appl. 32 (2011) and 34 (2013); scipy’s documentation."
)


def _inverse(problem: Problem) -> bool:
    return _spd(problem) and problem.p == 1


BASELINES = (
    *(
        arm
        for dtype in (torch.float32, torch.float64)
        for arm in (
            baseline("eigh", dtype, lambda problem: problem.kind != "nonspd" and problem.p > 1, by_eigh, EIGH),
            baseline("cholesky", dtype, _inverse, by_cholesky, CHOLESKY),
            baseline("solve", dtype, lambda problem: problem.kind == "nonspd" and problem.p == 1, by_lu, LU),
        )
    ),
    Arm("scipy-power", SCIPY, _scipy_applies, _scipy_power, needs="scipy"),
)


def every_arm() -> tuple[Arm, ...]:
    """Own strategies, baselines, rivals, variants; installed or not."""
    return (*OWN, *BASELINES, *RIVALS, *VARIANTS)


def installed(arm: Arm) -> bool:
    """Whether the package that an arm needs is there."""
    try:
        return arm.needs is None or bool(version(arm.needs))
    except PackageNotFoundError:
        return False


def choose(wanted: Iterable[str] = ()) -> tuple[Arm, ...]:
    """The arms of these names, or all that are installed but the variants.

    Args:
        wanted: Names; none for all.

    Raises:
        ValueError: An unknown name, or one whose package is not installed.
    """
    known = {arm.name: arm for arm in every_arm()}
    names = tuple(wanted)
    for name in names:
        if name not in known:
            raise ValueError(f"--arms: there is no {name!r}; there are: {', '.join(known)}")
        if not installed(known[name]):
            raise ValueError(f"--arms: {name} needs the package {known[name].needs}, which is not installed")
    if names:
        return tuple(arm for arm in known.values() if arm.name in names)
    return tuple(arm for arm in known.values() if installed(arm) and arm not in VARIANTS)

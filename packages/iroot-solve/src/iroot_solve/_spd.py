"""Z = (A + ridge·I)^(-1/p)·B for symmetric positive definite A."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from iroot_solve._config import PrecondConfig, ScheduleConfig
from iroot_solve._matrix import Damping
from iroot_solve._operator import is_operator, placeholder, solve_operator
from iroot_solve._options import Options, merge_ridges
from iroot_solve._problem import Problem, read_exponent, read_problem
from iroot_solve._result import SolveResult, SolveWorkspace
from iroot_solve._schedules import build_schedule
from iroot_solve._solve import solve
from iroot_solve._traced import traced


def solve_spd(
    A: Any,
    B: Tensor | None,
    *,
    p_val: int | None = None,
    exponent: Fraction | None = None,
    tol: float | None = None,
    ridge: float = 0.0,
    ridge_rel: float = 0.0,
    kappa_max: float | None = None,
    lambda_max: float | None = None,
    abc_t: Any = None,
    schedule_config: ScheduleConfig | None = None,
    precond_config: PrecondConfig | None = None,
    workspace: SolveWorkspace | None = None,
    strategy: str = "auto",
    expected_reuse: int = 1,
    precision: str = "auto",
    on_failure: str = "raise",
    verify: bool | str = True,
    fallback: bool = True,
    on_singular: str = "error",
    rcond: float | None = None,
    seed: int = 0,
    out: Tensor | None = None,
) -> SolveResult:
    """Z = (A + ridge·I)^(-1/p) B, of A as passed, with its error estimated.

    Args:
        A: `(..., n, n)` symmetric positive definite; float64, float32, bfloat16 or float16. Never modified. Or a
            callable V ↦ A·V, or an object with `matmul`, for V `(..., n, k)` with the batch of B (`lanczos`, or
            `chebyshev` with `lambda_max` and `kappa_max` promised).
        B: `(..., n, k)` or `(n,)` of the same dtype and device; batches broadcast. `None` for the root itself.
        p_val: p ≥ 1; 2 unless `exponent` is given.
        exponent: Another power of A as a Fraction: −q/s, or q/s (which accepts singular positive semidefinite A).
        tol: Target of ‖Z − Z⋆‖_F/‖Z⋆‖_F; default 1e-10 (float64), 1e-4 (float32), 1e-2 (16-bit).
        ridge: Added to A's diagonal, in units of A.
        ridge_rel: Added to A's diagonal, times the mean of the diagonal.
        kappa_max: A promised bound of the condition number of A + ridge.
        lambda_max: A promised bound of its largest eigenvalue; a false promise is found out.
        abc_t: `(T, 3)` quadratic steps to use instead of the planner's (see `build_schedule`).
        schedule_config: How coefficients are found, without `abc_t`; `precomputed` stands for four quadratic steps.
        precond_config: Scalings and bounds.
        workspace: Of an earlier result; the same shapes then reuse its buffers. On a GPU it records calls that repeat.
        strategy: auto, direct-solve, materialize-root, lanczos, chebyshev, cayley, eigh; for p = 1 also cholesky and
            hybrid-pe-nsrc.
        expected_reuse: How many right-hand sides like this one the root will serve. Above 1 the workspace keeps bounds
            and root (or factorisation) for the next call with this very tensor and these settings. Changes of A in
            place are noticed, but for those through `.data`, which leave no trace; inference tensors are not kept.
        precision: auto, or one of fp64, fp32, tf32, bf16, fp16, bf16x3, fp16x3 for the products of the first attempt.
        on_failure: raise, warn, or nan (for the matrix that failed only).
        verify: Estimate the error. Without it the status is `unverified`. "deferred": estimate it, but wait for
            nothing: status and error are there for whoever reads them later, what misses `tol` is NaN, and there is no
            ladder. Needs `kappa_max` and `on_failure="nan"`; with both nothing is read without `verify`, either.
        fallback: Climb the ladder (more steps, float64, eigh) where the tolerance is missed.
        on_singular: error, or pinv for A^(-1/p) on the numerical range of a semidefinite A (0 beside it), by eigh.
        rcond: Eigenvalues up to this share of the largest count as zero; default n·u of A's dtype. `stats.cut` and
            `stats.rank` say what it came to.
        seed: Of probes and start vectors.
        out: Where Z goes; its shape and dtype.

    Returns:
        `(Z, workspace, stats, schedule)`. Cost in products: see `explain` and `stats.products`.

    Raises:
        TypeError, ValueError: Arguments that cannot be right, before any work where that can be known.
        IrootError: No answer within `tol` (`on_failure="raise"`); carries the result and its stats.

    Examples:
        >>> import torch
        >>> from iroot_solve import solve_spd
        >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
        >>> Z, workspace, stats, schedule = solve_spd(A, torch.eye(2), p_val=2)
        >>> torch.allclose(Z @ A @ Z, torch.eye(2), atol=1e-5), stats.status
        (True, 'converged')
    """
    power = 2 if p_val is None and exponent is None else p_val
    settings: dict[str, Any] = {
        "ridge": ridge,
        "ridge_rel": ridge_rel,
        "kappa_max": kappa_max,
        "lambda_max": lambda_max,
        "abc_t": abc_t,
        "schedule_config": schedule_config,
        "precond_config": precond_config,
        "strategy": strategy,
        "expected_reuse": expected_reuse,
        "precision": precision,
        "on_failure": on_failure,
        "verify": verify,
        "fallback": fallback,
        "on_singular": on_singular,
        "rcond": rcond,
        "seed": seed,
        "out": out,
    }
    if torch.compiler.is_compiling():
        return traced(A, B, read_exponent(power, exponent), workspace, {"tol": tol, **settings})
    operator = is_operator(A)
    problem = read_problem(placeholder(B) if operator else A, B, p_val=power, exponent=exponent, tol=tol)
    options = read_options(problem, **settings)
    return solve_operator(A, problem, options, workspace) if operator else solve(problem, options, workspace)


def read_options(
    problem: Problem,
    *,
    ridge: float = 0.0,
    ridge_rel: float = 0.0,
    abc_t: Any = None,
    schedule_config: ScheduleConfig | None = None,
    precond_config: PrecondConfig | None = None,
    verify: bool | str = True,
    fallback: bool = True,
    **settings: Any,
) -> Options:
    """The keyword arguments of `solve_spd`, checked and in one object."""
    relative, config = merge_ridges(ridge_rel, precond_config)
    coefficients = schedule_config or ScheduleConfig()
    if isinstance(verify, str) and verify != "deferred":
        raise ValueError(f"verify={verify!r} must be True, False or 'deferred'")
    if abc_t is None and coefficients.coeff_mode == "precomputed":
        abc_t, _ = build_schedule("cpu", p_val=problem.exponent.denominator, config=coefficients)
    return Options(
        damping=Damping(ridge, relative),
        abc_t=abc_t,
        schedule=coefficients,
        precond=config,
        verify=bool(verify) and verify != "deferred",
        deferred=verify == "deferred",
        fallback=fallback and bool(verify) and verify != "deferred",
        **settings,
    )

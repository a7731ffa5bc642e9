"""(GᵀG + ridge·I)^(-1/p)·B, and the dual Gᵀ·(GGᵀ + ridge·I)^(-1/p)·B, from G.

The smaller of GᵀG and GGᵀ is formed, once, in float64 from 2^-g·G with entries at most 1: what was passed in float32 or
less is then known to n·u₆₄·κ(G)², and a float32 iteration may still do the work; or less exactly, where that does
(`_gram_formed`). Where the iteration is as exact as GᵀG, residuals are products with G itself, so that the certificate
sees what forming GᵀG lost. With m < n see `_wide_gram`.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from iroot_precond import scale_by_power_of_two
from torch import Tensor

from iroot_solve._golub_kahan import solve_golub_kahan
from iroot_solve._gram_formed import formed
from iroot_solve._options import require_blind
from iroot_solve._problem import Gram, Problem, check_matrix, check_right_hand_side, is_vector, read_problem
from iroot_solve._result import SolveResult, SolveWorkspace
from iroot_solve._scales import magnitude
from iroot_solve._solve import solve, warn_of_ignored_scaling
from iroot_solve._spd import read_options
from iroot_solve._wide_gram import check_wide, solve_wide, spectrum_of


def solve_gram_spd(
    G: Tensor,
    B: Tensor | None,
    *,
    p_val: int | None = None,
    exponent: Fraction | None = None,
    tol: float | None = None,
    reuse_precond: bool = True,
    workspace: SolveWorkspace | None = None,
    **settings: Any,
) -> SolveResult:
    """Z = (GᵀG + ridge·I)^(-1/p) B, of G as passed, with its error estimated.

    Args:
        G: `(..., m, n)`, any aspect; float64, float32, bfloat16 or float16. Never modified.
        B: `(..., n, k)` or `(n,)` of the same dtype and device; batches broadcast. `None` for the root itself.
        p_val: p ≥ 1; 2 unless `exponent` is given.
        exponent: Another power of GᵀG + ridge·I as a Fraction.
        tol: Target of ‖Z − Z⋆‖_F/‖Z⋆‖_F; default 1e-10 (float64), 1e-4 (float32), 1e-2 (16-bit).
        reuse_precond: Keep GᵀG (for m < n the eigenvectors of GGᵀ) in the workspace for the next call with this very
            tensor. Changes in place are noticed, but for those through `.data`, which leave no trace; inference tensors
            are not kept.
        workspace: Of an earlier result.
        **settings: Keyword arguments of `solve_spd`: ridge, ridge_rel (times the mean of the diagonal of GᵀG),
            strategy (lanczos: without GᵀG, and to κ(G)·u), precision, on_failure, out, …

    Returns:
        `(Z, workspace, stats, schedule)`. Cost: m·n² multiply-adds in float64 (half as many on tensor cores where
        symmetric products run and κ leaves room for what they round; `stats.backend` says so), then as `solve_spd`;
        with m < n n·m² and an eigendecomposition of m×m, and nothing n×n is formed. The error is that of κ(G)²·u, u of
        float64.

    Raises:
        TypeError, ValueError: Arguments that cannot be right; m < n without a ridge, where GᵀG is singular.
        IrootError: No answer within `tol` (`on_failure="raise"`); carries the result and its stats.

    Examples:
        >>> import torch
        >>> from iroot_solve import solve_gram_spd
        >>> G = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 4.0]])
        >>> Z, workspace, stats, schedule = solve_gram_spd(G, torch.eye(2))
        >>> torch.allclose(Z, torch.diag(torch.tensor([1 / 2, 1 / 5])))
        True
    """
    check_matrix("G", G)
    m, n = G.shape[-2:]
    problem = _read(G, B, n, p_val, exponent, tol)
    options = read_options(problem, **settings)
    ws = SolveWorkspace() if workspace is None else workspace
    require_blind(options, ws, m >= n)
    if problem.empty:
        return solve(problem, options, ws)
    source = _source(G, problem, ws, reuse_precond)
    if options.strategy == "lanczos" or m < n:
        warn_of_ignored_scaling(options, "where GᵀG is not formed")
    if options.strategy == "lanczos":
        return solve_golub_kahan(replace(problem, gram=source), options, ws)
    if m < n:
        problem = replace(problem, gram=source)
        check_wide(problem, options)
        settings_of_G = (problem.exponent.denominator, problem.count, problem.folded)
        spectrum = ws.keep("wide", G, settings_of_G, lambda: spectrum_of(source.G), reuse_precond)
        return solve_wide(problem, spectrum, options, ws)
    return solve(formed(problem, source, G, options, ws, reuse_precond), options, ws)


def apply_inverse_root_gram_rhs_spd(
    G: Tensor,
    B: Tensor,
    *,
    p_val: int | None = None,
    exponent: Fraction | None = None,
    tol: float | None = None,
    reuse_precond: bool = True,
    workspace: SolveWorkspace | None = None,
    **settings: Any,
) -> SolveResult:
    """Z = (GᵀG + ridge·I)^(-1/p) Gᵀ B = Gᵀ (GGᵀ + ridge·I)^(-1/p) B: the dual form, for a right-hand side in G's range.

    Args:
        G: `(..., m, n)`, any aspect.
        B: `(..., m, k)` or `(m,)`.
        p_val: As in `solve_gram_spd`, like all that follow.
        exponent: Another power.
        tol: Target of the relative error.
        reuse_precond: Keep the Gram matrix.
        workspace: Of an earlier result.
        **settings: Keyword arguments of `solve_spd`.

    Returns:
        `(Z, workspace, stats, schedule)` with Z `(..., n, k)`. Nothing larger than min(m, n) squared is formed.

    Raises:
        TypeError, ValueError, IrootError: As `solve_gram_spd`.

    Examples:
        >>> import torch
        >>> from iroot_solve import apply_inverse_root_gram_rhs_spd
        >>> G = torch.tensor([[3.0, 0.0, 4.0]])
        >>> Z, workspace, stats, schedule = apply_inverse_root_gram_rhs_spd(G, torch.ones(1, 1))
        >>> torch.allclose(Z, torch.tensor([[0.6], [0.0], [0.8]]))
        True
    """
    check_matrix("G", G)
    m, n = G.shape[-2:]
    problem = _read(G, B, m, p_val, exponent, tol)
    vector = is_vector(B, G.shape[:-1])
    problem = replace(problem, shape=torch.Size((*problem.batch, n) if vector else (*problem.batch, n, B.shape[-1])))
    options = read_options(problem, **settings)
    ws = SolveWorkspace() if workspace is None else workspace
    if problem.empty or n == 0:
        nothing = Gram(G.new_zeros((problem.count, n, m), dtype=torch.float64), _zeros(problem), G.dtype, onto=True)
        return solve(replace(problem, A=problem.A[:, :n, :n], gram=nothing), options, ws)
    source = replace(_source(G, problem, ws, reuse_precond), dual=True)
    if m > n:
        assert problem.B is not None
        wide = ws.buffer("B wide", problem.B.shape, torch.float64, B.device).copy_(problem.B)
        shape = (problem.count, n, problem.columns)
        C = torch.bmm(source.G.mT, wide, out=ws.buffer("GᵀB", shape, torch.float64, B.device))
        problem = replace(problem, A=problem.A[:, :n, :n], B=C)
    else:
        source = replace(source, G=source.G.mT, name="GGᵀ", onto=True)
    return solve(formed(problem, source, G, options, ws, reuse_precond), options, ws)


def _read(
    G: Tensor, B: Tensor | None, rows: int, p_val: int | None, exponent: Fraction | None, tol: float | None
) -> Problem:
    """The problem for a matrix of that many rows which is not there yet."""
    if B is not None:
        check_right_hand_side("G", G, B)
        vector = is_vector(B, torch.Size((*G.shape[:-2], rows)))
        if B.shape[-1 if vector else -2] != rows:
            raise ValueError(f"B has shape {tuple(B.shape)}: G is {tuple(G.shape)}, so B needs {rows} rows")
    power = 2 if p_val is None and exponent is None else p_val
    place = G.new_zeros(()).expand(*G.shape[:-2], rows, rows)
    return read_problem(place, B, p_val=power, exponent=exponent, tol=tol)


def _source(G: Tensor, problem: Problem, ws: SolveWorkspace, reuse: bool) -> Gram:
    """2^-g·G in float64, a flat batch."""
    s = problem.exponent.denominator

    def make() -> Gram:
        m, n = G.shape[-2:]
        if m == 0:  # a row of zeros changes nothing
            return Gram(G.new_zeros((problem.count, 1, n), dtype=torch.float64), _zeros(problem), G.dtype)
        flat = G.reshape(1, m, n) if problem.folded else G.expand(*problem.batch, m, n).reshape(problem.count, m, n)
        size = magnitude(flat)
        g = torch.frexp(torch.where(size.isfinite(), size, 1.0)).exponent
        g = torch.div(g + (s - 1), s, rounding_mode="floor") * s
        held = ws.buffer("G", flat.shape, torch.float64, G.device).copy_(flat)
        return Gram(scale_by_power_of_two(held, g, out=held), g, G.dtype)

    return ws.keep("G", G, (s, problem.count, problem.folded), make, reuse)


def _zeros(problem: Problem) -> Tensor:
    return torch.zeros(problem.count, dtype=torch.int32, device=problem.A.device)

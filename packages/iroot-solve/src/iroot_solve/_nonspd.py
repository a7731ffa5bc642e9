"""Z = A^(-1/p)·B for general nonsingular A."""

from __future__ import annotations

from torch import Tensor

from iroot_solve._general_solve import solve_general
from iroot_solve._options import Options
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveResult, SolveWorkspace


def solve_nonspd(
    A: Tensor,
    B: Tensor | None,
    *,
    p_val: int = 1,
    tol: float | None = None,
    workspace: SolveWorkspace | None = None,
    strategy: str = "auto",
    precision: str = "auto",
    on_failure: str = "raise",
    verify: bool = True,
    fallback: bool = True,
    seed: int = 0,
    out: Tensor | None = None,
) -> SolveResult:
    """Z = A^(-1/p) B for a real nonsingular A that need not be symmetric, with its error estimated.

    Args:
        A: `(..., n, n)`; float64, float32, bfloat16 or float16. Never modified. For p ≥ 2 its eigenvalues must avoid
            the closed negative real axis; the root is the principal one, with eigenvalues |arg| < π/p.
        B: `(..., n, k)` or `(n,)` of the same dtype and device; batches broadcast. `None` for the inverse root itself.
        p_val: p ≥ 1.
        tol: Target of ‖Z − Z⋆‖_F/‖Z⋆‖_F; default 1e-10 (float64), 1e-4 (float32), 1e-2 (16-bit).
        workspace: Of an earlier result; the same shapes then reuse its buffers (p = 1), and on a GPU newton-schulz is
            recorded from the third call of a kind on and replayed (`stats.backend` ends in "replayed"), by a plan for
            the condition that the calls before have seen, with the same estimate of the error; what the plan does not
            fit goes the usual way.
        strategy: auto; for p = 1 lu, newton-schulz (products in fp16 and refinement, for κ ≤ 10³ at least) or
            hyperpower (products in any precision, for well-conditioned A); for p ≥ 2 eig, or coupled-newton (defective
            matrices). auto is lu, on a GPU newton-schulz before it where that is predicted to be faster, or eig and
            then coupled-newton.
        precision: auto; for lu fp32 or fp64, for newton-schulz fp16, for hyperpower any of
            `iroot_kernels.PRECISIONS`. p ≥ 2 is done in fp64.
        on_failure: raise, warn, or nan (for the matrix that failed only).
        verify: Estimate the error. Without it the status is `unverified`.
        fallback: Go on where the tolerance is missed: to lu in fp32 and fp64, or to coupled-newton.
        seed: Of probes.
        out: Where Z goes; its shape and dtype.

    Returns:
        `(Z, workspace, stats, schedule)`. In the stats `lambda_min` and `lambda_max` are an estimate of the smallest
        singular value, from above, and a bound of the largest; for p ≥ 2 the smallest and the largest modulus of an
        eigenvalue. `rank` is there where a matrix was found singular. Cost: 2n³/3 flops for lu, 12, 18 and 24 products
        in fp16 at κ = 10, 10² and 10³ for newton-schulz, and n²·k for every right-hand side and refinement; for p ≥ 2
        an eigendecomposition and about 60 products n×n×n.

    Raises:
        TypeError, ValueError: Arguments that cannot be right, before any work where that can be known.
        SingularMatrixError: A is singular to working precision; names the estimated rank.
        NoPrincipalRootError: p ≥ 2, and an eigenvalue on the closed negative real axis.
        IrootError: These, NaN or infinity in A or B, or no answer within `tol` (`on_failure="raise"`); carries the
            result and its stats.

    Examples:
        >>> import torch
        >>> from iroot_solve import solve_nonspd
        >>> A = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
        >>> Z, workspace, stats, schedule = solve_nonspd(A, torch.tensor([4.0, 3.0]))
        >>> Z.tolist(), stats.status
        ([3.0, 2.0], 'converged')
    """
    problem = read_problem(A, B, p_val=p_val, exponent=None, tol=tol)
    options = Options(
        strategy=strategy,
        precision=precision,
        on_failure=on_failure,
        verify=verify,
        fallback=fallback and verify,
        seed=seed,
        out=out,
    )
    return solve_general(problem, options, SolveWorkspace() if workspace is None else workspace)

"""The polar factor U = G·(GᵀG)^(-1/2) of a matrix of any shape.

With G = P·Σ·Vᵀ it is U = P·Vᵀ, the nearest matrix with orthonormal columns (rows, where there are more columns than
rows; G is transposed then). Every step of an iteration for y^(-1/2) maps singular values by σ ↦ σ·q(σ²) and so leads
there: `_polar_iteration`. To a tolerance it is done by `_polar_solve`, judged by `_polar_certificate`; with the steps
of an optimizer by `_polar_fixed`.

Where G has singular values of zero the factor is not unique, and where they are below rounding it is noise. U is then
the partial isometry on the numerical range: P_r·V_rᵀ with the σ > rtol·σ_max. Its singular values are 1 and 0.

How well U is determined: a change δ of G moves it by 2·δ/(σ_i + σ_j) between two directions (Higham, "Functions of
Matrices" (2008), §8.2; Li 1995), and by δ/σ_i out of the range of G. So products rounded to u cost up to κ·u, and no
method that rounds G can do better; float64 is used where float32 would miss the tolerance.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, overload

import numpy as np
import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._device import on_device
from iroot_solve._errors import IrootError, NonFiniteInputError, StagnationError, StagnationWarning
from iroot_solve._polar_fixed import check_fixed, checked, take_steps
from iroot_solve._polar_ledger import PolarLedger
from iroot_solve._polar_result import PolarProblem, PolarResult, PolarStats, read_problem
from iroot_solve._polar_solve import solve_polar
from iroot_solve._result import Status, unshape


@overload
def orthogonalize(
    G: Tensor,
    *,
    tol: float | None = ...,
    schedule: Any = ...,
    steps: int | None = ...,
    rtol: float | None = ...,
    precision: str = ...,
    workspace: Workspace | None = ...,
    on_failure: str = ...,
    seed: int = ...,
    strategy: str = ...,
    return_stats: Literal[False] = ...,
) -> Tensor: ...


@overload
def orthogonalize(
    G: Tensor,
    *,
    tol: float | None = ...,
    schedule: Any = ...,
    steps: int | None = ...,
    rtol: float | None = ...,
    precision: str = ...,
    workspace: Workspace | None = ...,
    on_failure: str = ...,
    seed: int = ...,
    strategy: str = ...,
    return_stats: Literal[True],
) -> PolarResult: ...


def orthogonalize(
    G: Tensor,
    *,
    tol: float | None = None,
    schedule: Any = None,
    steps: int | None = None,
    rtol: float | None = None,
    precision: str = "auto",
    workspace: Workspace | None = None,
    on_failure: str = "raise",
    seed: int = 0,
    strategy: str = "auto",
    return_stats: bool = False,
) -> Tensor | PolarResult:
    """The orthogonal polar factor U = G·(GᵀG)^(-1/2), of any aspect and rank.

    Args:
        G: `(..., m, n)`, float64, float32, bfloat16 or float16. Never modified.
        tol: Target of ‖U_computed − U‖_F/√rank, U that of the numbers passed; default 1e-10 (float64), 1e-4 (float32),
            1e-2 (16-bit). Rounding of the output to its dtype is not counted.
        schedule: Take exactly these steps instead, without a certificate or any wait for the device: a name ("muon",
            "polar-express", "cans", "newton-schulz", "newton-schulz-5"), an `iroot_coeffs.Schedule` for p = 2, or
            `(T, 3)` rows (a, b, c) of σ ↦ a·σ + b·σ³ + c·σ⁵. G is divided by its Frobenius norm first. A second call
            with the same workspace can be captured in a CUDA graph, which works in it: keep it, for nothing else.
        steps: How many of them; the last one is repeated if there are fewer.
        rtol: Singular values up to this share of the largest count as zero. Default max(m, n)·u, u of float64 for
            float64 and of float32 for all others.
        precision: auto, or a name of `iroot_kernels.PRECISIONS`, e.g. "bf16": products only, the iterates are float32.
            auto is float64 for float64, else float32 and then float64 where that is not enough; on a GPU with symmetric
            products "fp16x3" in place of float32, and for the steps of a schedule on 16-bit numbers "fp16": the
            iterates have 16 bits then, too (as they do in any one plane by name). That rounds an eighth of what
            bfloat16 does; beside a float16 result it shows.
        workspace: Buffers to reuse.
        on_failure: raise, warn, or nan (that matrix only).
        seed: Of the probes.
        strategy: plain (XᵀX in every step), gram (once for several steps), eigh (of GᵀG), svd; auto chooses, for a
            schedule between the first two on a GPU with symmetric products, and plain elsewhere.
        return_stats: Return `(U, stats)`.

    Returns:
        U `(..., m, n)` in G's dtype; singular values of numerical rank are 1, the others 0, and U = 0 for G = 0. With
        `return_stats` a `PolarResult`. Cost for n ≤ m: a step takes two products m×n×n and that of its polynomial; for
        κ(G) = 1e2, tol = 1e-4 three steps.

    Raises:
        TypeError, ValueError: Arguments that cannot be right.
        NonFiniteInputError: NaN or infinity in G.
        StagnationError: `tol` was not met; carries the result.

    Source: `muon`: Jordan et al. (2024); `polar-express`: Amsel et al., arXiv:2505.16932; `cans`: Grishina et al.,
    arXiv:2506.10935.

    Examples:
        >>> import torch
        >>> from iroot_solve import orthogonalize
        >>> U = orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 5.0], [4.0, 0.0]]))
        >>> torch.allclose(U, torch.tensor([[0.6, 0.0], [0.0, 1.0], [0.8, 0.0]]), atol=1e-4)
        True
    """
    problem = read_problem(
        G, tol=tol, rtol=rtol, strategy=strategy, precision=precision, on_failure=on_failure, seed=seed
    )
    polynomials = checked(schedule, steps)
    if polynomials is not None:
        check_fixed(problem, tol, rtol)
    ws = Workspace() if workspace is None else workspace
    if ws.recording and polynomials is None:
        raise ValueError("a recorded call reads nothing back: pass a schedule, whose steps are taken without a look")
    U, flat = problem.destination()
    ledger = PolarLedger.empty(flat, problem.G.shape[0])
    device = G.device
    with on_device(device), torch.no_grad(), torch.autocast(device.type, enabled=False), np.errstate(all="ignore"):
        if U.numel() == 0:
            _nothing(ledger)
        elif polynomials is not None:
            take_steps(problem, polynomials, ledger, ws)
        else:
            solve_polar(problem, ledger, ws)
        result = _finish(problem, ledger, U)
    return result if return_stats else result.U


def _nothing(ledger: PolarLedger) -> None:
    ledger.codes[:], ledger.error[:], ledger.defect[:], ledger.rank[:] = Status.converged, 0.0, 0.0, 0


def _finish(problem: PolarProblem, ledger: PolarLedger, U: Tensor) -> PolarResult:
    """The result, or what `on_failure` asks for."""
    failed = np.flatnonzero(ledger.codes > Status.unverified)
    if len(failed) and problem.on_failure == "nan":
        ledger.U[torch.from_numpy(failed).to(U.device)] = torch.nan
    result = PolarResult(U, _stats(problem, ledger, U.device))
    if len(failed) and problem.on_failure != "nan":
        error = _error(problem, ledger, result)
        if problem.on_failure == "raise":
            raise error
        warnings.warn(str(error), StagnationWarning, stacklevel=3)
    return result


def _stats(problem: PolarProblem, ledger: PolarLedger, device: torch.device) -> PolarStats:
    def shaped(values: Any) -> Tensor:
        return unshape(_on_device(values, device), problem.batch)

    return PolarStats(
        status_code=shaped(ledger.codes),
        error=shaped(ledger.error),
        defect=shaped(ledger.defect),
        rank=shaped(ledger.rank),
        strategy=ledger.strategy,
        precision=ledger.precision,
        backend=ledger.backend,
        products=ledger.products,
        steps=ledger.steps,
        fallbacks=tuple(ledger.fallbacks),
    )


def _on_device(values: Any, device: torch.device) -> Tensor:
    """An array on a device. One number for all matrices is made there: of given steps nothing is copied to it, so that
    they can be captured in a graph."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    if np.array_equal(values, np.broadcast_to(values[:1], values.shape), equal_nan=True):
        return torch.full(values.shape, values[:1].sum().item(), dtype=tensor.dtype, device=device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _error(problem: PolarProblem, ledger: PolarLedger, result: PolarResult) -> IrootError:
    """The exception for the worst status."""
    worst = ledger.codes.max()
    failed = np.flatnonzero(ledger.codes == worst).tolist()
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    where = "G" if not problem.batch else f"G[{failed[0]}]{others}"
    where += f" (shape {tuple(problem.shape[-2:])}, {problem.G.dtype})"
    if worst == Status.nonfinite_input:
        return NonFiniteInputError(f"{where} contains NaN or infinity; clean it with torch.nan_to_num", result)
    floor = torch.finfo(problem.G.dtype).eps
    reason = (
        f"tol={problem.tol:g} is below the rounding of {problem.G.dtype} (2u = {floor:.1e}): pass a larger tol"
        if problem.tol < floor
        else f"tol={problem.tol:g} is out of reach of its small singular values: pass a larger tol or rtol"
    )
    return StagnationError(
        f"{where}: the polar factor has an estimated error of {ledger.error[failed[0]]:.1e}; {reason}", result
    )

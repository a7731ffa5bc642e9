"""Random problems of known condition, and their truth in float64.

    A = Q·diag(λ)·Qᵀ,   G = U·diag(σ)·Vᵀ,   λ, σ² log-spaced in [1/κ, 1],   Q, U, V dense and random,

(or λ as a case's `spectrum` has them there)

rounded to the dtype of the run. What is passed is then an exact matrix, and the truth is of that: from a float64
decomposition of the rounded numbers, not from the spectrum that they were made of. It is right to about κ·2⁻⁵³. Rows
and columns are taken in reverse order, so that in a float64 run no arm is judged by its own rounding errors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from iroot_solve.bench._arm import Problem
from iroot_solve.bench._cases import Case, Point

DISTINCT = 4096
# Of matrices that are decomposed in one call.
MOST_NUMBERS = 2**22


def outline(case: Case, point: Point, dtype: torch.dtype, device: torch.device, tol: float) -> Problem:
    """A problem with the shapes of the real one and no values; takes no memory."""
    number = torch.empty((), dtype=dtype, device=device)
    B = None if case.root else number.expand(_shape_of_B(case, point))
    return _problem(case, point, number.expand(*point.leading, point.rows, point.n), B, tol)


def build(case: Case, point: Point, trial: int, dtype: torch.dtype, device: torch.device, tol: float) -> Problem:
    """The problem of a point.

    Args:
        case: Kind, p, and whether there is a B.
        point: Shapes and κ.
        trial: Seed. Numbers are drawn on the CPU: they are the same on every device.
        dtype: Of A or G, and B.
        device: Where they go.
        tol: Handed on.
    """
    rng = torch.Generator().manual_seed(trial)
    matrix = _matrix(case, point, rng, device).to(dtype)
    B = None if case.root else _normal(rng, _shape_of_B(case, point)).to(device, dtype)
    return _problem(case, point, matrix, B, tol)


def truth(problem: Problem) -> Tensor:
    """Z* in float64, of the problem's tensors as they are."""
    flipped, p, r = problem.source.double().flip(-2, -1), problem.p, problem.ridge
    rows = flipped.shape[-2 if problem.kind == "dual" else -1]
    right = (_eye(flipped, rows) if problem.B is None else problem.B.double()).flip(-2)
    if problem.kind == "nonspd":
        Z: Tensor = torch.linalg.solve(flipped, right)
    elif problem.kind == "spd":
        values, V = _eigh(flipped)
        Z = _times(V, (values + r).pow(-1 / p), V, right)
    else:
        U, sigma, Vh = torch.linalg.svd(flipped, full_matrices=False)
        values, V = (sigma.square() + r).pow(-1 / p), Vh.mT
        # Beside the range of Gᵀ, GᵀG + r·I is r·I; the dual form stays within it.
        Z = _times(V, values * sigma, U, right) if problem.kind == "dual" else _times(V, values, V, right)
        if problem.kind == "gram" and V.shape[-1] < V.shape[-2]:
            Z += r ** (-1 / p) * (right - _times(V, torch.ones_like(values), V, right))
    return Z.flip(-2)


def in_parts(A: Tensor) -> tuple[Tensor, ...]:
    """`(b, n, n)` each: to decompose a million 16×16 matrices at once cuSOLVER asks for 600 GB."""
    found: tuple[Tensor, ...] = torch.split(A.reshape(-1, *A.shape[-2:]), max(1, MOST_NUMBERS // A.shape[-1] ** 2))
    return found


def _eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Of a batch, part by part."""
    values, V = (torch.cat(found) for found in zip(*map(torch.linalg.eigh, in_parts(A)), strict=True))
    return values.view(A.shape[:-1]), V.view(A.shape)


def relative_error(Z: Tensor, true: Tensor) -> float | None:
    """‖Z − Z*‖_F/‖Z*‖_F, the worst of a batch; `None` where it is no finite number, or Z has another shape."""
    if Z.shape != true.shape:
        return None
    norm = torch.linalg.matrix_norm
    error = float((norm(Z.double() - true) / norm(true)).max())
    return error if math.isfinite(error) else None


def _problem(case: Case, point: Point, matrix: Tensor, B: Tensor | None, tol: float) -> Problem:
    A, G = (matrix, None) if point.m is None else (None, matrix)
    # Of a wide G, whose GᵀG is singular: (1 + r)/r = κ.
    return Problem(case.problem, A, G, B, case.p, point.kappa, tol, _ridge(case, point, matrix))


def _ridge(case: Case, point: Point, matrix: Tensor) -> float:
    if case.problem == "gram" and point.rows < point.n:
        return 1 / (point.kappa - 1)
    if not case.damped:
        return 0.0
    # (1 + r)/(λ + r) = κ but for the rounding of λmax; an outline has no values.
    values = torch.linalg.eigvalsh(matrix.double()) if matrix.stride(-1) else torch.zeros(1)
    return 1 / point.kappa - float(values[..., 0].min())


def _shape_of_B(case: Case, point: Point) -> tuple[int, ...]:
    return *point.leading, point.rows if case.problem == "dual" else point.n, point.k


def _matrix(case: Case, point: Point, rng: torch.Generator, device: torch.device) -> Tensor:
    kind, spectrum = case.problem, "singular" if case.damped else case.spectrum
    m, n = point.rows, point.n
    if kind == "spd":
        # A million bases take minutes: a large batch repeats its first matrices.
        leading = () if point.batch == 1 else (min(point.batch, DISTINCT),)
        Q = _basis(rng, (*leading, n, n), device)
        A = _times(Q, _spectrum(spectrum, n, point.kappa, rng).to(device), Q)
        A = (A + A.mT) / 2
        return A if point.batch <= DISTINCT else A.repeat(-(-point.batch // DISTINCT), 1, 1)[: point.batch]
    rank, spread = min(m, n), point.kappa if kind == "nonspd" else math.sqrt(point.kappa)
    U, V = _basis(rng, (*point.leading, m, rank), device), _basis(rng, (*point.leading, n, rank), device)
    return _times(U, _log_spaced(rank, spread, device), V)


def _spectrum(name: str, n: int, kappa: float, rng: torch.Generator) -> Tensor:
    """n eigenvalues in [1/κ, 1], the largest first."""
    if name == "log-spaced":
        return _log_spaced(n, kappa, torch.device("cpu"))
    if name == "power law":
        return torch.arange(1, n + 1, dtype=torch.float64).pow(-math.log(kappa) / math.log(n))
    if name == "cluster and tail":
        tail = max(1, n // 16)
        return torch.cat((torch.ones(n - tail, dtype=torch.float64), _log_spaced(tail, kappa, torch.device("cpu"))))
    if name == "singular":
        return torch.logspace(0, -12, n, dtype=torch.float64)
    values: Tensor = torch.linalg.svdvals(_normal(rng, (n, n + n // 24))).square()  # κ about 1e4, of GᵀG
    return 1 / kappa + (1 - 1 / kappa) * (values - values[-1]) / (values[0] - values[-1])


def _basis(rng: torch.Generator, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Orthonormal columns, in directions distributed uniformly."""
    Q: Tensor = torch.linalg.qr(_normal(rng, shape).to(device)).Q
    return Q


def _normal(rng: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def _log_spaced(count: int, kappa: float, device: torch.device) -> Tensor:
    return torch.logspace(0, -math.log10(kappa), count, dtype=torch.float64, device=device)


def _eye(matrix: Tensor, n: int) -> Tensor:
    return torch.eye(n, dtype=matrix.dtype, device=matrix.device).expand(*matrix.shape[:-2], n, n)


def _times(U: Tensor, values: Tensor, V: Tensor, right: Tensor | None = None) -> Tensor:
    """U·diag(values)·Vᵀ, times what stands to the right of it."""
    return U @ (values.unsqueeze(-1) * (V.mT if right is None else V.mT @ right))

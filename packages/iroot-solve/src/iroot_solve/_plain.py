"""One factorisation of the matrix as it was passed, where nothing speaks against it.

A symmetric matrix of ordinary size needs neither a scaled copy nor bounds nor a plan for `eigh` or Cholesky: on a CPU
those passes over it, and the calls they are made of, cost more than the factorisation of a small matrix or of a batch.
What the certificate finds in order is returned. Everything else (a defect, an extreme size, an error above half the
tolerance, a spectrum that is not positive) goes the usual way from the start: it scales, climbs and words the errors.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from iroot_kernels import plus_transpose, precision
from iroot_precond import inflation
from torch import Tensor

from iroot_solve._case import task_of
from iroot_solve._certificate import CHANCE_SIZE, Array, PlainMatrix, appraise, measure
from iroot_solve._cholesky import ends, factorised, run_cholesky
from iroot_solve._choose import cholesky_look_ms, choose
from iroot_solve._eigh import run_eigh
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._outcome import Outcome
from iroot_solve._predict import rounding_error
from iroot_solve._problem import Problem
from iroot_solve._report import Report
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._scales import lost, magnitude, norm
from iroot_solve._spectrum import first_candidate, looking_pays, symmetry_limit
from iroot_solve._task import Task
from iroot_solve._transpose import is_symmetric
from iroot_solve._verdict import suspicious

# Norms between 1/ORDINARY and ORDINARY: in float32 no square of A, B or a product of the two leaves the range.
ORDINARY = 2.0**40
FACTORISATIONS = ("eigh", "cholesky")
# Columns that a refinement multiplies or solves for, in float64, over those of B; its cost over that of a factorisation
# is about this times k/n.
REFINING = 5
# The diagonal of L shows κ/2 to κ/35 (`Factor.kappa`); if this is too little, a refinement or the usual way follows.
HIDDEN = 3.0


class Way(NamedTuple):
    """A factorisation and its precision, `None` for one that a look at λmin is to decide."""

    strategy: str
    precision: str | None


def plain(problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor) -> SolveResult | None:
    """The result with its answer in `Z`, or `None` where the usual way is to find it.

    Cost: the factorisation, its solves or products with k columns, the certificate, and a pass to compare A with Aᵀ.
    """
    task = task_of(problem, options)
    way = way_for(task, options.strategy) if _applies(problem, options) else None
    if way is None:
        return None
    passed = _Passed(problem, options, ws)
    if not passed.ordinary(torch.float64 if way.precision == "fp64" else torch.float32):
        return None
    outcome = passed.by_eigh(task, way.precision) if way.strategy == "eigh" else passed.by_cholesky(task, way.precision)
    ledger = Ledger.empty(Z)
    while outcome is not None:
        if passed.settle(outcome, ledger):
            ledger.codes[:] = Status.converged
            return Report(problem, options, ws, ledger).result()
        outcome = outcome.resume() if outcome.resume and options.fallback else None
        ledger.fallbacks.append("more steps")
    return None


def _applies(problem: Problem, options: Options) -> bool:
    """Nothing is asked for but the verified root of a float32 (or 16-bit) matrix on a CPU."""
    asked = options.pinv or options.abc_t is not None or options.precision != "auto" or options.expected_reuse > 1
    promised = options.kappa_max is not None or options.lambda_max is not None or options.precond.mode != "none"
    fits = problem.A.device.type == "cpu" and problem.gram is None and problem.storage is torch.float32
    reachable = problem.reachable_tol > 0
    return fits and reachable and options.verify and not asked and not promised


@lru_cache(maxsize=1024)
def way_for(task: Task, strategy: str) -> Way | None:
    """The factorisation that serves without a look at both ends of the spectrum; `None` where such a look pays."""
    if strategy not in ("auto", *FACTORISATIONS) or abs(task.exponent) > 1:
        return None
    if strategy == "auto" and looking_pays(task, strategy):
        return None
    first = first_candidate(task, strategy)
    if first.strategy == "cholesky":
        # Where a float32 residual proves nothing, float32 saves nothing.
        return Way("cholesky", first.precision if task.n >= CHANCE_SIZE else "fp64")
    quick = choose(replace(task, precisions=("fp32",)), 1.0, 1.0, "eigh")
    wide = choose(replace(task, precisions=("fp64",)), 1.0, 1.0, "eigh")
    pays = 2 * cholesky_look_ms(task) < wide.milliseconds - quick.milliseconds and task.n >= CHANCE_SIZE
    return Way("eigh", None if pays else "fp64")


class _Passed:
    """sym(A) + ridge·I and B in the dtypes that are asked for, A itself where it is that."""

    def __init__(self, problem: Problem, options: Options, ws: SolveWorkspace) -> None:
        self.problem, self.options, self.ws = problem, options, ws
        self.ridge = options.damping.amount(problem) if options.damping else None
        self._symmetric = is_symmetric(problem.A)
        # Of what is built for the first time.
        self._defect: Array | None = None
        self.size = torch.zeros(problem.count)
        self._matrices: dict[torch.dtype, Tensor] = {}

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """`(b, n, n)`."""
        if dtype not in self._matrices:
            self._matrices[dtype] = self._build(dtype)
        return self._matrices[dtype]

    def _build(self, dtype: torch.dtype) -> Tensor:
        A = self.problem.A
        if self._symmetric and self.ridge is None and A.dtype is dtype:
            return A
        S = self.ws.buffer(f"S {dtype}", A.shape, dtype, A.device)
        if self._symmetric:
            S.copy_(A)
        else:
            T = self.ws.buffer(f"T {dtype}", A.shape, dtype, A.device).copy_(A)
            plus_transpose(T, S).mul_(0.5)
            self._defect = (2 * norm(T.sub_(S)) / norm(S)).numpy()
        if self.ridge is not None:
            S.diagonal(dim1=-2, dim2=-1).add_(self.ridge[:, None])
        return S

    def right(self, dtype: torch.dtype) -> Tensor | None:
        """`(b, n, k)`, or `None` for the root."""
        B = self.problem.B
        if B is None or B.dtype is dtype:
            return B
        return self.ws.buffer(f"B {dtype}", B.shape, dtype, B.device).copy_(B)

    def ordinary(self, dtype: torch.dtype) -> bool:
        """A is symmetric but for rounding, and of a size that `dtype` can square."""
        self.size = norm(self.matrix(dtype))
        B = self.right(dtype)
        small = dtype is torch.float64 or B is None or _ordinary(norm(B))
        even = self._defect is None or bool((self._defect <= symmetry_limit(self.problem)).all())
        return small and even and _ordinary(self.size)

    def by_eigh(self, task: Task, name: str | None) -> Outcome | None:
        """The eigendecomposition; `None` where a look was due and Cholesky shows no κ."""
        name = name or self._precision(task)
        if name is None:
            return None
        dtype = precision(name).storage
        return run_eigh(self.matrix(dtype), self.right(dtype), task.exponent, self.ws)

    def _precision(self, task: Task) -> str | None:
        """From κ to a factor of two."""
        low, high = ends(self.matrix(torch.float32), self.ws, self.options.seed)
        kappa = float((high / low).amax())
        if not (0 < float(low.amin()) and kappa < math.inf):
            return None
        error = rounding_error("eigh", "fp32", max(1.0, kappa), task.exponent, n=task.n)
        return "fp32" if task.meets(error) else "fp64"

    def by_cholesky(self, task: Task, name: str | None) -> Outcome:
        """In float32, refined where it has to be. For many right-hand sides that costs more than a factorisation in
        float64: then the diagonal of L decides between the two before anything is solved."""
        if name == "fp64":
            return run_cholesky(self.matrix(torch.float64), self.right(torch.float64), self.ws)
        S, B = self.matrix(torch.float32), self.right(torch.float32)
        factor = factorised(S, self.ws)
        if REFINING * task.k > task.n and not task.root:
            error = rounding_error("cholesky", "fp32", HIDDEN * factor.kappa(S), task.exponent)
            if not task.meets(error):
                return run_cholesky(self.matrix(torch.float64), self.right(torch.float64), self.ws)
        return run_cholesky(S, B, self.ws, None if B is None else self._wide, factor)

    def _wide(self) -> tuple[Tensor, Tensor]:
        B = self.right(torch.float64)
        assert B is not None
        return self.matrix(torch.float64), B

    def settle(self, outcome: Outcome, ledger: Ledger) -> bool:
        """Certify an outcome, and deliver it if it is the answer beyond doubt."""
        problem, root, dtype, Z = self.problem, outcome.root, outcome.judge, outcome.Z
        assert root is not None
        S, B = self.matrix(dtype), self.right(dtype)
        if Z.dtype is not dtype:
            Z = self.ws.buffer("Z64", Z.shape, dtype, Z.device).copy_(Z)
        wide = dtype is torch.float32
        measured = measure(root, PlainMatrix(S), B, Z, problem.exponent, self.options.seed, None, wide)
        ledger.error, ledger.residual, ledger.amplification = appraise(
            measured.numpy(), problem.n, problem.columns, root, problem.exponent
        )
        ledger.account(outcome)
        self._note(outcome, ledger)
        doubtful = suspicious(outcome, ledger.lambda_min, ledger.lambda_max, problem, None)
        good = (ledger.error <= problem.tol / 2) & ~doubtful
        # And `out` is the caller's, until there is an answer in his dtype.
        size = magnitude(Z)
        if not good.all() or lost(size, size, problem.dtype).any():
            return False
        ledger.Z.copy_(Z)
        return True

    def _note(self, outcome: Outcome, ledger: Ledger) -> None:
        """The ends of the spectrum, as bounds where they are one."""
        u = precision(outcome.precision).unit_roundoff
        ledger.lambda_max = self.size.numpy() * inflation(self.problem.n, outcome.Z.dtype)
        if outcome.highest is not None:
            highest = outcome.highest.double().numpy() * (1 + 2 * self.problem.n * u)
            ledger.lambda_max = np.fmin(ledger.lambda_max, highest)
        if outcome.lowest is not None:
            ledger.lambda_min = outcome.lowest.double().numpy()
        if self.ridge is not None:
            ledger.ridge = self.ridge.numpy()


def _ordinary(sizes: Tensor) -> bool:
    """All of them; NaN is not."""
    found = sizes.numpy()
    return bool(((found > 1 / ORDINARY) & (found < ORDINARY)).all())

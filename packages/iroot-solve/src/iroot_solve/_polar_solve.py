"""The polar factor to a tolerance: look, iterate, look again, certify; float64, then eigen- or singular vectors.

One attempt, in one precision:

1. Scale by a power of two, so that a bound u² of ‖GᵀG‖₂ lies in (1/4, 1]: the smallest of row sum, Frobenius norm and
   20 Lanczos steps, and what GᵀG as computed may lack. Ritz values say where its lower end may be, from above.
2. Plan for half of that, iterate (`_polar_iteration`).
3. Look at XᵀX with a few Lanczos steps. What the plan did not know of is now a lone eigenvalue below a cluster at 1,
   which Ritz values find at once: plan the rest from there and go on. A direction that came from rounding level, for
   all that it was lifted, is left to its fate.
4. Measure the result (`_polar_certificate`).

Whether a small singular value counts as zero no iteration can say, because it would lift it sooner or later. Where
σ_min is within a factor of two of the cut, where an attempt found a direction that came from rounding level, and where
float64 did not meet the tolerance, `_polar_vectors` decides; on a CPU it also does what it is predicted to do faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from iroot_coeffs import Schedule, build_products, plan
from iroot_kernels import Workspace, precision
from iroot_precond import (
    binary_exponent,
    inflation,
    power_of_two,
    ritz_extremes,
    scale_by_power_of_two,
    scaled_bound,
    symmetric_action,
)
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._certificate import Array
from iroot_solve._choose import LANCZOS_STEPS, on_grid
from iroot_solve._cost import milliseconds
from iroot_solve._polar_certificate import PolarMeasure, measure_full_rank, widened
from iroot_solve._polar_iteration import PolarIteration, segments
from iroot_solve._polar_ledger import PolarLedger
from iroot_solve._polar_products import best, gram_from, products
from iroot_solve._polar_result import PolarProblem
from iroot_solve._polar_vectors import by_eigh, by_svd
from iroot_solve._result import Status
from iroot_solve._scales import magnitude
from iroot_solve._task import MAX_KAPPA, TRUNCATION_SHARE
from iroot_solve._thin import thin

LOOK_STEPS, MAX_ROUNDS = 12, 5
# Rounding errors were 0.02 … 0.7·κ·u, most with half of the singular values at the lower end.
ROUNDING_FLOOR, ROUNDING_PER_KAPPA = 8.0, 0.3
# An estimate of σ_min from above decides only where it clears the cut by this.
CLEAR_OF_CUT = 2.0
# A Cholesky factorisation and its inverse; and of eigh: the Gram matrix, U, and a dense certificate.
CERTIFIED_SQUARE, EIGH_PRODUCTS = 2.0, 10.0


def solve_polar(problem: PolarProblem, ledger: PolarLedger, ws: Workspace) -> None:
    """Fill the ledger, matrix by matrix as they succeed."""
    pending, direct = _usable(problem, ledger), np.zeros(0, np.int64)
    names = () if problem.strategy in ("eigh", "svd") else problem.precisions
    failures = False
    for name in names:
        if len(pending):
            if failures:
                ledger.fallbacks.append(name)
            sorted_out = _Attempt(problem, pending, name, ws, last=name == names[-1]).run(ledger)
            failures = failures or sorted_out.failures
            pending = np.sort(np.concatenate((sorted_out.later, sorted_out.failed)))
            direct = np.concatenate((direct, sorted_out.direct))
    _by_vectors(problem, np.sort(np.concatenate((pending, direct))), failures, ledger)
    limit = problem.tol if problem.tol >= torch.finfo(problem.G.dtype).eps else -1.0
    ledger.codes[(ledger.codes == Status.stagnated) & (ledger.error <= limit)] = Status.converged


def _by_vectors(problem: PolarProblem, index: Array, failures: bool, ledger: PolarLedger) -> None:
    """What no iteration has done. Of float64 matrices that one failed on, eigh would lose more."""
    hard = problem.strategy == "svd" or (failures and problem.G.dtype is torch.float64)
    if len(index) and not hard:
        if failures:
            ledger.fallbacks.append("eigh")
        index = by_eigh(problem, index, ledger)
    if len(index):
        if problem.strategy != "svd":
            ledger.fallbacks.append("svd")
        by_svd(problem, index, ledger)


def _usable(problem: PolarProblem, ledger: PolarLedger) -> Array:
    """Matrices that are finite and not zero; the answers of the others are known."""
    size = magnitude(problem.G).cpu().numpy()
    finite = np.isfinite(size)
    ledger.codes[~finite] = Status.nonfinite_input
    rest = np.flatnonzero(~(finite & (size > 0)))
    if len(rest):
        index = torch.from_numpy(rest).to(ledger.U.device)
        nothing = torch.where(torch.from_numpy(finite[rest]).to(ledger.U.device), 0.0, torch.nan)
        ledger.U[index] = nothing[:, None, None].to(ledger.U.dtype).expand(-1, *ledger.U.shape[1:])
    zero = finite & (size == 0)
    ledger.error[zero], ledger.defect[zero], ledger.rank[zero] = 0.0, 0.0, 0
    return np.flatnonzero(finite & (size > 0))


@dataclass(frozen=True)
class _SortedOut:
    """Indices of what an attempt has not done: left to the next precision, failed, or better done by vectors."""

    later: Array
    failed: Array
    direct: Array
    failures: bool


@dataclass
class _Attempt:
    """One precision for the matrices at `index`."""

    problem: PolarProblem
    index: Array
    precision: str
    ws: Workspace
    last: bool

    @property
    def u(self) -> float:
        return precision(self.precision).unit_roundoff

    @property
    def _exact(self) -> str:
        """The precision of what is looked at, whatever it is iterated in."""
        if precision(self.precision).storage is torch.float64:
            return "fp64"
        return best(self.problem.G.device, self.problem.G.shape[-1])

    def run(self, ledger: PolarLedger) -> _SortedOut:
        """Write what succeeds."""
        G = self._scaled(self.problem.rows(self.index))
        ends = self._ends(G)
        ready = self._ready(np.sqrt(ends[1] / np.maximum(ends[0], self._noise(ends[1]))))
        later, tried, none = self.index[~ready], self.index[ready], self.index[:0]
        if not len(tried):
            return _SortedOut(later, none, none, False)
        ends = ends[:, ready]
        if self._vectors_are_cheaper(ends):
            return _SortedOut(later, none, tried, False)
        G = G if ready.all() else G[torch.from_numpy(np.flatnonzero(ready)).to(G.device)]
        iteration, hopeless = self._iterate(G, ends)
        ledger.count(iteration)
        measure = measure_full_rank(G, iteration.X, self.ws, self.problem.seed)
        good = self._accept(ledger, tried, iteration, measure, ends[1])
        return _SortedOut(later, tried[~good & ~hopeless], tried[~good & hopeless], not good.all())

    def _vectors_are_cheaper(self, ends: Array) -> bool:
        """Whether eigenvectors are predicted to be faster, and good enough: on a CPU, for large single matrices."""
        m, n = self.problem.G.shape[-2:]
        if self.problem.strategy != "auto" or self.problem.G.device.type != "cpu":
            return False
        low, high, bound = float(ends[0].min()), float(ends[1].max()), float(ends[2].max())
        low = max(low / 2, float(self._noise(ends[1]).min()))
        if ROUNDING_PER_KAPPA * high / low * 2.0**-53 > self.problem.tol / 4:
            return False
        schedule = _plan(*on_grid(low, bound), self.problem.tol)
        lengths = self._lengths(schedule)
        square = sum(build_products(step.degree) for step in schedule) + 3 * (len(schedule) - len(lengths))
        bits, batch, aspect = (64 if self.precision == "fp64" else 32), ends.shape[1], m / n
        product, wide = milliseconds(f"mm{bits}", n, batch), milliseconds("mm64", n, batch)
        iterate = (square + CERTIFIED_SQUARE + (2 * len(lengths) + 2) * aspect) * product
        return milliseconds("eigh64", n, batch) + EIGH_PRODUCTS * aspect * wide < iterate

    def _scaled(self, G: Tensor) -> Tensor:
        """2^-g·G in the storage dtype, entries at most 1."""
        dtype = precision(self.precision).storage
        held = self.ws.buffer("polar G", G.shape, dtype, G.device).copy_(G)
        return scale_by_power_of_two(held, binary_exponent(held), out=held)

    def _ends(self, G: Tensor) -> Array:
        """(lowest and highest Ritz value, bound) of GᵀG, `(3, b)`; scales G so that the bound is in (1/4, 1]."""
        m, n = G.shape[-2:]
        exact = products(G.device, self._exact, n, self.ws)
        Y = exact.gram(G)
        low, high, beta = ritz_extremes(symmetric_action(Y), Y, LANCZOS_STEPS)
        bound = torch.minimum(scaled_bound(Y, "min", 1.0, lanczos_steps=0), (high + beta) * inflation(n, Y.dtype))
        # The computed Y is off by at most m·u·|G|ᵀ|G|, whose norm is at most ‖G‖_F² = tr Y; see `Whole.slack`.
        bound = bound + (m + exact.slack) * torch.finfo(Y.dtype).eps * Y.diagonal(dim1=-2, dim2=-1).sum(-1)
        ends = torch.stack((low, high, bound)).double()
        half = torch.div(torch.frexp(ends[2]).exponent + 1, 2, rounding_mode="floor")
        G.mul_(power_of_two(-half, G.dtype)[:, None, None])
        found: Array = (ends * power_of_two(-2 * half, torch.float64)).cpu().numpy()
        return found

    def _ready(self, kappa: Array) -> Array:
        """Where this precision is predicted to meet the tolerance, `(b,)`, or there is no other."""
        predicted = self.u * (ROUNDING_FLOOR + ROUNDING_PER_KAPPA * kappa)
        ready: Array = (predicted <= self.problem.tol / 4) | self.last
        return ready

    def _noise(self, high: Array) -> Array:
        """Ritz values of this size may be rounding."""
        noise: Array = math.sqrt(self.problem.G.shape[-1]) * precision(self._exact).unit_roundoff * high
        return noise

    def _iterate(self, G: Tensor, ends: Array) -> tuple[PolarIteration, Array]:
        """All rounds, and which matrices have a direction from rounding level."""
        iteration = PolarIteration(G, self.precision, self.ws)
        low, top = np.maximum(ends[0] / 2, self._noise(ends[1])), np.sqrt(ends[1])
        # A direction that rounding of G alone may have made, as a share of ‖G‖₂.
        floor = max(self.problem.cut / CLEAR_OF_CUT, 4 * math.sqrt(G.shape[-1]) * self.u)
        reach, lifted, hopeless = float(ends[2].max()), 1.0, np.zeros(G.shape[0], dtype=bool)
        going = ~hopeless
        for _ in range(MAX_ROUNDS):
            on = on_grid(float(low[going].min()), reach)
            schedule = _plan(*on, self.problem.tol)
            steps = [polynomial(step) for step in schedule]
            iteration.run(steps, self._lengths(schedule), top=on[1])
            lifted *= math.prod(float(step(0.0)) for step in steps)
            low, high, bound = self._look(iteration.X)
            share = np.sqrt(np.maximum(low, 0.0)) / (top * lifted)  # of ‖G‖₂, what the lowest direction had
            unfinished = ~(np.maximum(np.abs(low - 1), np.abs(high - 1)) / 2 <= self._enough)
            hopeless |= unfinished & ~(share > floor)
            going = unfinished & ~hopeless & self._ready(1 / share)
            if not going.any():
                break
            low, reach = np.maximum(low / 2, 2 * low - 1), max(schedule.steps[-1].image[1], float(bound[going].max()))
        return iteration, hopeless

    @property
    def _enough(self) -> float:
        return max(self.problem.tol / 2, 4 * math.sqrt(self.problem.G.shape[-1]) * self.u)

    def _look(self, X: Tensor) -> tuple[Array, Array, Array]:
        """Ritz values of XᵀX and their bound, `(b,)` each."""
        wide = widened("X", X, self.ws)
        low, high, beta = ritz_extremes(lambda V: thin(wide.mT, thin(wide, V)), wide.mT, LOOK_STEPS)
        bound = (high + beta) * inflation(X.shape[-1], X.dtype)
        found = torch.stack((low, high, bound)).cpu().numpy()
        return found[0], found[1], found[2]

    def _lengths(self, schedule: Schedule) -> tuple[int, ...]:
        """Segments that lose no more than a quarter of the tolerance by L²·u."""
        lifts = [float(step(step.lo)) for step in schedule]
        return segments(lifts, math.sqrt(self.problem.tol / (8 * self.u)) if self._form == "gram" else 0.0)

    @property
    def _form(self) -> str:
        """plain or gram."""
        (m, n), device = self.problem.G.shape[-2:], self.problem.G.device
        if self.problem.strategy != "auto":
            return self.problem.strategy
        return "gram" if m > gram_from(device, self.precision, n) * n else "plain"

    def _accept(
        self,
        ledger: PolarLedger,
        tried: Array,
        iteration: PolarIteration,
        measure: PolarMeasure,
        high: Array,
    ) -> Array:
        """Write those that meet the tolerance and have full rank beyond doubt."""
        found = torch.stack((measure.error, measure.defect, measure.smallest)).cpu().numpy()
        clear = found[2] > CLEAR_OF_CUT * self.problem.cut * np.sqrt(high)
        good: Array = (found[0] <= self.problem.tol) & clear
        X = iteration.X
        chosen = X if good.all() else X[torch.from_numpy(np.flatnonzero(good)).to(X.device)]
        how = self._form, self.precision, iteration.backend
        ledger.write(tried[good], chosen, found[:2, good], np.full(good.sum(), X.shape[-1]), how)
        return good


@lru_cache(maxsize=256)
def _plan(low: float, high: float, tol: float) -> Schedule:
    """The cheapest schedule for y^(-1/2) on [low, high] whose truncation leaves most of tol to rounding."""
    kappa = min(max(high / low, 1.0), MAX_KAPPA)
    return plan(2, kappa=kappa, tol=max(TRUNCATION_SHARE * tol, 4e-15)).rescaled(high)

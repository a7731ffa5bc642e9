"""The failure ladder: more steps, higher precision, eigh in float64; each rung for the matrices that still need it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from iroot_kernels import precision
from torch import Tensor

from iroot_solve._case import Case, Facts
from iroot_solve._certificate import Array, Certificate
from iroot_solve._choose import choose
from iroot_solve._gram_formed import is_rounded, part_in_float64
from iroot_solve._outcome import Outcome
from iroot_solve._problem import Gram
from iroot_solve._result import DirectSchedule, SolveResult, Status
from iroot_solve._task import Candidate
from iroot_solve._verdict import spectrum_status, suspicious

STAGNATED = np.int8(Status.stagnated)
# Times tol: an estimate that says that rounding was more than predicted, not that it was something else.
SLIGHT = 8.0
PLANES = "fp16x3"


@dataclass
class Ledger:
    """The best answer so far for every matrix; Z on the device, what is known about it on the host.

    Attributes:
        Z: `(b, n, k)` in the caller's units and dtype.
        error, residual, amplification: Of the certificate, `(b,)`.
        lambda_min, lambda_max: In units of A, `(b,)`; NaN where unknown.
        ridge: In units of A, `(b,)`.
        codes: `Status`, int8 `(b,)`.
        cut, rank: Of a pseudo-inverse: eigenvalues up to the cut (in units of A) counted as zero, and how many did not.
        fallbacks: Rungs taken.
        products: Work of all rungs.
        steps: Steps of all rungs.
        strategy, precision, schedule, backend: Of the last rung.
        caution: How many times what was predicted was rounded, where that was worth a rung of its own.
    """

    Z: Tensor
    error: Array
    residual: Array
    amplification: Array
    lambda_min: Array
    lambda_max: Array
    ridge: Array
    codes: Array
    cut: Array | None = None
    rank: Array | None = None
    fallbacks: list[str] = field(default_factory=list)
    products: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    strategy: str = "none"
    precision: str = "none"
    backend: str = "torch"
    schedule: object = DirectSchedule("none", "nothing to do")
    caution: float = 1.0

    @classmethod
    def empty(cls, Z: Tensor) -> Ledger:
        """Nothing solved yet."""
        error, residual, amplification, low, high, ridge = held = np.full((6, Z.shape[0]), np.nan)
        held[:2], held[5] = np.inf, 0.0
        codes = np.full(Z.shape[0], STAGNATED)
        return cls(Z, error, residual, amplification, low, high, ridge, codes)

    def note(self, facts: Facts) -> None:
        """What was read of the spectrum before the work, in units of A."""
        exponent = facts.exponent.astype(int)
        self.lambda_max, self.ridge = np.ldexp(facts.upper, exponent), np.ldexp(facts.ridge, exponent)
        if facts.low is not None:
            self.lambda_min = np.ldexp(facts.low, exponent)

    def note_range(self, rows: Array, cut: Array, rank: Array) -> None:
        """The numerical range of the matrices at `rows`."""
        if self.cut is None or self.rank is None:
            self.cut, self.rank = np.zeros(self.error.shape), np.zeros(self.error.shape, dtype=np.int64)
        self.cut[rows], self.rank[rows] = cut, rank

    def account(self, outcome: Outcome, gram: Gram | None = None) -> None:
        """Add the outcome's work, for an A that was formed as `gram` says."""
        for kind, count in outcome.products.items():
            self.products[kind] = self.products.get(kind, 0) + count
        self.steps += outcome.steps
        self.strategy, self.precision, self.schedule = outcome.strategy, outcome.precision, outcome.schedule
        self.backend = outcome.backend + ("" if gram is None else gram.backend)

    def take(self, rows: Array, result: SolveResult) -> None:
        """The answers of a solve for the matrices at `rows` alone."""
        stats = result.stats
        self.Z[torch.from_numpy(rows)] = result.Z
        for name in ("error", "residual", "amplification", "lambda_min", "lambda_max"):
            getattr(self, name)[rows] = getattr(stats, name).cpu().numpy()
        self.codes[rows] = stats.status_code.cpu().numpy()
        if stats.cut is not None and stats.rank is not None:
            self.note_range(rows, stats.cut.cpu().numpy(), stats.rank.cpu().numpy())
        self.products, self.steps, self.fallbacks = stats.products, stats.steps, list(stats.fallbacks)
        self.strategy, self.precision, self.schedule = stats.strategy, stats.precision, result.schedule
        self.backend = stats.backend

    def record(self, rows: Array, Z: Tensor, certificate: Certificate) -> None:
        """Take the answer where it is better than the one there is; the first one (written to `Z` itself) as it is."""
        if self.strategy == "none":
            self.error, self.residual, self.amplification = certificate
            return
        better = np.flatnonzero(certificate.error < self.error[rows])
        self.Z[torch.from_numpy(rows[better])] = Z[torch.from_numpy(better)]
        for held, new in zip((self.error, self.residual, self.amplification), certificate, strict=True):
            held[rows[better]] = new[better]


def planned(case: Case, candidate: Candidate, low: float, high: float) -> Outcome:
    """What a candidate makes of the case."""
    outcome = case.run(candidate, low, high)
    outcome.chosen = candidate
    return outcome


def settle(case: Case, ledger: Ledger, rows: Array, outcome: Outcome, low: float, high: float) -> bool:
    """Certify an outcome, record it, and climb for the matrices that may miss the tolerance.

    An estimate scatters: one above half the tolerance is worth another rung, and counts as converged where there is
    none.

    Args:
        case: The problem (or the part of it that is left).
        ledger: Where answers go.
        rows: Rows of the ledger that `case` stands for.
        outcome: What was computed.
        low, high: The spectrum as far as it is known.

    Returns:
        Whether every matrix of the case met the tolerance in the end. One synchronisation, and one more for each rung.
    """
    Z = ledger.Z if ledger.strategy == "none" else ledger.Z.new_empty((rows.size, *ledger.Z.shape[1:]))
    certificate, lowest, highest = case.certify(outcome, Z)
    good = ledger.error[rows] <= case.problem.tol  # a lower rung's answer stands, whatever this one shows
    ledger.record(rows, Z, certificate)
    ledger.account(outcome, case.problem.gram)
    failed = ~(certificate.error <= case.problem.tol / 2)
    if outcome.lowest is not None:
        ledger.lambda_min[rows] = np.ldexp(lowest, case.exponents())
    cut = case.options.cut(case.problem)
    if cut is not None and outcome.eigenvalues is not None:
        ledger.note_range(rows, *_range(outcome.eigenvalues, cut, case.exponents()))
    if outcome.highest is not None:
        # A backward stable λmax is off by a modest multiple of u·‖A‖, for which n·u is room.
        bound = np.ldexp(highest, case.exponents()) * (
            1 + 2 * case.problem.n * precision(outcome.precision).unit_roundoff
        )
        ledger.lambda_max[rows] = np.fmin(ledger.lambda_max[rows], bound)
    doubtful = suspicious(outcome, lowest, highest, case.problem, cut) & ~good
    failed |= doubtful
    if not failed.any():
        return True
    rest = np.flatnonzero(failed)
    if case.options.fallback and _climb(case, ledger, rows, outcome, rest, certificate.error, low, high):
        return True
    if doubtful.any():
        _judge(case, ledger, rows, outcome, np.flatnonzero(doubtful))
    return False


def _range(eigenvalues: Tensor, cut: float, exponents: Array) -> tuple[Array, Array]:
    """The cut in units of A and the numerical rank, `(b,)` each."""
    values: Array = eigenvalues.cpu().numpy()
    limit = cut * values[:, -1:]
    return np.ldexp(limit[:, 0], exponents), (values > limit).sum(-1)


def _climb(
    case: Case, ledger: Ledger, rows: Array, outcome: Outcome, failed: Array, error: Array, low: float, high: float
) -> bool:
    """The next rung: more steps from where the iteration stands, or a better way for those that failed.

    Args:
        case, ledger, rows, outcome: See `settle`.
        failed: Rows of the case.
        error: As estimated, of all its rows.
        low, high: The spectrum as far as it is known.

    Returns:
        Whether that settled all of them.
    """
    rounded = is_rounded(case.problem)
    # More steps go on with the iterate of a float32 copy of GᵀG, in which an eigenvalue may be buried for good.
    copied = case.problem.gram is not None and outcome.precision != "fp64"
    again = None if copied or not outcome.resume else outcome.resume()
    if again is not None:
        ledger.fallbacks.append("more steps")
        return settle(case, ledger, rows, again, low, high)
    rung = _less_rounded(case, ledger, outcome, float(error[failed].max()), low, high)
    rung = rung or _next_rung(case, outcome, low, high)
    if rung is None:
        return False
    anew = f", {case.problem.name} in float64" if rounded else ""
    first = f", the first {rung.wide} steps in float64" if rung.wide else ""
    ledger.fallbacks.append(f"{rung.strategy} in {rung.precision}{first}{anew}")
    part = part_in_float64(case.select(failed))
    return settle(part, ledger, rows[failed], planned(part, rung, low, high), low, high)


def _judge(case: Case, ledger: Ledger, rows: Array, outcome: Outcome, doubtful: Array) -> None:
    """Say of every doubtful matrix what is wrong with it."""
    assert outcome.eigenvalues is not None
    index = torch.from_numpy(doubtful)
    matrix = case.matrix.matrix(torch.float64)[index]
    ledger.codes[rows[doubtful]] = spectrum_status(matrix, outcome.eigenvalues[index]).cpu().numpy()
    # A graded matrix has eigenvalues that float64's eigh cannot resolve: nothing is known of the error.
    ledger.error[rows[doubtful]] = np.inf


def _less_rounded(
    case: Case, ledger: Ledger, outcome: Outcome, error: float, low: float, high: float
) -> Candidate | None:
    """After products in two planes that were off by little: what meets the tolerance if all that is rounded is as much
    more than predicted as theirs; `None` where nothing does. Caution grows from rung to rung: there is an end."""
    task, options, chosen = case.task, case.options, outcome.chosen
    off = error <= SLIGHT * task.tol and outcome.precision == PLANES and task.precisions[0] == "fp32"
    if chosen is None or not off or outcome.reduced or case.problem.gram is not None:
        return None
    ledger.caution = max(ledger.caution, chosen.caution_of(error))
    found = choose(replace(task, caution=ledger.caution), low, high, options.strategy, case.kappa)
    return found if task.meets(found.with_caution(ledger.caution)) else None


def _next_rung(case: Case, outcome: Outcome, low: float, high: float) -> Candidate | None:
    """The same strategy (auto: the cheapest) in float32 if less was tried, then in float64; eigh in float64; none.

    A GᵀG that was rounded counts as less than float32: in the next rung it is not.
    """
    if outcome.reduced or is_rounded(case.problem):
        return choose(replace(case.task, reduced=False), low, high, case.options.strategy)
    if outcome.precision != "fp64":
        task = replace(case.task, precisions=("fp64",))
        return choose(task, low, high, case.options.strategy)
    if outcome.strategy != "eigh":
        return Candidate("eigh", "fp64", None, 0.0, 0.0, 0.0)
    return None

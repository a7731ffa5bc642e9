"""The failure ladder: more steps, higher precision, eigh in float64; each rung for the matrices that still need it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from iroot_solve._case import Case
from iroot_solve._certificate import Certificate
from iroot_solve._choose import Candidate, choose
from iroot_solve._outcome import Outcome
from iroot_solve._result import DirectSchedule, SolveResult, Status
from iroot_solve._verdict import spectrum_status, suspicious


@dataclass
class Ledger:
    """The best answer so far for every matrix.

    Attributes:
        Z: `(b, n, k)` in the caller's units and dtype.
        error, residual, amplification: Of the certificate, `(b,)`, float64.
        lambda_min: In units of A, `(b,)`, float64; NaN where unknown.
        codes: `Status`, int8 `(b,)`.
        fallbacks: Rungs taken.
        products: Work of all rungs.
        steps: Steps of all rungs.
        strategy, precision, schedule: Of the last rung.
    """

    Z: Tensor
    error: Tensor
    residual: Tensor
    amplification: Tensor
    lambda_min: Tensor
    codes: Tensor
    fallbacks: list[str] = field(default_factory=list)
    products: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    strategy: str = "none"
    precision: str = "none"
    schedule: object = DirectSchedule("none", "nothing to do")

    @classmethod
    def empty(cls, Z: Tensor) -> Ledger:
        """Nothing solved yet."""

        def filled(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.full(Z.shape[:1], value, dtype=dtype, device=Z.device)

        unknown = filled(torch.nan)
        codes = filled(int(Status.stagnated), torch.int8)
        return cls(Z, filled(torch.inf), filled(torch.inf), unknown, unknown.clone(), codes)

    def account(self, outcome: Outcome) -> None:
        """Add the outcome's work."""
        for kind, count in outcome.products.items():
            self.products[kind] = self.products.get(kind, 0) + count
        self.steps += outcome.steps
        self.strategy, self.precision, self.schedule = outcome.strategy, outcome.precision, outcome.schedule

    def take(self, rows: Tensor, result: SolveResult) -> None:
        """The answers of a solve for the matrices at `rows` alone."""
        stats = result.stats
        self.Z[rows] = result.Z
        held = (self.error, self.residual, self.amplification, self.lambda_min, self.codes)
        new = (stats.error, stats.residual, stats.amplification, stats.lambda_min, stats.status_code)
        for old, value in zip(held, new, strict=True):
            old[rows] = value
        self.products, self.steps, self.fallbacks = stats.products, stats.steps, list(stats.fallbacks)
        self.strategy, self.precision, self.schedule = stats.strategy, stats.precision, result.schedule

    def record(self, index: Tensor, Z: Tensor, certificate: Certificate) -> None:
        """Take the answer where it is better than the one there is; the first one as it is."""
        held = (self.error, self.residual, self.amplification)
        if self.strategy == "none":
            self.Z.copy_(Z)
            for old, new in zip(held, certificate, strict=True):
                old.copy_(new)
            return
        better = certificate.error < self.error[index]
        kept = torch.where(better[:, None, None], Z.to(self.Z.dtype), self.Z[index])
        self.Z.index_copy_(0, index, kept)
        for old, new in zip(held, certificate, strict=True):
            old.index_copy_(0, index, torch.where(better, new.double(), old[index]))


def settle(case: Case, ledger: Ledger, index: Tensor, outcome: Outcome, low: float, high: float) -> bool:
    """Certify an outcome, record it, and climb for the matrices that miss the tolerance.

    Args:
        case: The problem (or the part of it that is left).
        ledger: Where answers go.
        index: Rows of the ledger that `case` stands for.
        outcome: What was computed.
        low, high: The spectrum as far as it is known.

    Returns:
        Whether every matrix of the case met the tolerance in the end. One synchronisation, and one more for each rung.
    """
    certificate = case.certify(outcome)
    Z = case.deliver(outcome)
    fits = _representable(Z, ledger.Z.dtype)
    certificate = certificate._replace(error=torch.where(fits, certificate.error, torch.inf))
    ledger.record(index, Z, certificate)
    ledger.account(outcome)
    doubtful = _note_spectrum(case, ledger, index, outcome)
    failed = (~(certificate.error <= case.problem.tol) | doubtful).nonzero()[:, 0]
    if failed.numel() == 0:
        return True
    if case.options.fallback and _climb(case, ledger, index, outcome, failed, low, high):
        return True
    if outcome.eigenvalues is not None and outcome.precision == "fp64":
        _judge(case, ledger, index, outcome, doubtful.nonzero()[:, 0])
    return False


def _representable(Z: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether every entry is finite and within the range of `dtype`, `(b,)`."""
    largest = torch.maximum(Z.amax((-2, -1)), -Z.amin((-2, -1)))
    return largest <= torch.finfo(dtype).max


def _climb(
    case: Case, ledger: Ledger, index: Tensor, outcome: Outcome, failed: Tensor, low: float, high: float
) -> bool:
    """The next rung: more steps from where the iteration stands, or a better way for those that failed.

    Returns:
        Whether that settled all of them.
    """
    again = outcome.resume() if outcome.resume else None
    if again is not None:
        ledger.fallbacks.append("more steps")
        return settle(case, ledger, index, again, low, high)
    rung = _next_rung(case, outcome, low, high)
    if rung is None:
        return False
    ledger.fallbacks.append(f"{rung.strategy} in {rung.precision}")
    part = case.select(failed)
    return settle(part, ledger, index[failed], part.run(rung, low, high), low, high)


def _note_spectrum(case: Case, ledger: Ledger, index: Tensor, outcome: Outcome) -> Tensor:
    """Record λmin where eigenvalues were found; True where float64 ones do not show a definite matrix."""
    if outcome.lowest is not None:
        ledger.lambda_min.index_copy_(0, index, torch.ldexp(outcome.lowest.double(), case.matrix.exponent))
    if outcome.eigenvalues is None or outcome.eigenvalues.dtype is not torch.float64:
        return torch.zeros_like(index, dtype=torch.bool)
    return suspicious(outcome.eigenvalues, 1 if case.problem.exponent > 0 else -1)


def _judge(case: Case, ledger: Ledger, index: Tensor, outcome: Outcome, rows: Tensor) -> None:
    """Say of every doubtful matrix what is wrong with it."""
    if rows.numel() and outcome.eigenvalues is not None:
        matrix = case.matrix.matrix(torch.float64)[rows]
        ledger.codes[index[rows]] = spectrum_status(matrix, outcome.eigenvalues[rows])
        # A graded matrix has eigenvalues that float64's eigh cannot resolve: nothing is known of the error.
        ledger.error[index[rows]] = torch.inf


def _next_rung(case: Case, outcome: Outcome, low: float, high: float) -> Candidate | None:
    """The same strategy in float64 (auto: the cheapest there), then eigh in float64, then none."""
    if outcome.precision != "fp64":
        task = replace(case.task, precisions=("fp64",))
        return choose(task, low, high, case.options.strategy)
    if outcome.strategy != "eigh":
        return Candidate("eigh", "fp64", None, 0.0, 0.0, 0.0)
    return None

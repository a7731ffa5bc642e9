"""A^(-1/p)·B for a general matrix: rungs that are tried in order, each for the matrices that still need it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from iroot_kernels import PRECISIONS

from iroot_solve._certificate import Array
from iroot_solve._device import on_device
from iroot_solve._general_cost import newton_schulz_pays
from iroot_solve._general_inverse import inverse_attempt
from iroot_solve._general_repeats import GeneralRepeat, general_repeat_of, replayed_general
from iroot_solve._general_report import GeneralReport
from iroot_solve._general_root import root_attempt, screen
from iroot_solve._general_system import Attempt, Rung, System
from iroot_solve._ladder import Ledger
from iroot_solve._numerical_rank import numerical_rank
from iroot_solve._options import Options, require_blind
from iroot_solve._problem import Problem
from iroot_solve._result import SolveResult, SolveWorkspace, Status
from iroot_solve._solve import destination

INVERSES, ROOTS = ("auto", "lu", "hyperpower", "newton-schulz"), ("auto", "eig", "coupled-newton")
# Precisions of strategies for p = 1.
USABLE = {"hyperpower": tuple(PRECISIONS), "newton-schulz": ("fp16",)}


def rungs(problem: Problem, options: Options) -> list[Rung]:
    """What will be tried, in order.

    Raises:
        ValueError: A strategy or precision that does not apply, naming those that do.
    """
    p, strategy, name = problem.exponent.denominator, options.strategy, options.precision
    known = INVERSES if p == 1 else ROOTS
    if strategy not in known:
        raise ValueError(
            f"strategy={strategy!r} does not apply to A^(-1/{p}) of a general matrix; these do: {', '.join(known)}"
        )
    usable = ("fp64",) if p > 1 else USABLE.get(strategy, ("fp32", "fp64"))
    if name not in ("auto", *usable):
        raise ValueError(
            f"precision={name!r} does not apply to strategy={strategy!r} for p_val={p}; these do: "
            f"{', '.join(('auto', *usable))}"
        )
    if p > 1:
        found = _roots(strategy)
    elif strategy == name == "auto" and options.fallback and newton_schulz_pays(problem):
        found = _inverses(problem, "newton-schulz", "auto")
    else:
        found = _inverses(problem, strategy, name)
    return found if options.fallback else found[:1]


def _roots(strategy: str) -> list[Rung]:
    both = [Rung("eig", "fp64"), Rung("coupled-newton", "fp64")]
    return both[1:] if strategy == "coupled-newton" else both


def _inverses(problem: Problem, strategy: str, name: str) -> list[Rung]:
    storage = "fp64" if problem.storage is torch.float64 else "fp32"
    first = storage if name == "auto" else name
    factored = storage if strategy in USABLE else first
    found = [Rung("lu", "fp64")] if factored == "fp64" else [Rung("lu", factored), Rung("lu", "fp64")]
    if strategy == "newton-schulz":
        return [Rung("newton-schulz", "fp16"), *found]
    return [Rung("hyperpower", first), *found] if strategy == "hyperpower" else found


def solve_general(problem: Problem, options: Options, ws: SolveWorkspace) -> SolveResult:
    """The solver behind `solve_nonspd`."""
    require_blind(options, ws, False)
    order = rungs(problem, options)
    device = problem.A.device
    with on_device(device), torch.no_grad(), torch.autocast(device.type, enabled=False), np.errstate(all="ignore"):
        ledger = Ledger.empty(destination(problem, options.out))
        report = GeneralReport(problem, options, ws, ledger)
        if problem.empty:
            ledger.Z.zero_()
            ledger.codes[:], ledger.error[:] = Status.converged, 0.0
            return report.result()
        repeat = general_repeat_of(problem, options, ws, order[0])
        again = None if repeat is None else replayed_general(repeat, problem, options, ws, ledger.Z)
        if again is not None:
            return again
        system = System(problem, ws)
        rows = _usable(system, report)
        system = system.select(rows)
        run = inverse_attempt
        if rows.size and problem.exponent.denominator > 1:
            fine = screen(system, rows, report)
            system, rows, run = system.select(fine), rows[fine], root_attempt
        if rows.size:
            _climb(system, rows, order, report, run, repeat)
    return report.finish()


def _usable(system: System, report: GeneralReport) -> Array:
    """Matrices that are finite and not zero; the others have their status."""
    codes = report.ledger.codes
    finite = np.isfinite(system.size) & np.isfinite(system.right_size)
    zero = finite & (system.size == 0)
    codes[~finite], codes[zero] = Status.nonfinite_input, Status.singular
    if zero.any():
        report.note_rank(np.flatnonzero(zero), np.zeros(int(zero.sum()), dtype=np.int64))
    return np.flatnonzero(finite & ~zero)


def _climb(
    system: System,
    rows: Array,
    order: list[Rung],
    report: GeneralReport,
    run: Callable[..., Attempt],
    repeat: GeneralRepeat | None,
) -> None:
    """Every rung for the matrices that missed the tolerance on the one before; then the ranks of hopeless ones."""
    tol, ledger = report.problem.tol, report.ledger
    for i, rung in enumerate(order):
        if i:
            ledger.fallbacks.append(str(rung))
        attempt = run(system, rung, report.options)
        attempt.record(ledger, rows, system)
        if not report.options.verify:
            return
        # An estimate scatters: one above half the tolerance is worth another rung.
        failed = np.flatnonzero(~(attempt.error <= tol / 2))
        if repeat is not None and attempt.hardness is not None and not failed.size and rows.size == ledger.Z.shape[0]:
            repeat.learn(attempt.hardness)
        if i + 1 == len(order) or not failed.size:
            break
        system, rows = system.select(failed), rows[failed]
    hopeless = np.flatnonzero(attempt.hopeless)
    if hopeless.size:
        report.note_rank(rows[hopeless], numerical_rank(system.A, hopeless))

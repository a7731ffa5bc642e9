"""Calls that repeat: with a workspace the third one of a kind is recorded on a GPU, and replayed from then on.

An eager call is hundreds of operations that the host queues, several milliseconds, where the device may need a fraction
of one. A graph (`_replay`) repeats them without the host, but can only hold a call that reads nothing. So it is the
deferred call that is recorded (`_blind`), planned for the promised condition, or for a little more than the one that
the last eager call of the kind was planned for; its statuses are read, once, and what has not converged goes the usual
way with all of its ladder. A kind that failed so is not replayed again before an eager call has been planned for a
larger condition; one that was a little worse than predicted is recorded again with as much more caution. Of general
systems the same is in `_general_repeats`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from iroot_solve._blind import fastest, recordable
from iroot_solve._case import Case, task_of
from iroot_solve._certificate import Array
from iroot_solve._choose import choose
from iroot_solve._config import PrecondConfig
from iroot_solve._ladder import SLIGHT, Ledger
from iroot_solve._options import DEFERRABLE, Options
from iroot_solve._problem import Problem
from iroot_solve._replay import Replay
from iroot_solve._report import Report
from iroot_solve._result import NUMBERS, SolveResult, SolveStats, SolveWorkspace, Status
from iroot_solve._spectrum import FACTORED_SAFETY, Spectrum
from iroot_solve._task import MAX_KAPPA, Candidate, Task

# Recording takes as long as three calls, and holds all buffers of one.
RECORDED_FROM, MOST_KINDS, MOST_TIMES = 3, 8, 3
# Numbers of A: beyond them the device takes longer than the host, and buffers are large (36 bytes for each).
LARGEST = 2**24
# Likewise where all that is held of A are itself, a copy and planes, 18 bytes for each.
LARGEST_READ = 2**27
ON = ("cuda",)
# Over the condition that an eager call was planned for, which is on the safe side already.
MARGIN = 1.2

K = TypeVar("K")
Solver = Callable[[Problem, Options, "SolveWorkspace | None"], SolveResult]


@dataclass
class Repeat:
    """A kind of call.

    Attributes:
        kappa: To plan for; `None` before it is known.
        calls: With that condition.
        times: How often it was recorded.
        hopeless: No graph would be as good as the usual way.
        caution: How many times what was predicted is rounded, as far as is known.
        chosen: The way of the recorded call.
        replay: The recorded call, which returns its result and what is read of it.
    """

    kappa: float | None = None
    calls: float = 0
    times: int = 0
    hopeless: bool = False
    caution: float = 1.0
    chosen: Candidate | None = None
    replay: Replay[Any] | None = None

    def saw(self, kappa: float) -> None:
        """An eager call was planned for this condition."""
        if self.kappa is None or kappa > self.kappa:
            self.kappa = min(with_margin(kappa, 2), MAX_KAPPA)
            self.harder()

    def harder(self) -> None:
        """What was recorded does not do."""
        self.calls, self.replay = 0, None

    @property
    def due(self) -> bool:
        """There have been enough calls for a replay."""
        return self.kappa is not None and self.calls >= RECORDED_FROM

    def record(self, make: Callable[[], Replay[Any] | None]) -> bool:
        """Whether there is a recorded call now; `make` returns none where that is no use."""
        if self.hopeless or self.times >= MOST_TIMES:
            return False
        self.times += 1
        try:
            self.replay = make()
        except RuntimeError:  # no memory for a second set of buffers, or a routine that no graph can hold
            pass
        self.hopeless = self.replay is None
        return not self.hopeless

    @property
    def curious(self) -> bool:
        """Nothing is recorded for want of a condition."""
        return not self.hopeless and (self.kappa is None or self.calls < 0)

    def note(self, case: Case, ledger: Ledger, known: Spectrum) -> None:
        """An eager call has come to its end: with a look before its plan, or a factorisation that needed none."""
        if case.ends is not None:
            self.saw(known.bound / known.low)
        elif self.curious:
            matrix = case.matrix
            matrix.bound_by_power()
            high = torch.ldexp(matrix.upper, matrix.exponent).cpu().numpy()
            self.saw_ends(ledger.lambda_min, np.fmin(ledger.lambda_max, high))

    def saw_ends(self, low: Array, high: Array) -> None:
        """A call needed no plan, and saw these ends of the spectra, near enough."""
        kappa = float(np.max(high / low))
        if 1 <= kappa < MAX_KAPPA:
            self.saw(FACTORED_SAFETY * kappa)

    def learn(self, stats: SolveStats) -> None:
        """The same from its stats; waits for the device while nothing is recorded for want of a condition."""
        if self.curious:
            self.saw_ends(*torch.stack((stats.lambda_min, stats.lambda_max)).cpu().numpy())

    def give_up(self) -> None:
        """Until a larger condition is seen."""
        self.replay, self.calls = None, -math.inf

    def failed(self, error: float, tol: float) -> None:
        """What was recorded left this estimate."""
        if error <= SLIGHT * tol and self.chosen is not None:
            self.wary(max(self.chosen.caution_of(error), 2 * self.caution))
        else:
            self.give_up()

    def wary(self, caution: float) -> None:
        """So many times what was predicted was rounded."""
        if caution > self.caution:
            self.caution = caution
            self.harder()


def repeat_of(problem: Problem, options: Options, ws: SolveWorkspace | None) -> Repeat | None:
    """What is known of calls like this one, this one counted; `None` where none can be recorded."""
    if ws is None or not _recordable(problem, options, ws):
        return None
    found = remembered(ws, kind_of(problem, options), lambda: Repeat(options.kappa_max))
    found.calls += 1
    return found


def remembered(ws: SolveWorkspace, kind: Hashable, make: Callable[[], K]) -> K:
    """What is known of a kind; few are kept."""
    found: K = ws.repeats.pop(kind, None) or make()
    ws.repeats[kind] = found  # the latest is the last to go
    if len(ws.repeats) > MOST_KINDS:
        del ws.repeats[next(iter(ws.repeats))]
    return found


def replayed(
    repeat: Repeat, problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor, solver: Solver
) -> SolveResult | None:
    """The result, in one launch and one read; `None` where the usual way is to find it."""
    if not repeat.due or not (repeat.replay or repeat.record(lambda: _recorded(repeat, problem, options, solver))):
        return None
    assert repeat.replay is not None
    found, numbers = repeat.replay(problem.A, problem.B)
    kept, ledger = numbers.clone(), _described(Ledger.empty(Z.copy_(found.Z)), found)

    def result() -> SolveResult:
        return Report(problem, options, ws, ledger).result(kept[-1].to(torch.int8), kept[:-1])

    # While the device is busy; but `out` may be A or B, which the usual way would need.
    early = result() if options.out is None else None
    error, *_, codes = numbers.cpu().numpy()
    # As `settle`: an estimate scatters, and above half of tol another rung is worth its time.
    if not ((codes == Status.converged) & (error <= problem.tol / 2)).all():
        repeat.failed(float(np.max(error)), problem.tol)
        return None
    return early or result()


def _recordable(problem: Problem, options: Options, ws: SolveWorkspace) -> bool:
    """Whether the call is one whose deferred form does the same."""
    here = of_a_size(problem, LARGEST_READ) and not ws.recording and problem.gram is None
    plain = options.precond == PrecondConfig(ridge_rel=options.precond.ridge_rel) and options.lambda_max is None
    usual = options.verify and options.fallback and not options.pinv and options.look == "auto"
    given = options.abc_t is not None or options.expected_reuse > 1 or options.strategy not in DEFERRABLE
    return bool(here and plain and usual and not given and problem.exponent < 1)


def of_a_size(problem: Problem, most: int = LARGEST) -> bool:
    """On a device, and not too much for it."""
    return problem.A.device.type in ON and problem.A.numel() <= most and not problem.empty


def kind_of(problem: Problem, options: Options) -> Hashable:
    """What a recorded call cannot change; a stream has its own, so that nothing of it waits for another one."""
    tensors = tuple(None if V is None else (V.shape, V.dtype, V.device) for V in (problem.A, problem.B))
    stream = torch.cuda.current_stream(problem.A.device) if problem.A.is_cuda else None
    settings = options if options.out is None else replace(options, out=None)
    return tensors, stream, problem.exponent, problem.tol, settings


def _recorded(repeat: Repeat, problem: Problem, options: Options, solver: Solver) -> Replay[Any] | None:
    """The deferred call, unless that is no use."""
    settings = replace(
        options,
        kappa_max=repeat.kappa,
        verify=False,
        deferred=True,
        on_failure="nan",
        fallback=False,
        out=None,
        caution=repeat.caution,
    )
    task, kappa = task_of(problem, settings), settings.kappa_max
    assert kappa is not None
    found = fastest(task, 1 / (2 * kappa), 1.0, kappa, recordable(task, settings.strategy))
    if not _worthwhile(problem, settings, task, found):
        return None
    repeat.chosen = found
    call = {"problem": without_numbers(problem), "options": settings, "solver": solver}
    return Replay(_deferred, (problem.A, problem.B), SolveWorkspace(), call)


def without_numbers(problem: Problem) -> Problem:
    """For a recorded call, which has tensors of its own: one flat batch."""
    b, shape = problem.count, torch.Size((problem.count, problem.height, problem.columns))
    return replace(
        problem, A=problem.A.new_empty(0), B=None, batch=torch.Size((b,)), shape=shape, folded=False, passed=None
    )


def _worthwhile(problem: Problem, options: Options, task: Task, found: Candidate) -> bool:
    """Whether the deferred call is predicted to meet the tolerance, and sooner than the usual way."""
    assert options.kappa_max is not None
    usual = replace(task, recorded=False, reduced=True)
    ms = choose(usual, 1 / options.kappa_max, 1.0, options.strategy, options.kappa_max).milliseconds
    fits = problem.A.numel() <= LARGEST or found.strategy == "chebyshev"
    return fits and task.meets(found.with_caution(task.caution)) and found.milliseconds < ms


def _deferred(
    A: Tensor, B: Tensor | None, *, workspace: SolveWorkspace, problem: Problem, options: Options, solver: Solver
) -> tuple[SolveResult, Tensor]:
    """The result, and all that is read of it, `(7, b)`."""
    found = solver(replace(problem, A=A, B=B), options, workspace)
    numbers = [getattr(found.stats, name).double() for name in (*NUMBERS, "status_code")]
    return found, torch.stack(numbers)


def with_margin(value: float, fineness: int) -> float:
    """More than that, on a grid of so many to an octave: what is little larger is no reason to record anew."""
    return float(2.0 ** (math.ceil(fineness * math.log2(MARGIN * value)) / fineness))


def _described(ledger: Ledger, found: SolveResult) -> Ledger:
    """With what was done."""
    stats = found.stats
    ledger.strategy, ledger.precision, ledger.schedule = stats.strategy, stats.precision, found.schedule
    ledger.products, ledger.steps, ledger.backend = dict(stats.products), stats.steps, f"{stats.backend}, replayed"
    return ledger

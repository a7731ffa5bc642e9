"""Arms in turns: every call is timed by itself, in random order within a round, beside its true error.

The arms of a problem run interleaved in one process, so that slow drifts of the machine meet all of them alike. The
first call of an arm is not timed; its result is judged against the truth, and all later calls are of the same input.
The spectrum of a point is that of its first trial, and goes with the first call of that.
"""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iroot_solve._result import SolveResult, Status
from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench._cases import Case, Point
from iroot_solve.bench._problems import build, outline, relative_error, truth
from iroot_solve.bench._samples import Sample
from iroot_solve.bench._spectra import thinned

Call = Callable[[], Tensor | SolveResult]
Key = tuple[object, ...]


@dataclass(frozen=True)
class Settings:
    """How everything in a run is measured.

    Attributes:
        dtype, device, tol: Of every problem.
        reps: Rounds that are timed.
        warmups: Calls of each arm before them; the first, from which the error is, is made in any case.
        budget_ms: An arm leaves the rounds early, but not before the first, where more of them would take longer than
            this, going by its last call before them.
    """

    dtype: torch.dtype
    device: torch.device
    tol: float
    reps: int
    warmups: int
    budget_ms: float = math.inf

    @property
    def dtype_name(self) -> str:
        """Such as "float32"."""
        return str(self.dtype).removeprefix("torch.")

    def rounds(self, ms: float) -> int:
        """How many calls that take this long are timed."""
        return self.reps if self.reps * ms <= self.budget_ms else max(1, int(self.budget_ms / ms))


@dataclass(frozen=True)
class Job:
    """One random problem, and the arms that answer it."""

    case: Case
    point: Point
    trial: int
    arms: tuple[Arm, ...]


def jobs(cases: Iterable[Case], arms: Sequence[Arm], trials: int, settings: Settings) -> list[Job]:
    """All problems that some arm answers; nothing is built yet."""
    dtype, device, tol = settings.dtype, settings.device, settings.tol
    found = []
    for case in cases:
        for point in case.solvable(dtype):
            problem = outline(case, point, dtype, device, tol)
            fitting = tuple(arm for arm in arms if arm.applies(problem))
            found += [Job(case, point, trial, fitting) for trial in range(trials) if fitting]
    return found


def key(sample: Sample) -> Key:
    """What tells a timed call from all others of a run."""
    s = sample
    return s.case, s.n, s.m, s.k, s.batch, s.kappa, s.trial, s.arm, s.rep


def keys(job: Job, reps: int) -> Iterator[Key]:
    """Of all timed calls of a job."""
    point = job.point
    for arm in job.arms:
        for rep in range(reps):
            where = job.case.name, point.n, point.m, point.k, point.batch, point.kappa
            yield *where, job.trial, arm.name, rep


def measure(job: Job, settings: Settings, done: Collection[Key] = ()) -> Iterator[Sample]:
    """The samples of a job, each as soon as it is there.

    Args:
        job: What is measured.
        settings: How.
        done: Calls that are not made again.
    """
    missing = {key[-2:] for key in keys(job, settings.reps) if key not in done}
    arms = [arm for arm in job.arms if any(arm.name == name for name, _ in missing)]
    if not arms:
        return
    problem = build(job.case, job.point, job.trial, settings.dtype, settings.device, settings.tol)
    true, described = truth(problem), next(turns(job, settings.reps)) if job.trial == 0 else None
    spectrum = thinned(problem) if described in missing else None
    calls = {arm.name: prepared(arm, problem) for arm in arms}
    first = {name: _warmed_up(call, true, settings) for name, call in calls.items()}
    for name, rep in turns(job, settings.reps):
        if (name, rep) in missing and rep < settings.rounds(first[name][1]):
            ms, outcome = timed(calls[name], settings.device)
            found = {"ms": ms, **_account(outcome, first[name][0])}
            if (name, rep) == described:
                found["spectrum"] = spectrum
            yield sample(job, settings, name, rep, found)


def turns(job: Job, reps: int) -> Iterator[tuple[str, int]]:
    """(arm, rep) in random order within each round; the same order whenever the job is run."""
    names = [arm.name for arm in job.arms]
    for rep in range(reps):
        random.Random(f"{job.case.name} {job.point} {job.trial} {rep}").shuffle(names)
        yield from ((name, rep) for name in names)


def prepared(arm: Arm, problem: Problem) -> Call:
    """The arm's call; where it cannot be set up, one that raises what that raised."""
    try:
        return arm.make(problem)
    except Exception as error:
        failure = error

        def call() -> Tensor:
            raise failure

        return call


def timed(call: Call, device: torch.device) -> tuple[float, Tensor | SolveResult | Exception]:
    """Milliseconds of a call until the device is done with it, and its result, or what it raised."""
    outcome: Tensor | SolveResult | Exception
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missed tolerance is in the sample
        _wait(device)
        elapsed = _clock(device)
        try:
            outcome = call()
        except Exception as error:
            outcome = error
        return elapsed(), outcome


def _clock(device: torch.device) -> Callable[[], float]:
    """Milliseconds from now until the work asked for is done, by the device's own clock where it has one: how long the
    host takes to notice is no part of it."""
    if device.type != "cuda":
        start = time.perf_counter()
        return lambda: 1e3 * (time.perf_counter() - start)
    event: Any = torch.cuda.Event  # untyped in torch
    first, last = event(enable_timing=True), event(enable_timing=True)
    first.record()

    def elapsed() -> float:
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))

    return elapsed


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _warmed_up(call: Call, true: Tensor, settings: Settings) -> tuple[float | None, float]:
    """The true error, from the first call, and what the last warm-up call took."""
    ms, outcome = timed(call, settings.device)
    error = None if isinstance(outcome, Exception) else relative_error(_Z(outcome), true)
    for _ in range(settings.warmups - 1):
        ms, _ = timed(call, settings.device)
    return error, ms


def _Z(outcome: Tensor | SolveResult) -> Tensor:
    return outcome.Z if isinstance(outcome, SolveResult) else outcome


def sample(job: Job, settings: Settings, arm: str, rep: int, found: dict[str, Any]) -> Sample:
    """One timed call.

    Args:
        job: Of what.
        settings: How.
        arm: By whom.
        rep: In which round.
        found: The remaining fields: what was measured, and what the arm says of it.
    """
    case, point = job.case, job.point
    return Sample(
        case=case.name,
        problem=case.problem,
        p=case.p,
        n=point.n,
        m=point.m,
        k=point.k,
        batch=point.batch,
        kappa=point.kappa,
        dtype=settings.dtype_name,
        arm=arm,
        trial=job.trial,
        rep=rep,
        **found,
    )


def _account(outcome: Tensor | SolveResult | Exception, error: float | None) -> dict[str, Any]:
    """What the arm says of its own result."""
    if isinstance(outcome, Exception):
        status = f"failed: {type(outcome).__name__}: {outcome}".splitlines()[0]
        return {"error": None, "estimate": None, "status": status, "took": "", "products": {}}
    if not isinstance(outcome, SolveResult):
        return {"error": error, "estimate": None, "status": "done", "took": "", "products": {}}
    stats = outcome.stats
    return {
        "error": error,
        "estimate": float(stats.error.max()),
        "status": Status(int(stats.status_code.max())).name,
        "took": f"{stats.strategy}/{stats.precision}",
        "products": dict(stats.products),
    }

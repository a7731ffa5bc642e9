"""Two sides of a comparison: two sets of options, two arms, a rival, two commits; or a run that is over.

A side gives an iterator of samples for each problem, and every `next` makes one timed call. In each round the iterators
of A, of A again and of B take turns in random order, each with inputs and workspace of its own. What counts as a
difference, and how often falsely, is said in `_ab`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from rich.console import Console
from rich.progress import track

from iroot_solve.bench import _arms, _measure, _samples
from iroot_solve.bench._ab_table import AGAIN, SEPARATOR, comparisons, comparisons_unpaired, markdown
from iroot_solve.bench._arm import Arm
from iroot_solve.bench._cases import Case
from iroot_solve.bench._commits import workers, worktrees
from iroot_solve.bench._measure import Job, Settings
from iroot_solve.bench._options import BenchOptions
from iroot_solve.bench._samples import Sample

Measure = Callable[[Job, Settings], Iterator[Sample]]
Keep = Callable[[Sample], None]
Found = Generator[Sample, None, None]
DEFAULT_ARMS = ("auto",)
# Of two commits: the fewest whose signs can be no chance at 99 %.
TRIALS = 8


@dataclass(frozen=True)
class Side:
    """A, A again, or B.

    Attributes:
        label: In front of the names of its arms.
        settings: Of its calls.
        arms: Whose calls.
        measure: Gives the samples of a job with one arm; each `next` is one timed call.
    """

    label: str
    settings: Settings
    arms: tuple[Arm, ...]
    measure: Measure = _measure.measure

    def samples(self, job: Job, name: str) -> Iterator[Sample]:
        """Of the arm of this name, under the label of this side."""
        alone = replace(job, arms=tuple(arm for arm in job.arms if arm.name == name))
        samples = self.measure(alone, self.settings)
        return (replace(sample, arm=f"{self.label}{SEPARATOR}{name}") for sample in samples)


Sides = tuple[Side, Side, Side]


def run_ab(options: BenchOptions, keep: Keep) -> str:
    """Measure what the options compare.

    Args:
        options: With something to compare: extra arguments of a side, commits, or rows of an earlier run.
        keep: Gets every sample as soon as it is there.

    Returns:
        The comparison as Markdown.

    Raises:
        ValueError: Options that cannot be right, before anything is measured.
    """
    label_a, label_b = options.ab_label_a, options.ab_label_b
    if label_b in (label_a, label_a + AGAIN):
        raise ValueError(f"--ab-label-b: the sides need two names, not {label_a!r} and {label_b!r}")
    samples: list[Sample] = []

    def kept(found: Found) -> None:
        with closing(found):  # Ctrl-C ends processes and removes worktrees now, not when a garbage collector comes by
            for sample in found:
                samples.append(sample)
                keep(sample)

    if options.ab_baseline_rows_in:
        before = _baseline(options)
        known = {arm.name for arm in _arms.every_arm() if _arms.installed(arm)}
        b = _side(options, "b", tuple({sample.arm: None for sample in before if sample.arm in known}))
        kept(after(b, options.cases, options.trials))
        rows = comparisons_unpaired(before, samples, label_b, b.settings.tol)
        return f"# {label_b} against an earlier run\n\n{markdown(rows)}"
    a, b = _side(options, "a", DEFAULT_ARMS), _side(options, "b", DEFAULT_ARMS)
    sides = a, replace(a, label=a.label + AGAIN), b
    if not pairs(_names(a.arms), _names(b.arms), options.ab_match_on_method):
        raise ValueError("--ab-match-on-method: no arm is on both sides")
    kept(_of_commits(options, sides) if options.ab_commits else _in_process(options, sides))
    rows = comparisons(samples, label_a, label_b, max(a.settings.tol, b.settings.tol))
    asked = "; ".join(f"{name} is {_words(options, name)}" for name in "AB")
    return f"# {label_b} against {label_a}\n\n{asked}.\n\n{markdown(rows)}"


def interleaved(sides: Sides, cases: Sequence[Case], trial: int, match: bool) -> Found:
    """The samples of the problems of a trial that both sides answer, in rounds.

    Args:
        sides: A, A again and B.
        cases: Whose points.
        trial: Which.
        match: Arms of the same name only.

    Raises:
        ValueError: The arms of the two sides do not pair.
    """
    a, again, b = sides
    problems, words = _problems(a, b, cases, trial), f"comparing, trial {trial}"
    for job_a, job_b in track(problems, words, console=Console(stderr=True), transient=True):
        for name, others in pairs(_names(job_a.arms), _names(job_b.arms), match):
            calls = [side.samples(job_a, name) for side in (a, again)]
            calls += [b.samples(job_b, other) for other in others]
            rng = random.Random(f"{job_a.case.name} {job_a.point} {trial} {name}")
            yield from turns(calls, a.settings.reps, rng)


def turns(calls: Sequence[Iterator[Sample]], rounds: int, rng: random.Random) -> Iterator[Sample]:
    """One `next` of each in every round, in an order drawn anew for each: what the bound of false verdicts rests on."""
    order = list(calls)
    for _ in range(rounds):
        rng.shuffle(order)
        for call in order:
            yield next(call)


def after(b: Side, cases: Sequence[Case], trials: int) -> Found:
    """The samples of B alone, its arms in turns, to be compared with those of an earlier run."""
    jobs = _measure.jobs(cases, b.arms, trials, b.settings)
    for job in track(jobs, "measuring", console=Console(stderr=True), transient=True):
        for sample in b.measure(job, b.settings):
            yield replace(sample, arm=f"{b.label}{SEPARATOR}{sample.arm}")


def pairs(a: Sequence[str], b: Sequence[str], match: bool) -> list[tuple[str, list[str]]]:
    """Which arms of B are compared with an arm of A: that of its name, or all with the only one of A.

    Raises:
        ValueError: A has several and they are not to be matched.
    """
    if match:
        return [(name, [name]) for name in a if name in b]
    if len(a) > 1:
        raise ValueError(f"side A has the arms {', '.join(a)}: name one with --arms, or give --ab-match-on-method")
    return [(name, list(b)) for name in a if b]


def _in_process(options: BenchOptions, sides: Sides) -> Found:
    for trial in range(options.trials):
        yield from interleaved(sides, options.cases, trial, options.ab_match_on_method)


def _of_commits(options: BenchOptions, sides: Sides) -> Found:
    """Trials with processes of their own, enough of them for a verdict; they share the rounds that were asked for."""
    assert options.ab_commits is not None
    old, new = options.ab_commits
    others = [arm.name for side in sides for arm in side.arms if arm not in _arms.OWN]
    if others:
        raise ValueError(f"--ab-commits compares strategies of this library, and {others[0]!r} is none")
    trials = max(options.trials, TRIALS)
    reps = math.ceil(options.settings.reps / trials)
    with worktrees(old, new) as trees:
        for trial in range(trials):
            with workers(trees, (old, new), trial) as processes:
                a, again, b = (
                    replace(side, measure=process.measure, settings=replace(side.settings, reps=reps))
                    for side, process in zip(sides, processes, strict=True)
                )
                yield from interleaved((a, again, b), options.cases, trial, options.ab_match_on_method)


def _side(options: BenchOptions, name: str, arms: tuple[str, ...]) -> Side:
    """With these arms where the options name none."""
    own = options.with_extra(getattr(options, f"ab_extra_args_{name}"))
    chosen = own.chosen_arms if own.arms else _arms.choose(arms)
    return Side(getattr(options, f"ab_label_{name}"), own.settings, chosen)


def _baseline(options: BenchOptions) -> list[Sample]:
    path = options.ab_baseline_rows_in
    assert path is not None
    if options.ab_extra_args_a or options.ab_commits:
        raise ValueError("--ab-baseline-rows-in: side A is what was measured then; leave its options and commits out")
    return _samples.read(path)


def _problems(a: Side, b: Side, cases: Sequence[Case], trial: int) -> list[tuple[Job, Job]]:
    """The problems of a trial that both sides answer, as jobs of either."""
    of_a, of_b = (
        {
            (job.case.name, job.point): replace(job, trial=trial)
            for job in _measure.jobs(cases, side.arms, 1, side.settings)
        }
        for side in (a, b)
    )
    return [(job, of_b[key]) for key, job in of_a.items() if key in of_b]


def _names(arms: Iterable[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def _words(options: BenchOptions, name: str) -> str:
    """What a side is, as it was asked for."""
    label, extra = (getattr(options, f"ab_{key}_{name.lower()}") for key in ("label", "extra_args"))
    commit = options.ab_commits["AB".index(name)] if options.ab_commits else None
    asked = [f"commit {commit}"] * bool(commit) + [f"`{extra}`"] * bool(extra)
    return f"{label} ({', '.join(asked) or 'no options of its own'})"

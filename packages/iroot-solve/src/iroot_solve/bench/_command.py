"""`iroot bench`: measure the maintained matrix, or a part of it, and write what was found.

    iroot bench --only "SPD p=2 k<n" --markdown --out report.md --manifest-out manifest.json
    iroot bench --runs benchmark_results/runs --run-name matrix
    iroot bench --resume benchmark_results/runs/FOLDER
    iroot bench --ab-extra-args-a "--arms auto" --ab-extra-args-b "--arms cayley" --ab-out ab.md
    iroot bench report benchmark_results/runs/FOLDER

Without options it takes about 25 minutes on two cores. Nothing else should run on the machine. Ctrl-C ends a run early,
with exit status 130: what was measured is kept and reported.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from iroot_solve.bench import _arms, _cases, _manifest, _measure, _samples
from iroot_solve.bench._arm import Arm
from iroot_solve.bench._cases import Case
from iroot_solve.bench._options import RUN_OPTIONS, BenchOptions, add_arguments, flag
from iroot_solve.bench._run import MANIFEST, REPORT, SAMPLES, Run, begin, reopen, require_same_home, write_checksums

__all__ = ["BenchOptions", "add_options", "bench"]

INTERRUPTED = 130
# Where the output is not a terminal, nothing says how wide it is: wide enough for every table.
FILE_WIDTH = 150


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `iroot bench`, and `iroot bench report`.

    Args:
        parser: Of the subcommand, with `argument_default=argparse.SUPPRESS`.
    """
    add_arguments(parser)
    words = "make report, summary and plots of a run again, from its samples, instead of measuring"
    parser.add_argument("words", nargs="*", metavar="report RUN", help=words)
    parser.set_defaults(run=bench)


def bench(namespace: argparse.Namespace) -> int:
    """`iroot bench`, or `iroot bench report RUN`.

    Args:
        namespace: What was typed.

    Returns:
        The exit status.

    Raises:
        ValueError: What cannot be right.
    """
    words = getattr(namespace, "words", [])
    if words and (words[0] != "report" or len(words) != 2):
        raise ValueError(f"{shlex.join(words)!r} is not `report RUN`, with the folder of one run")
    return run_report(Path(words[1])) if words else run_bench(namespace)


def run_report(folder: Path) -> int:
    """Make report, summary and plots of a run again, and the index of the runs beside it."""
    from iroot_solve.bench import _map
    from iroot_solve.bench._index import rewrite
    from iroot_solve.bench._report import render

    if not (folder / MANIFEST).is_file():
        raise ValueError(f"report: {folder} holds no {MANIFEST}")
    if "map" in json.loads((folder / MANIFEST).read_text("utf-8")):
        _map.rewrite(folder)
    else:
        render(folder)
    rewrite(folder.resolve().parent)
    print(folder / REPORT)
    return 0


def run_bench(namespace: argparse.Namespace) -> int:
    """Measure, write and print.

    Returns:
        0, or 130 where Ctrl-C ended it early.
    """
    given = {field.name: getattr(namespace, field.name) for field in fields(BenchOptions) if field.name in namespace}
    options = BenchOptions(**given)
    if options.publish and (_manifest.dirty() or _manifest.commit() == _manifest.UNCOMMITTED):
        raise ValueError("--publish: the tree has changes that are not committed, or there is no commit")
    options, cases, arms, run = _resumed(options, given) if options.resume else _begun(options)
    complete = _compared(options, run) if options.compares else _measured(options, cases, arms, run)
    run.close(complete)
    if run.samples:
        _write(options, run)
    return 0 if complete else INTERRUPTED


Started = tuple[BenchOptions, Sequence[Case], Sequence[Arm], Run]


def _begun(options: BenchOptions) -> Started:
    """A new run of what the options select."""
    cases, settings = options.cases, options.settings
    arms: Sequence[Arm] = options.chosen_arms
    todo = _measure.jobs(cases, arms, options.trials, settings)
    if not todo:
        raise ValueError(f"no arm applies to any of these cases in {options.dtype}: {', '.join(c.name for c in cases)}")
    for extra in (options.ab_extra_args_a, options.ab_extra_args_b):
        options.with_extra(extra)  # what cannot be right is said before anything is written
    if not options.arms:
        _tell_missing()
    arms = [arm for arm in arms if any(arm in job.arms for job in todo)]
    run = begin(
        {
            "slug": options.run_name,
            "question": options.question or _question(options),
            "hypothesis": options.hypothesis,
            "command": options.command,
            **_manifest.describe(settings.device, [arm.needs for arm in arms if arm.needs]),
            "tol": settings.tol,
            "dtype": options.dtype,
            "cases": [case.name for case in cases if any(job.case is case for job in todo)],
            "arms": [arm.name for arm in arms],
            "trials": options.trials,
            "timing_reps": options.reps,
            "timing_warmup_reps": options.timing_warmup_reps,
            "ab": _sides(options),
        }
    )
    if options.runs:
        run.open(options.runs, settings.device)
    return options, cases, arms, run


def _resumed(options: BenchOptions, given: Iterable[str]) -> Started:
    """The run in a folder, with the settings that it was begun with."""
    assert options.resume is not None
    fixed = [name for name in given if name in RUN_OPTIONS]
    if fixed:
        raise ValueError(f"--resume: a run keeps its settings; leave {flag(fixed[0])} out")
    run = reopen(options.resume)
    manifest = run.manifest
    if manifest["ab"]:
        raise ValueError("--resume: a comparison of two sides cannot be resumed")
    kept = {name: manifest[name] for name in ("trials", "dtype", "tol", "timing_reps", "timing_warmup_reps")}
    options = replace(options, arms=tuple(manifest["arms"]), run_name=manifest["slug"], **kept)
    arms = options.chosen_arms
    needs = [arm.needs for arm in arms if arm.needs]
    require_same_home(manifest, _manifest.describe(options.settings.device, needs))
    return options, [_cases.named(name) for name in manifest["cases"]], arms, run


def _measured(options: BenchOptions, cases: Sequence[Case], arms: Sequence[Arm], run: Run) -> bool:
    """Measure what is missing; False where Ctrl-C ended it."""
    settings, done = options.settings, {_measure.key(sample) for sample in run.samples}
    todo = _measure.jobs(cases, arms, options.trials, settings)
    missing = [sum(key not in done for key in _measure.keys(job, settings.reps)) for job in todo]
    try:
        with _progress() as progress:
            bar = progress.add_task("", total=sum(missing))
            for number, job in enumerate(todo):
                progress.update(bar, description=f"{job.case.name}, n = {job.point.n}, κ = {job.point.kappa:.0e}")
                for sample in _measure.measure(job, settings, done):
                    run.keep(sample)
                    progress.advance(bar)
                progress.update(bar, completed=sum(missing[: number + 1]))
    except KeyboardInterrupt:
        return False
    return True


def _compared(options: BenchOptions, run: Run) -> bool:
    """Compare two sides; False where Ctrl-C ended it."""
    from iroot_solve.bench._compare import run_ab

    try:
        table = run_ab(options, run.keep)
    except KeyboardInterrupt:
        return False
    except ValueError:
        if run.folder and not run.samples:
            shutil.rmtree(run.folder)  # nothing was measured: the command can be corrected and given again
        raise
    finally:
        run.manifest["arms"] = list(dict.fromkeys(sample.arm for sample in run.samples))
        for name, counted in (("trials", "trial"), ("timing_reps", "rep")):
            run.manifest[name] = 1 + max((getattr(sample, counted) for sample in run.samples), default=0)
    if options.ab_out:
        options.ab_out.write_text(table, "utf-8")
    _print_markdown(table, options.markdown)
    return True


def _write(options: BenchOptions, run: Run) -> None:
    """Everything that was asked for outside the run's folder, and the index of the runs beside it."""
    from iroot_solve.bench._index import rewrite

    report = run.report()
    if not options.compares and (options.markdown or not (options.out or run.folder)):
        _print_markdown(report, options.markdown)
    written = [run.folder / SAMPLES, run.folder / REPORT] if run.folder else []
    manifest = run.folder / MANIFEST if run.folder else options.manifest_out
    if options.out:
        options.out.write_text(report, "utf-8")
        written.append(options.out)
    if options.baseline_rows_out:
        _samples.write(options.baseline_rows_out, run.samples)
        written.append(options.baseline_rows_out)
    if options.manifest_out:
        _manifest.write(options.manifest_out, run.manifest)
    if options.integrity_checksums and manifest:
        written.append(write_checksums(manifest, written))
    if run.folder:
        rewrite(run.folder.resolve().parent)
    for path in [*written, *([options.manifest_out] if options.manifest_out else [])]:
        print(f"written: {path}", file=sys.stderr)


def _tell_missing() -> None:
    missing = [f"{arm.name} ({arm.needs})" for arm in _arms.every_arm() if not _arms.installed(arm)]
    if missing:
        print(f"left out, their packages are not installed: {', '.join(missing)}", file=sys.stderr)


def _sides(options: BenchOptions) -> dict[str, str] | None:
    return {name: getattr(options, f"ab_{name}") for name in _manifest.AB} if options.compares else None


def _question(options: BenchOptions) -> str:
    if options.compares:
        return f"Is {options.ab_label_b} faster than {options.ab_label_a}?"
    return f"Which way is the fastest that meets the tolerance, on {options.only or 'the whole matrix'}?"


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _print_markdown(text: str, raw: bool) -> None:
    if raw:
        print(text)
    else:
        Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(Markdown(text))

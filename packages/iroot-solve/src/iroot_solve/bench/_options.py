"""The options of `iroot bench`: what may be typed, what it means, and what cannot be right."""

from __future__ import annotations

import argparse
import math
import re
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NoReturn

import torch

from iroot_solve._problem import TOLERANCES
from iroot_solve.bench import _arms, _cases
from iroot_solve.bench._ab import ROUNDS
from iroot_solve.bench._arm import Arm
from iroot_solve.bench._cases import Case
from iroot_solve.bench._measure import Settings

# What decides the samples of a run; a resumed one keeps it.
RUN_OPTIONS = (
    *("only", "arms", "trials", "dtype", "tol", "timing_reps", "timing_warmup_reps"),
    *("run_name", "question", "hypothesis"),
)
REPS = 5
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}


@dataclass(frozen=True)
class BenchOptions:
    """Every option of `iroot bench`, checked; the defaults are here and nowhere else.

    Attributes:
        only: Part of the names of the cases.
        arms: Names; none for all that are installed but the variants, which are for studies of a default.
        trials: Random problems at each point, with seeds from 0.
        dtype: Of the inputs.
        device: Where it runs.
        tol: Target of the relative error; by default that of the dtype.
        timing_reps: Timed calls of each arm at each problem; by default 5, and `_ab.ROUNDS` where two sides take turns
            (of two commits: all trials together).
        timing_warmup_reps: Calls before them; one is made in any case, for the error.
        timing_budget: Seconds for the timed calls of an arm at a problem; one is made in any case. A comparison of two
            sides has no such limit.
        run_name: Slug in the name of the run's folder.
        question: What the run is to answer, for the report.
        hypothesis: What is expected, for the report.
        markdown: Print the report as Markdown.
        out: Where the report goes.
        manifest_out: Where the manifest goes.
        runs: Folder that gets a whole run as a new folder.
        resume: Folder of a run to go on with.
        publish: Refuse to measure what no commit holds.
        baseline_rows_out: Where the samples go.
        integrity_checksums: Write CHECKSUMS beside the manifest.
        ab_baseline_rows_in: Samples of an earlier run to compare with, unpaired.
        ab_extra_args_a: Options of side A, as one string.
        ab_extra_args_b: Options of side B.
        ab_label_a: Name of side A.
        ab_label_b: Name of side B.
        ab_commits: Commits of the two sides.
        ab_match_on_method: Compare arms of the same name only.
        ab_out: Where the table of the comparison goes.
    """

    only: str = ""
    arms: tuple[str, ...] = ()
    trials: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    tol: float | None = None
    timing_reps: int | None = None
    timing_warmup_reps: int = 1
    timing_budget: float = 4.0
    run_name: str = "bench"
    question: str = ""
    hypothesis: str = ""
    markdown: bool = False
    out: Path | None = None
    manifest_out: Path | None = None
    runs: Path | None = None
    resume: Path | None = None
    publish: bool = False
    baseline_rows_out: Path | None = None
    integrity_checksums: bool = False
    ab_baseline_rows_in: Path | None = None
    ab_extra_args_a: str = ""
    ab_extra_args_b: str = ""
    ab_label_a: str = "A"
    ab_label_b: str = "B"
    ab_commits: list[str] | None = None
    ab_match_on_method: bool = False
    ab_out: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("timing_reps", 1), ("timing_warmup_reps", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{flag(name)} must be a whole number ≥ {least}, not {value}")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.tol is not None and not 1e-15 <= self.tol < 1:
            raise ValueError(f"--tol must be a number from 1e-15 up to 1, not {self.tol}")
        if not self.timing_budget > 0:
            raise ValueError(f"--timing-budget must be a number of seconds above 0, not {self.timing_budget}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", self.run_name):
            raise ValueError(f"--run-name must be letters, digits, dots and dashes, not {self.run_name!r}")
        _check_device(self.device)
        for name in ("out", "manifest_out", "baseline_rows_out", "ab_out"):
            path = getattr(self, name)
            if path is not None and not path.parent.is_dir():
                raise ValueError(f"{flag(name)}: there is no folder {path.parent}")
        if self.ab_baseline_rows_in and not self.ab_baseline_rows_in.is_file():
            raise ValueError(f"--ab-baseline-rows-in: there is no file {self.ab_baseline_rows_in}")
        if self.integrity_checksums and not (self.runs or self.resume or self.manifest_out):
            raise ValueError(
                "--integrity-checksums needs --runs, --resume or --manifest-out: they lie beside the manifest"
            )
        if self.runs and self.resume:
            raise ValueError("--resume goes on in its own folder: leave --runs out")
        if self.resume and self.compares:
            raise ValueError("--resume: a comparison of two sides cannot be resumed")

    @property
    def compares(self) -> bool:
        """Two sides, instead of arms beside one another."""
        return bool(self.ab_extra_args_a or self.ab_extra_args_b or self.ab_commits or self.ab_baseline_rows_in)

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that `only` selects."""
        return _cases.select(self.only)

    @property
    def chosen_arms(self) -> tuple[Arm, ...]:
        """The arms of these names, or all that are installed but the variants."""
        return _arms.choose(self.arms)

    @property
    def settings(self) -> Settings:
        """How everything is measured."""
        dtype = DTYPES[self.dtype]
        tol = TOLERANCES[dtype] if self.tol is None else self.tol
        budget_ms = math.inf if self.compares else 1e3 * self.timing_budget
        return Settings(dtype, torch.device(self.device), tol, self.reps, self.timing_warmup_reps, budget_ms)

    @property
    def command(self) -> str:
        """The command without the paths of what it writes, which say nothing about the run."""
        words = ["iroot", "bench"]
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and not isinstance(value, Path):
                words += [flag(field.name), *_words(value)]
        return shlex.join(words)

    @property
    def reps(self) -> int:
        """Timed calls of each arm at each problem."""
        rounds = ROUNDS if self.compares and not self.ab_baseline_rows_in else REPS
        return rounds if self.timing_reps is None else self.timing_reps

    def with_extra(self, words: str) -> BenchOptions:
        """These options with those of one side of a comparison over them.

        Args:
            words: As on a command line: "--arms auto --dtype float64".

        Raises:
            ValueError: One that is unknown or cannot be right.
        """
        parser = _ExtraParser(prog="", argument_default=argparse.SUPPRESS, add_help=False)
        _add_sided(parser)
        return replace(self, **vars(parser.parse_args(shlex.split(words))))


class _ExtraParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"extra arguments of a side: {message}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of them.

    Args:
        parser: With `argument_default=argparse.SUPPRESS`: defaults are those of `BenchOptions`.
    """
    _add_measured(parser)
    _add_written(parser)
    _add_compared(parser)


def _add_sided(parser: argparse.ArgumentParser) -> None:
    """What the two sides of a comparison may have each its own of."""
    parser.add_argument("--arms", type=_list, metavar="NAME,…", help="only these arms; default all but variants")
    parser.add_argument("--dtype", help=f"of the inputs: {', '.join(DTYPES)}; default float32")
    parser.add_argument("--device", help="where it runs, default cpu")
    parser.add_argument("--tol", type=float, help="target of the relative error, default that of the dtype")


def _add_measured(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="TEXT", help='only cases with this in their name: "SPD p=2 k<n"')
    _add_sided(parser)
    parser.add_argument("--trials", type=int, metavar="N", help="random problems at each point, default 1")
    parser.add_argument(
        "--timing-reps", type=int, metavar="N", help=f"timed calls of each arm, default {REPS}; {ROUNDS} for two sides"
    )
    parser.add_argument("--timing-warmup-reps", type=int, metavar="N", help="calls before them, default 1")
    parser.add_argument("--timing-budget", type=float, metavar="S", help="seconds for an arm's timed calls, default 4")


def _add_written(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-name", metavar="SLUG", help="in the name of the run's folder, default bench")
    parser.add_argument("--question", metavar="TEXT", help="what the run is to answer")
    parser.add_argument("--hypothesis", metavar="TEXT", help="what is expected")
    parser.add_argument("--markdown", action="store_true", help="print the report as Markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report")
    parser.add_argument("--manifest-out", type=Path, metavar="FILE", help="write the manifest")
    parser.add_argument("--baseline-rows-out", type=Path, metavar="FILE", help="write the samples")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="write a whole run, as a new folder in this one")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    parser.add_argument("--publish", action="store_true", help="refuse to measure with changes that are not committed")
    sums = "write the SHA-256 of samples, report and manifest to CHECKSUMS beside the manifest"
    parser.add_argument("--integrity-checksums", action="store_true", help=sums)


def _add_compared(parser: argparse.ArgumentParser) -> None:
    for side in "ab":
        extra = f'options of side {side.upper()}, in one string: "--arms auto --dtype float64"'
        parser.add_argument(f"--ab-extra-args-{side}", metavar="OPTIONS", help=extra)
        parser.add_argument(f"--ab-label-{side}", metavar="NAME", help=f"name of side {side.upper()}")
    parser.add_argument("--ab-commits", nargs=2, metavar=("OLD", "NEW"), help="compare two commits")
    parser.add_argument("--ab-match-on-method", action="store_true", help="compare arms of the same name only")
    parser.add_argument(
        "--ab-baseline-rows-in", type=Path, metavar="FILE", help="compare with an earlier run's samples"
    )
    parser.add_argument("--ab-out", type=Path, metavar="FILE", help="write the table of the comparison")


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be a torch device such as cpu or cuda:0, not {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device must be a CPU or a CUDA device, not {name!r}")
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise ValueError(f"--device: torch finds no {name}")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _words(value: object) -> list[str]:
    """The value of an option as it is typed; a flag has none."""
    if isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [",".join(value) if isinstance(value, tuple) else str(value)]


def _list(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)

"""`python -m iroot_solve.gallery`: solve the gallery, print the table, keep the run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from iroot_solve.bench._run import Run
from iroot_solve.gallery._cases import CASES, POWERS
from iroot_solve.gallery._record import start, write
from iroot_solve.gallery._survey import ARMS, Sample, survey
from iroot_solve.gallery._table import rich_table, verdict

WIDTH = 170


def main(argv: Sequence[str] | None = None) -> int:
    """Print the gallery; 1 where a converged result is wrong or a status is not the expected one."""
    options = _parser().parse_args(argv)
    cases = [case for case in CASES if options.only.lower() in case.label.lower()]
    if not cases:
        _parser().error(f"argument --only: no case has {options.only!r} in its label")
    run = _started(options)
    console = Console(width=max(WIDTH, Console().width))
    samples: list[Sample] = []
    for case in track(cases, description="gallery", console=Console(stderr=True), transient=True):
        samples += survey([case], tuple(options.p))
    for arm in ARMS:
        if any(sample.arm == arm for sample in samples):
            console.print(rich_table(samples, arm))
    console.print(verdict(samples))
    if run is not None:
        console.print(f"written to {write(run, samples).as_posix()}")
    return int(any(sample.surprising for sample in samples))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m iroot_solve.gallery", description="Hard spectra, solved and judged.")
    parser.add_argument("--out", type=Path, help="folder of runs, e.g. benchmark_results/runs; gets a new folder")
    parser.add_argument("--only", default="", help="only cases whose label (name, n=…, dtype) contains this")
    parser.add_argument("--p", type=int, nargs="+", default=list(POWERS), help="powers; default: 1 2 3 4 8")
    parser.add_argument("--slug", default="gallery", help="name of the run in its folder's name")
    return parser


def _started(options: argparse.Namespace) -> Run | None:
    """The run that is kept, where one is."""
    if options.out is None:
        return None
    try:
        return start(options.out, _command(options), options.slug, options.p)
    except ValueError as taken:
        _parser().error(f"argument --out: {taken}")


def _command(options: argparse.Namespace) -> str:
    """The command without the path of the output, which says nothing about the run."""
    only = f" --only {options.only!r}" if options.only else ""
    powers = "" if options.p == list(POWERS) else f" --p {' '.join(map(str, options.p))}"
    return f"python -m iroot_solve.gallery{only}{powers}"


if __name__ == "__main__":
    raise SystemExit(main())

"""The command `iroot`: `plan` (which schedule), `explain` (which strategy, and why), `bench` (how fast and how
accurate), `doctor` (with what).

    iroot plan --p 4 --kappa 1e6 --tol 1e-4
    iroot explain --n 2048 --k 16 --p 2 --kappa 1e3
    iroot bench --only "SPD p=2 k<n" --markdown
    iroot doctor [--calibrate]

Exit status 0; 1 where `doctor` finds versions that do not belong together; 2 for an argument that cannot be right,
with one line that names it; 130 where Ctrl-C ended a benchmark early.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NoReturn

import iroot_coeffs
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from iroot_solve import _calibrate, _doctor
from iroot_solve._choose import STRATEGIES
from iroot_solve._cost import cache_file
from iroot_solve._cost import table as calibration
from iroot_solve._explain import Explanation, explain
from iroot_solve._problem import TOLERANCES
from iroot_solve._task import MAX_KAPPA
from iroot_solve.bench import _command

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}
NUMBERS = ("step", "degree", "ε", "products", "time (ms)", "error")
EXTRA = ("--ab-extra-args-a", "--ab-extra-args-b")
# Where the output is not a terminal, nothing says how wide it is: wide enough for every table.
FILE_WIDTH = 120


class UsageError(Exception):
    """An argument that cannot be right, in one line."""


class _Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: error: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    try:
        options = _parser().parse_args(_join_values(sys.argv[1:] if argv is None else argv))
        return int(options.run(options))
    except UsageError as problem:
        print(problem, file=sys.stderr)
    except (ValueError, TypeError) as problem:
        print(f"iroot {options.command}: error: {problem}", file=sys.stderr)
    return 2


def _parser() -> _Parser:
    parser = _Parser(prog="iroot", description="Inverse p-th roots of matrices: plans, choices, and what they run on.")
    parser.add_argument("--version", action="version", version=f"iroot {_doctor.versions()['iroot-solve']}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{plan,explain,bench,doctor}")
    _add_plan(commands.add_parser("plan", help="the schedule with the fewest matrix products"))
    _add_explain(commands.add_parser("explain", help="the strategy that would be used, and why the others lose"))
    bench = commands.add_parser("bench", help="time and true error beside others", argument_default=argparse.SUPPRESS)
    _command.add_options(bench)
    doctor = commands.add_parser("doctor", help="versions, devices, flags, and which backend is used where")
    doctor.add_argument(
        "--calibrate", action="store_true", help="measure this machine, a minute or two, and go by that from now on"
    )
    doctor.set_defaults(run=run_doctor)
    return parser


def _add_power(parser: argparse.ArgumentParser) -> None:
    power = parser.add_mutually_exclusive_group()
    power.add_argument("--p", type=_count, metavar="P", help="A^(-1/P), default 2")
    power.add_argument("--exponent", type=_power, metavar="Q/S", help="another power, such as -2/3")


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_power(parser)
    parser.add_argument("--kappa", type=_kappa, required=True, help="largest over smallest eigenvalue")
    parser.add_argument("--tol", type=_tolerance, default=1e-3, help="relative error, default 1e-3")
    share = "columns of B over n; 1, the default, forms the root"
    parser.add_argument("--k-over-n", type=_share, default=1.0, metavar="R", help=share)
    parser.add_argument("--json", action="store_true", help="print the schedule as JSON")
    parser.set_defaults(run=run_plan)


def _add_explain(parser: argparse.ArgumentParser) -> None:
    _add_power(parser)
    parser.add_argument("--n", type=_count, required=True, help="size of the matrix")
    parser.add_argument("--k", type=_count, help="columns of B; k = n, the default, asks for the root itself")
    parser.add_argument("--kappa", type=_kappa, default=1e4, help="condition number to assume, default 1e4")
    parser.add_argument("--tol", type=_tolerance, help="relative error, default that of the dtype")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the inputs, default float32")
    parser.add_argument("--batch", type=_count, default=1, help="number of matrices, default 1")
    parser.add_argument("--device", type=_device, default="cpu", help="where it would run, default cpu")
    parser.set_defaults(run=run_explain)


def run_plan(options: argparse.Namespace) -> int:
    """Print the cheapest schedule, step by step."""
    p = options.exponent.denominator if options.exponent else options.p or 2
    schedule = iroot_coeffs.plan(
        p, kappa=options.kappa, tol=options.tol, k_over_n=options.k_over_n, exponent=options.exponent
    )
    if options.json:
        print(schedule.to_json())
        return 0
    share = options.k_over_n if options.k_over_n < 1 else None
    steps = _table("step", "degree", "interval", "ε", "products")
    for i, step in enumerate(schedule):
        products = f"{schedule.products_of(i, share):.3g}"
        steps.add_row(str(i + 1), str(step.degree), f"[{step.lo:.3e}, {step.hi:.3e}]", f"{step.error:.2e}", products)
    form = "root form" if share is None else f"acting on B with k/n = {share:g}"
    if share is not None and schedule.terminal_is_skinny(share):
        form += ", last step by products with B only"
    total = f"{schedule.products(share):.4g} products n×n×n ({form}); error ≤ {schedule.final_error:.2e}"
    _show(_console(), str(schedule), steps, total)
    return 0


def run_explain(options: argparse.Namespace) -> int:
    """Print every way that applies, with predicted time and error, and why it is taken or not."""
    explanation = explain(
        options.n,
        options.k or options.n,
        options.p or 2,
        options.kappa,
        options.tol,
        options.device,
        DTYPES[options.dtype],
        options.batch,
        exponent=options.exponent,
    )
    task = explanation.task
    shapes = f"n = {task.n}, " + ("the root itself" if task.root else f"k = {task.k}") + f", batch {task.batch}"
    title = f"A^({task.exponent}), {shapes}, κ = {explanation.kappa:.3g}, tol = {task.tol:g}, {explanation.device}"
    known = {candidate.strategy for candidate in explanation.candidates} | {"auto"}
    absent = ", ".join(name for name in STRATEGIES if name not in known)
    source = f"times as predicted from the calibration of a CPU ({calibration()['machine']})"
    _show(_console(), title, _candidates(explanation), (f"does not apply: {absent}; " if absent else "") + source)
    return 0


def _candidates(explanation: Explanation) -> Table:
    rows = _table("strategy", "precision", "products", "time (ms)", "error", "why")
    for candidate in explanation.candidates:
        rows.add_row(
            candidate.strategy,
            candidate.precision,
            f"{candidate.products:.1f}" if candidate.schedule else "–",
            f"{candidate.milliseconds:.3g}",
            f"{candidate.error:.1e}",
            explanation.reason(candidate),
            style="bold green" if candidate == explanation.chosen else None,
        )
    return rows


def run_doctor(options: argparse.Namespace) -> int:
    """Print what is installed, what it runs on, and what follows from the settings."""
    console = _console()
    if options.calibrate:
        _calibrate.store(_calibrate.measure(lambda sizes: track(sizes, "calibrating", console=console)), cache_file())
        calibration.cache_clear()
    advice = "" if _doctor.lockstep() else "the four iroot wheels must have one version: install them together"
    _show(console, "versions", _pairs(_doctor.versions()), advice)
    _show(console, "machine", _pairs(_doctor.machine()))
    _show(console, "global settings, read and never set", _pairs(_doctor.settings()))
    backends = _table("device", "backend", "why")
    for row in _doctor.backends():
        backends.add_row(*row)
    _show(console, "backends", backends)
    _show(console, "calibration that strategy='auto' goes by", _pairs(_doctor.calibration()))
    return 1 if advice else 0


def _pairs(pairs: dict[str, str]) -> Table:
    rows = _table("", "")
    rows.show_header = False
    for name, value in pairs.items():
        rows.add_row(name, value)
    return rows


def _table(*columns: str) -> Table:
    rows = Table()
    for name in columns:
        rows.add_column(name, justify="right" if name in NUMBERS else "left")
    return rows


def _show(console: Console, title: str, rows: Table, note: str = "") -> None:
    console.print(title, style="bold")
    console.print(rows)
    console.print(*[note] if note else [])


def _console() -> Console:
    width = None if sys.stdout.isatty() else FILE_WIDTH
    return Console(width=width, markup=False, highlight=False)


def _join_values(argv: Sequence[str]) -> list[str]:
    """`--exponent -2/3` as `--exponent=-2/3`: argparse takes what begins with a dash for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and (joined[-1] in EXTRA or (joined[-1] == "--exponent" and not word.startswith("--"))):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _number(text: str, fine: Callable[[float], bool], what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fine(value):
        raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}")
    return value


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number ≥ 1, not {text!r}")
    return int(text)


def _kappa(text: str) -> float:
    return _number(text, lambda value: 1 <= value <= MAX_KAPPA, f"a number from 1 to {MAX_KAPPA:g}")


def _tolerance(text: str) -> float:
    return _number(text, lambda value: 1e-15 <= value < 1, "a number from 1e-15 up to 1")


def _share(text: str) -> float:
    return _number(text, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def _power(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value == 0 or value >= 1:
        raise argparse.ArgumentTypeError(f"must be a fraction such as -2/3, negative or in (0, 1), not {text!r}")
    return value


def _device(text: str) -> str:
    try:
        return str(torch.device(text))
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"must be a torch device such as cpu or cuda:0, not {text!r}") from None


if __name__ == "__main__":
    sys.exit(main())

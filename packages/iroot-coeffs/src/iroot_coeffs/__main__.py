"""`python -m iroot_coeffs plan --p 4 --kappa 1e6 --tol 1e-4`: prints the plan, step by step."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction

from ._planner import plan
from ._schedule import Schedule


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="iroot_coeffs", description="Schedules for inverse p-th roots.")
    commands = parser.add_subparsers(dest="command", required=True)
    planning = commands.add_parser("plan", help="the cheapest schedule")
    planning.add_argument("--p", type=int, required=True, help="order of the root")
    planning.add_argument("--kappa", type=float, required=True, help="largest over smallest eigenvalue")
    planning.add_argument("--tol", type=float, default=1e-3, help="relative error (default 1e-3)")
    planning.add_argument("--k-over-n", type=float, default=1.0, help="columns of B over n (default 1: form the root)")
    planning.add_argument("--exponent", type=Fraction, help="another power, such as -3/4")
    planning.add_argument("--json", action="store_true", help="print the schedule as JSON")
    return parser


def table(schedule: Schedule, k_over_n: float | None) -> str:
    """The schedule as lines: one per step, then the sum."""
    lines = [str(schedule), "", f"{'step':>4}  {'degree':>6}  {'interval':^23}  {'ε':^9}  {'products':>8}"]
    for i, step in enumerate(schedule):
        interval = f"[{step.lo:.3e}, {step.hi:.3e}]"
        cost = schedule.products_of(i, k_over_n)
        lines.append(f"{i + 1:>4}  {step.degree:>6}  {interval:^23}  {step.error:^9.2e}  {cost:>8.3g}")
    form = "root form" if k_over_n is None else f"acting on B, k/n = {k_over_n:g}"
    if k_over_n is not None and schedule.terminal_is_skinny(k_over_n):
        form += ", last step by skinny products"
    lines += ["", f"{schedule.products(k_over_n):.4g} products ({form}); error ≤ {schedule.final_error:.3e}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for arguments that make no plan."""
    options = _parser().parse_args(arguments)
    try:
        schedule = plan(
            options.p,
            kappa=options.kappa,
            tol=options.tol,
            k_over_n=options.k_over_n,
            exponent=options.exponent,
        )
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 2
    acting = options.k_over_n if options.k_over_n < 1 else None
    print(schedule.to_json() if options.json else table(schedule, acting))
    return 0


if __name__ == "__main__":
    sys.exit(main())

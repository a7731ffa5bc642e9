"""The map of strategies: `auto` against every routine, over n × k/n × κ × p × batch; leaves a run folder.

    python packages/iroot-solve/benchmarks/strategy_map.py --out benchmark_results/runs [--device cuda] [--n 64,256]
    iroot bench report benchmark_results/runs/FOLDER

Arms: `auto`, every own strategy by name that applies, eigh and (p = 1) Cholesky of torch in float32 and float64. Inputs
are float32, tol is 1e-4, truth is eigh in float64 on the same device. A call is timed as a user waits for it: with the
workspace of the call before, which on a GPU has recorded it, until the device is done. First calls show what an arm can
do. `auto` and those within tol that are not 5 × slower than the best then take turns in random order, `--seconds` for a
cell. An own strategy is held against the best own one, so that the choice of `auto` can be judged where torch alone is
out of reach.

What the samples come to is in `iroot_solve.bench._map`. Nothing else should run on the machine.
"""

import argparse
import math
import random
import time
import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from pathlib import Path

import torch
from iroot_kernels import symmetric_products
from iroot_solve import IrootError, SolveResult, solve_spd
from iroot_solve._choose import choose
from iroot_solve._cost import cholesky_ms, eigh_ms
from iroot_solve._repeats import RECORDED_FROM
from iroot_solve._task import Task
from iroot_solve.bench import _manifest, _map
from iroot_solve.bench._rows import AUTO
from iroot_solve.bench._run import SAMPLES, begin
from rich.progress import track

SIZES = {
    "cpu": {64: (None, 32, 256), 256: (None, 32), 1024: (None,), 2048: (None,)},
    "cuda": {64: (None, 32, 1024), 256: (None, 32), 1024: (None, 8), 2048: (None,), 4096: (None,)},
}
# What torch does with the numbers as they are passed; all others are the library's own.
TORCH = ("cholesky32", "cholesky64", "eigh32", "eigh64")
KAPPAS, POWERS, TOL = (1e1, 1e3, 1e5), (1, 2, 4), 1e-4
LEAST_ROUNDS, MOST_ROUNDS = 3, 60
# An arm that is so much slower than the best is no winner, whatever the noise.
SLOW = 5.0
# The tables of costs are not that wrong; what they say of a Krylov space of n columns is an hour.
HOPELESS = 20.0
# A first call may compile and allocate: where it is that much slower than predicted, in units of how much slower than
# predicted `auto` is on this machine, there is a second one.
SURPRISE = 2.0
QUESTION = "Which strategy wins where, and where is auto within 1.10 × the fastest arm that meets tol = 1e-4?"


def columns(n, device):
    """The numbers of columns of B."""
    ks = (1, n // 16, n) if device.type == "cuda" else (1, 16, n)
    return sorted({k for k in ks if 1 <= k <= n})


@dataclass
class Matrix:
    """Log-spaced spectrum in [1/κ, 1], dense random eigenbases, float32; and what truth is made of, once for all B."""

    n: int
    batch: int | None
    kappa: float
    device: torch.device

    def __post_init__(self):
        shape, exact = (*([self.batch] if self.batch else []), self.n, self.n), {"dtype": torch.float64}
        made = {"generator": torch.Generator(self.device).manual_seed(0), "device": self.device, **exact}
        Q = torch.linalg.qr(torch.randn(*shape, **made)).Q
        A = (Q * torch.logspace(0, -math.log10(self.kappa), self.n, device=self.device, **exact)) @ Q.mT
        self.A = ((A + A.mT) / 2).float()
        self.values, self.V = torch.linalg.eigh(self.A.double())

    def columns(self, k):
        made = {"generator": torch.Generator(self.device).manual_seed(1), "device": self.device}
        return torch.randn(*self.A.shape[:-1], k, **made)

    def truth(self, B, p):
        return (self.V * self.values.unsqueeze(-2) ** (-1 / p)) @ (self.V.mT @ B.double())


def by_eigh(A, B, p, dtype):
    values, V = torch.linalg.eigh(A.to(dtype))
    return ((V * values.unsqueeze(-2) ** (-1 / p)) @ (V.mT @ B.to(dtype))).to(A.dtype)


def by_cholesky(A, B, dtype):
    return torch.cholesky_solve(B.to(dtype), torch.linalg.cholesky(A.to(dtype))).to(A.dtype)


def by_library(A, B, p, strategy):
    workspace = None

    def call():
        nonlocal workspace
        try:
            result = solve_spd(A, B, p_val=p, tol=TOL, strategy=strategy, workspace=workspace, on_failure="warn")
        except IrootError as error:
            result = error.result
            if result is None:
                raise
        workspace = result.workspace
        return result

    return call


def arms(A, B, p, task):
    """Name ↦ call: `auto`, then those that take what is passed, then the own strategies."""
    found = {AUTO: by_library(A, B, p, AUTO)}
    for bits, dtype in ((32, torch.float32), (64, torch.float64)):
        if p == 1:
            found[f"cholesky{bits}"] = lambda dtype=dtype: by_cholesky(A, B, dtype)
        found[f"eigh{bits}"] = lambda dtype=dtype: by_eigh(A, B, p, dtype)
    return found | {name: by_library(A, B, p, name) for name in task.strategies}


def predictions(task, kappa, names):
    """Milliseconds by the tables of costs, by name of the arm."""
    found, shape = {}, (task.n, task.k, task.batch)
    for name in names:
        if name in TORCH:
            model = eigh_ms if name.startswith("eigh") else cholesky_ms
            found[name] = model(*shape, int(name[-2:]), task.device)
        else:
            found[name] = choose(task, 1 / kappa, 1.0, name).milliseconds
    return {name: round(ms, 4) for name, ms in found.items()}


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call, device):
    """Milliseconds until a user has the answer, and the answer."""
    wait(device)
    start = time.perf_counter()
    outcome = call()
    wait(device)
    return 1e3 * (time.perf_counter() - start), outcome


@dataclass
class Found:
    """What the arms of a cell did so far."""

    device: torch.device
    truth: torch.Tensor
    predicted: dict
    first: dict = field(default_factory=dict)
    errors: dict = field(default_factory=dict)
    stats: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    left_out: list = field(default_factory=list)

    def best(self, name):
        """The shortest first time within tol: of the own strategies, `auto` included, for one of them; else of all."""
        able = [other for other in self.first if self.within(other)]
        own = [other for other in able if other not in TORCH]
        return min((self.first[other] for other in (own if own and name not in TORCH else able)), default=math.inf)

    def within(self, name):
        return self.errors.get(name) is not None and self.errors[name] <= TOL

    def worth(self, name):
        """Whether more than its first time is of interest."""
        return name == AUTO or (self.within(name) and self.first[name] <= SLOW * self.best(name))

    def look(self, name, call):
        """The first call of an arm, or two, unless there is no hope."""
        if name not in (AUTO, *TORCH) and self.predicted[name] > HOPELESS * self.best(name):
            self.left_out.append(name)
        else:
            self.guarded(name, lambda: self._look(name, call))

    def _look(self, name, call):
        ms, outcome = timed(call, self.device)
        slower = max(1.0, self.first.get(AUTO, 0.0) / self.predicted[AUTO])
        if ms > SLOW * self.best(name) and ms > SURPRISE * slower * self.predicted[name]:
            again, outcome = timed(call, self.device)
            ms = min(ms, again)
        if isinstance(outcome, SolveResult):
            self.stats[name] = outcome.stats
        Z = (outcome.Z if isinstance(outcome, SolveResult) else outcome).double()
        norms = (torch.linalg.matrix_norm(V) for V in (Z - self.truth, self.truth))
        error = float(torch.div(*norms).max())
        self.errors[name] = error if math.isfinite(error) else None
        self.first[name] = ms

    def learnt(self, name, call):
        """Calls before the clock, those that a workspace on a GPU learns from and the one it records; errors, and what
        is said of the way, are of the last."""
        count = RECORDED_FROM + 1 if self.device.type == "cuda" and name not in TORCH else 0
        return all(self.guarded(name, lambda: self._look(name, call)) for _ in range(count))

    def guarded(self, name, work):
        """Whether it went well: an arm that raises is one that does not meet tol, and stops nothing."""
        try:
            work()
            return True
        except Exception as error:
            self.failed[name] = (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:200]
            self.errors[name] = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # it may have been the memory
        return False

    def took(self, name):
        stats = self.stats.get(name)
        return f"{stats.strategy}/{stats.precision}" if stats else ""


def rounds(calls, found, seconds):
    """Arm ↦ all its times: the arms in random order, again and again, until the time is over."""
    worth = [name for name in found.first if found.worth(name) and found.learnt(name, calls[name])]
    times, rng, stop = {name: [] for name in worth}, random.Random(0), time.perf_counter() + seconds

    def one(name):
        times[name].append(round(timed(calls[name], found.device)[0], 4))

    for count in range(MOST_ROUNDS):
        if count >= LEAST_ROUNDS and time.perf_counter() > stop:
            break
        rng.shuffle(worth)
        worth = [name for name in worth if found.guarded(name, lambda name=name: one(name))]
    return times


def cell(matrix, k, p, seconds):
    """All arms on one problem."""
    B, n, kappa, device = matrix.columns(k), matrix.n, matrix.kappa, matrix.device
    symmetric = symmetric_products(device)
    task = Task(n, k, matrix.batch or 1, Fraction(-1, p), TOL, False, device=device.type, symmetric=symmetric)
    calls = arms(matrix.A, B, p, task)
    predicted = predictions(task, kappa, calls)
    found = Found(device, matrix.truth(B, p), predicted)
    for name in (AUTO, *calls):  # twice, for a time without the planning, which all others are held against
        found.look(name, calls[name])
    times = rounds(calls, found, seconds)
    skipped = [name for name in found.first if name not in times]
    auto = found.stats.get(AUTO)
    return _map.Cell(
        n=n, batch=matrix.batch, k=k, p=p, kappa=kappa, took=found.took(AUTO), tol=TOL,
        estimate=float(auto.error.max()) if auto else None, errors=found.errors,
        ms={name: times.get(name) or [round(ms, 4)] for name, ms in found.first.items()},
        skipped=skipped, ran={name: found.took(name) for name in found.stats if name != AUTO},
        failed=found.failed, predicted=predicted, left_out=found.left_out,
    )  # fmt: skip


def measure(problems, path, device, seconds):
    """Append a line for each cell, as soon as it is there; a matrix serves all k and p."""
    with open(path, "a", encoding="utf-8", newline="\n") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a missed tolerance is in the sample
        for n, batch, kappa in track(problems):
            matrix = Matrix(n, batch, kappa, device)
            for k, p in product(columns(n, device), POWERS):
                file.write(_map.line(cell(matrix, k, p, seconds)))
                file.flush()


def begun(options, device, sizes, cells):
    """The run, with its folder."""
    asked = {"slug": options.run_name, "question": options.question, "hypothesis": options.hypothesis}
    command = f"strategy_map.py --device {device} --n {','.join(map(str, sizes))} --seconds {options.seconds}"
    limits = {"cells": cells, "slow": SLOW, "hopeless": HOPELESS}
    run = begin({**asked, "command": command, **_manifest.describe(device), "powers": list(POWERS), "map": limits})
    run.open(options.out, device, "choose another --run-name")
    return run


def read_options(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of runs; gets a new folder")
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--n", help="sizes, with commas; default: those of the device's grid")
    parser.add_argument("--seconds", type=float, default=0.3, help="for the rounds of a cell; at least three")
    parser.add_argument("--run-name", default="strategy-map", help="in the name of the run's folder")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--hypothesis", default="", help="what is expected")
    return parser.parse_args(argv)


def main(argv=None):
    options = read_options(argv)
    device = torch.device(options.device)
    grid = SIZES[options.device]
    sizes = [int(n) for n in options.n.split(",")] if options.n else list(grid)
    problems = [(n, batch, kappa) for n in sizes for batch in grid.get(n, (None,)) for kappa in KAPPAS]
    run = begun(options, device, sizes, sum(len(columns(n, device)) * len(POWERS) for n, _, _ in problems))
    measure(problems, run.folder / SAMPLES, device, options.seconds)
    run.finish(_map.render(run.folder))
    print(run.folder)


if __name__ == "__main__":
    main()

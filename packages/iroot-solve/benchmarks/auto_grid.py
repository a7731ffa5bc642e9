"""`auto` against every routine that meets the tolerance, over a grid of problems; leaves a run folder.

    python packages/iroot-solve/benchmarks/auto_grid.py --out benchmark_results/runs [--n 64,256] [--seconds 0.3]

Arms of a cell take turns in random order in one process; a cell holds all times of each in milliseconds, beside its
true error against float64 eigh. A cell is met where the median of `auto` is at most 1.05 times that of the best arm
that meets tol, plus 0.3 ms. Nothing else should run on the machine.
"""

import argparse
import json
import random
import statistics
import time
import warnings
from itertools import product
from pathlib import Path

import torch
from iroot_solve import IrootError, StagnationWarning, solve_spd
from iroot_solve.bench import _manifest
from iroot_solve.bench._run import SAMPLES, begin
from rich.progress import track

SIZES = {64: (None, 32, 256), 256: (None, 32), 1024: (None,), 2048: (None,)}
KAPPAS, POWERS, TOL, ROUNDS = (1e1, 1e3, 1e5), (1, 2, 4), 1e-4, 4
CPU = torch.device("cpu")
QUESTION = "Where is auto within 1.05 × the best routine that meets tol = 1e-4, plus 0.3 ms?"


def matrix(n, kappa, batch):
    """Log-spaced spectrum in [1/κ, 1], dense random eigenbases, float32."""
    shape = (n, n) if batch is None else (batch, n, n)
    Q = torch.linalg.qr(torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    A = (Q * torch.logspace(0, -torch.tensor(kappa).log10(), n, dtype=torch.float64)) @ Q.mT
    return ((A + A.mT) / 2).float()


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
            result = solve_spd(A, B, p_val=p, strategy=strategy, workspace=workspace, on_failure="warn")
        except IrootError as error:
            result = error.result
        workspace = result.workspace
        return result

    return call


def arms(A, B, p, kappa):
    """Name ↦ call; a series where it may be the best."""
    found = {"auto": by_library(A, B, p, "auto")}
    for bits, dtype in ((32, torch.float32), (64, torch.float64)):
        found[f"eigh{bits}"] = lambda dtype=dtype: by_eigh(A, B, p, dtype)
        if p == 1:
            found[f"cholesky{bits}"] = lambda dtype=dtype: by_cholesky(A, B, dtype)
    n, k = B.shape[-2:]
    own = ["materialize-root"] if A.ndim == 3 else []
    if A.ndim == 2 and k < n and kappa < 1e5:
        own += ["cayley", *(["chebyshev"] if n > 256 else [])]
    return found | {name: by_library(A, B, p, name) for name in own}


def cell(n, batch, k, p, kappa, seconds):
    A = matrix(n, kappa, batch)
    B = torch.randn(*A.shape[:-1], k, generator=torch.Generator().manual_seed(1))
    values, V = torch.linalg.eigh(A.double())
    truth = (V * values.unsqueeze(-2) ** (-1 / p)) @ (V.mT @ B.double())
    calls, times, errors, rng = arms(A, B, p, kappa), {}, {}, random.Random(0)
    stats = calls["auto"]().stats
    for name, call in calls.items():
        call()
        Z = call()
        Z = (Z if isinstance(Z, torch.Tensor) else Z.Z).double()
        errors[name] = float((torch.linalg.matrix_norm(Z - truth) / torch.linalg.matrix_norm(truth)).max())
        times[name] = []
    stop, order = time.perf_counter() + seconds * len(calls), list(calls)
    while time.perf_counter() < stop or min(map(len, times.values())) < ROUNDS:
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            calls[name]()
            times[name].append(round(1e3 * (time.perf_counter() - start), 4))
    return {
        "n": n, "batch": batch, "k": k, "p": p, "kappa": kappa, "took": f"{stats.strategy}/{stats.precision}",
        "estimate": float(stats.error.max()), "errors": errors, "ms": times,
    }  # fmt: skip


def judged(c):
    """A cell with medians for times, and what auto has to be within."""
    ms = {name: statistics.median(found) for name, found in c["ms"].items()}
    best = min((name for name in ms if name != "auto" and c["errors"][name] <= TOL), key=ms.get)
    limit = 1.05 * ms[best] + 0.3
    return {**c, "ms": ms, "best": best, "limit": limit, "ratio": ms["auto"] / limit}


HEAD = "n batch k p κ auto,ms took error best best,ms limit auto/limit".split()


def report(cells, facts):
    cells = [judged(c) for c in cells]
    met, near = (sum(c["ratio"] <= limit for c in cells) for limit in (1.0, 1.3 / 1.05))
    where = f"{facts['device_name']}, {facts['threads']} threads, torch {facts['versions']['torch']}"
    lines = [
        "# `auto` against the best routine that meets tol = 1e-4",
        "",
        f"{where}, commit {facts['commit']}.",
        f"{met} of {len(cells)} cells within 1.05 × best + 0.3 ms, {near} within 1.3 ×.",
        "",
        "| " + " | ".join(HEAD).replace(",", " ") + " |",
        "| --- " * len(HEAD) + "|",
    ]
    for c in cells:
        ms, error = c["ms"], c["errors"]["auto"]
        row = [c["n"], c["batch"] or "–", c["k"], c["p"], f"{c['kappa']:.0e}", f"{ms['auto']:.2f}", c["took"]]
        row += [f"{error:.1e}", c["best"], f"{ms[c['best']]:.2f}", f"{c['limit']:.2f}", f"{c['ratio']:.2f}"]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", default=",".join(map(str, SIZES)))
    parser.add_argument("--seconds", type=float, default=0.08, help="for each arm of a cell")
    parser.add_argument("--run-name", default="auto-grid", help="in the name of the run's folder")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--hypothesis", default="", help="what is expected")
    options = parser.parse_args()
    warnings.simplefilter("ignore", StagnationWarning)
    asked = {"slug": options.run_name, "question": options.question, "hypothesis": options.hypothesis}
    command = f"auto_grid.py --n {options.n} --seconds {options.seconds}"
    run = begin({**asked, "command": command, **_manifest.describe(CPU), "powers": POWERS})
    run.open(options.out, CPU, "choose another --run-name")
    sizes = [int(n) for n in options.n.split(",")]
    problems = [
        (n, b, k, p, kappa) for n in sizes for b in SIZES[n] for k, p, kappa in product((1, 16, n), POWERS, KAPPAS)
    ]
    cells = [cell(*problem, options.seconds) for problem in track(problems)]
    (run.folder / SAMPLES).write_text("".join(json.dumps(c, allow_nan=False) + "\n" for c in cells), "utf-8")
    run.finish(report(cells, run.manifest))
    print(run.folder)


if __name__ == "__main__":
    main()

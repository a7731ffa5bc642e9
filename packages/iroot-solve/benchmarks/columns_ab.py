"""Two questions about A^(-1/2)·B on a CPU, k = 16: partial fractions, and a formed inverse; leaves a run folder.

    python packages/iroot-solve/benchmarks/columns_ab.py --out benchmark_results/runs

Partial fractions: x^(-1/2) = Σ w_j/(x + t_j) by the trapezoidal rule in a conformal map (Hale, Higham, Trefethen 2008,
method 3), one Cholesky factorisation for each of N ≈ (log κ + 3)·log(1/tol)/(2π²) poles. Formed inverse: the terms of
the Cayley series multiply by (A + σI)⁻¹, formed once, instead of solving with two triangles. The others are `cayley`,
`auto` and eigh. Medians in milliseconds, arms in random order, errors against float64.
"""

import argparse
import json
import math
import random
import statistics
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch
from iroot_kernels import Workspace, cayley_coefficients
from iroot_kernels._series import series_apply
from iroot_solve import solve_spd
from iroot_solve.bench import _manifest
from iroot_solve.bench._run import SAMPLES, begin
from scipy.special import ellipj, ellipk

TOL = 2.5e-5
CPU = torch.device("cpu")


def poles(kappa):
    """The fewest (t_j, w_j) for x^(-1/2) on [1/κ, 1] to TOL, on a grid."""
    x, K = np.geomspace(1 / kappa, 1, 400), ellipk(1 - 1 / kappa)
    for N in count(1):
        sn, cn, dn, _ = ellipj((np.arange(N) + 0.5) * K / N, 1 - 1 / kappa)
        t, w = (sn / cn) ** 2 / kappa, 2 * K / (math.pi * N * math.sqrt(kappa)) * dn / cn**2
        if np.abs((w / (x[:, None] + t)).sum(-1) * np.sqrt(x) - 1).max() <= TOL:
            return list(zip(t.tolist(), w.tolist(), strict=True))


def partial_fractions(A, B, kappa):
    Z, eye = torch.zeros_like(B), torch.eye(A.shape[-1], dtype=A.dtype)
    for shift, weight in poles(kappa):
        Z.add_(torch.cholesky_solve(B, torch.linalg.cholesky(A + shift * eye)), alpha=weight)
    return Z


def cayley_by_solves(A, B, kappa):
    low, high = 1 / kappa, 1.05
    sigma, a = math.sqrt(low * high), (math.sqrt(high / low) - 1) / (math.sqrt(high / low) + 1)
    L = torch.linalg.cholesky(A + sigma * torch.eye(A.shape[-1], dtype=A.dtype))

    def double(V, U, part, c, factor=2.0):
        U.neg_().add_(V, alpha=factor / a).add_(torch.cholesky_solve(V[0], L)[None], alpha=-2 * factor * sigma / a)
        part.add_(U, alpha=c)

    c = cayley_coefficients(-0.5, high / low, 1e-9)
    return series_apply(double, B[None], c, tol=TOL, ws=Workspace(), block=4).Z[0] / math.sqrt(sigma)


def by_eigh(A, B):
    values, V = torch.linalg.eigh(A)
    return (V * values.rsqrt()) @ (V.mT @ B)


def cell(n, kappa, dtype, rounds):
    Q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    values = torch.logspace(0, -math.log10(kappa), n, dtype=torch.float64)
    A = (Q * values) @ Q.mT
    A = ((A + A.mT) / 2).float()
    B = torch.randn(n, 16, generator=torch.Generator().manual_seed(1))
    truth = by_eigh(A.double(), B.double())
    wide_A, wide_B = A.to(dtype), B.to(dtype)
    arms = {
        "partial fractions": lambda: partial_fractions(wide_A, wide_B, 1.3 * kappa),
        "cayley by solves": lambda: cayley_by_solves(wide_A, wide_B, 1.3 * kappa),
        "eigh": lambda: by_eigh(wide_A, wide_B),
        **{name: lambda name=name: solve_spd(A, B, strategy=name, on_failure="nan").Z for name in ("cayley", "auto")},
    }
    ms, errors = {name: [] for name in arms}, {}
    for name, call in arms.items():
        errors[name] = float(torch.dist(call().double(), truth) / truth.norm())
    rng, order = random.Random(0), list(arms)
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            arms[name]()
            ms[name].append(1e3 * (time.perf_counter() - start))
    return {"n": n, "kappa": kappa, "dtype": str(dtype), "samples": ms, "errors": errors, "poles": len(poles(kappa))}


def report(cells, facts):
    names = list(cells[0]["samples"])
    head = ["n", "κ", "dtype of the first three", "poles", *names]
    lines = [
        "# Partial fractions and a formed inverse, against what is there",
        "",
        f"{facts['device_name']}, {facts['threads']} threads, torch {facts['versions']['torch']}, {facts['commit']}:",
        "medians in ms (true error). `cayley` and `auto` bound the spectrum and estimate their error; the first two",
        "are told the spectrum and do neither.",
        "",
        "| " + " | ".join(head) + " |",
        "| --- " * len(head) + "|",
    ]
    for c in cells:
        times = [f"{statistics.median(c['samples'][name]):.1f} ({c['errors'][name]:.0e})" for name in names]
        row = [c["n"], f"{c['kappa']:.0e}", c["dtype"].removeprefix("torch."), c["poles"], *times]
        lines.append("| " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    asked = {"slug": "columns-ab", "question": "", "hypothesis": ""}
    command = f"columns_ab.py --rounds {options.rounds}"
    run = begin({**asked, "command": command, **_manifest.describe(CPU), "powers": [2]})
    run.open(options.out, CPU, "it is that of this commit and this day")
    grid = [(1e2, torch.float32), (1e3, torch.float32), (1e4, torch.float64)]
    cells = [cell(n, kappa, dtype, options.rounds) for n in (512, 1024, 2048) for kappa, dtype in grid]
    (run.folder / SAMPLES).write_text("".join(json.dumps(c) + "\n" for c in cells), "utf-8")
    run.finish(report(cells, run.manifest))
    print(run.folder)


if __name__ == "__main__":
    main()

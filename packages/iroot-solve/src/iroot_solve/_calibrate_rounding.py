"""Measure the rounding that `_symmetric` interpolates: `python -m iroot_solve._calibrate_rounding FILE`, on an H100 or
later.

X is compared with the same polynomials of the eigenvalues of A, so that no truncation is in what is measured. Schedules
are as coarse as users of a precision have them: a last step that has little left to do rounds little.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import torch
from iroot_coeffs import Schedule, addition_chain, plan
from iroot_kernels import SYMMETRIC_DEGREES, SymmetricRoot
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._calibrate import store

SIZE = 2048
FIRST = (1, 2, 3, 4)
KAPPAS = tuple(10.0**e for e in range(1, 8))
EXPONENTS = (1, 2, 3, 4, 8)
# Precision and how many of the last steps read one plane, with the tolerance such a schedule is for.
WAYS = {"fp16x3": 2.5e-5, "fp16x3-1": 2.5e-4, "fp16": 2.5e-3, "bf16x3": 2.5e-4, "bf16": 2.5e-3}


def spectra(n: int, kappa: float) -> Iterator[Tensor]:
    """Log-spaced, a power law, and a cluster with a tail; not those where one small eigenvalue stands alone, which the
    certificate has to find."""
    steps = torch.arange(1, n + 1, dtype=torch.float64)
    yield kappa ** (-(steps - 1) / (n - 1))
    yield steps ** (-math.log(kappa) / math.log(n))
    tail = kappa ** (-torch.linspace(0, 1, n // 16, dtype=torch.float64))
    yield torch.cat((torch.ones(n - n // 16, dtype=torch.float64), tail))


def matrices(n: int, kappa: float, device: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A in float32, and the eigenvalues and eigenvectors of it."""
    for seed, values in enumerate(spectra(n, kappa)):
        G = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(device)
        V = torch.linalg.qr(G)[0]
        A = ((V * values.to(device)) @ V.mT).float()
        A = (A + A.mT) / 2
        yield (A, *torch.linalg.eigh(A.double()))


def exact(schedule: Schedule, values: Tensor) -> Tensor:
    """What the steps make of the eigenvalues."""
    y = values.cpu().numpy()
    x = np.ones_like(y)
    for step in schedule:
        q = step(y)
        x, y = x * q, y * q**schedule.p
    return torch.from_numpy(x).to(values.device)


def rounding(way: str, schedule: Schedule, A: Tensor, values: Tensor, V: Tensor) -> float:
    """Relative error of X against the polynomials of A; at most 1, which NaN counts as."""
    name, _, coarse = way.partition("-")
    p, upper = schedule.p, float(values[-1]) * (1 + 1e-6)
    scaled = schedule.rescaled(upper)
    steps = [polynomial(step) for step in scaled]
    root = SymmetricRoot(
        steps, p=p, chain=addition_chain(p), upper=upper, precision=name, coarse=min(int(coarse or 0), len(steps))
    )
    X = root(A[None])[0].double()
    truth = (V * exact(scaled, values)) @ V.mT
    error = float(torch.dist(X, truth) / truth.norm())
    return min(error, 1.0) if error == error else 1.0


def measure(device: str = "cuda") -> dict[str, object]:
    """The middle one of the spectra for every way, degree of the first step, p and κ."""
    errors: dict[str, dict[str, dict[str, list[float]]]] = {
        way: {str(first): {str(p): [] for p in EXPONENTS} for first in FIRST} for way in WAYS
    }
    for kappa in KAPPAS:
        known = list(matrices(SIZE, kappa, device))
        for way, tol in WAYS.items():
            for first, p in product(FIRST, EXPONENTS):
                schedule = plan(p, kappa=1.5 * kappa, tol=tol, degrees=SYMMETRIC_DEGREES, first_degrees=(first,))
                middle = statistics.median(rounding(way, schedule, *matrix) for matrix in known)
                errors[way][str(first)][str(p)].append(float(f"{middle:.2g}"))
    return {
        "machine": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "n": SIZE,
        "kappa": list(KAPPAS),
        "errors": errors,
    }


if __name__ == "__main__":
    store(measure(), Path(sys.argv[1]))

"""A^(-1/p)·B for a general matrix, p ≥ 2: whether there is a principal root, and the ways to it.

λ^(-1/p) has its branch cut on the negative real axis, and a real matrix with an eigenvalue there has in general no real
root that is a function of it. Away from it the principal root is real and unique (Higham, "Functions of Matrices"
(2008), §7.1).
"""

from __future__ import annotations

import numpy as np
import torch

from iroot_solve._certificate import Array
from iroot_solve._coupled_newton import newton_root
from iroot_solve._eig_root import eig_root
from iroot_solve._general_report import GeneralReport
from iroot_solve._general_system import Attempt, Rung, System
from iroot_solve._numerical_rank import numerical_rank
from iroot_solve._options import Options
from iroot_solve._result import DirectSchedule


def screen(system: System, rows: Array, report: GeneralReport) -> Array:
    """Which matrices have no eigenvalue on the closed negative real axis, or within rounding of it.

    The others are noted in the report, by their `rows` there. Cost: the eigendecomposition.
    """
    values: Array = system.eigen[0].cpu().numpy()
    size, noise = np.abs(values), values.shape[-1] * 2.0**-52
    singular = np.zeros(len(values), dtype=bool)
    small = np.flatnonzero(size.min(-1) <= noise * size.max(-1))
    if small.size:
        ranks = numerical_rank(system.A, small)
        lost = ranks < values.shape[-1]
        singular[small[lost]] = True
        report.note_rank(rows[small[lost]], ranks[lost])
    on_axis = (values.real <= 0) & (np.abs(values.imag) <= noise * size)
    for i in np.flatnonzero(on_axis.any(-1) & ~singular):
        culprit = complex(values[i][on_axis[i]][0])
        report.note_eigenvalue(int(rows[i]), culprit * 2.0 ** int(system.units.exponent[i]))
    fine: Array = np.flatnonzero(~singular & ~on_axis.any(-1))
    return fine


def root_attempt(system: System, rung: Rung, options: Options) -> Attempt:
    """One rung: eigenvectors or coupled Newton steps, in float64."""
    problem, (values, vectors) = system.problem, system.eigen
    p, b = problem.exponent.denominator, problem.count
    tol = problem.tol / 2 if options.verify else None
    if rung.strategy == "eig":
        found = eig_root(system.A, (values, vectors), system.B, p, tol, system.doubled)
        text, products = f"V·Λ^(-1/{p})·V⁻¹; corrected {found.steps} times", {"eig": b}
    else:
        found = newton_root(system.A, values, system.B, p, tol is not None, system.doubled)
        text, products = f"p = {p}; {found.steps} steps, those of the check included", {"lu": b * found.steps}
    error, residual, amplification, largest = found.facts
    moduli = torch.stack(torch.aminmax(values.abs(), dim=-1)).cpu().numpy()
    columns = 0 if system.B is None else system.B.shape[-1]
    return Attempt(
        Z=found.Z,
        error=error,
        residual=residual,
        amplification=amplification,
        largest=largest,
        lowest=moduli[0],
        highest=moduli[1],
        hopeless=np.zeros(b, dtype=bool),
        strategy=rung.strategy,
        precision=rung.precision,
        schedule=DirectSchedule(rung.strategy, f"{rung}: {text}"),
        steps=found.steps,
        products={**products, "square": b * found.square, "columns": columns},
    )

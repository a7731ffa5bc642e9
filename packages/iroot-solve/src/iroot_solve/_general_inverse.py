"""A⁻¹·B for a general matrix: an approximate inverse, and refinement."""

from __future__ import annotations

from dataclasses import replace

import torch
from iroot_kernels import precision

from iroot_solve._general_system import Attempt, Hardness, Rung, System
from iroot_solve._hyperpower import Hyperpower
from iroot_solve._lu import LU
from iroot_solve._newton_schulz import NewtonSchulz
from iroot_solve._options import Options
from iroot_solve._probed_refine import ProbedRefinement
from iroot_solve._refine import CONTRACTS, Refined, Refinement
from iroot_solve._result import DirectSchedule
from iroot_solve._schulz_products import SchulzProducts

# Refine once before the first look where that is cheap beside the factorisation: k up to n/8.
THIN = 8


def inverse_attempt(system: System, rung: Rung, options: Options) -> Attempt:
    """One rung. Cost: 2n³/3 flops for LU factors, else the schedule's products; 4n²·k a step of refinement."""
    if rung.strategy == "newton-schulz":
        return _by_newton_schulz(system, rung, options)
    return _by_factors(system, rung, options)


def _by_newton_schulz(system: System, rung: Rung, options: Options) -> Attempt:
    tol = system.problem.tol / 2
    F = NewtonSchulz(system.A, system.ws, options.seed)
    refinement = ProbedRefinement(F.X, system.A, system.right, system.doubled, system.ws, options.seed)
    first = F.corrections(tol)
    found = refinement.run(F, tol, first) if options.verify else refinement.blind(first)
    attempt = by_products(rung, found, F.products, system.problem.count)
    return replace(attempt, hardness=Hardness(F.kappa, F.noise, found.rounds - first))


def by_products(rung: Rung, found: Refined, products: SchulzProducts, count: int) -> Attempt:
    """What Newton–Schulz steps and refinement have found."""
    text = f"newton-schulz in {rung.precision}: {products.steps} steps, {products.square} products"
    return _attempt(rung, found, text, products.steps, {"square": products.square * count})


def _by_factors(system: System, rung: Rung, options: Options) -> Attempt:
    """LU factors, or residual polynomials of AᵀA."""
    problem, dtype = system.problem, precision(rung.precision).storage
    k_over_n = problem.columns / problem.n
    F: LU | Hyperpower
    if rung.strategy == "lu":
        F = LU(system.A, dtype, system.ws)
        first = int(dtype is not torch.float64 and THIN * k_over_n <= 1)
        text, products, steps = f"lu in {rung.precision}: P·A = L·U", {"lu": problem.count}, 0
    else:
        F = Hyperpower(system.A, rung.precision, problem.tol, k_over_n, system.ws)
        first = 0 if F.schedule is None else F.schedule.corrections
        plan = "too ill-conditioned" if F.schedule is None else str(F.schedule)
        text, products, steps = f"hyperpower in {rung.precision}: {plan}", {"square": F.square}, F.steps
    doubled = system.doubled or dtype is torch.float64
    refinement = Refinement(F, system.A, system.right, doubled, system.ws, options.seed)
    found = refinement.run(problem.tol / 2, first) if options.verify else refinement.blind(first)
    return _attempt(rung, found, text, steps, products)


def _attempt(rung: Rung, found: Refined, text: str, steps: int, products: dict[str, int]) -> Attempt:
    error, contraction, amplification, lowest, highest, largest = found.facts
    return Attempt(
        Z=found.Z,
        error=error,
        residual=error,
        amplification=amplification,
        largest=largest,
        lowest=lowest,
        highest=highest,
        hopeless=~(contraction < CONTRACTS) & (rung == Rung("lu", "fp64")),
        strategy=rung.strategy,
        precision=rung.precision,
        schedule=DirectSchedule(rung.strategy, f"{text}; refined {found.rounds} times"),
        steps=steps,
        products={**products, "columns": found.columns},
    )

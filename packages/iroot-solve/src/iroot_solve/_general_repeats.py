"""General systems that repeat: with a workspace the fourth call of a kind is recorded, and replayed from then on.

As `_repeats` has it for symmetric matrices, whose kinds, margins and limits these are. Newton–Schulz steps are recorded
and a refinement, which read nothing (`_schulz_planned`), planned for what eager calls of the kind were up against. The
norms that the certificate is made of are read with all else at once, and judged by what judges eager calls. So a plan
that does not fit shows, whatever the reason, η beyond what was planned for among them: the call goes the usual way, and
the kind is not replayed again before an eager call has been up against more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iroot_solve._general_inverse import by_products
from iroot_solve._general_report import GeneralReport
from iroot_solve._general_system import Attempt, Hardness, Rung, System, Units
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._probed_refine import Probed, ProbedRefinement
from iroot_solve._problem import Problem
from iroot_solve._refine import PROBES, Refined
from iroot_solve._repeats import Repeat, kind_of, of_a_size, remembered, with_margin, without_numbers
from iroot_solve._replay import Replay
from iroot_solve._result import SolveResult, SolveWorkspace
from iroot_solve._schulz_planned import PlannedNewtonSchulz, SchulzPlan, planned
from iroot_solve._schulz_products import SchulzProducts

RUNG = Rung("newton-schulz", "fp16")
# Grid points to an octave: half a factor of 2 in κ is a third of a step.
FINENESS = 4


@dataclass(frozen=True)
class Recorded:
    """What a recorded call hands out.

    Attributes:
        Z: `(b, n, k)`, in the caller's units and dtype.
        numbers: All that is read of it: the facts of the system, the bound of σ_max, the sizes of `Probed`.
        products, columns, rounds: What was done.
    """

    Z: Tensor
    numbers: Tensor
    products: SchulzProducts
    columns: int
    rounds: int

    def judged(self, problem: Problem) -> tuple[Attempt, Units, bool]:
        """The attempt and its units; and whether all matrices are finite and not zero. Reads once."""
        b, k = problem.count, problem.columns
        facts, highest, sizes = np.split(self.numbers.cpu().numpy(), (4 * b, 5 * b))
        facts = facts.reshape(4, b)
        probed = Probed(sizes.reshape(-1, b, k + PROBES), k, problem.n)
        found = Refined(self.Z, probed.facts(highest), self.columns, self.rounds)
        sound = np.isfinite(facts[:2]).all() and facts[0].all()
        return by_products(RUNG, found, self.products, b), Units.of(facts), bool(sound)


def general_repeat_of(problem: Problem, options: Options, ws: SolveWorkspace, rung: Rung) -> Repeat | None:
    """What is known of calls like this one, this one counted; `None` where none can be recorded."""
    usual = rung == RUNG and options.verify and problem.reachable_tol > 0
    if not usual or not of_a_size(problem):
        return None
    return remembered(ws, ("general", kind_of(problem, options)), None)


def learn(repeat: Repeat, seen: Hardness) -> None:
    """An eager call was up against this."""
    known = repeat.kappa or 0.0, repeat.noise, repeat.corrections
    if seen.kappa <= known[0] and seen.noise <= known[1] and seen.corrections <= known[2]:
        return
    repeat.kappa = max(known[0], with_margin(seen.kappa, FINENESS))
    repeat.noise = max(known[1], with_margin(seen.noise, FINENESS))
    repeat.corrections = max(known[2], seen.corrections)
    repeat.harder()


def replayed_general(
    repeat: Repeat, problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor
) -> SolveResult | None:
    """The result, in one launch and one read; `None` where the usual way is to find it."""
    if not repeat.due or not (repeat.replay or repeat.record(lambda: _recorded(repeat, problem, options))):
        return None
    assert repeat.replay is not None
    found: Recorded = repeat.replay(problem.A, problem.B)
    attempt, units, sound = found.judged(problem)
    ledger, rows = Ledger.empty(Z), np.arange(problem.count)
    attempt.note(ledger, rows, rows, units)
    # As on the ladder: an estimate scatters, and one above half of tol is worth another rung.
    if not (sound and (ledger.error <= problem.tol / 2).all()):
        if sound:
            repeat.give_up()
        return None
    Z.copy_(found.Z)
    ledger.backend += ", replayed"
    return GeneralReport(problem, options, ws, ledger).finish()


def _recorded(repeat: Repeat, problem: Problem, options: Options) -> Replay[Any] | None:
    """The call that reads nothing, if there is a plan."""
    assert repeat.kappa is not None
    plan = planned(repeat.kappa, repeat.noise, repeat.corrections, problem.tol / 2)
    if plan is None:
        return None
    call = {"problem": without_numbers(problem), "plan": plan, "seed": options.seed}
    return Replay(_unread, (problem.A, problem.B), SolveWorkspace(), call)


def _unread(
    A: Tensor, B: Tensor | None, *, workspace: SolveWorkspace, problem: Problem, plan: SchulzPlan, seed: int
) -> Recorded:
    """A⁻¹·B by plan, and what is to be read of it."""
    problem = replace(problem, A=A, B=B)
    system = System(problem, workspace)
    F = PlannedNewtonSchulz(system.A, workspace, plan)
    refinement = ProbedRefinement(F.X, system.A, system.right, system.doubled, workspace, seed)
    sizes = refinement.measured(plan.corrections)
    numbers = torch.cat([x.reshape(-1) for x in (system.facts, F.highest, sizes)])
    Z = refinement.Z[..., : problem.columns]
    Z = system.scales.restore(Z, torch.empty(Z.shape, dtype=problem.dtype, device=Z.device))
    return Recorded(Z, numbers, F.products, refinement.columns, refinement.rounds)

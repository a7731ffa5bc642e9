"""General systems that repeat: with a workspace the third call of a kind is recorded, and replayed from then on.

As `_repeats` has it for symmetric matrices, whose kinds, margins and limits these are. Newton–Schulz steps are recorded
and a refinement, which read nothing (`_schulz_planned`), planned for what eager calls of the kind were up against. The
norms that the certificate is made of are read with all else at once, and judged by what judges eager calls. So a plan
that does not fit shows, whatever the reason, η beyond what was planned for among them, and the call goes the usual way.

Condition numbers scatter (of Gaussian matrices every other one is twice the one before), and what is replayed in vain
costs a fraction of the call that follows. So a plan is kept until it has failed often of late where the usual steps did
not; then one is made for the hardest of those, if that is harder than what was planned for, or else none any more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iroot_solve._general_inverse import by_products
from iroot_solve._general_report import GeneralReport
from iroot_solve._general_system import Attempt, Hardness, Rung, System, Units
from iroot_solve._ladder import Ledger
from iroot_solve._newton_schulz import MOST_NOISE
from iroot_solve._options import Options
from iroot_solve._probed_refine import UNSEEN, Probed, ProbedRefinement
from iroot_solve._problem import Problem
from iroot_solve._refine import PROBES, Refined
from iroot_solve._repeats import RECORDED_FROM, Repeat, kind_of, of_a_size, remembered, with_margin, without_numbers
from iroot_solve._replay import Replay
from iroot_solve._result import SolveResult, SolveWorkspace
from iroot_solve._schulz_planned import PlannedNewtonSchulz, SchulzPlan, planned
from iroot_solve._schulz_products import SchulzProducts

RUNG = Rung("newton-schulz", "fp16")
# Grid points to an octave: half a factor of 2 in κ is a third of a step.
FINENESS = 4
# Of κ, each time that it has to be planned anew: where it scatters, there is another record before long.
ANEW = 2.0
# More is not planned for: 13 steps.
LARGEST_KAPPA = 5e4
# What is left of a failure with every success, and how many are too many: two with six successes between.
FORGOTTEN, OFTEN = 0.9, 1.5


@dataclass
class GeneralRepeat:
    """A kind of call.

    Attributes:
        counted: Its calls, and the recorded one; κ is that of `known`.
        known: To plan for; `None` before anything was seen.
        missed: How often a replay failed where an eager call did not; older ones count less.
        worst: What those were up against.
    """

    counted: Repeat = field(default_factory=Repeat)
    known: Hardness | None = None
    missed: float = 0.0
    worst: Hardness | None = None

    def learn(self, seen: Hardness) -> None:
        """An eager call was up against this, and found an answer; where a replay was due, that had none."""
        due = self.counted.due
        if due:
            self.missed, self.worst = self.missed + 1, seen.joined(self.worst)
            if self.missed < OFTEN:
                return
        worst = seen.joined(self.worst)
        if self.known is None or worst.joined(self.known) != self.known:
            self._plan_for(worst)
        elif due:
            self.counted.give_up()

    def _plan_for(self, worst: Hardness) -> None:
        """With a margin; at once where there is a graph that has failed, as there have been calls enough."""
        times = self.counted.times
        kappa = min(with_margin(worst.kappa, FINENESS) * ANEW**times, LARGEST_KAPPA)
        found = Hardness(kappa, min(with_margin(worst.noise, FINENESS), MOST_NOISE), worst.corrections)
        self.known, self.missed, self.worst = found.joined(self.known), 0.0, None
        self.counted.kappa = self.known.kappa
        calls = max(self.counted.calls, 0)
        self.counted.harder()
        self.counted.calls = RECORDED_FROM - 1 if times else min(calls, RECORDED_FROM - 1)


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

    def judged(self, problem: Problem) -> tuple[Attempt, Units]:
        """The attempt and its units. Reads once."""
        b, k = problem.count, problem.columns
        facts, highest, sizes = np.split(self.numbers.cpu().numpy(), (4 * b, 5 * b))
        facts = facts.reshape(4, b)
        probed = Probed(sizes.reshape(-1, b, k + PROBES), k, problem.n)
        found = Refined(self.Z, probed.facts(highest), self.columns, self.rounds)
        return by_products(RUNG, found, self.products, b), Units.of(facts)


def general_repeat_of(problem: Problem, options: Options, ws: SolveWorkspace, rung: Rung) -> GeneralRepeat | None:
    """What is known of calls like this one, this one counted; `None` where none can be recorded."""
    usual = rung == RUNG and options.verify and problem.reachable_tol > 0
    if not usual or not of_a_size(problem):
        return None
    found = remembered(ws, ("general", kind_of(problem, options)), GeneralRepeat)
    found.counted.calls += 1
    return found


def replayed_general(
    repeat: GeneralRepeat, problem: Problem, options: Options, ws: SolveWorkspace, Z: Tensor
) -> SolveResult | None:
    """The result, in one launch and one read; `None` where the usual way is to find it."""
    counted, known = repeat.counted, repeat.known
    if known is None or not counted.due:
        return None
    if not (counted.replay or counted.record(lambda: _recorded(known, problem, options))):
        return None
    assert counted.replay is not None
    found: Recorded = counted.replay(problem.A, problem.B)
    attempt, units = found.judged(problem)
    ledger, rows = Ledger.empty(Z), np.arange(problem.count)
    attempt.note(ledger, rows, rows, units)
    # As on the ladder: an estimate scatters, and one above half of tol is worth another rung.
    if not (ledger.error <= problem.tol / 2).all():
        return None
    repeat.missed *= FORGOTTEN
    Z.copy_(found.Z)
    ledger.backend += ", replayed"
    return GeneralReport(problem, options, ws, ledger).finish()


def _recorded(known: Hardness, problem: Problem, options: Options) -> Replay[Any] | None:
    """The call that reads nothing, if there is a plan."""
    # The residual of V, √(PROBES·n) at first, is to fall to UNSEEN: a loose tolerance asks for less than that.
    tol = min(problem.tol / 2, UNSEEN / math.sqrt(PROBES * problem.n))
    plan = planned(known.kappa, known.noise, known.corrections, tol)
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

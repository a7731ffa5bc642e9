"""GᵀG in float64, or by symmetric products in float32 where its rounding leaves room in `tol` (GPU).

`symmetric_rank_k` takes half of the products, on tensor cores. What it rounds, E, moves the smallest eigenvalue most:
relative to Z by δ·κ·q/s with δ ≤ 2^-21 (of float32 numbers in two planes of fp16; of 16-bit numbers, whose products are
exact, by the sum in float32 alone). Measured against an SVD of G by its CPU reference, n = 64 … 512, m = n … 4096, κ =
10² … 10⁶, log-spaced spectra, a lone small eigenvalue, half of them small, all but one small; p = 1, 2, 4: 2^-27 …
2^-22.2 (bfloat16, whose sums torch's CPU product rounds more, up to 2^-20.5). On an H100: float32
and float16 below 2^-22, bfloat16 with a lone small eigenvalue up to 2^-21.8.

Residuals are products with G in float64, so that no error of what was formed can hide from the certificate, but for a
direction that Z as computed has no share of. Such a one has an eigenvalue near ‖E‖ or below: none is left where the
smallest eigenvalue of what was formed is known to be far above (Weyl). Therefore κ·δ stays below 2^-6, and whatever
takes κ from elsewhere than a look or a promise (steps of the caller, more steps from an iterate, a pseudo-inverse,
positive powers, which small eigenvalues hide in) is given GᵀG in float64.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from iroot_kernels import symmetric_rank_k
from torch import Tensor

from iroot_solve._case import Case, Facts, task_of
from iroot_solve._matrix import CONGRUENCES, MOST_SQUARED
from iroot_solve._options import Options
from iroot_solve._problem import Gram, Problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._spectrum import Spectrum
from iroot_solve._task import Candidate

ROUNDING = 2.0**-21
# Of tol, and of the smallest eigenvalue whatever tol is.
SHARE, MOST = 0.25, 2.0**-6
# Of a matrix that nobody has looked at: where less than that has room, nothing is tried.
LEAST_KAPPA = 4.0
# Those whose residuals are taken with G; a series estimates its own error, and a factorisation is of what was formed.
JUDGED = ("direct-solve", "materialize-root", "hybrid-pe-nsrc")
# Entries of 2^-g·G are above 2^-s. So much larger, none that matters is subnormal in fp16.
LIFT = 14
# Ends of the spectrum are taken over where rounding has moved none by more than this, and bounds by so much more.
SAME, SAFETY = 2.0**-5, 1 + 2.0**-16


def formed(problem: Problem, source: Gram, G: Tensor, options: Options, ws: SolveWorkspace, reuse: bool) -> Problem:
    """The problem with A = GᵀG of the source, `(b, n, n)`: float64, or float32 for as long as that may do.

    Args:
        problem: Without A, of the rows that it will have.
        source: 2^-g·G.
        G: As passed, whose life a kept A shares.
        options: The call's settings.
        ws: Where A lives.
        reuse: Keep A.
    """
    name = _name(source)
    fine = ws.kept("gram", G, name) if reuse and not ws.recording else None
    if fine is not None or not _may_round(problem, options):
        A = ws.keep("gram", G, name, lambda: _in_float64(source, ws), reuse)
        return replace(problem, A=A, gram=source)
    A = ws.keep("gram", G, (*name, "rounded"), lambda: _rounded(source, ws), reuse)
    return replace(problem, A=A, gram=replace(source, rounding=ROUNDING), passed=G)


def is_rounded(problem: Problem) -> bool:
    """Whether A is a GᵀG that was not formed in float64."""
    return problem.gram is not None and problem.gram.rounding > 0


def has_room(problem: Problem, kappa: float) -> bool:
    """Whether rounding of GᵀG moves Z by no more than its share of `tol`, and no eigenvalue by much."""
    moved, alpha = ROUNDING * kappa, abs(problem.exponent)
    return moved <= MOST and moved * float(alpha) <= SHARE * problem.tol


def finer(case: Case, facts: Facts, known: Spectrum, candidate: Candidate) -> Case | None:
    """The case with GᵀG in float64, where that is wanted for the spectrum that was seen and the way that was chosen.

    What a look has found is taken over, if the rounding it was found with has not moved it.
    """
    problem, options = case.problem, case.options
    if not is_rounded(problem):
        return None
    kappa = _worst(facts, known, options)
    if known.known and candidate.strategy in JUDGED and has_room(problem, kappa):
        return None
    found = Case(in_float64(problem, case.ws), options, case.ws)
    if known.known and case.ends is not None and ROUNDING * kappa <= SAME:
        _take_ends(found, case)
    return found


def _worst(facts: Facts, known: Spectrum, options: Options) -> float:
    """The largest condition number of the batch, promised or seen."""
    if options.kappa_max is not None and not known.broken:
        return options.kappa_max
    if facts.low is None or not (facts.low > 0).all():
        return math.inf
    return max(known.kappa, float((facts.upper / facts.low).max()))


def part_in_float64(part: Case) -> Case:
    """The same with GᵀG in float64 where it is not."""
    if not is_rounded(part.problem):
        return part
    return Case(in_float64(part.problem, part.ws), part.options, part.ws)


def in_float64(problem: Problem, ws: SolveWorkspace) -> Problem:
    """The problem with GᵀG formed again, which is kept if the rounded one was."""
    assert problem.gram is not None
    source, G = replace(problem.gram, rounding=0.0), problem.passed
    A, name = _in_float64(source, ws), _name(source)
    if G is not None and ws.kept("gram", G, (*name, "rounded")) is not None:
        ws.put("gram", G, name, A)
    return replace(problem, A=A, gram=source)


def _may_round(problem: Problem, options: Options) -> bool:
    """Whether symmetric products run, and nothing asks for more than they give; κ as promised, or small."""
    task, way = task_of(problem, options), options.strategy
    given = options.pinv or options.abc_t is not None
    scaled = options.precond.mode in CONGRUENCES and problem.exponent == -1
    fits = problem.storage is torch.float32 and problem.exponent.denominator <= MOST_SQUARED
    runs = task.has_symmetric_products(task.precisions[0]) and (way == "auto" or way in JUDGED)
    return fits and runs and not given and not scaled and has_room(problem, options.kappa_max or LEAST_KAPPA)


def _name(source: Gram) -> tuple[object, ...]:
    """What a kept GᵀG depends on besides G."""
    return source.name, source.G.shape[0], source.G.shape[-1]


def _in_float64(source: Gram, ws: SolveWorkspace) -> Tensor:
    """GᵀG. Cost: m·n² multiply-adds in float64."""
    b, n = source.G.shape[0], source.G.shape[-1]
    return torch.bmm(source.G.mT, source.G, out=ws.buffer("gram", (b, n, n), torch.float64, source.G.device))


def _rounded(source: Gram, ws: SolveWorkspace) -> Tensor:
    """GᵀG in float32. Cost: half of m·n² multiply-adds on tensor cores for each product of planes, three or one."""
    G = source.G
    b, n = G.shape[0], G.shape[-1]
    narrow = torch.mul(G, 2.0**LIFT, out=ws.buffer("G narrow", G.shape, source.dtype, G.device))
    out = ws.buffer("gram rounded", (b, n, n), torch.float32, G.device)
    return symmetric_rank_k(narrow, out=out, workspace=ws).mul_(4.0**-LIFT)


def _take_ends(found: Case, case: Case) -> None:
    """What is known of the spectrum, in units of the other matrix, which may be scaled by another power of two."""
    assert case.ends is not None
    found.matrix.matrix(found.problem.storage)
    shift = case.matrix.exponent - found.matrix.exponent
    found.ends = torch.ldexp(case.ends[0], shift), torch.ldexp(case.ends[1], shift)
    found.factored, found.least_share = case.factored, case.least_share
    found.matrix.precond = case.matrix.precond
    found.matrix.upper = torch.ldexp(case.matrix.upper * SAFETY, shift)

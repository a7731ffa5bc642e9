"""Variants: one thing differs, all else is equal. They run only when they are named in `--arms`.

    form × precision   the kernels' two forms of the iteration, in every precision that they know
    degrees            the product form in float32, with the degrees of its steps restricted
    look               whole calls of the library that differ in how the lower end of the spectrum is found
    small              batches of small matrices, a program to a matrix
    captured           whole calls as graphs
    orthogonalize      the polar factor, in the dtype that is passed (`_polar_variants`)
    tf32               rivals with a global flag of torch set

They are what decided defaults, kept so that the decision can be measured again; none is meant to be the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from iroot_coeffs import Schedule, Step, addition_chain, plan
from iroot_kernels import (
    PRECISIONS,
    CoupledIteration,
    Polynomial,
    SmallRoot,
    SymmetricRoot,
    Tiling,
    TripleIteration,
    Workspace,
    precision,
    small_matrices,
    symmetric_products,
    tiling,
)
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveResult, SolveWorkspace
from iroot_solve._small import planned as planned_small
from iroot_solve._solve import solve
from iroot_solve._spd import read_options, solve_spd
from iroot_solve._symmetric import fewest_products
from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench._polar_variants import POLAR
from iroot_solve.bench.rivals import RIVALS

DEGREES = tuple(range(1, 9))
TRUNCATION_SHARE = 0.25
# Of the time of a symmetric product, for one with few columns: about that at n = 2048.
THIN_SHARE = 0.4
Tilings = Callable[[int, int, int, int], Tiling]
ROOM, ROOM_FOR_KAPPA = 1e-6, 1.01


@dataclass(frozen=True)
class Form:
    """A form of the iteration for A^(-1/p).

    Attributes:
        name: In those of the arms.
        start: (A, p, precision, workspace) ↦ its state.
        q: How a step becomes a polynomial.
        degrees: It is stable with.
        orders: The p it exists for; empty for all.
    """

    name: str
    start: Callable[[Tensor, int, str, Workspace], CoupledIteration | TripleIteration]
    q: Callable[[Step], Polynomial]
    degrees: tuple[int, ...]
    orders: tuple[int, ...] = ()


def _coupled(A: Tensor, p: int, name: str, ws: Workspace) -> CoupledIteration:
    return CoupledIteration(A, p=p, chain=addition_chain(p), precision=name, workspace=ws)


def _triple(A: Tensor, p: int, name: str, ws: Workspace) -> TripleIteration:
    return TripleIteration(A, precision=name, workspace=ws)


PRODUCT = Form("product", _coupled, polynomial, DEGREES)
TRIPLE = Form("triple", _triple, lambda step: Polynomial.of_monomials(step.monomial), (1, 2), orders=(2,))


def bounded(problem: Problem) -> tuple[Tensor, float]:
    """(bounds of λmax `(…, 1, 1)`, κ of the interval to plan for): the ends of the spectrum, and room for rounding."""
    values = torch.linalg.eigvalsh(problem.source.double())
    bound = values[..., -1] * (1 + ROOM)
    return bound[..., None, None], float((bound / values[..., 0]).max()) * (1 + ROOM)


def planned(problem: Problem, kappa: float, degrees: Iterable[int]) -> Schedule:
    """Steps on [1/κ, 1] whose truncation error is at most tol/4."""
    return plan(problem.p, kappa=kappa, tol=TRUNCATION_SHARE * problem.tol, degrees=degrees)


def by_form(name: str, form: Form, how: str, what: str, degrees: tuple[int, ...] | None = None) -> Arm:
    """An arm of the kernels alone.

    Args:
        name: Of the arm.
        form: Of the iteration.
        how: Precision of its products.
        what: What it is, for its page.
        degrees: Of its steps, if not all that the form is stable with.
    """
    allowed = form.degrees if degrees is None else degrees

    def applies(problem: Problem) -> bool:
        wide = how == "fp64" or problem.source.dtype is not torch.float64
        return problem.kind == "spd" and not problem.ridge and (not form.orders or problem.p in form.orders) and wide

    def make(problem: Problem) -> Callable[[], Tensor]:
        A, B, p, ws = problem.source, problem.B, problem.p, Workspace()
        bound, kappa = bounded(problem)
        steps = [form.q(step) for step in planned(problem, kappa, allowed)]
        storage = precision(how).storage
        shrink, grow = (1 / bound).to(storage), bound.pow(-1 / p).to(storage)

        def call() -> Tensor:
            S = A.to(storage) * shrink
            state = form.start(S if S.ndim == 3 else S.unsqueeze(0), p, how, ws)
            for i, q in enumerate(steps, start=1):
                state.step(q, last=i == len(steps))
            assert state.X is not None
            X = state.X.view(A.shape) * grow
            return (X if B is None else X @ B.to(storage)).to(A.dtype)

        return call

    page = (
        f"{what} The root of A over a bound of λmax, then times B, by iroot-kernels alone: no symmetry check, no error "
        "estimate, no fallback. It is told the ends of the spectrum; the plan (truncation error at most "
        "tol/4) is made outside the time. Source: this library."
    )
    return Arm(name, page, applies, make)


def _in(form: Form, how: str, what: str) -> Arm:
    """A form in a precision."""
    found = precision(how)
    emulated = "" if found.plane is None and how != "tf32" else ", which a CPU emulates: no time to judge by there"
    rounded = f"products in {how} (u = 2^{math.log2(found.unit_roundoff):.0f}{emulated})"
    return by_form(f"{form.name}-{how}", form, how, f"{form.name.capitalize()} form, {rounded}: {what}")


PRODUCT_FORM = "Y ← Y·q(Y)^p, X ← X·q(Y), degrees 1 to 8 mixed, each q expanded about the middle of its interval."
TRIPLE_FORM = (
    "X ← q(P)·X, Y ← Y·q(P), P ← X·Y for p = 2, degrees 1 and 2 in powers of P: higher ones lose digits so, and "
    "expanded about another point the form is unstable."
)


@dataclass(frozen=True)
class Setting:
    """Of an arm of symmetric products.

    Attributes:
        how: Precision of the products.
        choose: Of the tiles.
        captured: Replay a captured graph of it.
        direct: Act on B.
        coarse: Last steps in one plane.
    """

    how: str = "fp16x3"
    choose: Tilings = tiling
    captured: bool = False
    direct: bool = False
    coarse: int = 0


def symmetric(name: str, what: str, setting: Setting) -> Arm:
    """The root by symmetric products, called "symmetric-" `name`; `what` it is, for its page."""
    direct = setting.direct

    def applies(problem: Problem) -> bool:
        fits = problem.kind == "spd" and not problem.ridge and problem.source.dtype is not torch.float64
        return fits and symmetric_products(problem.source.device) and not (direct and problem.B is None)

    def make(problem: Problem) -> Callable[[], Tensor]:
        A, B, p = problem.source, problem.B, problem.p
        bound, kappa = bounded(problem)
        tol = TRUNCATION_SHARE * problem.tol
        schedule = fewest_products(Fraction(-1, p), kappa, tol, THIN_SHARE if direct else 1.0)
        schedule = schedule.rescaled(float(bound.max()))
        steps = [polynomial(step) for step in schedule]
        chain, upper = addition_chain(p), schedule.steps[0].hi
        root = SymmetricRoot(
            steps, p=p, chain=chain, upper=upper, precision=setting.how, coarse=setting.coarse, choose=setting.choose
        )

        def call() -> Tensor:
            S = A.float().reshape(-1, *A.shape[-2:])
            if direct:
                assert B is not None
                return root(S, B.float().reshape(-1, *B.shape[-2:])).reshape(B.shape).to(A.dtype)
            X = root(S).reshape(A.shape)
            return (X if B is None else X @ B.float()).to(A.dtype)

        return _captured(call) if setting.captured else call

    page = (
        f"Product form by symmetric products, {what}. Degrees 1, 2, 3, 4 and 8, the first 2 to 4; the "
        "bound of λmax is within the first step. It is told the ends of the spectrum; the plan is made before, as for "
        "`product-`; no symmetry check, no error estimate, no fallback. On CUDA with Triton. Source: this library."
    )
    return Arm(f"symmetric-{name}", page, applies, make)


def small(name: str, what: str) -> Arm:
    """Matrices of up to 128 × 128, a program to a matrix, called "small-" `name`; `what` it is, for its page."""

    def applies(problem: Problem) -> bool:
        fits = problem.kind == "spd" and not problem.ridge and problem.source.dtype is not torch.float64
        return fits and problem.source.shape[-1] <= 128 and small_matrices(problem.source.device)

    def make(problem: Problem) -> Callable[[], Tensor]:
        A, B, p = problem.source, problem.B, problem.p
        steps = [polynomial(step) for step in planned_small(Fraction(-1, p), problem.kappa, problem.tol)]
        root = SmallRoot(steps, p=p)
        flat = A.reshape(-1, *A.shape[-2:])
        right = None if B is None else B.reshape(-1, *B.shape[-2:])
        return _captured(lambda: root(flat, right).Z.reshape(A.shape if B is None else B.shape))

    page = (
        f"One launch for the whole batch, {what}: steps of degrees 1 and 2, with its own bound of λmax, error estimate "
        "and status for every matrix. It is told κ; nothing is read back. On CUDA with Triton. Source: this library."
    )
    return Arm(f"small-{name}", page, applies, make)


def captured(name: str, what: str, *, verify: str | bool, strategy: str = "auto") -> Arm:
    """A whole call of `solve_spd` as one graph.

    Args:
        name: Of the arm.
        what: What it gives, for its page.
        verify: As for `solve_spd`.
        strategy: Likewise.
    """

    def applies(problem: Problem) -> bool:
        return problem.kind == "spd" and not problem.ridge and symmetric_products(problem.source.device)

    def make(problem: Problem) -> Callable[[], SolveResult]:
        recorded = SolveWorkspace().capture(
            solve_spd,
            problem.source,
            problem.B,
            p_val=problem.p,
            tol=problem.tol,
            kappa_max=ROOM_FOR_KAPPA * problem.kappa,
            verify=verify,
            strategy=strategy,
            on_failure="nan",
        )
        return recorded.replay

    page = (
        f"`solve_spd` as `SolveWorkspace.capture` records it, replayed on the numbers that lie there, {what}; it is "
        "told κ and 1 % more. The copy of A and B alone is not inside the time. Source: this library."
    )
    return Arm(name, page, applies, make)


def _captured(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The call as one graph; what it returns is the same memory every time.

    The graph works in buffers that the call holds, and does not hold them itself.
    """
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        Z = call()

    def replay(holding: Callable[[], Tensor] = call) -> Tensor:
        graph.replay()
        return Z

    return replay


def _deep(N: int, planes: int, step: int, batch: int) -> Tiling:
    """Deep blocks in every step, the first too."""
    return tiling(N, planes, step + 1, batch)


def mix(name: str, degrees: tuple[int, ...], what: str) -> Arm:
    """The product form in float32 with these degrees."""
    text = f"Product form, products in fp32, {what}. The `degrees-` arms differ in nothing else."
    return by_form(f"degrees-{name}", PRODUCT, "fp32", text, degrees)


def look(name: str, what: str, *, way: str = "auto", promised: bool = False) -> Arm:
    """A whole call of the library, with one way to find the lower end of the spectrum.

    Args:
        name: After "look-".
        what: The way in words, for the page.
        way: `Options.look`.
        promised: `kappa_max` is given.
    """

    def make(problem: Problem) -> Callable[[], SolveResult]:
        A, B, workspace = problem.source, problem.B, SolveWorkspace()
        direct = B is not None and 2 * B.shape[-1] <= A.shape[-1]

        def call() -> SolveResult:
            read = read_problem(A, B, p_val=problem.p, exponent=None, tol=problem.tol)
            options = read_options(
                read,
                ridge=problem.ridge,
                kappa_max=problem.kappa if promised else None,
                strategy="direct-solve" if direct else "materialize-root",
                on_failure="warn",
            )
            return solve(read, replace(options, look=way), workspace)

        return call

    page = (
        f"`solve_spd` with the coupled iteration (acting on B where 2k ≤ n, else forming the root), {what}. Bound of "
        "λmax, error estimate and fallbacks are those of every call, inside the time. Source: this library."
    )
    return Arm(f"look-{name}", page, lambda problem: problem.kind == "spd", make)


def in_tf32(arm: Arm) -> Arm:
    """A rival whose float32 products run in tf32, as under torch's global flag for it."""

    def make(problem: Problem) -> Callable[[], Tensor | SolveResult]:
        call = arm.make(problem)

        def in_less() -> Tensor | SolveResult:
            before = torch.backends.cuda.matmul.fp32_precision
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            try:
                return call()
            finally:
                torch.backends.cuda.matmul.fp32_precision = before

        return in_less

    page = f"{arm.page} Here float32 products run in tf32."
    return Arm(f"{arm.name}-tf32", page, lambda p: arm.applies(p) and p.source.is_cuda, make, arm.needs)


FROM_LANCZOS = "λmin from 20 Lanczos steps, with the safety that Ritz values need"
FROM_CHOLESKY = "λmin to a factor of two from a Cholesky factorisation and inverse iteration"
FROM_HINT = (
    "planned for λmin of 0.05 (the default `l_target`) times the row-sum bound, without a look: what is worse "
    "conditioned climbs the ladder"
)
FROM_PROMISE = "λmin from the true κ as `kappa_max` and from the upper end, which 20 Lanczos steps find as ever"

REPLAYED = "replayed as one CUDA graph"

VARIANTS = (
    *(symmetric(how, f"products in {how}", Setting(how)) for how in ("fp16x3", "bf16x3", "fp16", "bf16")),
    symmetric("captured", f"products in fp16x3, {REPLAYED}", Setting(captured=True)),
    symmetric("columns", f"acting on B, products in fp16x3, {REPLAYED}", Setting(captured=True, direct=True)),
    symmetric("coarse", f"products in fp16x3, in the last step in fp16, {REPLAYED}", Setting(captured=True, coarse=1)),
    symmetric(
        "deep", "products in fp16x3 with deep blocks along K in every step, the first too", Setting(choose=_deep)
    ),
    captured("captured", "with the error estimated on the device", verify="deferred"),
    captured("captured-root", "the same, and the root is formed", verify="deferred", strategy="materialize-root"),
    captured("captured-unverified", "without an error estimate", verify=False),
    small("captured", f"a program to a matrix in fp16x3, {REPLAYED}"),
    *POLAR,
    *(_in(PRODUCT, how, PRODUCT_FORM) for how in PRECISIONS),
    *(_in(TRIPLE, how, TRIPLE_FORM) for how in PRECISIONS),
    mix("mixed", DEGREES, "with the degrees that the planner mixes, 1 to 8"),
    mix("quadratic", (2,), "with steps of degree 2 only"),
    mix("linear", (1,), "with steps of degree 1 only, the classical ones with better coefficients"),
    look("lanczos", FROM_LANCZOS, way="lanczos"),
    look("cholesky", FROM_CHOLESKY, way="cholesky"),
    look("none", FROM_HINT, way="none"),
    look("promised", FROM_PROMISE, promised=True),
    *(in_tf32(arm) for arm in RIVALS if arm.name in ("cans-10", "coupled-newton")),
)

"""Variants differ in what they say and in nothing else, and run only when they are named.

The bounds are those of the theory, a plan to tol/4 aside: rounding of products with u costs the product form up to κ·u
and the triple form up to √κ·u, in float32 storage not less than 2⁻²⁴. At least u/8 is left of single products in 8 or
11 bits: the last one alone rounds its operands by about u/2.
"""

import re

import pytest
import torch
from iroot_kernels import PRECISIONS, CoupledIteration, precision
from iroot_solve import solve_spd
from iroot_solve._matrix import TOP_STEPS, ScaledMatrix
from iroot_solve._options import Options
from iroot_solve.bench import _arms
from iroot_solve.bench._cases import CASES, Case, Point
from iroot_solve.bench._measure import Settings, jobs
from iroot_solve.bench._problems import build, relative_error, truth
from iroot_solve.bench._variants import DEGREES, VARIANTS, bounded, planned

CPU = torch.device("cpu")
TOL = 1e-4
N = 64
ARMS = {arm.name: arm for arm in VARIANTS}
SYMMETRIC = {name for name in ARMS if name.startswith(("symmetric-", "small-"))}
REDUCED = {"cans-10-tf32", "coupled-newton-tf32"}
RECORDED = {"captured", "captured-root", "captured-unverified"}
POLAR = {name for name in ARMS if name.startswith("orthogonalize-")}


def made(kappa=1e2, p=2, n=N, k=8, batch=1, root=False, dtype=torch.float32, device=CPU):
    case = Case("c", "spd", p, (), root=root)
    return build(case, Point(n, n if root else k, kappa, batch=batch), 0, dtype, device, TOL)


def error(name, problem):
    call = ARMS[name].make(problem)
    first, again = call(), call()
    first, again = (getattr(answer, "Z", answer) for answer in (first, again))
    assert torch.equal(first, again) and first.dtype is problem.source.dtype
    return relative_error(again, truth(problem))


# Form and precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", PRECISIONS)
@pytest.mark.parametrize(("form", "loss"), [("product", 1e2), ("triple", 1e1)])
def test_a_form_has_the_accuracy_of_its_precision(form, loss, how):
    u = precision(how).unit_roundoff
    found = error(f"{form}-{how}", made())
    assert found <= TOL / 4 + loss * max(u, 2.0**-24)
    assert found >= u / 8 or u < 2.0**-11
    assert found <= TOL or u > TOL / loss


@pytest.mark.parametrize("problem", [{"p": 4}, {"p": 1}, {"root": True}, {"batch": 3}, {"batch": 3, "root": True}])
def test_forms_answer_every_kind_of_problem(problem):
    """κ·u = 6e-6 in fp32."""
    problem = made(**problem)
    assert error("product-fp32", problem) <= TOL
    assert problem.p != 2 or error("triple-fp32", problem) <= TOL


def test_only_the_triple_form_survives_11_bits_at_high_condition():
    """κ·u = 4.9 against √κ·u = 5e-2."""
    problem = made(kappa=1e4, n=128)
    assert error("triple-fp16", problem) <= 1e2 * 2.0**-11 < 4 * error("product-fp16", problem)


def test_the_bound_is_one_and_the_interval_has_the_spectrum():
    for problem in (made(), made(batch=3)):
        bound, kappa = bounded(problem)
        values = torch.linalg.eigvalsh(problem.A.double()) / bound.squeeze(-1)
        # A as rounded to float32 has κ to κ·u.
        assert values.max() <= 1 and values.min() >= (1 - 1e-5) / kappa and kappa <= 1.001e2


def test_forms_apply_where_their_precision_is_not_less_than_what_is_passed():
    float64 = made(dtype=torch.float64)
    names = {name for name, arm in ARMS.items() if arm.applies(float64)}
    looks = {name for name in ARMS if name.startswith("look-")}
    assert names == {"product-fp64", "triple-fp64", *looks}, "tf32 is for a GPU"
    left = {name for name, arm in ARMS.items() if not arm.applies(made(p=4))}
    some = SYMMETRIC | REDUCED | RECORDED | POLAR
    assert left == {f"triple-{how}" for how in PRECISIONS} | some, "p = 2 only, a GPU, or the polar factor"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("problem", [{"p": 4}, {"p": 1}, {"root": True}, {"batch": 3, "k": 70}])
def test_symmetric_products_answer_every_kind_of_problem(problem):
    problem = made(**problem, device=torch.device("cuda", 0))
    for name in ("symmetric-fp16x3", "symmetric-deep", "symmetric-captured", "symmetric-columns"):
        assert not ARMS[name].applies(problem) or error(name, problem) <= TOL
    assert error("symmetric-coarse", problem) <= 10 * TOL


# Degrees -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "degrees"), [("mixed", DEGREES), ("quadratic", (2,)), ("linear", (1,))])
def test_degrees_are_those_of_the_name(name, degrees):
    """κ·u + tol/4 < tol at κ = 10³ in float32."""
    problem = made(kappa=1e3)
    steps = planned(problem, 1e3, degrees)
    assert {step.degree for step in steps} <= set(degrees) and steps.error <= TOL / 4
    assert planned(problem, 1e3, DEGREES).products() <= steps.products()
    assert error(f"degrees-{name}", problem) <= TOL


def test_arms_take_the_steps_that_they_say(monkeypatch):
    taken, step = {}, CoupledIteration.step

    def noted(self, q, **last):
        degrees.append(q.degree)
        step(self, q, **last)

    monkeypatch.setattr(CoupledIteration, "step", noted)
    for name in ("mixed", "quadratic", "linear"):
        degrees = taken[name] = []
        ARMS[f"degrees-{name}"].make(made())()
    assert set(taken["quadratic"]) == {2} and set(taken["linear"]) == {1} and max(taken["mixed"]) > 2
    assert len(taken["linear"]) > len(taken["quadratic"]) > len(taken["mixed"])


# Looks ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def looks(monkeypatch):
    """What was done to find the ends of the spectrum."""
    seen, ritz, factor_ends = [], ScaledMatrix.ritz, ScaledMatrix.factor_ends

    def counted(self, *steps):
        seen.append("top" if steps == (TOP_STEPS,) else "lanczos")
        return ritz(self, *steps)

    monkeypatch.setattr(ScaledMatrix, "ritz", counted)
    monkeypatch.setattr(ScaledMatrix, "factor_ends", lambda self: seen.append("cholesky") or factor_ends(self))
    return seen


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lanczos", {"lanczos"}), ("cholesky", {"cholesky"}), ("none", set()), ("promised", {"lanczos"})],
)
@pytest.mark.parametrize("problem", [{}, {"root": True}, {"p": 1}, {"batch": 2}, {"k": 48}])
def test_a_look_is_the_one_of_the_name(name, expected, problem, looks):
    problem = made(kappa=1e3, **problem)
    result = ARMS[f"look-{name}"].make(problem)()
    assert set(looks) == expected
    assert result.stats.status_code.max() == 0 and relative_error(result.Z, truth(problem)) <= TOL
    if not any("eigh" in rung for rung in result.stats.fallbacks):
        direct = problem.B is not None and problem.B.shape[-1] == 8
        assert result.stats.strategy == ("direct-solve" if direct else "materialize-root")
    assert expected == set() or result.stats.fallbacks == ()


def test_a_larger_matrix_that_is_factorised_gets_a_few_steps_for_its_upper_end(looks):
    ARMS["look-cholesky"].make(made(n=128))()
    assert looks == ["cholesky", "top"]


def test_what_nobody_looked_at_takes_a_second_round():
    """The hint is 1/20 of the row-sum bound, which is less than 4·λmax here: enough at κ = 5, and not at 10³."""
    rounds = {}
    for name in ("lanczos", "cholesky", "none", "promised"):
        for kappa in (5.0, 1e3):
            rounds[name, kappa] = ARMS[f"look-{name}"].make(made(kappa=kappa, root=True))().stats.fallbacks
    assert {at: taken for at, taken in rounds.items() if taken} == {("none", 1e3): ("more steps",)}


def test_a_look_is_no_public_option():
    problem = made()
    with pytest.raises(TypeError, match="look"):
        solve_spd(problem.A, problem.B, look="lanczos")
    with pytest.raises(ValueError, match="look='guess' is not one of auto, lanczos, cholesky, none"):
        Options(look="guess")


# Their place among the arms ------------------------------------------------------------------------------------------


def test_variants_run_only_when_they_are_named():
    assert not set(_arms.choose()) & set(VARIANTS)
    assert [arm.name for arm in _arms.choose(("look-none", "auto"))] == ["auto", "look-none"]
    with pytest.raises(ValueError) as error:
        _arms.choose(("product-fp8",))
    listed = re.split(r"there are: ", str(error.value))[1].split(", ")
    assert set(ARMS) <= set(listed)


def test_variants_answer_spd_problems_only():
    found = jobs(CASES, VARIANTS, 1, Settings(torch.float32, CPU, TOL, 1, 1))
    assert {job.case.problem for job in found} == {"spd"} and {job.case.p for job in found} == {1, 2, 3, 4, 8}
    assert all((len(PRECISIONS) == sum(arm.name.startswith("triple-") for arm in job.arms)) == (job.case.p == 2)
               for job in found)  # fmt: skip


# Polar factor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30)])
def test_the_polar_factor_has_a_truth_and_arms(shape):
    """Its transpose is the dual form of the identity, which eigh and the library’s accurate arm answer alike."""
    m, n = shape
    problem = build(Case("c", "dual", 2, (), root=True), Point(n, m, 10.0, m=m), 0, torch.float64, CPU, 1e-2)
    true = truth(problem)
    U, _, Vh = torch.linalg.svd(problem.G, full_matrices=False)
    assert true.shape == (n, m) and torch.dist(true.mT, U @ Vh) < 1e-10
    applying = {arm.name for arm in _arms.every_arm() if arm.applies(problem)}
    assert {*POLAR, "eigh64"} <= applying and "auto" not in applying
    assert relative_error(_arms.by_eigh(problem, problem.G, None), true) < 1e-10
    assert relative_error(ARMS["orthogonalize-accurate"].make(problem)(), true) <= 1e-2
    assert relative_error(ARMS["orthogonalize-muon"].make(problem)(), true) <= 0.35  # by design

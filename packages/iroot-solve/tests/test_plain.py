"""The plain way: it answers where all is in order, says nothing elsewhere, and is right like the usual one."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import IrootError, StagnationWarning, solve_spd
from iroot_solve._cholesky import factorised
from iroot_solve._plain import Way, plain
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._solve import destination
from iroot_solve._spd import read_options
from iroot_solve._transpose import is_symmetric

CASES = [Fraction(-1), Fraction(-1, 2), Fraction(-2, 3), Fraction(-1, 4), Fraction(1, 2)]


def _plain(A, B, exponent=Fraction(-1), tol=None, **settings):
    problem = read_problem(A, B, p_val=None, exponent=exponent, tol=tol)
    keywords = {"kappa_max": None, "lambda_max": None, "strategy": "auto", "precision": "auto"} | settings
    options = read_options(problem, **keywords)
    with np.errstate(all="ignore"):
        return plain(problem, options, SolveWorkspace(), destination(problem, None))


@pytest.fixture(params=["small", "large, as chosen", "large, in float32"])
def size(request, monkeypatch):
    """n; what is taken for a matrix of 500 and more is tried on a smaller one."""
    if request.param == "large, in float32":
        quick = {-1: Way("cholesky", "fp32")}
        monkeypatch.setattr("iroot_solve._plain.way_for", lambda task, _: quick.get(task.exponent, Way("eigh", None)))
    return 12 if request.param == "small" else 80


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("exponent", CASES, ids=str)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_as_the_usual_way(spd, rhs, truth, distance, within, monkeypatch, size, batch, exponent, dtype):
    """With a ridge and without, for right-hand sides and the root: the same answer, and honest facts about it."""
    n = size
    A = torch.stack([spd(n, 30.0, seed=i, dtype=dtype) for i in range(3)]) if batch else spd(n, 30.0, dtype=dtype)
    tol = 1e-4 if dtype is torch.float32 else 1e-2
    for B, ridge in ((rhs(*batch, n, 5, dtype=dtype), 0.0), (rhs(*batch, n, 20, dtype=dtype), 0.125), (None, 0.125)):
        found = _plain(A, B, exponent, ridge=ridge)
        assert found is not None and found.Z.dtype is dtype and bool(found.stats.converged.all())
        with monkeypatch.context() as patch:
            patch.setattr("iroot_solve._solve.plain", lambda *_: None)
            usual = solve_spd(A, B, exponent=exponent, ridge=ridge, strategy=found.stats.strategy)
        wanted = truth(A, B, float(exponent), ridge=ridge)
        assert distance(found.Z, wanted) <= within(tol, dtype)
        assert bool((found.stats.error <= tol / 2).all())
        assert torch.equal(found.stats.ridge, usual.stats.ridge)
        ends = torch.linalg.eigvalsh(A.double() + ridge * torch.eye(n, dtype=torch.float64))
        assert bool((found.stats.lambda_max >= ends[..., -1] * (1 - 1e-12)).all())
        assert bool((found.stats.lambda_min >= ends[..., 0] * (1 - 1e-5)).all())
        assert bool((found.stats.lambda_min <= ends[..., 0] * 2.0).all())


def test_public_calls_go_there(spd, rhs, monkeypatch):
    monkeypatch.setattr("iroot_solve._solve.Case", None)
    for p in (1, 2):
        assert solve_spd(spd(32, 1e2), rhs(32, 4), p_val=p).stats.status == "converged"


SETTINGS = {
    "kappa_max": 10.0,
    "lambda_max": 2.0,
    "precision": "fp32",
    "expected_reuse": 2,
    "on_singular": "pinv",
    "verify": False,
    "strategy": "materialize-root",
    "tol": 1e-8,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_else_is_asked_for_is_not_its_business(spd, rhs, setting):
    A, B = spd(12, 5.0), rhs(12, 2)
    assert _plain(A, B) is not None
    assert _plain(A, B, **{setting: SETTINGS[setting]}) is None
    assert _plain(A.double(), B.double()) is None


def _poisoned(A, B):
    n = A.shape[-1]
    entry = torch.zeros(n, n)
    entry[0, 1] = 1.0
    both = entry + entry.mT
    yield "not symmetric", A + 1e-3 * entry, B
    yield "NaN", A + torch.nan * both, B
    yield "infinity", A + 0 * both, B * torch.inf
    yield "infinite and symmetric", torch.where(both > 0, torch.inf, A), B
    yield "indefinite", -A, B
    yield "one negative eigenvalue", A - 0.5 * torch.eye(n), B
    yield "singular", torch.ones(n, n), B
    seen = (torch.arange(n) > 0).float()
    yield "singular where B is zero", torch.diag(seen), seen[:, None] * B
    yield "zero", 0 * A, B
    yield "large", A * 1e25, B
    yield "small", A * 1e-25, B


@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2)], ids=str)
def test_silent_where_something_is_wrong(spd, rhs, size, exponent):
    n = size
    good, right = spd(n, 30.0), rhs(n, 4)
    assert _plain(good, right, exponent) is not None
    for name, A, B in _poisoned(good, right):
        assert _plain(A, B, exponent) is None, name
        batch = torch.stack((good, A)), torch.stack((right, B))
        assert _plain(*batch, exponent) is None, name


def test_a_negative_eigenvalue_that_a_positive_power_hides(rhs):
    """Its residual is as small as it is; the eigenvalue itself is not to be overlooked."""
    n = 12
    diagonal = torch.ones(n)
    assert _plain(torch.diag(diagonal), rhs(n, 3), Fraction(1, 2)) is not None
    diagonal[0] = -1e-6
    assert _plain(torch.diag(diagonal), rhs(n, 3), Fraction(1, 2)) is None


@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2)], ids=str)
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_rounding_of_the_two_triangles_is_averaged(spd, rhs, truth, distance, exponent, ridge):
    """What the lower triangle alone gives is a thousand times further away."""
    n = 48
    skew = torch.triu(torch.randn(n, n, generator=torch.Generator().manual_seed(3)), 1) * 2e-8
    A, B = spd(n, 1e3) + skew, rhs(n, 4)
    assert not torch.equal(A, A.mT)
    found = _plain(A, B, exponent, ridge=ridge)
    wanted = truth((A.double() + A.double().mT) / 2, B.double(), float(exponent), ridge=ridge)
    assert found is not None
    assert distance(found.Z, wanted) <= 2e-7


@pytest.fixture
def quick(monkeypatch):
    """Cholesky in float32, as larger matrices have it."""
    monkeypatch.setattr("iroot_solve._plain.way_for", lambda *_: Way("cholesky", "fp32"))


def test_a_refined_answer_is_its_answer_too(spd, rhs, truth, distance, quick):
    A, B = spd(96, 2e5), rhs(96, 4)
    found = _plain(A, B)
    assert found is not None
    assert found.stats.fallbacks == ("more steps",) and found.stats.precision == "fp32"
    assert distance(found.Z, truth(A, B, -1.0)) <= 1e-4


def test_many_right_hand_sides_are_not_refined(spd, rhs, truth, distance, quick):
    """The diagonal of L tells, before the float32 solve; a few columns are refined all the same."""
    for kappa, wanted in ((1e2, "fp32"), (2e5, "fp64")):
        A, B = spd(96, kappa), rhs(96, 96)
        found = _plain(A, B)
        assert found is not None and found.stats.precision == wanted and found.stats.fallbacks == ()
        assert distance(found.Z, truth(A, B, -1.0)) <= 1e-4
        assert found.stats.products["cholesky"] == 1


@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
def test_the_diagonal_of_the_factor_bounds_the_condition_from_below(spd, kappa):
    A = torch.stack([spd(96, kappa, seed=seed, dtype=torch.float64) for seed in range(3)])
    assert kappa / 50 <= factorised(A, SolveWorkspace()).kappa(A) <= kappa


def test_without_fallback_nothing_is_refined(spd, rhs, quick):
    A, B = spd(96, 2e5), rhs(96, 4)
    assert _plain(A, B, fallback=False) is None
    with pytest.warns(StagnationWarning):
        found = solve_spd(A, B, p_val=1, strategy="cholesky", fallback=False, on_failure="warn", precision="fp32")
    assert found.stats.status == "stagnated" and found.stats.fallbacks == ()


@pytest.mark.parametrize("n", [12, 256])
@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2)], ids=str)
def test_any_scale_is_answered(spd, rhs, truth, distance, n, exponent):
    """Those that float32 cannot square on the way go the usual way; 256 is looked at for its precision."""
    A, B = spd(n, 1e2), rhs(n, 4)
    for power in (-90, -60, -40, -33, -30, -10, 10, 30, 33, 36, 40, 60, 90):
        scaled = A * 2.0**power
        Z = solve_spd(scaled, B, exponent=exponent).Z
        assert distance(Z, truth(scaled, B, float(exponent))) <= 1e-4, power


def test_a_graded_matrix_of_ordinary_size_is_answered(rhs, truth, distance):
    A, B = torch.diag(torch.logspace(0, -12, 256)), rhs(256, 4)
    assert distance(solve_spd(A, B).Z, truth(A, B, -0.5)) <= 1e-4


@pytest.mark.parametrize("kappa", [30.0, 2e5])
@pytest.mark.parametrize("strategy", ["auto", "cholesky", "hybrid-pe-nsrc", "direct-solve"])
def test_out_may_be_what_was_passed(spd, rhs, truth, distance, kappa, strategy, quick):
    """Refinements and rungs still read it: the second κ takes some."""
    A, B = spd(96, kappa), rhs(96, 96)
    wanted = truth(A, B, -1.0)
    for name in ("A", "B", "neither"):
        left, right = A.clone(), B.clone()
        out = {"A": left, "B": right}.get(name, torch.full_like(B, torch.nan))
        assert solve_spd(left, right, p_val=1, strategy=strategy, out=out).Z is out
        assert distance(out, wanted) <= 1e-4, name


def test_what_is_passed_stays_and_the_answer_is_not_of_the_workspace(spd, rhs):
    A, B = spd(12, 30.0), rhs(12, 3)
    kept, first = (A.clone(), B.clone()), solve_spd(A, B, ridge=0.5)
    Z = first.Z.clone()
    second = solve_spd(2 * A, 3 * B, ridge=0.5, workspace=first.workspace)
    assert torch.equal(A, kept[0]) and torch.equal(B, kept[1])
    assert torch.equal(first.Z, Z) and not torch.equal(second.Z, Z)


def test_one_matrix_serves_a_batch_of_right_hand_sides(spd, rhs, truth, distance):
    A, B = spd(12, 30.0), rhs(5, 12, 3)
    found = _plain(A, B, Fraction(-1, 2))
    assert found is not None and found.Z.shape == B.shape and found.stats.error.shape == (5,)
    assert distance(found.Z, truth(A, B, -0.5)) <= 1e-4


def test_half_precision_need_not_be_summed(rhs, truth, distance):
    """64² numbers of about 100 leave float16's range as a sum; each of them is fine."""
    A, B = torch.eye(64).half(), (100 + rhs(64, 64)).half()
    found = _plain(A, B)
    assert found is not None and distance(found.Z, truth(A, B, -1.0)) <= 1e-3


def test_the_precision_of_a_large_eigendecomposition_follows_from_a_look(spd, rhs, truth, distance):
    n = 320
    for kappa, wanted in ((1e2, "fp32"), (1e6, "fp64")):
        A, B = spd(n, kappa), rhs(n, 4)
        found = _plain(A, B, Fraction(-1, 2), strategy="eigh")
        assert found is not None and found.stats.precision == wanted
        assert distance(found.Z, truth(A, B, -0.5)) <= 1e-4


@pytest.mark.parametrize("n", [12, 320])
def test_a_new_matrix_needs_no_new_plan(spd, rhs, monkeypatch, n):
    """Plans cost milliseconds, and no two matrices have the same condition number."""
    B = rhs(n, 4)
    assert _plain(spd(n, 2.0), B, Fraction(-1, 2), strategy="eigh") is not None
    monkeypatch.setattr("iroot_solve._choose.plan", None)
    for kappa in (3.0, 50.0, 1e5):
        assert _plain(spd(n, kappa), B, Fraction(-1, 2), strategy="eigh") is not None


def test_beyond_the_range_of_the_answers_dtype_is_no_answer(spd, rhs):
    """1e3/1e-3 is beyond 65504."""
    A, B = (spd(12, 5.0) * 1e-3).half(), (rhs(12, 2) * 1e3).half()
    assert _plain(A, B) is None
    with pytest.raises(IrootError):
        solve_spd(A, B, p_val=1)


@pytest.mark.parametrize("n", [3, 256, 600])
def test_symmetry_is_seen_in_every_tile(n):
    A = torch.randn(2, n, n)
    A = A + A.mT
    assert is_symmetric(A)
    for i, j in ((0, 1), (n - 1, 0), (n // 2, n - 1), (n - 2, n - 1)):
        other = A.clone()
        other[1, i, j] = torch.nextafter(other[1, i, j], torch.tensor(torch.inf))
        assert not is_symmetric(other)
        other[1, i, j] = other[1, j, i] = torch.nan
        assert not is_symmetric(other)

"""First steps in float64, the others by symmetric products: what they leave, the choice, whole solves; interpreted."""

from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_kernels import CoupledIteration, Workspace
from iroot_solve import SolveWorkspace, _case, _plain, _solve, _symmetric, solve_gram_spd, solve_spd
from iroot_solve._blind import fastest, recordable
from iroot_solve._bridge import polynomial
from iroot_solve._certificate import PlainMatrix, Root, appraise, measure
from iroot_solve._choose import candidates, choose
from iroot_solve._formed_root import root_action, root_parts
from iroot_solve._iterate import Iteration
from iroot_solve._symmetric import MOST_WIDE, symmetric_steps, wide_rounding
from iroot_solve._task import Candidate, Task

quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
N = 64
ROOT = Task(2048, 2048, 1, Fraction(-1, 2), 1e-4, True, device="cuda", symmetric=True)


@pytest.fixture
def interpreted():
    """The kernels on a CPU."""
    if torch.cuda.is_available() or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")


@pytest.fixture
def device(interpreted, monkeypatch):
    """A solve on a CPU takes itself for one on a device with symmetric products, of matrices that are large there."""
    known = _case.task_of

    def task_of(problem, options):
        return replace(known(problem, options), n=2048, device="cuda", symmetric=True, recorded=options.blind)

    for module in (_case, _solve):
        monkeypatch.setattr(module, "task_of", task_of)
    monkeypatch.setattr(_plain, "_applies", lambda problem, options: False)


def _matrix(with_spectrum, kappa, name="log", n=N):
    values = np.logspace(-np.log10(kappa), 0, n) if name == "log" else np.where(np.arange(n) < n // 2, 1 / kappa, 1.0)
    return (0.95 * with_spectrum(values)).float()


def _truth(A, exponent):
    values, V = torch.linalg.eigh(A.double())
    return (V * values ** float(exponent)) @ V.mT


def _error(X, expected):
    return float(torch.dist(X.double(), expected) / expected.norm())


def _root(A, exponent, kappa, wide, first=4):
    """X after `wide` steps in float64 and the others, and its outcome."""
    task = replace(ROOT, n=len(A), k=len(A), exponent=exponent, tol=1e-5)
    schedule = symmetric_steps(task, 1 / kappa, 1.0, False, first)
    how = (wide, A.double()[None]) if wide else None
    settings = {"symmetric": True, "wide": how}
    outcome = replace(
        Iteration(A[None], None, schedule, False, "fp16x3", Workspace(), 1e-5, lambda low, high: schedule), **settings
    ).run()
    return outcome.Z[0], outcome, schedule


@quiet
@pytest.mark.parametrize("name", ["log", "half"])
@pytest.mark.parametrize(
    "exponent", [Fraction(-1, 2), pytest.param(Fraction(-1), marks=pytest.mark.slow), Fraction(-2, 3)], ids=str
)
def test_a_step_in_float64_takes_most_of_the_error_away(interpreted, with_spectrum, exponent, name):
    """κ·u of the first step is nearly all there is; after it there is that of a better conditioned matrix."""
    A = _matrix(with_spectrum, 1e4, name)
    found = [_error(_root(A, exponent, 1.1e4, wide)[0], _truth(A, exponent)) for wide in (0, 1, 2)]
    assert found[1] <= 0.2 * found[0] and found[2] <= found[1] <= 1e-5


@pytest.mark.parametrize("kappa", [1e4, 1e5, 1e6])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_prediction_is_what_is_rounded(with_spectrum, p, kappa):
    """Two planes emulated by torch, from what one step in float64 leaves: not half more, and not less than a tenth."""
    A = _matrix(with_spectrum, kappa, n=192)
    schedule = symmetric_steps(replace(ROOT, exponent=Fraction(-1, p), tol=1e-5), 0.9 / kappa, 1.0, False, 4)
    first, *others = (polynomial(step) for step in schedule)
    wide = CoupledIteration(A.double()[None], p=p, precision="fp64")
    wide.step(first)
    rest = CoupledIteration(wide.Y.float(), wide.X.float(), p=p, precision="fp16x3")
    for i, q in enumerate(others, start=1):
        rest.step(q, last=i == len(others))
    found = _error((rest.X[0] + rest.X[0].mT) / 2, _truth(A, Fraction(-1, p)))
    predicted = wide_rounding(schedule, 1, kappa)
    assert found / 1.5 - schedule.error <= predicted <= 10 * found


@pytest.mark.parametrize("name", ["log", "half"])
@pytest.mark.parametrize("p", [2, 4])
def test_the_certificate_looks_at_what_is_rounded(with_spectrum, p, name):
    """X = R·P: of R it sees six times the error at most, where of X it would see up to forty times; never less than 0.9
    of it."""
    kappa, ws = 1e6, Workspace()
    A = _matrix(with_spectrum, kappa, name, 192)
    schedule = symmetric_steps(replace(ROOT, exponent=Fraction(-1, p)), 0.9 / kappa, 1.0, False, 4)
    first, *others = (polynomial(step) for step in schedule)
    wide = CoupledIteration(A.double()[None], p=p, precision="fp64")
    wide.step(first)
    rest = CoupledIteration(wide.Y.float(), None, p=p, precision="fp16x3")
    for i, q in enumerate(others, start=1):
        rest.step(q, last=i == len(others))
    R = ((rest.X + rest.X.mT) / 2).double()
    X = ((R @ wide.X + wide.X @ R) / 2).float()
    true, size, found = _error(X[0], _truth(A, Fraction(-1, p))), X.double().norm().reshape(1), []
    for parts in (None, root_parts((R, wide.X), ws)):
        root = Root(root_action(X, ws), 2.0**-24, norm=size, parts=parts)
        measured = measure(root, PlainMatrix(A.double()[None]), None, X.double(), Fraction(-1, p), 0)
        found.append(float(appraise(measured.numpy(), 192, 192, root, Fraction(-1, p)).error[0]))
    whole, part = found
    assert 0.9 * true <= part <= 6 * true and part <= 1.05 * whole


@quiet
def test_the_certificate_sees_what_float64_has_made_wrong(interpreted, with_spectrum):
    """P and A are those that it multiplies by: neither a wrong P nor a wrong Y goes unseen."""
    A = _matrix(with_spectrum, 1e4)
    X, outcome, _ = _root(A, Fraction(-1, 2), 1.1e4, 1)
    exponent, judge = Fraction(-1, 2), PlainMatrix(A.double()[None])

    def seen(root):
        measured = measure(root, judge, None, X.double()[None], exponent, 0)
        return float(appraise(measured.numpy(), N, N, root, exponent).error[0])

    R, P = outcome.root.parts
    assert seen(outcome.root) <= 1e-5
    for parts in ((R, lambda j, V: 1.01**j * P(j, V)), (lambda j, V: 1.01**j * R(j, V), P)):
        assert seen(replace(outcome.root, parts=parts)) >= 5e-3


@quiet
def test_the_next_rung_takes_more_steps_in_float64(device, with_spectrum, monkeypatch):
    """What one left is worse than was predicted, but by little: two, and not all of them."""
    monkeypatch.setattr(_symmetric, "wide_rounding", lambda *given: wide_rounding(*given) / 50)
    choose.cache_clear()
    A = _matrix(with_spectrum, 1e6, "half")
    found = solve_spd(A, None, p_val=2, strategy="materialize-root", kappa_max=1.2e6)
    choose.cache_clear()
    assert found.stats.fallbacks == ("materialize-root in fp16x3, the first 2 steps in float64",)
    assert found.stats.status == "converged" and found.stats.precision == "fp16x3"
    assert _error(found.Z, _truth(A, Fraction(-1, 2))) <= 1e-5


@quiet
@pytest.mark.parametrize("p", [3, 4])
def test_there_is_an_end_of_rungs(device, with_spectrum, monkeypatch, p):
    """Where the estimate is of something that no caution mends, a few rungs lead to float64."""
    seen, judged = [], _case.Case.certify

    def certify(case, outcome, out):
        seen.append(outcome.precision)
        verdict = judged(case, outcome, out)
        worse = 0.0 if outcome.precision == "fp64" else 7e-5
        return verdict._replace(certificate=verdict.certificate._replace(error=verdict.certificate.error + worse))

    monkeypatch.setattr(_case.Case, "certify", certify)
    A = _matrix(with_spectrum, 1e4)
    for strategy, B in (("materialize-root", None), ("direct-solve", torch.ones(N, 3))):
        seen.clear()
        found = solve_spd(A, B, p_val=p, strategy=strategy)
        assert found.stats.status == "converged" and found.stats.precision == "fp64" and 2 <= len(seen) <= 5


def test_caution():
    """Of what is rounded, not of what is truncated, by powers of two; in float64 none."""
    schedule = symmetric_steps(ROOT, 1e-5, 1.0, False, 4)
    c = Candidate("materialize-root", "fp16x3", schedule, 9.0, 1.0, schedule.error + 1e-5, True, wide=1)
    assert c.caution_of(schedule.error + 6e-5) == 8.0 and c.caution_of(1e-6) == 1.0
    assert c.with_caution(8.0) == pytest.approx(schedule.error + 8e-5)
    assert replace(c, precision="fp64").with_caution(8.0) == c.error
    one = choose(replace(ROOT, recorded=True), 0.5e-5, 1.0, "materialize-root", 1e5)
    two = fastest(replace(ROOT, recorded=True, caution=8.0), 0.5e-5, 1.0, 1e5, ("materialize-root",))
    assert (one.wide, two.wide) == (1, 2) and two.error < one.error / 4


@quiet
def test_what_it_did(interpreted, with_spectrum):
    """Symmetric, with the iterate before the last step, and all products counted."""
    A = _matrix(with_spectrum, 1e4)
    X, outcome, schedule = _root(A, Fraction(-1, 2), 1.1e4, 1)
    assert torch.equal(X, X.mT) and outcome.steps == len(schedule) and outcome.resume is None
    assert outcome.backend == "triton: symmetric products, the first 1 in float64"
    # X begins anew after it, which saves a product, and the last one joins the two.
    assert outcome.products["square"] == schedule.products()
    y = torch.linalg.eigvalsh(outcome.iterate[0].double())
    end = schedule.steps[-1]
    assert end.lo * (1 - 1e-3) <= float(y[0]) and float(y[-1]) <= end.hi * (1 + 1e-3)
    V = torch.randn(1, N, 3, dtype=torch.float64)
    assert torch.dist(outcome.root.power(1, V), X.double() @ V) <= 1e-6 * V.norm()


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("p", "kappa"), [(2, 1e4), (2, 1e5), (2, 1e6), (4, 1e5), (4, 1e6)])
def test_it_takes_the_place_of_float64(p, kappa, recorded):
    """Where two planes alone round too much, in less than two thirds of the time."""
    task = replace(ROOT, exponent=Fraction(-1, p), recorded=recorded, reduced=not recorded)
    low = 0.5 / kappa
    if recorded:
        found = fastest(task, low, 1.0, kappa, recordable(task, "auto"))
    else:
        found = choose(task, low, 1.0, "materialize-root", kappa)
    wide = choose(replace(task, precisions=("fp64",)), low, 1.0, "materialize-root", kappa)
    assert found.wide in MOST_WIDE and found.precision == "fp16x3" and found.error <= task.tol / 2
    assert found.milliseconds <= (0.75 if recorded else 0.85) * wide.milliseconds


def test_it_is_for_float32_whose_float64_is_exact():
    """Not for a precision that was asked for, for a rounded GᵀG, for one step, or where two planes do."""
    for task in (
        replace(ROOT, precisions=("fp16x3",)),
        replace(ROOT, precisions=("fp64",)),
        replace(ROOT, formed=True),
    ):
        assert not any(c.wide for c in candidates(task, 1e-4, 1.0))
    for c in candidates(ROOT, 0.7, 1.0):
        assert not c.wide or len(c.schedule) > c.wide
    assert not choose(ROOT, 1e-2, 1.0, "materialize-root").wide


def test_the_prediction_is_of_what_is_left():
    """More steps in float64 leave less, and less for a larger condition than one of two planes."""
    found = {}
    for c in candidates(ROOT, 1e-5, 1.0):
        if c.symmetric and c.precision == "fp16x3" and not c.coarse and c.schedule.steps[0].degree == 4:
            found[c.wide] = c.error - c.schedule.error
    assert found[2] < 0.2 * found[1] < 0.1 * found[0]


@quiet
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("deferred", [False, True])
def test_a_whole_solve(device, with_spectrum, rhs, right, deferred):
    A = _matrix(with_spectrum, 2.5e4)
    B = rhs(N, 40).float() if right else None
    settings = {"verify": "deferred", "on_failure": "nan"} if deferred else {}
    found = solve_spd(A, B, p_val=2, strategy="materialize-root", kappa_max=3e4, **settings)
    expected = _truth(A, Fraction(-1, 2))
    true = _error(found.Z, expected if B is None else expected @ B.double())
    assert found.stats.status == "converged" and found.stats.fallbacks == () and "in float64" in found.stats.backend
    assert found.stats.precision == "fp16x3" and true <= 2e-5
    assert float(found.stats.error) >= true / 3 - 2.0**-24


@quiet
def test_a_root_that_is_there_is_judged_by_its_parts(device, with_spectrum, rhs):
    """For another right-hand side, by R and P that were kept with it: as near to the error as the first estimate."""
    A, ws = _matrix(with_spectrum, 1e6, "half"), SolveWorkspace()
    settings = {"strategy": "materialize-root", "kappa_max": 1.2e6, "expected_reuse": 4, "workspace": ws}
    for seed in (1, 2):
        B = rhs(N, 40, seed=seed).float()
        found = solve_spd(A, B, p_val=2, **settings)
        true = _error(found.Z, _truth(A, Fraction(-1, 2)) @ B.double())
        assert found.stats.status == "converged" and found.stats.fallbacks == ()
        assert true / 3 <= float(found.stats.error) <= 4 * true + 2.0**-23
    assert "formed by an earlier call" in str(found.schedule)


@quiet
def test_a_broken_promise_is_found(device, with_spectrum):
    """An eigenvalue below the promise: NaN where nothing is read, a rung where something is."""
    A = _matrix(with_spectrum, 1e6)
    lost = solve_spd(A, None, p_val=2, strategy="materialize-root", kappa_max=3e4, verify="deferred", on_failure="nan")
    assert lost.stats.status == "stagnated" and bool(lost.Z.isnan().all())
    found = solve_spd(A, None, p_val=2, strategy="materialize-root", kappa_max=3e4)
    assert found.stats.status == "converged" and found.stats.fallbacks
    assert _error(found.Z, _truth(A, Fraction(-1, 2))) <= 1e-4


@quiet
def test_a_formed_gram_matrix_is_not_widened(device, rhs):
    G = rhs(200, N).float()
    found = solve_gram_spd(G, None, p_val=2, kappa_max=100.0, strategy="materialize-root")
    assert found.stats.status == "converged" and "in float64" not in found.stats.backend


# On a device ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("n", "kappa"), [(1024, 1e4), (1024, 1e6), (2050, 1e5)])
@pytest.mark.parametrize("p", [2, 4])
def test_on_a_device(n, kappa, p):
    """At the usual tolerance, promised or not, recorded or not: right, and not all in float64."""
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, device="cuda")).Q
    A = (Q * torch.logspace(0, -np.log10(kappa), n, dtype=torch.float64, device="cuda")) @ Q.mT
    A = ((A + A.mT) / 2).float()
    expected, ws = _truth(A, Fraction(-1, p)), SolveWorkspace()
    for promise in (None, *[1.05 * kappa] * 5):  # the later ones are replayed
        found = solve_spd(A, None, p_val=p, kappa_max=promise, workspace=ws)
        true = _error(found.Z, expected)
        assert found.stats.status == "converged" and true <= 1e-4 and float(found.stats.error) >= true / 3 - 2.0**-24
    assert found.stats.precision == "fp16x3" and found.stats.fallbacks == ()

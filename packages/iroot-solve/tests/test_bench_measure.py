"""Measuring: every call one sample, arms in turns, true errors beside times, and nothing lost where an arm fails."""

import math
import time
from dataclasses import replace

import pytest
import torch
from iroot_solve import solve_gram_spd
from iroot_solve.bench import _arms
from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench._cases import Case, Point
from iroot_solve.bench._measure import Settings, jobs, key, keys, measure
from iroot_solve.bench._problems import build, truth
from iroot_solve.bench._spectra import thinned

CPU = torch.device("cpu")
SETTINGS = Settings(torch.float32, CPU, 1e-4, reps=3, warmups=1)
N, KAPPA = 16, 10.0
CASE = Case("Small p=2", "spd", 2, (Point(N, 4, KAPPA),))


def arm(name, call):
    """An arm that answers everything with what `call(problem)` gives."""
    return Arm(name, "", lambda problem: True, lambda problem: lambda: call(problem))


def right(problem):
    return truth(problem).float()


def samples_of(*arms, case=CASE, settings=SETTINGS, trials=1, done=()):
    return [s for job in jobs([case], arms, trials, settings) for s in measure(job, settings, done)]


def refuse(problem):
    raise RuntimeError("no convergence\nin 30 sweeps")


def test_every_call_is_one_sample_and_every_round_has_every_arm():
    arms = [arm(name, right) for name in "abcdef"]
    samples = samples_of(*arms, trials=2)
    assert [(s.trial, s.rep) for s in samples] == [(t, r) for t in range(2) for r in range(3) for _ in arms]
    orders = ["".join(s.arm for s in samples[i : i + 6]) for i in range(0, 36, 6)]
    assert all(sorted(order) == list("abcdef") for order in orders) and len(set(orders)) > 1
    assert [s.arm for s in samples_of(*arms, trials=2)] == [s.arm for s in samples]
    assert len({key(s) for s in samples}) == len(samples)
    assert {key(s) for s in samples} == {k for job in jobs([CASE], arms, 2, SETTINGS) for k in keys(job, 3)}


def test_a_sample_says_where_it_is_from():
    sample = samples_of(arm("a", right))[0]
    assert (sample.case, sample.problem, sample.p, sample.n, sample.m, sample.k) == ("Small p=2", "spd", 2, N, None, 4)
    assert (sample.batch, sample.kappa, sample.dtype, sample.status) == (1, KAPPA, "float32", "done")
    assert (sample.estimate, sample.took, sample.products) == (None, "", {}) and sample.ms > 0


def test_the_error_of_a_wrong_arm_shows():
    # The truth rounded to float32 is off by at most u = 2⁻²⁴; what is 1 % too large by 1e-2 ± u.
    samples = samples_of(arm("right", right), arm("wrong", lambda problem: 1.01 * truth(problem)))
    errors = {name: {s.error for s in samples if s.arm == name} for name in ("right", "wrong")}
    assert max(errors["right"]) <= 2.0**-24
    assert list(errors["wrong"]) == [pytest.approx(1e-2, rel=1e-6)]


def test_the_first_call_is_not_timed_and_warm_ups_come_before_the_rounds():
    calls = []

    def slow_at_first(problem):
        calls.append(time.sleep(0.2 if len(calls) < 3 else 0.0))
        return right(problem)

    samples = samples_of(arm("a", slow_at_first), settings=replace(SETTINGS, warmups=3))
    assert len(calls) == 6 and len(samples) == 3 and min(s.ms for s in samples) < 200
    calls.clear()
    assert len(samples_of(arm("a", slow_at_first), settings=replace(SETTINGS, warmups=0))) == 3 and len(calls) == 4


def test_time_is_that_of_the_call():
    [sample] = samples_of(arm("a", lambda p: time.sleep(0.03) or right(p)), settings=replace(SETTINGS, reps=1))
    assert 30 <= sample.ms < 1000


def test_an_arm_that_raises_is_recorded_as_failed_and_harms_no_other():
    samples = samples_of(arm("bad", refuse), arm("good", right))
    assert {s.status for s in samples if s.arm == "bad"} == {"failed: RuntimeError: no convergence"}
    assert [s.rep for s in samples if s.arm == "bad"] == [0, 1, 2]
    assert all(s.error is None and math.isfinite(s.ms) for s in samples if s.arm == "bad")
    assert all(s.error <= 2.0**-24 and s.status == "done" for s in samples if s.arm == "good")


def test_an_arm_that_cannot_be_set_up_is_recorded_too():
    samples = samples_of(Arm("bad", "", lambda problem: True, refuse), arm("good", right))
    assert {s.status for s in samples if s.arm == "bad"} == {"failed: RuntimeError: no convergence"}
    assert len(samples) == 6


def test_an_answer_that_is_no_number_has_no_error():
    assert {s.error for s in samples_of(arm("nan", lambda problem: truth(problem) * torch.nan))} == {None}


def test_finished_calls_are_not_made_again():
    made = []
    arms = [arm("a", lambda p: made.append("a") or right(p)), arm("b", lambda p: made.append("b") or right(p))]
    whole = samples_of(*arms)
    made.clear()
    kept = [s for s in whole if s.arm == "a" or s.rep < 1]
    rest = samples_of(*arms, done={key(s) for s in kept})
    assert [key(s) for s in rest] == [key(s) for s in whole if s not in kept]
    assert set(made) == {"b"}
    made.clear()
    assert samples_of(*arms, done={key(s) for s in whole}) == [] and made == []


def test_a_slow_arm_leaves_the_rounds_early_but_not_before_the_first():
    arms = [arm("slow", lambda p: time.sleep(0.2) or right(p)), arm("quick", right)]
    samples = samples_of(*arms, settings=replace(SETTINGS, budget_ms=500.0))
    assert [s.rep for s in samples if s.arm == "quick"] == [0, 1, 2]
    assert [s.rep for s in samples if s.arm == "slow"] in ([0, 1], [0])  # two of 200 ms; one where the machine is busy
    samples = samples_of(*arms, settings=replace(SETTINGS, budget_ms=1.0))
    assert [s.rep for s in samples if s.arm == "slow"] == [0]


# Spectra --------------------------------------------------------------------------------------------------------------


def test_one_sample_of_each_point_has_the_spectrum():
    points = Case("Two", "spd", 2, (Point(N, 4, 10.0), Point(N, 4, 100.0)))
    samples = samples_of(arm("a", right), arm("b", right), case=points, trials=2)
    described = [s for s in samples if s.spectrum is not None]
    assert [(s.kappa, s.trial, s.rep) for s in described] == [(10.0, 0, 0), (100.0, 0, 0)]
    assert [s is next(other for other in samples if other.kappa == s.kappa) for s in described] == [True, True]


def test_a_run_that_goes_on_has_each_spectrum_once():
    arms = [arm("a", right), arm("b", right)]
    whole = samples_of(*arms)
    for end in range(len(whole) + 1):
        rest = samples_of(*arms, done={key(s) for s in whole[:end]})
        assert [s.spectrum for s in whole[:end] + rest] == [s.spectrum for s in whole]


@pytest.mark.parametrize(("kind", "size"), [("spd", N), ("gram", N), ("dual", N), ("nonspd", N), ("batch", 3 * N)])
def test_a_spectrum_is_that_of_the_construction(kind, size):
    """λ, σ² log-spaced in [1/κ, 1] (σ where κ is that of A itself); rounding to float32 moves the lowest by κ·u."""
    case = SMALL.get(kind) or Case("c", "spd", 2, (Point(N, 4, KAPPA),))
    count = min(size, 33)
    made = thinned(build(case, case.points[0], 0, torch.float32, CPU, 1e-4))
    values = sorted([-i / (N - 1) for i in range(N)] * (size // N))
    expected = [values[round(i * (size - 1) / (count - 1))] for i in range(count)]
    assert made == pytest.approx(expected, abs=1e-4) and made == sorted(made)


def test_a_wide_gram_matrix_has_its_ridge_as_often_as_it_is_an_eigenvalue():
    case = SMALL["wide"]
    found = thinned(build(case, case.points[0], 0, torch.float64, CPU, 1e-4))
    ridge = 1 / (KAPPA - 1)
    assert found[:N] == pytest.approx([math.log10(ridge)] * N, abs=1e-4)
    assert found[-1] == pytest.approx(math.log10(1 + ridge), abs=1e-4)


def test_eigenvalues_that_are_not_positive_have_no_logarithm():
    A = torch.diag(torch.tensor([-1.0, 0.0, 1.0, 100.0]))
    assert thinned(Problem("spd", A, None, None, 2, 1.0, 1e-4, 0.0)) == [None, None, 0.0, 2.0]


def test_an_interrupt_is_no_failure_of_an_arm():
    def stop(problem):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        samples_of(arm("a", stop))


# The arms that are there ----------------------------------------------------------------------------------------------

SMALL = {
    "spd p=1": Case("c", "spd", 1, (Point(N, 4, KAPPA),)),
    "spd p=3": Case("c", "spd", 3, (Point(N, 4, KAPPA),)),
    "root": Case("c", "spd", 2, (Point(N, N, KAPPA),), root=True),
    "inverse": Case("c", "spd", 1, (Point(N, N, KAPPA),), root=True),
    "batch": Case("c", "spd", 2, (Point(N, 4, KAPPA, batch=3),)),
    "gram": Case("c", "gram", 2, (Point(N, 4, KAPPA, m=2 * N),)),
    "wide": Case("c", "gram", 2, (Point(2 * N, 4, KAPPA, m=N),)),
    "dual": Case("c", "dual", 2, (Point(N, 4, KAPPA, m=2 * N),)),
    "wide dual": Case("c", "dual", 2, (Point(2 * N, 4, KAPPA, m=N),)),
    "nonspd": Case("c", "nonspd", 1, (Point(N, 4, KAPPA),)),
}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_own_strategies_and_baselines_answer_within_tol(kind, dtype):
    """tol is the library's promise; baselines in float32 or finer at κ = 10 and n ≤ 32 are off by less than n·κ·u₃₂.

    In bfloat16 the last rounding, u = 2⁻⁸, is added once.
    """
    tol = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2}[dtype]
    settings = Settings(dtype, CPU, tol, reps=1, warmups=1)
    samples = samples_of(*_arms.OWN, *_arms.BASELINES, case=SMALL[kind], settings=settings)
    rounding = torch.finfo(dtype).eps / 2
    assert {s.arm for s in samples} >= {"auto"} and len(samples) >= 2
    for s in samples:
        assert s.status in ("converged", "done"), s
        assert s.error <= tol + rounding, s
        assert (s.estimate is None) == (s.took == "") == (not s.products) == (s.status == "done"), s


def test_an_own_arm_that_misses_tol_says_so_and_is_timed():
    settings = Settings(torch.float32, CPU, 1e-9, reps=1, warmups=1)  # below u of float32
    samples = samples_of(*_arms.choose(("auto",)), settings=settings)
    assert [s.status for s in samples] == ["stagnated"]


def test_gram_matrices_are_formed_in_every_call():
    [auto] = _arms.choose(("auto",))
    [job] = jobs([SMALL["gram"]], [auto], 1, SETTINGS)
    problem = build(job.case, job.point, 0, torch.float32, CPU, 1e-4)
    call = auto.make(problem)
    call()
    assert call().workspace._kept == {}
    assert solve_gram_spd(problem.G, problem.B).workspace._kept  # what a user has by default


@pytest.mark.gpu
def test_on_a_gpu_the_clock_waits_for_the_device():
    device, n = torch.device("cuda"), 4096
    A = torch.randn(n, n, device=device)

    def products(problem):
        for _ in range(20):
            A @ A
        return truth(problem)

    # 20 products of 2·4096³ flops are 2.7e12; no device does more than 1e15 a second.
    [sample] = samples_of(arm("a", products), settings=replace(SETTINGS, device=device, reps=1))
    assert sample.ms >= 2.7

"""Line 4: l_target, schedules and promised bounds are hints; what they miss, the solver finds out and says."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from iroot_solve import PrecondConfig, ScheduleConfig, StagnationError, build_schedule, solve_spd
from iroot_solve._case import Case
from iroot_solve._options import Options
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveWorkspace
from iroot_solve._spd import read_options
from iroot_solve._spectrum import spectrum

ITERATIONS = ["direct-solve", "materialize-root"]


@pytest.mark.parametrize("l_target", [0.9, 0.05, 1e-6])
@pytest.mark.parametrize("strategy", ["auto", *ITERATIONS])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_l_target_does_not_distort(spd, rhs, truth, distance, within, p, strategy, l_target):
    A, B = spd(32, 1e4), rhs(32, 4)
    hint = ScheduleConfig(l_target=l_target), PrecondConfig(l_target=l_target)
    result = solve_spd(A, B, p_val=p, strategy=strategy, schedule_config=hint[0], precond_config=hint[1])
    assert result.stats.status == "converged"
    assert distance(result.Z, truth(A, B, -1 / p)) <= within(1e-4, A.dtype)


def test_the_smaller_of_two_l_targets_counts():
    assert Options(schedule=ScheduleConfig(l_target=0.3), precond=PrecondConfig(l_target=0.01)).l_target == 0.01
    assert Options(schedule=ScheduleConfig(l_target=0.01), precond=PrecondConfig(l_target=0.3)).l_target == 0.01


@pytest.mark.parametrize("strategy", ITERATIONS)
def test_a_given_schedule_is_used(spd, rhs, truth, distance, within, strategy):
    abc_t, _ = build_schedule("cpu", p_val=2, config=ScheduleConfig(l_target=0.01))
    A, B = spd(32, 20.0), rhs(32, 4)
    Z, _, stats, schedule = solve_spd(A, B, abc_t=abc_t, strategy=strategy, tol=1e-3, fallback=False)
    assert stats.steps == len(abc_t) == len(schedule)
    for step, row in zip(schedule, abc_t.tolist(), strict=True):
        assert step.monomial == pytest.approx(row)
    assert distance(Z, truth(A, B, -0.5)) <= within(1e-3, A.dtype)


@pytest.mark.parametrize("strategy", ITERATIONS)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_given_schedule_that_is_too_short_is_found_out(spd, rhs, truth, distance, within, p, strategy):
    abc_t, _ = build_schedule("cpu", p_val=p, config=ScheduleConfig(l_target=0.5))
    A, B = spd(32, 1e3), rhs(32, 4)
    result = solve_spd(A, B, p_val=p, abc_t=abc_t, strategy=strategy)
    assert result.stats.status == "converged"
    assert len(result.stats.fallbacks) >= 1
    assert distance(result.Z, truth(A, B, -1 / p)) <= within(1e-4, A.dtype)
    with pytest.raises(StagnationError):
        solve_spd(A, B, p_val=p, abc_t=abc_t, strategy=strategy, fallback=False)


def test_a_given_schedule_as_rows_of_numbers(spd, rhs):
    abc_t, _ = build_schedule("cpu", p_val=2)
    A, B = spd(16, 4.0), rhs(16, 2)
    Z = solve_spd(A, B, abc_t=abc_t, strategy="direct-solve", tol=1e-2).Z
    assert torch.equal(Z, solve_spd(A, B, abc_t=abc_t.tolist(), strategy="direct-solve", tol=1e-2).Z)


@pytest.mark.parametrize("abc_t", [[], [[1.0, 2.0]], torch.ones(3), torch.ones(2, 4)])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve"])
def test_a_given_schedule_of_another_shape_is_refused(spd, rhs, abc_t, strategy):
    with pytest.raises(ValueError, match=r"abc_t must have shape \(T, 3\)"):
        solve_spd(spd(16, 4.0), rhs(16, 2), abc_t=abc_t, strategy=strategy)


@pytest.mark.parametrize("strategy", ["auto", *ITERATIONS])
@pytest.mark.parametrize("promised", [10.0, 1e3, 1e6])
def test_a_promised_condition_is_verified(spd, rhs, truth, distance, within, promised, strategy):
    A, B = spd(32, 1e3), rhs(32, 4)
    result = solve_spd(A, B, kappa_max=promised, strategy=strategy)
    assert result.stats.status == "converged"
    assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("factor", [0.9, 0.3, 0.03])
@pytest.mark.parametrize("strategy", ITERATIONS)
def test_an_underestimated_lambda_max_is_caught(spd, rhs, truth, distance, within, strategy, p, factor):
    """Silent convergence to −λ^(-1/p), or divergence: never reported as converged."""
    A, B = spd(32, 1e2), rhs(32, 4)
    result = solve_spd(A, B, p_val=p, lambda_max=factor, strategy=strategy, fallback=False, on_failure="nan")
    if result.stats.status == "converged":
        assert distance(result.Z, truth(A, B, -1 / p)) <= within(1e-4, A.dtype)
    else:
        assert result.stats.status == "stagnated"
    rescued = solve_spd(A, B, p_val=p, lambda_max=factor, strategy=strategy)
    assert rescued.stats.status == "converged"
    assert distance(rescued.Z, truth(A, B, -1 / p)) <= within(1e-4, A.dtype)


def test_a_true_promise_of_lambda_max_is_kept(spd, rhs, truth, distance, within):
    A, B = 3 * spd(32, 1e2), rhs(32, 4)
    result = solve_spd(A, B, lambda_max=3.0001, strategy="materialize-root")
    assert result.stats.status == "converged" and not result.stats.fallbacks
    assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize(
    "setting", [{"kappa_max": 0.5}, {"lambda_max": 0.0}, {"lambda_max": -1.0}, {"expected_reuse": 0}]
)
def test_promises_out_of_range_are_refused_by_name(spd, rhs, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        solve_spd(spd(8, 10.0), rhs(8, 1), **setting)


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root", "hybrid-pe-nsrc"])
@pytest.mark.parametrize("look", ["lanczos", "cholesky"])
@pytest.mark.filterwarnings("ignore::iroot_solve.StagnationWarning")
def test_a_promised_condition_that_B_does_not_show_broken(with_spectrum, truth, distance, monkeypatch, strategy, look):
    """κ = 1e5 where 10 was promised, B has next to nothing of that eigenvector, and the look has missed it as well."""
    A = with_spectrum([1e-5, *np.linspace(0.2, 1.0, 95)])
    V = torch.linalg.eigh(A).eigenvectors
    B = (V[:, 1:] @ torch.ones(95, 2, dtype=torch.float64) + 1e-6 * V[:, :1]).float()
    monkeypatch.setattr("iroot_solve._spd.Options", partial(Options, look=look))
    seen = Case.look

    def blinkered(case):
        seen(case)
        case.ends = 0.2 * case.ends[1], case.ends[1]

    monkeypatch.setattr(Case, "look", blinkered)
    settings = {"p_val": 1, "strategy": strategy, "kappa_max": 10.0}
    result = solve_spd(A.float(), B, fallback=False, on_failure="warn", **settings)
    assert distance(result.Z, truth(A.float(), B, -1)) > 1e-3 and result.stats.status == "stagnated"
    result = solve_spd(A.float(), B, **settings)
    assert distance(result.Z, truth(A.float(), B, -1)) <= 1e-4 and result.stats.status == "converged"


def test_a_promised_condition_that_a_look_contradicts_is_not_planned_for(with_spectrum, rhs, truth, distance):
    """A series has nothing but the promise: its error estimate holds for that interval alone."""
    A, B = with_spectrum([1e-9, *np.linspace(0.5, 1.0, 127)]), rhs(128, 2, dtype=torch.float64)
    for strategy in ("auto", "chebyshev", "cayley", "direct-solve"):
        result = solve_spd(A, B, strategy=strategy, kappa_max=2.5, tol=1e-3)
        assert result.stats.status == "converged" and distance(result.Z, truth(A, B, -0.5)) <= 1e-3
        assert any("kappa_max=2.5" in rung for rung in result.stats.fallbacks)


def test_a_promise_for_A_says_nothing_of_what_a_congruence_makes_of_it(spd):
    """Rounding is predicted for D·A·D as it is seen; for A itself for the promise, where the bound of λmax is loose."""
    A = spd(64, 1e3)
    for mode, capped in (("jacobi", False), ("none", True)):
        read = read_problem(A, None, p_val=1, exponent=None, tol=1e-4)
        settings = {"kappa_max": 1e3, "precond_config": PrecondConfig(mode)}
        case = Case(read, read_options(read, **settings), SolveWorkspace())
        case.look()
        facts = case.read()
        likely = float((facts.upper / facts.low).max()) if not capped else 1e3
        known = spectrum(case, replace(facts, upper=4 * facts.upper))
        assert (known.kappa <= 1e3 * 2**0.25) == capped and (capped or known.kappa >= likely)

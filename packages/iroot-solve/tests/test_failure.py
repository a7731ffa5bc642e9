"""Line 7: the ladder, each rung recorded, and what on_failure does."""

import warnings

import numpy as np
import pytest
import torch
from iroot_solve import (
    IrootError,
    NotPositiveDefiniteError,
    ScheduleConfig,
    SingularMatrixError,
    StagnationError,
    StagnationWarning,
    build_schedule,
    solve_spd,
)


def test_higher_precision_is_a_rung(spd, rhs, truth, distance, within):
    A, B = spd(24, 1e4), rhs(24, 4)
    Z, _, stats, _ = solve_spd(A, B, strategy="materialize-root", precision="bf16")
    assert stats.fallbacks[-1] == "materialize-root in fp64"
    assert stats.precision == "fp64" and stats.status == "converged"
    assert distance(Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)


def test_eigh_in_float64_is_the_last_rung(with_spectrum, rhs, exact, distance):
    A, B = with_spectrum(np.logspace(-11, 0, 24)), rhs(24, 2, dtype=torch.float64)
    with pytest.raises(StagnationError) as caught:
        solve_spd(A, B, p_val=1, tol=1e-9, strategy="materialize-root")
    assert caught.value.stats.fallbacks[-1] == "eigh in fp64"


def test_more_steps_is_a_rung(spd, rhs, truth, distance, within):
    abc_t, _ = build_schedule("cpu", p_val=2, config=ScheduleConfig(l_target=0.3))
    A, B = spd(24, 1e2), rhs(24, 4)
    Z, _, stats, schedule = solve_spd(A, B, strategy="materialize-root", abc_t=abc_t)
    assert stats.fallbacks[0] == "more steps" and stats.status == "converged"
    assert stats.steps > len(abc_t)
    assert "\n" not in str(schedule)
    assert distance(Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)


def test_work_of_all_rungs_is_counted(spd, rhs):
    A, B = spd(24, 1e4), rhs(24, 4)
    first = solve_spd(A, B, strategy="materialize-root", precision="bf16", fallback=False, on_failure="nan").stats
    whole = solve_spd(A, B, strategy="materialize-root", precision="bf16").stats
    assert whole.products["square"] > first.products["square"]
    assert whole.steps > first.steps


def test_without_fallback_the_first_attempt_stays(spd, rhs):
    A, B = spd(24, 1e4), rhs(24, 4)
    with pytest.raises(StagnationError) as caught:
        solve_spd(A, B, strategy="materialize-root", precision="bf16", fallback=False)
    assert caught.value.stats.fallbacks == () and caught.value.stats.precision == "bf16"


@pytest.fixture
def mixed(spd, rhs):
    """Good, indefinite, good, zero, good."""
    A = spd(16, 1e2).repeat(5, 1, 1)
    A[1] -= 0.5 * torch.eye(16)
    A[3] = 0
    return A, rhs(5, 16, 2)


CODES = ["converged", "not_positive_definite", "converged", "singular", "converged"]


def test_nan_is_for_the_matrix_that_failed_only(mixed, truth, distance, within):
    A, B = mixed
    Z, _, stats, _ = solve_spd(A, B, on_failure="nan")
    assert stats.status == CODES
    assert Z.isnan().all(-1).all(-1).tolist() == [False, True, False, True, False]
    assert stats.error.isinf().tolist() == [False, True, False, True, False]
    for i in (0, 2, 4):
        assert distance(Z[i], truth(A[i], B[i], -0.5)) <= within(1e-4, A.dtype)


def test_nan_hides_an_answer_that_misses_the_tolerance(spd, rhs):
    A, B = spd(16, 5.0), rhs(16, 2)
    Z, _, stats, _ = solve_spd(A, B, tol=1e-9, on_failure="nan")
    assert stats.status == "stagnated" and Z.isnan().all()


def test_warn_gives_the_best_answer_and_says_so(spd, rhs, truth, distance):
    A, B = spd(16, 5.0), rhs(16, 2)
    with pytest.warns(StagnationWarning, match="below the rounding of torch.float32") as caught:
        Z, _, stats, _ = solve_spd(A, B, tol=1e-9, on_failure="warn")
    assert caught[0].filename == __file__
    assert stats.status == "stagnated"
    assert distance(Z, truth(A, B, -0.5)) <= 1e-6


def test_warn_gives_nan_where_there_is_no_answer(mixed):
    A, B = mixed
    with pytest.warns(StagnationWarning, match=r"A\[1\].*is not positive definite"):
        Z, _, stats, _ = solve_spd(A, B, on_failure="warn")
    assert stats.status == CODES
    assert Z.isnan().all(-1).all(-1).tolist() == [False, True, False, True, False]


def test_raise_names_the_matrix_and_carries_everything(mixed):
    A, B = mixed
    with pytest.raises(IrootError, match=r"A\[\d\]") as caught:
        solve_spd(A, B)
    assert isinstance(caught.value, torch.linalg.LinAlgError)
    assert caught.value.result.Z.shape == B.shape
    assert caught.value.stats.status[1:4:2] != ["converged", "converged"]


def test_success_is_silent(spd, rhs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for on_failure in ("raise", "warn", "nan"):
            assert solve_spd(spd(16, 5.0), rhs(16, 2), on_failure=on_failure).Z.isfinite().all()


def test_an_unknown_on_failure_is_refused(spd, rhs):
    with pytest.raises(ValueError, match="on_failure='ignore' is not one of raise, warn, nan"):
        solve_spd(spd(8, 5.0), rhs(8, 2), on_failure="ignore")


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
def test_every_strategy_comes_to_the_same_verdict(spd, with_spectrum, rhs, strategy, p):
    B = rhs(16, 2, dtype=torch.float64)
    indefinite = with_spectrum(np.linspace(-0.1, 1, 16))
    with pytest.raises(NotPositiveDefiniteError):
        solve_spd(indefinite, B, p_val=p, strategy=strategy)
    G = rhs(16, 4, dtype=torch.float64)
    with pytest.raises(SingularMatrixError):
        solve_spd(G @ G.mT, B, p_val=p, strategy=strategy)

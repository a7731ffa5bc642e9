"""Line 3: congruence scalings are exact for p = 1 and, for p ≥ 2, used where they are sound or not at all."""

import warnings

import pytest
import torch
from iroot_solve import PrecondConfig, PreconditionerIgnoredWarning, ScheduleConfig, solve_spd

CONGRUENCES = ["jacobi", "ruiz", "aol", "row-norm"]


@pytest.fixture(scope="module")
def graded(spd):
    """κ = 10 between factors that span 2^±10: badly scaled, and well conditioned once scaled."""
    d = torch.logspace(-10, 10, 16, base=2.0, dtype=torch.float64)
    return d[:, None] * spd(16, 10.0, dtype=torch.float64) * d


@pytest.mark.parametrize("mode", CONGRUENCES)
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh", "cholesky"])
def test_applied_and_undone_for_p_1(graded, rhs, truth, distance, mode, strategy):
    B = rhs(16, 3, dtype=torch.float64)
    result = solve_spd(graded, B, p_val=1, tol=1e-8, strategy=strategy, precond_config=PrecondConfig(mode=mode))
    assert result.stats.status == "converged"
    assert result.stats.precond.startswith(mode) and "applied" in result.stats.precond
    # truth solves with the unscaled matrix; by Cholesky, whose error is that of the scaled one (van der Sluis).
    expected = torch.cholesky_solve(B, torch.linalg.cholesky(graded))
    assert distance(result.Z, expected) <= 1e-8


@pytest.mark.parametrize("mode", CONGRUENCES)
def test_the_inverse_itself_for_p_1(graded, distance, mode):
    X = solve_spd(graded, None, p_val=1, tol=1e-8, precond_config=PrecondConfig(mode=mode)).Z
    assert distance(X, torch.cholesky_inverse(torch.linalg.cholesky(graded))) <= 1e-8


@pytest.mark.parametrize("mode", CONGRUENCES)
def test_a_ridge_is_of_A_and_not_of_the_scaled_matrix(graded, rhs, distance, mode):
    B = rhs(16, 3, dtype=torch.float64)
    Z, _, stats, _ = solve_spd(graded, B, p_val=1, tol=1e-8, ridge=3.0, precond_config=PrecondConfig(mode=mode))
    damped = graded + 3.0 * torch.eye(16, dtype=torch.float64)
    assert float(stats.ridge) == 3.0
    assert distance(Z, torch.cholesky_solve(B, torch.linalg.cholesky(damped))) <= 1e-8


@pytest.mark.parametrize("mode", [*CONGRUENCES, "frob", "none"])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
def test_the_true_root_for_p_2(spd, rhs, truth, distance, within, mode, strategy):
    A, B = spd(32, 1e3), rhs(32, 4)
    result = solve_spd(A, B, p_val=2, strategy=strategy, precond_config=PrecondConfig(mode=mode))
    assert result.stats.status == "converged"
    assert result.stats.precond.startswith(mode)
    assert "applied" not in result.stats.precond
    assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)


def test_the_readme_example_raises_no_warning(spd, rhs, truth, distance):
    A, B = spd(256, 1e3), rhs(256, 16)
    Z, workspace, stats, schedule = solve_spd(
        A,
        B,
        p_val=2,
        precond_config=PrecondConfig(mode="jacobi", l_target=0.05),
        schedule_config=ScheduleConfig(coeff_mode="auto"),
    )
    assert Z.shape == (256, 16)
    assert 1e3 / 10 <= float(stats.kappa_proxy) <= 1e3 * 10
    assert "\n" not in str(schedule)
    assert distance(Z, truth(A, B, -0.5)) <= 1e-3


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh"])
@pytest.mark.parametrize("mode", [*CONGRUENCES, "frob"])
def test_a_warning_only_where_nothing_changed(spd, rhs, mode, strategy):
    A, B = spd(24, 1e3), rhs(24, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asked = solve_spd(A, B, strategy=strategy, precond_config=PrecondConfig(mode=mode))
    plain = solve_spd(A, B, strategy=strategy)
    assert {w.category for w in caught} <= {PreconditionerIgnoredWarning}
    if caught:
        assert torch.equal(asked.Z, plain.Z)
        assert torch.equal(asked.stats.error, plain.stats.error)


def test_the_warning_names_the_setting_and_the_remedy(spd, rhs):
    with pytest.warns(PreconditionerIgnoredWarning, match="mode='jacobi'.*strategy='eigh'.*drop it") as caught:
        solve_spd(spd(8, 10.0), rhs(8, 1), strategy="eigh", precond_config=PrecondConfig(mode="jacobi"))
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "setting",
    [
        {"mode": "diagonal"},
        {"lambda_max_est": "guess"},
        {"l_target": 0.0},
        {"ridge_rel": -1.0},
        {"lambda_max_safety": 0.9},
    ],
)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        PrecondConfig(**setting)

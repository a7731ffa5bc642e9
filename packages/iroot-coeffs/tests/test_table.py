"""The shipped table bounds true minimax errors, and tightly."""

import math
from importlib.resources import files

import numpy as np
import pytest
from iroot_coeffs import _make_table, _table, minimax


def log_ratio(step):
    """log((1 + ε)/(1 - ε)) without cancellation at either end."""
    return math.log((2 - step.gap) / step.gap) if step.error > 0.5 else 2 * math.atanh(step.error)


def random_entries(count):
    rng = np.random.default_rng(20)
    for _ in range(count):
        p = int(rng.integers(1, 17))
        degree = int(rng.choice([*_table.NEAR_DEGREES, *_table.NEAR_DEGREES, 9, 12, 16, 24, 48]))
        yield p, degree, float(np.exp(rng.uniform(np.log(1e-5), np.log(32.2))))


@pytest.mark.parametrize(("p", "degree", "log_kappa"), list(random_entries(120)))
def test_looked_up_errors_are_upper_bounds(p, degree, log_kappa):
    truth = log_ratio(minimax(p, degree, math.exp(-log_kappa), 1.0))
    bound = math.exp(_table.step_errors(p).log_bound(degree, math.log(log_kappa)))
    assert truth <= bound
    # where rounding takes over the slope breaks from d + 1 to 0: a quarter of that times the spacing
    spacing = 0.1 if log_kappa < 0.011 else 0.008 if degree <= 8 else 0.064
    slack = 1.001 + (degree + 1) * spacing / 4
    rounding = 20 * (degree + 1) * 2.0**-53 * min(math.exp(log_kappa / p), 64)
    assert bound <= truth * slack + rounding


@pytest.mark.parametrize("p", [1, 16])
def test_far_columns_bound_at_the_largest_degree(p):
    for log_kappa in (2.0, 7.0, 30.0):
        truth = log_ratio(minimax(p, 128, math.exp(-log_kappa), 1.0))
        assert truth <= math.exp(_table.step_errors(p).log_bound(128, math.log(log_kappa)))


def test_the_file_is_what_the_script_makes():
    points = _table.grid()
    with np.load(str(files("iroot_coeffs").joinpath(_table.TABLE_FILE))) as data:
        assert set(data) == {f"{kind}{p}" for kind in ("p", "far") for p in range(1, 17)}
        stored = _table.decode(data["p3"])
    made = _table.decode(_make_table.column(3, _table.NEAR_DEGREES, points))
    # other linear algebra libraries round differently, which shows where ε is at rounding level
    above = stored > math.log(1e-11)
    assert np.max(np.abs(stored - made)[above]) <= 1.1e-3
    assert np.max(np.abs(stored - made)) <= 0.5


def test_the_file_is_small():
    assert len(files("iroot_coeffs").joinpath(_table.TABLE_FILE).read_bytes()) < 400_000


def test_encoding_rounds_up_and_back():
    rng = np.random.default_rng(0)
    logs = np.cumsum(rng.uniform(0, 0.1, (3, 50)), axis=1) - 30
    back = _table.decode(_table.encode(logs))
    assert np.all(back >= logs)
    assert np.all(back <= logs + _table.QUANTUM * (1 + 1e-9))


def test_raised_chords_stay_above_a_concave_function():
    x = np.linspace(0.5, 4, 30)
    raised = _table.raised(x)  # log x
    middle = (raised[1:] + raised[:-1]) / 2
    assert np.all(middle >= np.log((x[1:] + x[:-1]) / 2))


def test_outside_the_grid():
    errors = _table.step_errors(2)
    assert errors.log_bound(3, math.log(50.0)) == math.inf
    assert errors.log_bound(3, math.log(1e-9)) == errors.log_bound(3, math.log(1e-7))


def test_columns_made_on_demand_bound_too():
    for degree in (1, 3, 8, 16):
        for log_kappa in (0.5, 5.0, 20.0):
            truth = log_ratio(minimax(23, degree, math.exp(-log_kappa), 1.0))
            assert truth <= math.exp(_table.step_errors(23).log_bound(degree, math.log(log_kappa)))


def test_the_script_writes_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(_table, "TABLE_P", 1)
    monkeypatch.setattr(_table, "FAR_DEGREES", (9, 10))
    path = tmp_path / "table.npz"
    _make_table.main(str(path))
    with np.load(path) as data:
        assert data["p1"].shape == (8, len(_table.grid()))
        assert data["far1"].shape[0] == 2

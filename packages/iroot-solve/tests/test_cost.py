"""The cost model: measured points, interpolated; costs that grow with what they count."""

import json
from fractions import Fraction

import pytest
from iroot_solve import _calibrate, _cost
from iroot_solve._choose import choose
from iroot_solve._task import Task

SIZES = _cost.table()["n"]


@pytest.mark.parametrize("operation", sorted(_cost.table()["single"]))
@pytest.mark.parametrize(("batch", "rows"), [(1, "single"), (10_000, "batched")])
def test_measured_sizes_are_reproduced(operation, batch, rows):
    for n, measured in zip(SIZES, _cost.table()[rows][operation], strict=False):
        assert _cost.milliseconds(operation, n, batch) == pytest.approx(batch * measured)


def test_log_log_between_sizes():
    table = [1.0, 8.0, 64.0]
    assert _cost._interpolate([16, 32, 64], table, 24, 3) == pytest.approx(1.5**3)
    assert _cost._interpolate([16, 32, 64], table, 45, 3) == pytest.approx((45 / 16) ** 3)


def test_beyond_the_table():
    assert _cost._interpolate([16, 32], [1.0, 2.0], 64, 3) == pytest.approx(16.0)
    assert _cost._interpolate([16, 32], [1.0, 2.0], 4, 3) == 1.0  # calls cost what they cost
    assert _cost.milliseconds("mm32", 8 * SIZES[-1]) == pytest.approx(512 * _cost.milliseconds("mm32", SIZES[-1]))
    for reading in ("skinny32", "pass64"):
        assert _cost.milliseconds(reading, 8 * SIZES[-1]) == pytest.approx(64 * _cost.milliseconds(reading, SIZES[-1]))


@pytest.mark.parametrize("n", [16, 100, 1000])
def test_costs_grow_with_what_they_count(n):
    base = _cost.iteration_ms(n, 1, 8.0, 16, 3, 1, 32)
    assert base < _cost.iteration_ms(n, 1, 9.0, 16, 3, 1, 32)
    assert base < _cost.iteration_ms(n, 1, 8.0, 32, 3, 1, 32)
    assert base < _cost.iteration_ms(n, 1, 8.0, 16, 3, 2, 32)
    assert base < _cost.iteration_ms(n, 1, 8.0, 16, 4, 1, 32)
    assert _cost.iteration_ms(n, 800, 8.0, 16, 3, 1, 32) < _cost.iteration_ms(n, 1600, 8.0, 16, 3, 1, 32)
    for direct in (_cost.eigh_ms, _cost.cholesky_ms):
        assert direct(n, 4, 1, 32) <= direct(n, 64, 1, 32) <= direct(n, 64, 4, 32)


def test_factorisations_cost_what_was_measured_and_their_products():
    assert _cost.eigh_ms(64, 8, 1, 32) == pytest.approx(
        _cost.milliseconds("eigh32", 64) + _cost.milliseconds("skinny32", 64) * 16 / 16
    )
    assert _cost.cholesky_ms(64, 1, 1, 64) < _cost.eigh_ms(64, 1, 1, 64)


def test_the_calibration_measures_every_operation(monkeypatch):
    monkeypatch.setattr(_calibrate, "_median_ms", lambda call, seconds=0.4, device="cpu": (call(), 0.5)[1])
    monkeypatch.setattr(_calibrate, "SINGLE", (4, 8))
    monkeypatch.setattr(_calibrate, "BATCHED", (4,))
    found = json.loads(json.dumps(_calibrate.measure()))
    assert set(found["single"]) == set(found["batched"]) == set(_cost.table()["single"])
    assert found["n"] == [4, 8] and found["single"]["mm32"] == [0.5, 0.5]
    many = _calibrate.CACHE_BYTES // (4 * 4 * 8)
    assert found["batched"]["eigh64"] == [pytest.approx(0.5 / many, rel=1e-3)]
    assert found["batched"]["mm64"] == [pytest.approx(0.5 / min(many, _cost.chunk(4, 8)), rel=1e-3)]
    assert found["call"] == 0.5 / 1000


def test_the_table_of_a_gpu_ships(monkeypatch, tmp_path):
    """A calibration of this user's CPU says nothing of it."""
    shipped = _cost.table("cuda")
    own = {*_cost.table()["single"], "symmetric32", "coarse32", "thin32", "substitution32", "substitution64"}
    assert set(shipped["single"]) == set(shipped["batched"]) == own
    assert _cost.milliseconds("symmetric32", 2048, 1, "cuda") < _cost.milliseconds("mm32", 2048, 1, "cuda")
    assert _cost.milliseconds("coarse32", 2048, 1, "cuda") < _cost.milliseconds("symmetric32", 2048, 1, "cuda")
    assert _cost.milliseconds("mm32", 2048, 1, "cuda") < _cost.milliseconds("mm32", 2048) / 10
    assert _cost.calls_ms(1, "cuda") > _cost.calls_ms(1)


def test_the_median_of_calls_is_positive():
    calls = []
    assert _calibrate._median_ms(lambda: calls.append(1), seconds=0.0) >= 0.0
    assert len(calls) >= 4  # one to warm up, three to take the median of


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    """A cache directory of one's own; the table is kept, so it is read anew before and after."""
    monkeypatch.setenv("IROOT_CACHE_DIR", str(tmp_path / "new"))
    _cost.table.cache_clear()
    yield
    monkeypatch.undo()
    _cost.table.cache_clear()


def test_the_users_table_counts_on_the_machine_it_was_measured_on(empty_cache):
    shipped = _cost.table()
    own = json.loads(json.dumps(shipped)) | {"machine": _cost.machine(), "torch": "mine"}
    for data, counts in (
        (own, True),
        (own | {"machine": "another"}, False),
        (own | {"single": {"mm32": [1.0]}}, False),
        ([], False),
    ):
        _calibrate.store(data, _cost.cache_file())
        _cost.table.cache_clear()
        assert (_cost.table() == own) == counts and (_cost.table() == shipped) != counts
    _cost.cache_file().write_text("{")
    _cost.table.cache_clear()
    assert _cost.table() == shipped


def test_few_triangular_matrices_are_solved_with_one_after_another():
    """8 of 1024 take eight times what one takes, and longer than 64, which are one batch."""
    one, few, many = (_cost.substitution_ms(1024, batch, 32, "cuda") for batch in (1, 8, 64))
    assert few == pytest.approx(8 * one) and many < few
    assert _cost.substitution_ms(32, 8, 32, "cuda") < 2 * _cost.substitution_ms(32, 1, 32, "cuda")
    task = Task(1024, 1024, 8, Fraction(-1), 1e-4, False, device="cuda", symmetric=True)
    assert choose(task, 1 / 3e3, 1.0, kappa=1e3).strategy == "materialize-root"

"""The choice: the cheapest candidate predicted to meet the tolerance, the most accurate where none is."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iroot_solve import _cost
from iroot_solve._choose import Task, candidates, choose, on_grid, steps_for
from iroot_solve._predict import rounding_error

HALF = Fraction(-1, 2)
tasks = st.builds(
    Task,
    n=st.sampled_from([8, 64, 256, 1024]),
    k=st.sampled_from([1, 8, 64]),
    batch=st.sampled_from([1, 64]),
    exponent=st.sampled_from([Fraction(-1), HALF, Fraction(-1, 4), Fraction(-2, 3), Fraction(1, 2), Fraction(2)]),
    tol=st.sampled_from([1e-2, 1e-4, 1e-8]),
    root=st.booleans(),
    reuse=st.sampled_from([1, 100]),
)
kappas = st.sampled_from([1.0, 30.0, 1e3, 1e6, 1e12])


@given(task=tasks, kappa=kappas)
def test_never_one_that_is_predicted_slower(task, kappa):
    chosen = choose(task, 1 / kappa, 1.0)
    others = candidates(task, 1 / kappa, 1.0)
    assert chosen in others
    good = [c for c in others if task.meets(c.error)]
    if good:
        assert task.meets(chosen.error)
        assert chosen.milliseconds == min(c.milliseconds for c in good)
    else:
        assert chosen.error == min(c.error for c in others)


@given(task=tasks, kappa=kappas)
def test_candidates_are_those_that_apply_cheapest_first(task, kappa):
    found = candidates(task, 1 / kappa, 1.0)
    assert {(c.strategy, c.precision) for c in found} == {(s, p) for s in task.strategies for p in task.precisions}
    times = [c.milliseconds for c in found]
    assert times == sorted(times) and times[0] > 0


@given(task=tasks, kappa=kappas)
def test_a_named_strategy_is_kept(task, kappa):
    for strategy in task.strategies:
        assert choose(task, 1 / kappa, 1.0, strategy).strategy == strategy


def test_what_applies():
    task = Task(64, 8, 1, HALF, 1e-4, False)
    assert task.strategies == ("direct-solve", "materialize-root", "chebyshev", "cayley", "lanczos", "eigh")
    assert replace(task, exponent=-HALF).strategies == ("direct-solve", "materialize-root", "lanczos", "eigh")
    assert replace(task, root=True).strategies == ("materialize-root", "eigh")
    assert replace(task, exponent=Fraction(-1)).strategies[-1] == "cholesky"
    assert replace(task, exponent=Fraction(3, 2)).strategies == ("eigh",)
    task.check("auto")
    with pytest.raises(ValueError, match="'cholesky' does not apply to exponent -1/2"):
        task.check("cholesky")


def test_a_large_condition_needs_float64():
    task = Task(64, 8, 1, HALF, 1e-4, False)
    assert choose(task, 1e-9, 1.0).precision == "fp64"


@pytest.fixture
def planted(monkeypatch):
    """A machine on which eigh of a single matrix costs 5 products, and in a batch 50."""

    def rows(eigh):
        costs = {"mm": 1.0, "eigh": eigh, "cholesky": 0.5, "skinny": 0.02, "pass": 0.01}
        return {f"{name}{bits}": [cost * bits / 32] * 2 for name, cost in costs.items() for bits in (32, 64)}

    found = {"call": 0.002, "n": [8, 2048], "single": rows(5.0), "batched": rows(50.0)}
    monkeypatch.setattr(_cost, "table", lambda device: found)
    choose.cache_clear()
    yield
    choose.cache_clear()


def test_the_cheaper_way_depends_on_the_machine_and_the_batch(planted):
    root = Task(256, 256, 1, HALF, 1e-4, True)
    assert choose(root, 1e-3, 1.0).strategy == "eigh"
    assert choose(replace(root, batch=64), 1e-3, 1.0).strategy == "materialize-root"


def test_a_root_that_is_reused_is_formed(planted):
    thin = Task(256, 8, 64, HALF, 1e-4, False)
    names = ("direct-solve", "materialize-root")
    for reuse, expected in ((1, names[0]), (1000, names[1])):
        found = candidates(replace(thin, reuse=reuse), 0.1, 1.0)
        assert next(c.strategy for c in found if c.strategy in names) == expected


@given(task=tasks.filter(lambda task: task.exponent < 1), kappa=st.floats(1.0, 1e6))
def test_schedules_reach_half_the_tolerance_on_the_interval(task, kappa):
    schedule = steps_for(task, 3 / kappa, 3.0, direct=not task.root)
    assert schedule.error <= task.tol / 2
    assert schedule.steps[0].lo <= 3 / kappa * (1 + 1e-12) and schedule.steps[0].hi >= 3.0 * (1 - 1e-12)


@given(low=st.floats(1e-12, 1.0), ratio=st.floats(1.0, 1e12))
def test_the_grid_only_widens_and_by_little(low, ratio):
    high = low * ratio
    wide_low, wide_high = on_grid(low, high)
    assert wide_low <= low * (1 + 1e-12) and high * (1 - 1e-12) <= wide_high <= high * 2 ** (1 / 8) * (1 + 1e-12)
    assert wide_high / wide_low <= ratio * 2 ** (3 / 8) * (1 + 1e-12)


def test_rounding_grows_with_condition_and_roundoff():
    for strategy in ("eigh", "cholesky", "direct-solve", "materialize-root"):
        errors = [rounding_error(strategy, "fp32", kappa, HALF) for kappa in (1.0, 1e3, 1e6)]
        assert errors == sorted(errors)
        assert rounding_error(strategy, "fp64", 1e3, HALF) < 1e-8 * rounding_error(strategy, "bf16", 1e3, HALF)


@pytest.mark.parametrize(("n", "batch"), [(128, 256), (256, 64), (512, 32)])
def test_a_device_takes_a_batch_at_once(n, batch):
    """Only a CPU has a cache to cut it for: calls are those of one matrix, and eigh of a batch is never what serves."""
    task = Task(n, n, batch, Fraction(-1, 2), 1e-4, True, device="cuda", symmetric=True)
    mixed = choose(task, 1 / 2e4, 1.0, "auto", 2e4)
    assert (mixed.strategy, mixed.precision, mixed.wide) == ("materialize-root", "fp16x3", 1)
    task = replace(task, precisions=("fp64",))
    found = choose(task, 1 / 2e4, 1.0, "auto", 2e4)
    assert (found.strategy, found.precision) == ("materialize-root", "fp64")
    one = choose(replace(task, batch=1), 1 / 2e4, 1.0, "materialize-root", 2e4)
    work = found.milliseconds - one.milliseconds
    assert work <= 1.2 * found.products * batch * _cost.milliseconds("mm64", n, batch, "cuda")

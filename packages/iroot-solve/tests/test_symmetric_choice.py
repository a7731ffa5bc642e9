"""Symmetric products as candidates: planes by tolerance and κ, predicted errors from what was measured."""

from dataclasses import replace
from fractions import Fraction

import pytest
from iroot_kernels import has_form
from iroot_solve import explain
from iroot_solve._bridge import polynomial
from iroot_solve._choose import candidates, choose
from iroot_solve._symmetric import BEGINNINGS, _measured, fewest_products, symmetric_rounding
from iroot_solve._task import Task

HALF = Fraction(-1, 2)
ROOT = Task(2048, 2048, 1, HALF, 1e-4, True, device="cuda", symmetric=True)
COLUMNS = replace(ROOT, k=16, root=False)


@pytest.mark.parametrize(
    ("tol", "kappa", "planes"),
    [(1e-2, 10.0, "fp16"), (1e-2, 1e4, "fp16x3"), (1e-4, 10.0, "fp16x3"), (1e-3, 1e4, "fp16x3"), (1e-4, 1e8, "fp64")],
)
@pytest.mark.parametrize("task", [ROOT, COLUMNS], ids=["root", "columns"])
def test_planes_follow_from_tolerance_and_kappa(task, tol, kappa, planes):
    strategy = "materialize-root" if task.root else "direct-solve"
    chosen = choose(replace(task, tol=tol), 1 / kappa, 1.0, strategy)
    assert chosen.precision == planes and chosen.symmetric == (planes != "fp64")
    assert chosen.symmetric is False or choose(replace(task, tol=tol, reduced=False), 1 / kappa, 1.0, strategy) == next(
        c
        for c in candidates(replace(task, tol=tol, reduced=False), 1 / kappa, 1.0)
        if c.strategy == strategy and task.meets(c.error * 1e-4 / tol)
    )


def test_not_less_than_float32_where_it_is_not_allowed_to():
    found = candidates(replace(ROOT, tol=1e-2, reduced=False), 0.1, 1.0)
    assert {(c.precision, c.coarse) for c in found if c.symmetric} == {("fp16x3", 0)}


def test_named_planes_are_kept():
    for name in ("fp16", "bf16", "bf16x3", "fp16x3"):
        task = replace(ROOT, precisions=(name,))
        assert {(c.precision, c.coarse) for c in candidates(task, 0.1, 1.0) if c.symmetric} == {(name, 0)}
    assert not any(c.symmetric for c in candidates(replace(ROOT, precisions=("fp32",)), 0.1, 1.0))


@pytest.mark.parametrize("task", [ROOT, COLUMNS], ids=["root", "columns"])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("kappa", [1.5, 30.0, 1e3, 1e5])
def test_schedules_have_a_form(task, p, kappa):
    for c in candidates(replace(task, exponent=Fraction(-1, p)), 1 / kappa, 1.0):
        if c.symmetric and c.strategy in ("direct-solve", "materialize-root"):
            body = c.schedule.steps[: None if c.strategy == "materialize-root" else -1]
            assert all(has_form(polynomial(step)) for step in body)
            assert c.schedule.error <= 0.1 * task.tol


def test_acting_on_columns_takes_fewer_products():
    found = {
        c.strategy: c
        for c in candidates(COLUMNS, 1e-4, 1.0)
        if c.symmetric and (c.precision, c.coarse) == ("fp16x3", 0)
    }
    assert found["direct-solve"].products <= found["materialize-root"].products - 3


def test_predicted_rounding_is_what_was_measured():
    data = _measured()
    for way, coarse in (("fp16x3", 0), ("fp16x3", 1), ("fp16", 0), ("bf16x3", 0), ("bf16", 0)):
        rows = data["errors"][f"{way}-{coarse}" if coarse else way]
        for first, p in ((f, p) for f in BEGINNINGS for p in rows[str(f)]):
            for kappa, error in zip(data["kappa"], rows[str(first)][p], strict=True):
                found = symmetric_rounding(way, coarse, first, kappa, Fraction(-1, int(p)))
                assert found == pytest.approx((3 if coarse else 1) * error)
    last = symmetric_rounding("fp16x3", 0, 2, 1e7, HALF)
    assert symmetric_rounding("fp16x3", 0, 2, 1e8, HALF) == pytest.approx(10 * last)
    at = symmetric_rounding("fp16x3", 0, 2, 1e3, Fraction(-1, 3))
    assert symmetric_rounding("fp16x3", 0, 2, 1e3, Fraction(-2, 3)) == pytest.approx(2 * at)
    assert symmetric_rounding("fp16x3", 0, 8, 1e3, HALF) == symmetric_rounding("fp16x3", 0, 4, 1e3, HALF)
    assert symmetric_rounding("fp16x3", 0, 2, 1e3, Fraction(-1, 7)) == symmetric_rounding(
        "fp16x3", 0, 2, 1e3, Fraction(-1, 4)
    )


def test_the_fewest_products_and_of_those_the_least_rounding():
    found = fewest_products(HALF, 1e4, 2.5e-5)
    assert [step.degree for step in found] == [2, 8, 8] and found.products() == 13
    thin = fewest_products(HALF, 1e4, 2.5e-5, 0.2)
    assert thin.products(0.0) <= 9


def test_explain_knows_them():
    told = explain(n=2048, k=2048, p=2, kappa=1e3, device="cuda")
    assert any(c.symmetric for c in told.candidates) and told.chosen.symmetric
    assert not any(c.symmetric for c in explain(n=2048, k=2048, p=2, kappa=1e4).candidates)

"""The plan that would be used."""

from fractions import Fraction

import pytest
import torch
from iroot_solve import explain, solve_spd


def test_the_plan_is_the_one_that_is_used(spd, rhs):
    A, B = spd(1024, 20.0), rhs(1024, 16)
    plan = explain(1024, 16, 2, kappa=20.0)
    stats = solve_spd(A, B).stats
    assert (plan.strategy, plan.precision) == (stats.strategy, stats.precision)
    assert plan.products >= 0 and plan.task.meets(plan.error)


@pytest.mark.parametrize("kappa", [1.0, 1e4, 1e12])
@pytest.mark.parametrize(("n", "k", "p", "batch"), [(8, 2, 1, 1), (64, 64, 2, 64), (512, 16, 4, 1)])
def test_auto_is_never_predicted_slower_than_another_that_meets_tol(n, k, p, batch, kappa):
    plan = explain(n, k, p, kappa, tol=1e-3, batch=batch)
    good = [c for c in plan.candidates if plan.task.meets(c.error)]
    assert plan.chosen in plan.candidates
    if good:
        assert plan.chosen.milliseconds == min(c.milliseconds for c in good)
    else:
        assert plan.chosen.error == min(c.error for c in plan.candidates)


def test_every_candidate_has_a_reason():
    plan = explain(256, 16, 2, kappa=1e6)
    reasons = [plan.reason(candidate) for candidate in plan.candidates]
    assert sum(reason.startswith("chosen") for reason in reasons) == 1
    assert all(reasons) and "slower" in reasons
    assert any("error" in reason for reason in reasons)


def test_it_prints_a_line_and_a_row_for_each_candidate():
    plan = explain(256, 16, 3, dtype=torch.float64, exponent=Fraction(-2, 3))
    lines = str(plan).splitlines()
    assert len(lines) == 1 + len(plan.candidates)
    assert "A^(-2/3)" in lines[0] and "n=256, k=16" in lines[0] and plan.strategy in lines[0]


def test_k_equal_to_n_is_the_root():
    assert explain(64, 64).task.root and not explain(64, 63).task.root


def test_one_that_cannot_meet_tol_is_the_most_accurate():
    plan = explain(64, 4, 1, kappa=1e14, tol=1e-12)
    assert "most accurate" in plan.reason(plan.chosen) and plan.precision == "fp64"


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"dtype": torch.int32}, TypeError, "dtype=torch.int32"),
        ({"n": 0}, ValueError, "n=0"),
        ({"k": 0}, ValueError, "k=0"),
        ({"batch": 0}, ValueError, "batch=0"),
        ({"p": 0}, ValueError, "p_val=0"),
        ({"kappa": 0.5}, ValueError, "kappa=0.5"),
        ({"kappa": 1e15}, ValueError, "kappa=1"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(settings, kind, message):
    with pytest.raises(kind, match=message):
        explain(**{"n": 16, "k": 2, **settings})


def test_small_matrices_on_a_gpu_are_for_one_launch():
    told = explain(n=16, k=16, kappa=1e3, device="cuda", batch=1000)
    if not torch.cuda.is_available():
        assert told.on_chip and (told.strategy, told.precision) == ("materialize-root", "fp16x3")
        assert "a program to a matrix" in str(told)
    for other in ({"n": 65, "k": 65}, {"exponent": Fraction(1, 2)}, {"dtype": torch.float64}, {"device": "cpu"}):
        assert not explain(**{"n": 16, "k": 16, "device": "cuda", "batch": 1000, **other}).on_chip


def test_a_gpu_has_times_of_its_own():
    """A root of one large matrix belongs to eigh on a CPU, and to symmetric products on a GPU."""
    assert explain(n=4096, k=4096, kappa=1e2).strategy == "eigh"
    plan = explain(n=4096, k=4096, kappa=1e2, device="cuda")
    assert (plan.strategy, plan.precision) == ("materialize-root", "fp16x3") and "on cuda" in str(plan)
    assert set(step.degree for step in plan.chosen.schedule) <= {1, 2, 3, 4, 8}
    assert explain(n=4096, k=4096, kappa=1e6, device="cuda").chosen.wide == 2  # steps in float64

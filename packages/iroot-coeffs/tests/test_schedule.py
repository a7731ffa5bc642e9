"""Schedule: proof of the product, counts, chaining, JSON."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from iroot_coeffs import Schedule, Step, minimax, plan


def product_of(schedule, x):
    """X and Y of the scalar iteration in float64."""
    root, y = np.ones_like(x), x.copy()
    for step in schedule:
        q = step(y)
        root, y = root * q, y * q**schedule.p
    return root, y


@pytest.mark.parametrize("p", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kappa", [10.0, 1e4, 1e7])
def test_the_error_of_the_product_is_the_last_error(p, kappa):
    schedule = plan(p, kappa=kappa, tol=1e-3)
    x = np.concatenate((np.geomspace(1 / kappa, 1, 3000), np.linspace(1 / kappa, 1, 3000)))
    root, y = product_of(schedule, x)
    error = np.abs(root * x ** (1 / p) - 1)
    # rounding of q in the first steps, u times the size of its terms, is amplified by what is left of kappa
    rounding = 1e-13 * kappa ** (1 / p)
    assert error.max() <= schedule.error + rounding
    assert error.max() >= 0.9 * schedule.error
    assert schedule.error <= 1e-3
    np.testing.assert_allclose(root**p * x, y, rtol=1e-9)


def test_counts_by_hand():
    steps = chain(2, (4, 6, 2), 1e-4)
    schedule = Schedule(2, steps)
    # build 2, 3, 1; Y twice 2; X 0, 1, 1
    assert schedule.products() == (2 + 2 + 0) + (3 + 2 + 1) + (1 + 1)
    assert [schedule.products_of(i) for i in range(3)] == [4, 6, 2]
    # on B: X takes k/n in every step; the last one 2 skinny products instead of 1 + k/n
    assert schedule.products(0.125) == (2 + 2 + 0.125) + (3 + 2 + 0.125) + min(1 + 0.125, 2 * 0.125)
    assert schedule.terminal_is_skinny(0.125)
    assert not schedule.terminal_is_skinny(1.5)
    # X q^3: two products for the power, none for the first X
    assert schedule.products(power=3) == (2 + 2 + 2) + (3 + 2 + 3) + (1 + 3)
    assert schedule.products(0.125, power=2) == (2 + 2 + 0.25) + (3 + 2 + 0.25) + 4 * 0.125
    single = Schedule(2, steps[:1])
    assert single.products() == 2
    # W starts at A, not at I: one product more
    assert Schedule(2, steps[:1], Fraction(1, 2)).products() == 3


def chain(p, degrees, lo, hi=1.0):
    steps = []
    for degree in degrees:
        steps.append(minimax(p, degree, lo, hi))
        lo, hi = steps[-1].interval_after
    return tuple(steps)


def test_degree_8_counts_three():
    schedule = Schedule(2, chain(2, (8, 8), 1e-3))
    assert schedule.products() == (3 + 2) + (3 + 1)


def test_joining_and_rescaling():
    first, second = chain(3, (2, 3), 1e-3)
    left, right = Schedule(3, (first,)), Schedule(3, (second,))
    joined = left + right
    assert joined == left.then(right) == Schedule(3, (first, second))
    assert len(joined) == 2
    assert list(joined) == [first, second]
    assert (joined.lo, joined.hi, joined.kappa) == (1e-3, 1.0, pytest.approx(1e3))
    moved = joined.rescaled(80.0)
    assert (moved.lo, moved.hi) == (pytest.approx(0.08), 80.0)
    assert moved.steps[1] == second
    x = np.geomspace(0.08, 80, 100)
    root, _ = product_of(moved, x)
    assert np.max(np.abs(root * x ** (1 / 3) - 1)) <= moved.error + 1e-12
    assert moved.error == joined.error


@pytest.mark.parametrize("kappa", [1e2, 1e8, 1e14])
def test_planned_schedules_can_be_rescaled_to_anything(kappa):
    for p in (1, 2, 4):
        schedule = plan(p, kappa=kappa, tol=1e-4)
        for hi in (1e-20, 0.3, 7.7, 1e20):
            assert schedule.rescaled(hi).error == schedule.error


def test_printing():
    schedule = Schedule(2, chain(2, (5, 3), 1e-2))
    assert str(schedule) == f"p=2, κ=100: degrees 5-3, ε ≤ {schedule.error:.1e}, 8 products"
    other = Schedule(4, chain(4, (4,), 0.1), Fraction(-3, 4))
    assert str(other).startswith("p=4, exponent -3/4, κ=10: degrees 4, ε ≤ ")
    assert other.final_error == pytest.approx((1 + other.error) ** 3 - 1)


def test_json_is_exact():
    schedule = plan(4, kappa=1e5, tol=1e-4, exponent=Fraction(-3, 4))
    assert Schedule.from_json(schedule.to_json()) == schedule
    with pytest.raises(ValueError, match="format"):
        Schedule.from_json("[]")
    data = json.loads(schedule.to_json())
    data["steps"] = data["steps"][::-1]
    with pytest.raises(ValueError, match="covers"):
        Schedule.from_json(json.dumps(data))


def test_errors_of_powers():
    schedule = plan(3, kappa=50.0, tol=1e-3)
    assert schedule.error_of(1) == pytest.approx(schedule.error)
    assert schedule.error_of(4) == pytest.approx((1 + schedule.error) ** 4 - 1, rel=1e-12)


def test_what_cannot_be_a_schedule():
    first, second = chain(2, (2, 3), 1e-3)
    with pytest.raises(ValueError, match="covers"):
        Schedule(2, (second, first))
    with pytest.raises(ValueError, match="p=2"):
        Schedule(3, (first,))
    with pytest.raises(ValueError, match="at least one"):
        Schedule(2, ())
    with pytest.raises(ValueError, match="integer"):
        Schedule(2.0, (first,))
    with pytest.raises(ValueError, match="not positive"):
        Schedule(2, (Step.of_polynomial(2, (1.0, -2.0), 0.1, 1.0), first))
    with pytest.raises(ValueError, match="multiple"):
        Schedule(2, (first,), Fraction(-1, 3))
    with pytest.raises(ValueError, match="in \\(0, 1\\)"):
        Schedule(2, (first,), Fraction(3, 2))
    with pytest.raises(ValueError, match="join"):
        Schedule(2, (first,)).then(Schedule(2, (second,), Fraction(-1)))


def test_a_step_that_misses_by_a_rounding_error_is_refused():
    first, second = chain(2, (2, 3), 1e-3)
    low, _ = first.image
    short = minimax(2, 3, math.nextafter(low, 1), second.hi)
    with pytest.raises(ValueError, match="covers"):
        Schedule(2, (first, short))

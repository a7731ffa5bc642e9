"""The planner against the measured table of products, exhaustive search, and scalar iterations."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_coeffs import Schedule, _planner, build_products, minimax, plan, update_products

# p, κ, k/n, products for ε = 1e-3: mixed (with degree 8 in three products), quadratic only, linear only
MEASURED = [
    (2, 1e2, None, 7, 9, 12),
    (2, 1e4, None, 12, 17, 18),
    (2, 1e6, None, 18, 21, 27),
    (4, 1e4, None, 13, 16, 20),
    (4, 1e6, None, 17, 26, 28),
    (2, 1e4, 0.02, 7.2, 12.15, None),
    (4, 1e4, 0.02, 8.2, 12.15, None),
    (1, 1e4, 0.02, 6.2, 10.15, None),
]


@pytest.mark.parametrize(("p", "kappa", "k_over_n", "mixed", "quadratic", "linear"), MEASURED)
def test_never_more_products_than_measured(p, kappa, k_over_n, mixed, quadratic, linear):
    form = {} if k_over_n is None else {"k_over_n": k_over_n}
    for degrees, most in ((range(1, 9), mixed), ((2,), quadratic), ((1,), linear)):
        if most is None:
            continue
        schedule = plan(p, kappa=kappa, tol=1e-3, degrees=degrees, **form)
        assert schedule.products(k_over_n) <= most
        assert schedule.error <= 1e-3
        assert schedule.lo <= 1 / kappa
        assert schedule.hi >= 1


@pytest.mark.parametrize(("p", "kappa", "mixed"), [(2, 1e2, 7), (2, 1e4, 13), (2, 1e6, 19), (4, 1e4, 14), (4, 1e6, 19)])
def test_mixed_degrees_without_degree_8(p, kappa, mixed):
    assert plan(p, kappa=kappa, tol=1e-3, degrees=range(1, 8)).products() <= mixed


def test_the_open_last_degree_on_b():
    """Measured: 4.5 products instead of 7.2 for p = 2, 4.7 instead of 8.2 for p = 4."""
    for p, most in ((2, 4.5), (4, 4.7)):
        schedule = plan(p, kappa=1e4, tol=1e-3, k_over_n=0.02)
        assert schedule.products(0.02) <= most
        assert schedule.steps[-1].degree > 8
        assert schedule.terminal_is_skinny(0.02)


def cheapest_by_enumeration(p, kappa, tol, most_steps):
    """All degree sequences over the undominated degrees, by minimax errors made here, not from the table."""
    errors = {}

    def step(degree, lo, hi):
        key = degree, round(math.log(hi / lo), 12)
        if key not in errors:
            found = minimax(p, degree, lo, hi)
            errors[key] = found.low, found.high
        return errors[key]

    best = math.inf
    for length in range(1, most_steps + 1):
        for degrees in itertools.product((1, 2, 4, 6, 8), repeat=length):
            build = sum(3 if d == 8 else build_products(d) for d in degrees)
            cost = build + (length - 1) * (update_products(p) + 1)
            if cost >= best:
                continue
            lo, hi = 1 / kappa, 1.0
            for degree in degrees:
                low, high = step(degree, lo, hi)
                lo, hi = low**p, high**p
            if max(1 - low, high - 1) <= tol:
                best = cost
    return best


@pytest.mark.parametrize(
    ("p", "kappa", "tol"),
    [(1, 30.0, 1e-2), (2, 300.0, 1e-4), (3, 1e4, 1e-2), (5, 1e3, 1e-6), (16, 1e8, 1e-2)],
)
def test_the_plan_is_optimal(p, kappa, tol):
    assert plan(p, kappa=kappa, tol=tol).products() == cheapest_by_enumeration(p, kappa, tol, 4)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_plan_is_never_beaten_by_a_uniform_degree(p):
    for kappa, tol in ((1e3, 1e-2), (1e5, 1e-6), (1e9, 1e-3)):
        for ratio in (1.0, 0.3, 0.02):
            acting = None if ratio == 1 else ratio
            cost = plan(p, kappa=kappa, tol=tol, k_over_n=ratio).products(acting)
            for degree in (1, 2, 4, 6):
                uniform = plan(p, kappa=kappa, tol=tol, k_over_n=ratio, degrees=(degree,))
                assert cost <= uniform.products(acting) + 1e-9


@settings(max_examples=40, deadline=None)
@given(
    p=st.integers(1, 20),
    log_kappa=st.floats(0.01, 32),
    log_tol=st.floats(-27, -0.7),
    ratio=st.sampled_from([1.0, 0.5, 0.1, 0.02]),
)
def test_every_plan_keeps_its_promise(p, log_kappa, log_tol, ratio):
    kappa, tol = math.exp(log_kappa), math.exp(log_tol)
    schedule = plan(p, kappa=kappa, tol=tol, k_over_n=ratio)
    assert schedule.final_error <= tol
    assert schedule.lo <= 1 / kappa
    assert schedule.hi >= 1.0
    acting = None if ratio == 1 else ratio
    looser = plan(p, kappa=kappa, tol=min(0.9, 10 * tol), k_over_n=ratio)
    # interpolated last degrees may be one too many in either plan
    assert looser.products(acting) <= schedule.products(acting) + 2 * ratio


@pytest.mark.parametrize(
    ("p", "exponent"),
    [
        (4, Fraction(-3, 4)),
        (3, Fraction(-2, 3)),
        (2, Fraction(-3, 2)),
        (6, Fraction(-1, 2)),
        (1, Fraction(-2)),
    ],
)
def test_negative_exponents(p, exponent):
    schedule = plan(p, kappa=1e3, tol=1e-4, exponent=exponent)
    x = np.geomspace(1e-3, 1, 2000)
    root, y = np.ones_like(x), x.copy()
    for step in schedule:
        q = step(y)
        root, y = root * q**schedule.power, y * q**p
    assert schedule.power == -p * exponent
    error = np.max(np.abs(root / x ** float(exponent) - 1))
    assert error <= 1e-4
    assert 0.5 * error <= schedule.final_error <= 1e-4


@pytest.mark.parametrize(("p", "exponent"), [(2, Fraction(1, 2)), (4, Fraction(1, 4)), (3, Fraction(2, 3))])
def test_positive_exponents_start_from_the_matrix(p, exponent):
    schedule = plan(p, kappa=1e3, tol=1e-4, exponent=exponent)
    x = np.geomspace(1e-3, 1, 2000)
    w, y = x.copy(), x.copy()
    for step in schedule:
        q = step(y)
        w, y = w * q**schedule.power, y * q**p
    assert np.max(np.abs(w / x ** float(exponent) - 1)) <= schedule.final_error + 1e-12 <= 1e-4 + 1e-12
    assert schedule.products() >= plan(p, kappa=1e3, tol=1e-4).products() + 1


@pytest.mark.parametrize("exponent", [Fraction(-1, 4), Fraction(-3, 4), Fraction(1, 4), Fraction(-5, 4)])
@pytest.mark.parametrize("k_over_n", [None, 0.1])
@pytest.mark.parametrize("kappa", [1.05, 1e5])
def test_the_search_counts_as_the_schedule_does(exponent, k_over_n, kappa):
    degrees = tuple(range(1, 9))
    problem = _planner._Problem(4, exponent, kappa, 1e-3, k_over_n, degrees, degrees, degrees)
    found = _planner.search(problem, factored=True)
    assert found is not None
    assert found[0] == pytest.approx(_planner._realise(problem, found[1]).products(k_over_n))


def test_a_last_degree_that_misses_is_raised():
    near, table = _planner.NEAR_DEGREES, _planner.TABLE_DEGREES
    problem = _planner._Problem(2, Fraction(-1, 2), 1e4, 1e-3, 0.02, near, table, near)
    schedule = _planner._realise(problem, (2, 20))
    assert schedule.error <= 1e-3
    last = schedule.steps[-1]
    assert last.degree > 20
    assert minimax(2, last.degree - 1, last.lo, last.hi).error > 1e-3


def test_powers_cost_their_chains():
    """p = 4, -3/4: the root form pays l(3) = 2 in every step, and 1 to apply after the first."""
    schedule = plan(4, kappa=1e2, tol=1e-3, exponent=Fraction(-3, 4), degrees=(4,))
    inner = len(schedule) - 1
    assert schedule.products() == len(schedule) * (2 + 2) + inner * (3 + 1)


def test_forming_the_root_and_wide_b_are_the_same():
    narrow = plan(3, kappa=1e4, tol=1e-3)
    assert plan(3, kappa=1e4, tol=1e-3, k_over_n=1.0) is narrow
    assert plan(3, kappa=1e4, tol=1e-3, k_over_n=40) is narrow
    assert isinstance(narrow, Schedule)


def test_trivial_spectra():
    schedule = plan(2, kappa=1, tol=1e-6)
    assert len(schedule) == 1
    assert schedule.error <= 1e-6
    assert schedule.products() == 0


def test_terminal_degrees_can_be_fixed():
    schedule = plan(2, kappa=1e4, tol=1e-3, k_over_n=0.02, terminal_degrees=(2, 16))
    assert schedule.steps[-1].degree in (2, 16)
    schedule = plan(2, kappa=1e4, tol=1e-3, k_over_n=0.02, degrees=(2,))
    assert {step.degree for step in schedule} == {2}


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_the_first_degree_can_be_kept_low(p, kappa):
    """It is the cheapest with such a beginning: not dearer than any low first step and the best plan after it."""
    low = plan(p, kappa=kappa, tol=1e-5, first_degrees=(1, 2))
    assert low.steps[0].degree <= 2 and low.error <= 1e-5
    assert low.products() >= plan(p, kappa=kappa, tol=1e-5).products()
    for degree in (1, 2):
        lo, hi = minimax(p, degree, 1 / kappa, 1.0).interval_after
        # The rest is no beginning: its first step pays for X, too.
        rest = plan(p, kappa=1.001 * hi / lo, tol=1e-5).products() + 1
        begun = plan(p, kappa=kappa, tol=1e-5, degrees=(degree,)).steps[0]
        update = {1: 1, 2: 2, 4: 3}[p]
        assert begun.degree == degree and low.products() <= (degree - 1) + update + rest
    with pytest.raises(ValueError, match="first_degrees"):
        plan(p, kappa=kappa, tol=1e-5, first_degrees=(9,))


def test_orders_beyond_the_table():
    schedule = plan(40, kappa=1e4, tol=1e-3)
    assert schedule.error <= 1e-3
    assert schedule.products() <= plan(16, kappa=1e4, tol=1e-3).products() + 8


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({"p": 0}, ValueError, "p must"),
        ({"p": 2.0}, TypeError, "p must"),
        ({"p": Fraction(3, 2)}, TypeError, "exponent"),
        ({"kappa": 1e15}, ValueError, "kappa"),
        ({"kappa": 0.5}, ValueError, "kappa"),
        ({"kappa": math.nan}, ValueError, "kappa"),
        ({"kappa": "1e4"}, TypeError, "kappa"),
        ({"tol": 1e-16}, ValueError, "tol"),
        ({"tol": 1.0}, ValueError, "tol"),
        ({"tol": 1.2e-15}, ValueError, "tol=1.2e-15 cannot be reached"),
        ({"k_over_n": -1.0}, ValueError, "k_over_n"),
        ({"degrees": ()}, ValueError, "degrees"),
        ({"degrees": (9,)}, ValueError, "degrees"),
        ({"terminal_degrees": (13,)}, ValueError, "terminal_degrees"),
        ({"exponent": Fraction(-1, 3)}, ValueError, "use p=3"),
        ({"exponent": Fraction(0)}, ValueError, "exponent"),
        ({"exponent": Fraction(3, 2)}, ValueError, "multiply by A"),
    ],
)
def test_bad_arguments_are_named(change, kind, word):
    arguments = {"p": 2, "kappa": 1e4, "tol": 1e-3, **change}
    with pytest.raises(kind, match=word):
        plan(arguments.pop("p"), **arguments)

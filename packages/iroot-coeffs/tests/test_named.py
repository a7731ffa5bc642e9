"""Named schedules against their publications' own statements."""

import numpy as np
import pytest
from iroot_coeffs import NAMED, POLAR_EXPRESS, Step, minimax, named


@pytest.mark.parametrize("name", list(NAMED))
def test_every_named_schedule_says_what_it_does(name):
    schedule = named(name, kappa=1e3)
    x = np.geomspace(1e-3, 1, 3000)
    root, y = np.ones_like(x), x.copy()
    for step in schedule:
        q = step(y)
        root, y = root * q, y * q**2
    error = np.abs(root * np.sqrt(x) - 1).max()
    assert error <= schedule.error + 1e-12
    assert NAMED[name].source
    assert NAMED[name].name == name


@pytest.mark.parametrize("p", [1, 2, 3, 8])
def test_newton_by_its_recurrence(p):
    schedule = named("newton", p, kappa=50.0, tol=1e-4)
    x = np.geomspace(1 / 50, 1, 100)
    root = np.ones_like(x)
    for _ in schedule:
        # X <- X ((p + 1) I - X^p A)/p, as in the source
        root = root * ((p + 1) - root**p * x) / p
    assert np.max(np.abs(root * x ** (1 / p) - 1)) == pytest.approx(schedule.error, rel=1e-6)
    assert schedule.error <= 1e-4 < named("newton", p, kappa=50.0, steps=len(schedule) - 1).error


def test_newton_schulz_is_newton_for_p_2():
    assert named("newton-schulz", kappa=30.0) == named("newton", 2, kappa=30.0)
    assert named("newton-schulz", steps=1).steps[0].monomial == pytest.approx((1.5, -0.5))


def test_the_quintic_newton_schulz_has_third_order():
    first, second = named("newton-schulz-5", kappa=1.5, steps=2)
    # q(y) y^(1/2) - 1 ~ -(5/16) (1 - y)^3, and 1 - y ~ -2 r
    assert second.error == pytest.approx(5 / 16 * (2 * first.error) ** 3, rel=0.05)


def test_polar_express_is_as_published():
    """Amsel et al., Implementation 1: singular values from 1e-3 reach 1 to within bf16 in eight steps."""
    assert len(POLAR_EXPRESS) == 8
    schedule = named("polar-express", kappa=1e6)
    a, b, c = POLAR_EXPRESS[0]
    assert schedule.steps[0].monomial == pytest.approx((a / 1.01, b / 1.01**3, c / 1.01**5), rel=1e-12)
    assert schedule.steps[7].monomial == pytest.approx((1.875, -1.25, 0.375), rel=1e-12)
    assert named("polar-express", kappa=1e6, steps=9).steps[8].monomial == pytest.approx((1.875, -1.25, 0.375))
    assert all(0 < step.low < step.high < 2.01 for step in schedule)
    assert schedule.error < 2.0**-9


def test_the_published_tuples_are_minimax_ones():
    """Before the safety factor each is the best on the range reached, its lower end raised by the cushion.

    Amsel et al., §3.4: l is replaced by 0.02407... u where that is larger, and the result recentred, so that
    its range on the true interval is symmetric about 1.
    """
    lo, hi = 1e-6, 1.0
    for index, published in enumerate(POLAR_EXPRESS[:7]):
        step = Step.of_polynomial(2, published, lo, hi)
        assert (step.low + step.high) / 2 == pytest.approx(1.0, abs=1e-8)
        best = minimax(2, 2, max(lo, 0.02407327424182761**2 * hi), hi).monomial
        factors = np.array(published) / np.array(best)
        np.testing.assert_allclose(factors, factors[0], rtol=1e-7)
        assert (factors[0] == pytest.approx(1.0, abs=1e-7)) == (index >= 3)
        lo, hi = step.interval_after
    assert POLAR_EXPRESS[7] == (15 / 8, -10 / 8, 3 / 8)


def test_muon_stays_in_its_band():
    """Jordan (2024): singular values end up in about [0.7, 1.2], not at 1."""
    schedule = named("muon", kappa=1e4)
    assert len(schedule) == 5
    assert 0.2 < schedule.error < 0.35
    assert schedule.steps[-1].high < 1.21
    assert Step.of_polynomial(2, (3.4445, -4.7750, 2.0315), 1e-4, 1.0) == schedule.steps[0]


def test_cans_is_the_published_construction():
    """Grishina et al.: the best odd cubic on [a, b], then on [1 - ε, 1 + ε], ten times."""
    a, b = 1e-2, 1.0
    schedule = named("cans", kappa=1e4)
    assert len(schedule) == 10
    for step in schedule.steps[:7]:
        e = (a * a + a * b + b * b) / 3
        alpha = 2 / (2 * e**1.5 + a * a * b + a * b * b)
        assert step.monomial == pytest.approx((3 * e * alpha, -alpha), rel=1e-6)
        epsilon = 2 * e**1.5 * alpha - 1
        assert step.error == pytest.approx(epsilon, rel=1e-6)
        a, b = 1 - epsilon, 1 + epsilon
    assert schedule.error < 1e-14


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        (("nobody",), {}, "unknown"),
        (("muon", 3), {}, "exists for"),
        (("newton",), {"steps": 0}, "steps"),
        (("newton",), {"kappa": 1e14, "tol": 1e-17}, "after 200"),
    ],
)
def test_bad_arguments_are_named(arguments, options, word):
    with pytest.raises(ValueError, match=word):
        named(*arguments, **options)

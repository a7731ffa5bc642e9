"""Quadratic schedules as arrays."""

import numpy as np
import pytest
from iroot_coeffs import PRECOMPUTED_QUADRATIC_L005, build_pe_schedules, plan, quadratic_steps


def relative_error(rows, p, x):
    root, y = np.ones_like(x), x.copy()
    for a, b, c in rows:
        q = a + b * y + c * y * y
        root, y = root * q, y * q**p
    return np.max(np.abs(root * x ** (1 / p) - 1))


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("l_target", [0.5, 0.05, 1e-4])
def test_rows_do_what_they_should(p, l_target):
    rows, description = build_pe_schedules(l_target, "auto", 0, 1.0, False, p)
    assert rows.shape[1] == 3
    assert rows.dtype == np.float64
    assert relative_error(rows, p, np.geomspace(l_target, 1, 5000)) <= 1e-3 + 1e-10
    assert f"p={p}" in description
    # as few as the planner takes when only quadratics are allowed
    assert len(rows) == len(plan(p, kappa=1 / l_target, tol=1e-3, degrees=(2,)))
    tuned, _ = build_pe_schedules(l_target, "tuned", 7, 1.0, False, p)
    np.testing.assert_array_equal(rows, tuned)


def test_the_precomputed_rows_are_the_minimax_ones():
    schedule = quadratic_steps(2, 0.05, 1.0, count=4)
    made = np.array([step.monomial for step in schedule])
    # the last interval is 2e-5 wide: its curvature is known to u/(1e-5)^2 = 1e-6
    np.testing.assert_allclose(np.array(PRECOMPUTED_QUADRATIC_L005)[:3], made[:3], rtol=1e-9)
    np.testing.assert_allclose(np.array(PRECOMPUTED_QUADRATIC_L005)[3], made[3], rtol=2e-5)
    x = np.geomspace(0.05, 1, 20000)
    errors = [relative_error(PRECOMPUTED_QUADRATIC_L005[: i + 1], 2, x) for i in range(4)]
    assert errors[:2] == pytest.approx([schedule.steps[0].error, schedule.steps[1].error], rel=1e-3)
    assert errors[2] < 4.3e-8
    assert errors[3] < 2e-15


def test_precomputed_mode():
    rows, description = build_pe_schedules(0.05, "precomputed", 0, 1.0, False)
    np.testing.assert_array_equal(rows, np.array(PRECOMPUTED_QUADRATIC_L005))
    assert "0.05" in description
    cubic, _ = build_pe_schedules(0.05, "precomputed", 0, 1.0, False, 3)
    assert cubic.shape == (4, 3)
    assert relative_error(cubic, 3, np.geomspace(0.05, 1, 500)) < 1e-13


@pytest.mark.parametrize("p", [2, 3])
def test_safety_widens_every_step_but_perhaps_the_last(p):
    safe, description = build_pe_schedules(0.01, "auto", 0, 1.02, False, p)
    assert "1.02" in description
    x = np.geomspace(0.01, 1.02, 5000)
    # a spectrum 2 % above the expected end is still handled
    assert relative_error(safe, p, x) <= 1e-3
    relaxed, _ = build_pe_schedules(0.01, "auto", 0, 1.02, True, p)
    np.testing.assert_allclose(relaxed[:-1], safe[: len(relaxed) - 1])
    assert not np.allclose(relaxed[-1], safe[len(relaxed) - 1])
    assert relative_error(relaxed, p, np.geomspace(0.01, 1, 5000)) <= 1e-3


def test_excessive_safety_is_named():
    with pytest.raises(ValueError, match="coeff_safety=2"):
        build_pe_schedules(0.05, "auto", 0, 2.0, False, 1)


@pytest.mark.parametrize(
    ("change", "kind", "word"),
    [
        ({"l_target": 0.0}, ValueError, "l_target"),
        ({"l_target": 1.5}, ValueError, "l_target"),
        ({"coeff_mode": "best"}, ValueError, "coeff_mode"),
        ({"coeff_safety": 0.5}, ValueError, "coeff_safety"),
        ({"p_val": 0}, ValueError, "p must"),
        ({"p_val": 2.5}, TypeError, "p must"),
    ],
)
def test_bad_arguments_are_named(change, kind, word):
    with pytest.raises(kind, match=word):
        build_pe_schedules(**change)

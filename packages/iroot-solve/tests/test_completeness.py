"""An eigenvalue that the iteration has not reached is found; one that is where it was planned to be is not."""

import math

import numpy as np
import pytest
import torch
from iroot_coeffs import minimax, plan
from iroot_solve import SolveWorkspace
from iroot_solve._completeness import LIMIT, degree, unfinished

ENDS = {
    "quadratic": minimax(2, 2, 0.6, 1.5),
    "quartic": minimax(4, 4, 0.2, 1.8),
    "one of a high degree": minimax(2, 40, 0.01, 1.0),
    "nothing left to do": minimax(2, 1, 0.999, 1.001),
}


def ratio(Y, end, seed=0):
    return unfinished(Y if Y.ndim == 3 else Y[None], end, seed, SolveWorkspace())


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("share", [0.0, 0.05])
def test_a_lone_eigenvalue_is_seen_from_every_start(with_spectrum, end, share):
    """A small one by itself, the others all over the interval."""
    Y = with_spectrum([share * end.lo, *np.linspace(end.lo, end.hi, 95)], seed=3)
    assert all(float(ratio(Y, end, seed)) > 1 for seed in range(200))


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_was_planned_is_not_called_unfinished(with_spectrum, end, dtype):
    """The worst case: every eigenvalue at an end of the interval, where |T_j| = 1. A fifth of the limit, as planned."""
    Y = with_spectrum([end.lo, end.hi] * 64, seed=4, dtype=dtype)
    found = [float(ratio(Y, end, seed)) for seed in range(20)]
    assert max(found) <= 0.3
    j, start = degree(128, end)
    assert np.mean(found) == pytest.approx(128 / (LIMIT * math.cosh(j * math.acosh(start)) ** 2), rel=0.2)


def test_the_share_of_one_eigenvector_is_what_the_formula_says(with_spectrum):
    """E N = Σ (T_j(x(y))/T_j(x(0)))²: with j = 2, x(0) = 21, and y half way to l, x = 11."""
    end = minimax(2, 1, 1.0, 1.1)
    Y = with_spectrum([0.5] + [1.0] * 63, seed=5)
    found = [LIMIT * float(ratio(Y, end, seed)) for seed in range(300)]
    assert degree(64, end) == (2, pytest.approx(21.0))
    assert np.mean(found) == pytest.approx(((2 * 11**2 - 1) / (2 * 21**2 - 1)) ** 2, rel=0.1)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 256])
def test_an_eigenvector_of_two_entries_is_seen_as_well(n):
    """Signs may be orthogonal to (e_i − e_j)/√2: one column with probability 1/2."""
    end = ENDS["quadratic"]
    for seed in range(400):
        Y = torch.eye(n, dtype=torch.float64)
        Y[:2, :2] = 0.5 + 1e-9 * torch.eye(2, dtype=torch.float64)  # eigenvalues 1 and 1e-9
        assert float(ratio(Y, end, seed)) > 1


def test_what_the_recurrence_overflows_on_is_not_finished():
    """Infinity less infinity is no number, and no number says nothing against anything."""
    Y = torch.diag_embed(torch.tensor([[1e25, 1.0, 1.0], [-1e30, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    assert (ratio(Y, minimax(2, 40, 0.01, 1.0)) > 1).tolist() == [True, True, False]


def test_a_few_products_for_usual_plans():
    plans = [plan(p, kappa=kappa, tol=2.5e-5) for p in (1, 2, 4) for kappa in (1e1, 1e3, 1e6)]
    assert max(degree(4096, schedule.steps[-1])[0] for schedule in plans) <= 14


@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e4])
@pytest.mark.parametrize("tol", [0.4, 0.1, 1e-2])
def test_plans_for_loose_tolerances_are_not_called_unfinished(with_spectrum, kappa, tol):
    """A large p has steps for wide intervals that leave little: more products, up to a limit that no plan reaches."""
    for p in (1, 3, 8):
        end = plan(p, kappa=kappa, tol=0.25 * tol).steps[-1]
        assert degree(64, end)[0] < 200
        assert float(ratio(with_spectrum(np.geomspace(end.lo, end.hi, 64), 7), end)) <= 0.3


def test_a_caller_s_steps_are_looked_at_within_a_limit(with_spectrum):
    """A quadratic for [1e-12, 1]: eight products, and what is far below the rest is found all the same."""
    end = minimax(2, 2, 1e-12, 1.0)
    assert degree(32, end, given=True)[0] == 8
    Y = with_spectrum([1e-12, *np.linspace(0.2, 1.0, 31)])
    assert float(unfinished(Y[None], end, 0, SolveWorkspace(), given=True)) > 1


def test_batches_are_judged_one_by_one(with_spectrum):
    fine, missed = with_spectrum([1.0] * 32), with_spectrum([0.01] + [1.0] * 31)
    Y = torch.stack((fine, missed, torch.full_like(fine, torch.nan), fine))
    found = ratio(Y, ENDS["quadratic"])
    assert (found > 1).tolist() == [False, True, True, False]

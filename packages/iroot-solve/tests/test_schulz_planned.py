"""Newton–Schulz steps by plan: eigenvalues where the plan has them, contraction as predicted, no answer as NaN."""

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace
from iroot_solve._newton_schulz import LAST, NewtonSchulz, left_by_correction, start_of
from iroot_solve._schulz_planned import MOST_NOISE, SEEN_MORE, PlannedNewtonSchulz, planned
from iroot_solve._schulz_products import MARGIN, UNIT, quadratic

TOL = 5e-5
KAPPAS = [2.0, 30.0, 200.0, 2e3]


def general(n, kappa, spectrum="log", seed=0):
    """In float64, entries at most 1: U·diag(σ)·Vᵀ with random orthogonal U and V."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    sigma = np.logspace(0, -np.log10(kappa), n)
    if spectrum == "lone":
        sigma = np.linspace(1.0, 0.5, n)
        sigma[-1] = 1 / kappa
    A = torch.from_numpy((U * sigma) @ V.T)
    return (A / A.abs().max())[None]


def contraction(X, A):
    """Of a correction, in the mean of four, by float64."""
    V = torch.from_numpy(np.random.default_rng(3).standard_normal((A.shape[-1], 32)))
    start = float(V.norm())
    for _ in range(4):
        V = V - X[0].double() @ (A[0] @ V)
    return (float(V.norm()) / start) ** 0.25


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.4, 1.0])
def test_every_eigenvalue_up_to_that_condition_arrives(kappa, noise):
    """In exact arithmetic, which adds no noise: 1 − y·q(y) ends within the ε of the last step."""
    plan = planned(kappa, noise, 0, TOL)
    y = np.geomspace(kappa**-2, 1.0, 4001)
    for q in plan.steps:
        assert y.min() > 0
        y = q.image(y)
    assert np.abs(1 - y).max() <= LAST + SEEN_MORE
    assert np.abs(1 - plan.last.image(y)).max() <= plan.last.error * (1 + 1e-9) < 0.1


@pytest.mark.parametrize("kappa", KAPPAS)
def test_steps_are_those_that_the_gain_of_a_step_predicts(kappa):
    """The smallest y gains 8.4 in a step with far to go, and κ² is log κ²/log 8.4 of them; then it takes up to two."""
    plan = planned(kappa, 1e-3, 0, TOL)
    fewest = np.log(kappa**2 * (1 - LAST)) / np.log(9)
    assert fewest <= len(plan.steps) <= np.log(kappa**2) / np.log(8.4) + 2


def test_corrections_are_those_of_what_is_left_and_more_where_more_were_needed():
    plan = planned(200.0, 0.05, 0, TOL)
    left = left_by_correction(plan.last.error, 0.05)
    assert left ** (plan.corrections + 1) <= TOL and (plan.corrections == 1 or left**plan.corrections > TOL)
    assert planned(200.0, 0.05, 2, TOL).corrections == plan.corrections + 2


def test_what_cannot_be_planned():
    assert planned(1e6, 0.1, 0, TOL) is None and planned(1e2, MOST_NOISE * 1.01, 0, TOL) is None


def test_where_steps_began():
    """Forwards and back: the smallest eigenvalue from where it has come to."""
    steps = [quadratic(1 / 40, 1.0), quadratic(1 / 25, 1.7), quadratic(0.15, 1.5)]
    for y in (1e-6, 1e-4, 5e-4):
        end = y
        for q in steps:
            end = q.image(end)
        assert start_of(end, steps) == pytest.approx(y, rel=1e-9)


@pytest.mark.parametrize("spectrum", ["log", "lone"])
@pytest.mark.parametrize("kappa", [2.0, 30.0, 1e3])
def test_the_condition_that_eager_steps_have_seen(kappa, spectrum):
    """No less than there is, but for what noise adds to its last look, and that is little: nearly none of κ².

    No more than twice it where steps have far to go; where they have not, noise and the bound are all that they see.
    """
    A = general(160, kappa, spectrum)
    F = NewtonSchulz(A, Workspace(), 0)
    true = float(F.highest[0] / torch.linalg.svdvals(A[0])[-1])
    assert 0.9 * true <= F.kappa <= 2 * max(true, 6.0)


@pytest.mark.parametrize("spectrum", ["log", "lone"])
@pytest.mark.parametrize(("kappa", "noise"), [(10.0, 0.02), (1e2, 0.06), (1e3, 0.35)])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.03])
def test_contraction_is_as_predicted_for_all_that_the_plan_is_for(kappa, noise, share, spectrum):
    """Up to the planned κ, which is that of the bound: n^⅛ times the matrix's, at most."""
    A = general(160, max(share * kappa, 1.1), spectrum, seed=4)
    plan = planned(kappa * 160**0.125 * MARGIN, noise, 0, TOL)
    F = PlannedNewtonSchulz(A, Workspace(), plan)
    sigma = float(torch.linalg.matrix_norm(A, 2))
    assert sigma <= float(F.highest[0]) <= 160**0.125 * MARGIN * sigma * (1 + UNIT)
    assert F.products.steps == len(plan.steps) + 1 and F.products.square == 3 * F.products.steps
    assert contraction(F.X, A) <= left_by_correction(plan.last.error, noise)


def test_a_batch_with_what_has_no_inverse():
    """Each matrix has its own scale; NaN stays where it is."""
    A = torch.cat([general(48, 20.0, seed=i) for i in range(4)])
    A[1], A[2, 3, 3] = 0.0, torch.nan
    A[3] *= 1e-3
    F = PlannedNewtonSchulz(A, Workspace(), planned(60.0, 0.02, 0, TOL))
    assert F.X.isnan().flatten(1).any(1).tolist() == [False, True, True, False]
    assert contraction(F.X[:1], A[:1]) <= 0.1 and contraction(F.X[3:], A[3:]) <= 0.1

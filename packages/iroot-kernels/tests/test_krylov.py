"""The error estimates of Krylov methods are honest, on spectra where that is hard."""

import math

import numpy as np
import pytest
import torch
from iroot_kernels import lanczos_apply
from iroot_kernels._krylov import divided_difference, small_share

EXPONENTS = [-1, -1 / 2, -1 / 4, -2 / 3, 1 / 2]

N = 120
SPECTRA = {
    "log 1e1": np.geomspace(1e-1, 1, N),
    "log 1e3": np.geomspace(1e-3, 1, N),
    "log 1e5": np.geomspace(1e-5, 1, N),
    "power law": np.arange(1, N + 1.0) ** -2,
    "cluster and tail": np.append(1 - 1e-3 * np.linspace(0, 1, N // 2), np.geomspace(1e-4, 0.5, N // 2)),
    "cluster below": 0.01 + np.logspace(-6, 0, N),
    "one large": np.append(np.linspace(0.001, 0.01, N - 1), 1),
    "one tiny 1e-4": np.append(np.linspace(0.1, 1, N - 1), 1e-4),
    "one tiny 1e-6": np.append(np.linspace(0.1, 1, N - 1), 1e-6),
    "one tiny below a tail": np.append(np.geomspace(0.01, 1, N - 1), 1e-5),
    "two tiny": np.append(np.linspace(0.1, 1, N - 2), [1e-3, 1e-6]),
}


def rounding(kappa):
    """Products err by √n·u·‖A‖ (random signs), a backward error that moves λ_min relatively by √n·κ·u.

    For |α| ≤ 1 that moves f(λ_min) by no more, and the result by no more than f(λ_min)'s own part of it. Twice: A's
    symmetrised storage, and the truth.
    """
    return 2 * math.sqrt(N) * kappa * 2.0**-53


def stops(exponent, A, B, low):
    """Results at some dimensions, early and late."""
    for most in (8, 13, 20, 31, 45, 70, 100):
        yield lanczos_apply(A.matmul, B, exponent, tol=1e-300, max_steps=most, low=low)


def bounded(result, truth, floor):
    """Whether the bound is one: ‖error‖ ≤ E, so relative to ‖Z‖ ≥ ‖f(A)B‖·(1 − truth)."""
    least, estimate, bound = truth / (1 + truth) - floor, float(result.error), float(result.bound)
    return bound >= least and (estimate <= 1.0001 * bound or bound < floor)


@pytest.mark.slow
@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("known", [False, True])
def test_the_estimate_is_honest_wherever_it_stops(exponent, name, known, power, error, with_spectrum, rhs):
    """So is the bound, which there is where `low` is known."""
    values = SPECTRA[name]
    A, B, floor = with_spectrum(values)[0], rhs(N, 4), rounding(values.max() / values.min())
    want = power(A, exponent) @ B
    for result in stops(exponent, A, B, values.min() if known else None):
        truth = error(result.Z, want)
        assert not known or bounded(result, truth, floor)
        # Before a tiny eigenvalue is met nothing but `low` tells how much is missing, but that something may be.
        if known or truth <= 0.1:
            assert float(result.error) >= 0.3 * (truth - floor), (result.steps, truth)
        else:
            assert float(result.error) >= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("name", ["cluster and tail", "two tiny"])
@pytest.mark.parametrize("k", [1, 4])
def test_the_estimate_is_honest_between_two_plateaus_too(exponent, name, k, power, error, with_spectrum, rhs):
    """Checks so close that E falls by chance where Z stands still: one share alone is 5–20 times too low there."""
    values = SPECTRA[name]
    A, B, floor = with_spectrum(values)[0], rhs(N, k), rounding(values.max() / values.min())
    want = power(A, exponent) @ B
    for most in range(8, 64, 4):
        result = lanczos_apply(A.matmul, B, exponent, tol=1e-300, max_steps=most, check_every=4)
        truth = error(result.Z, want)
        if truth <= 0.1:
            assert float(result.error) >= 0.3 * (truth - floor), (most, truth)


@pytest.mark.parametrize("exponent", [-1, -2 / 3, -1 / 2, -1 / 4])
def test_a_loose_tolerance_does_not_stop_before_a_tiny_eigenvalue_is_met(exponent, power, error, with_spectrum, rhs):
    """Its share of B, 1/√n, is below the tolerance, its part of the result is not."""
    A, missed = with_spectrum(SPECTRA["one tiny 1e-6"])[0], 0
    F = power(A, exponent)
    for seed in range(20):
        B = rhs(N, 4, seed=seed)
        result = lanczos_apply(A.matmul, B, exponent, tol=0.15, max_steps=N, check_every=2)
        assert result.converged.all()
        missed += error(result.Z, F @ B) > 0.15 / 0.3
    # The threshold is what 19 of 20 random B exceed.
    assert missed <= 1


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
def test_stops_where_the_tolerance_is_met_and_not_much_later(exponent, name, tol, power, error, with_spectrum, rhs):
    values = SPECTRA[name]
    A, B = with_spectrum(values)[0], rhs(N, 4)
    want = power(A, exponent) @ B
    result = lanczos_apply(A.matmul, B, exponent, tol=tol, max_steps=N)
    assert result.converged.all()
    assert error(result.Z, want) <= tol / 0.3 + rounding(values.max() / values.min())
    # Where a third fewer steps and a check less are enough, the run was too long; a tiny eigenvalue costs one check.
    enough = int((result.steps - 16) / (4 / 3) ** (2 if "tiny" in name else 1))
    if enough > 0:
        short = lanczos_apply(A.matmul, B, exponent, tol=1e-300, max_steps=enough)
        assert error(short.Z, want) > tol / 30


@pytest.mark.slow
@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_bound_is_one(exponent, name, power, error, with_spectrum, rhs):
    """For a `low` below the spectrum, too."""
    values = SPECTRA[name]
    A, B, floor = with_spectrum(values)[0], rhs(N, 2), rounding(values.max() / values.min())
    want = power(A, exponent) @ B
    for result in stops(exponent, A, B, 0.1 * values.min()):
        assert bounded(result, error(result.Z, want), floor)


def test_no_bound_without_a_lower_end_or_where_a_ritz_value_refutes_it(spd, rhs):
    A, B = spd(N, 1e2), rhs(N, 2)
    assert lanczos_apply(A.matmul, B, -0.5, tol=1e-6, max_steps=48).bound.isinf().all()
    assert lanczos_apply(A.matmul, B, -0.5, tol=1e-6, max_steps=48, low=0.5).bound.isinf().all()
    assert lanczos_apply(A.matmul, B, -1.5, tol=1e-6, max_steps=48, low=1e-2).bound.isinf().all()
    low = torch.tensor([1e-2, 0.5])
    per_matrix = lanczos_apply(A.repeat(2, 1, 1).matmul, B.repeat(2, 1, 1), -0.5, tol=1e-6, max_steps=48, low=low)
    assert per_matrix.bound.isinf().tolist() == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [-1, -1 / 2, -1 / 4])
@pytest.mark.parametrize("tiny", [1e-3, 1e-6])
@pytest.mark.parametrize("share", [1.0, 1e-1, 1e-2, 1e-4])
def test_a_tiny_eigenvalue_that_b_hardly_shows_is_not_missed_where_low_is_known(
    exponent, tiny, share, power, error, with_spectrum, rhs
):
    A, V = with_spectrum(np.append(np.linspace(0.1, 1, N - 1), tiny))
    v, B = V[..., -1:], rhs(N, 1)
    along = v * (v.mT @ B)
    B = B - along + share * along
    want = power(A, exponent) @ B
    result = lanczos_apply(A.matmul, B, exponent, tol=1e-2, max_steps=N, low=tiny / 2)
    assert result.converged.all()
    assert error(result.Z, want) <= 1e-2 / 0.3 + rounding(1 / tiny)


@pytest.mark.parametrize("exponent", [-1, -2 / 3, -1 / 2])
def test_differences_alone_would_stop_on_the_plateau(exponent, power, error, with_spectrum, rhs):
    """Z moves by less than 1e-3 while a fifth and more is missing; the estimate knows.

    The share 1e-4 of B is below what the process shows after 8 steps, 2·0.3^8 ((√κ − 1)/(√κ + 1) = 0.3 for the rest),
    and f(λ) = 1e4 makes it as large as all others.
    """
    tiny = 1e-4 ** (-1 / exponent)
    A, V = with_spectrum(np.append(np.linspace(0.3, 1, N - 1), tiny))
    v, B = V[..., -1:], rhs(N, 1)
    B = B - v * (v.mT @ B) + 1e-4 * torch.linalg.vector_norm(B) * v
    want = power(A, exponent) @ B
    before, after = (
        lanczos_apply(A.matmul, B, exponent, tol=1e-300, max_steps=m, check_every=2, low=tiny) for m in (6, 8)
    )
    moved, truth = error(before.Z, after.Z), error(after.Z, want)
    assert moved < 1e-3 and truth > 0.2
    assert float(after.error) >= 0.3 * truth


def test_checks_are_few(spd, allocations, rhs):
    A, B = spd(N, 1e4), rhs(N, 1)
    with allocations(0) as seen:
        result = lanczos_apply(A.matmul, B, -0.5, tol=1e-300, max_steps=N)
    assert result.steps == N
    # At least a third more steps each time from 24 on, every 8 before; each makes eigenvalues and eigenvectors.
    assert seen.made.count("aten._linalg_eigh.default") / 2 <= 3 + math.ceil(math.log(N / 24, 4 / 3))


def test_divided_difference_is_accurate_next_to_x():
    x = torch.tensor(0.3, dtype=torch.float64)
    for exponent in EXPONENTS:
        assert float(divided_difference(x, x, exponent)) == pytest.approx(exponent * 0.3 ** (exponent - 1), rel=1e-15)
        # f[x, x + h] = f'(x) + h·f''(x)/2 + O(h²)
        want = exponent * 0.3 ** (exponent - 1) + 0.5e-9 * exponent * (exponent - 1) * 0.3 ** (exponent - 2)
        assert float(divided_difference(x + 1e-9, x, exponent)) == pytest.approx(want, rel=1e-14)
        far = torch.tensor(7.0, dtype=torch.float64)
        assert float(divided_difference(far, x, exponent)) == pytest.approx((7**exponent - 0.3**exponent) / 6.7)


@pytest.mark.parametrize("k", [1, 2, 4, 16])
def test_small_share_is_what_random_columns_exceed(k):
    shares = torch.randn(20000, k, generator=torch.Generator().manual_seed(0)).square().mean(-1).sqrt()
    rate = float((shares < small_share(k)).float().mean())
    # One column: P(|x| < 0.1) = 8 %. Two: the formula gives 1 − exp(−0.199²) = 3.9 %. More: 5 %. Sampling: 3·0.2 %.
    assert rate == pytest.approx({1: 0.0797, 2: 0.0388}.get(k, 0.05), abs=0.006)

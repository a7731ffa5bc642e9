"""Series with a certificate that nothing is read for: of matrices and operators, of promises kept and broken."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import SolveWorkspace, Status, solve_gram_spd, solve_spd
from iroot_solve._completeness import LIMIT, PROBES
from iroot_solve._sums import SHARE, cayley_series_of, chebyshev_series_of
from iroot_solve._sums_checked import INSIDE, plan_of
from numpy.polynomial.chebyshev import chebval

LATER = {"verify": "deferred", "on_failure": "nan"}
BOTH = pytest.mark.parametrize("strategy", ["chebyshev", "cayley"])


def _solve(A, B, strategy, kappa, operator=False, **settings):
    """`operator`: only products with A, and λmax is promised, too."""
    if operator:
        return solve_spd(lambda V: A @ V, B, strategy="chebyshev", kappa_max=kappa, **LATER, **settings)
    return solve_spd(A, B, strategy=strategy, kappa_max=kappa, **LATER, **settings)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [1.5, 40.0, 1e3])
@pytest.mark.parametrize("k", [1, 24])
def test_promises_kept(spd, rhs, truth, distance, within, host_reads, strategy, dtype, p, kappa, k):
    if dtype is torch.bfloat16 and kappa > 40:
        pytest.skip("rounded to bfloat16 it is no such matrix")
    A, B = spd(40, kappa, dtype=dtype), rhs(40, k, dtype=dtype)
    tol = {torch.float64: 1e-10, torch.float32: 1e-4 if kappa < 1e3 else 1e-3}.get(dtype, 1e-2)
    with host_reads() as found:
        Z, _, stats, _ = _solve(A, B, strategy, 1.5 * kappa, p_val=p, tol=tol)
    assert found == [] and stats.status == "converged" and stats.strategy == strategy
    error = distance(Z, truth(A, B, -1 / p))
    assert error <= within(tol, dtype) and error <= 1.5 * float(stats.error) + torch.finfo(dtype).eps


@pytest.mark.parametrize("spectrum", ["ends", "log"])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("p", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_operators_with_exact_promises(with_spectrum, rhs, truth, distance, host_reads, spectrum, tol, p, shape):
    """Half of the eigenvalues at either end: that is as much as the probes may see of a promise that is kept."""
    kappa = 30.0
    values = np.repeat([1 / kappa, 1.0], 32) if spectrum == "ends" else np.geomspace(1 / kappa, 1, 64)
    A, B = with_spectrum(values).expand(*shape, 64, 64), rhs(*shape, 64, 2, dtype=torch.float64)
    with host_reads() as found:
        Z, _, stats, _ = _solve(A, B, "chebyshev", kappa * (1 + 1e-9), True, lambda_max=1.0 + 1e-9, p_val=p, tol=tol)
    assert found == [] and bool(stats.converged.all())
    assert distance(Z, truth(A, B, -1 / p)) <= tol
    assert bool((stats.error <= tol).all())


@BOTH
@pytest.mark.parametrize("below", [3.0, 30.0, 1e3, 1e8])
@pytest.mark.parametrize("share", [1.0, 1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_one_eigenvalue_below(with_spectrum, rhs, truth, distance, strategy, below, share, p):
    """Whatever share of it B has: converged is right to SHARE·tol, and what is far below is never called converged."""
    kappa, tol = 20.0, 1e-4
    A = with_spectrum([1 / (kappa * below), *np.geomspace(1 / kappa, 1, 47)], 3)
    V = torch.linalg.eigh(A).eigenvectors
    B = rhs(48, 2, dtype=torch.float64)
    B += V[:, :1] @ (share - V[:, :1].mT @ B)
    for operator in (False, True) if strategy == "chebyshev" else (False,):
        promised = {"lambda_max": 1.0 + 1e-9} if operator else {}
        result = _solve(A, B, strategy, kappa, operator, p_val=p, tol=tol, **promised)
        assert result.stats.status == "stagnated" or below == 3.0
        if result.stats.status == "converged":  # [l, u] has some room below
            assert distance(result.Z, truth(A, B, -1 / p)) <= SHARE * tol
        else:
            assert result.stats.status == "stagnated" and bool(result.Z.isnan().all())
            assert not float(result.stats.error) <= tol


@pytest.mark.parametrize("above", [1.01, 1.1, 2.0, 1e3])
@pytest.mark.parametrize("share", [1.0, 1e-6])
def test_one_eigenvalue_above_what_was_promised_of_an_operator(with_spectrum, rhs, truth, distance, above, share):
    A = with_spectrum([*np.geomspace(0.05, 1, 47), above], 3)
    V = torch.linalg.eigh(A).eigenvectors
    B = rhs(48, 2, dtype=torch.float64)
    B += V[:, -1:] @ (share - V[:, -1:].mT @ B)
    result = _solve(A, B, "chebyshev", 20.0, True, lambda_max=1.0, tol=1e-4)
    if above < 1.1 and result.stats.status == "converged":  # [l, u] has some room above, too
        assert distance(result.Z, truth(A, B, -0.5)) <= SHARE * 1e-4
    else:
        assert result.stats.status == "stagnated" and bool(result.Z.isnan().all())


@BOTH
def test_every_kind_of_matrix_has_its_status_and_harms_no_other(spd, rhs, truth, distance, host_reads, strategy):
    fine = spd(24, 20.0)
    kinds = {
        "converged": fine,
        "nonfinite_input": torch.where(torch.eye(24) > 0, torch.nan, fine),
        "singular": torch.zeros(24, 24),
        "stagnated": spd(24, 1e5, 1),
    }
    indefinite, lopsided = fine - 0.5 * torch.eye(24), fine + torch.triu(fine)
    A = torch.stack((*kinds.values(), indefinite, lopsided, 1e20 * fine, 1e-20 * fine))
    B = rhs(24, 3).expand(8, 24, 3).contiguous()
    with host_reads() as found:
        result = _solve(A, B, strategy, 20.0)
    assert found == []
    assert result.stats.status == [*kinds, "stagnated", "stagnated", "converged", "converged"]
    missed = result.stats.status_code != Status.converged
    assert bool(result.Z[missed].isnan().all()) and bool(result.Z[~missed].isfinite().all())
    for i in (0, 6, 7):
        assert distance(result.Z[i], truth(A[i], B[i], -0.5)) <= 1e-4
    B[0, 3, 0] = torch.inf
    assert _solve(A, B, strategy, 20.0).stats.status[0] == "nonfinite_input"


def test_operators_of_a_batch(spd, rhs, truth, distance):
    A, B = torch.stack([spd(24, kappa, seed) for seed, kappa in enumerate((10.0, 1e4, 10.0))]), rhs(3, 24, 2)
    B[2, 1, 1] = torch.nan
    result = _solve(A, B, "chebyshev", 12.0, True, lambda_max=1.001)
    assert result.stats.status == ["converged", "stagnated", "nonfinite_input"]
    assert bool(result.Z[1:].isnan().all()) and distance(result.Z[0], truth(A[0], B[0], -0.5)) <= 1e-4
    vector = _solve(A[0], B[0, :, 0], "chebyshev", 12.0, True, lambda_max=1.101, ridge=0.1)
    expected = truth(A[0], B[0, :, :1], -0.5, 0.1)
    assert vector.stats.status == "converged" and float(vector.stats.ridge) == 0.1
    assert distance(vector.Z.unsqueeze(-1), expected) <= 1e-4
    with pytest.raises(ValueError, match="chebyshev"):
        solve_spd(lambda V: V, B[:2], kappa_max=10.0, lambda_max=1.0, **LATER)


@BOTH
def test_it_is_recorded(spd, rhs, truth, distance, strategy):
    """On a CPU a replay is the call: with new numbers, kept or broken promises."""
    settings = {"strategy": strategy, "kappa_max": 25.0, **LATER}
    recorded = SolveWorkspace().capture(solve_spd, spd(32, 20.0), rhs(32, 4), **settings)
    for seed in (5, 6):
        A, B = 3.0 * spd(32, 20.0, seed), rhs(32, 4, seed=seed)
        result = recorded(A, B)
        assert result.stats.status == "converged" and distance(result.Z, truth(A, B, -0.5)) <= 1e-4
    assert recorded(spd(32, 1e4), rhs(32, 4)).stats.status == "stagnated"


@BOTH
def test_nothing_crosses(queue, strategy):
    """Of a device that has no numbers: nothing can be read, and nothing but shapes is needed."""
    A, B = torch.empty(2, 32, 32, device="meta"), torch.empty(2, 32, 4, device="meta")
    ws = SolveWorkspace()
    if strategy == "cayley":
        pytest.skip("there is no factorisation for this device")
    _solve(A, B, strategy, 25.0, workspace=ws)
    with queue() as found:
        _solve(A, B, strategy, 25.0, workspace=ws)
    assert found.crossings == []


def test_a_second_call_makes_no_matrix_but_Z(spd, rhs, allocations):
    A, B, ws = spd(64, 10.0), rhs(64, 80), SolveWorkspace()
    _solve(A, B, "chebyshev", 12.0, workspace=ws)
    with allocations(64 * 80, A, B, *ws.buffers) as found:
        _solve(A, B, "chebyshev", 12.0, workspace=ws)
    assert len(found) == 1, found


def test_a_gram_matrix(rhs, truth, distance):
    G, B = rhs(200, 40), rhs(40, 3)
    result = solve_gram_spd(G, B, strategy="chebyshev", kappa_max=20.0, **LATER)
    assert result.stats.status == "converged"
    assert distance(result.Z, truth(G.double().mT @ G.double(), B, -0.5)) <= 1e-4


@BOTH
@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2), Fraction(-2, 3), Fraction(-1, 8)])
@pytest.mark.parametrize("kappa", [2.0, 30.0, 1e3])
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
@pytest.mark.parametrize("n", [8, 5000])
def test_the_plan_tells_one_that_is_missed_from_all_that_are_not(strategy, exponent, kappa, tol, n):
    """On a grid of eigenvalues: what misses SHARE·tol, over or below, is above ten times the limit; n in [l, u] are
    below a tenth of it."""
    plan, alpha, root = plan_of(strategy, exponent, kappa, SHARE * tol, n), float(exponent), kappa**0.5
    block = 4 if strategy == "cayley" else 8
    c = np.array((cayley_series_of if strategy == "cayley" else chebyshev_series_of)(exponent, kappa))
    y = np.concatenate((np.geomspace(1e-12, 1, 4001), np.geomspace(1, 1 + 20 / kappa, 2001)))
    if strategy == "cayley":
        y = np.concatenate((y, np.geomspace(1 + 20 / kappa, 1e3, 2001))) * root
        a, low, high = (root - 1) / (root + 1), 1 / root, root
        x = (y - 1) / (y + 1) / a
    else:
        low, high = 1 / kappa, 1.0
        x = (2 * y - (high + low)) / (high - low)
    f = y**alpha
    block = min(block, (len(c) - 1) // 3)
    count = plan.counted.terms
    error = np.abs(chebval(x, c[: count + 1]) - f) / f
    weight = chebval(x, np.where(np.arange(count + 1) > count - block, c[: count + 1], 0.0)) ** 2
    inside = (y >= low) & (y <= high)
    assert error[inside].max() <= SHARE * tol
    assert n * weight[inside].max() <= INSIDE * plan.limit
    missed = error > SHARE * tol
    # Where signs alternate, above, a block may cancel: about a mirror image of 0.
    cancels = np.abs(x) > 0.5 * (np.abs(x[0]) + 1)
    seen = weight >= plan.limit / LIMIT * (1 - 1e-6)
    assert bool(seen[missed & ((y < low) | ~cancels)].all())
    assert plan.counted.probes == PROBES

"""p = 1 by a few coupled steps and residual correction."""

import pytest
import torch
from iroot_solve import build_schedule, hybrid_pe_nsrc_solve, solve_spd
from iroot_solve._hybrid import hybrid_schedule


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kappa", [10.0, 1e3, 1e5])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_accuracy(spd, rhs, truth, distance, within, dtype, kappa, batch):
    if dtype.itemsize == 2 and kappa > 10:
        pytest.skip("rounding to 16 bits makes another matrix of it, often an indefinite one")
    A, B = spd(40, kappa, dtype=dtype).repeat(*batch, 1, 1), rhs(*batch, 40, 3, dtype=dtype)
    result = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc")
    tol = {8: 1e-10, 4: 1e-4, 2: 1e-2}[dtype.itemsize]
    assert bool(result.stats.converged.all()) and distance(result.Z, truth(A, B, -1)) <= within(tol, dtype)
    # All of Z's error but that of rounding Z to its dtype.
    assert float(result.stats.error.max()) >= 0.1 * (distance(result.Z, truth(A, B, -1)) - torch.finfo(dtype).eps)
    if kappa < 1e5:
        assert result.stats.strategy == "hybrid-pe-nsrc" and "residual corrections" in str(result.schedule)


@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-10])
@pytest.mark.parametrize("k_over_n", [0.01, 0.3, 1.0])
def test_the_schedule_reaches_tol_and_stops_early_where_that_is_cheap(kappa, tol, k_over_n):
    found = hybrid_schedule(kappa, tol, k_over_n)
    assert found.error <= tol and found.corrections >= 1
    thin = hybrid_schedule(kappa, tol, 1e-3)
    assert thin.steps.products() <= found.steps.products()
    assert thin.products(1e-3) < thin.steps.products() + 0.1


def test_corrections_multiply_the_error(spd, rhs, truth, distance):
    """ε^(m+1): the largest eigencomponent of the error falls by ε each time."""
    A, B = spd(32, 20.0, dtype=torch.float64), rhs(32, 2, dtype=torch.float64)
    abc_t, _ = build_schedule("cpu", p_val=1)
    expected = truth(A, B, -1)
    Z, ws = hybrid_pe_nsrc_solve(A, B, abc_t, corrections=0)
    errors = [distance(Z, expected)]
    for m in range(1, 4):
        Z, ws = hybrid_pe_nsrc_solve(A, B, abc_t, corrections=m, ws=ws)
        errors.append(distance(Z, expected))
    X, _ = hybrid_pe_nsrc_solve(A, torch.eye(32, dtype=torch.float64), abc_t, corrections=0)
    epsilon = float(torch.linalg.matrix_norm(torch.eye(32) - X @ A, 2))
    for before, after in zip(errors, errors[1:], strict=False):
        assert after <= epsilon * before * (1 + 1e-6) + 1e-13
    with pytest.raises(ValueError, match="corrections=-1"):
        hybrid_pe_nsrc_solve(A, B, abc_t, corrections=-1)


def test_without_a_right_hand_side_it_does_not_apply(spd):
    with pytest.raises(ValueError, match="hybrid-pe-nsrc.*without B"):
        solve_spd(spd(8, 10.0), None, p_val=1, strategy="hybrid-pe-nsrc")

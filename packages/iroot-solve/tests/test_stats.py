"""Line 6: what stats hold, how they are shaped, and that the estimates are honest."""

from dataclasses import fields
from fractions import Fraction

import pytest
import torch
from iroot_solve import SolveStats, solve_spd

FIELDS = (
    "status error residual amplification lambda_max lambda_min kappa_proxy ridge data_limited strategy precision "
    "backend products steps fallbacks precond"
).split()
TENSORS = (
    "error residual amplification lambda_max lambda_min kappa_proxy ridge data_limited status_code converged".split()
)


def test_every_field_is_there(spd, rhs):
    stats = solve_spd(spd(8, 10.0), rhs(8, 1)).stats
    for name in FIELDS:
        assert getattr(stats, name) is not None
    derived = {"status", "kappa_proxy", "data_limited"}
    assert {f.name for f in fields(SolveStats)} == {*FIELDS, "status_code", "noise", "cut", "rank"} - derived


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("strategy", ["auto", "materialize-root"])
def test_tensors_are_shaped_like_the_batch(spd, rhs, batch, strategy):
    A = spd(8, 10.0).expand(*batch, 8, 8)
    for B in (None, rhs(8, 2), rhs(*batch, 8, 2)):
        stats = solve_spd(A, B, strategy=strategy).stats
        assert {name: tuple(getattr(stats, name).shape) for name in TENSORS} == dict.fromkeys(TENSORS, batch)


def test_status_is_nested_like_the_batch(spd):
    assert solve_spd(spd(8, 10.0), None).stats.status == "converged"
    assert solve_spd(spd(8, 10.0).expand(2, 1, 8, 8), None).stats.status == [["converged"], ["converged"]]


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh"])
def test_the_spectrum_in_units_of_A(spd, rhs, strategy):
    A = 1e6 * spd(48, 1e3)
    stats = solve_spd(A, rhs(48, 4), strategy=strategy).stats
    values = torch.linalg.eigvalsh(A.double())
    assert values[-1] <= stats.lambda_max <= 48**0.5 * values[-1] * 1.01  # at worst the Frobenius norm
    assert values[0] * (1 - 1e-3) <= stats.lambda_min <= 3 * values[0]  # a Ritz value: from above
    assert stats.kappa_proxy == stats.lambda_max / stats.lambda_min


@pytest.mark.slow
@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-7])
@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
def test_the_estimate_is_within_ten_of_truncation_errors(spd, rhs, truth, distance, p, strategy, tol, kappa):
    A = spd(32, kappa, dtype=torch.float64)
    V = torch.linalg.eigh(A).eigenvectors
    for B in (rhs(32, 4, dtype=A.dtype), rhs(32, 24, dtype=A.dtype), V[:, :1].contiguous(), V[:, -1:].contiguous()):
        Z, _, stats, _ = solve_spd(A, B, p_val=p, tol=tol, strategy=strategy)
        error = distance(Z, truth(A, B, Fraction(-1, p)))
        assert float(stats.error) >= 0.1 * error
        # Below κ·u the truth itself is rounding.
        assert float(stats.error) <= 10 * max(error, kappa * 2.0**-53) or float(stats.error) > 1e-3


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "bf16x3", "fp16x3"])
@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
def test_the_estimate_is_honest_about_rounding(spd, rhs, truth, distance, best, strategy, precision, kappa):
    # float32 numbers as float64 data: the products round, the output does not.
    A, B = spd(48, kappa).double(), rhs(48, 4, dtype=torch.float64)
    for p in (1, 2, 4):
        Z, _, stats, _ = best(A, B, p_val=p, strategy=strategy, precision=precision, tol=1e-4, fallback=False)
        error = distance(Z, truth(A, B, Fraction(-1, p)))
        assert float(stats.error) >= 0.1 * error
        assert float(stats.error) <= 10 * error or stats.status != "converged"


@pytest.mark.parametrize("strategy", ["eigh", "materialize-root"])
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_the_estimate_is_honest_in_float32(spd, rhs, truth, distance, best, strategy, kappa):
    A, B = spd(48, kappa), rhs(48, 4)
    for p in (1, 2, 4):
        Z, _, stats, _ = best(A, B, p_val=p, strategy=strategy, precision="fp32", fallback=False, tol=1e-5)
        error = distance(Z, truth(A, B, Fraction(-1, p)))
        # Rounding of the output (u) is not counted.
        assert float(stats.error) >= 0.1 * (error - 2.0**-24)


def test_amplification_is_one_for_random_B_and_larger_for_large_eigenvectors(spd, rhs):
    A = spd(64, 1e4)
    V = torch.linalg.eigh(A).eigenvectors
    for strategy in ("direct-solve", "materialize-root", "eigh"):
        plain = solve_spd(A, rhs(64, 32), strategy=strategy).stats
        top = solve_spd(A, V[:, -1:].contiguous(), strategy=strategy).stats
        assert 0.5 <= plain.amplification <= 2
        # ‖X‖_F/√n over λmax^(-1/2): √(mean 1/λ) = 33, from four probes.
        assert 15 <= top.amplification <= 60


def test_residual_is_measured(spd, rhs):
    """p = 2: E = X·A·X − I, so the residual is about twice the error."""
    A, B = spd(32, 1e2, dtype=torch.float64), rhs(32, 4, dtype=torch.float64)
    stats = solve_spd(A, B, tol=1e-3, strategy="materialize-root", fallback=False).stats
    assert 1 <= float(stats.residual / stats.error) <= 4


def test_products_are_counted_by_kind(spd, rhs):
    A, B = spd(16, 10.0), rhs(16, 3)
    assert solve_spd(A, B, strategy="eigh").stats.products["eigh"] == 1
    assert solve_spd(A, B, p_val=1, strategy="cholesky").stats.products["cholesky"] == 1
    iteration = solve_spd(A, B, strategy="direct-solve").stats
    assert iteration.products["columns"] % 3 == 0 and iteration.products["columns"] > 0
    assert iteration.steps == len(solve_spd(A, B, strategy="direct-solve").schedule)
    root = solve_spd(A, None, strategy="materialize-root")
    assert root.stats.products["square"] == root.schedule.products(None)


def test_data_limited_says_that_the_digits_of_A_limit_the_answer(with_spectrum, rhs, truth, distance, within):
    # λmin = 1e-7·λmax < n·u·λmax = 1e-6: positive definite as stored, which is checked first.
    A = with_spectrum([3e-7, *torch.linspace(0.5, 1, 15).tolist()], seed=3, dtype=torch.float32)
    lowest = float(torch.linalg.eigvalsh(A.double())[0])
    assert 0 < lowest < 16 * 2.0**-24
    B = rhs(16, 2)
    result = solve_spd(A, B)
    assert result.stats.status == "converged" and bool(result.stats.data_limited)
    assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)
    assert not bool(solve_spd(A, B, ridge=1e-3).stats.data_limited)


def test_unverified_results_claim_nothing(spd, rhs):
    stats = solve_spd(spd(16, 10.0), rhs(16, 2), verify=False).stats
    assert stats.status == "unverified"
    assert stats.error.isnan() and not stats.converged


def test_probes_come_from_an_own_generator(spd, rhs):
    A, B = spd(48, 1e2), rhs(48, 32)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = solve_spd(A, B, strategy="direct-solve").stats
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    second = solve_spd(A, B, strategy="direct-solve").stats
    other = solve_spd(A, B, strategy="direct-solve", seed=5).stats
    assert torch.equal(first.error, second.error)
    assert not torch.equal(first.error, other.error)


def test_the_result_unpacks_to_four_and_the_schedule_is_one_line(spd, rhs):
    A, B = spd(16, 1e3), rhs(16, 2)
    for strategy in ("direct-solve", "materialize-root", "eigh"):
        Z, workspace, stats, schedule = result = solve_spd(A, B, strategy=strategy)
        assert (Z is result.Z, workspace is result.workspace, stats is result.stats, schedule is result.schedule) == (
            True,
        ) * 4
        assert str(schedule).strip() and "\n" not in str(schedule)
    assert "cholesky" in str(solve_spd(A, B, p_val=1, strategy="cholesky").schedule)

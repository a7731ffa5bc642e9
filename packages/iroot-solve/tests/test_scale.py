"""Line 2: scale equivariance, solve(cA, B) = c^(-1/p)·solve(A, B)."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_solve import solve_gram_spd, solve_nonspd, solve_spd

KAPPA = 1e2


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
@settings(max_examples=12, deadline=None)
@given(decades=st.floats(-20, 20))
def test_scale_equivariance_to_the_tolerance(spd, rhs, distance, strategy, p, decades):
    A, B, c = spd(12, KAPPA), rhs(12, 2), float(torch.tensor(10.0**decades))
    scaled = solve_spd(A * c, B, p_val=p, strategy=strategy)
    expected = c ** (-1 / p) * solve_spd(A, B, p_val=p, strategy=strategy).Z.double()
    # Both within tol; A·c is rounded to float32, which moves the root by κ·u/p; the outputs by u.
    u = 2.0**-24
    assert scaled.stats.status == "converged"
    assert distance(scaled.Z, expected) <= 2e-4 + KAPPA * u / p + 2 * u


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
def test_exact_for_powers_of_two_to_the_p(spd, rhs, strategy, p):
    A, B = spd(12, KAPPA), rhs(12, 2)
    Z = solve_spd(A, B, p_val=p, strategy=strategy).Z
    for j in (-66 // p, -1, 1, 66 // p):
        assert torch.equal(solve_spd(A * 2.0 ** (p * j), B, p_val=p, strategy=strategy).Z, Z * 2.0**-j)


@pytest.mark.parametrize("c", [1e-38, 1e-20, 1e20, 1e38])
def test_every_magnitude_of_the_root(spd, truth, distance, within, c):
    A = spd(12, KAPPA) * c
    for p in (2, 4):
        X = solve_spd(A, None, p_val=p).Z
        assert distance(X, truth(A, None, -1 / p)) <= within(1e-4, A.dtype)


def test_every_magnitude_of_the_right_hand_side(spd, rhs, distance):
    A, B = spd(12, KAPPA), rhs(12, 2)
    Z = solve_spd(A, B).Z
    for j in (-120, -60, 60, 110):
        assert torch.equal(solve_spd(A, B * 2.0**j).Z, Z * 2.0**j)


def test_magnitudes_of_a_batch_are_independent(spd, rhs, truth, distance, within):
    c = torch.tensor([1e-30, 1e-3, 1.0, 1e12, 1e30])[:, None, None]
    A, B = spd(12, KAPPA) * c, rhs(5, 12, 2) * c[[2, 4, 0, 1, 3]]
    result = solve_spd(A, B)
    assert result.stats.status == ["converged"] * 5
    assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-4, A.dtype)


def test_float64_at_the_ends_of_its_range(spd, rhs, truth, distance):
    A, B = spd(12, KAPPA, dtype=torch.float64), rhs(12, 2, dtype=torch.float64)
    for j in (-500, 500):
        Z = solve_spd(A * 4.0**j, B).Z
        assert distance(Z * 2.0**j, truth(A, B, -0.5)) <= 1e-10


def test_denormal_entries(with_spectrum, rhs, truth, distance, within):
    A = with_spectrum([1.0, 0.7, 0.5, 0.3]) * 2.0**-1040
    B = rhs(4, 2, dtype=torch.float64)
    # The numbers stored are the data: scaling them up by 2^1040 is exact.
    Z = solve_spd(A, B, tol=1e-8).Z
    assert distance(Z * 2.0**-520, truth(A * 2.0**520 * 2.0**520, B, -0.5)) <= within(1e-8, A.dtype)


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh"])
def test_an_answer_below_the_normal_numbers_of_its_dtype_is_none(spd, rhs, strategy):
    """A⁻²·B of A = 1000·…: 1e-6 and less, of which float16 keeps next to nothing; and nothing at all of zero."""
    A, B = (3000 * spd(24, 2.0)).half(), rhs(24, 3).half()
    settings = {"exponent": Fraction(-2), "on_failure": "nan", "strategy": strategy}
    result = solve_spd(A, B, **settings)
    assert result.stats.status == "stagnated" and bool(result.Z.isnan().all())
    fine = solve_spd(A, 2000 * B, **settings)
    assert fine.stats.status == "converged"
    assert solve_spd(A, torch.zeros_like(B), **settings).stats.status == "converged"


def test_no_solver_calls_an_underflow_an_answer(spd, rhs):
    """A⁻¹·B of 1e-7 in float16, whose normal numbers begin at 6e-5: by factorisations, series, operators and G."""
    A, B = (3000 * spd(24, 2.0)).half(), (1e-3 * rhs(24, 2)).half()
    G = (60 * torch.linalg.qr(rhs(40, 24)).Q).half()
    tall, wide = {"p_val": 1, "on_failure": "nan"}, {"p_val": 1, "on_failure": "nan", "ridge": 1e3}
    results = [
        *(solve_spd(A, B, strategy=name, **tall) for name in ("auto", "cholesky", "lanczos", "cayley")),
        solve_spd(lambda V: A.float().matmul(V.float()).half(), B, **tall),
        solve_gram_spd(G, B, **tall),
        solve_gram_spd(G, B, strategy="lanczos", **tall),
        solve_gram_spd(G.mT, (1e-3 * rhs(40, 2)).half(), **wide),
        solve_nonspd(A, B, on_failure="nan"),
    ]
    assert [result.stats.status for result in results] == ["stagnated"] * len(results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_zero_is_an_answer_where_it_is_one(dtype):
    """A^(1/2)·e of an e in the null space."""
    A, e = torch.diag(torch.tensor([1.0, 0.0, 1.0])).to(dtype), torch.tensor([0.0, 1.0, 0.0]).to(dtype)
    result = solve_spd(A, e, exponent=Fraction(1, 2), strategy="lanczos")
    assert result.stats.status == "converged" and not bool(result.Z.any())

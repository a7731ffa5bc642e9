"""Powers other than −1/p: −q/s, and q/s, which accepts singular positive semidefinite matrices."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import NotPositiveDefiniteError, SingularMatrixError, inverse_root, inverse_root_apply, solve_spd

POWERS = [
    Fraction(-2, 3),
    Fraction(-3, 2),
    Fraction(-1, 5),
    Fraction(-2),
    Fraction(1, 2),
    Fraction(1, 3),
    Fraction(2, 3),
    Fraction(1),
]
POWERS += [Fraction(3, 2), Fraction(2)]


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh"])
@pytest.mark.parametrize("exponent", POWERS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rational_powers(spd, rhs, truth, distance, within, dtype, exponent, strategy):
    if exponent >= 1 and strategy not in ("auto", "eigh"):
        pytest.skip("A^α with α ≥ 1 needs no iteration")
    A, B = 5 * spd(24, 1e2, dtype=dtype), rhs(24, 3, dtype=dtype)
    tol = 1e-8 if dtype is torch.float64 else 1e-4
    result = solve_spd(A, B, exponent=exponent, strategy=strategy, tol=tol)
    assert result.stats.status == "converged"
    assert distance(result.Z, truth(A, B, exponent)) <= within(tol, dtype)


@pytest.mark.parametrize("exponent", [Fraction(-2, 3), Fraction(-3, 2), Fraction(1, 2), Fraction(1, 3)], ids=str)
@pytest.mark.parametrize("strategy", ["auto", "materialize-root"])
def test_the_power_itself(spd, truth, distance, within, exponent, strategy):
    A = spd(24, 1e2)
    W = solve_spd(A, None, exponent=exponent, strategy=strategy).Z
    assert distance(W, truth(A, None, exponent)) <= within(1e-4, A.dtype)
    assert distance(inverse_root(A, exponent=exponent), truth(A, None, exponent)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("exponent", [Fraction(1, 2), Fraction(1, 3), Fraction(2, 3)], ids=str)
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_positive_powers_of_singular_matrices(rhs, truth, distance, within, dtype, exponent, strategy):
    # Integer entries: A is exact, rank 5 of 20, and singular as stored.
    G = (4 * rhs(20, 5, dtype=torch.float64)).round()
    A, B = (G @ G.mT).to(dtype), rhs(20, 3, dtype=dtype)
    tol = 1e-4
    result = solve_spd(A, B, exponent=exponent, strategy=strategy, tol=tol)
    assert result.stats.status == "converged"
    # truth takes the 15 zeros as at most n·u·λmax; (n·u)^α·√15 of λmax^α against ‖Z‖ ≥ λmax^α·‖B‖·√(5/20)/κ₅^α.
    noise = (20 * 2.0**-53) ** float(exponent) * 40
    assert distance(result.Z, truth(A, B, exponent)) <= within(tol, dtype) + noise


def test_a_positive_power_of_zero_is_zero():
    Z = solve_spd(torch.zeros(4, 4), torch.ones(4, 2), exponent=Fraction(1, 2)).Z
    assert torch.equal(Z, torch.zeros(4, 2))


def test_a_positive_power_refuses_negative_eigenvalues(spd, rhs):
    with pytest.raises(NotPositiveDefiniteError):
        solve_spd(spd(16, 10.0) - 0.5 * torch.eye(16), rhs(16, 2), exponent=Fraction(1, 2))
    with pytest.raises(SingularMatrixError):
        solve_spd(torch.ones(4, 4), torch.ones(4, 2), exponent=Fraction(-2, 3))


@pytest.mark.parametrize("exponent", [Fraction(-2, 3), Fraction(1, 2), Fraction(1, 3)], ids=str)
def test_scale_equivariance(spd, rhs, distance, exponent):
    A, B = spd(16, 50.0), rhs(16, 2)
    Z = solve_spd(A, B, exponent=exponent, strategy="direct-solve").Z
    s = exponent.denominator
    for j in (-12, 12):
        scaled = solve_spd(A * 2.0 ** (s * j), B, exponent=exponent, strategy="direct-solve").Z
        assert torch.equal(scaled, Z * 2.0 ** (exponent.numerator * j))


def test_an_integer_exponent_and_a_reducible_one(spd, rhs):
    A, B = spd(16, 50.0), rhs(16, 2)
    assert torch.equal(solve_spd(A, B, exponent=-1).Z, solve_spd(A, B, p_val=1).Z)
    assert torch.equal(solve_spd(A, B, exponent=Fraction(-2, 4)).Z, solve_spd(A, B, p_val=2).Z)
    assert torch.equal(inverse_root_apply(A, B, exponent=Fraction(-1, 4)), inverse_root_apply(A, B, 4))


def test_p_val_is_2_unless_said_otherwise(spd, rhs):
    A, B = spd(16, 50.0), rhs(16, 2)
    expected = solve_spd(A, B, p_val=2).Z
    assert torch.equal(solve_spd(A, B).Z, expected)
    assert torch.equal(inverse_root_apply(A, B), expected)
    assert torch.equal(inverse_root(A), solve_spd(A, None, p_val=2).Z)


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
def test_amplification_of_a_positive_power_does_not_depend_on_the_precision(spd, rhs, strategy):
    A, B = spd(24, 1e2), rhs(24, 3)
    single, double = (
        solve_spd(A, B, exponent=Fraction(1, 2), strategy=strategy, precision=name).stats.amplification
        for name in ("fp32", "fp64")
    )
    assert float(single) == pytest.approx(float(double), rel=1e-2)


@pytest.mark.parametrize("p", [50, 100, 120])
@pytest.mark.parametrize("strategy", ["auto", "materialize-root"])
@pytest.mark.parametrize("scale", [1.0, 3.0, 2.0**-20])
def test_a_root_so_high_that_squares_of_the_scaled_matrix_vanish(spd, truth, distance, p, strategy, scale):
    """Exponents of the scaling are multiples of p: entries may be 2^-p."""
    A = scale * spd(12, 2.0)
    result = solve_spd(A, None, p_val=p, strategy=strategy)
    assert result.stats.status == "converged" and distance(result.Z, truth(A, None, -1 / p)) <= 1e-4


@pytest.mark.parametrize("exponent", [Fraction(1, 2), Fraction(2, 3), Fraction(1, 5), Fraction(2, 5), Fraction(4, 5)])
@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize("kappa", [1e2, 1e4])
def test_rounding_of_positive_powers_is_estimated(with_spectrum, rhs, truth, distance, exponent, k, kappa):
    """It mixes large eigenvalues with small ones, of which a residual shows one power instead of s."""
    n = 64
    for spectrum in (
        np.geomspace(1 / kappa, 1, n),
        np.r_[np.full(n - 1, 1 / kappa), 1.0],
        np.r_[np.full(n // 2, 1 / kappa), np.ones(n // 2)],
    ):
        A, B = with_spectrum(spectrum, 1, torch.float32), None if k is None else rhs(n, k)
        strategy = "materialize-root" if k is None else "direct-solve"
        settings = {
            "kappa_max": 1.05 * kappa,
            "precision": "fp32",
            "fallback": False,
            "on_failure": "warn",
            "tol": 1e-6,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = solve_spd(A, B, exponent=exponent, strategy=strategy, **settings)
        error = distance(result.Z, truth(A, B, exponent))
        some = 16 * 2.0**-24  # of the last products
        assert 0.8 * (error - some) <= float(result.stats.error) <= 30 * (error + some)

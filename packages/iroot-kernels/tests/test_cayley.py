"""Chebyshev in the Cayley variable against eigendecompositions in float64."""

import math
import warnings

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace, cayley_apply, cayley_coefficients
from numpy.polynomial import chebyshev

EXPONENTS = [-1, -1 / 2, -1 / 4, -2 / 3, 1 / 2]
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def rounding(n, kappa, dtype=torch.float64):
    """Backward errors √n·u·‖A‖ of the factorisation and of solves; at c = −1 + 2/√κ they count √κ twice, κ in all."""
    return 4 * math.sqrt(n) * kappa * UNIT[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [*EXPONENTS, -0.9, 2 / 3, -2])
@pytest.mark.parametrize("kappa", [1.0, 1.5, 10.0, 1e3, 1e5, 1e8])
@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
def test_coefficients_reach_the_tolerance_and_no_fewer_do(exponent, kappa, tol):
    if kappa ** abs(exponent) * 2.0**-53 > tol / 100:
        with pytest.raises(ValueError, match="out of reach"):
            cayley_coefficients(exponent, kappa, 1e-9 * tol)
        return
    c = cayley_coefficients(exponent, kappa, tol)
    x = np.geomspace(kappa**-0.5, kappa**0.5, 20011)
    a = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    t = (x - 1) / (x + 1) / a if a else 0 * x
    # On a grid of four points for each coefficient a maximum is missed by 1/2·(π/8)² of its height.
    assert np.abs(chebyshev.chebval(t, c) / x**exponent - 1).max() <= 1.08 * tol
    if len(c) > 1:
        assert np.abs(chebyshev.chebval(t, c[:-1]) / x**exponent - 1).max() > 0.92 * tol


def test_the_degree_grows_like_the_fourth_root():
    degrees = [len(cayley_coefficients(-0.5, kappa, 1e-4)) - 1 for kappa in (1e2, 1e4, 1e6, 1e8)]
    # κ^(1/4) is 3.16 for a factor of 100, and the error allowed at the end x = √κ, where f is small, falls by 3 more.
    for smaller, larger in zip(degrees, degrees[1:], strict=False):
        assert 3 * smaller <= larger <= 4.2 * smaller
    assert degrees[1] <= 50


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize(("n", "k"), [(48, 1), (48, 3), (24, 24)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "kappa", "tol"),
    [
        (torch.float32, 10.0, 1e-5),
        (torch.float32, 1e3, 1e-4),
        (torch.float64, 10.0, 1e-10),
        (torch.float64, 1e3, 1e-8),
        (torch.float64, 1e5, 1e-6),
    ],
)
def test_applies_the_power(exponent, n, k, batch, dtype, kappa, tol, spd, power, error, rhs):
    A, B = spd(n, kappa, batch, dtype), rhs(n, k, batch, dtype)
    kept, want = (A.clone(), B.clone()), power(A, exponent) @ B.double()
    low, high = 0.99 / kappa, 1.001  # rounding A to float32 moves the ends by u·√n
    c = cayley_coefficients(exponent, high / low, tol)
    Z, failed = cayley_apply(A, B, c, low, high, exponent=exponent)
    assert Z.dtype == dtype and Z.shape == B.shape and not failed.any()
    assert error(Z, want) <= 1.08 * tol + rounding(n, kappa, dtype)
    assert torch.equal(A, kept[0]) and torch.equal(B, kept[1])


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_an_interval_for_every_matrix(exponent, spd, power, error, rhs):
    scale = torch.tensor([1.0, 1e-7, 3e8], dtype=torch.float64)
    A, B = spd(32, 1e2, 3) * scale[:, None, None], rhs(32, 2, 3)
    high = 1.001 * scale
    Z, failed = cayley_apply(A, B, cayley_coefficients(exponent, 101, 1e-8), high / 101, high, exponent=exponent)
    assert not failed.any()
    assert error(Z, power(A, exponent) @ B) <= 1.08e-8 + rounding(32, 1e2)


def test_a_failed_factorisation_is_named_and_leaves_its_neighbours_alone(spd, power, error, rhs):
    A, B = spd(24, 10.0, 3).clone(), rhs(24, 2, 3)
    A[1] -= 2 * torch.eye(24, dtype=torch.float64)
    Z, failed = cayley_apply(A, B, cayley_coefficients(-0.5, 11, 1e-8), 0.1, 1.1, exponent=-0.5)
    assert failed.tolist() == [False, True, False]
    assert Z[1].isnan().all()
    assert error(Z[::2], power(A[::2], -0.5) @ B[::2]) <= 1.08e-8 + rounding(24, 10.0)


def test_a_multiple_of_the_identity(error, rhs):
    A, B = 4 * torch.eye(8, dtype=torch.float64)[None], rhs(8, 2)
    c = cayley_coefficients(-0.5, 1.0, 1e-8)
    assert len(c) == 1
    assert error(cayley_apply(A, B, c, 4.0, 4.0, exponent=-0.5)[0], B / 2) <= rounding(8, 1.0)


def test_a_second_call_allocates_nothing(spd, allocations, rhs):
    A, B, ws = spd(48, 10.0, 2), rhs(48, 5, 2), Workspace()
    c = cayley_coefficients(-0.5, 11, 1e-6)

    def run():
        return cayley_apply(A, B, c, 0.1, 1.1, exponent=-0.5, ws=ws)[0]

    first = run().clone()
    with allocations(2 * 48 * 5) as seen:
        second = run()
    assert seen.made == [] and torch.equal(first, second)
    assert ws.nbytes == 2 * 8 * (2 * 48 * 48 + 4 * 48 * 5) + 2 * 4


def test_bad_arguments(spd, rhs):
    A, B = spd(4, 2.0), rhs(4, 1)
    with pytest.raises(ValueError, match=r"kappa=0.5"):
        cayley_coefficients(-0.5, 0.5, 1e-3)
    with pytest.raises(TypeError, match="must both be"):
        cayley_apply(A, B.float(), [1.0], 0.5, 1.0, exponent=-1)
    with pytest.raises(ValueError, match="must have shapes"):
        cayley_apply(A, B[:, :3], [1.0], 0.5, 1.0, exponent=-1)
    with pytest.raises(ValueError, match="c_0"):
        cayley_apply(A, B, [], 0.5, 1.0, exponent=-1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_on_cuda_without_a_synchronisation(exponent, spd, power, error, rhs):
    A, B, ws = spd(64, 30.0, 2, torch.float32), rhs(64, 3, 2, torch.float32), Workspace()
    device, start, c = A.cuda(), B.cuda(), cayley_coefficients(exponent, 31.0, 1e-5)
    Z, _ = cayley_apply(device, start, c, 0.033, 1.023, exponent=exponent, ws=ws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            Z, _ = cayley_apply(device, start, c, 0.033, 1.023, exponent=exponent, ws=ws)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert error(Z, power(A, exponent) @ B.double()) <= 1.08e-5 + rounding(64, 30.0, torch.float32)


def test_an_inverse_by_solves_is_that_of_lapack(spd):
    """The way of a GPU, on a CPU."""
    from iroot_kernels._cayley import _by_solves, cholesky_inverse

    A = spd(33, 1e3, batch=2)
    L, ws = torch.linalg.cholesky(A), Workspace()
    found = _by_solves(L, torch.empty_like(A), ws)
    assert torch.dist(found, torch.linalg.inv(A)) <= 1e-12 * torch.linalg.inv(A).norm()
    assert torch.dist(found, cholesky_inverse(L, torch.empty_like(A), ws)) <= 1e-12 * found.norm()

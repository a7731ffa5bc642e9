"""Chebyshev application against eigendecompositions in float64, and beside Lanczos."""

import warnings

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace, chebyshev_apply, lanczos_apply
from numpy.polynomial import chebyshev

EXPONENTS = [-1, -1 / 2, -1 / 4, -2 / 3, 1 / 2]
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def series(exponent, low, high, tol):
    """Coefficients of x^α on [low, high] with a relative error of at most `tol`.

    Those of 1/x fall by ρ = (√κ + 1)/(√κ − 1) each; cut at d they leave κ·ρ^(-d) of the smallest value, and
    interpolation at most doubles that. Other powers, |α| ≤ 1, are mixtures of 1/(x + t), t ≥ 0, and leave less.
    """
    kappa = high / low
    degree = int(np.ceil(np.log(2 * kappa / tol) / np.log((np.sqrt(kappa) + 1) / (np.sqrt(kappa) - 1))))
    return chebyshev.chebinterpolate(lambda t: ((high + low + (high - low) * t) / 2) ** exponent, degree)


def rounding(n, kappa, dtype=torch.float64):
    """Products err by √n·u·‖A‖, a backward error as in any method; Clenshaw's sums add as much again."""
    return 4 * np.sqrt(n) * kappa * UNIT[dtype]


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
        (torch.float64, 1e4, 1e-6),
    ],
)
def test_applies_the_power(exponent, n, k, batch, dtype, kappa, tol, spd, power, error, rhs):
    A, B = spd(n, kappa, batch, dtype), rhs(n, k, batch, dtype)
    kept, want = B.clone(), power(A, exponent) @ B.double()
    # Rounding A to float32 moves the ends by u·√n: room for that.
    low, high = 0.99 / kappa, 1.001
    Z = chebyshev_apply(A.matmul, B, series(exponent, low, high, tol), low, high)
    assert Z.dtype == dtype and Z.shape == B.shape
    assert error(Z, want) <= tol + rounding(n, kappa, dtype)
    assert torch.equal(B, kept)


@pytest.mark.parametrize("degree", [0, 1, 2, 7])
def test_any_degree_is_the_polynomial(degree, spd, error, rhs):
    A, B = spd(24, 10.0, 2), rhs(24, 3, 2)
    c = np.random.default_rng(0).standard_normal(degree + 1)
    values, vectors = np.linalg.eigh(A.numpy())
    at = chebyshev.chebval((2 * values - 0.1 - 1) / 0.9, c)
    want = torch.from_numpy((vectors * at[:, None, :]) @ vectors.swapaxes(-1, -2)) @ B
    calls = []

    def action(V):
        calls.append(V.shape)
        return A @ V

    assert error(chebyshev_apply(action, B, list(c), 0.1, 1.0), want) <= 100 * 2.0**-53 * np.abs(c).sum() * 24
    assert calls == [B.shape] * degree


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_an_interval_for_every_matrix(exponent, spd, power, error, rhs):
    """One series for x^α on [l/u, 1], intervals of one ratio and very different sizes."""
    scale = torch.tensor([1.0, 1e-7, 3e8], dtype=torch.float64)
    A, B = spd(32, 1e2, 3) * scale[:, None, None], rhs(32, 2, 3)
    want = power(A, exponent) @ B
    c = series(exponent, 0.0099, 1.0, 1e-8)
    high = 1.001 * scale
    Z = chebyshev_apply(A.matmul, B, c, 0.0099 * high, high, exponent=exponent)
    assert error(Z, want) <= 1e-8 + rounding(32, 1e2)
    one = chebyshev_apply(A[1:2].matmul, B[1:2], c, float(0.0099 * high[1]), float(high[1]), exponent=exponent)
    torch.testing.assert_close(one, Z[1:2], rtol=0, atol=float(one.abs().max()) * rounding(32, 1e2))


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_equals_lanczos(exponent, spd, power, error, rhs):
    A, B = spd(64, 30.0, 2), rhs(64, 3, 2)
    krylov = lanczos_apply(A.matmul, B, exponent, tol=1e-10, max_steps=64).Z
    Z = chebyshev_apply(A.matmul, B, series(exponent, 0.033, 1.001, 1e-10), 0.033, 1.001)
    assert error(Z, krylov) <= 1e-10 + 1e-10 / 0.3 + 2 * rounding(64, 30.0)


def test_a_second_call_allocates_nothing_and_the_action_may_reuse_a_buffer(spd, allocations, rhs):
    A, B, ws, product = spd(48, 10.0), rhs(48, 5), Workspace(), torch.empty(1, 48, 5, dtype=torch.float64)
    c = series(-0.5, 0.1, 1.0, 1e-6)

    def run():
        return chebyshev_apply(lambda V: torch.bmm(A, V, out=product), B, c, 0.1, 1.0, ws=ws)

    first = run().clone()
    assert ws.nbytes == 2 * 48 * 5 * 8
    with allocations(48 * 5) as seen:
        second = run()
    assert seen.made == [] and torch.equal(first, second)


def test_bad_arguments():
    B = torch.ones(2, 4, 1)
    with pytest.raises(ValueError, match="c_0"):
        chebyshev_apply(lambda V: V, B, [], 0.1, 1.0)
    with pytest.raises(TypeError, match="float32 or float64"):
        chebyshev_apply(lambda V: V, B.half(), [1.0], 0.1, 1.0)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        chebyshev_apply(lambda V: V, B, [1.0], torch.ones(3), 1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_on_cuda_without_a_synchronisation(exponent, spd, power, error, rhs):
    A, B, ws = spd(64, 30.0, 2, torch.float32), rhs(64, 3, 2, torch.float32), Workspace()
    device, start, c = A.cuda(), B.cuda(), series(exponent, 0.033, 1.001, 1e-5)
    Z = chebyshev_apply(device.matmul, start, c, 0.033, 1.001, ws=ws)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            Z = chebyshev_apply(device.matmul, start, c, 0.033, 1.001, ws=ws)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert error(Z, power(A, exponent) @ B.double()) <= 1.08e-5 + rounding(64, 30.0, torch.float32)

"""Golub–Kahan application against singular value decompositions in float64, and beside Lanczos on GᵀG."""

import math

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace, golub_kahan_apply, lanczos_apply

EXPONENTS = [-1, -1 / 2, -1 / 4, -2 / 3, 1 / 2]
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


def tall(rows, n, kappa, batch=1, dtype=torch.float64, seed=0):
    """Log-spaced singular values from 1 to 1/κ, random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    r = min(rows, n)
    left, right = (
        torch.linalg.qr(torch.randn(batch, size, r, generator=generator, dtype=torch.float64)).Q for size in (rows, n)
    )
    return ((left * torch.from_numpy(np.geomspace(1, 1 / kappa, r))) @ right.mT).to(dtype)


def truth(G, B, exponent, ridge=0.0):
    """(GᵀG + r·I)^α·B through numpy's singular values of the numbers that G stores."""
    _, sigma, right = np.linalg.svd(G.double().numpy())
    squares = np.zeros((len(G), G.shape[-1]))
    squares[:, : sigma.shape[-1]] = sigma**2
    squares = squares + np.reshape(ridge, (-1, 1))
    return torch.from_numpy(right.swapaxes(-1, -2) @ (squares[..., None] ** exponent * (right @ B.double().numpy())))


def apply(G, B, exponent, **options):
    return golub_kahan_apply(lambda V: G @ V, lambda U: G.mT @ U, B, exponent, **options)


def rounding(rows, kappa, dtype=torch.float64):
    """Products err by √m·u·‖G‖, a backward error that moves σ_min relatively by √m·κ·u and its square by twice that.

    Twice: both products of a step.
    """
    return 4 * math.sqrt(rows) * kappa * UNIT[dtype]


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize(("rows", "n", "k"), [(90, 40, 1), (40, 40, 3), (60, 24, 24)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "kappa", "tol"), [(torch.float32, 10.0, 1e-4), (torch.float64, 10.0, 1e-10), (torch.float64, 1e3, 1e-8)]
)
def test_applies_the_power(exponent, rows, n, k, batch, dtype, kappa, tol, error, rhs):
    G, B = tall(rows, n, kappa, batch, dtype), rhs(n, k, batch, dtype)
    kept = B.clone()
    result = apply(G, B, exponent, tol=tol, max_steps=n)
    assert result.converged.all() and result.Z.dtype == dtype
    assert error(result.Z, truth(G, B, exponent)) <= tol / 0.3 + rounding(rows, kappa, dtype)
    assert result.products == 2 * k * result.steps
    assert torch.equal(B, kept)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("kappa", [1e2, 1e3])
@pytest.mark.parametrize("rows", [100, 300])
def test_float32_loses_kappa_of_g_and_not_its_square(exponent, kappa, rows, error, rhs):
    G, B = tall(rows, 100, kappa, dtype=torch.float32), rhs(100, 3, dtype=torch.float32)
    want = truth(G, B, exponent)
    result = apply(G, B, exponent, tol=1e-6, max_steps=100)
    assert error(result.Z, want) <= 1e-6 / 0.3 + rounding(rows, kappa, torch.float32)
    if exponent < 0:
        # Less than κ·u itself in fact, and GᵀG costs the better part of another κ: a tenth of it at least.
        assert error(result.Z, want) <= 2 * kappa * UNIT[torch.float32]
        squared = lanczos_apply(lambda V: G.mT @ (G @ V), B, exponent, tol=1e-6, max_steps=100)
        assert error(squared.Z, want) >= kappa / 10 * error(result.Z, want)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "n"), [(20, 60), (60, 60)])
def test_ridge_and_wide_matrices(exponent, dtype, rows, n, error, rhs):
    G, B = tall(rows, n, 1e3, 2, dtype), rhs(n, 3, 2, dtype)
    ridge = torch.tensor([1e-2, 1e-4], dtype=torch.float64)
    want = truth(G, B, exponent, ridge.numpy())
    result = apply(G, B, exponent, tol=1e-6, max_steps=n, ridge=ridge, low=ridge)
    assert result.converged.all() and not result.indefinite.any() and result.bound.isfinite().all()
    # σ² + r moves relatively by 2·σ·δσ/(σ² + r) ≤ δσ/√r: the condition that counts is r^(-1/2).
    assert error(result.Z, want) <= 1e-6 / 0.3 + rounding(n, 1e2, dtype)
    assert (result.ritz_low >= ridge * (1 - 1e-6)).all()
    if rows < n:
        # Range and null space: rows + 1 dimensions hold every column.
        assert result.steps <= max(rows + 1, 8) + 8


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("kappa", [1e1, 1e3])
@pytest.mark.parametrize("known", [False, True])
def test_the_estimate_is_honest_wherever_it_stops(exponent, kappa, known, error, rhs):
    G, B = tall(150, 100, kappa), rhs(100, 3)
    want, low = truth(G, B, exponent), kappa**-2 if known else None
    for most in (8, 20, 31, 45, 70, 90):
        result = apply(G, B, exponent, tol=1e-300, max_steps=most, low=low)
        actual = error(result.Z, want)
        if known or actual <= 0.1:
            assert float(result.error) >= 0.3 * (actual - rounding(150, kappa))
        if known:
            assert float(result.bound) >= actual / (1 + actual) - rounding(150, kappa)


def test_equals_lanczos(error, rhs):
    """The same process: the same T, approximation and estimates."""
    G, B = tall(80, 50, 30.0, 2), rhs(50, 3, 2)
    for most in (1, 5, 12, 30):
        ours = apply(G, B, -0.5, tol=1e-300, max_steps=most, ridge=0.01)
        other = lanczos_apply(lambda V: G.mT @ (G @ V) + 0.01 * V, B, -0.5, tol=1e-300, max_steps=most)
        assert error(ours.Z, other.Z) <= 10 * rounding(80, 30.0**2)
        torch.testing.assert_close(ours.error, other.error, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_breakdown_zeros_and_failures(exponent, error, rhs):
    G = tall(40, 20, 10.0).repeat(4, 1, 1)
    G[1] = torch.linalg.qr(G[1]).Q  # GᵀG = I
    G[2, 3, 3] = math.inf
    G[3] = 0
    B = rhs(20, 3, 4)
    B[..., 1] = 0
    B[0, :, 2] = torch.linalg.svd(G[0])[2][4]
    result = apply(G, B, exponent, tol=1e-8, max_steps=20)
    assert result.converged.tolist() == [True, True, False, exponent > 0]
    assert result.indefinite.tolist() == [False, False, False, exponent < 0]
    assert (result.Z[:2, :, 1] == 0).all()
    for i in (0, 1):
        assert error(result.Z[[i]], truth(G[[i]], B[[i]], exponent)) <= 1e-8 / 0.3 + rounding(40, 10.0)
    assert result.Z[2].isnan().all()
    assert (result.Z[3] == 0).all() if exponent > 0 else result.Z[3].isnan().all()


def test_a_second_call_allocates_nothing(allocations, rhs):
    G, B, ws = tall(600, 400, 3.0), rhs(400, 3), Workspace()
    left, right = (torch.empty(1, size, 3, dtype=torch.float64) for size in (600, 400))

    def run():
        return golub_kahan_apply(
            lambda V: torch.bmm(G, V, out=left),
            lambda U: torch.bmm(G.mT, U, out=right),
            B,
            -0.5,
            tol=1e-2,
            max_steps=60,
            ws=ws,
        )

    first = run().Z.clone()
    with allocations(400 * 3) as seen:
        second = run()
    assert seen.made == [] and torch.equal(first, second.Z) and second.steps**2 < 400


def test_same_in_autocast_and_under_global_flags(flags, error, rhs):
    G, B = tall(60, 40, 10.0, dtype=torch.float32), rhs(40, 3, dtype=torch.float32)
    wide = G.double()

    def run():
        return golub_kahan_apply(
            lambda V: (wide @ V.double()).float(),
            lambda U: (wide.mT @ U.double()).float(),
            B,
            -0.5,
            tol=1e-5,
            max_steps=40,
        ).Z.clone()

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run(), plain)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    reduced = run()
    assert reduced.dtype == torch.float32
    assert error(reduced, truth(G, B, -0.5)) <= 1e-5 / 0.3 + rounding(60, 10.0, torch.float32)


def test_bad_arguments():
    B = torch.ones(1, 4, 2)
    with pytest.raises(ValueError, match=r"ridge=-1.0 must be ≥ 0"):
        apply(torch.ones(1, 4, 4), B, -1, tol=1e-3, max_steps=4, ridge=-1.0)
    with pytest.raises(ValueError, match="max_steps=0"):
        apply(torch.ones(1, 4, 4), B, -1, tol=1e-3, max_steps=0)
    assert apply(torch.ones(1, 4, 4), B[..., :0], -1, tol=1e-3, max_steps=4).Z.shape == (1, 4, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_on_cuda(exponent, error, rhs):
    G, B = tall(300, 200, 10.0, 2, torch.float32), rhs(200, 3, 2, torch.float32)
    result = apply(G.cuda(), B.cuda(), exponent, tol=1e-5, max_steps=200)
    assert result.converged.is_cuda and result.converged.all()
    assert error(result.Z, truth(G, B, exponent)) <= 1e-5 / 0.3 + rounding(300, 10.0, torch.float32)

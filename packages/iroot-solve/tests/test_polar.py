"""The polar factor against U·Vᵀ from a float64 singular value decomposition of the numbers that were passed.

Errors are ‖X − U‖_F/√r. What is allowed is the tolerance and the rounding of the output, u of its dtype in every entry.
"""

import math

import pytest
import torch
from iroot_kernels import Workspace
from iroot_solve import NonFiniteInputError, StagnationError, StagnationWarning, orthogonalize

DTYPES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
SHAPES = [(8, 64), (24, 48), (40, 40), (48, 24), (64, 8)]
SPECTRA = ["log", "one", "half"]


def working_u(dtype):
    """Of the dtype that an iteration stores."""
    return 2.0**-53 if dtype is torch.float64 else 2.0**-24


def _truth(G, cut):
    U, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    return (U * (sigma > cut * sigma[..., :1]).unsqueeze(-2)) @ Vh


@pytest.fixture(scope="session")
def matrix():
    """(shape, κ, spectrum, dtype, seed) ↦ G with dense random singular vectors, σ_max = 1 and σ_min = 1/κ.

    Spectra: log-spaced; all in [1/2, 1] but one; one half at each end.
    """

    def make(shape, kappa, spectrum="log", dtype=torch.float64, seed=0):
        generator, r = torch.Generator().manual_seed(seed), min(shape[-2:])
        U, V = (
            torch.linalg.qr(torch.randn(*shape[:-2], size, r, generator=generator, dtype=torch.float64)).Q
            for size in shape[-2:]
        )
        sigma = {
            "log": torch.logspace(0, -math.log10(kappa), r, dtype=torch.float64),
            "one": torch.cat((torch.linspace(1, 0.5, r - 1, dtype=torch.float64), torch.tensor([1 / kappa]))),
            "half": torch.where(torch.arange(r) < r // 2, 1.0, 1 / kappa).double(),
        }[spectrum]
        return ((U * sigma) @ V.mT).to(dtype)

    return make


@pytest.fixture(scope="session")
def error():
    """(U, G, cut) ↦ ‖U − truth‖_F/√r, float64."""

    def relative(U, G, cut=None):
        expected = _truth(G, max(G.shape[-2:]) * working_u(G.dtype) if cut is None else cut)
        rank = expected.square().sum((-2, -1)).clamp_min(1.0)
        return float((torch.linalg.matrix_norm(U.double() - expected) / rank.sqrt()).amax())

    return relative


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_truth(matrix, error, shape, kappa, dtype):
    G = matrix(shape, kappa, dtype=dtype)
    U, stats = orthogonalize(G, return_stats=True)
    assert stats.status == "converged" and U.shape == shape and U.dtype is dtype
    assert error(U, G) <= DTYPES[dtype] + torch.finfo(dtype).eps / 2
    assert int(stats.rank) == min(shape)


@pytest.mark.parametrize("strategy", ["plain", "gram", "eigh", "svd"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(33, 33), (90, 20)], ids=str)
def test_strategies(matrix, error, shape, spectrum, strategy):
    for dtype, kappa in ((torch.float64, 1e2), (torch.float32, 1e2), (torch.float32, 1e4)):
        G = matrix(shape, kappa, spectrum, dtype)
        U, stats = orthogonalize(G, strategy=strategy, return_stats=True)
        assert stats.strategy == strategy and stats.status == "converged"
        assert error(U, G) <= DTYPES[dtype] + torch.finfo(dtype).eps / 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["plain", "gram", "eigh"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kappa", [10.0, 1e2, 1e4])
@pytest.mark.parametrize("shape", [(64, 64), (16, 80), (300, 40)], ids=str)
def test_the_estimate_is_honest(matrix, error, shape, kappa, spectrum, strategy):
    """Within [0.1, 10]; the truth is known to the output's rounding, and to what float64 leaves of the SVD, κ·u.

    With half of the singular values at each end the errors of a restart lie between the halves, where P·S·P is divided
    by 2√(σ_i·σ_j) instead of σ_i + σ_j: too large by at most √κ/2.
    """
    above = 10.0 if spectrum != "half" else max(10.0, math.sqrt(kappa) / 2)
    for dtype, tol in ((torch.float64, 1e-10), (torch.float64, 1e-6), (torch.float32, 1e-2), (torch.float32, 1e-4)):
        G = matrix(shape, kappa, spectrum, dtype)
        U, stats = orthogonalize(G, strategy=strategy, tol=tol, return_stats=True)
        true, floor = error(U, G), torch.finfo(dtype).eps / 2 + 8 * kappa * 2.0**-53
        assert true <= tol + floor
        assert 0.1 * (true - floor) <= float(stats.error) <= above * (true + floor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (36, 36)], ids=str)
def test_rank_deficient(matrix, error, shape, dtype):
    """A product of factors of rank 7: rounding leaves it other singular values of about (√m + √n)·u < max(m, n)·u/2."""
    left, right = matrix((shape[0], 7), 5.0), matrix((7, shape[1]), 5.0, seed=1)
    G = (left @ right).to(dtype)
    U, stats = orthogonalize(G, return_stats=True)
    assert stats.status == "converged" and int(stats.rank) == 7
    assert error(U, G) <= DTYPES[dtype]
    sigma = torch.linalg.svdvals(U.double())
    moved = DTYPES[dtype] * 7**0.5  # ‖X − U‖_F bounds what each of them moves by
    torch.testing.assert_close(sigma[:7], torch.ones(7).double(), rtol=0, atol=moved)
    assert float(sigma[7:].amax()) <= moved


@pytest.mark.parametrize("strategy", ["auto", "plain", "gram", "eigh", "svd"])
def test_rtol_says_what_is_zero(matrix, error, strategy):
    """σ from 1 to 1e-4, 21 of them: 11 are at least 1e-2·(1 + a half step)."""
    G = matrix((50, 21), 1e4)
    for rtol, rank in ((0.9e-2, 11), (0.9e-4, 21), (0.0, 21)):
        U, stats = orthogonalize(G, rtol=rtol, strategy=strategy, return_stats=True)
        assert int(stats.rank) == rank and stats.status == "converged"
        assert error(U, G, rtol) <= 1e-10


def test_zero_rows_and_columns(matrix, error):
    """Dead units: exactly rank-deficient, and U is zero there, too."""
    G = matrix((40, 30), 10.0, dtype=torch.float32)
    G[:, 4] = 0
    G[7] = 0
    U, stats = orthogonalize(G, return_stats=True)
    assert int(stats.rank) == 29 and error(U, G) <= 1e-4
    assert float(U[:, 4].norm()) <= 1e-6 and float(U[7].norm()) <= 1e-6


def test_zero_is_zero():
    U, stats = orthogonalize(torch.zeros(2, 5, 3), return_stats=True)
    assert not U.any() and stats.status == ["converged"] * 2 and stats.rank.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)], ids=str)
def test_small(shape, dtype, error):
    G = -torch.arange(1.0, math.prod(shape) + 1).reshape(shape).to(dtype)
    assert error(orthogonalize(G), G) <= DTYPES[dtype] + torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (2, 0, 3, 4), (0, 3, 4)], ids=str)
def test_empty(shape):
    U, stats = orthogonalize(torch.zeros(shape), return_stats=True)
    assert U.shape == shape and stats.rank.shape == shape[:-2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_batches(matrix, error, dtype):
    """Every kind in one batch: no matrix harms another, and each is as it would be alone."""
    easy, hard, deficient = matrix((20, 12), 5.0), matrix((20, 12), 1e4), matrix((20, 12), 1e2)
    deficient[:, 3] = 0
    G = (
        torch.stack((easy, hard, torch.zeros_like(easy), deficient, easy * 1e-9, hard * 1e9))
        .to(dtype)
        .view(2, 3, 20, 12)
    )
    U, stats = orthogonalize(G, return_stats=True)
    assert stats.rank.tolist() == [[12, 12, 0], [11, 12, 12]] and bool(stats.converged.all())
    for i in range(2):
        for j in range(3):
            assert error(U[i, j], G[i, j]) <= DTYPES[dtype]
            torch.testing.assert_close(U[i, j], orthogonalize(G[i, j]), rtol=0, atol=2 * DTYPES[dtype])
    torch.testing.assert_close(orthogonalize(G.mT), U.mT, rtol=0, atol=2 * DTYPES[dtype])


def test_layouts_and_inputs(matrix):
    G = matrix((3, 20, 12), 10.0)
    before, U = G.clone(), orthogonalize(G)
    assert torch.equal(G, before)
    assert torch.equal(orthogonalize(G.mT.contiguous().mT), U)
    assert torch.equal(orthogonalize(G.repeat_interleave(2, -1)[..., ::2]), U)
    expanded = orthogonalize(G[:1].expand(4, 20, 12))
    torch.testing.assert_close(expanded, U[:1].expand(4, 20, 12), rtol=0, atol=2e-10)


@pytest.mark.parametrize("c", [1e-20, 1e-5, 3.0, 1e20])
@pytest.mark.parametrize("kappa", [10.0, 1e3])
def test_scale(matrix, c, kappa):
    """c·G rounds G to u, which moves U by at most κ·u (float64 here); to both add their tolerances."""
    for dtype in (torch.float64, torch.float32):
        G, tol = matrix((30, 20), kappa, dtype=dtype), DTYPES[dtype]
        scaled = orthogonalize((c * G.double()).to(dtype))
        moved = 2 * tol + 2 * kappa * torch.finfo(dtype).eps
        assert float((scaled - orthogonalize(G)).norm()) / 20**0.5 <= moved


def test_a_power_of_two_changes_nothing(matrix):
    for dtype in (torch.float64, torch.float32):
        G = matrix((30, 20), 50.0, dtype=dtype)
        assert torch.equal(orthogonalize(G * 2.0**40), orthogonalize(G))


def test_extreme_magnitudes(error):
    """The largest and the smallest numbers of each dtype, denormals included."""
    generator = torch.Generator().manual_seed(0)
    for dtype, exponents in ((torch.float32, (-140, 120)), (torch.float64, (-1060, 1010)), (torch.float16, (-20, 12))):
        for e in exponents:
            G = torch.ldexp(torch.randn(12, 6, generator=generator, dtype=torch.float64), torch.tensor(e)).to(dtype)
            known = (G.double() * 2.0 ** -max(e, -1000)).double()
            assert error(orthogonalize(G).double(), known, 1e-12) <= DTYPES[dtype] + torch.finfo(dtype).eps


@pytest.mark.parametrize("shape", [(30, 30), (60, 20), (20, 60)], ids=str)
def test_equivariance(matrix, shape):
    """U(Q·G·W) = Q·U(G)·W for orthogonal Q and W, and U(−G) = −U(G); κ·u is far below the tolerance."""
    G, Q, W = matrix(shape, 10.0), matrix((shape[0],) * 2, 1.0, seed=2), matrix((shape[1],) * 2, 1.0, seed=3)
    U = orthogonalize(G)
    assert float((orthogonalize(Q @ G @ W) - Q @ U @ W).norm()) / min(shape) ** 0.5 <= 2e-10
    assert torch.equal(orthogonalize(-G), -U)


def test_idempotence_and_the_polar_decomposition(matrix):
    """U(U) = U; H = UᵀG is symmetric positive definite and G = U·H: from the tolerance, without any SVD."""
    G = matrix((40, 15), 1e2)
    U = orthogonalize(G)
    assert float((orthogonalize(U) - U).norm()) / 15**0.5 <= 2e-10
    H = U.mT @ G
    assert float((H - H.mT).norm()) <= 1e-9 and float((U @ H - G).norm()) <= 1e-9
    assert float(torch.linalg.eigvalsh(H)[0]) > 0.9e-2


def test_what_is_not_finite(matrix):
    G = matrix((3, 8, 5), 10.0, dtype=torch.float32)
    G[1, 2, 2] = torch.nan
    with pytest.raises(NonFiniteInputError, match=r"G\[1\] \(shape \(8, 5\), torch.float32\) contains NaN") as caught:
        orthogonalize(G)
    assert caught.value.stats.status == ["converged", "nonfinite_input", "converged"]
    U, stats = orthogonalize(G, on_failure="nan", return_stats=True)
    assert bool(U[1].isnan().all()) and bool(U[::2].isfinite().all())
    torch.testing.assert_close(U[0], orthogonalize(G[0]), rtol=0, atol=2e-4)
    with pytest.warns(StagnationWarning, match="NaN"):
        orthogonalize(G, on_failure="warn")


def test_a_tolerance_out_of_reach(matrix):
    G = matrix((20, 20), 1e3)
    with pytest.raises(StagnationError, match=r"below the rounding of torch.float64.*larger tol") as caught:
        orthogonalize(G, tol=1e-17)
    assert float(caught.value.stats.error) <= 1e-11 and caught.value.result.U.isfinite().all()
    assert bool(orthogonalize(G, tol=1e-17, on_failure="nan").isnan().all())


def test_float64_where_float32_is_not_enough(matrix):
    """κ·u of float32 is 6e-3: the answer comes from float64, and says so."""
    G = matrix((40, 40), 1e5, dtype=torch.float32)
    _, stats = orthogonalize(G, strategy="plain", return_stats=True)
    assert stats.precision == "fp64" and stats.status == "converged"
    _, stats = orthogonalize(matrix((40, 40), 10.0, dtype=torch.float32), strategy="plain", return_stats=True)
    assert stats.precision == "fp32" and stats.fallbacks == () and stats.products["svd"] == stats.products["eigh"] == 0


def test_repeatable_with_a_workspace_inside_autocast(matrix):
    G, ws = matrix((4, 30, 20), 1e2, dtype=torch.float32), Workspace()
    U = orthogonalize(G, workspace=ws)
    kept = U.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(orthogonalize(G, workspace=ws), kept)
    orthogonalize(2 * G.flip(-1), workspace=ws)
    assert torch.equal(U, kept)  # results are not views of the workspace


@pytest.mark.parametrize("strategy", ["auto", "plain", "gram", "eigh", "svd"])
def test_global_flags_are_read_and_left(matrix, error, strategy):
    """Products of float32 reduced to bfloat16 by a flag: κ = 1e2 would be off by 2^-8·κ."""
    flag = torch.backends.mkldnn.matmul
    before, flag.fp32_precision = flag.fp32_precision, "bf16"
    try:
        G = matrix((40, 40), 1e2, dtype=torch.float32)
        U, stats = orthogonalize(G, strategy=strategy, return_stats=True)
        assert flag.fp32_precision == "bf16"
    finally:
        flag.fp32_precision = before
    assert stats.status == "converged" and stats.fallbacks == () and error(U, G) <= 1e-4


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"tol": 0.0}, ValueError, r"tol=0.0 must lie in \(0, 1\)"),
        ({"rtol": 1.0}, ValueError, r"rtol=1.0 must lie in \[0, 1\)"),
        ({"strategy": "qr"}, ValueError, "strategy='qr' is not one of auto, plain, gram, eigh, svd"),
        ({"precision": "fp8"}, ValueError, "precision='fp8' is not one of"),
        ({"on_failure": "ignore"}, ValueError, "on_failure='ignore'"),
        ({"steps": 5}, ValueError, "steps=5 counts the steps of a schedule"),
        ({"schedule": "muon", "tol": 1e-3}, ValueError, "tol=0.001 needs schedule=None"),
        ({"schedule": "muon", "strategy": "svd"}, ValueError, "those that do: auto, plain, gram"),
        ({"schedule": "muon", "steps": 0}, ValueError, "steps=0 must be ≥ 1"),
        ({"schedule": "muon", "steps": 2.0}, TypeError, "steps must be an int"),
        ({"schedule": "moun"}, ValueError, "unknown schedule 'moun'.*polar-express"),
        ({"schedule": [(1.0, 2.0)]}, ValueError, r"\(T, 3\)"),
    ],
)
def test_what_is_refused(settings, kind, message):
    with pytest.raises(kind, match=message):
        orthogonalize(torch.eye(3), **settings)
    with pytest.raises(ValueError, match=r"G must be a matrix"):
        orthogonalize(torch.ones(3))
    with pytest.raises(TypeError, match="G is complex"):
        orthogonalize(torch.eye(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="would round a float64 G"):
        orthogonalize(torch.eye(3).double(), precision="bf16")

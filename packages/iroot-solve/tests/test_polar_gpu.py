"""Polar factors on CUDA against float64 singular values: both modes, and fixed steps in a graph."""

import math

import pytest
import torch
from iroot_coeffs import named, plan
from iroot_kernels import Workspace
from iroot_solve import orthogonalize

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SHAPES = [(512, 512), (1000, 300), (300, 1000), (8, 256, 256), (3, 65, 33)]
NAMES = {"muon": 5, "polar-express": 5, "cans": 8}


def _matrix(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype).cuda()


def _conditioned(kappa, *shape, dtype=torch.float32):
    r = min(shape[-2:])
    P, V = (torch.linalg.qr(_matrix(*shape[:-2], size, r, dtype=torch.float64, seed=size)).Q for size in shape[-2:])
    return ((P * torch.logspace(0, -math.log10(kappa), r, device="cuda").double()) @ V.mT).to(dtype)


def _expected(G, name=None):
    """U·f(σ/‖σ‖)·Vᵀ of the composition f of the steps; without steps f = 1."""
    P, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    s = (sigma / torch.linalg.vector_norm(sigma, dim=-1, keepdim=True)).cpu().numpy()
    for q in named(name, 2, kappa=1e6, steps=NAMES[name]) if name else ():
        s = s * q(s * s)
    return (P * (torch.from_numpy(s).cuda() if name else torch.ones_like(sigma)).unsqueeze(-2)) @ Vh


def _error(U, expected):
    return float((torch.linalg.matrix_norm(U.double() - expected) / min(U.shape[-2:]) ** 0.5).amax())


def _in_bfloat16(G, name):
    """The steps as they are published: every product, and every iterate, in bfloat16."""
    X = (G / torch.linalg.matrix_norm(G.float(), keepdim=True)).bfloat16()
    for q in named(name, 2, kappa=1e6, steps=NAMES[name]):
        values = [float(q(y)) for y in (0.0, 0.5, 1.0)]
        c = 2 * values[0] - 4 * values[1] + 2 * values[2]
        b = values[2] - values[0] - c
        Y = X.mT @ X
        X = values[0] * X + X @ (b * Y + c * (Y @ Y))
    return X


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kappa", [20.0, 1e3, None])
@pytest.mark.parametrize("strategy", ["auto", "plain", "gram"])
@pytest.mark.parametrize("shape", SHAPES)
def test_to_a_tolerance(shape, strategy, kappa, dtype):
    """κ = 20 is done in two planes of fp16; normal matrices and κ = 1e3 by what is left where that is not enough."""
    tol = 1e-4 if dtype is torch.float32 else 1e-2
    G = _matrix(*shape, dtype=dtype) if kappa is None else _conditioned(kappa, *shape, dtype=dtype)
    U, stats = orthogonalize(G, strategy=strategy, return_stats=True)
    true, own = _error(U, _expected(G)), torch.finfo(dtype).eps / 2
    assert bool(stats.converged.all()) and true <= tol + own
    assert float(stats.error.amax()) >= 0.1 * (true - own)
    if kappa == 20.0:
        assert stats.precision == "fp16x3" and stats.fallbacks == ()
        assert stats.backend == "triton: symmetric products"


@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_given_steps(shape, name, strategy):
    """16 bits: half the error of bfloat16 iterates at most (predicted: an eighth), and that of rounding U; 22 bits."""
    how = {"schedule": name, "steps": NAMES[name], "strategy": strategy, "return_stats": True}
    for dtype in (torch.bfloat16, torch.float16):
        G = _matrix(*shape, dtype=dtype)
        U, stats = orthogonalize(G, **how)
        expected = _expected(G, name)
        assert stats.precision == "fp16" and stats.backend.startswith("triton") and U.dtype is dtype
        assert _error(U, expected) <= 0.5 * _error(_in_bfloat16(G, name), expected) + torch.finfo(dtype).eps / 2
    G = _matrix(*shape)
    U, stats = orthogonalize(G, **how)
    expected = _expected(G, name)
    assert stats.precision == "fp16x3"
    assert _error(U, expected) <= 2.0**-8 * _error(_in_bfloat16(G, name), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize("shape", [(512, 512), (1000, 300), (300, 1000), (4, 100, 100)])
def test_given_steps_in_a_graph(shape, strategy, dtype):
    """Captured on a second call, replayed on other numbers: the same bits as without a graph; statistics too."""
    G, ws = _matrix(*shape, dtype=dtype), Workspace()
    mixed = plan(2, kappa=1e4, tol=1e-2, degrees=(2, 3, 4))
    for schedule in ("muon", mixed):
        how = {"schedule": schedule, "strategy": strategy, "workspace": ws, "return_stats": True}
        orthogonalize(G, **how)
        held = ws.nbytes
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            U, stats = orthogonalize(G, **how)
        assert ws.nbytes == held
        for seed in (1, 2):
            G.copy_(_matrix(*shape, dtype=dtype, seed=seed))
            graph.replay()
            torch.cuda.synchronize()
            found = U.clone()
            assert torch.equal(found, orthogonalize(G, **{**how, "workspace": Workspace()}).U)
        assert bool((stats.status_code == 1).all())  # unverified
        assert bool(stats.error.isnan().all()) and bool((stats.rank == -1).all())


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_bits_and_no_wait(dtype):
    G, ws = _matrix(2, 300, 200, dtype=dtype), Workspace()
    first = orthogonalize(G, schedule="polar-express", workspace=ws)
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = orthogonalize(G, schedule="polar-express", workspace=ws)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(first, second)


@pytest.mark.parametrize("exponent", [-100, -40, 40, 120])  # bfloat16 keeps all its bits down to 2^-126
def test_a_power_of_two_changes_no_bit(exponent):
    G = _matrix(130, 70, dtype=torch.bfloat16)
    scaled = torch.ldexp(G.double(), torch.tensor(exponent, device="cuda")).bfloat16()
    assert torch.equal(orthogonalize(scaled, schedule="muon"), orthogonalize(G, schedule="muon"))


def test_zero_and_nan_beside_others():
    G = _matrix(4, 200, 100, dtype=torch.bfloat16)
    alone = orthogonalize(G, schedule="muon")
    G[0], G[2, 5, 5] = 0.0, torch.nan
    U = orthogonalize(G, schedule="muon")
    assert not U[0].any() and bool(U[2].isnan().any()) and torch.equal(U[1::2], alone[1::2])


@pytest.mark.parametrize("name", ["fp16", "tf32", "bf16", "bf16x3", "fp16x3", "fp32"])
def test_precisions_by_name(name):
    """bf16 is held in bf16; float32 without planes is whole."""
    G = _conditioned(10.0, 200, 100)
    U, stats = orthogonalize(G, schedule="polar-express", precision=name, return_stats=True)
    assert stats.precision == name and stats.backend.startswith("torch" if name == "fp32" else "triton")
    u = {"fp16": 2.0**-11, "tf32": 2.0**-11, "bf16": 2.0**-8, "bf16x3": 2.0**-16, "fp16x3": 2.0**-22, "fp32": 2.0**-24}
    P, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    s = (sigma / sigma.norm()).cpu().numpy()
    for q in named("polar-express", 2, kappa=1e6):
        s = s * q(s * s)
    # Singular values of 0.03 and more are lifted by 33, roundings of other directions with them.
    assert _error(U, (P * torch.from_numpy(s).cuda()) @ Vh) <= 33 * u[name] + 2.0**-22

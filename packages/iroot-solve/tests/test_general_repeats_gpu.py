"""General systems that repeat, on CUDA: a graph, one read, right on new numbers, and what it does not serve."""

import warnings

import pytest
import torch
from iroot_solve import SingularMatrixError, SolveWorkspace, solve_nonspd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode", "ignore:.*Profiler clears events"),
]

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def general(n, kappa, seed=0, dtype=torch.float32):
    """U·diag(σ)·Vᵀ with random orthogonal U and V, σ logarithmic."""
    generator = torch.Generator("cuda").manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, device="cuda", generator=generator))[0] for _ in range(2)
    )
    return ((U * torch.logspace(0, -1, n, kappa, dtype=torch.float64, device="cuda")) @ V.mT).to(dtype)


def right(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda", generator=torch.Generator("cuda").manual_seed(1)).to(dtype)


def distance(Z, A, B):
    """To the float64 solution, whose κ·u is far below every tolerance here."""
    expected = torch.linalg.solve(A.double(), B.double())
    return float(torch.dist(Z.double(), expected) / expected.norm())


def called(A, B, ws, **settings):
    return solve_nonspd(A, B, workspace=ws, strategy="newton-schulz", **settings)


def trained(n, kappa, B, dtype=torch.float32):
    """A workspace that has recorded a call: the graph is there."""
    ws = SolveWorkspace()
    for seed in range(4):
        found = called(general(n, kappa, seed, dtype), B, ws)
    assert found.stats.backend.endswith(", replayed")
    (repeat,) = ws.repeats.values()
    assert repeat.counted.replay.graph is not None
    return ws


@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3])
@pytest.mark.parametrize("k", [1, 64])
@pytest.mark.parametrize("n", [500, 1024, 2048])
def test_new_numbers(n, k, kappa):
    B = right(n, k)
    ws = trained(n, kappa, B)
    for seed in (10, 11):
        A = general(n, kappa, seed)
        found = called(A, B, ws)
        true = distance(found.Z, A, B)
        assert found.stats.backend.endswith(", replayed") and found.stats.status == "converged" and true <= 1e-4
        assert 0.1 * (true - 2.0**-23) <= float(found.stats.error) <= 10 * true + 2.0**-23


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_dtypes(dtype):
    B = right(512, 8, dtype=dtype)
    A, ws = general(512, 20.0, 9, dtype), trained(512, 20.0, B, dtype)
    found = called(A, B, ws)
    assert found.stats.backend.endswith(", replayed")
    assert distance(found.Z, A, B) <= TOLERANCES[dtype] + torch.finfo(dtype).eps / 2


@pytest.mark.parametrize(("n", "most"), [(1024, 130), (2048, 130)])
def test_one_launch_one_read_and_few_kernels(n, most):
    """On the meta device 85 operations are counted for κ = 100; a product may take two kernels."""
    B = right(n, 64)
    A, ws = general(n, 1e2, 9), trained(n, 1e2, B)
    called(A, B, ws)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = called(A, B, ws)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    assert found.stats.backend.endswith(", replayed")
    waits = [str(warning.message) for warning in seen if "called a synchronizing" in str(warning.message)]
    assert len(waits) == 1, waits
    events = profile.events()
    assert sum(event.name == "cudaGraphLaunch" for event in events) == 1
    kernels = [event.name for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    assert 30 <= len(kernels) <= most, len(kernels)


def test_other_work_in_between_changes_nothing():
    """Whatever fills memory and caches, a graph's buffers and constants stay its own."""
    B = right(512, 4)
    A, ws = general(512, 1e2, 9), trained(512, 1e2, B)
    first = called(A, B, ws).Z
    for n in range(200, 240):
        solve_nonspd(general(n, 10.0), right(n, 2), strategy="newton-schulz", seed=n)
        torch.full((n, n, n), torch.nan, device="cuda")
    assert torch.equal(called(A, B, ws).Z, first)


@pytest.mark.parametrize("worse", [10.0, 1e5])
def test_a_harder_matrix_goes_the_usual_way(worse):
    B = right(1024, 8)
    A, ws = general(1024, 30.0 * worse, 9), trained(1024, 30.0, B)
    found, eager = called(A, B, ws), called(A, B, None)
    assert not found.stats.backend.endswith(", replayed")
    assert (found.stats.status, found.stats.strategy) == ("converged", eager.stats.strategy)
    assert distance(found.Z, A, B) <= 1e-4


def test_singular():
    B = right(512, 4)
    A, ws = general(512, 10.0, 9), trained(512, 10.0, B)
    A[:, 0] = A[:, 1]
    with pytest.raises(SingularMatrixError, match="estimated rank is 511 of 512"):
        called(A, B, ws)


def test_a_batch_and_the_inverse_itself():
    ws, B = SolveWorkspace(), right(4, 300, 16)
    for seed in range(6):
        A = torch.stack([general(300, kappa, 10 * seed + i) for i, kappa in enumerate((3.0, 30.0, 300.0, 10.0))])
        found = called(A, B, ws)
    assert found.stats.backend.endswith(", replayed") and found.stats.status == 4 * ["converged"]
    assert max(distance(found.Z[i], A[i], B[i]) for i in range(4)) <= 1e-4
    ws = trained(300, 30.0, None)
    A = general(300, 30.0, 9)
    found = called(A, None, ws)
    assert found.stats.backend.endswith(", replayed") and distance(found.Z, A, torch.eye(300, device="cuda")) <= 1e-4


def test_auto():
    """From n = 2048 on it is what `auto` takes first."""
    ws, B = None, right(2048, 64)
    for seed in range(6):
        A = general(2048, 1e2, seed)
        Z, ws, stats, _ = solve_nonspd(A, B, workspace=ws)
        assert distance(Z, A, B) <= 1e-4
    assert stats.backend.endswith(", replayed")

"""Recorded calls on a CUDA device: a graph, one launch a replay, right on new numbers."""

import pytest
import torch
from iroot_solve import SolveWorkspace, orthogonalize, solve_gram_spd, solve_spd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode", "ignore:.*Profiler clears events"),
]

LATER = {"kappa_max": 1.1e3, "verify": "deferred", "on_failure": "nan"}
SHAPES = [((256, 256), None), ((1000, 1000), None), ((1000, 1000), (1000, 16)), ((4, 300, 300), (4, 300, 300))]


def matrices(spd, shape, seed):
    n = shape[-1]
    if len(shape) == 2:
        return spd(n, 1e3, seed).cuda()
    return torch.stack([spd(n, 1e3, seed + i) for i in range(shape[0])]).cuda()


def replayed(recorded, *tensors):
    """A replay under watch: nothing synchronises, nothing is allocated; and the names of the kernels that ran."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = recorded(*tensors)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    events = profile.events()
    assert sum(event.name == "cudaGraphLaunch" for event in events) == 1
    on_device = torch.autograd.DeviceType.CUDA
    return result, [event.name for event in events if event.device_type == on_device]


@pytest.mark.parametrize(("shape", "columns"), SHAPES)
@pytest.mark.parametrize("p", [1, 2, 4])
def test_a_replay_is_one_launch_and_right(spd, rhs, truth, distance, shape, columns, p):
    B = None if columns is None else rhs(*columns).cuda()
    recorded = SolveWorkspace().capture(solve_spd, matrices(spd, shape, 0), B, p_val=p, **LATER)
    assert recorded.graph is not None
    for seed in (10, 20):
        A = matrices(spd, shape, seed)
        result, kernels = replayed(recorded, A, B)
        assert 20 <= len(kernels) <= 500, len(kernels)
        assert bool(result.stats.converged.all())
        A, right = A.cpu(), None if B is None else B.cpu()
        flat, Z = A.reshape(-1, *A.shape[-2:]), result.Z.cpu().reshape(-1, *result.Z.shape[-2:])
        for i in range(len(flat)):
            one = None if right is None else right.reshape(-1, *right.shape[-2:])[i]
            assert distance(Z[i], truth(flat[i], one, -1 / p)) <= 1e-4


def test_other_work_in_between_changes_nothing(spd):
    """Whatever fills memory and caches, a graph's buffers and constants stay its own."""
    A = spd(512, 1e3, 3).cuda()
    recorded = SolveWorkspace().capture(solve_spd, A, None, **LATER)
    first = recorded(A, None).Z.clone()
    for n in range(200, 240):
        solve_spd(spd(n, 1e2, n).cuda(), None)
        torch.full((n, n, n), torch.nan, device="cuda")
    assert torch.equal(recorded(A, None).Z, first)


def test_new_numbers_that_break_the_promise_are_found(spd):
    recorded = SolveWorkspace().capture(solve_spd, spd(300, 1e2).cuda(), None, **{**LATER, "kappa_max": 1e2})
    assert recorded(spd(300, 1e6, 3).cuda(), None).stats.status == "stagnated"
    assert bool(recorded.result.Z.isnan().all())
    assert recorded(spd(300, 1e2, 3).cuda(), None).stats.status == "converged"


def test_small_matrices_are_one_kernel_and_their_reports(spd, truth, distance):
    A = torch.stack([spd(32, 50.0, seed) for seed in range(64)]).cuda()
    recorded = SolveWorkspace().capture(solve_spd, A, None, **{**LATER, "kappa_max": 60.0})
    result, kernels = replayed(recorded, 2 * A, None)
    assert sum("small_root" in name for name in kernels) == 1 and len(kernels) <= 60
    assert bool(result.stats.converged.all())
    assert distance(result.Z[5].cpu(), truth(2 * A[5].cpu(), None, -0.5)) <= 1e-4


def test_gram_matrices_are_formed_in_the_graph(rhs, truth, distance):
    recorded = SolveWorkspace().capture(solve_gram_spd, rhs(900, 300).cuda(), None, **LATER)
    G = rhs(900, 300, seed=9)
    Z = recorded(G.cuda(), None).Z.cpu()
    assert distance(Z, truth(G.double().mT @ G.double(), None, -0.5)) <= 1e-4


@pytest.mark.parametrize(("precision", "most"), [("auto", 160), ("bf16", 100)])
def test_the_polar_factor_by_given_steps(rhs, precision, most):
    settings = {"schedule": "polar-express", "precision": precision, "return_stats": True}
    recorded = SolveWorkspace().capture(orthogonalize, rhs(512, 256).cuda(), **settings)
    G = rhs(512, 256, seed=9).cuda()
    result, kernels = replayed(recorded, G)
    assert len(kernels) <= most
    assert torch.equal(result.U, orthogonalize(G, schedule="polar-express", precision=precision))


@pytest.mark.parametrize("strategy", ["chebyshev", "cayley"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_strategy_of_sums_is_recorded_with_its_certificate(spd, rhs, truth, distance, strategy, batch):
    B = rhs(600, 4)
    settings = {**LATER, "kappa_max": 60.0, "strategy": strategy}
    first = spd(600, 50.0).expand(*batch, 600, 600).cuda()
    recorded = SolveWorkspace().capture(solve_spd, first, B.cuda().expand(*batch, 600, 4).contiguous(), **settings)
    for seed, kappa, good in ((4, 50.0, True), (5, 1e5, False), (6, 50.0, True)):
        A = spd(600, kappa, seed)
        result, _ = replayed(recorded, A.cuda().expand(*batch, 600, 600), recorded.inputs[1])
        assert bool((result.stats.converged == good).all()) and bool(result.Z.isnan().all()) != good
        if good:
            assert distance(result.Z.cpu(), truth(A, B, -0.5)) <= 1e-4


def test_an_operator_is_recorded_with_its_certificate(spd, rhs, truth, distance):
    def solve(A, B, **settings):
        return solve_spd(lambda V: A @ V, B, **settings)

    settings = {**LATER, "kappa_max": 60.0, "lambda_max": 1.01, "strategy": "chebyshev"}
    recorded = SolveWorkspace().capture(solve, spd(600, 50.0).cuda(), rhs(600, 4).cuda(), **settings)
    A = spd(600, 50.0, 4)
    result, _ = replayed(recorded, A.cuda(), rhs(600, 4).cuda())
    assert result.stats.status == "converged" and distance(result.Z.cpu(), truth(A, rhs(600, 4), -0.5)) <= 1e-4
    assert recorded(spd(600, 1e4).cuda(), rhs(600, 4).cuda()).stats.status == "stagnated"


def test_a_strategy_of_sums_is_recorded_without_a_certificate(spd, rhs, truth, distance):
    settings = {**LATER, "verify": False, "kappa_max": 60.0, "strategy": "chebyshev"}
    recorded = SolveWorkspace().capture(solve_spd, spd(600, 50.0).cuda(), rhs(600, 4).cuda(), **settings)
    A = spd(600, 50.0, 4)
    result, _ = replayed(recorded, A.cuda(), rhs(600, 4).cuda())
    assert result.stats.status == "unverified"
    assert distance(result.Z.cpu(), truth(A, rhs(600, 4), -0.5)) <= 1e-4

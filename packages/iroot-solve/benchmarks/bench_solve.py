"""Strategies by p, size and batch, each time beside its true error: `python -m nox -s bench`.

extra_info has what makes two times comparable: true and estimated error, status, products, what was really run, and the
bytes that a call with a kept workspace allocates beyond Z. A strategy stays with its first attempt; `auto` is as users
have it. The arms to compare with are those of `torch.linalg.eigh` in the same group.
"""

import pytest
import torch
from iroot_solve import SolveWorkspace, solve_spd
from torch.profiler import ProfilerActivity, profile

# A first attempt may miss the tolerance: extra_info says so.
pytestmark = pytest.mark.filterwarnings("ignore::iroot_solve.StagnationWarning")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KAPPA = 1e3
SHAPES = {"256": ((), 256), "1024": ((), 1024), "64x64": ((64,), 64)}
SIDES = {"root": None, "k16": 16}


def problem(shape, side):
    """A with a log-spaced spectrum in a dense random eigenbasis, and B (`None`: the root)."""
    batch, n = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)).Q
    A = (Q * torch.logspace(0, -torch.tensor(KAPPA).log10(), n, dtype=torch.float64)) @ Q.mT
    B = None if SIDES[side] is None else torch.randn(*batch, n, SIDES[side], generator=generator)
    return ((A + A.mT) / 2).float().to(DEVICE), None if B is None else B.to(DEVICE)


def by_eigh(A, B, p, dtype):
    values, vectors = torch.linalg.eigh(A.to(dtype))
    scaled = vectors * values.unsqueeze(-2) ** (-1 / p)
    return scaled @ vectors.mT if B is None else scaled @ (vectors.mT @ B.to(dtype))


def error_of(Z, A, B, p):
    truth = by_eigh(A, B, p, torch.float64)
    return float((torch.linalg.matrix_norm(Z.double() - truth) / torch.linalg.matrix_norm(truth)).max())


def synchronised(call):
    def run():
        result = call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def allocations(call, Z):
    """Bytes of all tensors and scratch that a call allocates, freed or not, beyond Z: their sum and the largest."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])
    with profile(activities=activities, profile_memory=True, acc_events=True) as record:
        call()
    name = "self_device_memory_usage" if DEVICE == "cuda" else "self_cpu_memory_usage"
    sizes = sorted(size for event in record.events() if (size := getattr(event, name)) > 0)
    if (own := Z.numel() * Z.element_size()) in sizes:
        sizes.remove(own)
    return {"allocated_bytes": sum(sizes), "largest_allocation": sizes[-1] if sizes else 0}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh", "cholesky"])
def test_solve(benchmark, strategy, p, shape, side):
    if (strategy == "cholesky" and p != 1) or (strategy == "direct-solve" and side == "root"):
        pytest.skip("does not apply")
    A, B = problem(shape, side)
    workspace, settings = SolveWorkspace(), {"on_failure": "warn", "fallback": strategy == "auto"}

    @synchronised
    def call():
        return solve_spd(A, B, p_val=p, strategy=strategy, workspace=workspace, **settings)

    benchmark.group = f"p={p} {shape} {side}"
    result = benchmark(call)
    stats = result.stats
    benchmark.extra_info |= {
        "device": DEVICE,
        "kappa": KAPPA,
        "error": error_of(result.Z, A, B, p),
        "estimate": float(stats.error.max()),
        "converged": bool(stats.converged.all()),
        "ran": f"{stats.strategy} in {stats.precision}",
        "products": stats.products,
        "steps": stats.steps,
        "fallbacks": stats.fallbacks,
        **allocations(call, result.Z),
    }


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_eigh_as_everybody_does_it(benchmark, dtype, p, shape, side):
    A, B = problem(shape, side)
    benchmark.group = f"p={p} {shape} {side}"
    Z = benchmark(synchronised(lambda: by_eigh(A, B, p, dtype)))
    benchmark.extra_info |= {"device": DEVICE, "kappa": KAPPA, "error": error_of(Z, A, B, p)}

"""The coupled iteration by exponent, precision and batch, in Newton–Schulz steps; the products stand in extra_info."""

import pytest
import torch
from iroot_kernels import PRECISIONS, CoupledIteration, Polynomial, Workspace

STEPS = 8


def matrices(batch: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(batch, n, n, generator=generator, dtype=torch.float64)).Q
    A = (Q * torch.logspace(-1, 0, n, dtype=torch.float64)) @ Q.mT
    return ((A + A.mT) / 2).to(dtype)


@pytest.mark.parametrize("precision", ["fp64", "fp32", "tf32", "bf16", "fp16x3"])
@pytest.mark.parametrize(("batch", "n"), [(1, 256), (64, 64)])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_root(benchmark, p, batch, n, precision):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    A, ws = matrices(batch, n, PRECISIONS[precision].storage).to(device), Workspace()
    newton = Polynomial.of_monomials(((p + 1) / p, -1 / p))

    def run() -> CoupledIteration:
        iteration = CoupledIteration(A, p=p, precision=precision, workspace=ws)
        for t in range(STEPS):
            iteration.step(newton, last=t == STEPS - 1)
        if device == "cuda":
            torch.cuda.synchronize()
        return iteration

    iteration = benchmark(run)
    values, vectors = torch.linalg.eigh(A.double())
    truth = (vectors * values[..., None, :] ** (-1 / p)) @ vectors.mT
    benchmark.extra_info |= {
        "device": device,
        "steps": STEPS,
        "products": iteration.products.square,
        "workspace_bytes": ws.nbytes,
        "error": float(torch.dist(iteration.X.double(), truth) / truth.norm()),
    }

"""p = 1 by symmetric products and corrections on CUDA: errors, contraction, no synchronisation, what `auto` takes."""

import pytest
import torch
from iroot_kernels import symmetric_products
from iroot_solve import solve_spd

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(autouse=True)
def _has_symmetric_products():
    if not symmetric_products(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip("needs symmetric products")


def _problem(n, k, kappa, spectrum="log"):
    """A and B in float32, and A⁻¹·B from LU in float64."""
    generator = torch.Generator("cuda").manual_seed(n)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, device="cuda", generator=generator))[0]
    values = torch.logspace(0, -1, n, kappa, dtype=torch.float64, device="cuda")
    if spectrum == "lone":
        values = torch.linspace(1, 0.5, n, dtype=torch.float64, device="cuda")
        values[-1] = 1 / kappa
    A = ((Q * values) @ Q.mT).float()
    A, B = (A + A.mT) / 2, torch.randn(n, k, device="cuda", generator=generator)
    return A, B, torch.linalg.solve(A.double(), B.double())


def _error(Z, expected):
    return float(torch.dist(Z.double(), expected) / expected.norm())


@pytest.mark.parametrize("spectrum", ["log", "lone"])
@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("k", [1, 64])
@pytest.mark.parametrize("n", [512, 1000, 2048])
def test_by_name(n, k, kappa, spectrum):
    A, B, expected = _problem(n, k, kappa, spectrum)
    found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc")
    true = _error(found.Z, expected)
    assert found.stats.status == "converged" and true <= 1e-4
    assert 0.1 * (true - 2.0**-23) <= float(found.stats.error)
    assert found.stats.strategy == "hybrid-pe-nsrc" and found.stats.backend.startswith("triton")
    if spectrum == "log" and kappa <= 1e3:
        assert found.stats.fallbacks == () and found.stats.precision in ("fp16", "fp16x3")


@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3])
@pytest.mark.parametrize("k", [1, 64])
@pytest.mark.parametrize("n", [512, 1000, 2048])
def test_one_plane_is_enough(n, k, kappa):
    """By name: the factors of one plane of fp16 reach a tolerance far below their own rounding."""
    A, B, expected = _problem(n, k, kappa)
    found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc", precision="fp16", tol=1e-6)
    assert found.stats.precision == "fp16" and "factors" in str(found.schedule)
    assert found.stats.status == "converged" and _error(found.Z, expected) <= 1e-6 + 2.0**-24


@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("k", [1, 64])
@pytest.mark.parametrize("n", [512, 1000, 2048, 4096])
def test_auto(n, k, kappa):
    """Whatever it takes, its answer is right; what that is depends on the table of times."""
    A, B, expected = _problem(n, k, kappa)
    found = solve_spd(A, B, p_val=1)
    assert found.stats.status == "converged"
    # Cholesky in float32 is refined where it turns out that it has to be.
    assert found.stats.fallbacks in ((), ("more steps",) if found.stats.strategy == "cholesky" else ())
    assert _error(found.Z, expected) <= 1e-4
    assert found.stats.strategy in ("hybrid-pe-nsrc", "cholesky", "direct-solve", "materialize-root")


@pytest.mark.parametrize("n", [200, 1000])
def test_a_hidden_eigenvalue(n):
    """A broken promise ends right, by a rung that is another one."""
    A, B, _ = _problem(n, 16, 1e1)
    values, V = torch.linalg.eigh(A.double())
    values[0] = 1e-4
    A = ((V * values) @ V.mT).float()
    A = (A + A.mT) / 2
    found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc", kappa_max=10.0)
    assert found.stats.status == "converged" and found.stats.fallbacks
    assert _error(found.Z, torch.linalg.solve(A.double(), B.double())) <= 1e-4


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_without_a_certificate_nothing_is_read():
    A, B, expected = _problem(512, 16, 1e2)
    settings = {"p_val": 1, "strategy": "hybrid-pe-nsrc", "kappa_max": 1e2, "verify": False, "on_failure": "nan"}
    workspace = solve_spd(A, B, **settings).workspace
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = solve_spd(A, B, workspace=workspace, **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert _error(found.Z, expected) <= 1e-4 and found.stats.backend.startswith("triton")

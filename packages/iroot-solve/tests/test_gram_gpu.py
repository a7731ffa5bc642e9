"""GᵀG by symmetric products on CUDA: what it rounds, and solves, captured ones too, against a float64 SVD of G."""

from fractions import Fraction

import pytest
import torch
from iroot_kernels import symmetric_products, symmetric_rank_k
from iroot_solve import SolveWorkspace, apply_inverse_root_gram_rhs_spd, solve_gram_spd
from iroot_solve._gram_formed import ROUNDING

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),
]
DTYPES = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
LATER = {"verify": "deferred", "on_failure": "nan"}
ROUNDED = "by symmetric products"


@pytest.fixture(autouse=True)
def _has_symmetric_products():
    if not symmetric_products(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip("needs symmetric products")


def _matrix(m, n, kappa, kind="log", dtype=torch.float32, seed=0):
    """G with that κ of GᵀG and dense random singular vectors."""
    generator, r = torch.Generator("cuda").manual_seed(seed), min(m, n)
    wide = {"generator": generator, "dtype": torch.float64, "device": "cuda"}
    U, V = (torch.linalg.qr(torch.randn(size, r, **wide)).Q for size in (m, n))
    sigma = torch.logspace(0, -torch.tensor(kappa).log10() / 2, r, dtype=torch.float64, device="cuda")
    if kind != "log":
        sigma = torch.where(torch.arange(r, device="cuda") < (r - 1 if kind == "lone" else r // 2), 1.0, kappa**-0.5)
    return ((U * sigma) @ V.mT).to(dtype)


def _truth(G, B, exponent, ridge=0.0, dual=False):
    _, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    right = B.double() if not dual else G.double().mT @ B.double()
    return Vh.mT @ ((sigma.square() + ridge).pow(float(exponent)).unsqueeze(-1) * (Vh @ right))


def _error(Z, expected):
    return float(torch.linalg.matrix_norm(Z.double() - expected) / torch.linalg.matrix_norm(expected))


@pytest.mark.parametrize("kind", ["log", "lone", "half"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n"), [(256, 256), (1024, 300), (8192, 512), (40000, 128)])
@pytest.mark.parametrize("kappa", [1e2, 1e4])
def test_what_rounding_moves_on_tensor_cores(kind, dtype, m, n, kappa):
    """δ·κ/s at most, as planned for; their cut-off sums are made of short blocks (2^-24·κ/s by emulation)."""
    G = _matrix(m, n, kappa, kind, dtype)
    values, V = torch.linalg.eigh(symmetric_rank_k(G[None])[0].double())
    sigma = torch.linalg.svdvals(G.double())
    for p in (1, 2, 4):
        found = (V * values.pow(-1 / p)) @ V.mT
        error = _error(found, _truth(G, torch.eye(n, device="cuda"), Fraction(-1, p)))
        assert error <= ROUNDING * float(sigma[0] / sigma[-1]) ** 2 / p


@pytest.mark.parametrize("form", ["primal", "dual", "dual wide"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("later", [False, True])
def test_rounded_and_right(rhs, form, dtype, p, later):
    m, n = (300, 1000) if "wide" in form else (1000, 300)
    G = _matrix(m, n, 20.0, dtype=dtype)
    B = rhs(n if form == "primal" else m, 16, dtype=dtype).cuda()
    solve = solve_gram_spd if form == "primal" else apply_inverse_root_gram_rhs_spd
    settings = {"kappa_max": 25.0, **LATER} if later else {}
    result = solve(G, B, p_val=p, strategy="direct-solve", **settings)
    assert result.stats.status == "converged"
    # A first attempt in one plane may miss tol, and takes both to more bits.
    assert result.stats.backend.endswith(ROUNDED) or (not later and result.stats.fallbacks)
    expected = _truth(G, B, Fraction(-1, p), dual=form != "primal")
    assert _error(result.Z, expected) <= DTYPES[dtype] + torch.finfo(dtype).eps / 2


@pytest.mark.parametrize(("kappa", "tol"), [(2e3, 1e-4), (1e6, 1e-2), (1e6, 1e-4)])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_without_room_it_is_float64(rhs, kappa, tol, p):
    G, B = _matrix(1000, 300, kappa), rhs(300, 16).cuda()
    for settings in ({}, {"kappa_max": 1.1 * kappa, **LATER}):
        result = solve_gram_spd(G, B, p_val=p, tol=tol, **settings)
        assert result.stats.status == "converged" and ROUNDED not in result.stats.backend
        assert _error(result.Z, _truth(G, B, Fraction(-1, p))) <= tol


def test_a_broken_promise_is_found(rhs):
    """Later it is said, at once it is made good."""
    G, B = _matrix(1000, 300, 1e5), rhs(300, 16).cuda()
    later = solve_gram_spd(G, B, kappa_max=20.0, **LATER)
    assert later.stats.backend.endswith(ROUNDED) and later.stats.status == "stagnated"
    assert bool(later.Z.isnan().all())
    found = solve_gram_spd(G, B, kappa_max=20.0)
    assert found.stats.status == "converged" and "GᵀG in float64" in " ".join(found.stats.fallbacks)
    assert _error(found.Z, _truth(G, B, Fraction(-1, 2))) <= 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_graph_forms_it_of_new_numbers(rhs, dtype):
    """At another scale, too; and nothing waits."""
    B = rhs(300, 16, dtype=dtype).cuda()
    settings = {"kappa_max": 25.0, **LATER}
    recorded = SolveWorkspace().capture(solve_gram_spd, _matrix(1000, 300, 20.0, dtype=dtype), B, **settings)
    assert recorded.result.stats.backend.endswith(ROUNDED)
    for seed in (5, 6):
        G = 2.0**seed * _matrix(1000, 300, 20.0, dtype=dtype, seed=seed)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = recorded(G, B)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert result.stats.status == "converged"
        assert _error(result.Z, _truth(G, B, Fraction(-1, 2))) <= DTYPES[dtype] + torch.finfo(dtype).eps / 2

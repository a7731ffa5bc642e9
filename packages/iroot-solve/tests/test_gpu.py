"""The solver on a CUDA device: right in every dtype and strategy, with the synchronisations that spec line 6 allows."""

import warnings

import pytest
import torch
from iroot_solve import solve_spd

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

TOL = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2}


def _problem(n, kappa, dtype, k=16):
    generator = torch.Generator("cuda").manual_seed(n)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, device="cuda", dtype=torch.float64)).Q
    values = torch.logspace(-torch.log10(torch.tensor(kappa)).item(), 0, n, device="cuda", dtype=torch.float64)
    A = (basis * values) @ basis.mT
    return ((A + A.mT) / 2).to(dtype), torch.randn(n, k, generator=generator, device="cuda").to(dtype)


def _error(Z, A, B, p):
    values, vectors = torch.linalg.eigh(A.double().cpu())
    expected = (vectors * values ** (-1 / p)) @ (vectors.mT @ B.double().cpu())
    return float(torch.dist(Z.double().cpu(), expected) / expected.norm())


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh"])
@pytest.mark.parametrize("dtype", TOL, ids=str)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
def test_converged_is_right(p, dtype, strategy):
    # A bfloat16 matrix of κ = 1e4 is indefinite by rounding alone (u = 2⁻⁸).
    for kappa in (10.0,) if dtype is torch.bfloat16 else (1e2, 1e4, 1e6):
        A, B = _problem(256, kappa, dtype)
        result = solve_spd(A, B, p_val=p, strategy=strategy)
        assert result.stats.status == "converged"
        assert _error(result.Z, A, B, p) <= TOL[dtype] + torch.finfo(dtype).eps / 2


def test_a_bad_matrix_leaves_its_neighbours_alone():
    A, B = _problem(64, 1e3, torch.float32)
    batch = A.repeat(10, 1, 1)
    batch[3], batch[7, 1, 1], batch[9] = 0, torch.nan, -A
    result = solve_spd(batch, B.expand(10, -1, -1), on_failure="nan")
    expected = ["converged"] * 10
    expected[3], expected[7], expected[9] = "singular", "nonfinite_input", "not_positive_definite"
    assert result.stats.status == expected
    assert _error(result.Z[0], A, B, 2) <= 1e-4


def test_two_synchronisations_on_success():
    A, B = _problem(512, 1e3, torch.float32)
    solve_spd(A, B, strategy="materialize-root")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            stats = solve_spd(A, B, strategy="materialize-root").stats
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert stats.fallbacks == ()
    assert 1 <= sum("called a synchronizing" in str(warning.message) for warning in seen) <= 2


def test_none_with_a_promise_and_no_certificate():
    A, B = _problem(512, 1e3, torch.float32)
    options = {"kappa_max": 1.1e3, "verify": False, "on_failure": "nan", "strategy": "direct-solve"}
    workspace = solve_spd(A, B, **options).workspace
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            result = solve_spd(A, B, workspace=workspace, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert result.stats.status == "unverified"
    assert _error(result.Z, A, B, 2) <= 1e-4

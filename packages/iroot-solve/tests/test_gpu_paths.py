"""Every path on a CUDA device, against float64 on the CPU."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import (
    SolveWorkspace,
    apply_inverse_root_gram_rhs_spd,
    orthogonalize,
    solve_gram_spd,
    solve_nonspd,
    solve_spd,
)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
STRATEGIES = ["auto", "direct-solve", "materialize-root", "chebyshev", "cayley", "lanczos", "eigh"]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2}
N, K = 96, 5


def _error(Z, expected):
    gap = torch.linalg.matrix_norm(Z.double().cpu() - expected)
    return float((gap / torch.linalg.matrix_norm(expected)).amax())


def _limit(dtype):
    return TOLERANCES[dtype] + torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "cholesky", "hybrid-pe-nsrc"])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_spd(spd, rhs, truth, dtype, p, strategy, batch):
    if strategy in ("cholesky", "hybrid-pe-nsrc") and p > 1:
        pytest.skip("p = 1 only")
    A, B = spd(N, 10.0, dtype=dtype).repeat(*batch, 1, 1), rhs(*batch, N, K, dtype=dtype)
    result = solve_spd(A.cuda(), B.cuda(), p_val=p, strategy=strategy)
    assert bool(result.stats.converged.all()) and result.Z.is_cuda
    assert _error(result.Z, truth(A, B, -1 / p)) <= _limit(dtype)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("n", [65, 200])
def test_roots_are_made_of_symmetric_products(spd, truth, n, p):
    """In two planes of fp16; more steps go on from the iterates in full products, float64 leaves the planes."""
    A = spd(n, 1e2)
    found = solve_spd(A.cuda(), None, p_val=p, strategy="materialize-root")
    assert found.stats.precision == "fp16x3" and found.stats.fallbacks == ()
    assert found.stats.products["square"] > 0
    assert _error(found.Z, truth(A, None, -1 / p)) <= 1e-4
    for kappa in (3e3, 1e6):
        A = spd(200, kappa)
        found = solve_spd(A.cuda(), None, p_val=p, strategy="materialize-root", kappa_max=10.0)
        assert found.stats.status == "converged" and found.stats.fallbacks
        assert _error(found.Z, truth(A, None, -1 / p)) <= 1e-4


@pytest.mark.parametrize("k", [1, 16, 150])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_symmetric_products_act_on_columns(spd, rhs, truth, p, k):
    A, B = spd(300, 1e2), rhs(300, k)
    found = solve_spd(A.cuda(), B.cuda(), p_val=p, strategy="direct-solve")
    assert found.stats.backend.startswith("triton") and found.stats.fallbacks == ()
    expected = truth(A, B, -1 / p)
    assert _error(found.Z, expected) <= 1e-4
    true = _error(found.Z, expected)
    assert 0.1 * true <= float(found.stats.error) <= max(10 * true, 1e-6)
    # An eigenvalue below the promised range: a higher rung finishes it.
    A = spd(200, 3e3)
    found = solve_spd(A.cuda(), B[:200].cuda(), p_val=p, strategy="direct-solve", kappa_max=10.0)
    assert found.stats.status == "converged" and found.stats.fallbacks
    assert _error(found.Z, truth(A, B[:200], -1 / p)) <= 1e-4


@pytest.mark.parametrize("columns", [False, True])
def test_less_than_float32_where_that_is_enough(spd, rhs, truth, with_spectrum, columns):
    """A tolerance of 1e-2 takes one plane, one of 1e-4 two; an eigenvalue that was not foreseen climbs to float32."""
    A, B = spd(300, 10.0), rhs(300, 16) if columns else None
    on_device = None if B is None else B.cuda()
    strategy = "direct-solve" if columns else "materialize-root"
    coarse = solve_spd(A.cuda(), on_device, tol=1e-2, strategy=strategy)
    assert coarse.stats.precision == "fp16" and coarse.stats.fallbacks == ()
    assert 1e-6 < _error(coarse.Z, truth(A, B, -1 / 2)) <= 1e-2
    fine = solve_spd(A.cuda(), on_device, tol=1e-4, strategy=strategy)
    assert fine.stats.precision == "fp16x3" and _error(fine.Z, truth(A, B, -1 / 2)) <= 1e-4
    A = with_spectrum(np.concatenate((np.ones(299), [1e-4])), dtype=torch.float32)
    hidden = solve_spd(A.cuda(), on_device, tol=1e-2, strategy=strategy, kappa_max=10.0)
    assert hidden.stats.status == "converged" and hidden.stats.fallbacks
    assert _error(hidden.Z, truth(A, B, -1 / 2)) <= 1e-2


def test_a_precision_by_name_is_kept_and_then_float64(spd, truth):
    A = spd(200, 1e4)
    found = solve_spd(A.cuda(), None, precision="fp16", strategy="materialize-root")
    assert found.stats.fallbacks and found.stats.precision == "fp64"
    assert _error(found.Z, truth(A, None, -1 / 2)) <= 1e-4


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(200, 40), (30, 120)])
@pytest.mark.parametrize("dual", [False, True])
def test_gram(rhs, dtype, shape, dual):
    G = rhs(*shape, dtype=torch.float64).to(dtype)
    B = rhs(shape[0] if dual else shape[1], K, dtype=dtype)
    ridge = 0.1 * shape[0]
    solve = apply_inverse_root_gram_rhs_spd if dual else solve_gram_spd
    first = solve(G.cuda(), B.cuda(), ridge=ridge)
    values, V = torch.linalg.eigh(G.double().mT @ G.double() + ridge * torch.eye(shape[1], dtype=torch.float64))
    right = G.double().mT @ B.double() if dual else B.double()
    expected = (V * values.rsqrt()) @ (V.mT @ right)
    assert first.stats.status == "converged" and _error(first.Z, expected) <= _limit(dtype)


def test_operators_and_pinv(spd, rhs, truth):
    A, B = spd(N, 10.0), rhs(N, K)
    on_device = A.cuda()
    for settings in ({}, {"strategy": "chebyshev", "lambda_max": 1.01, "kappa_max": 11.0}):
        Z = solve_spd(lambda V: on_device @ V, B.cuda(), **settings).Z
        assert _error(Z, truth(A, B, -1 / 2)) <= 1.1e-4
    singular = torch.block_diag(
        spd(N // 2, 10.0, dtype=torch.float64), torch.zeros(N // 2, N // 2, dtype=torch.float64)
    )
    B = rhs(N, K, dtype=torch.float64)
    result = solve_spd(singular.cuda(), B.cuda(), on_singular="pinv")
    expected = torch.zeros_like(B)
    expected[: N // 2] = truth(singular[: N // 2, : N // 2], B[: N // 2], -1 / 2)
    assert int(result.stats.rank) == N // 2 and _error(result.Z, expected) <= 1e-10


@pytest.mark.parametrize("p", [1, 2, 3])
def test_general_matrices(p):
    rng = np.random.default_rng(0)
    A = torch.from_numpy(np.eye(N) * 4 + rng.standard_normal((N, N)) / N**0.5)
    B = torch.from_numpy(rng.standard_normal((N, K)))
    Z = solve_nonspd(A.cuda(), B.cuda(), p_val=p).Z
    values, V = torch.linalg.eig(A)
    expected = (V @ (values.pow(-1 / p).unsqueeze(-1) * torch.linalg.solve(V, B.to(V.dtype)))).real
    assert _error(Z, expected) <= 1e-9


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", [(150, 40), (40, 150), (64, 64)])
def test_polar_factor(rhs, dtype, shape):
    G = rhs(*shape, dtype=torch.float64).to(dtype)
    U, _, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    assert _error(orthogonalize(G.cuda()), U @ Vh) <= _limit(dtype) + torch.finfo(dtype).eps


def test_a_rational_power(spd, rhs, truth):
    A, B = spd(N, 10.0), rhs(N, K)
    for strategy in ("lanczos", "chebyshev", "cayley"):
        Z = solve_spd(A.cuda(), B.cuda(), exponent=Fraction(-2, 3), strategy=strategy).Z
        assert _error(Z, truth(A, B, -2 / 3)) <= 1.1e-4


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("strategy", ["auto", "chebyshev"])
def test_data_on_another_device_than_the_current_one(strategy):
    """`torch.ldexp` launches on the current device, wherever its data is: the solver makes it that of the data."""
    there = torch.device("cuda", 1)
    G = torch.randn(700, 700, device=there)
    A, B, ws = G @ G.mT / 700 + torch.eye(700, device=there), torch.randn(700, 16, device=there), SolveWorkspace()
    values, V = torch.linalg.eigh(A.double())
    expected = (V * values.rsqrt()) @ (V.mT @ B.double())
    with torch.cuda.device(0):
        for _ in range(5):  # the later ones are replayed
            found = solve_spd(A, B, p_val=2, workspace=ws, strategy=strategy)
            assert found.stats.status == "converged" and torch.cuda.current_device() == 0
            assert torch.dist(found.Z.double(), expected) <= 1e-4 * expected.norm()

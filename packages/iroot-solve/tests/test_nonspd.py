"""solve_nonspd, p = 1: A⁻¹·B for general A by LU or residual polynomials, refined, with an error that is true.

Truth is mpmath's with 40 digits, or numpy's float64 solve where κ·u of float64 is far below the tolerance.
"""

import mpmath
import numpy as np
import pytest
import torch
from iroot_solve import IrootError, solve_nonspd

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


def with_condition(n, kappa, seed=0, dtype=torch.float64):
    """U·diag(log-spaced)·Vᵀ with random orthogonal U and V."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return torch.from_numpy((U * np.logspace(0, -np.log10(kappa), n)) @ V).to(dtype)


def exact(A, B):
    """A⁻¹·B with 40 digits."""
    with mpmath.workdps(40):
        Z = mpmath.matrix(A.double().tolist()) ** -1 * mpmath.matrix(B.double().tolist())
        return torch.tensor([[float(Z[i, j]) for j in range(Z.cols)] for i in range(Z.rows)], dtype=torch.float64)


def best(*args, **settings):
    """The result, and where it raises the one that the exception carries."""
    try:
        return solve_nonspd(*args, **settings)
    except IrootError as error:
        return error.result


def honest(estimate, true, dtype):
    """Within [0.1, 10] × truth up to 1e-3, above never below 0.1 × truth; the output's rounding u is not in it."""
    u = torch.finfo(dtype).eps
    return estimate >= 0.1 * (true - u) and (estimate > 1e-3 or estimate <= 10 * max(true, u))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 5, 24, 96])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["auto", "lu", "hyperpower"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_accuracy(rhs, distance, within, strategy, dtype, n, batch):
    A = torch.stack([with_condition(n, 20.0, seed, dtype) for seed in range(2)])
    A, B = (A if batch else A[0]), rhs(*batch, n, 3, dtype=dtype)
    Z, _, stats, schedule = solve_nonspd(A, B, strategy=strategy)
    expected = torch.linalg.solve(A.double(), B.double())
    assert Z.shape == B.shape and Z.dtype == dtype and bool(stats.converged.all())
    assert distance(Z, expected) <= within(TOLERANCES[dtype], dtype)
    assert stats.strategy == ("hyperpower" if strategy == "hyperpower" else "lu") and "\n" not in str(schedule)
    assert stats.fallbacks == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kappa", [1.0, 1e2, 1e5, 1e8, 1e11, 1e14])
@pytest.mark.parametrize("strategy", ["lu", "hyperpower"])
@pytest.mark.parametrize("k", [2, 40])
def test_every_condition_converges_and_the_error_is_true(rhs, distance, within, strategy, kappa, dtype, k):
    """Residuals in doubled precision leave about κ·2^-74 in float64, far below the tolerance up to κ = 1e11."""
    A, B = with_condition(12, kappa, dtype=dtype), rhs(12, k, dtype=dtype)
    result = best(A, B, strategy=strategy)
    true = distance(result.Z, exact(A, B))
    assert honest(float(result.stats.error), true, dtype)
    if kappa <= 1e11:
        assert result.stats.status == "converged" and true <= within(TOLERANCES[dtype], dtype)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_float32_factors_serve_a_float64_matrix(rhs, distance, k):
    """Iterative refinement: each step multiplies the error by about κ·u₃₂."""
    A, B = with_condition(24, 1e4), rhs(24, k, dtype=torch.float64)
    Z, _, stats, schedule = solve_nonspd(A, B, precision="fp32")
    assert stats.precision == "fp32" and stats.fallbacks == () and "refined" in str(schedule)
    assert distance(Z, exact(A, B)) <= 1e-10
    assert solve_nonspd(with_condition(24, 1e10), B, precision="fp32").stats.fallbacks == ("lu in fp64",)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16x3", "fp16x3", "fp64"])
def test_hyperpower_in_every_precision_is_refined_to_the_same_answer(rhs, distance, precision):
    A, B = with_condition(24, 5.0), rhs(24, 3, dtype=torch.float64)
    Z, _, stats, _ = solve_nonspd(A, B, strategy="hyperpower", precision=precision)
    assert stats.strategy == "hyperpower" and stats.precision == precision
    assert stats.products["square"] > 0 and stats.steps > 0
    assert distance(Z, exact(A, B)) <= 1e-10


def test_hyperpower_falls_back_to_lu(rhs, distance):
    A, B = with_condition(24, 1e5, dtype=torch.float32), rhs(24, 3)
    result = solve_nonspd(A, B, strategy="hyperpower")
    assert result.stats.fallbacks == ("lu in fp32",) and result.stats.products["lu"] == 1
    assert distance(result.Z, exact(A, B)) <= 1e-4


HARD = {
    "permutation": torch.eye(7, dtype=torch.float64)[[3, 0, 6, 1, 5, 2, 4]],
    "rotation": torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64),
    "negative": -torch.eye(3, dtype=torch.float64) * 3,
    "upper triangle": torch.eye(9, dtype=torch.float64) + torch.triu(torch.ones(9, 9, dtype=torch.float64), 1),
    "Jordan, κ = 2^40": torch.eye(40, dtype=torch.float64) + 2 * torch.diag(torch.ones(39, dtype=torch.float64), 1),
    "graded rows": torch.logspace(0, -20, 9, dtype=torch.float64)[:, None] * with_condition(9, 5.0),
    "graded columns": with_condition(9, 5.0) * torch.logspace(0, -20, 9, dtype=torch.float64),
    "zero diagonal": torch.ones(6, 6, dtype=torch.float64) - torch.eye(6, dtype=torch.float64),
    "Hilbert": torch.tensor([[1 / (i + j + 1) for j in range(9)] for i in range(9)], dtype=torch.float64),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hard_matrices(rhs, distance, within, name, dtype):
    A = HARD[name].to(dtype)
    B = rhs(A.shape[0], 2, dtype=dtype)
    result = solve_nonspd(A, B)
    true = distance(result.Z, exact(A, B))
    assert true <= within(TOLERANCES[dtype], dtype) and honest(float(result.stats.error), true, dtype)


def test_a_right_hand_side_that_hides_the_condition(rhs, distance):
    """B = A·Y with a plain Y: the answer is small although ‖A⁻¹‖ is large, and its error relative to that counts."""
    A, Y = with_condition(16, 1e9), rhs(16, 2, dtype=torch.float64)
    B = A @ Y
    result = solve_nonspd(A, B)
    assert distance(result.Z, exact(A, B)) <= 1e-10 and float(result.stats.amplification) > 1e6


def test_the_inverse_itself(distance, within):
    for dtype in DTYPES:
        A = with_condition(24, 10.0, dtype=dtype)
        assert distance(solve_nonspd(A, None).Z, torch.linalg.inv(A.double())) <= within(TOLERANCES[dtype], dtype)


def test_stats_bound_the_singular_values():
    for kappa in (1e1, 1e6, 1e10):
        stats = solve_nonspd(3.0 * with_condition(32, kappa), torch.ones(32, dtype=torch.float64)).stats
        # σ_max ≤ its bound ≤ ‖A‖_F ≤ √n·σ_max, and two steps of inverse iteration overestimate σ_min by 3 at most here.
        assert 3.0 * (1 - 1e-12) <= float(stats.lambda_max) <= 3.0 * 32**0.5
        assert 3.0 / kappa * (1 - 1e-3) <= float(stats.lambda_min) <= 9.0 / kappa


def test_data_limited():
    A = with_condition(24, 1e9, dtype=torch.float32)
    assert bool(solve_nonspd(A, torch.ones(24)).stats.data_limited)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["lu", "hyperpower"])
def test_exact_for_powers_of_two(rhs, dtype, strategy):
    A, B = with_condition(8, 4.0, dtype=dtype), rhs(8, 2, dtype=dtype)
    Z = solve_nonspd(A, B, strategy=strategy).Z
    for j in (-6, 6) if dtype is torch.float16 else (-60, -1, 1, 60):
        assert torch.equal(solve_nonspd(A * 2.0**j, B, strategy=strategy).Z, Z * 2.0**-j)
        assert torch.equal(solve_nonspd(A, B * 2.0**j, strategy=strategy).Z, Z * 2.0**j)


@pytest.mark.parametrize("c", [1e-20, 1e-10, 1e-3, 1e3, 1e10, 1e20])
def test_scale_equivariance(rhs, distance, c):
    A, B = with_condition(12, 1e2, dtype=torch.float32), rhs(12, 2)
    Z = solve_nonspd(A * c, B).Z.double() * c
    # Both within 1e-4; A·c is rounded to float32, which moves the inverse by κ·u; the outputs by u.
    assert distance(Z, solve_nonspd(A, B).Z) <= 2e-4 + (1e2 + 2) * 2.0**-24


def test_shapes(rhs):
    A = torch.stack([with_condition(5, 3.0, seed) for seed in range(6)]).reshape(2, 3, 5, 5)
    for shape in [(5,), (5, 2), (3, 5, 2), (2, 3, 5, 2), (4, 1, 1, 5, 2)]:
        B = rhs(*shape, dtype=torch.float64)
        Z = solve_nonspd(A, B).Z
        expected = torch.linalg.solve(A, B.unsqueeze(-1) if len(shape) == 1 else B)
        assert torch.allclose(Z, expected[..., 0] if len(shape) == 1 else expected, rtol=1e-9, atol=1e-11)
    folded = rhs(4, 5, 2, dtype=torch.float64)
    assert torch.allclose(solve_nonspd(A[0, 0], folded).Z, torch.linalg.solve(A[0, 0], folded), rtol=1e-9, atol=1e-11)
    for empty in (torch.zeros(0, 0), torch.zeros(3, 0, 0), torch.zeros(0, 4, 4)):
        assert solve_nonspd(empty, None).Z.shape == empty.shape
    assert solve_nonspd(torch.eye(4), torch.zeros(4, 0)).Z.shape == (4, 0)
    strided = A.mT.expand(2, 3, 5, 5)
    B = rhs(2, 5, dtype=torch.float64).mT
    assert torch.allclose(solve_nonspd(strided, B).Z, torch.linalg.solve(strided, B), rtol=1e-9, atol=1e-11)


def test_inputs_stay_and_results_repeat(rhs):
    A, B = with_condition(12, 1e3, dtype=torch.float32), rhs(12, 30)
    before = A.clone(), B.clone()
    first = solve_nonspd(A, B)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = solve_nonspd(A, B, workspace=first.workspace)
    assert torch.equal(first.Z, again.Z) and torch.equal(first.stats.error, again.stats.error)
    assert torch.equal(A, before[0]) and torch.equal(B, before[1])
    out = torch.empty_like(B)
    assert solve_nonspd(A, B, out=out).Z is out and torch.equal(out, first.Z)


@pytest.mark.parametrize("k", [4, 96])
def test_success_reads_twice(rhs, host_reads, k):
    A, B = with_condition(96, 5.0, dtype=torch.float32), rhs(96, k)
    solve_nonspd(A, B)
    with host_reads() as found:
        solve_nonspd(A, B)
    assert len(found) == 2, found
    with host_reads() as found:
        solve_nonspd(A, B, verify=False, on_failure="nan")
    assert len(found) == 1, found


def test_without_verification(rhs, distance):
    A, B = with_condition(32, 10.0, dtype=torch.float32), rhs(32, 4)
    expected = exact(A, B)
    for strategy in ("lu", "hyperpower"):
        result = solve_nonspd(A, B, strategy=strategy, verify=False)
        assert result.stats.status == "unverified" and bool(result.stats.error.isnan())
        assert distance(result.Z, expected) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_second_call_allocates_nothing_but_Z(rhs, allocations, batch, dtype):
    """K ≤ 16 columns, so that temporaries of that width are smaller than Z's n×n."""
    A = with_condition(96, 5.0, dtype=dtype).repeat(*batch, 1, 1)
    B = rhs(*batch, 96, 64, dtype=dtype)
    ws = solve_nonspd(A, B).workspace
    with allocations(A[..., 0, 0].numel() * 96 * 64, A, B, *ws._buffers.values()) as found:
        solve_nonspd(A, B, workspace=ws)
    assert len(found) == 1, found


@pytest.mark.parametrize(
    ("n", "seed", "dtype"), [(21, 22, torch.float32), (21, 22, torch.float16), (24, 37, torch.float16)]
)
def test_a_tiny_singular_value_that_hyperpower_does_not_plan_for(distance, within, n, seed, dtype):
    """Without a look at X·AᵀA its direction is missing from the answer and from every residual F is applied to.

    Such matrices are rare, one in forty of this kind: G·Gᵀ has a lowest eigenvalue far below the others, which twenty
    Lanczos steps on its square do not find.
    """
    G = np.random.default_rng(seed).standard_normal((n, n))
    A, B = torch.from_numpy(G @ G.T).to(dtype), torch.from_numpy(np.random.default_rng(1).standard_normal((n, 3)))
    result = best(A, B.to(dtype), strategy="hyperpower")
    expected = torch.linalg.solve(A.double(), B.to(dtype).double())
    assert result.stats.strategy == "lu"
    assert distance(result.Z, expected) <= within(TOLERANCES[dtype], dtype)

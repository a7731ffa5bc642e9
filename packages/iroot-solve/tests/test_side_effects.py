"""Line 9: inputs and global state stay as they were; the result depends on nothing but the arguments."""

import pytest
import torch
from iroot_solve import PrecondConfig, solve_spd

STRATEGIES = [
    ("auto", 2),
    ("direct-solve", 2),
    ("materialize-root", 2),
    ("eigh", 2),
    ("cholesky", 1),
    ("direct-solve", 3),
]


def _settings():
    return (
        torch.get_default_dtype(),
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.backends.mkldnn.enabled,
        torch.is_inference_mode_enabled(),
    )


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["none", "jacobi"])
def test_inputs_are_never_modified(spd, rhs, dtype, strategy, p, mode):
    A, B = spd(16, 5.0, dtype=dtype).repeat(2, 1, 1), rhs(2, 16, 3, dtype=dtype)
    before = A.clone(), B.clone(), A._version, B._version
    config = PrecondConfig(mode=mode if strategy != "eigh" else "none")
    solve_spd(A, B, p_val=p, strategy=strategy, ridge=0.1, precond_config=config)
    assert torch.equal(A, before[0]) and torch.equal(B, before[1])
    assert (A._version, B._version) == before[2:]


def test_inputs_survive_failures(spd, rhs):
    A, B = spd(16, 5.0).repeat(2, 1, 1), rhs(2, 16, 3)
    A[1] *= -1
    before = A.clone(), B.clone()
    for strategy in ("auto", "direct-solve", "materialize-root"):
        solve_spd(A, B, strategy=strategy, on_failure="nan")
        assert torch.equal(A, before[0]) and torch.equal(B, before[1])


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
def test_global_flags_are_never_touched(spd, rhs, strategy, p):
    before = _settings()
    solve_spd(spd(16, 5.0), rhs(16, 3), p_val=p, strategy=strategy)
    assert _settings() == before


@pytest.fixture
def reduced_products():
    """A global flag that makes float32 products less than float32."""
    flag = torch.backends.mkldnn.matmul
    before, flag.fp32_precision = flag.fp32_precision, "bf16"
    yield
    flag.fp32_precision = before


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
def test_reduced_precision_flags_are_read_and_left(spd, rhs, truth, distance, within, reduced_products, strategy, p):
    A, B = spd(48, 1e2), rhs(48, 48)
    before = _settings()
    result = solve_spd(A, B, p_val=p, strategy=strategy)
    assert _settings() == before
    assert result.stats.status == "converged"
    assert distance(result.Z, truth(A, B, -1 / p)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_identical_inside_autocast(spd, rhs, dtype, strategy, p):
    A, B = spd(32, 5.0, dtype=dtype), rhs(32, 32, dtype=dtype)
    plain = solve_spd(A, B, p_val=p, strategy=strategy)
    with torch.autocast("cpu", torch.bfloat16):
        cast = solve_spd(A, B, p_val=p, strategy=strategy)
        assert torch.is_autocast_enabled("cpu")
    assert cast.Z.dtype == dtype and torch.equal(cast.Z, plain.Z)
    assert torch.equal(cast.stats.error, plain.stats.error)


def test_identical_in_inference_mode_and_after_it(spd, rhs):
    A, B = spd(32, 5.0), rhs(32, 4)
    plain = solve_spd(A, B, strategy="direct-solve")
    with torch.inference_mode():
        inside = solve_spd(A, B, strategy="direct-solve")
    after = solve_spd(A, B, strategy="direct-solve", workspace=inside.workspace)
    assert torch.equal(inside.Z, plain.Z) and torch.equal(after.Z, plain.Z)


def test_independent_of_the_default_dtype(spd, rhs):
    A, B = spd(32, 5.0), rhs(32, 4)
    plain = [solve_spd(A, B, strategy=strategy).Z for strategy in ("eigh", "direct-solve", "materialize-root")]
    torch.set_default_dtype(torch.float64)
    try:
        other = [solve_spd(A, B, strategy=strategy).Z for strategy in ("eigh", "direct-solve", "materialize-root")]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(x, y) for x, y in zip(plain, other, strict=True))


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
def test_deterministic(spd, rhs, strategy, p):
    A, B = spd(32, 1e2), rhs(32, 24)
    first = solve_spd(A, B, p_val=p, strategy=strategy)
    for manual in (1, 2):
        torch.manual_seed(manual)
        again = solve_spd(A, B, p_val=p, strategy=strategy)
        assert torch.equal(first.Z, again.Z)
        assert torch.equal(first.stats.error, again.stats.error)
        assert torch.equal(first.stats.lambda_max, again.stats.lambda_max)


def test_the_random_state_of_the_process_is_left_alone(spd, rhs):
    state = torch.get_rng_state()
    for strategy, p in STRATEGIES:
        solve_spd(spd(32, 1e2), rhs(32, 24), p_val=p, strategy=strategy)
    assert torch.equal(torch.get_rng_state(), state)

"""Line 10: a second call of the same shapes allocates nothing of the problem's size but Z.

The certificate's temporaries have at most 48 columns, whatever the size of the problem.
"""

import pytest
import torch
from iroot_solve import SolveWorkspace, solve_spd

N, K = 96, 64
STRATEGIES = [
    ("eigh", 2),
    ("cholesky", 1),
    ("materialize-root", 2),
    ("direct-solve", 2),
    ("direct-solve", 1),
    ("materialize-root", 3),
    ("chebyshev", 2),
    ("cayley", 2),
    ("hybrid-pe-nsrc", 1),
]


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_nothing_is_allocated_but_Z(spd, rhs, allocations, batch, dtype, strategy, p):
    A = spd(N, 5.0, dtype=dtype).repeat(*batch, 1, 1)
    B = rhs(*batch, N, K, dtype=dtype)
    ws = solve_spd(A, B, p_val=p, strategy=strategy).workspace
    with allocations(A[..., 0, 0].numel() * N * K, A, B, *ws._buffers.values()) as found:
        result = solve_spd(A, B, p_val=p, strategy=strategy, workspace=ws)
    assert result.stats.fallbacks == ()
    assert len(found) == 1, found  # Z


@pytest.mark.parametrize("strategy", ["eigh", "materialize-root"])
def test_nothing_is_allocated_but_the_root(spd, allocations, strategy):
    A = spd(N, 5.0)
    ws = solve_spd(A, None, strategy=strategy).workspace
    with allocations(N * N, A, *ws._buffers.values()) as found:
        solve_spd(A, None, strategy=strategy, workspace=ws)
    assert len(found) == 1, found


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
def test_nothing_at_all_with_out(spd, rhs, allocations, strategy, p):
    A, B, out = spd(N, 5.0), rhs(N, K), torch.empty(N, K)
    ws = solve_spd(A, B, p_val=p, strategy=strategy).workspace
    with allocations(N * K, A, B, out, *ws._buffers.values()) as found:
        result = solve_spd(A, B, p_val=p, strategy=strategy, workspace=ws, out=out)
    assert found == [] and result.Z is out


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
def test_reuse_changes_no_bit(spd, rhs, strategy, p):
    A, B = spd(N, 5.0), rhs(N, K)
    other = spd(N, 50.0, seed=9), rhs(N, K, seed=9)
    first = solve_spd(A, B, p_val=p, strategy=strategy)
    between = solve_spd(*other, p_val=p, strategy=strategy, workspace=first.workspace)
    assert between.workspace is first.workspace
    again = solve_spd(A, B, p_val=p, strategy=strategy, workspace=first.workspace)
    assert torch.equal(first.Z, again.Z)
    assert torch.equal(between.Z, solve_spd(*other, p_val=p, strategy=strategy).Z)


@pytest.mark.parametrize(("strategy", "p"), STRATEGIES)
def test_Z_is_fresh(spd, rhs, strategy, p):
    A, B = spd(N, 5.0), rhs(N, K)
    first = solve_spd(A, B, p_val=p, strategy=strategy)
    kept = first.Z.clone()
    second = solve_spd(A, 2 * B, p_val=p, strategy=strategy, workspace=first.workspace)
    assert torch.equal(first.Z, kept)
    storages = {buffer.untyped_storage().data_ptr() for buffer in first.workspace._buffers.values()}
    assert not storages & {first.Z.untyped_storage().data_ptr(), second.Z.untyped_storage().data_ptr()}


def test_a_workspace_serves_other_shapes_dtypes_and_exponents(spd, rhs, truth, distance, within):
    ws = SolveWorkspace()
    for n, k, dtype, p in (
        (8, 2, torch.float32, 2),
        (16, 4, torch.float64, 3),
        (16, 20, torch.float32, 1),
        (8, 2, torch.float32, 4),
    ):
        A, B = spd(n, 5.0, dtype=dtype), rhs(n, k, dtype=dtype)
        for strategy in ("direct-solve", "eigh"):
            Z = solve_spd(A, B, p_val=p, strategy=strategy, workspace=ws).Z
            assert distance(Z, truth(A, B, -1 / p)) <= within(1e-4, dtype)
    assert ws.nbytes > 0


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_out_is_filled_and_returned(spd, rhs, batch):
    A, B = spd(N, 5.0).repeat(*batch, 1, 1), rhs(*batch, N, K)
    expected, out = solve_spd(A, B, strategy="direct-solve").Z, torch.full((*batch, N, K), torch.nan)
    assert solve_spd(A, B, strategy="direct-solve", out=out).Z is out
    assert torch.equal(out, expected)


def test_out_of_a_vector_of_a_root_and_of_nothing(spd, rhs):
    A, b = spd(N, 5.0), rhs(N)
    out = torch.empty(N)
    assert solve_spd(A, b, out=out).Z is out and torch.equal(out, solve_spd(A, b).Z)
    out = torch.empty(N, N)
    assert solve_spd(A, None, out=out).Z is out and torch.equal(out, solve_spd(A, None).Z)
    out = torch.empty(0, N, 2)
    assert solve_spd(A.expand(0, N, N), torch.empty(0, N, 2), out=out).Z is out


def test_out_may_be_B(spd, rhs):
    A, B = spd(N, 5.0), rhs(N, K)
    expected = solve_spd(A, B).Z
    assert torch.equal(solve_spd(A, B, out=B).Z, expected) and torch.equal(B, expected)


def test_out_of_failures_is_nan(spd, rhs):
    A, B = spd(N, 5.0).repeat(2, 1, 1), rhs(2, N, K)
    A[0] = 0
    out = torch.zeros(2, N, K)
    assert solve_spd(A, B, on_failure="nan", out=out).Z is out
    assert out[0].isnan().all() and torch.equal(out[1], solve_spd(A[1:], B[1:]).Z[0])


def test_out_that_is_no_plain_block_is_refused(spd, rhs):
    with pytest.raises(ValueError, match="out must be contiguous"):
        solve_spd(spd(N, 5.0), rhs(N, K), out=torch.empty(K, N).mT)
    with pytest.raises(ValueError, match="no batch of B may share one A"):
        solve_spd(spd(N, 5.0), rhs(2, N, K), out=torch.empty(2, N, K))

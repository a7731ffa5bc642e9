"""Line 11: a matrix that fails never harms its neighbours; a batch is a loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_solve import NotPositiveDefiniteError, SolveResult, solve_spd

GOOD = 6


def _spoil(A, B, kind):
    """Make the last matrix of a batch fail."""
    if kind == "nan in A":
        A[-1, 2, 3] = torch.nan
    elif kind == "inf in A":
        A[-1, 1, 1] = torch.inf
    elif kind == "nan in B":
        B[-1, 0, 0] = torch.nan
    elif kind == "zero":
        A[-1] = 0
    elif kind == "indefinite":
        A[-1] -= 0.5 * torch.eye(A.shape[-1], dtype=A.dtype)
    elif kind == "singular":
        A[-1] = 1
    return {"zero": "singular", "indefinite": "not_positive_definite"}.get(
        kind, kind if kind == "singular" else "nonfinite_input"
    )


KINDS = ["nan in A", "inf in A", "nan in B", "zero", "indefinite", "singular"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["eigh", "direct-solve", "materialize-root", "auto"])
@pytest.mark.parametrize("p", [1, 2])
def test_neighbours_of_a_failure(spd, rhs, truth, distance, within, kind, strategy, p):
    A = torch.stack([spd(16, 20.0, seed=i) for i in range(GOOD)] + [spd(16, 20.0)])
    B = rhs(GOOD + 1, 16, 3)
    status = _spoil(A, B, kind)
    Z, _, stats, _ = solve_spd(A, B, p_val=p, strategy=strategy, on_failure="nan")
    assert stats.status == ["converged"] * GOOD + [status]
    assert Z[-1].isnan().all() and bool(stats.error[-1] == torch.inf)
    assert distance(Z[:GOOD], truth(A[:GOOD], B[:GOOD], -1 / p)) <= within(1e-4, A.dtype)
    if strategy == "eigh":  # no plan depends on the neighbours: the same bits as alone
        alone = solve_spd(A[:GOOD], B[:GOOD], p_val=p, strategy=strategy)
        assert torch.equal(Z[:GOOD], alone.Z)
        assert torch.equal(stats.error[:GOOD], alone.stats.error)
        assert torch.equal(stats.lambda_min[:GOOD], alone.stats.lambda_min)


@pytest.mark.parametrize("kind", ["nan in A", "nan in B", "zero"])
@pytest.mark.parametrize("strategy", ["eigh", "direct-solve", "materialize-root"])
def test_the_same_bits_as_without_the_matrix_that_cannot_be_planned_for(spd, rhs, kind, strategy):
    A = torch.stack([spd(16, 20.0, seed=i) for i in range(GOOD)] + [spd(16, 20.0)])
    B = rhs(GOOD + 1, 16, 3)
    _spoil(A, B, kind)
    Z = solve_spd(A, B, strategy=strategy, on_failure="nan").Z
    assert torch.equal(Z[:GOOD], solve_spd(A[:GOOD], B[:GOOD], strategy=strategy).Z)


@pytest.mark.parametrize("strategy", ["eigh", "direct-solve"])
def test_neighbours_of_a_failure_under_a_promise(spd, rhs, truth, distance, within, strategy):
    A, B = torch.stack([spd(16, 20.0, seed=i) for i in range(3)]), rhs(3, 16, 3)
    A[1, 2, 3] = torch.nan
    Z = solve_spd(A, B, strategy=strategy, kappa_max=30.0, verify=False, on_failure="nan").Z
    assert Z[1].isnan().any()
    for i in (0, 2):
        assert distance(Z[i], truth(A[i], B[i], -0.5)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
def test_a_badly_conditioned_neighbour_climbs_alone(spd, rhs, truth, distance, within, strategy):
    A = torch.stack([spd(16, 20.0), spd(16, 3e5, seed=1), spd(16, 1e2, seed=2)])
    B = rhs(3, 16, 3)
    Z, _, stats, _ = solve_spd(A, B, strategy=strategy)
    assert stats.status == ["converged"] * 3
    for i in range(3):
        assert distance(Z[i], truth(A[i], B[i], -0.5)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root", "eigh"])
@settings(max_examples=15, deadline=None)
@given(
    decades=st.lists(st.floats(0, 4), min_size=1, max_size=5),
    scales=st.lists(st.integers(-60, 60), min_size=5, max_size=5),
    p=st.integers(1, 4),
)
def test_a_batch_is_a_loop(spd, rhs, truth, distance, within, strategy, decades, scales, p):
    A = torch.stack([spd(12, 10.0**d, seed=i) * 2.0 ** scales[i] for i, d in enumerate(decades)])
    B = rhs(len(decades), 12, 2)
    batch = solve_spd(A, B, p_val=p, strategy=strategy)
    for i in range(len(decades)):
        alone = solve_spd(A[i], B[i], p_val=p, strategy=strategy)
        assert batch.stats.status[i] == alone.stats.status == "converged"
        # Each is within tol of the same truth.
        assert distance(batch.Z[i], alone.Z) <= 2 * within(1e-4, A.dtype) * (1 + 1e-4)
        assert distance(batch.Z[i], truth(A[i], B[i], -1 / p)) <= within(1e-4, A.dtype)


def test_chunks_of_a_large_batch_are_the_batch(spd, rhs, truth, distance, within):
    """More matrices than fit a cache together: they go through in chunks, the last one smaller."""
    A = torch.stack([spd(64, 10.0 ** (i % 4), seed=i) for i in range(45)])
    B = rhs(45, 64, 8)
    for matrices in (A, A.double()):
        result = solve_spd(matrices, B.to(matrices.dtype), strategy="materialize-root", tol=1e-4)
        assert isinstance(result, SolveResult) and bool(result.stats.converged.all())
        for i in range(45):
            assert distance(result.Z[i], truth(A[i], B[i], -0.5)) <= within(1e-4, A.dtype)


def test_messages_name_the_worst_of_a_batch(with_spectrum, rhs):
    A = torch.stack([with_spectrum(np.linspace(low, 1, 8)) for low in (0.1, -0.1, 0.2, -0.2)])
    result = solve_spd(A, rhs(4, 8, 2, dtype=A.dtype), on_failure="nan")
    assert result.stats.status == ["converged", "not_positive_definite"] * 2
    with pytest.raises(NotPositiveDefiniteError, match=r"A\[1\] and 1 more"):
        solve_spd(A, rhs(4, 8, 2, dtype=A.dtype))


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
def test_one_plan_serves_matrices_of_other_norms_in_one_attempt(spd, rhs, truth, distance, within, strategy):
    """The first has λmax = 16·max|a_ij|, the second λmax = max|a_ij|: the interval must reach down to both λmin."""
    ones = torch.ones(16, 16) + torch.eye(16)
    A, B = torch.stack([ones, torch.diag(torch.linspace(0.1, 1, 16))]), rhs(2, 16, 3)
    Z, _, stats, _ = solve_spd(A, B, strategy=strategy)
    assert stats.fallbacks == ()
    for i in range(2):
        assert distance(Z[i], truth(A[i], B[i], -0.5)) <= within(1e-4, A.dtype)

"""Matrices of different sizes: each as if it had been solved with its equals, in the order they came."""

import pytest
import torch
from iroot_solve import NotPositiveDefiniteError, solve_each, solve_spd

SIZES = (5, 12, 5, 33, 12, 1)


@pytest.fixture
def matrices(spd):
    return [spd(n, 10.0 + i, seed=i) for i, n in enumerate(SIZES)]


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_in_order_and_right(matrices, rhs, truth, distance, p, columns):
    B = [rhs(A.shape[0], 1 + i % 2) for i, A in enumerate(matrices)] if columns else None
    found = solve_each(matrices, B, p_val=p)
    for i, (A, result) in enumerate(zip(matrices, found, strict=True)):
        right = None if B is None else B[i]
        assert result.Z.shape == (A if right is None else right).shape
        assert distance(result.Z, truth(A, right, -1 / p)) <= 1e-4
        assert result.stats.status == "converged" and result.stats.error.shape == ()
        low, high = torch.linalg.eigvalsh(A.double())[[0, -1]].tolist()
        assert float(result.stats.lambda_max) >= high * (1 - 1e-6)
        assert result.stats.lambda_min.isnan() or float(result.stats.lambda_min) >= 0.9 * low


def test_equals_are_one_batch(matrices):
    found = solve_each(matrices)
    batch = solve_spd(torch.stack([matrices[0], matrices[2]]), None)
    assert torch.equal(found[0].Z, batch.Z[0]) and torch.equal(found[2].Z, batch.Z[1])
    assert found[0].workspace is found[2].workspace is not found[1].workspace


def test_workspaces_are_used_again(matrices):
    held = {}
    first = solve_each(matrices, workspaces=held)
    kept = dict(held)
    again = solve_each(matrices, workspaces=held)
    assert held == kept and len(held) == len(set(SIZES))
    assert all(torch.equal(a.Z, b.Z) for a, b in zip(first, again, strict=True))


def test_mixed_dtypes_and_an_empty_list(matrices):
    mixed = [matrices[0], matrices[2].double()]
    assert [result.Z.dtype for result in solve_each(mixed)] == [torch.float32, torch.float64]
    assert solve_each([]) == []


def test_a_failure_names_its_place_and_harms_nobody(matrices):
    bad = [*matrices[:2], -matrices[2], *matrices[3:]]
    with pytest.raises(NotPositiveDefiniteError, match=r"matrices \[0, 2\] as a batch: A\[1\]"):
        solve_each(bad)
    found = solve_each(bad, on_failure="nan")
    names = [result.stats.status for result in found]
    assert names == ["converged"] * 2 + ["not_positive_definite"] + ["converged"] * 3
    assert bool(found[2].Z.isnan().all()) and bool(found[0].Z.isfinite().all())


@pytest.mark.parametrize(
    ("matrices", "rhs", "settings", "error", "message"),
    [
        ([torch.eye(2)], [], {}, ValueError, "0 tensors for 1"),
        ([torch.eye(2)], None, {"out": torch.eye(2)}, ValueError, "out is for one shape"),
        ([torch.eye(2), torch.ones(2)], None, {}, TypeError, r"matrices\[1\] must be a matrix"),
        ([torch.eye(2)], [None], {}, TypeError, r"rhs\[0\] must be a matrix, not NoneType"),
        ([torch.ones(2, 3)], None, {}, ValueError, "square"),
    ],
)
def test_what_cannot_be_is_an_error(matrices, rhs, settings, error, message):
    with pytest.raises(error, match=message):
        solve_each(matrices, rhs, **settings)

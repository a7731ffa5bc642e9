"""`expected_reuse`: the second call with the same matrix applies what the first one made, and never what it did not.

Answers are compared with float64 eigh, within the default tolerances that they were asked for.
"""

import gc
import weakref

import pytest
import torch
from iroot_solve import SolveWorkspace, solve_gram_spd, solve_spd

N, K = 48, 5
WAYS = [("materialize-root", 2), ("eigh", 4), ("cholesky", 1), ("auto", 2), ("auto", 1)]
HEAVY = {"square", "eigh", "cholesky"}


def _call(A, B, ws, p=2, strategy="auto", **settings):
    return solve_spd(A, B, p_val=p, strategy=strategy, expected_reuse=50, workspace=ws, **settings)


@pytest.mark.parametrize(("strategy", "p"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_the_second_right_hand_side_costs_thin_products(spd, rhs, truth, distance, batch, dtype, strategy, p):
    A, ws = spd(N, 1e2, dtype=dtype).repeat(*batch, 1, 1), SolveWorkspace()
    first = _call(A, rhs(*batch, N, K, dtype=dtype), ws, p, strategy)
    assert HEAVY & first.stats.products.keys()
    for seed, columns in ((1, K), (2, 2 * K)):
        B = rhs(*batch, N, columns, dtype=dtype, seed=seed)
        again = _call(A, B, ws, p, strategy)
        assert not any(again.stats.products.get(kind) for kind in HEAVY)
        assert "earlier call" in str(again.schedule) and again.stats.strategy == first.stats.strategy
        assert bool(again.stats.converged.all())
        assert distance(again.Z, truth(A, B, -1 / p)) <= (1e-10 if dtype is torch.float64 else 1e-4)


def _write(A, _B, _ws, **_settings):
    A[0, 0] += 1.0


def _keep_another(A, B, ws, **settings):
    _call(2.0 * A.roll((1, 1), (0, 1)), B, ws, **settings)


def _use_the_buffers(A, B, ws, p, strategy):
    """Nothing of this is kept, so that what is known of the first matrix still stands, but for the buffers."""
    solve_spd(2.0 * A.roll((1, 1), (0, 1)), B, p_val=p, strategy=strategy, workspace=ws)


@pytest.mark.parametrize("disturb", [_write, _keep_another, _use_the_buffers])
@pytest.mark.parametrize(("strategy", "p"), WAYS[:3])
def test_what_changed_is_made_again(spd, rhs, truth, distance, disturb, strategy, p):
    A, ws = spd(N, 1e2), SolveWorkspace()
    _call(A, rhs(N, K), ws, p, strategy)
    disturb(A, rhs(N, K, seed=8), ws, p=p, strategy=strategy)
    B = rhs(N, K, seed=3)
    result = _call(A, B, ws, p, strategy)
    assert HEAVY & result.stats.products.keys()
    assert distance(result.Z, truth(A, B, -1 / p)) <= 1e-4
    assert "earlier call" in str(_call(A, B, ws, p, strategy).schedule)


@pytest.mark.parametrize("other", [{"tol": 1e-6}, {"ridge": 0.5}, {"precision": "fp64"}, {"seed": 1}])
def test_other_settings_are_another_problem(spd, rhs, truth, distance, other):
    A, B, ws = spd(N, 1e2), rhs(N, K), SolveWorkspace()
    _call(A, B, ws, strategy="eigh")
    result = _call(A, B, ws, strategy="eigh", **other)
    assert result.stats.products["eigh"] == 1
    shifted = A + other.get("ridge", 0.0) * torch.eye(N, dtype=A.dtype)
    assert distance(result.Z, truth(shifted, B, -0.5)) <= 1e-4


def test_an_equal_matrix_is_not_the_same(spd, rhs):
    A, B, ws = spd(N, 1e2), rhs(N, K), SolveWorkspace()
    _call(A, B, ws)
    assert HEAVY & _call(A.clone(), B, ws).stats.products.keys()


def test_without_expected_reuse_nothing_is_kept(spd, rhs):
    A, B, ws = spd(N, 1e2), rhs(N, K), SolveWorkspace()
    for _ in range(2):
        assert HEAVY & solve_spd(A, B, strategy="eigh", workspace=ws).stats.products.keys()


def test_a_gram_matrix_counts_as_one(rhs, truth, distance):
    G, ws = rhs(3 * N, N, seed=4), SolveWorkspace()
    for seed in (1, 2):
        B = rhs(N, K, seed=seed)
        result = solve_gram_spd(G, B, workspace=ws, expected_reuse=50)
        assert distance(result.Z, truth(G.mT @ G, B, -0.5)) <= 1e-4
    assert "earlier call" in str(result.schedule)


def test_the_root_itself_after_a_right_hand_side_and_the_other_way_round(spd, rhs, truth, distance):
    A, B, ws = spd(N, 1e2), rhs(N, K), SolveWorkspace()
    for right in (B, None, B, None):
        result = _call(A, right, ws, strategy="materialize-root")
        expected = truth(A, torch.eye(N) if right is None else right, -0.5)
        assert distance(result.Z, expected) <= 1e-4


def test_a_right_hand_side_that_is_not_finite_is_said(spd, rhs):
    A, B, ws = spd(N, 1e2), rhs(N, K), SolveWorkspace()
    _call(A, B, ws)
    B[0, 0] = torch.nan
    assert _call(A, B, ws, on_failure="nan").stats.status == "nonfinite_input"


def test_inference_tensors_are_not_kept(spd, rhs):
    with torch.inference_mode():
        A, ws = spd(N, 1e2).clone(), SolveWorkspace()
        for seed in (1, 2):
            assert HEAVY & _call(A, rhs(N, K, seed=seed), ws, strategy="eigh").stats.products.keys()


@pytest.mark.parametrize(("strategy", "p"), WAYS[:3])
def test_nothing_outlives_the_workspace(spd, rhs, strategy, p):
    """No cycle that waits for the garbage collector keeps a matrix alive."""
    A, ws = spd(N, 1e2), SolveWorkspace()
    _call(A, rhs(N, K), ws, p, strategy)
    buffers = [weakref.ref(buffer) for buffer in ws._buffers.values() if buffer.numel() >= N * N]
    gc.disable()
    try:
        del ws
        assert buffers and not any(buffer() is not None for buffer in buffers)
    finally:
        gc.enable()

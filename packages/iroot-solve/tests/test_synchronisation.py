"""Line 6: how often the host waits: counted as reads that would wait for a device (see `host_reads`)."""

import pytest
import torch
from iroot_solve import solve_spd


@pytest.fixture(autouse=True)
def the_usual_way(monkeypatch):
    """That of a device: on a CPU a factorisation may read as often as it likes."""
    monkeypatch.setattr("iroot_solve._solve.plain", lambda *_: None)


EASY = [
    ("eigh", 2),
    ("direct-solve", 2),
    ("materialize-root", 2),
    ("direct-solve", 1),
    ("materialize-root", 4),
    ("cholesky", 1),
]


@pytest.mark.parametrize(("strategy", "p"), EASY)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_at_most_two_on_success(spd, rhs, host_reads, batch, strategy, p):
    A, B = spd(24, 50.0).expand(*batch, 24, 24), rhs(*batch, 24, 4)
    with host_reads() as found:
        stats = solve_spd(A, B, p_val=p, strategy=strategy).stats
    assert bool(stats.converged.all()) and stats.fallbacks == ()
    assert len(found) <= 2, found


@pytest.mark.parametrize("strategy", ["auto", "eigh", "materialize-root"])
def test_at_most_two_for_the_root(spd, host_reads, strategy):
    A = spd(24, 50.0)
    with host_reads() as found:
        solve_spd(A, None, strategy=strategy)
    assert len(found) <= 2, found


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_none_with_a_promise_and_no_verification(spd, rhs, truth, distance, host_reads, dtype):
    A, B = spd(24, 20.0, dtype=dtype), rhs(24, 4, dtype=dtype)
    for strategy, p in EASY:
        with host_reads() as found:
            result = solve_spd(A, B, p_val=p, strategy=strategy, kappa_max=40.0, verify=False, on_failure="nan")
        assert found == []
        assert result.stats.status == "unverified"
        tol = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 1e-2)
        assert distance(result.Z, truth(A, B, -1 / p)) <= tol + torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("strategy", ["auto", "direct-solve"])
def test_none_for_a_batch_with_a_ridge(spd, rhs, truth, distance, within, host_reads, strategy):
    A, B = spd(24, 1e6).expand(3, 24, 24) * torch.tensor([1e-6, 1.0, 1e9])[:, None, None], rhs(3, 24, 4)
    with host_reads() as found:
        result = solve_spd(A, B, strategy=strategy, ridge_rel=0.1, kappa_max=1e2, verify=False, on_failure="nan")
    assert found == []
    for Z, A_i, B_i, ridge in zip(result.Z, A, B, result.stats.ridge, strict=True):
        assert distance(Z, truth(A_i, B_i, -0.5, ridge=float(ridge))) <= within(1e-4, A.dtype)


def test_a_rung_costs_one_more_and_a_look_at_the_iterate(spd, rhs, host_reads):
    A, B = spd(24, 1e4), rhs(24, 4)
    with host_reads() as found:
        stats = solve_spd(A, B, strategy="materialize-root", precision="bf16").stats
    assert stats.fallbacks and bool(stats.converged)
    assert len(found) <= 2 + 2 * len(stats.fallbacks), found

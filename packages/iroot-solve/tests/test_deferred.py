"""verify="deferred": the same certificate, of which nobody reads anything."""

import numpy as np
import pytest
import torch
from iroot_solve import PrecondConfig, SolveWorkspace, Status, solve_gram_spd, solve_spd
from iroot_solve._matrix import Damping, ScaledMatrix
from iroot_solve._problem import read_problem

LATER = {"verify": "deferred", "on_failure": "nan"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("k", [None, 3, 24])
def test_the_answer_and_an_estimate_that_covers_its_error(spd, rhs, truth, distance, within, host_reads, dtype, p, k):
    A, B = spd(24, 50.0, dtype=dtype), None if k is None else rhs(24, k, dtype=dtype)
    with host_reads() as found:
        Z, _, stats, _ = solve_spd(A, B, p_val=p, kappa_max=60.0, **LATER)
    assert found == []
    tol = {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 1e-2)
    error = distance(Z, truth(A, B, -1 / p))
    assert stats.status == "converged" and float(stats.error) <= tol and error <= within(tol, dtype)
    assert error <= 1.5 * float(stats.error) + torch.finfo(dtype).eps


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
def test_it_is_the_certificate_of_the_usual_way(spd, rhs, strategy):
    """The same plan, the same Z, the same numbers; the one on the host, the other where Z is."""
    A, B = torch.stack([spd(32, 30.0, seed) for seed in range(3)]), rhs(3, 32, 5)
    settings = {"strategy": strategy, "kappa_max": 40.0, "precision": "fp32"}
    later = solve_spd(A, B, **settings, **LATER)
    usual = solve_spd(A, B, **settings, fallback=False)
    assert later.stats.status == usual.stats.status == ["converged"] * 3
    # Both are estimates of errors that differ by their plans: within the tolerance and of one size.
    assert bool((later.stats.error <= 1e-4).all()) and bool((later.stats.error > 0).all())
    assert torch.allclose(later.Z, usual.Z, rtol=0, atol=2e-4 * float(usual.Z.abs().max()))


def test_every_kind_of_matrix_has_its_status_and_harms_no_other(spd, truth, distance, host_reads):
    fine = spd(24, 20.0)
    kinds = {
        "converged": fine,
        "nonfinite_input": torch.where(torch.eye(24) > 0, torch.nan, fine),
        "singular": torch.zeros(24, 24),
        "stagnated": spd(24, 1e5, 1),  # a promise that was broken
    }
    indefinite, lopsided = fine - 0.5 * torch.eye(24), fine + torch.triu(fine)
    A = torch.stack((*kinds.values(), indefinite, lopsided, 1e20 * fine, 1e-20 * fine))
    with host_reads() as found:
        result = solve_spd(A, None, kappa_max=20.0, **LATER)
    assert found == []
    assert result.stats.status == [*kinds, "stagnated", "stagnated", "converged", "converged"]
    missed = result.stats.status_code != Status.converged
    assert bool(result.Z[missed].isnan().all()) and bool(result.Z[~missed].isfinite().all())
    assert not bool((result.stats.error[missed] <= 1e-4).any())
    for i in (0, 6, 7):
        assert distance(result.Z[i], truth(A[i], None, -0.5)) <= 1e-4


def test_a_right_hand_side_that_is_not_finite(spd, rhs):
    A, B = spd(16, 10.0).expand(2, 16, 16), rhs(2, 16, 2)
    B[1, 3, 0] = torch.inf
    result = solve_spd(A, B, kappa_max=10.0, **LATER)
    assert result.stats.status == ["converged", "nonfinite_input"] and bool(result.Z[1].isnan().all())


def test_a_promise_that_the_right_hand_side_does_not_show_broken(with_spectrum, rhs):
    """B has 1e-5 of an eigenvector far below the promised end: most of the answer, and nothing of what was computed."""
    A = with_spectrum([1e-12, *np.linspace(0.1, 1, 31)])
    V = torch.linalg.eigh(A).eigenvectors
    B = V[:, 1:2] + 1e-5 * V[:, :1]
    for strategy in ("direct-solve", "materialize-root"):
        stats = solve_spd(A, B, kappa_max=20.0, strategy=strategy, tol=1e-3, **LATER).stats
        assert stats.status == "stagnated" and float(stats.error) == torch.inf


def test_the_second_call_makes_no_matrix_but_Z(spd, allocations):
    A = spd(48, 20.0)
    workspace = SolveWorkspace()
    solve_spd(A, None, kappa_max=20.0, workspace=workspace, **LATER)
    with allocations(48 * 48, A, *workspace.buffers) as found:
        solve_spd(A, None, kappa_max=20.0, workspace=workspace, **LATER)
    assert len(found) == 1, found  # Z


def test_a_gram_matrix(rhs, truth, distance, host_reads):
    G = rhs(60, 16)
    G = G / float(torch.linalg.matrix_norm(G, 2))
    with host_reads() as found:
        Z, _, stats, _ = solve_gram_spd(G, None, kappa_max=50.0, **LATER)
    assert found == [] and stats.status == "converged"
    assert distance(Z, truth(G.double().mT @ G.double(), None, -0.5)) <= 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_failure": "nan"}, "kappa_max"),
        ({"kappa_max": 10.0}, "on_failure='nan'"),
        ({"kappa_max": 10.0, "on_failure": "nan", "on_singular": "pinv"}, "pseudo-inverse"),
        ({"kappa_max": 10.0, "on_failure": "nan", "strategy": "eigh"}, "direct-solve"),
        ({"kappa_max": 10.0, "on_failure": "nan", "strategy": "chebyshev"}, "materialize-root"),
    ],
)
def test_what_cannot_be_deferred_is_refused(spd, rhs, settings, message):
    with pytest.raises(ValueError, match=message):
        solve_spd(spd(8, 10.0), rhs(8, 2), verify="deferred", **settings)


def test_another_word_is_refused(spd):
    with pytest.raises(ValueError, match="deferred"):
        solve_spd(spd(8, 10.0), None, verify="later")


def test_fewer_rows_than_columns_and_operators_are_refused(rhs):
    with pytest.raises(ValueError, match="m < n"):
        solve_gram_spd(rhs(4, 8), rhs(8, 1), ridge=0.1, kappa_max=10.0, **LATER)
    with pytest.raises(ValueError, match="operator"):
        solve_spd(lambda V: V, rhs(8, 1), kappa_max=10.0, lambda_max=1.0, strategy="auto", **LATER)


SPECTRA = {
    "equal": np.ones(64),
    "log-spaced": np.logspace(-4, 0, 64),
    "one far above": np.r_[np.full(63, 1e-3), 1.0],
    "a cluster on top": np.r_[np.linspace(1e-3, 0.1, 32), np.linspace(0.99, 1.0, 32)],
    "indefinite": np.linspace(-1.0, 0.5, 64),
}


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_two_squares_bound_the_spectrum(with_spectrum, spectrum, dtype, scale):
    """max|λ| ≤ bound, and at least the share of it that plans go by."""
    A = (scale * with_spectrum(spectrum, 7)).to(dtype)
    problem = read_problem(A, None, p_val=2, exponent=None, tol=None)
    matrix = ScaledMatrix(problem, Damping(), PrecondConfig(), SolveWorkspace(), 0)
    share = matrix.bound_by_squares()
    S = matrix.matrix(dtype)
    largest = float(torch.linalg.eigvalsh(S.double()).abs().max())
    assert largest <= float(matrix.upper)
    sharpest = float((S.double() @ S.double() @ S.double() @ S.double()).norm()) ** 0.25
    assert float(matrix.upper) <= 1.01 * sharpest, "rounding is a small part of it"
    assert share * float(matrix.upper) <= largest and share >= 0.9 * 64**-0.125

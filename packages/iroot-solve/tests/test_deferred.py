"""verify="deferred": the same certificate, of which nobody reads anything."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import PrecondConfig, SolveWorkspace, Status, solve_gram_spd, solve_spd
from iroot_solve._case import Case
from iroot_solve._choose import choose
from iroot_solve._matrix import Damping, ScaledMatrix
from iroot_solve._options import Options
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
    # The truth is right to κ·2⁻⁵³ itself.
    assert error <= 1.5 * float(stats.error) + torch.finfo(dtype).eps + 50.0 * 2.0**-53


@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2), Fraction(-2, 3), Fraction(1, 2)])
@pytest.mark.parametrize("k", [None, 5])
def test_it_is_the_certificate_of_the_host(spd, rhs, exponent, k):
    """The same numbers, appraised by torch where they lie and by numpy where they are read; infinite and NaN alike."""
    A, B = torch.stack([spd(20, 30.0, seed) for seed in range(3)]), None if k is None else rhs(3, 20, k)
    A[2] = torch.nan
    problem = read_problem(A, B, p_val=None, exponent=exponent, tol=None)
    case = Case(problem, Options(kappa_max=40.0, verify=False, on_failure="nan"), SolveWorkspace())
    case.look()
    case.matrix.blank()
    strategy = "materialize-root" if k is None else "direct-solve"
    outcome = case.run(choose(case.task, 0.01, 1.0, strategy), 0.01, 1.0)
    values = case._measured(outcome, torch.empty(3, 20, k or 20))
    values[1, 3:] = torch.nan  # somebody's own trouble
    with np.errstate(all="ignore"):
        here, there = case._verdict(outcome, values), case._verdict(outcome, values.numpy())
    for one, other in zip(here.certificate, there.certificate, strict=True):
        assert torch.equal(one.nan_to_num(7.0), torch.from_numpy(other).nan_to_num(7.0))
    assert here.certificate.error[0] < 1e-4 and here.certificate.error[1] == torch.inf


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


@pytest.mark.parametrize("exponent", [Fraction(1, 4), Fraction(1, 5), Fraction(1, 2), Fraction(3, 4)])
@pytest.mark.parametrize("k", [None, 4])
def test_a_broken_promise_of_a_positive_power(with_spectrum, rhs, truth, distance, exponent, k):
    """Small eigenvalues weigh little in the powers that a residual is made of, and much in a root's."""
    A, B = with_spectrum([1e-5, 1e-5, *np.linspace(0.5, 1, 30)], 1, torch.float32), None if k is None else rhs(32, k)
    later = solve_spd(A, B, exponent=exponent, kappa_max=4.0, **LATER)
    assert later.stats.status == "stagnated"
    strategy = "materialize-root" if k is None else "direct-solve"
    usual = solve_spd(A, B, exponent=exponent, kappa_max=4.0, strategy=strategy)
    assert usual.stats.status == "converged" and distance(usual.Z, truth(A, B, exponent)) <= 1e-4
    kept = solve_spd(A, B, exponent=exponent, kappa_max=2e5, tol=1e-3, **LATER)
    assert kept.stats.status == "converged" and distance(kept.Z, truth(A, B, exponent)) <= 1e-3


def test_tiny_matrices_whose_eigenvectors_signs_cannot_see(distance, truth):
    """[[a, b], [b, a]]: a sign vector is orthogonal to one of its eigenvectors."""
    for seed in range(100):
        for dtype in (torch.float64, torch.float32):
            A = torch.tensor([[1.0, 1.0 - 1e-6], [1.0 - 1e-6, 1.0]], dtype=dtype)
            assert solve_spd(A, None, kappa_max=4.0, seed=seed, **LATER).stats.status == "stagnated"
    result = solve_spd(A.double(), None, kappa_max=4.0, strategy="materialize-root")
    assert distance(result.Z, truth(A.double(), None, -0.5)) <= 1e-9 and result.stats.status == "converged"


def test_zero_has_positive_powers():
    A = torch.stack((torch.zeros(4, 4), torch.eye(4)))
    result = solve_spd(A, None, exponent=Fraction(1, 2), kappa_max=2.0, **LATER)
    assert result.stats.status == ["converged", "converged"] and not bool(result.Z[0].any())


def test_a_high_degree_is_applied_and_not_formed(with_spectrum, rhs, truth, distance):
    """Powers of a matrix up to the 28th lose all digits of float32."""
    A, B = with_spectrum(np.geomspace(1 / 23.3, 1, 33), 3, torch.float32), rhs(33, 20)
    for p in (5, 7):
        result = solve_spd(A, B, p_val=p, kappa_max=23.4, strategy="direct-solve", precision="fp32", **LATER)
        assert result.stats.status == "converged" and distance(result.Z, truth(A, B, -1 / p)) <= 1e-4


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
        ({"kappa_max": 10.0, "on_failure": "nan", "strategy": "lanczos"}, "reads numbers back"),
        ({"kappa_max": 10.0, "on_failure": "nan", "exponent": Fraction(2)}, "exponent=2 is for eigh"),
        ({"kappa_max": 10.0, "on_failure": "nan", "p_val": 1, "precond_config": PrecondConfig("jacobi")}, "jacobi"),
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
@pytest.mark.parametrize(
    ("scale", "p"), [(1.0, 2), (1e-30, 2), (1e30, 1), (1.0, 24), (32.0, 24), (1.0, 64), (3.0, 100)]
)
def test_a_power_bounds_the_spectrum(with_spectrum, spectrum, dtype, scale, p):
    """max|λ| ≤ bound, and at least the share of it that plans go by."""
    A = (scale * with_spectrum(spectrum, 7)).to(dtype)
    problem = read_problem(A, None, p_val=p, exponent=None, tol=None)
    matrix = ScaledMatrix(problem, Damping(), PrecondConfig(), SolveWorkspace(), 0)
    share = matrix.bound_by_power()
    S = matrix.matrix(dtype)
    largest = float(torch.linalg.eigvalsh(S.double()).abs().max())
    assert largest <= float(matrix.upper)
    schatten = float(torch.linalg.matrix_power(S.double() / largest, 8).norm()) ** (1 / 8) * largest
    # 16 columns tell ‖A⁸‖_F to a factor of 1.5 or so; 1/√0.1 more for the sake of a lone λmax.
    assert schatten <= 1.01 * float(matrix.upper) <= 1.02 * (1.5 * 0.1**-0.5) ** (1 / 8) * schatten
    assert share * float(matrix.upper) <= largest and share >= 0.98 * (2 * 65 / 0.1) ** (-1 / 16)


def test_a_promised_condition_is_planned_for_without_much_more(spd):
    """Nobody reads where λmax is: that costs less than a factor of two in κ, up to n = 4096."""
    for n in (64, 1024, 4096):
        problem = read_problem(torch.eye(n), None, p_val=2, exponent=None, tol=None)
        assert ScaledMatrix(problem, Damping(), PrecondConfig(), SolveWorkspace(), 0).bound_by_power() >= 0.49

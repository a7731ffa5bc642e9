"""solve_nonspd: what cannot be solved is said by name, and harms no neighbour."""

import numpy as np
import pytest
import torch
from iroot_solve import (
    IrootError,
    NonFiniteInputError,
    NoPrincipalRootError,
    SingularMatrixError,
    StagnationError,
    StagnationWarning,
    solve_nonspd,
)

eye, ones = torch.eye(4), torch.ones(4, 2)


def with_condition(n, kappa, seed=0, dtype=torch.float64):
    """U·diag(log-spaced)·Vᵀ with random orthogonal U and V."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return torch.from_numpy((U * np.logspace(0, -np.log10(kappa), n)) @ V).to(dtype)


REFUSED = {
    "not square": (torch.ones(3, 4), torch.ones(3, 2), {}, ValueError, r"A must be square.*\(3, 4\)"),
    "integers": (eye.long(), ones.long(), {}, TypeError, r"A has dtype torch\.int64.*A\.to\(torch\.float32\)"),
    "complex": (eye.to(torch.complex64), ones, {}, TypeError, r"A is complex"),
    "dtypes": (eye, ones.double(), {}, TypeError, r"A is torch\.float32 and B is torch\.float64"),
    "rows": (eye, torch.ones(5, 2), {}, ValueError, r"B has shape \(5, 2\).*B needs 4 rows"),
    "p": (eye, ones, {"p_val": 0}, ValueError, r"p_val=0 must be ≥ 1"),
    "strategy for p = 1": (
        eye,
        ones,
        {"strategy": "eig"},
        ValueError,
        r"'eig'.*A\^\(-1/1\).*auto, lu, hyperpower, newton-schulz",
    ),
    "strategy for p = 2": (
        eye,
        ones,
        {"strategy": "lu", "p_val": 2},
        ValueError,
        r"'lu'.*A\^\(-1/2\).*auto, eig, coupled-newton",
    ),
    "precision of lu": (eye, ones, {"precision": "bf16"}, ValueError, r"'bf16'.*these do: auto, fp32, fp64"),
    "precision of roots": (
        eye,
        ones,
        {"precision": "fp32", "p_val": 2},
        ValueError,
        r"'fp32'.*p_val=2; these do: auto, fp64",
    ),
    "on_failure": (eye, ones, {"on_failure": "ignore"}, ValueError, "on_failure='ignore'"),
    "tol": (eye, ones, {"tol": 2.0}, ValueError, r"tol=2\.0"),
    "out": (eye, ones, {"out": torch.empty(2, 2)}, ValueError, r"out must .*\(4, 2\)"),
    "gradient": (eye.clone().requires_grad_(), ones, {}, ValueError, r"A requires a gradient.*A\.detach\(\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_cannot_be_right(case):
    A, B, settings, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message) as caught:
        solve_nonspd(A, B, **settings)
    assert not isinstance(caught.value, IrootError)


def singular(n, rank, dtype=torch.float64, seed=0):
    """A product of small integers: exactly singular in every dtype."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-2, 3, (n, rank)) @ rng.integers(-2, 3, (rank, n))).to(dtype)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "rank"), [(2, 1), (8, 7), (8, 3), (40, 39)])
def test_singular_matrices_are_named_with_their_rank(rhs, n, rank, dtype, p):
    A, B = singular(n, rank, dtype), rhs(n, 2, dtype=dtype)
    rank = int(torch.linalg.matrix_rank(A.double()))
    with pytest.raises(
        SingularMatrixError, match=rf"shape \({n}, {n}\).*estimated rank is {rank} of {n}.*linalg\.pinv"
    ) as caught:
        solve_nonspd(A, B, p_val=p)
    stats = caught.value.stats
    assert stats.status == "singular" and int(stats.rank) == rank and bool(caught.value.result.Z.isnan().all())


@pytest.mark.parametrize("strategy", ["lu", "hyperpower", "newton-schulz"])
def test_singular_whatever_the_right_hand_side(strategy):
    """A compatible B, or B = 0, has solutions, but there is no inverse."""
    A = with_condition(12, 10.0)
    A = A - A[:, :1] @ (torch.linalg.inv(A)[:1] @ A) * 1.0  # the first column becomes zero up to rounding
    for B in (A @ torch.ones(12, 2, dtype=torch.float64), torch.zeros(12, 2, dtype=torch.float64)):
        with pytest.raises(SingularMatrixError, match="estimated rank is 11 of 12"):
            solve_nonspd(A, B, strategy=strategy)


def test_graded_is_not_singular(rhs):
    d = torch.logspace(0, -40, 8, dtype=torch.float64)
    for p in (1, 2):
        assert solve_nonspd(torch.diag(d), rhs(8, 1, dtype=torch.float64), p_val=p).stats.status == "converged"


@pytest.mark.parametrize("p", [1, 2])
def test_zero(p):
    with pytest.raises(SingularMatrixError, match=r"A \(shape \(4, 4\), torch\.float32\) is zero: .*rank is 0 of 4"):
        solve_nonspd(torch.zeros(4, 4), ones, p_val=p)
    result = solve_nonspd(eye, torch.zeros(4, 2), p_val=p)
    assert result.stats.status == "converged" and not result.Z.any() and float(result.stats.error) == 0


@pytest.mark.parametrize("which", ["A", "B"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("p", [1, 2])
def test_non_finite_entries_are_named(which, value, p):
    A, B = eye.clone(), ones.clone()
    (A if which == "A" else B)[1, 1] = value
    with pytest.raises(NonFiniteInputError, match=rf"{which} contains NaN or infinity.*nan_to_num") as caught:
        solve_nonspd(A, B, p_val=p)
    assert caught.value.stats.status == "nonfinite_input"


@pytest.mark.parametrize("p", [2, 3, 4])
@pytest.mark.parametrize("strategy", ["auto", "coupled-newton"])
def test_no_principal_root(with_spectrum, p, strategy):
    A = with_spectrum([-0.25, 0.5, 1.0, 2.0]) @ torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0]).double())
    value = float(torch.linalg.eigvals(A).real.min())
    with pytest.raises(
        NoPrincipalRootError, match=rf"order {p}: its eigenvalue {value:.4f}.*negative real axis.*p ≥ 2"
    ):
        solve_nonspd(A, None, p_val=p, strategy=strategy)
    assert solve_nonspd(A, None, p_val=1).stats.status == "converged"
    with pytest.raises(NoPrincipalRootError, match="eigenvalue -1 "):
        solve_nonspd(-torch.eye(2), None, p_val=p, strategy=strategy)
    assert solve_nonspd(torch.tensor([[0.0, -1.0], [1.0, 0.0]]), None, p_val=p).stats.status == "converged"


def test_no_principal_root_without_raising():
    A = torch.stack((torch.eye(2), -3 * torch.eye(2), 4 * torch.eye(2)))
    with pytest.warns(StagnationWarning, match=r"A\[1\].*eigenvalue -3 ") as caught:
        warned = solve_nonspd(A, None, p_val=2, on_failure="warn")
    assert caught[0].filename == __file__
    for result in (warned, solve_nonspd(A, None, p_val=2, on_failure="nan", verify=False)):
        assert result.stats.status[1] == "no_principal_root" and bool(result.Z[1].isnan().all())
        assert torch.allclose(result.Z[::2], torch.stack((torch.eye(2), 0.5 * torch.eye(2))))


CODES = ["converged", "singular", "converged", "nonfinite_input", "converged", "singular"]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("on_failure", ["nan", "warn"])
def test_neighbours_are_unharmed(rhs, distance, dtype, p, on_failure):
    good = (torch.eye(6) * 3 + 0.3 * torch.from_numpy(np.random.default_rng(3).standard_normal((6, 6)))).to(dtype)
    A, B = good.repeat(6, 1, 1), rhs(6, 6, 2, dtype=dtype)
    A[1], A[3, 0, 0], A[5] = singular(6, 4, dtype), torch.nan, 0
    if on_failure == "warn":
        with pytest.warns(StagnationWarning, match=r"A\[3\].*A contains NaN"):
            result = solve_nonspd(A, B, p_val=p, on_failure=on_failure)
    else:
        result = solve_nonspd(A, B, p_val=p, on_failure=on_failure)
    assert result.stats.status == CODES
    assert result.stats.rank.tolist()[:3] == [6, int(torch.linalg.matrix_rank(A[1].double())), 6]
    for i, code in enumerate(CODES):
        if code == "converged":
            assert torch.equal(result.Z[i], solve_nonspd(good, B[i], p_val=p).Z)
        else:
            assert bool(result.Z[i].isnan().all()) and float(result.stats.error[i]) == float("inf")


def test_what_cannot_be_reached_stagnates(rhs):
    A, B = with_condition(8, 10.0, dtype=torch.float32), rhs(8, 2)
    with pytest.raises(StagnationError, match=r"tol=1e-09 is below the rounding of torch\.float32") as caught:
        solve_nonspd(A, B, tol=1e-9)
    assert caught.value.stats.status == "stagnated" and bool(caught.value.result.Z.isfinite().all())
    assert bool(solve_nonspd(A, B, tol=1e-9, on_failure="nan").Z.isnan().all())


def test_an_answer_beyond_the_dtype_is_none():
    A = torch.eye(3, dtype=torch.float16) * 2.0**-12
    with pytest.raises(StagnationError, match=r"Z is beyond torch\.float16"):
        solve_nonspd(A, torch.full((3, 1), 2.0**8, dtype=torch.float16))
    assert solve_nonspd(A, torch.ones(3, 1, dtype=torch.float16)).stats.status == "converged"


def test_the_first_attempt_stays_without_fallback(rhs):
    A, B = with_condition(24, 1e6, dtype=torch.float32), rhs(24, 2)
    with pytest.raises(StagnationError):
        solve_nonspd(A, B, strategy="hyperpower", fallback=False)

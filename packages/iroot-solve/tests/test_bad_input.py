"""Line 8: bad input ends in a clear error that names argument, shape and remedy."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import (
    IrootError,
    NonFiniteInputError,
    NotPositiveDefiniteError,
    SingularMatrixError,
    inverse_root,
    inverse_root_apply,
    solve_spd,
)

N = 8
eye = torch.eye(N)
ones = torch.ones(N, 2)

REFUSED = {
    "A is not square": (
        torch.ones(3, 4),
        torch.ones(3, 2),
        {},
        ValueError,
        r"A must be square.*\(\.\.\., n, n\).*\(3, 4\)",
    ),
    "A is a vector": (torch.ones(3), torch.ones(3), {}, ValueError, r"A must be square.*\(3,\)"),
    "A is no tensor": (
        np.eye(3),
        torch.ones(3),
        {},
        TypeError,
        r"A must be a torch\.Tensor, not ndarray.*torch\.as_tensor",
    ),
    "B is no tensor": (eye, [1.0], {}, TypeError, r"B must be a torch\.Tensor, not list.*torch\.as_tensor"),
    "B is a number": (eye, torch.tensor(1.0), {}, ValueError, r"B must have shape \(\.\.\., n, k\) or \(n,\)"),
    "B has other rows": (eye, torch.ones(7, 2), {}, ValueError, r"B has shape \(7, 2\).*B needs 8 rows"),
    "B is a vector of another length": (eye, torch.ones(7), {}, ValueError, r"B has shape \(7,\).*B needs 8 rows"),
    "batches": (eye.expand(3, N, N), torch.ones(4, N, 2), {}, ValueError, r"\(3, 8, 8\).*\(4, 8, 2\) do not broadcast"),
    "dtypes": (eye, ones.double(), {}, TypeError, r"A is torch\.float32 and B is torch\.float64.*B\.to\(A\.dtype\)"),
    "devices": (eye, ones.to("meta"), {}, ValueError, r"A is on cpu and B on meta.*B\.to\(A\.device\)"),
    "p = 0": (eye, ones, {"p_val": 0}, ValueError, r"p_val=0 must be ≥ 1.*exponent=Fraction"),
    "p < 0": (eye, ones, {"p_val": -2}, ValueError, r"p_val=-2 must be ≥ 1"),
    "p is a float": (eye, ones, {"p_val": 2.0}, TypeError, r"p_val must be an int, not 2\.0.*exponent=Fraction"),
    "p is a bool": (eye, ones, {"p_val": True}, TypeError, r"p_val must be an int"),
    "exponent is a float": (eye, ones, {"exponent": -0.5}, TypeError, r"exponent must be a fractions\.Fraction"),
    "exponent is 0": (eye, ones, {"exponent": Fraction(0)}, ValueError, r"exponent=0 gives B itself"),
    "p and exponent": (
        eye,
        ones,
        {"p_val": 2, "exponent": Fraction(-1, 2)},
        ValueError,
        "p_val .* or exponent .*not both",
    ),
    "A is integer": (
        eye.long(),
        ones.long(),
        {},
        TypeError,
        r"A has dtype torch\.int64.*Convert it.*A\.to\(torch\.float32\)",
    ),
    "A is bool": (eye.bool(), ones.bool(), {}, TypeError, r"A has dtype torch\.bool"),
    "B is integer": (eye, ones.long(), {}, TypeError, r"B has dtype torch\.int64.*Convert it.*B\.to\(torch\.float32\)"),
    "A is complex": (eye.to(torch.complex64), ones, {}, TypeError, r"A is complex \(torch\.complex64\); only real"),
    "B is complex": (eye, ones.to(torch.complex64), {}, TypeError, r"B is complex \(torch\.complex64\)"),
    "A is sparse": (eye.to_sparse(), ones, {}, TypeError, r"A .*sparse.*A\.to_dense\(\)"),
    "B is sparse": (eye, ones.to_sparse(), {}, TypeError, r"B .*sparse.*B\.to_dense\(\)"),
    "precision": (eye, ones, {"precision": "fp8"}, ValueError, r"precision='fp8' is not one of fp64, fp32"),
    "out's shape": (eye, ones, {"out": torch.empty(3, 2)}, ValueError, r"out must .*shape \(8, 2\).*\(3, 2\)"),
    "out's dtype": (
        eye,
        ones,
        {"out": torch.empty(N, 2).double()},
        ValueError,
        r"out must .*torch\.float32.*torch\.float64",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_cannot_be_right(case):
    A, B, settings, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message) as caught:
        solve_spd(A, B, **settings)
    assert not isinstance(caught.value, IrootError)


@pytest.mark.parametrize(
    "case", [name for name, row in REFUSED.items() if row[0] is not eye or "precision" not in row[2]]
)
@pytest.mark.parametrize("on_failure", ["warn", "nan"])
def test_bad_arguments_raise_whatever_on_failure_says(case, on_failure):
    A, B, settings, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        solve_spd(A, B, on_failure=on_failure, **settings)


def test_refused_before_any_heavy_work(host_reads, allocations):
    A = torch.eye(64).expand(3, 64, 64)
    B = torch.ones(4, 64, 2)
    with host_reads() as reads, allocations(64 * 64, A, B) as found, pytest.raises(ValueError, match="broadcast"):
        solve_spd(A, B)
    assert reads == [] and found == []


@pytest.mark.parametrize("which", ["A", "B"])
def test_a_gradient_that_would_be_lost_is_refused(which):
    A, B = eye.clone().requires_grad_(which == "A"), ones.clone().requires_grad_(which == "B")
    with pytest.raises(ValueError, match=rf"{which} requires a gradient.*pass {which}\.detach\(\)"):
        solve_spd(A, B)
    with torch.no_grad():
        assert not solve_spd(A, B).Z.requires_grad
    assert torch.equal(solve_spd(A.detach(), B.detach()).Z, B.detach())


@pytest.mark.parametrize("which", ["A", "B"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strategy", ["auto", "eigh", "direct-solve"])
def test_non_finite_entries_are_named(spd, rhs, which, value, dtype, strategy):
    A, B = spd(N, 4.0, dtype=dtype), rhs(N, 2, dtype=dtype)
    (A if which == "A" else B)[1, 1] = value
    with pytest.raises(
        NonFiniteInputError, match=rf"A \(shape \(8, 8\), {dtype}\).*: {which} contains NaN or inf.*nan_to_num"
    ) as c:
        solve_spd(A, B, strategy=strategy)
    assert isinstance(c.value, ValueError) and c.value.stats.status == "nonfinite_input"


def test_one_non_finite_entry_off_the_diagonal(spd, rhs):
    A = spd(N, 4.0)
    A[0, 5] = float("nan")
    for strategy in ("auto", "eigh", "materialize-root"):
        with pytest.raises(NonFiniteInputError, match="A contains NaN"):
            solve_spd(A, rhs(N, 2), strategy=strategy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_symmetry_is_required_up_to_rounding(spd, rhs, truth, distance, within, dtype):
    A, B = spd(16, 4.0, dtype=dtype), rhs(16, 2, dtype=dtype)
    limit = 8 * 16**0.5 * torch.finfo(dtype).eps / 2
    size = float(torch.linalg.matrix_norm(A.double()))
    for factor in (0.7, 1.4):
        skewed = A.clone()
        skewed[0, 1] = (A.double()[0, 1] + factor * limit * size / 2**0.5).to(dtype)  # ‖A − Aᵀ‖_F = √2·|a₀₁ − a₁₀|
        if factor < 1:
            expected = truth((skewed.double() + skewed.double().mT) / 2, B, -0.5)
            assert distance(solve_spd(skewed, B).Z, expected) <= within(
                {8: 1e-10, 4: 1e-4}.get(A.element_size(), 1e-2), dtype
            )
        else:
            with pytest.raises(
                ValueError, match=r"A \(shape \(16, 16\)\) is not symmetric.*\(A \+ A\.mT\) / 2.*solve_nonspd"
            ):
                solve_spd(skewed, B)


@pytest.mark.parametrize("settings", [{"ridge": 1e6}, {"ridge_rel": 1e6}, {"kappa_max": 4.0}, {"p_val": 1}])
@pytest.mark.parametrize("strategy", ["auto", "direct-solve"])
def test_asymmetry_is_measured_against_A_alone(spd, rhs, strategy, settings):
    """A ridge makes ‖A + ridge·I‖ large and hides nothing."""
    A = spd(16, 4.0)
    A[0, 1] += 0.01
    with pytest.raises(ValueError, match="is not symmetric"):
        solve_spd(A, rhs(16, 2), strategy=strategy, **settings)


def test_the_asymmetric_matrix_of_a_batch_is_named(spd, rhs):
    A = spd(N, 4.0).repeat(3, 1, 1)
    A[2, 0, 1] += 0.1
    for on_failure in ("raise", "warn", "nan"):
        with pytest.raises(ValueError, match=r"A\[2\] \(shape \(8, 8\)\) is not symmetric"):
            solve_spd(A, rhs(3, N, 2), on_failure=on_failure)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("lowest", [-1.0, -1e-3, -1e-6])
def test_not_positive_definite(with_spectrum, rhs, p, lowest):
    A, B = with_spectrum([lowest, *np.linspace(0.5, 1, 15)]), rhs(16, 2, dtype=torch.float64)
    with pytest.raises(
        NotPositiveDefiniteError, match=r"A \(shape \(16, 16\), torch\.float64\).*λmin = -.*ridge > −λmin"
    ) as caught:
        solve_spd(A, B, p_val=p)
    assert caught.value.stats.status == "not_positive_definite"
    assert float(caught.value.stats.lambda_min) == pytest.approx(lowest, rel=1e-6)
    assert solve_spd(A, B, p_val=p, ridge=-2 * lowest, tol=1e-8).stats.status == "converged"


def test_negative_definite(spd, rhs):
    with pytest.raises(NotPositiveDefiniteError):
        solve_spd(-spd(N, 4.0), rhs(N, 2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_rounding_is_named_with_a_ridge(spd, rhs, dtype):
    G = rhs(24, 6)
    A, B = (G @ G.mT).to(dtype), rhs(24, 2, dtype=dtype)
    assert float(torch.linalg.eigvalsh(A.double())[0]) < 0
    with pytest.raises(
        NotPositiveDefiniteError, match=rf"rounding to {dtype} alone can do that.*pass ridge_rel ≥ 1e-2"
    ):
        solve_spd(A, B)


def test_float32_rounding_is_named_with_a_ridge(rhs):
    G = rhs(24, 6)
    A = G @ G.mT
    A = (A + A.mT) / 2
    assert -1e-5 < float(torch.linalg.eigvalsh(A.double())[0]) < 0
    with pytest.raises(NotPositiveDefiniteError, match="which rounding of its entries explains.*ridge_rel=1e-6"):
        solve_spd(A, rhs(24, 2))


SINGULAR = {
    "one row": torch.diag(torch.tensor([1.0, 0.0, 2.0, 3.0])),
    "ones": torch.ones(4, 4),
    "rank 2": torch.tensor([[2.0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]),
}


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_exactly_singular(rhs, name, p, dtype):
    A, B = SINGULAR[name].to(dtype), rhs(4, 2, dtype=dtype)
    with pytest.raises(SingularMatrixError, match=r"exactly singular.*ridge > 0.*pinv") as caught:
        solve_spd(A, B, p_val=p)
    assert caught.value.stats.status == "singular"


@pytest.mark.parametrize("strategy", ["auto", "eigh", "direct-solve"])
def test_the_zero_matrix(strategy):
    with pytest.raises(SingularMatrixError, match=r"A \(shape \(4, 4\), torch\.float32\) is zero.*ridge > 0.*pinv"):
        solve_spd(torch.zeros(4, 4), torch.ones(4, 2), strategy=strategy)
    Z = solve_spd(torch.zeros(4, 4), torch.ones(4, 2), strategy=strategy, ridge=4.0).Z
    assert torch.allclose(Z, torch.full((4, 2), 0.5), rtol=1e-4)


def test_a_zero_right_hand_side_gives_zero(spd):
    for strategy in ("auto", "direct-solve", "materialize-root"):
        result = solve_spd(spd(N, 4.0), torch.zeros(N, 2), strategy=strategy)
        assert result.stats.status == "converged" and not result.Z.any()


def test_graded_matrices_are_not_singular(spd, rhs):
    """λmin/λmax = 1e-40, every entry exact to its own magnitude: positive definite all the same."""
    d = torch.logspace(0, -20, 12, dtype=torch.float64)
    A, B = d[:, None] * spd(12, 4.0, dtype=torch.float64) * d, rhs(12, 2, dtype=torch.float64)
    try:
        status = solve_spd(A, B, p_val=1).stats.status
    except IrootError as error:
        status = error.stats.status
    assert status in ("converged", "stagnated")


def test_the_convenience_functions_refuse_alike(spd):
    with pytest.raises(ValueError, match="square"):
        inverse_root(torch.ones(2, 3))
    with pytest.raises(TypeError, match="complex"):
        inverse_root_apply(eye.to(torch.complex64), ones)

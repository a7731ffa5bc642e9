"""Line 5: tol is the relative error of Z; its default depends on the dtype; what cannot be reached stagnates."""

import numpy as np
import pytest
import torch
from iroot_solve import StagnationError, explain, solve_spd

DEFAULTS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
SPECTRA = {
    "log": np.logspace(-4, 0, 32),
    "one_tiny": np.append(1e-6, np.linspace(0.5, 1, 31)),
    "cluster_tail": np.append(np.full(16, 1.0), np.logspace(-5, -1, 16)),
    "power_law": np.arange(1, 33.0) ** -2,
    "equal": np.ones(32),
}


@pytest.mark.parametrize("dtype", DEFAULTS)
def test_default_by_dtype(dtype):
    assert explain(8, 2, dtype=dtype).task.tol == DEFAULTS[dtype]


@pytest.mark.parametrize("dtype", DEFAULTS)
def test_the_default_is_what_no_tol_means(spd, rhs, dtype):
    A, B = spd(16, 5.0, dtype=dtype), rhs(16, 2, dtype=dtype)
    default = solve_spd(A, B, strategy="direct-solve")
    assert torch.equal(default.Z, solve_spd(A, B, strategy="direct-solve", tol=DEFAULTS[dtype]).Z)
    assert float(default.stats.error) <= DEFAULTS[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "direct-solve", "materialize-root"])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SPECTRA)
def test_converged_means_true_error_below_tol(with_spectrum, rhs, truth, distance, within, name, p, strategy):
    A = with_spectrum(SPECTRA[name], dtype=torch.float32)
    V = torch.linalg.eigh(A.double()).eigenvectors.float()
    for tol in (1e-2, 1e-5):
        for B in (rhs(32, 3), V[:, :2].contiguous(), V[:, -2:].contiguous()):
            result = solve_spd(A, B, p_val=p, tol=tol, strategy=strategy)
            assert result.stats.status == "converged"
            assert distance(result.Z, truth(A, B, -1 / p)) <= within(tol, A.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
@pytest.mark.parametrize("k", [1, 2, 16, 24])
@pytest.mark.parametrize("kappa", [1e4, 3e4, 1e5])
def test_no_matrix_of_many_converges_by_luck(spd, rhs, truth, kappa, k, strategy):
    """Where rounding alone decides on float32 or float64, estimates scatter; none of 200 is far below."""
    A = torch.stack([spd(32, kappa, seed=i) for i in range(200)])
    B = rhs(200, 32, k)
    result, expected = solve_spd(A, B, strategy=strategy, on_failure="warn"), truth(A, B, -1 / 2)
    error = torch.linalg.matrix_norm(result.Z - expected) / torch.linalg.matrix_norm(expected)
    assert bool(result.stats.converged.all()) and float(error.max()) <= 1e-4
    assert float((error / (result.stats.error + 1e-7)).max()) <= 2.5


@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_passed_values_are_exact_data(spd, rhs, truth, distance, within, p):
    """κu = 6e-3 in float32: only a computation in float64 can answer, and it does."""
    A, B = spd(16, 1e5), rhs(16, 2)
    result = solve_spd(A, B, p_val=p, tol=1e-6)
    assert result.stats.status == "converged" and result.stats.precision == "fp64"
    assert distance(result.Z, truth(A, B, -1 / p)) <= within(1e-6, A.dtype)


@pytest.mark.parametrize("dtype", DEFAULTS)
def test_tol_below_twice_the_roundoff_of_the_output_stagnates(spd, rhs, truth, distance, dtype):
    A, B = spd(16, 5.0, dtype=dtype), rhs(16, 2, dtype=dtype)
    u = torch.finfo(dtype).eps / 2
    with pytest.raises(StagnationError, match="below the rounding of.*larger tol") as caught:
        solve_spd(A, B, tol=1.9 * u)
    result = caught.value.result
    assert caught.value.stats is result.stats
    assert result.stats.status == "stagnated"
    # The result is still the best there is: rounding of the output, and of a float64 computation (κ·u₆₄ with room).
    assert distance(result.Z, truth(A, B, -0.5)) <= 1.1 * u + 100 * 5 * 2.0**-53


def test_tol_beyond_the_condition_in_float64_stagnates(spd, rhs):
    A, B = spd(24, 1e13, dtype=torch.float64), rhs(24, 2, dtype=torch.float64)
    with pytest.raises(StagnationError, match="out of reach at κ ≈ .*e\\+1") as caught:
        solve_spd(A, B, p_val=1)
    assert caught.value.stats.status == "stagnated"
    assert caught.value.stats.fallbacks or caught.value.stats.strategy in ("eigh", "cholesky")
    assert 1e-10 < float(caught.value.stats.error) < 1
    assert caught.value.result.Z.isfinite().all()


@pytest.mark.parametrize("tol", [0.0, -1.0, 1.0, float("nan"), float("inf")])
def test_tol_out_of_range_is_refused(spd, rhs, tol):
    with pytest.raises(ValueError, match=r"tol=.* must lie in \(0, 1\)"):
        solve_spd(spd(8, 10.0), rhs(8, 1), tol=tol)


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_error_is_monotone_in_tol(spd, rhs, truth, distance, p, strategy):
    """A tighter tol never gives a worse answer than a looser one promises, and asks for no fewer products."""
    A, B = spd(24, 1e3, dtype=torch.float64), rhs(24, 24, dtype=torch.float64)
    expected = truth(A, B, -1 / p)
    work = []
    for tol in (1e-1, 1e-3, 1e-5, 1e-7, 1e-9):
        Z, _, stats, _ = solve_spd(A, B, p_val=p, tol=tol, strategy=strategy)
        assert distance(Z, expected) <= tol
        work.append(stats.products["square"] + stats.products["columns"] / 24)
    assert work == sorted(work)

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_precond import ESTIMATORS, MODES, Congruence, Scalar, precond_spd

SCALAR_MODES = ("none", "frob")
CONGRUENCE_MODES = ("jacobi", "ruiz", "aol", "row-norm")


@pytest.fixture
def spd_batch(with_spectrum):
    return torch.stack([with_spectrum(np.logspace(-k, 0, 24), k) for k in (1, 2, 3)])


def power(A, exponent):
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values[..., None, :] ** float(exponent)) @ vectors.mT


def relative(X, Y):
    return (torch.linalg.matrix_norm(X - Y) / torch.linalg.matrix_norm(Y)).max().item()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_bounds_of_the_normalised_matrix(mode, estimator, scale, spd_batch):
    A = scale * spd_batch
    before = A.clone()
    A_norm, stats = precond_spd(A, mode, lambda_max_est=estimator)
    values = torch.linalg.eigvalsh(A_norm)
    assert torch.equal(A, before) and torch.equal(A_norm, A_norm.mT)
    assert (values[..., -1] <= stats.rho_proxy).all() and (stats.rho_proxy <= stats.lambda_max).all()
    assert (stats.lambda_max >= 0.5).all() and (stats.lambda_max < 1).all()
    assert (values[..., 0] >= stats.gersh_lo - 1e-15).all() and (values[..., 0] > 0).all()
    assert (stats.lambda_max_guess is not None) == (estimator == "power")
    if estimator == "power":
        assert (stats.lambda_max_guess <= values[..., -1] * (1 + 1e-14)).all()


@pytest.mark.parametrize("mode", SCALAR_MODES)
@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_scalar_scalings_are_undone_for_every_root(mode, p, scale, spd_batch):
    A = scale * spd_batch
    A_norm, stats = precond_spd(A, mode)
    truth = power(spd_batch, Fraction(-1, p)) * scale ** (-1 / p)
    # two eigendecompositions, κ = 1e3: errors of n·u·κ each
    assert relative(stats.undo(power(A_norm, Fraction(-1, p)), p), truth) < 1e-11
    assert stats.apply_rhs(A) is A


def test_other_exponents_are_undone(spd_batch):
    A_norm, stats = precond_spd(50 * spd_batch)
    for exponent in (Fraction(-4, 3), Fraction(1, 2), 1):
        truth = power(50 * spd_batch, exponent)
        assert relative(stats.undo(power(A_norm, exponent), exponent=exponent), truth) < 1e-10


@pytest.mark.parametrize("mode", MODES)
def test_undoing_is_exact(mode, spd_batch):
    # 2^e·A_norm undoes everything but D: bit for bit the matrix passed
    A_norm, stats = precond_spd(1e50 * spd_batch, mode)
    scale = stats.scale
    if isinstance(scale, Congruence):
        A_norm = A_norm / scale.d[..., :, None] / scale.d[..., None, :]
    elif isinstance(scale, Scalar):
        A_norm = A_norm / scale.c[..., None, None]
    assert torch.equal(
        torch.from_numpy(np.ldexp(A_norm.numpy(), stats.exponent[:, None, None].numpy())), 1e50 * spd_batch
    )


@pytest.mark.parametrize("mode", CONGRUENCE_MODES)
def test_congruences_are_undone_for_p_1_and_refused_otherwise(mode, spd_batch):
    d = torch.from_numpy(np.logspace(-2, 0, 24))
    A = 1e9 * d[:, None] * spd_batch * d
    B = torch.randn(3, 24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A_norm, stats = precond_spd(A, mode)
    Z = stats.undo(torch.linalg.solve(A_norm, stats.apply_rhs(B)), 1)
    assert relative(Z, torch.linalg.solve(A, B)) < 1e-8
    for p, exponent in ((2, None), (1, Fraction(1, 2)), (1, 1)):
        with pytest.raises(ValueError, match=f"{mode} congruence.*cannot be undone.*mode='none'"):
            stats.undo(Z, p, exponent=exponent)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e20])
def test_ridge_is_added_before_scaling_and_reported_in_units_of_A(scale, spd_batch):
    A = (scale * spd_batch).to(torch.float32)
    A_norm, stats = precond_spd(A, ridge=0.125 * scale, ridge_rel=0.5)
    truth = 0.125 * scale + 0.5 * A.double().diagonal(dim1=-2, dim2=-1).mean(-1)
    np.testing.assert_allclose(stats.ridge.double().numpy(), truth.numpy(), rtol=1e-6)
    damped = A.double() + stats.ridge.double()[:, None, None] * torch.eye(24, dtype=torch.float64)
    recovered = torch.from_numpy(np.ldexp(A_norm.double().numpy(), stats.exponent[:, None, None].numpy()))
    # only the diagonal was rounded, once
    torch.testing.assert_close(recovered, damped, rtol=2.0**-24, atol=0)


@pytest.mark.parametrize("A", [torch.zeros(5, 5), 1e-44 * torch.eye(5), 1e30 * torch.eye(5)])
@pytest.mark.parametrize("ridge", [1e-44, 1.0, 1e38])
def test_ridge_of_any_magnitude_beside_any_matrix(A, ridge):
    A_norm, stats = precond_spd(A, ridge=ridge)
    assert A_norm.isfinite().all() and 0.5 <= stats.lambda_max < 1 and stats.kappa_proxy == pytest.approx(1, rel=1e-5)
    truth = A[0, 0].double().item() + torch.tensor(ridge).double().item()
    assert math.ldexp(A_norm[0, 0].item(), int(stats.exponent)) == pytest.approx(truth, rel=2.0**-23)


def test_no_hidden_shift_even_for_singular_matrices():
    A = torch.zeros(3, 3)
    A[0, 0] = 4
    A_norm, stats = precond_spd(A)
    assert stats.ridge == 0 and A_norm[1, 1] == 0 and A_norm.count_nonzero() == 1
    zero, stats = precond_spd(torch.zeros(3, 3))
    assert zero.count_nonzero() == 0 and stats.lambda_max == 0 and stats.kappa_proxy == math.inf


@pytest.mark.parametrize("mode", MODES)
def test_nonfinite_matrices_harm_no_neighbour(mode, spd_batch):
    A = spd_batch.clone()
    A[1, 0, 0] = math.nan
    A_norm, stats = precond_spd(A, mode, lambda_max_est="min")
    clean, clean_stats = precond_spd(spd_batch, mode, lambda_max_est="min")
    assert torch.equal(A_norm[[0, 2]], clean[[0, 2]])
    assert not stats.lambda_max[1].isfinite()
    torch.testing.assert_close(stats.lambda_max[[0, 2]], clean_stats.lambda_max[[0, 2]], rtol=1e-12, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_batch_equals_loop(mode, spd_batch):
    A_norm, stats = precond_spd(spd_batch, mode)
    for i, A in enumerate(spd_batch):
        alone, alone_stats = precond_spd(A, mode)
        assert torch.equal(A_norm[i], alone) and stats.exponent[i] == alone_stats.exponent
        torch.testing.assert_close(stats.kappa_proxy[i], alone_stats.kappa_proxy, rtol=1e-13, atol=0)


def test_power_of_two_equivariance(spd_batch):
    A_norm, stats = precond_spd(spd_batch, "ruiz")
    scaled, scaled_stats = precond_spd(2.0**77 * spd_batch, "ruiz")
    assert torch.equal(A_norm, scaled) and torch.equal(stats.exponent + 77, scaled_stats.exponent)


def test_kappa_proxy_by_definition(with_spectrum):
    dominant = torch.eye(8, dtype=torch.float64) + 0.01 * torch.ones(8, 8, dtype=torch.float64)
    _, stats = precond_spd(dominant, l_target=0.05)
    assert stats.kappa_proxy.item() == pytest.approx((1 + 8 * 0.01) / (1 + 0.01 - 7 * 0.01), rel=1e-12)
    _, stats = precond_spd(with_spectrum(np.logspace(-4, 0, 40)), l_target=0.05)
    assert stats.gersh_lo < 0 and stats.kappa_proxy.item() == pytest.approx(20)


def test_estimators_take_their_own_bound(with_spectrum):
    A = with_spectrum(np.logspace(-4, 0, 128))
    ratio = {}
    for estimator in ESTIMATORS:
        _, stats = precond_spd(A, lambda_max_est=estimator, lambda_max_safety=1.0)
        ratio[estimator] = math.ldexp(stats.lambda_max.item(), int(stats.exponent))
    assert ratio["row_sum"] == pytest.approx(np.abs(A.numpy()).sum(1).max(), rel=1e-12)
    assert ratio["frobenius"] == pytest.approx(np.linalg.norm(A.numpy()), rel=1e-12)
    assert 1 <= ratio["lanczos"] < 1.3
    assert ratio["min"] == ratio["power"] == pytest.approx(min(ratio.values()), rel=1e-12)
    _, wide = precond_spd(A, lambda_max_safety=1.5)
    assert math.ldexp(wide.lambda_max.item(), int(wide.exponent)) == pytest.approx(1.5 * ratio["row_sum"], rel=1e-12)


def test_out_and_work_are_used(spd_batch):
    out, work = torch.empty_like(spd_batch), torch.empty_like(spd_batch)
    A_norm, stats = precond_spd(spd_batch, out=out, work=work)
    expected, expected_stats = precond_spd(spd_batch)
    assert A_norm is out and torch.equal(out, expected)
    torch.testing.assert_close(stats.lambda_max, expected_stats.lambda_max, rtol=1e-14, atol=0)


def test_empty_and_tiny_shapes():
    A_norm, stats = precond_spd(torch.zeros(2, 0, 0), "ruiz", ridge_rel=1.0, lambda_max_est="min")
    assert A_norm.shape == (2, 0, 0) and stats.lambda_max.tolist() == [0, 0]
    assert precond_spd(torch.zeros(0, 3, 3), "aol", lambda_max_est="min")[1].rho_proxy.shape == (0,)
    A_norm, stats = precond_spd(torch.tensor([[5.0]]), lambda_max_est="min")
    assert stats.undo(1 / A_norm, 1).item() == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "diag"}, "unknown mode 'diag'; valid: none, frob, jacobi, ruiz, aol, row-norm"),
        (
            {"lambda_max_est": "x"},
            "unknown lambda_max_est 'x'; valid: row_sum, frobenius, lanczos, power, min",
        ),
        ({"eps": -1.0}, "eps is a relative guard"),
        ({"ruiz_iters": -1}, "ruiz_iters must be >= 0"),
        ({"l_target": 0.0}, r"l_target must lie in \(0, 1\]"),
        ({"lambda_max_safety": 0.9}, "lambda_max_safety multiplies a bound"),
        ({"ridge": -1.0}, "ridge must be finite and >= 0"),
        ({"ridge_rel": math.nan}, "ridge_rel must be finite and >= 0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        precond_spd(torch.eye(3), **settings)


def test_impossible_matrices_and_roots_are_named():
    with pytest.raises(ValueError, match=r"square.*\(3, 4\)"):
        precond_spd(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"square.*\(3,\)"):
        precond_spd(torch.zeros(3))
    with pytest.raises(TypeError, match="int64"):
        precond_spd(torch.eye(3, dtype=torch.int64))
    _, stats = precond_spd(torch.eye(3))
    with pytest.raises(ValueError, match="p must be an integer >= 1, got 0"):
        stats.undo(torch.eye(3), 0)

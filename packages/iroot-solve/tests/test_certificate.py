"""The certificate against planted errors: it may not flatter, and may exaggerate by ten at most."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace
from iroot_solve import build_schedule, solve_spd
from iroot_solve._certificate import PlainMatrix, Root, appraise, measure, orders, probe_signs
from iroot_solve._eigh import run_eigh

N, K = 40, 6
EYE = torch.eye(N, dtype=torch.float64)


@pytest.fixture(params=[10.0, 1e3, 1e5])
def system(request):
    """(λ, V) of a matrix with a dense random eigenbasis."""
    rng = np.random.default_rng(3)
    V = torch.from_numpy(np.linalg.qr(rng.standard_normal((N, N)))[0])
    return torch.logspace(-np.log10(request.param), 0, N, dtype=torch.float64), V


def _certify(root, A, B, Z, exponent):
    with np.errstate(all="ignore"):
        return appraise(
            measure(root, PlainMatrix(A), B, Z, exponent, 0).numpy(), A.shape[-1], Z.shape[-1], root, exponent
        )


def _estimate(system, X, exponent, B, roundoff=0.0):
    """(estimate, true error) of Z = X·B for A^exponent·B."""
    values, V = system
    A = ((V * values) @ V.mT)[None]

    def power(j, W):
        for _ in range(j):
            W = X @ W
        return W

    Z = (X @ (EYE if B is None else B))[None]
    expected = (V * values.pow(float(exponent))) @ V.mT @ (EYE if B is None else B)
    found = _certify(Root(power, roundoff), A, None if B is None else B[None], Z, exponent)
    return found, float(torch.dist(Z[0], expected) / torch.linalg.matrix_norm(expected))


def _root(system, exponent, factors=1.0):
    values, V = system
    return (V * (values.pow(float(exponent)) * factors)) @ V.mT


def _right_hand_sides(system):
    _, V = system
    B = torch.from_numpy(np.random.default_rng(5).standard_normal((N, K)))
    return {"random": B, "wide": B @ B.mT, "smallest": V[:, :1], "largest": V[:, -1:], "root": None}


NEGATIVE = [Fraction(-1, p) for p in (1, 2, 3, 4, 8)] + [Fraction(-2, 3), Fraction(-3, 2)]


@pytest.mark.parametrize("exponent", NEGATIVE, ids=str)
@pytest.mark.parametrize("size", [1e-7, 1e-4])
def test_errors_that_commute_are_measured_exactly(system, exponent, size):
    factors = 1 + size * torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, N))
    X = _root(system, exponent, factors)
    for name, B in _right_hand_sides(system).items():
        found, error = _estimate(system, X, exponent, B)
        # First order: up to s·size of second order; sixteen probes of a wide B: chi-squared, ×/÷ 2.
        # Rounding: the last X of X^m·A^q·X^(s+1−m) multiplies n·u by ‖X‖ = κ^(q/s).
        rounding = N * 2.0**-53 * float(system[0][0]) ** float(exponent)
        room = 2.0 if name in ("wide", "root") else 1.1
        # X^s·A^q·W carries n·u·κ^q; where that is more than the error, only the other norms bound it: by s times.
        if N * 2.0**-53 * float(system[0][0]) ** -abs(exponent.numerator) > error:
            room *= exponent.denominator
        assert error / room <= found.error.item() <= room * error + rounding


@pytest.mark.parametrize("exponent", [Fraction(-1, p) for p in (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("share", [0.5, 0.9, 2.0])
def test_one_unfinished_eigenvalue_is_never_missed(system, exponent, share):
    factors = torch.ones(N, dtype=torch.float64)
    factors[0] = share
    for B in _right_hand_sides(system).values():
        found, error = _estimate(system, _root(system, exponent, factors), exponent, B)
        assert found.error.item() >= 0.1 * error


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("lowest", [1e-3, 1e-6, 1e-10])
def test_an_iteration_that_stops_early_is_not_flattered(p, lowest):
    """Quadratic steps for l = 0.05 leave one tiny eigenvalue unfinished: x far below λ^(-1/p), and above all others."""
    values = torch.cat(
        (torch.tensor([lowest], dtype=torch.float64), torch.linspace(0.06, 1, N - 1, dtype=torch.float64))
    )
    V = torch.from_numpy(np.linalg.qr(np.random.default_rng(4).standard_normal((N, N)))[0])
    y, x = values, torch.ones(N, dtype=torch.float64)
    for a, b, c in build_schedule("cpu", p_val=p)[0].double():
        q = a + b * y + c * y * y
        y, x = y * q**p, x * q
    for B in _right_hand_sides((values, V)).values():
        found, error = _estimate((values, V), (V * x) @ V.mT, Fraction(-1, p), B)
        assert found.error.item() >= 0.1 * error


@pytest.mark.parametrize("exponent", [Fraction(-1, p) for p in (1, 2, 3, 4, 8)], ids=str)
def test_errors_that_do_not_commute(system, exponent):
    """Rounding of a product form: an error in X that is dense and of the size of u·‖X‖."""
    E = torch.from_numpy(np.random.default_rng(2).standard_normal((N, N)))
    X = _root(system, exponent)
    X = X + 1e-9 * torch.linalg.matrix_norm(X, 2) / N**0.5 * (E + E.mT)
    s = exponent.denominator
    for name in ("random", "wide", "root"):
        found, error = _estimate(system, X, exponent, _right_hand_sides(system)[name])
        assert found.error.item() >= error / max(s, 2)
        assert found.error.item() <= 10 * error or found.error.item() > 1e-3


@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 3), Fraction(-1, 5)], ids=str)
def test_odd_roots_see_a_wrong_sign(system, exponent):
    factors = torch.ones(N, dtype=torch.float64)
    factors[-1] = -1
    for B in _right_hand_sides(system).values():
        found, error = _estimate(system, _root(system, exponent, factors), exponent, B)
        assert found.error.item() >= 0.1 * error


@pytest.mark.parametrize("exponent", [Fraction(1, 2), Fraction(1, 3), Fraction(2, 3), Fraction(3, 2)], ids=str)
def test_positive_powers(system, exponent):
    for size in (1e-6, 1e-3):
        X = _root(system, exponent, 1 + size)
        for name in ("random", "largest", "smallest"):
            found, error = _estimate(system, X, exponent, _right_hand_sides(system)[name])
            assert found.error.item() >= 0.1 * error
            assert found.error.item() <= 10 * error or found.error.item() > 1e-3


def test_what_is_not_a_number_is_an_infinite_error(system):
    X = _root(system, Fraction(-1, 2)) * torch.nan
    found, _ = _estimate(system, X, Fraction(-1, 2), torch.ones(N, 2, dtype=torch.float64))
    assert bool(np.isinf(found.error).all())


def test_a_zero_right_hand_side_has_no_error(system):
    found, _ = _estimate(
        system, _root(system, Fraction(-1, 2)), Fraction(-1, 2), torch.zeros(N, 2, dtype=torch.float64)
    )
    assert found.error.item() == 0.0


def test_roundoff_is_the_floor(system):
    X = _root(system, Fraction(-1, 2))
    found, _ = _estimate(system, X, Fraction(-1, 2), torch.ones(N, 2, dtype=torch.float64), roundoff=1e-3)
    assert 1e-3 <= found.error.item() <= 1e-2


def test_matrices_of_a_batch_are_judged_alone():
    A = torch.diag_embed(torch.linspace(0.1, 1, 8, dtype=torch.float64)).repeat(3, 1, 1)
    X = torch.diag_embed(torch.linspace(0.1, 1, 8, dtype=torch.float64).rsqrt()).repeat(3, 1, 1)
    X[1] *= 1.01
    X[2] *= torch.nan
    B = torch.ones(3, 8, 2, dtype=torch.float64)
    root = Root(lambda j, V: V if j == 0 else torch.linalg.matrix_power(X, j) @ V)
    found = _certify(root, A, B, X @ B, Fraction(-1, 2))
    assert float(found.error[0]) < 1e-14
    assert float(found.error[1]) == pytest.approx(0.01, rel=0.1)
    assert float(found.error[2]) == torch.inf


def test_probes_are_signs_from_their_seed():
    signs = probe_signs(20, 16, torch.device("cpu"), 3)
    assert signs.shape == (20, 16) and bool((signs.abs() == 1).all())
    assert torch.equal(signs, probe_signs(20, 16, torch.device("cpu"), 3))
    assert not torch.equal(signs, probe_signs(20, 16, torch.device("cpu"), 4))


@pytest.mark.parametrize("exponent", NEGATIVE, ids=str)
@pytest.mark.parametrize("k", [3, 24])
def test_eigenvector_coordinates_measure_what_powers_do(system, exponent, k):
    """All E_m at once, in coordinates, against one application of X after the other."""
    values, V = system
    A = ((V * values) @ V.mT)[None].contiguous()
    A = (A + A.mT) / 2
    B = torch.from_numpy(np.random.default_rng(6).standard_normal((1, N, k)))
    wrong = run_eigh(A, B, exponent, Workspace())
    wrong.root.sandwich.__self__.f[0, 0] *= 1.01  # something to measure, far above rounding
    Z = wrong.root.power(1, B)
    fast = measure(wrong.root, PlainMatrix(A), B, Z, exponent, 0)
    slow = measure(Root(wrong.root.power, norm=wrong.root.norm), PlainMatrix(A), B, Z, exponent, 0)
    M = len(orders(exponent.denominator, True))
    gram = fast[:, 3:].reshape(1, M + 1, M + 1)[:, :M, :M]
    expected = slow[:, 3:].reshape(1, M, M)
    torch.testing.assert_close(fast[:, :3], slow[:, :3])
    # X^s·A^q·W carries n·u·κ^q in both of them.
    kappa = float(1 / values[0]) ** abs(exponent.numerator)
    scale = expected.diagonal(dim1=-2, dim2=-1).amax() + (N * 2.0**-53 * kappa) ** 2
    assert float((gram - expected).abs().amax() / scale) <= 1e-6 + N * 2.0**-53 * kappa
    # The drift: V is orthogonal to n·u.
    assert float(fast[:, -1].sqrt() / fast[:, 0]) <= N * 2.0**-52


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "p"), [("cholesky", 1), ("eigh", 1), ("eigh", 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_residual_of_few_terms_is_not_zero_by_chance(spd, rhs, truth, distance, n, dtype, strategy, p):
    """Float32 work is judged against what was passed: rounding A and B is an error, and a residual of zero is none."""
    for seed in range(120):
        kappa, tol = (
            3 * 10.0 ** (seed % 5),
            ((1e-5, 1e-6, 1e-10) if dtype is torch.float64 else (1e-4, 1e-5, 1e-5))[seed % 3],
        )
        A, B = spd(n, kappa, dtype=dtype, seed=seed), rhs(n, 1, dtype=dtype, seed=seed)
        result = solve_spd(A, B, p_val=p, strategy=strategy, precision="fp32", tol=tol, on_failure="nan")
        if bool(result.stats.converged):
            assert distance(result.Z, truth(A, B, -1 / p)) <= tol + torch.finfo(dtype).eps / 2


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 200])
@pytest.mark.parametrize("kappa", [1e1, 1e2, 1e3])
@pytest.mark.parametrize("k", [1, 16, 40])
def test_a_float32_residual_is_an_honest_one(spd, rhs, truth, distance, n, kappa, k):
    """Its own rounding is of the size of Cholesky's, c·n·u·‖A‖·‖Z‖, and independent: it adds to the error that it
    measures. The bounds are those that every estimate has to keep (spec: within a factor of ten of the truth)."""
    for seed in range(3):
        A, B = spd(n, kappa, seed=seed), rhs(n, k, dtype=torch.float32, seed=seed)
        result = solve_spd(A, B, p_val=1, strategy="cholesky", precision="fp32")
        assert "refined" not in str(result.schedule)
        error = distance(result.Z, truth(A, B, -1))
        assert 0.1 * error <= float(result.stats.error) <= 10 * error


def test_float64_data_are_not_judged_by_what_they_were_rounded_to():
    """0.65·z = 0.7 has no residual at all in float32, in every row alike, and an error of 5e-8."""
    A, B = 0.65 * torch.eye(64, dtype=torch.float64), torch.full((64, 1), 0.7, dtype=torch.float64)
    result = solve_spd(A, B, p_val=1, strategy="cholesky", precision="fp32")
    assert torch.dist(result.Z, B / 0.65) <= 1e-10 * torch.linalg.vector_norm(result.Z)

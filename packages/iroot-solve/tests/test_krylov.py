"""lanczos, chebyshev and cayley on B: dense matrices and operators."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import (
    NotPositiveDefiniteError,
    PrecondConfig,
    PreconditionerIgnoredWarning,
    solve_gram_spd,
    solve_spd,
)
from iroot_solve._choose import READING, Task, choose

N = 64
STRATEGIES = ["lanczos", "chebyshev", "cayley"]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
EXPONENTS = [Fraction(-1, p) for p in (1, 2, 3, 4, 8)] + [Fraction(-2, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("exponent", EXPONENTS, ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("k", [1, 5, N])
def test_accuracy(spd, rhs, truth, distance, within, exponent, strategy, dtype, k):
    A, B = spd(N, 20.0, dtype=dtype), rhs(N, k, dtype=dtype)
    result = solve_spd(A, B, exponent=exponent, strategy=strategy)
    error = distance(result.Z, truth(A, B, exponent))
    assert result.stats.status == "converged" and error <= within(TOLERANCES[dtype], dtype)
    assert result.stats.strategy == strategy and result.stats.fallbacks == ()
    assert 0.1 * (error - torch.finfo(dtype).eps / 2) <= float(result.stats.error)
    assert result.stats.products["columns"] > 0


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e4])
def test_three_ways_to_one_answer(spd, rhs, truth, distance, kappa, p):
    """Lanczos = Chebyshev = Cayley = dense, each to its tolerance."""
    A, B = spd(N, kappa, dtype=torch.float64), rhs(2, N, 3, dtype=torch.float64)
    expected = truth(A, B, -1 / p)
    for strategy in STRATEGIES:
        result = solve_spd(A, B, p_val=p, strategy=strategy, tol=1e-8)
        assert bool(result.stats.converged.all()) and distance(result.Z, expected) <= 1e-8


@pytest.mark.parametrize(
    "spectrum",
    [
        np.append(1e-4, np.linspace(0.3, 1, N - 1)),
        np.append(np.logspace(-4, -1, N // 2), np.linspace(0.9, 1, N // 2)),
        np.arange(1, N + 1.0) ** -2,
        np.append(np.full(N - 1, 1e-3), 1.0),
        np.ones(N),
    ],
    ids=["one tiny", "tail", "power law", "one large", "equal"],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("which", ["random", "smallest", "largest"])
def test_hard_spectra(with_spectrum, rhs, truth, distance, within, spectrum, strategy, which):
    A = with_spectrum(spectrum, dtype=torch.float32)
    V = torch.linalg.eigh(A.double()).eigenvectors.float()
    B = {"random": rhs(N, 2), "smallest": V[:, :2].contiguous(), "largest": V[:, -2:].contiguous()}[which]
    result = solve_spd(A, B, strategy=strategy)
    assert result.stats.status == "converged"
    assert distance(result.Z, truth(A, B, -1 / 2)) <= within(1e-4, A.dtype)


def test_lanczos_takes_positive_powers(spd, rhs, truth, distance):
    A, B = spd(N, 20.0), rhs(N, 2)
    result = solve_spd(A, B, exponent=Fraction(1, 2), strategy="lanczos")
    assert result.stats.strategy == "lanczos" and distance(result.Z, truth(A, B, 1 / 2)) <= 1e-4
    for strategy in ("chebyshev", "cayley"):
        with pytest.raises(ValueError, match=f"{strategy!r} does not apply"):
            solve_spd(A, B, exponent=Fraction(1, 2), strategy=strategy)


def test_an_indefinite_matrix_is_found_out(spd, rhs):
    A = spd(N, 20.0) - 0.2 * torch.eye(N)
    for strategy in STRATEGIES:
        with pytest.raises(NotPositiveDefiniteError):
            solve_spd(A, rhs(N, 2), strategy=strategy)


class _Matmul:
    def __init__(self, A):
        self.A = A

    def matmul(self, V):
        return self.A @ V


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("strategy", ["auto", "chebyshev"])
def test_operators(spd, rhs, truth, distance, within, dtype, p, strategy):
    """Products in 16 bits perturb A by u·‖A‖, and Z by up to κ·u/p with the constant of `rounding_error`."""
    A, B = spd(N, 4.0, dtype=dtype), rhs(N, 3, dtype=dtype)
    tol = TOLERANCES[dtype] * (8 if dtype.itemsize == 2 else 1)
    settings = {"lambda_max": 1.01, "kappa_max": 4.2} if strategy == "chebyshev" else {}
    for operator in (lambda V: A @ V, _Matmul(A)):
        result = solve_spd(operator, B, p_val=p, strategy=strategy, on_failure="warn", tol=tol, **settings)
        error = distance(result.Z, truth(A, B, -1 / p))
        assert result.stats.status == "converged" and result.Z.dtype == dtype
        assert error <= within(tol, dtype)


def test_operators_of_batches_and_vectors(spd, rhs, truth, distance):
    A = torch.stack([spd(N, 10.0, seed=i) for i in range(3)])
    for B in (rhs(3, N, 2), rhs(2, 3, N, 1)):
        Z = solve_spd(lambda V: A @ V, B, ridge=0.1).Z
        assert distance(Z, truth(A, B, -1 / 2, 0.1)) <= 1e-4
    b = rhs(N)
    z = solve_spd(lambda V: A[0] @ V, b).Z
    assert z.shape == (N,) and distance(z[:, None], truth(A[0], b[:, None], -1 / 2)) <= 1e-4


def test_a_gram_operator(rhs, truth, distance):
    """G ↦ Gᵀ(G·V): nothing n×n exists."""
    G = rhs(200, N)
    Z = solve_spd(lambda V: G.mT @ (G @ V), rhs(N, 3), p_val=2).Z
    assert distance(Z, solve_gram_spd(G, rhs(N, 3), p_val=2).Z) <= 2e-4


def test_a_broken_promise_is_found_out(spd, rhs):
    """An eigenvalue outside [λmax/κ, λmax] is where the sum is not proved."""
    A = spd(N, 100.0)
    result = solve_spd(
        lambda V: A @ V, rhs(N, 2), strategy="chebyshev", lambda_max=1.0, kappa_max=10.0, on_failure="nan"
    )
    assert result.stats.status == "stagnated" and bool(result.Z.isnan().all())


def test_an_indefinite_operator(spd, rhs):
    A = spd(N, 20.0) - 0.2 * torch.eye(N)
    with pytest.raises(NotPositiveDefiniteError):
        solve_spd(lambda V: A @ V, rhs(N, 2))


def test_a_positive_power_of_a_semidefinite_operator(rhs):
    """A^(1/2) with an eigenvalue of exactly zero: a Ritz value of −u is no sign of an indefinite matrix."""
    values = torch.cat((torch.zeros(4), torch.linspace(0.5, 1, N - 4))).double()
    Q = torch.linalg.qr(rhs(N, N, dtype=torch.float64)).Q
    A, B = (Q * values) @ Q.mT, rhs(N, 2, dtype=torch.float64)
    result = solve_spd(lambda V: A @ V, B, exponent=Fraction(1, 2), on_failure="warn", tol=1e-6)
    expected = (Q * values.sqrt()) @ (Q.mT @ B)
    assert result.stats.status != "not_positive_definite"
    assert float((result.Z - expected).norm() / expected.norm()) <= 1e-6


def test_nothing_to_do():
    assert solve_spd(lambda V: V, torch.empty(4, 0)).Z.shape == (4, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"strategy": "eigh"}, "auto, lanczos, chebyshev"),
        ({"strategy": "chebyshev"}, "lambda_max, kappa_max"),
        ({"ridge_rel": 0.1}, "diagonal"),
        ({"on_singular": "pinv"}, "eigenvalues"),
        ({"exponent": Fraction(-3, 2)}, r"\[-1, 1\]"),
    ],
)
def test_what_an_operator_cannot_do(rhs, settings, words):
    with pytest.raises(ValueError, match=words):
        solve_spd(lambda V: V, rhs(8, 2), **settings)


def test_what_is_no_operator(rhs):
    with pytest.raises(ValueError, match="pass B"):
        solve_spd(lambda V: V, None)
    with pytest.raises(ValueError, match="same shape"):
        solve_spd(lambda V: V[:-1], rhs(8, 2))


@pytest.mark.parametrize("strategy", ["chebyshev", "cayley"])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_a_series_of_fixed_length_reads_nothing(spd, rhs, truth, distance, host_reads, strategy, p):
    A, B = spd(N, 50.0), rhs(N, 3)
    settings = {"kappa_max": 60.0, "verify": False, "on_failure": "nan", "p_val": p}
    with host_reads() as found:
        result = solve_spd(A, B, strategy=strategy, **settings)
    assert found == [] and result.stats.status == "unverified" and result.stats.strategy == strategy
    assert distance(result.Z, truth(A, B, -1 / p)) <= 1e-4
    with pytest.raises(ValueError, match="lanczos.*verify"):
        solve_spd(A, B, strategy="lanczos", **settings)


def test_auto_keeps_to_two_reads_on_a_device():
    """A series or a Krylov process reads as it runs."""
    task = Task(2048, 16, 1, Fraction(-1, 2), 1e-4, False)
    assert choose(task, 1e-2, 1.0).strategy in READING
    assert choose(replace(task, device="cuda"), 1e-2, 1.0).strategy not in READING
    assert choose(replace(task, device="cuda"), 1e-2, 1.0, "chebyshev").strategy == "chebyshev"


def test_what_an_operator_cannot_use_is_said(spd, rhs):
    A, B = spd(N, 10.0), rhs(N, 2)
    with pytest.warns(PreconditionerIgnoredWarning, match="for an operator"):
        solve_spd(lambda V: A @ V, B, precond_config=PrecondConfig(mode="jacobi"))
    with pytest.raises(TypeError, match="B has dtype torch.int32"):
        solve_spd(lambda V: V, B.int())
    for G in (rhs(5, 9), rhs(9, 5)):
        with pytest.warns(PreconditionerIgnoredWarning, match="not formed"):
            settings = {"ridge": 1.0, "precond_config": PrecondConfig(mode="jacobi")}
            solve_gram_spd(G, rhs(G.shape[1], 2), strategy="auto" if len(G) == 5 else "lanczos", **settings)

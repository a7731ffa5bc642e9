"""Every strategy × kind of problem × exponent × dtype, against float64 computed another way."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_solve import apply_inverse_root_gram_rhs_spd, solve_gram_spd, solve_spd
from iroot_solve._choose import STRATEGIES, Task

N, K = 32, 3
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
EXPONENTS = [*(Fraction(-1, p) for p in (1, 2, 3, 4, 8)), Fraction(-2, 3)]
KINDS = ["spd", "root", "batch", "gram", "wide gram", "dual", "dual wide", "operator"]


def _matrix(shape, low, dtype, seed=0):
    """Log-spaced singular values in [low, 1], dense random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    r = min(shape)
    U, V = (torch.linalg.qr(torch.randn(size, r, generator=generator, dtype=torch.float64)).Q for size in shape)
    return ((U * torch.logspace(0, torch.tensor(low).log10(), r, dtype=torch.float64)) @ V.mT).to(dtype)


def _symmetric(low, dtype, seed=0):
    Q = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).Q
    A = (Q * torch.logspace(0, torch.tensor(low).log10(), N, dtype=torch.float64)) @ Q.mT
    return ((A + A.mT) / 2).to(dtype)


def _power(A, exponent, B):
    values, V = torch.linalg.eigh(A.double())
    root = (V * values.clamp_min(1e-300).pow(float(exponent)).unsqueeze(-2)) @ V.mT
    return root if B is None else root @ B.double()


def _problem(kind, dtype, exponent):
    """(call, truth): a function of the settings, and what it should give."""
    right = torch.randn(N, K, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    if kind in ("spd", "root", "operator"):
        A, B = _symmetric(0.1, dtype), None if kind == "root" else right
        solve = (
            (lambda **s: solve_spd(lambda V: A @ V, B, **s)) if kind == "operator" else lambda **s: solve_spd(A, B, **s)
        )
        return solve, _power(A, exponent, B)
    if kind == "batch":
        A = torch.stack([_symmetric(0.1, dtype, seed) for seed in range(3)])
        return lambda **s: solve_spd(A, right.expand(3, N, K), **s), _power(A, exponent, right)
    dual, wide = "dual" in kind, "wide" in kind
    G = _matrix((N // 2, N) if wide else (2 * N, N), 0.3, dtype)
    B = torch.randn(len(G) if dual else N, K, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    ridge = 0.1
    A = G.double().mT @ G.double() + ridge * torch.eye(N, dtype=torch.float64)
    expected = _power(A, exponent, G.double().mT @ B.double() if dual else B)
    solve = apply_inverse_root_gram_rhs_spd if dual else solve_gram_spd
    return lambda **s: solve(G, B, ridge=ridge, **s), expected


def _applies(strategy, kind, exponent):
    if kind == "operator":
        return strategy in ("auto", "lanczos")
    if kind == "wide gram":
        return strategy in ("auto", "eigh")
    return strategy == "auto" or strategy in Task(N, K, 1, exponent, 1e-4, kind == "root").strategies


CASES = [
    (strategy, kind, exponent)
    for strategy in STRATEGIES
    for kind in KINDS
    for exponent in EXPONENTS
    if _applies(strategy, kind, exponent)
]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("strategy", "kind", "exponent"), CASES, ids=lambda value: str(value))
def test_accuracy(strategy, kind, exponent, dtype):
    """converged, within tol and the rounding of Z; products of an operator in 16 bits perturb it: four times that."""
    call, expected = _problem(kind, dtype, exponent)
    tol = TOLERANCES[dtype] * (8 if kind == "operator" and dtype.itemsize == 2 else 1)
    result = call(exponent=exponent, strategy=strategy, tol=tol)
    error = torch.linalg.matrix_norm(result.Z.double() - expected) / torch.linalg.matrix_norm(expected)
    assert bool(result.stats.converged.all()) and result.Z.dtype == dtype
    assert float(error.max()) <= tol + torch.finfo(dtype).eps / 2
    if strategy != "auto":
        assert result.stats.strategy == strategy and result.stats.fallbacks == ()


@settings(deadline=None, max_examples=40)
@given(m=st.integers(1, 30), n=st.integers(1, 30), p=st.sampled_from([1, 2, 3, 4]), seed=st.integers(0, 99))
def test_the_dual_form_is_the_primal_one_of_its_right_hand_side(m, n, p, seed):
    generator = torch.Generator().manual_seed(seed)
    G, B = (torch.randn(m, size, generator=generator, dtype=torch.float64) for size in (n, 2))
    dual = apply_inverse_root_gram_rhs_spd(G, B, p_val=p, ridge=0.5, tol=1e-9).Z
    primal = solve_gram_spd(G, G.mT @ B, p_val=p, ridge=0.5, tol=1e-9).Z
    assert torch.linalg.matrix_norm(dual - primal) <= 2e-9 * torch.linalg.matrix_norm(primal)


@settings(deadline=None, max_examples=30)
@given(low=st.floats(1e-3, 1.0), k=st.integers(1, 4), p=st.sampled_from([1, 2, 3, 4]), seed=st.integers(0, 99))
def test_lanczos_is_chebyshev_is_cayley_is_dense(low, k, p, seed):
    A = _symmetric(low, torch.float64, seed)
    B = torch.randn(N, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = _power(A, Fraction(-1, p), B)
    for strategy in ("lanczos", "chebyshev", "cayley", "eigh", "direct-solve"):
        Z = solve_spd(A, B, p_val=p, strategy=strategy, tol=1e-8).Z
        assert torch.linalg.matrix_norm(Z - expected) <= 1e-8 * torch.linalg.matrix_norm(expected)


@settings(deadline=None, max_examples=20)
@given(batch=st.integers(1, 4), low=st.floats(1e-2, 1.0), strategy=st.sampled_from(["lanczos", "chebyshev", "cayley"]))
def test_a_batch_is_a_loop(batch, low, strategy):
    """Each to its tolerance: the plan of a batch is that of its worst matrix."""
    A = torch.stack([_symmetric(low ** (1 + i / 4), torch.float64, i) for i in range(batch)])
    B = torch.randn(batch, N, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = solve_spd(A, B, strategy=strategy, tol=1e-9).Z
    for i in range(batch):
        alone = solve_spd(A[i], B[i], strategy=strategy, tol=1e-9).Z
        assert torch.linalg.matrix_norm(together[i] - alone) <= 2e-9 * torch.linalg.matrix_norm(alone)

"""Every strategy × kind of problem × exponent × dtype, against float64 computed another way.

Truth: powers of symmetric matrices by eigenvectors, those of others as exp(α·log A) by inverse scaling and squaring,
polar factors by a singular value decomposition; always of the numbers that were passed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_solve import apply_inverse_root_gram_rhs_spd, orthogonalize, solve_gram_spd, solve_nonspd, solve_spd
from iroot_solve._choose import Task
from iroot_solve._general_solve import INVERSES, ROOTS
from iroot_solve._polar_result import STRATEGIES as POLAR
from scipy.linalg import expm, logm

N, K = 32, 3
KAPPA, RIDGE = 10.0, 0.1
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
INVERSE_ROOTS = tuple(Fraction(-1, p) for p in (1, 2, 3, 4, 8))


def _normal(*shape, seed=9):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _matrix(shape, low, dtype, seed=0):
    """Log-spaced singular values in [low, 1], dense random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    r = min(shape)
    U, V = (torch.linalg.qr(torch.randn(size, r, generator=generator, dtype=torch.float64)).Q for size in shape)
    return ((U * torch.logspace(0, torch.tensor(low).log10(), r, dtype=torch.float64)) @ V.mT).to(dtype)


def _symmetric(low, dtype, seed=0):
    Q = torch.linalg.qr(_normal(N, N, seed=seed)).Q
    A = (Q * torch.logspace(0, torch.tensor(low).log10(), N, dtype=torch.float64)) @ Q.mT
    return ((A + A.mT) / 2).to(dtype)


def _general(low, dtype, seed=0):
    """Positive definite and skew, added: xᵀ·A·x ≥ low, so that all eigenvalues lie right of it and roots exist."""
    R = _matrix((N, N), low, torch.float64, seed + 1)
    return (_symmetric(low, torch.float64, seed) + (R - R.mT) / 2).to(dtype)


def _deficient(dtype, rank=7):
    """A product of factors of ±1: every dtype stores it without rounding, which would change its rank."""
    return (_normal(2 * N, rank).sign() @ _normal(rank, N, seed=8).sign()).to(dtype)


def _power(A, exponent, B):
    values, V = torch.linalg.eigh(A.double())
    root = (V * values.clamp_min(1e-300).pow(float(exponent)).unsqueeze(-2)) @ V.mT
    return root if B is None else root @ B.double()


def _general_power(A, exponent, B):
    root = torch.from_numpy(expm(logm(A.double().numpy()) * float(exponent)))
    return root if B is None else root @ B.double()


def _square(dtype, exponent, matrix, batch=0, root=False):
    """(A, B), a batch with one B for all of it."""
    A = torch.stack([matrix(1 / KAPPA, dtype, seed) for seed in range(batch)]) if batch else matrix(1 / KAPPA, dtype)
    return A, None if root else _normal(N, K).to(dtype).expand(*A.shape[:-2], N, K)


def _spd(dtype, exponent, **form):
    A, B = _square(dtype, exponent, _symmetric, **form)
    return partial(solve_spd, A, B, exponent=exponent), _power(A, exponent, B)


def _operator(dtype, exponent):
    A, B = _square(dtype, exponent, _symmetric)
    return partial(solve_spd, lambda V: A @ V, B, exponent=exponent), _power(A, exponent, B)


def _nonspd(dtype, exponent, **form):
    A, B = _square(dtype, exponent, _general, **form)
    return partial(solve_nonspd, A, B, p_val=exponent.denominator), _general_power(A, exponent, B)


def _gram(dtype, exponent, rows, dual=False):
    G, B = _matrix((rows, N), 0.3, dtype), _normal(rows if dual else N, K).to(dtype)
    A = G.double().mT @ G.double() + RIDGE * torch.eye(N, dtype=torch.float64)
    solve = apply_inverse_root_gram_rhs_spd if dual else solve_gram_spd
    right = G.double().mT @ B.double() if dual else B
    return partial(solve, G, B, ridge=RIDGE, exponent=exponent), _power(A, exponent, right)


def _polar(dtype, exponent, matrix):
    G = matrix(dtype=dtype)
    P, _, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    r = torch.linalg.matrix_rank(G.double())
    return partial(orthogonalize, G, return_stats=True), P[:, :r] @ Vh[:r]


def _of_spd(exponent, root=False):
    return "auto", *Task(N, K, 1, exponent, 1e-4, root).strategies


def _of_nonspd(exponent):
    return INVERSES if exponent == -1 else ROOTS


@dataclass(frozen=True)
class Kind:
    """One kind of problem.

    Attributes:
        problem: (dtype, exponent) ↦ a function of strategy and tol, and what it should give.
        strategies: exponent ↦ those that apply.
        exponents: Those that apply.
        alone: A strategy that was asked for gives the answer itself, without what it would fall back to.
        rounded: The caller rounds products to the dtype, u·‖A‖ each: the inverse is known to κ·u only.
    """

    problem: Callable
    strategies: Callable
    exponents: tuple[Fraction, ...] = (*INVERSE_ROOTS, Fraction(-2, 3))
    alone: bool = True
    rounded: bool = False

    def tol(self, dtype):
        return max(TOLERANCES[dtype], KAPPA * torch.finfo(dtype).eps if self.rounded else 0.0)


def _polar_kind(matrix, alone=True):
    return Kind(partial(_polar, matrix=matrix), lambda exponent: POLAR, (Fraction(-1, 2),), alone)


KINDS = {
    "spd": Kind(_spd, _of_spd),
    "root": Kind(partial(_spd, root=True), partial(_of_spd, root=True)),
    "batch": Kind(partial(_spd, batch=3), _of_spd),
    "gram": Kind(partial(_gram, rows=2 * N), _of_spd),
    "wide gram": Kind(partial(_gram, rows=N // 2), lambda exponent: ("auto", "eigh")),
    "dual": Kind(partial(_gram, rows=2 * N, dual=True), _of_spd),
    "dual wide": Kind(partial(_gram, rows=N // 2, dual=True), _of_spd),
    "operator": Kind(_operator, lambda exponent: ("auto", "lanczos"), rounded=True),
    "general": Kind(_nonspd, _of_nonspd, INVERSE_ROOTS),
    "general root": Kind(partial(_nonspd, root=True), _of_nonspd, INVERSE_ROOTS),
    "general batch": Kind(partial(_nonspd, batch=3), _of_nonspd, INVERSE_ROOTS),
    "polar tall": _polar_kind(partial(_matrix, (2 * N, N), 1 / KAPPA)),
    "polar wide": _polar_kind(partial(_matrix, (N // 2, N), 1 / KAPPA)),
    "polar square": _polar_kind(partial(_matrix, (N, N), 1 / KAPPA)),
    "polar deficient": _polar_kind(_deficient, alone=False),
}
CASES = [
    (strategy, kind, exponent)
    for kind in KINDS
    for exponent in KINDS[kind].exponents
    for strategy in KINDS[kind].strategies(exponent)
]


@cache
def _problem(kind, dtype, exponent):
    return KINDS[kind].problem(dtype, exponent)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("strategy", "kind", "exponent"), CASES, ids=lambda value: str(value))
def test_accuracy(strategy, kind, exponent, dtype):
    """converged, within tol and the rounding of Z; ‖U‖_F is √rank, so that an error of U counts as documented, too."""
    call, expected = _problem(kind, dtype, exponent)
    tol = KINDS[kind].tol(dtype)
    result = call(strategy=strategy, tol=tol)
    answer, stats = result[0], result.stats
    error = torch.linalg.matrix_norm(answer.double() - expected) / torch.linalg.matrix_norm(expected)
    assert bool(stats.converged.all()) and answer.dtype == dtype
    assert float(error.max()) <= tol + torch.finfo(dtype).eps / 2
    if strategy != "auto" and KINDS[kind].alone:
        assert stats.strategy == strategy and stats.fallbacks == ()


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

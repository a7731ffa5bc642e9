"""The functions that take a table of quadratics."""

import pytest
import torch
from iroot_kernels import (
    Workspace,
    inverse_proot_pe_quadratic_coupled,
    inverse_proot_pe_quadratic_uncoupled,
    inverse_solve_pe_quadratic_coupled,
    quadratics,
)


def table(p, steps):
    """Taylor's second-order step for y^(-1/p) about 1, in powers of y: it contracts all of (0, 1]."""
    a = 1 / p
    b = a * (a + 1) / 2
    return [(1 + a + b, -a - 2 * b, b)] * steps


ROOTS = [inverse_proot_pe_quadratic_coupled, inverse_proot_pe_quadratic_uncoupled]
# From y = 1/30 a step gains a factor q(0)^p of 3.5 to 4 at first, then the error is cubed: 1e-16 after eight steps.
# Rounding as in test_coupled: 2/p·κ·m·√n·u with κ = 30, n = 20, m ≤ 9.
BOUND = 1e-15 + 2 * 30 * 9 * 20**0.5 * 2.0**-53


@pytest.mark.parametrize("function", ROOTS)
@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_root(function, p, batch, spd, power, error):
    A = spd(20, 30.0, batch=6).reshape(*batch, *([] if batch else [6]), 20, 20)
    A = A if batch else A[0]
    kept = A.clone()
    X, ws = function(A, torch.tensor(table(p, 10), dtype=torch.float64), p)
    assert X.shape == A.shape
    assert torch.equal(X, X.mT)
    assert error(X, power(A, -1 / p)) <= BOUND
    assert torch.equal(A, kept)
    again, same = function(A, table(p, 10), p, ws)
    assert same is ws and error(again, power(A, -1 / p)) <= BOUND


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_solve(p, batch, spd, power, error):
    A = spd(20, 30.0, batch=6).reshape(2, 3, 20, 20) if batch else spd(20, 30.0)[0]
    M = torch.randn(*batch, 20, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    kept = M.clone()
    Z, ws = inverse_solve_pe_quadratic_coupled(A, M, table(p, 10), p)
    assert Z.shape == M.shape
    assert error(Z, power(A, -1 / p) @ M) <= BOUND
    assert torch.equal(M, kept)
    assert isinstance(ws, Workspace)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sixteen_bit_inputs_are_exact_data_stored_in_float32(dtype, spd, power, error):
    A = spd(20, 30.0).to(dtype)
    X, _ = inverse_proot_pe_quadratic_coupled(A, table(2, 12))
    assert X.dtype is torch.float32
    assert error(X, power(A, -1 / 2)) <= 40 * 9 * 20**0.5 * 2.0**-24  # κ = 40 after rounding A
    Z, _ = inverse_solve_pe_quadratic_coupled(A, A, table(2, 12), precision="fp16x3")
    assert error(Z, power(A, 1 / 2)) <= 40 * 9 * 20**0.5 * 2.0**-22


@pytest.mark.parametrize("function", [*ROOTS, inverse_solve_pe_quadratic_coupled])
def test_a_second_call_allocates_nothing(function, spd, allocations):
    A = spd(16, 10.0, 2, torch.float32)
    operands = (A, A[..., :5].clone()) if function is inverse_solve_pe_quadratic_coupled else (A,)
    _, ws = function(*operands, table(2, 5), 2)
    with allocations(16 * 5) as seen:
        function(*operands, table(2, 5), 2, ws)
    assert seen.made == []


@pytest.mark.parametrize("p", [1, 2, 4])
def test_product_counts(p, spd, allocations):
    A, chain = spd(8, 10.0), {1: 1, 2: 2, 4: 3}[p]
    with allocations(1) as seen:
        inverse_proot_pe_quadratic_coupled(A, table(p, 5), p)
    assert seen.products == 5 + 4 + 4 * chain  # q in every step, X but in the first, Y but in the last
    with allocations(1) as seen:
        inverse_solve_pe_quadratic_coupled(A, A[..., :2], table(p, 5), p)
    assert seen.products == 5 + 5 + 4 * chain
    with allocations(1) as seen:
        inverse_proot_pe_quadratic_uncoupled(A, table(p, 5), p)
    assert seen.products == 5 + 4 + 4 * p


def test_table_of_quadratics():
    steps = quadratics(torch.tensor([[2.0, -3.0, 1.0], [1.5, -0.5, 0.0]]))
    assert [q.monomials for q in steps] == [(2.0, -3.0, 1.0), (1.5, -0.5)]
    for wrong in (torch.ones(3), torch.ones(2, 2), [], [(1.0, 2.0)], torch.ones(0, 3)):
        with pytest.raises(ValueError, match=r"abc_t must have shape \(T, 3\)"):
            quadratics(wrong)


def test_bad_arguments(spd):
    A = spd(4, 2.0)
    with pytest.raises(ValueError, match=r"A must have shape"):
        inverse_proot_pe_quadratic_coupled(A[..., :3], table(2, 1))
    with pytest.raises(ValueError, match=r"M_norm \(4, 1\) must have shape"):
        inverse_solve_pe_quadratic_coupled(A, torch.ones(4, 1), table(2, 1))
    with pytest.raises(ValueError, match=r"p=0"):
        inverse_proot_pe_quadratic_coupled(A, table(2, 1), 0)
    with pytest.raises(ValueError, match=r"precision="):
        inverse_proot_pe_quadratic_coupled(A, table(2, 1), precision="double")


@pytest.mark.parametrize("shape", [(0, 4, 4), (0, 0), (2, 0, 0)])
def test_empty(shape):
    A = torch.zeros(shape)
    for function in ROOTS:
        assert function(A, table(2, 2))[0].shape == shape
    assert inverse_solve_pe_quadratic_coupled(A, A, table(2, 2))[0].shape == shape

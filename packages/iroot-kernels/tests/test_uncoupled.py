"""The uncoupled iteration beside the coupled one."""

import pytest
import torch
from iroot_kernels import CoupledIteration, Polynomial, UncoupledIteration, Workspace

N = 24


def rounding(p, kappa):
    """κ·m·√n·u·2/p with at most m = 4 + p + 1 products in a step."""
    return 2 / p * kappa * (5 + p) * N**0.5 * 2.0**-53


@pytest.mark.parametrize("p", range(1, 9))
def test_equals_the_coupled_iteration(p, spd, power, error, schedule):
    A, kept = spd(N, 30.0, batch=2).clone(), spd(N, 30.0, batch=2)
    uncoupled, coupled = UncoupledIteration(A, p=p, precision="fp64"), CoupledIteration(A, p=p, precision="fp64")
    for q in schedule(p, 30.0, (1, 3, 2), 1e-12):
        uncoupled.step(q)
        coupled.step(q)
        assert error(uncoupled.X, coupled.X) <= rounding(p, 30.0)
        assert error(uncoupled.residual(), coupled.Y) <= p * rounding(p, 30.0)
    assert error(uncoupled.X, power(A, -1 / p)) <= 1e-12 + rounding(p, 30.0)
    assert torch.equal(A, kept)


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_restart_from_the_root_of_a_matrix_nearby(p, spd, power, error):
    # X₀ = A₀^(-1/p) with A₀ = A·(I + 0.1·A): it commutes with A, and Y = (I + 0.1·A)^-1 has spectrum in [1/1.1, 1].
    A = spd(N, 1e2)
    X0 = power(A + 0.1 * A @ A, -1 / p)
    restarted, kept = UncoupledIteration(A, X0, p=p, precision="fp64"), X0.clone()
    newton = Polynomial.of_monomials(((p + 1) / p, -1 / p))
    for _ in range(5):
        # Newton: 1 − y → at most (p + 1)/(2p)·(1 − y)² and less; 0.1 → 1e-2 → 1e-4 → 1e-8 → 1e-16.
        restarted.step(newton)
    assert error(restarted.X, power(A, -1 / p)) <= 1e-15 + rounding(p, 1e2)
    assert torch.equal(X0, kept)


@pytest.mark.parametrize("p", [1, 2, 3, 6])
def test_residual_is_x_a_x_with_p_products(p, spd, power, error):
    A, X = spd(N, 10.0), spd(N, 10.0, seed=1)
    iteration = UncoupledIteration(A, X, p=p, precision="fp64")
    h = p // 2
    want = torch.linalg.matrix_power(X, h) @ A @ torch.linalg.matrix_power(X, p - h)
    assert error(iteration.residual(), want) <= 10 * p * N * 2.0**-53
    assert iteration.products.square == p
    iteration.step(Polynomial.of_monomials((1.5, -0.5)))
    assert iteration.products.square == 2 * p + 1


def test_a_second_run_allocates_nothing(spd, schedule, allocations):
    A, steps, ws = spd(16, 10.0), schedule(3, 10.0, (2, 4)), Workspace()

    def run():
        iteration = UncoupledIteration(A, p=3, precision="fp64", workspace=ws)
        for q in steps:
            iteration.step(q)

    run()
    with allocations(16 * 16) as seen:
        run()
    assert seen.made == []


def test_bad_arguments(spd):
    A = spd(4, 2.0)
    with pytest.raises(ValueError, match=r"A must have shape"):
        UncoupledIteration(A[0], p=2, precision="fp64")
    with pytest.raises(TypeError, match=r"A must be torch.float32"):
        UncoupledIteration(A, p=2)
    with pytest.raises(ValueError, match=r"X must be torch.float64 of shape \(1, 4, 4\)"):
        UncoupledIteration(A, A[:, :2], p=2, precision="fp64")
    with pytest.raises(ValueError, match=r"p=0"):
        UncoupledIteration(A, p=0, precision="fp64")

"""Times of the coefficient package: `pytest packages/iroot-coeffs/benchmarks --benchmark-only`.

Cold means: table of the order loaded, nothing cached. What to compare with: planning <= 10 ms cold, <= 50 µs
from the cache, an order beyond the table <= 300 ms once.
"""

import pytest
from iroot_coeffs import _degree8, _planner, _table, chebyshev_expansion, minimax, plan


def forget():
    _planner._plan.cache_clear()
    _degree8.factored.cache_clear()


@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("k_over_n", [1.0, 0.02])
def test_cold_plan(benchmark, p, k_over_n):
    _table.step_errors(p)
    arguments = {"kappa": 1e4, "tol": 1e-3, "k_over_n": k_over_n}
    schedule = benchmark.pedantic(plan, (p,), arguments, setup=forget, rounds=20)
    assert schedule.error <= 1e-3


def test_cached_plan(benchmark):
    benchmark(plan, 2, kappa=1e4, tol=1e-3)


def test_loading_the_table(benchmark):
    benchmark(_table.StepErrors, 2)


def test_order_beyond_the_table(benchmark):
    benchmark.pedantic(_table.StepErrors, (24,), rounds=5)


@pytest.mark.parametrize("degree", [2, 8, 32, 128])
def test_minimax(benchmark, degree):
    benchmark(minimax, 2, degree, 1e-4, 1.0)


def test_three_product_form(benchmark):
    step = minimax(2, 8, 1e-4, 1.0)
    benchmark.pedantic(step.degree8, setup=_degree8.factored.cache_clear, rounds=50)


def test_rescaling(benchmark):
    benchmark(plan(2, kappa=1e4, tol=1e-3).rescaled, 17.3)


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_chebyshev_expansion(benchmark, kappa):
    benchmark(chebyshev_expansion, 2, 1 / kappa, 1.0, 1e-4)

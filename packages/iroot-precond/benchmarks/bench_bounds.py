"""Times of the bounds and of the whole preconditioning, beside one product A·A of the same shape."""

import pytest
import torch
from iroot_precond import precond_spd, ritz_extremes, row_sum_bound, symmetry_defect_probe, upper_bound

SHAPES = [(1024, 1024), (256, 64, 64)]
OPERATIONS = {
    "product": lambda A: A @ A,
    "row_sum_bound": row_sum_bound,
    "upper_bound": upper_bound,
    "upper_bound_without_lanczos": lambda A: upper_bound(A, lanczos_steps=0),
    "ritz_extremes_10": lambda A: ritz_extremes(lambda V: (V.mT @ A).mT, A, 10),
    "symmetry_defect_probe": symmetry_defect_probe,
    "precond_spd": precond_spd,
    "precond_spd_min": lambda A: precond_spd(A, lambda_max_est="min"),
    "precond_spd_jacobi": lambda A: precond_spd(A, "jacobi"),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(benchmark, name, shape):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    A = G.mT @ G
    benchmark(OPERATIONS[name], (A + A.mT) / 2)

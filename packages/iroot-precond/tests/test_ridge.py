import math

import numpy as np
import pytest
import torch
from iroot_precond import add_ridge, ridge_amount


def test_amount_is_absolute_plus_relative_to_the_mean_eigenvalue(with_spectrum):
    A = torch.stack([with_spectrum(np.linspace(0.1, 1, 10)), with_spectrum(np.linspace(1, 7, 10))])
    truth = 0.25 + 0.5 * torch.linalg.eigvalsh(A).mean(-1)
    torch.testing.assert_close(ridge_amount(A, 0.25, 0.5), truth, rtol=1e-14, atol=0)
    assert ridge_amount(A).tolist() == [0, 0]


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, 3e38), (torch.float32, 1e-44), (torch.float64, 1.7e308)])
def test_mean_neither_overflows_nor_underflows(dtype, value):
    A = value * torch.eye(50, dtype=dtype)
    assert ridge_amount(A, ridge_rel=1.0).item() == pytest.approx(A[0, 0].item(), rel=1e-6)


def test_ridge_goes_to_the_diagonal_of_a_copy():
    A = torch.arange(18.0).reshape(2, 3, 3)
    before, amount = A.clone(), torch.tensor([1.0, 0.5])
    damped = add_ridge(A, amount)
    assert torch.equal(damped, before + amount[:, None, None] * torch.eye(3)) and torch.equal(A, before)
    out = torch.empty_like(A)
    assert add_ridge(A, amount, out=out) is out and torch.equal(out, damped)
    assert torch.equal(add_ridge(torch.ones(3, 3).expand(2, 3, 3), amount)[0], torch.ones(3, 3) + torch.eye(3))


@pytest.mark.parametrize("name", ["ridge", "ridge_rel"])
@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be finite and >= 0"):
        ridge_amount(torch.eye(2), **{name: value})


def test_empty_matrices_and_other_dtypes():
    assert ridge_amount(torch.zeros(2, 0, 0), ridge_rel=1.0).tolist() == [0, 0]
    with pytest.raises(TypeError, match="float16"):
        ridge_amount(torch.eye(2, dtype=torch.float16))

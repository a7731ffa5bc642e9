import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iroot_precond import binary_exponent, scale_by_power_of_two, unscale_root
from iroot_precond._scaling import ldexp, power_of_two

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
MAGNITUDES = {
    torch.float32: [1.4e-45, 7e-42, 1.2e-38, 1e-30, 1e-20, 0.5, 1.0, 3.0, 1e20, 1e30, 3.4e38],
    torch.float64: [5e-324, 1e-310, 1e-300, 1e-150, 0.5, 1.0, 3.0, 1e150, 1e300, 1.7e308],
}


def matrix(dtype: torch.dtype, magnitude: float) -> torch.Tensor:
    A = np.random.default_rng(1).uniform(-1, 1, (5, 5)).astype(DTYPES[dtype])
    A[2, 2] = 1
    return torch.from_numpy(A * DTYPES[dtype](magnitude))


CASES = [(dtype, m) for dtype, ms in MAGNITUDES.items() for m in ms]


@pytest.mark.parametrize(("dtype", "magnitude"), CASES)
def test_largest_entry_lands_in_half_open_unit_interval(dtype, magnitude):
    A = matrix(dtype, magnitude)
    e = binary_exponent(A)
    largest = scale_by_power_of_two(A, e).abs().max().item()
    assert e.dtype == torch.int32 and 0.5 <= largest < 1
    assert e.item() == math.frexp(A.abs().max().item())[1]


@pytest.mark.parametrize(("dtype", "magnitude"), CASES)
def test_scaling_is_bitwise_exact(dtype, magnitude):
    A = matrix(dtype, magnitude)
    e = binary_exponent(A)
    scaled = scale_by_power_of_two(A, e)
    truth = [[math.ldexp(x, -int(e)) for x in row] for row in A.double().tolist()]
    assert scaled.double().tolist() == truth
    # and back: ldexp over the whole range of the dtype restores every bit, denormals too
    assert torch.equal(ldexp(scaled, e), A)


def test_zero_and_nonfinite_matrices_have_exponent_zero():
    A = torch.stack([torch.zeros(3, 3), torch.full((3, 3), math.inf), torch.full((3, 3), math.nan), 4 * torch.eye(3)])
    assert binary_exponent(A).tolist() == [0, 0, 0, 3]
    assert binary_exponent(torch.zeros(2, 0, 0)).tolist() == [0, 0]
    assert binary_exponent(torch.zeros(0, 3, 3)).shape == (0,)


def test_out_is_used_and_input_kept():
    A = matrix(torch.float32, 1e30)
    before, out = A.clone(), torch.empty_like(A)
    result = scale_by_power_of_two(A, binary_exponent(A), out=out)
    assert result is out and torch.equal(A, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_of_two_over_the_normal_range(dtype):
    info = np.finfo(DTYPES[dtype])
    k = torch.arange(info.minexp, info.maxexp)
    assert power_of_two(k, dtype).double().tolist() == [math.ldexp(1.0, int(j)) for j in k]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.complex64])
def test_other_dtypes_are_refused_by_name(dtype):
    with pytest.raises(TypeError, match=f"float32 or float64.*{dtype}"):
        binary_exponent(torch.ones(2, 2).to(dtype))


@pytest.mark.parametrize("alpha", [Fraction(-1, p) for p in (1, 2, 3, 4, 7)] + [Fraction(2, 3), Fraction(-4, 3), 1])
@pytest.mark.parametrize("e", [-1074, -301, -7, -1, 0, 1, 2, 5, 300, 1024])
def test_unscale_root_against_mpmath(alpha, e):
    Z = torch.tensor([[0.75], [-1.25]], dtype=torch.float64)
    with mpmath.workdps(40):
        factor = mpmath.mpf(2) ** (mpmath.mpf(e) * alpha.numerator / alpha.denominator) if e else mpmath.mpf(1)
        truth = [float(mpmath.mpf(z) * factor) for z in Z[:, 0].tolist()]
    result = unscale_root(Z, torch.tensor(e), alpha)[:, 0].tolist()
    # exp2 is good to one ulp, the product to half of one
    assert result == pytest.approx(truth, rel=4e-16, abs=5e-324)


@given(
    e=st.integers(-100, 100),
    m=st.integers(-20, 20),
    p=st.integers(1, 16),
    z=st.floats(0.5, 2),
    double=st.booleans(),
)
def test_exponent_plus_p_m_is_exactly_two_to_minus_m(e, m, p, z, double):
    dtype = torch.float64 if double else torch.float32
    Z = torch.tensor([[z]], dtype=dtype)
    base = unscale_root(Z, torch.tensor(e), Fraction(-1, p))
    moved = unscale_root(Z, torch.tensor(e + p * m), Fraction(-1, p))
    assert moved.item() == base.item() * 2.0**-m


def test_unscale_root_is_exact_where_p_divides_e_and_batched():
    Z = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    e = torch.tensor([-4, 0, 6], dtype=torch.int32)
    result = unscale_root(Z, e, Fraction(-1, 2))
    assert torch.equal(result, Z * torch.tensor([4.0, 1.0, 0.125])[:, None, None])
    assert unscale_root(Z, e, Fraction(-1, 2), out=Z) is Z and torch.equal(Z, result)


def test_unscale_root_reaches_both_ends_of_the_range():
    tiny, huge = torch.tensor([[2.0**-140]]), torch.tensor([[2.0**120]])
    assert unscale_root(tiny, torch.tensor(-260), -1).item() == 2.0**120
    assert unscale_root(huge, torch.tensor(260), -1).item() == 2.0**-140
    assert unscale_root(huge, torch.tensor(-100), -1).item() == math.inf

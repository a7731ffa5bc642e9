"""What each precision rounds, against independent models in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from iroot_kernels import PRECISIONS, Workspace, precision
from iroot_kernels._precision import fp16_scale, round_tf32, split

float32s = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def tf32(values: np.ndarray) -> np.ndarray:
    """Round to a multiple of 2^(e − 10), 2^e ≤ |x| < 2^(e + 1), e ≥ −126, ties to even; 2^128 and more is infinite."""
    exact = np.asarray(values, dtype=np.float64)
    finite = np.where(np.isfinite(exact), exact, 1.0)
    quantum = np.exp2(np.maximum(np.frexp(finite)[1] - 1, -126) - 10.0)
    rounded = np.rint(finite / quantum) * quantum
    rounded = np.where(np.abs(rounded) >= 2.0**128, np.copysign(np.inf, finite), rounded)
    return np.where(np.isfinite(exact), rounded, exact)


def check_tf32(values: np.ndarray) -> None:
    got = round_tf32(torch.from_numpy(values), Workspace(), "A").numpy()
    np.testing.assert_array_equal(got.astype(np.float64), tf32(values))
    signs = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(got[signs]), np.signbit(values[signs]))


@given(st.lists(float32s, min_size=1, max_size=40))
def test_tf32_is_round_to_nearest_even_on_ten_bits(values):
    check_tf32(np.array(values, dtype=np.float32))


def test_tf32_ties_denormals_and_special_values():
    ties = [1 + 2.0**-11, 1 + 3 * 2.0**-11, -(1 + 2.0**-11), 1 + 2.0**-11 + 2.0**-23, 1 + 2.0**-11 - 2.0**-23]
    denormals = [2.0**-149, 2.0**-137, 3 * 2.0**-137, 2.0**-127, -(2.0**-140), 2.0**-126 - 2.0**-149]
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, float(np.finfo(np.float32).max), 2.0**128 - 2.0**116]
    check_tf32(np.array(ties + denormals + special, dtype=np.float32))


def test_tf32_keeps_every_nan():
    payloads = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FC00000], dtype=np.uint32).view(np.float32)
    assert round_tf32(torch.from_numpy(payloads), Workspace(), "A").isnan().all()


def planes_error(name: str, A: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|A − Σ planes/scale| and the largest scaled plane entry, in float64."""
    planes, scale = split(A, precision(name), Workspace(), "A")
    assert all(plane.dtype is precision(name).plane for plane in planes)
    total = sum(plane.double() for plane in planes) / scale.double()
    return (A.double() - total).abs(), torch.stack([plane.double().abs() for plane in planes]).amax()


@pytest.mark.parametrize("name", ["bf16", "fp16", "bf16x3", "fp16x3"])
@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 3e4, 1e30])
def test_planes_reconstruct_to_the_unit_roundoff(name, size):
    spread = torch.exp(2 * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1)))
    A = size * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(2)) * spread
    error, largest = planes_error(name, A)
    # Two roundings to t bits leave 2^(−2t)|x|, one 2^(−t)|x|. An fp16 plane has no step finer than 2^-24; the scale
    # lifts max|A| to 2^13 or more, so half a step is at most 2^-38·max|A|. bf16 has float32's range: no such floor.
    floor = 2.0**-38 * A.double().abs().amax((-2, -1), keepdim=True) if name.startswith("fp16") else 0.0
    assert (error <= precision(name).unit_roundoff * A.double().abs() + floor).all()
    assert torch.isfinite(largest)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_one_plane_is_rounded_to_nearest(name):
    A = torch.randn(1, 30, 30, generator=torch.Generator().manual_seed(3))
    error, _ = planes_error(name, A)
    u, relative = precision(name).unit_roundoff, error / A.double().abs()
    # Half a unit of the last of t bits: all of 2^-t just above a power of two, and random values come near.
    assert u / 2 < relative.max() <= u


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(-(2.0**100), 2.0**100, width=32))
def test_fp16_scale_is_a_power_of_two_that_never_overflows(x, y):
    A = torch.tensor([[[x, y], [y, x]]])
    scale = fp16_scale(A)
    assert scale.shape == (1, 1, 1)
    assert math.frexp(float(scale))[0] == 0.5
    largest = float((A * scale).abs().max())
    assert (A * scale).half().isfinite().all()
    if float(A.abs().max()) >= 1e-30:
        assert 2.0**13 <= largest < 2.0**14
    normal = A.double().abs() * scale.double() >= 2.0**-126
    assert torch.equal((A * scale).double()[normal], (A.double() * scale.double())[normal])


@pytest.mark.parametrize("exponent", [-126, -99, -20, 0, 13, 14, 100, 127])
def test_fp16_scale_of_every_power_of_two_is_exact(exponent):
    A = torch.full((1, 2, 2), 2.0**exponent)
    assert float(fp16_scale(A)) == 2.0 ** min(13 - exponent, 126)


def test_fp16_scale_of_zero_empty_and_nonfinite_matrices():
    assert torch.isfinite(fp16_scale(torch.zeros(2, 3, 3))).all()
    assert fp16_scale(torch.zeros(2, 0, 0)).shape == (2, 1, 1)
    assert torch.isfinite(fp16_scale(torch.tensor([[[math.inf]], [[math.nan]]]))).all()
    assert fp16_scale(torch.tensor([[[1.0]], [[1024.0]]])).flatten().tolist() == [2.0**13, 2.0**3]


def test_table_of_precisions():
    assert list(PRECISIONS) == ["fp64", "fp32", "tf32", "bf16", "fp16", "bf16x3", "fp16x3"]
    assert all(how.storage is (torch.float64 if name == "fp64" else torch.float32) for name, how in PRECISIONS.items())
    with pytest.raises(ValueError, match=r"precision='fp8'.*fp64, fp32, tf32, bf16, fp16, bf16x3, fp16x3"):
        precision("fp8")

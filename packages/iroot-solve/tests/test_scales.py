"""The powers of two around a problem: exact, undone exactly, and within the range of every dtype on the way."""

import math
from fractions import Fraction

import pytest
import torch
from iroot_solve._problem import read_problem
from iroot_solve._scales import Scales

EXPONENTS = [Fraction(-1, p) for p in (1, 2, 3, 4, 8, 16)] + [Fraction(-2, 3), Fraction(-3), Fraction(1, 2)]
RANGE = {
    torch.float32: (-149, 127),
    torch.float64: (-1074, 1023),
    torch.bfloat16: (-133, 127),
    torch.float16: (-24, 15),
}


def _scales(dtype, a, b, exponent):
    A = torch.tensor([[2.0**a]], dtype=torch.float64).to(dtype)
    B = None if b is None else torch.tensor([[2.0**b]], dtype=torch.float64).to(dtype)
    return Scales(read_problem(A, B, p_val=None, exponent=exponent, tol=None), None)


@pytest.mark.parametrize("exponent", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", RANGE)
def test_the_scaling_is_undone_by_a_power_of_two(dtype, exponent):
    """A = 2^(s·m)·A_s and B = 2^f·B_s: undo = q·m + f, whatever the root; in exact integers."""
    low, high = RANGE[dtype]
    for a in {low, low // 2, -1, 0, 1, high // 2, high}:
        for b in (None, low, 0, high):
            scales = _scales(dtype, a, b, exponent)
            m, rest = divmod(int(scales.exponent), exponent.denominator)
            assert rest == 0
            f = 0 if b is None else int(scales.undo) - m * exponent.numerator
            storage = torch.float64 if dtype is torch.float64 else torch.float32
            assert float(scales.half(storage)) == math.ldexp(1.0, -1 - int(scales.exponent))
            # Scaled, the largest entry lies in [2^-s, 1], but for what the clamp of denormals and the like leaves.
            limit = 125 if storage is torch.float32 else 1021
            if abs(a) < limit - exponent.denominator:
                assert -exponent.denominator <= a - int(scales.exponent) <= 0
            if b is not None:
                assert float(scales.of_right(storage)) == math.ldexp(1.0, -f)
                assert abs(b) >= limit - exponent.denominator or -1 <= b - f <= 0


@pytest.mark.parametrize("working", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", EXPONENTS, ids=str)
def test_restore_rounds_nothing_that_is_normal(working, exponent):
    low, high = RANGE[torch.float32]
    for a in (low, -60, 0, 60, high):
        for b in (-100, 0, 100):
            scales = _scales(torch.float32, a, b, exponent)
            Z = torch.full((1, 1, 1), 0.75, dtype=working)
            exact = 0.75 * 2.0 ** int(scales.undo) if abs(int(scales.undo)) < 900 else math.inf
            found = float(scales.restore(Z, torch.empty(1, 1, 1)))
            if 2.0**-126 <= exact <= 2.0**127:
                assert found == exact


def test_what_is_not_finite_is_seen(spd):
    A = spd(4, 10.0).repeat(3, 1, 1)
    A[0, 1, 2], A[1, 2, 2] = torch.nan, torch.inf
    scales = Scales(read_problem(A, None, p_val=2, exponent=None, tol=None), None)
    assert scales.size.isfinite().tolist() == [False, False, True]

"""Exact scaling by powers of two.

A = 2^e·A_s with max|A_s| in [1/2, 1), so that A^α = 2^(e·α)·A_s^α. A power of two changes no significand
bit, so every norm is taken on A_s, where nothing overflows, and the scaling is undone without an error:

    >>> import torch
    >>> from iroot_precond import binary_exponent, scale_by_power_of_two
    >>> A = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    >>> e = binary_exponent(A)
    >>> int(e), scale_by_power_of_two(A, e).tolist()
    (2, [[0.75, 0.25], [0.25, 0.5]])
"""

from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor


class _Format(NamedTuple):
    """Layout of an IEEE format: bits of the fraction, exponent bias, integer type of the same width."""

    fraction_bits: int
    bias: int
    integer: torch.dtype


_FORMATS = {torch.float32: _Format(23, 127, torch.int32), torch.float64: _Format(52, 1023, torch.int64)}


def layout(dtype: torch.dtype) -> _Format:
    """Return the binary layout of ``dtype``.

    Raises:
        TypeError: ``dtype`` is neither float32 nor float64.
    """
    if dtype not in _FORMATS:
        raise TypeError(f"expected float32 or float64, got {dtype}; cast first, e.g. A.to(torch.float32)")
    return _FORMATS[dtype]


def power_of_two(k: Tensor, dtype: torch.dtype) -> Tensor:
    """2^k, exactly: made of its exponent bits.

    Args:
        k: Integers (...) in the normal range of ``dtype``: |k| ≤ 126 (float32), 1022 (float64).
        dtype: float32 or float64.

    Returns:
        A tensor (...) in ``dtype``.

    Raises:
        TypeError: Another dtype.
    """
    fmt = layout(dtype)
    return ((k.to(fmt.integer) + fmt.bias) << fmt.fraction_bits).view(dtype)


def power_parts(k: Tensor, dtype: torch.dtype, count: int) -> list[Tensor]:
    """Return ``count`` factors in the normal range with product 2^k, |k| clamped to ``count`` times it.

    All parts have the sign of k, so the partial products move monotonically and leave the range only where
    the result does.
    """
    bias = layout(dtype).bias
    parts = []
    for _ in range(count):
        part = k.clamp(1 - bias, bias)
        parts.append(power_of_two(part, dtype))
        k = k - part
    return parts


def ldexp(x: Tensor, k: Tensor, *, factor: Tensor | None = None, count: int = 3, out: Tensor | None = None) -> Tensor:
    """x·factor·2^k, rounded only by the factor wherever the result is normal (`torch.ldexp` computes 2^k inexactly).

    Args:
        x: float32 or float64; not modified unless it is ``out``.
        k: Integers that broadcast with x. Three parts span from the smallest denormal to the largest number, so
            clamping k changes no result.
        factor: In [1, 2), broadcasts with x.
        count: How many normal factors 2^k is made of; fewer where |k| is known to be small.
        out: Destination; allocated if None.

    Returns:
        ``out``, or a new tensor.

    Raises:
        TypeError: Another dtype.
    """
    first, *rest = power_parts(k, x.dtype, count)
    result = torch.mul(x, first if factor is None else first * factor, out=out)
    for part in rest:
        result = result.mul_(part)
    return result


def max_abs(A: Tensor, /) -> Tensor:
    """Return max|a_ij| of ``A`` (..., n, n) as (...); 0 for n = 0. Two reductions, no temporary matrix."""
    if A.shape[-1] == 0:
        return A.new_zeros(A.shape[:-2])
    return torch.maximum(A.amax((-2, -1)), -A.amin((-2, -1)))


def exponent_of(magnitude: Tensor, /) -> Tensor:
    """Return e (int32) with magnitude·2^-e in [1/2, 1); 0 for zero, infinity and NaN."""
    exponent = torch.frexp(magnitude).exponent
    return torch.where(magnitude.isfinite(), exponent, 0)


def binary_exponent(A: Tensor, /) -> Tensor:
    """Exponent e with max|a_ij|·2^-e in [1/2, 1), per matrix.

    Args:
        A: Matrices (..., n, n), float32 or float64.

    Returns:
        int32 tensor (...). Zero and non-finite matrices give 0.

    Raises:
        TypeError: Another dtype.
    """
    layout(A.dtype)
    return exponent_of(max_abs(A))


def scale_by_power_of_two(A: Tensor, e: Tensor, /, *, out: Tensor | None = None) -> Tensor:
    """A·2^-e, exactly.

    Exact also where 2^-e itself over- or underflows the dtype, and for denormal entries; only entries that
    the scaling takes below the smallest normal number are rounded (an absolute error of at most half the
    smallest denormal).

    Args:
        A: Matrices (..., n, n), float32 or float64; not modified.
        e: Integers (...), |e| at most twice the dtype's largest exponent (`binary_exponent` stays within).
        out: Destination (..., n, n); allocated if None.

    Returns:
        ``out``, or a new tensor.

    Raises:
        TypeError: Another dtype.
    """
    # Two parts reach 2^±252 (2^±2044), and frexp's exponents lie in [-148, 128] ([-1073, 1024]).
    first, second = power_parts(-e[..., None, None], A.dtype, 2)
    return torch.mul(A, first, out=out).mul_(second)


def unscale_root(Z: Tensor, e: Tensor, exponent: Fraction | int, /, *, out: Tensor | None = None) -> Tensor:
    """2^(e·α)·Z for the exponent α: from Z = A_s^α·B back to A^α·B, where A = 2^e·A_s.

    With α = q/s and e·q = s·d + r, 0 ≤ r < s, the factor is 2^(r/s) (rounded once) times 2^d (exact). So a
    change of e by a multiple of s changes the result by an exact power of two, and for r = 0 the undo is
    exact.

    Args:
        Z: Results (..., n, k) for the scaled matrix, float32 or float64; not modified unless it is ``out``.
        e: Integers (...), the exponent taken out by `scale_by_power_of_two`.
        exponent: α, e.g. ``Fraction(-1, p)`` for the inverse p-th root.
        out: Destination (..., n, k), may be ``Z`` itself; allocated if None.

    Returns:
        ``out``, or a new tensor (..., n, k).

    Raises:
        TypeError: Another dtype.
    """
    alpha = Fraction(exponent)
    numerator = e[..., None, None].to(torch.int64) * alpha.numerator
    whole = torch.div(numerator, alpha.denominator, rounding_mode="floor")
    rest = numerator - whole * alpha.denominator
    factor = torch.exp2(rest.to(torch.float64) / alpha.denominator).to(Z.dtype)
    return ldexp(Z, whole, factor=factor, out=out)

"""Whether Newton–Schulz steps in fp16 are predicted to be faster than LU, for a general matrix on a device.

Of an LU solve no time is in the table: it takes 5.9, 6.6, 7.3 and 7.6 times the Cholesky factorisation of the same size
that is (H200, float32, n = 256 … 4096, k = 64: 0.60, 2.44, 5.5 and 13.7 ms). A product of one plane is taken to cost
what `coarse32` does, a symmetric one and all that belongs to it (0.21 ms at n = 4096, and cuBLAS 0.19 ms for a whole
one). What κ is nobody knows before: the steps are those of κ = 300, with what a correction leaves there at most, and
the gain has to pay for the matrices where they are in vain, which cost up to 28 products.
"""

from __future__ import annotations

import math

import torch

from iroot_solve._cost import calls_ms, milliseconds
from iroot_solve._problem import Problem

LU_PER_CHOLESKY = 7.0
# Of LU over Newton–Schulz, as predicted.
WORTH = 1.3
# Steps, and of the contraction by a correction.
STEPS, CONTRACTION = 7, 0.05
# Torch calls: to scale and to begin, of a step with its look, of the last look and step, of a correction; of an LU
# solve with its certificate.
BEGIN_CALLS, SCHULZ_CALLS, LAST_CALLS, CORRECTION_CALLS, LU_CALLS = 50, 8, 20, 4, 120
# Of a correction with residuals in doubled precision, and the products it takes in the place of one.
DOUBLED_CALLS, DOUBLED_PRODUCTS = 16, 3
COLUMNS = 64


def newton_schulz_pays(problem: Problem) -> bool:
    """Whether `auto` tries them first: on a CUDA device, if they are predicted to take less by far."""
    if problem.A.device.type != "cuda" or problem.empty:
        return False
    n, k, batch = problem.n, problem.columns, problem.count
    bits = 64 if problem.dtype is torch.float64 else 32
    return WORTH * newton_schulz_ms(n, k, batch, bits, problem.tol, "cuda") < lu_ms(n, k, batch, bits, "cuda")


def lu_ms(n: int, k: int, batch: int, bits: int, device: str) -> float:
    """Factors, solves and the certificate, predicted; of a batch as fast as Cholesky's is."""
    return LU_PER_CHOLESKY * milliseconds(f"cholesky{bits}", n, batch, device) * _widths(k) + calls_ms(LU_CALLS, device)


def newton_schulz_ms(n: int, k: int, batch: int, bits: int, tol: float, device: str) -> float:
    """Products, looks, corrections and the certificate, predicted."""
    corrections = max(1, math.ceil(math.log(tol / 2) / math.log(CONTRACTION)))
    doubled = bits == 64
    residual = milliseconds("skinny64", n, batch, device) * (DOUBLED_PRODUCTS if doubled else 1)
    thin = (corrections + 2) * _widths(k) * (residual + milliseconds("skinny32", n, batch, device))
    calls = BEGIN_CALLS + SCHULZ_CALLS * STEPS + LAST_CALLS
    calls += corrections * (DOUBLED_CALLS if doubled else CORRECTION_CALLS)
    return (3 * STEPS + 2) * milliseconds("coarse32", n, batch, device) + thin + calls_ms(calls, device)


def _widths(k: int) -> int:
    """A matrix is read once for so many columns."""
    return math.ceil(k / COLUMNS)

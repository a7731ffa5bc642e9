"""How large the rounding error of a strategy will be, for the choice between them; the certificate has the last word.

Measured on dense random eigenbases (log-spaced, power law, clusters, one tiny eigenvalue; n = 16 … 1024, float32): the
coupled iteration 0.03 … 0.1·κu (positive powers 0.1 … 1, and up to 10 where few eigenvalues stand above many others);
eigh 0.2 … 1·κu/p for n = 16, 0.3 … 1.6 for 64, 0.4 … 3 for 256 and 1.4 … 4 for 1024 (p = 2 and 4). The constants lie
at or above the middle of these ranges; Cholesky's is a cautious guess: its backward error suggests a few κu at most.
On 1 … 16 columns, p = 1, 2, 4, n = 256 and 1024: Lanczos 0.2 … 1.0·κu/p, the Chebyshev series 0.15 … 0.65·κu/p, that in
the Cayley transform 0.08 … 0.4·κu/p, less for larger κ; the Chebyshev series by planes 0.01 … 0.18·κu/p for random B
(`_sums_by_planes`).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from iroot_kernels import precision

FLOOR = 8.0
ON_COLUMNS = {"lanczos": 0.7, "chebyshev": 0.35, "cayley": 0.2}
BY_PLANES = 0.2


def rounding_error(
    strategy: str, precision_name: str, kappa: Any, exponent: Fraction, refined: bool = False, n: int = 1024
) -> Any:
    """Predicted relative error of Z from rounding alone; a number for a number, an array for an array."""
    s, q = exponent.denominator, abs(exponent.numerator)
    u = precision(precision_name).unit_roundoff
    if strategy == "eigh":
        return u * (FLOOR + 0.3 * n**0.27 * q / s * kappa)
    if strategy in ON_COLUMNS:
        constant = ON_COLUMNS[strategy] if precision(precision_name).plane is None else BY_PLANES
        return u * (FLOOR + constant * q / s * kappa)
    if strategy == "cholesky":
        error = u * (FLOOR + 2.0 * kappa)
        return error * error + FLOOR * 2.0**-53 if refined else error
    constant = {1: 0.15, 2: 0.07}.get(s, 0.05) if exponent < 0 else 1.0
    return u * (FLOOR + constant * q * kappa)

"""Minimax polynomials for inverse roots, and the cheapest schedules made of them. NumPy only.

    x^(-1/p) on [lo, hi] ~ q_T(y_T) ... q_2(y_2) q_1(y_1),   y_1 = x,   y_{i+1} = y_i q_i(y_i)^p

Each q_i is the best relative approximation of y^(-1/p) on the interval reached; its minimax error bounds the
next interval, and the last one's bounds the error of the whole product.

    >>> from iroot_coeffs import plan
    >>> print(plan(2, kappa=100.0, tol=1e-3))
    p=2, κ=100: degrees 4-4, ε ≤ 6.1e-04, 7 products
"""

from ._chebyshev import chebyshev_expansion
from ._degree8 import Degree8
from ._named import MUON, NAMED, POLAR_EXPRESS, NamedSchedule, named
from ._planner import plan
from ._products import addition_chain, build_products, update_products
from ._quadratic import PRECOMPUTED_QUADRATIC_L005, build_pe_schedules, quadratic_steps
from ._schedule import Schedule
from ._step import Step, minimax

__version__ = "0.1.0"

__all__ = [
    "MUON",
    "NAMED",
    "POLAR_EXPRESS",
    "PRECOMPUTED_QUADRATIC_L005",
    "Degree8",
    "NamedSchedule",
    "Schedule",
    "Step",
    "addition_chain",
    "build_pe_schedules",
    "build_products",
    "chebyshev_expansion",
    "minimax",
    "named",
    "plan",
    "quadratic_steps",
    "update_products",
]

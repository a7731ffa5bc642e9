"""Coupled iterations for inverse p-th roots, and Krylov and Chebyshev methods that apply them, of matrix products.

Takes coefficients as plain numbers, so any schedule will do; see `iroot_coeffs` for optimal ones.
"""

from iroot_kernels._cayley import cayley_apply, cayley_coefficients, cholesky_inverse, multiplication
from iroot_kernels._chain import binary_chain
from iroot_kernels._chebyshev import chebyshev_apply
from iroot_kernels._coupled import CoupledIteration
from iroot_kernels._golub_kahan import golub_kahan_apply
from iroot_kernels._krylov import LanczosResult
from iroot_kernels._lanczos import lanczos_apply
from iroot_kernels._norms import frobenius_norms
from iroot_kernels._polynomial import Polynomial, apply_polynomial, increment
from iroot_kernels._precision import PRECISIONS, Precision, precision
from iroot_kernels._products import Products
from iroot_kernels._quadratic import (
    inverse_proot_pe_quadratic_coupled,
    inverse_proot_pe_quadratic_uncoupled,
    inverse_solve_pe_quadratic_coupled,
    quadratics,
)
from iroot_kernels._rank_k import symmetric_rank_k
from iroot_kernels._series import Counted, SeriesResult, cayley_series, chebyshev_series
from iroot_kernels._small_root import SmallResult, SmallRoot, small_matrices, small_roots
from iroot_kernels._symmetric import SYMMETRIC_DEGREES, has_form
from iroot_kernels._symmetric_part import scaled_symmetric_part
from iroot_kernels._symmetric_root import SymmetricRoot
from iroot_kernels._thin import PlaneMatrix, PlaneRecurrence
from iroot_kernels._tiling import Tiling, symmetric_products, tiling
from iroot_kernels._transpose import plus_transpose
from iroot_kernels._triple import TripleIteration
from iroot_kernels._uncoupled import UncoupledIteration
from iroot_kernels._workspace import Workspace

__version__ = "0.1.0"

__all__ = [
    "PRECISIONS",
    "SYMMETRIC_DEGREES",
    "Counted",
    "CoupledIteration",
    "LanczosResult",
    "PlaneMatrix",
    "PlaneRecurrence",
    "Polynomial",
    "Precision",
    "Products",
    "SeriesResult",
    "SmallResult",
    "SmallRoot",
    "SymmetricRoot",
    "Tiling",
    "TripleIteration",
    "UncoupledIteration",
    "Workspace",
    "apply_polynomial",
    "binary_chain",
    "cayley_apply",
    "cayley_coefficients",
    "cayley_series",
    "chebyshev_apply",
    "chebyshev_series",
    "cholesky_inverse",
    "frobenius_norms",
    "golub_kahan_apply",
    "has_form",
    "increment",
    "inverse_proot_pe_quadratic_coupled",
    "inverse_proot_pe_quadratic_uncoupled",
    "inverse_solve_pe_quadratic_coupled",
    "lanczos_apply",
    "multiplication",
    "plus_transpose",
    "precision",
    "quadratics",
    "scaled_symmetric_part",
    "small_matrices",
    "small_roots",
    "symmetric_products",
    "symmetric_rank_k",
    "tiling",
]

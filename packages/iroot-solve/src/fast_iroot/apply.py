"""Applying the root of a normalized matrix."""

from iroot_kernels import (
    inverse_proot_pe_quadratic_coupled,
    inverse_proot_pe_quadratic_uncoupled,
    inverse_solve_pe_quadratic_coupled,
)
from iroot_solve import apply_inverse_root_auto

__all__ = [
    "apply_inverse_root_auto",
    "inverse_proot_pe_quadratic_coupled",
    "inverse_proot_pe_quadratic_uncoupled",
    "inverse_solve_pe_quadratic_coupled",
]

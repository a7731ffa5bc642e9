"""Applying the root of a normalized matrix."""

from iroot_kernels import (
    inverse_proot_pe_quadratic_coupled,
    inverse_proot_pe_quadratic_uncoupled,
    inverse_solve_pe_quadratic_coupled,
)
from iroot_solve import (
    apply_inverse_root_auto,
    apply_inverse_root_gram_rhs_spd,
    apply_inverse_root_gram_spd,
    hybrid_pe_nsrc_solve,
)

__all__ = [
    "apply_inverse_root_auto",
    "apply_inverse_root_gram_rhs_spd",
    "apply_inverse_root_gram_spd",
    "hybrid_pe_nsrc_solve",
    "inverse_proot_pe_quadratic_coupled",
    "inverse_proot_pe_quadratic_uncoupled",
    "inverse_solve_pe_quadratic_coupled",
]

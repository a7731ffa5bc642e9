"""Coefficients: the numpy functions of `iroot_coeffs`; `build_pe_schedules` here makes a tensor."""

from iroot_coeffs import Schedule, Step, chebyshev_expansion, minimax, named, plan
from iroot_solve import build_pe_schedules

__all__ = ["Schedule", "Step", "build_pe_schedules", "chebyshev_expansion", "minimax", "named", "plan"]

"""Scaling, spectral bounds and ridge of symmetric matrices, each with a record of how it is undone."""

from iroot_precond._bounds import (
    frobenius_bound,
    inflation,
    lanczos_bound,
    power_guess,
    row_sum_bound,
    scaled_bound,
    square_frobenius_bound,
    upper_bound,
)
from iroot_precond._congruence import (
    Congruence,
    Scalar,
    aol_scaling,
    frobenius_scaling,
    jacobi_scaling,
    row_norm_scaling,
    ruiz_scaling,
)
from iroot_precond._exact_product import symmetric_action
from iroot_precond._gram import precond_gram_dual_spd, precond_gram_spd
from iroot_precond._lanczos import LanczosRun, lanczos, ritz_extremes
from iroot_precond._precond import ESTIMATORS, MODES, PrecondStats, precond_spd
from iroot_precond._ridge import add_ridge, ridge_amount
from iroot_precond._scaling import binary_exponent, ldexp, power_of_two, scale_by_power_of_two, unscale_root
from iroot_precond._symmetry import SymmetryProbe, symmetric_part, symmetry_defect, symmetry_defect_probe

__version__ = "0.1.0"

__all__ = [
    "ESTIMATORS",
    "MODES",
    "Congruence",
    "LanczosRun",
    "PrecondStats",
    "Scalar",
    "SymmetryProbe",
    "add_ridge",
    "aol_scaling",
    "binary_exponent",
    "frobenius_bound",
    "frobenius_scaling",
    "inflation",
    "jacobi_scaling",
    "lanczos",
    "lanczos_bound",
    "ldexp",
    "power_guess",
    "power_of_two",
    "precond_gram_dual_spd",
    "precond_gram_spd",
    "precond_spd",
    "ridge_amount",
    "ritz_extremes",
    "row_norm_scaling",
    "row_sum_bound",
    "ruiz_scaling",
    "scale_by_power_of_two",
    "scaled_bound",
    "square_frobenius_bound",
    "symmetric_action",
    "symmetric_part",
    "symmetry_defect",
    "symmetry_defect_probe",
    "unscale_root",
    "upper_bound",
]

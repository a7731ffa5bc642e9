"""Scaling, bounds and ridge: `iroot_precond`."""

from iroot_precond import (
    PrecondStats,
    add_ridge,
    precond_gram_dual_spd,
    precond_gram_spd,
    precond_spd,
    ridge_amount,
    ritz_extremes,
    upper_bound,
)

__all__ = [
    "PrecondStats",
    "add_ridge",
    "precond_gram_dual_spd",
    "precond_gram_spd",
    "precond_spd",
    "ridge_amount",
    "ritz_extremes",
    "upper_bound",
]

"""Rival routines as arms: code of registry packages, and published iterations written anew from their formulas.

None has its authors' code in this repository; formulas and coefficients carry over, with their source on the arm's
page. Scaling, damping, number of steps and stopping rule are the authors'; the ridge of the problem is added to
the diagonal, and what an iteration computes and nobody reads (a product with I, an iterate after the last step) is left
out. All run in the dtype of the problem.
"""

from iroot_solve.bench._arm import Arm
from iroot_solve.bench.rivals._contour_integral import CONTOUR_INTEGRAL
from iroot_solve.bench.rivals._coupled_newton import COUPLED_NEWTON
from iroot_solve.bench.rivals._denman_beavers import DENMAN_BEAVERS
from iroot_solve.bench.rivals._newton_schulz import NEWTON_SCHULZ
from iroot_solve.bench.rivals._polar_factor import POLAR_FACTOR
from iroot_solve.bench.rivals._pytorch_optimizer import PYTORCH_OPTIMIZER
from iroot_solve.bench.rivals._torchspd import TORCHSPD

RIVALS: tuple[Arm, ...] = (
    *COUPLED_NEWTON,
    *NEWTON_SCHULZ,
    *POLAR_FACTOR,
    *DENMAN_BEAVERS,
    *PYTORCH_OPTIMIZER,
    *CONTOUR_INTEGRAL,
    *TORCHSPD,
)

__all__ = ["RIVALS"]

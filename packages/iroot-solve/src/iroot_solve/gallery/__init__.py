"""Matrices that are hard to take roots of, with the status that a solver has to end with, and the truth to judge it by.

    >>> from iroot_solve.gallery import CASES
    >>> case = CASES[0]
    >>> case.label, case.status, case.build().A.shape
    ('log-spaced 1e+02 n=96 float32', 'converged', torch.Size([96, 96]))

`python -m iroot_solve.gallery` solves them all and prints the table; truth beyond κ = 1e8 in float64 needs mpmath.
"""

from iroot_solve.gallery._cases import CASES, POWERS, Case
from iroot_solve.gallery._matrices import Matrix
from iroot_solve.gallery._truth import KINDS, Truth, relative_error

__all__ = ["CASES", "KINDS", "POWERS", "Case", "Matrix", "Truth", "relative_error"]

"""The polar factor from eigenvectors or singular vectors in float64, where an iteration is slower or cannot decide.

svd    U·Vᵀ on the numerical range: backward stable, for any G.
eigh   GᵀG = V·Λ·Vᵀ, U = G·V·Λ^(-1/2)·Vᵀ: several times faster. Orthogonality is lost by κ²·u: enough for whatever was
       passed in float32, seldom for float64. Λ is known to about n·u·λ_max; where an eigenvalue lies so close to the
       square of the cut, svd decides.
"""

from __future__ import annotations

import numpy as np
import torch
from iroot_precond import binary_exponent, scale_by_power_of_two
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._polar_certificate import measure_partial
from iroot_solve._polar_ledger import PolarLedger
from iroot_solve._polar_result import PolarProblem

# Errors of eigenvalues, in n·u·λ_max.
NOISE = 8.0


def by_eigh(problem: PolarProblem, index: Array, ledger: PolarLedger) -> Array:
    """Write what meets the tolerance beyond doubt; returns the others."""
    G = _scaled(problem, index)
    values, V = torch.linalg.eigh(torch.bmm(G.mT, G))
    noise = NOISE * problem.G.shape[-1] * 2.0**-53 * values[:, -1:]
    doubtful = (values - problem.cut**2 * values[:, -1:]).abs() <= noise
    sigma = values.clamp_min(0.0).sqrt()
    kept = sigma > problem.cut * sigma[:, -1:]
    inverse = torch.where(kept, 1 / torch.where(kept, sigma, 1.0), 0.0)
    X = torch.bmm(torch.bmm(G, V * inverse.unsqueeze(-2)), V.mT)
    measure = measure_partial(G, X, sigma * kept, V)
    rank = kept.sum(-1).double().masked_fill(doubtful.any(-1), -1.0)
    found = torch.stack((measure.error, measure.defect, rank)).cpu().numpy()
    good = (found[0] <= problem.tol) & (found[2] >= 0)
    chosen = X[torch.from_numpy(np.flatnonzero(good)).to(X.device)]
    ledger.products["eigh"] += len(index)
    ledger.write(
        index[good], chosen, found[:2, good], found[2, good].astype(np.int64), ("eigh", "fp64", "torch: eigenvectors")
    )
    rest: Array = index[~good]
    return rest


def by_svd(problem: PolarProblem, index: Array, ledger: PolarLedger) -> None:
    """Write all of them, whatever the error."""
    G = _scaled(problem, index)
    U, sigma, Vh = torch.linalg.svd(G, full_matrices=False)
    kept = sigma > problem.cut * sigma[:, :1]
    X = torch.bmm(U * kept.unsqueeze(-2), Vh)
    measure = measure_partial(G, X, sigma * kept, Vh.mT)
    found = torch.stack((measure.error, measure.defect, kept.sum(-1).double())).cpu().numpy()
    ledger.products["svd"] += len(index)
    ledger.write(index, X, found[:2], found[2].astype(np.int64), ("svd", "fp64", "torch: singular vectors"))


def _scaled(problem: PolarProblem, index: Array) -> Tensor:
    """2^-g·G in float64, entries at most 1."""
    G = problem.rows(index).double()
    return scale_by_power_of_two(G, binary_exponent(G))

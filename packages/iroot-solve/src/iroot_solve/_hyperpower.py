"""A⁻¹ = (AᵀA)⁻¹·Aᵀ by matrix products alone: residual polynomials from the start X₀ = c·Aᵀ.

The spectrum of AᵀA lies in (0, σ_max²], so X₀ = c·Aᵀ with c = 1/σ_max² leaves a residual I − X₀·A with eigenvalues in
[0, 1) for every nonsingular A (Ben-Israel & Cohen 1966), and a polynomial in it that is small there makes it small. The
best one on [σ_min², σ_max²] is the minimax one, of p = 1 for the symmetric Y = c·AᵀA (`iroot_coeffs.plan`): the
hyperpower method with planned coefficients. It ends where refinement with A itself is cheaper, so that what forming AᵀA
loses, κ(A)²·u, is an error of the approximate inverse and none of Z.
"""

from __future__ import annotations

import torch
from iroot_kernels import CoupledIteration, Workspace, precision
from iroot_precond import inflation, power_of_two, ritz_extremes, scaled_bound
from torch import Tensor

from iroot_solve._bridge import polynomial
from iroot_solve._certificate import Array
from iroot_solve._choose import LANCZOS_STEPS, on_grid
from iroot_solve._hybrid import HybridSchedule, hybrid_schedule
from iroot_solve._refine import CONTRACTS
from iroot_solve._task import MAX_KAPPA
from iroot_solve._thin import thin

LOOK_STEPS = 12
# κ(A)²·u up to this is an inverse that refinement can use.
LARGEST_NOISE = 0.05


class Hyperpower:
    """F = c·X·Aᵀ with X ≈ (c·AᵀA)⁻¹; NaN for matrices too ill-conditioned for the precision.

    Args:
        A: `(b, n, n)` float64, entries at most 1.
        name: Precision of the products.
        tol: What refinement will be asked for.
        k_over_n: Columns of B over n.
        ws: Where X lives.

    Attributes:
        schedule: Steps and corrections; `None` where no matrix is well-conditioned enough.
        square: Products n×n by n×n.
        steps: Of the iteration.
    """

    def __init__(self, A: Tensor, name: str, tol: float, k_over_n: float, ws: Workspace) -> None:
        how = precision(name)
        self.dtype, self.square, self.steps = how.storage, 1, 0
        self.schedule: HybridSchedule | None = None
        self._A = ws.buffer("hyperpower A", A.shape, how.storage, A.device).copy_(A)
        Y = torch.bmm(self._A.mT, self._A, out=ws.like("hyperpower Y", self._A))
        self._c, low, high = _ends(Y)
        # The matrices of a batch differ by 2 in scale, and the grid of plans widens by 2^(1/4).
        usable = high <= min(LARGEST_NOISE / how.unit_roundoff, MAX_KAPPA / 4) * low
        self._X = torch.full_like(Y, torch.nan)
        if usable.any():
            self._iterate(Y, name, *on_grid(float(low[usable].min()), float(high[usable].max())), tol, k_over_n, ws)
            usable &= self._finished(Y)
            self._X.masked_fill_(~torch.from_numpy(usable).to(Y.device)[:, None, None], torch.nan)

    def _iterate(
        self, Y: Tensor, name: str, low: float, high: float, tol: float, k_over_n: float, ws: Workspace
    ) -> None:
        self.schedule = hybrid_schedule(max(high / low, 1.0), max(tol, 1e-14), min(k_over_n, 1.0))
        root = CoupledIteration(Y, None, p=1, precision=name, workspace=ws)
        steps = self.schedule.steps.rescaled(high).steps
        for t, step in enumerate(steps, start=1):
            root.step(polynomial(step), last=t == len(steps))
        assert root.X is not None
        self._X, self.square, self.steps = root.X, 1 + root.products.square, root.steps

    def _finished(self, Y: Tensor) -> Array:
        """Whether X·Y has no eigenvalue far below 1, `(b,)`.

        The plan began at a Ritz value, which a single tiny eigenvalue may escape. F then leaves its direction out of
        every solution, and out of every residual that it is applied to; beside a cluster at 1 Ritz values do see it.
        """
        low, _, _ = ritz_extremes(lambda V: thin(self._X, thin(Y, V)), Y, LOOK_STEPS)
        found: Array = (low > 1 - CONTRACTS).cpu().numpy()
        return found

    def solve(self, R: Tensor, out: Tensor | None = None) -> Tensor:
        """c·X·Aᵀ·R. Cost: two products with k columns."""
        return torch.mul(thin(self._X, thin(self._A.mT, R)), self._c, out=out)

    def transposed(self, R: Tensor) -> Tensor:
        """c·A·X·R."""
        return thin(self._A, thin(self._X, R)) * self._c


def _ends(Y: Tensor) -> tuple[Tensor, Array, Array]:
    """Scales Y by a power of two c, so that its bound lies in [1/2, 1).

    Returns:
        c `(b, 1, 1)`, where the spectrum is thought to begin (half a Ritz value, which is from above) and known to end.
    """
    low, high, beta = ritz_extremes(lambda V: thin(Y, V), Y, LANCZOS_STEPS)
    bound = torch.minimum(scaled_bound(Y, "min", 1.0, lanczos_steps=0), (high + beta) * inflation(Y.shape[-1], Y.dtype))
    exponent = torch.frexp(bound).exponent
    c = power_of_two(-exponent, Y.dtype)
    Y.mul_(c[:, None, None])
    found = (torch.stack((low / 2, bound)) * c).double().cpu().numpy()
    return c[:, None, None], found[0], found[1]

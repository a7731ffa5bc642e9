"""(GᵀG + r·I)^α·B for G with fewer rows than columns: nothing n×n is formed.

With f(λ) = λ^α, GGᵀ = Q·Λ·Qᵀ:

    f(GᵀG + r·I) = f(r)·I + Gᵀ·h(GGᵀ)·G,   h(λ) = (f(λ + r) − f(r))/λ = r^α·expm1(α·log1p(λ/r))/λ,

which is α·r^(α−1) at λ = 0; for r = 0 (α > 0, or the pseudo-inverse) f(0) = 0 and h(λ) = λ^(α−1) above the cut. The two
terms cancel where B lies in the range of Gᵀ, by ‖Z‖/(f(r)·‖B‖); all of it is float64, and the certificate's
amplification says what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from iroot_precond import ldexp, power_of_two, scale_by_power_of_two
from torch import Tensor

from iroot_solve._certificate import Root, appraise, measure
from iroot_solve._device import on_device
from iroot_solve._gram_matrix import GramMatrix
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._problem import Problem
from iroot_solve._report import Report
from iroot_solve._result import DirectSchedule, SolveResult, SolveWorkspace, Status
from iroot_solve._scales import lost, magnitude
from iroot_solve._solve import destination
from iroot_solve._thin import thin


@dataclass(frozen=True)
class WidePower:
    """X = f(r)·I + Gᵀ·h(GGᵀ)·G and its powers.

    Attributes:
        G: `(b, m, n)` float64, m < n.
        values, vectors: Λ `(b, m)`, at least 0, and Q `(b, m, m)` of GGᵀ.
        ridge: r `(b,)`, in units of GGᵀ.
        alpha: α.
    """

    G: Tensor
    values: Tensor
    vectors: Tensor
    ridge: Tensor
    alpha: float

    def power(self, j: int, V: Tensor, out: Tensor | None = None) -> Tensor:
        """X^j·V for V `(b, n, k)`, into `out`. Cost: (4·m·n + 4·m²)·k flops."""
        if j == 0:
            return V
        h = self._h(j * self.alpha).unsqueeze(-1)
        U = thin(self.vectors, thin(self.vectors.mT, torch.bmm(self.G, V)) * h)
        Z = torch.mul(V, self._f0(j * self.alpha)[:, None, None], out=out)
        return Z.baddbmm_(self.G.mT, U)

    def norm(self) -> Tensor:
        """‖X‖_F `(b,)`."""
        m, n = self.G.shape[-2:]
        shifted = self.values + self.ridge.unsqueeze(-1)
        f = torch.where(shifted > 0, shifted, 1.0).pow(self.alpha) * (shifted > 0)
        return (f.square().sum(-1) + (n - m) * self._f0(self.alpha).square()).sqrt()

    def _f0(self, alpha: float) -> Tensor:
        return torch.where(self.ridge > 0, self.ridge, 1.0).pow(alpha) * (self.ridge > 0)

    def _h(self, alpha: float) -> Tensor:
        r, values = self.ridge.unsqueeze(-1), self.values
        positive = torch.where(values > 0, values, 1.0)
        damped = r.clamp_min(torch.finfo(r.dtype).tiny)
        h = damped.pow(alpha) * torch.expm1(alpha * torch.log1p(positive / damped)) / positive
        h = torch.where(values > 0, h, alpha * damped.pow(alpha - 1))
        plain = positive.pow(alpha - 1) * (values > 0)
        return torch.where(r > 0, h, plain)


def spectrum_of(G: Tensor) -> tuple[Tensor, Tensor]:
    """Λ `(b, m)` and Q `(b, m, m)` of GGᵀ, of zero where G is not finite. Cost: n·m²/2 multiply-adds and one eigh."""
    finite = magnitude(G).isfinite()
    masked = G if bool(finite.all()) else G.masked_fill(~finite[:, None, None], 0.0)
    values, vectors = torch.linalg.eigh(torch.bmm(masked, masked.mT))
    return values, vectors


def solve_wide(problem: Problem, spectrum: tuple[Tensor, Tensor], options: Options, ws: SolveWorkspace) -> SolveResult:
    """The solver for m < n; the problem's A is not there.

    Args:
        problem: Holds G and B.
        spectrum: `spectrum_of(G)`.
        options: The call's settings.
        ws: Where Z lives until it is in the caller's units.

    Raises:
        ValueError: A negative power without a ridge; a strategy other than auto or eigh.
        IrootError: As `solve_gram_spd`.
    """
    with on_device(problem.A.device), torch.no_grad(), np.errstate(all="ignore"):
        ledger = Ledger.empty(destination(problem, options.out))
        _solve(problem, spectrum, options, ledger, ws)
        return Report(problem, options, ws, ledger).finish()


def check_wide(problem: Problem, options: Options) -> None:
    """ValueError for what cannot be done with m < n."""
    if problem.exponent < 0 and not options.damping and not options.pinv:
        assert problem.gram is not None
        m, n = problem.gram.G.shape[-2:]
        raise ValueError(
            f"G has {m} rows and {n} columns: GᵀG is singular without a ridge. Pass ridge > 0 (or ridge_rel), use the "
            "dual form apply_inverse_root_gram_rhs_spd where the right-hand side is Gᵀ·B, or on_singular='pinv'"
        )
    if options.deferred:
        raise ValueError("verify='deferred' does not apply to m < n, where an eigendecomposition is read back")
    if options.strategy not in ("auto", "eigh"):
        raise ValueError(f"strategy={options.strategy!r} does not apply to m < n; those that do: auto, eigh")


def _solve(
    problem: Problem, spectrum: tuple[Tensor, Tensor], options: Options, ledger: Ledger, ws: SolveWorkspace
) -> None:
    source, alpha, damping = problem.gram, problem.exponent, options.damping
    assert source is not None
    B, f, usable = scaled_right_hand_side(problem, ws)
    G = source.G if bool(usable.all()) else source.G.masked_fill(~usable[:, None, None], 0.0)
    unit = power_of_two(2 * source.exponent, torch.float64)
    ridge = damping.ridge / unit + damping.ridge_rel * G.square().sum((-2, -1)) / problem.n
    values, vectors = spectrum
    cut = options.cut(problem)
    if cut is not None:
        values = values.masked_fill(values <= cut * values[:, -1:], 0.0)
        ledger.cut = (cut * values[:, -1] * unit).cpu().numpy()
        ledger.rank = (values > 0).sum(-1).cpu().numpy()
    X = WidePower(G, values.clamp_min(0.0), vectors, ridge, float(alpha))
    Z = X.power(1, B, ws.like("wide Z", B))
    root = Root(X.power, roundoff=2.0**-53, norm=X.norm())
    A = GramMatrix(G, torch.zeros_like(f), ridge)
    measured = measure(root, A, B, Z, alpha, options.seed).cpu().numpy() if options.verify else None
    scaled = magnitude(Z)
    undo = 2 * source.exponent * alpha.numerator // alpha.denominator + f
    ledger.Z.copy_(ldexp(Z, undo[:, None, None], out=Z))
    largest = values[:, -1].clamp_min(0.0) + ridge
    ledger.lambda_max, ledger.lambda_min, ledger.ridge = (torch.stack((largest, ridge, ridge)) * unit).cpu().numpy()
    if measured is not None:
        found = appraise(measured, problem.n, problem.columns, root, alpha)
        gone = lost(magnitude(ledger.Z), scaled, problem.dtype).cpu().numpy()
        ledger.error = np.where(gone, np.inf, found.error)
        ledger.residual, ledger.amplification = found.residual, found.amplification
    ledger.codes = np.where(usable.cpu().numpy(), Status.stagnated, Status.nonfinite_input).astype(np.int8)
    m = G.shape[-2]
    ledger.strategy, ledger.precision = "eigh", "fp64"
    plan = f"eigh of GGᵀ ({m}×{m}) in fp64: f(r)·B + Gᵀ·h(GGᵀ)·G·B, f(λ) = λ^({alpha})"
    ledger.schedule = DirectSchedule("eigh", plan)
    ledger.products = {"eigh": problem.count, "columns": problem.columns}


def scaled_right_hand_side(problem: Problem, ws: SolveWorkspace) -> tuple[Tensor, Tensor, Tensor]:
    """2^-f·B in float64 with entries at most 1 (I for the root), f `(b,)`, and which matrices are finite."""
    assert problem.gram is not None
    G, B = problem.gram.G, problem.B
    usable = magnitude(G).isfinite()
    if B is None:
        eye = torch.eye(problem.n, dtype=torch.float64, device=G.device).expand(problem.count, -1, -1)
        return eye, torch.zeros(problem.count, dtype=torch.int32, device=G.device), usable
    size = magnitude(B)
    fine = size.isfinite()
    f = torch.frexp(torch.where(fine, size, 1.0)).exponent
    wide = ws.buffer("B wide", B.shape, torch.float64, B.device).copy_(B)
    wide = scale_by_power_of_two(wide, f, out=wide).masked_fill_(~fine[:, None, None], 0.0)
    return wide, f, usable & fine

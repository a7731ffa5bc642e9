"""What `orthogonalize` reports, and what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from iroot_kernels import precision as named_precision
from torch import Tensor

from iroot_solve._polar_products import best
from iroot_solve._problem import TOLERANCES, check_matrix
from iroot_solve._result import Status

ON_FAILURE = ("raise", "warn", "nan")
STRATEGIES = ("auto", "plain", "gram", "eigh", "svd")


@dataclass(frozen=True)
class PolarStats:
    """What was done and how well it worked; tensors are shaped like the batch.

    Attributes:
        status_code: `Status` of every matrix, int8: converged, stagnated, nonfinite_input, or unverified (fixed steps).
        error: Estimated ‖U_computed − U‖_F/√r before rounding to the output's dtype; NaN where unverified.
        defect: ‖UᵀU − P‖_F/√r of the same, P the projection onto the rows of U (I where the rank is full).
        rank: r, the number of singular values above the cut, int64; −1 where unverified.
        strategy: plain, gram, eigh, svd: the last one that gave answers.
        precision: Its precision.
        backend: What computed its products, `triton` or `torch`, and why.
        products: Work by kind: `square` (products n×n×n, n the smaller side), `rectangular` (n×n×m), `eigh` and `svd`
            (matrices). By symmetric products (`backend`) all of the square ones are halves, and half of the others.
        steps: Steps of the iteration in all attempts.
        fallbacks: What had to be tried after a failure, in order: fp64, eigh, svd.
    """

    status_code: Tensor
    error: Tensor
    defect: Tensor
    rank: Tensor
    strategy: str
    precision: str
    products: dict[str, int]
    steps: int
    backend: str = "torch"
    fallbacks: tuple[str, ...] = ()

    @property
    def status(self) -> Any:
        """Names of the outcomes: one string without a batch, else nested lists (waits for the device)."""
        return _names(self.status_code.tolist())

    @property
    def converged(self) -> Tensor:
        """True where the estimated error meets the tolerance."""
        return self.status_code == Status.converged


def _names(codes: Any) -> Any:
    return [_names(code) for code in codes] if isinstance(codes, list) else Status(codes).name


class PolarResult(NamedTuple):
    """Unpacks as `U, stats`."""

    U: Tensor
    stats: PolarStats


@dataclass(frozen=True)
class PolarProblem:
    """U = G·(GᵀG)^(-1/2), as a flat batch with its longer side down.

    Attributes:
        G: `(b, m, n)`, m ≥ n, the caller's numbers.
        shape: Of what was passed.
        tol: Target of ‖U_computed − U‖_F/√r.
        cut: Singular values up to this share of the largest are zero.
        strategy, precision, on_failure, seed: As in `orthogonalize`.
    """

    G: Tensor
    shape: torch.Size
    tol: float
    cut: float
    strategy: str
    precision: str
    on_failure: str
    seed: int

    @property
    def batch(self) -> torch.Size:
        return self.shape[:-2]

    @property
    def wide(self) -> bool:
        """G was passed with more columns than rows."""
        return self.shape[-1] > self.shape[-2]

    @property
    def precisions(self) -> tuple[str, ...]:
        """To be tried, in order."""
        if self.precision != "auto":
            return (self.precision,)
        if self.G.dtype is torch.float64:
            return ("fp64",)
        return best(self.G.device, self.G.shape[-1]), "fp64"

    @property
    def fixed(self) -> str:
        """The precision of given steps: by halves, 16-bit numbers are multiplied as they are, in one plane of fp16."""
        first = self.precisions[0]
        narrow = self.G.element_size() == 2 and self.precision == "auto" and first == "fp16x3"
        return "fp16" if narrow else first

    def rows(self, index: Any) -> Tensor:
        """G of the matrices at `index`, an array."""
        G = self.G
        return G if len(index) == G.shape[0] else G[torch.from_numpy(index).to(G.device)]

    def destination(self) -> tuple[Tensor, Tensor]:
        """A new U in the caller's shape, and the same memory as `(b, m, n)`."""
        U = torch.empty(self.shape, dtype=self.G.dtype, device=self.G.device)
        flat = U.view(self.G.shape[0], *self.shape[-2:])
        return U, flat.mT if self.wide else flat


def read_problem(
    G: Tensor,
    *,
    tol: float | None,
    rtol: float | None,
    strategy: str,
    precision: str,
    on_failure: str,
    seed: int,
) -> PolarProblem:
    """Check and flatten.

    Raises:
        TypeError: Not a tensor, or a dtype that is not supported.
        ValueError: Another argument out of range, by name.
    """
    check_matrix("G", G)
    _check_settings(strategy, precision, on_failure, G.dtype)
    tol = TOLERANCES[G.dtype] if tol is None else tol
    if not 0 < tol < 1:
        raise ValueError(f"tol={tol!r} must lie in (0, 1)")
    m, n = max(G.shape[-2:]), min(G.shape[-2:])
    u = torch.finfo(torch.float64 if G.dtype is torch.float64 else torch.float32).eps / 2
    cut = min(m * u, 0.5) if rtol is None else rtol
    if not 0 <= cut < 1:
        raise ValueError(f"rtol={rtol!r} must lie in [0, 1): a share of the largest singular value")
    tall = G.mT if G.shape[-1] > G.shape[-2] else G
    flat = tall.reshape(G.shape[:-2].numel(), m, n)
    return PolarProblem(flat, G.shape, float(tol), float(cut), strategy, precision, on_failure, seed)


def _check_settings(strategy: str, precision: str, on_failure: str, dtype: torch.dtype) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r} is not one of {', '.join(STRATEGIES)}")
    if on_failure not in ON_FAILURE:
        raise ValueError(f"on_failure={on_failure!r} is not one of {', '.join(ON_FAILURE)}")
    if precision != "auto" and named_precision(precision).name != "fp64" and dtype is torch.float64:
        raise ValueError(f"precision={precision!r} would round a float64 G: pass 'fp64' or 'auto', or G.float()")

"""A⁻¹ of a general A by matrix products in one plane of fp16: an approximate inverse, for refinement to use.

With X₀ = Aᵀ, Y = X·A and a quadratic q a step is

    X ← q(Y)·X,   Y' = X·A again,   I − Y' = I − Y·q(Y) = T₃((hi + lo − 2·Y)/(hi − lo)) / T₃((hi + lo)/(hi − lo)),

the best residual polynomial of degree 3 on [lo, hi] (Schulz 1933 and Ben-Israel & Cohen 1966 have 1 − y·q(y) =
(1 − y)²). Y₀ = AᵀA has its eigenvalues σ² in (0, hi]. An eigenvalue y ≪ lo becomes T₃'/T₃·2/(hi − lo)·y and the
interval [1 − ε, 1 + ε]: over the end of that it gains 8.4 with lo = hi/40, where there is far to go, and 7.4 with
lo = hi/12, where there is not (at most 9, for lo → 0). A step takes three products, and from κ it takes

    T = 1 + log(κ²·s)/log 8 of them, rounded up:  κ = 10, 10², 10³: 3–4, 6, 8 steps, 12, 18, 24 products,

where s is the bound of σ², ‖Y₀²‖_F^½, over the largest: 1 to n^¼ (1.5 to 4 for the spectra below). So κ² enters, but
by its logarithm: at n = 4096, where a product takes 0.19 ms of an H200, 2.3, 3.5 and 4.6 ms.

What rounding does, u = 2^-11. Y is computed from A and X each time, so that errors do not add up, and an error E of Y
or q(Y), whatever made it, is one of E·Y, relative to every y; that is why this bears 11 bits where AᵀA formed once,
as in `_hyperpower`, has lost all below κ²·u = 1. What rounding X and A to 16 bits does is not relative: δX has entries
of u/√3 of those of X, independent ones, and δX·A the norm

    η = 2·u/√3·‖X‖_F/√n·σ_max,  at the end 2·u/√3·κ·ϱ  with ϱ² the mean of (σ_min/σ_i)², 1/n … 1.

It widens the interval of the next step, [1 − ε, 1 + ε + η]. The last product is written in float32: of that η is left
what A rounded to 16 bits makes, X·δA, about as much in norm and less in the mean. A correction Z ← Z + X·(B − A·Z) with
float64 residuals leaves G = I − X·A of an error; measured for six of them in the mean, of Gaussian vectors, and ‖G‖₂
(n = 256, dense random bases; σ logarithmic, half of them 1/κ, all but four 1/κ, one 1/κ and the others ½ … 1):

    κ          log            half           all but four   one
    10         0.125 0.14     0.002 0.003    0.001 0.002    0.002 0.003
    100        0.003 0.008    0.013 0.026    0.006 0.009    0.011 0.021
    1,000      0.016 0.064    0.11  0.26     0.025 0.066    0.025 0.16
    3,000      0.041 0.18     –              –              0.090 0.50
    10,000     –              –              –              0.037 1.6

So one plane serves to κ = 10³ however the singular values lie, beyond it where few of them are small (Gaussian
matrices: one), and 1 to 5 corrections bring 5e-5. Where η comes near 1 it does not serve, and two planes, of u = 2^-22,
take 9 products a step: more than LU.

Two things can go wrong, and are looked at in every step: a σ that is not there yet, which the mean square of I − Y over
Gaussian vectors V shows unless it is a lone one, and (I − Y)^8·V in any case; and η ≥ 1, where no inverse is to be had.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._certificate import Array
from iroot_solve._hybrid import corrections_for
from iroot_solve._refine import gaussian
from iroot_solve._schulz_products import MARGIN, PLANE, UNIT, Quadratic, SchulzProducts, quadratic

# lo/hi of a step while there is far to go and of one that may be the last but one: less gains little, and brings 1 − ε,
# and what rounding adds to it, near 0.
FAR, CLOSE = 1 / 40, 1 / 12
# The root mean square of 1 − y from which there is far to go.
FAR_SHARE = 0.7
MOST_STEPS = 11
# η from which an inverse is none, or, where there is far to go, will be none; and the most an interval is widened by.
MOST_NOISE, FAR_NOISE, WIDENED = 1.2, 0.3, 0.5
# The mean square of I − Y under which it is worth a look at its largest eigenvalue, and that from which the last step
# goes.
NEAR, LAST = 0.45, 0.6
COLUMNS, CHAIN = 8, 8
# Of an eigenvalue of I − Y that is read from vectors.
SEEN_SHARE, SEEN_MORE = 1.15, 0.02
# Of η, by a correction: 0.03 to 0.3 were seen.
LEFT_OF_NOISE = 0.2
# And of what Y and q(Y) in 16 bits leave, relative to every y: 2u was seen.
ROUNDED = 4 * UNIT
# η over ‖X‖_F/√n·σ_max.
NOISE = 2 / 3**0.5 * UNIT


class NewtonSchulz:
    """X ≈ A⁻¹ in float32; NaN for matrices that it cannot serve.

    Args:
        A: `(b, n, n)` float64, entries at most 1.
        ws: Where everything lives.
        seed: Of the vectors that are looked at.

    Attributes:
        X: `(b, n, n)`.
        highest: A bound of σ_max `(b,)`.
        found: There is one for some matrix.
        left: Of an error, by one correction, as predicted.
        noise: η before the last step.
        kappa: The bound of σ_max over the smallest σ that takes as many steps to where the last one began.
    """

    dtype = torch.float32

    def __init__(self, A: Tensor, ws: Workspace, seed: int) -> None:
        self.left, self.noise, self.kappa = 1.0, np.inf, np.inf
        b, n = A.shape[:2]
        self.products = SchulzProducts(A, ws)
        self.V = probes(n, A.device, seed).expand(b, n, COLUMNS)
        self.X = self.products.X
        hi, scale = self._begin()
        self._finish(self._run(hi), scale)
        self.found = bool(self._usable.any())

    @property
    def square(self) -> int:
        """Products n×n×n."""
        return self.products.square

    @property
    def steps(self) -> int:
        """Steps."""
        return self.products.steps

    def _begin(self) -> tuple[float, Array]:
        """Y₀, its bound, and A scaled by a power of two, so that σ_max ≤ 1; the first step. Reads once."""
        held = self.products
        bound: Array = held.begin().double().cpu().numpy() ** 0.25 * MARGIN
        self.highest, self._usable = bound, np.isfinite(bound) & (bound > 0)
        exponent = np.frexp(np.where(self._usable, bound, 1.0))[1]
        for M, power in ((held.A, 1), (held.Y, 2), (held.X, 4)):
            M.mul_(_factor(np.ldexp(1.0, -power * exponent), M))
        scaled = np.ldexp(bound, -exponent)
        self.sigma = float(scaled[self._usable].max(initial=0.5))
        hi = self.sigma**2
        q = quadratic(FAR * hi, hi)
        torch.add(held.Y, held.X, alpha=q.c / q.b, out=held.Z)
        held.first(q, q.b)
        self._taken = [q]
        return 1 + q.error, np.ldexp(1.0, -exponent)

    def _run(self, hi: float) -> float | None:
        """Steps until I − Y is small; the largest modulus of its eigenvalues as seen, `None` for no inverse."""
        while self._usable.any() and self.steps < MOST_STEPS:
            Y = self.products.multiply()
            share, noise = self._look(Y)
            self._usable &= (noise < np.where(share > FAR_SHARE, FAR_NOISE, MOST_NOISE)) & np.isfinite(share)
            if not self._usable.any():
                break
            self.noise = float(noise[self._usable].max())
            seen = self._largest(Y) if share[self._usable].max() < NEAR else 1.0
            if seen <= LAST:
                return seen
            hi += min(self.noise, WIDENED)
            floor = FAR if share[self._usable].max() > FAR_SHARE else CLOSE
            q = quadratic(max(floor * hi, 0.8 * (1 - seen)), hi)
            self.products.step(q)
            self._taken.append(q)
            hi = 1 + q.error
        self._usable[:] = False
        return None

    def _finish(self, seen: float | None, scale: Array) -> None:
        """The last step, in units of A."""
        if seen is not None:
            reach = min(SEEN_SHARE * seen + SEEN_MORE, 0.8)
            q = quadratic(1 - reach, 1 + reach)
            self.products.finish(q)
            self.left = left_by_correction(q.error, self.noise)
            self.kappa = self.sigma / start_of(1 - reach, self._taken) ** 0.5
        self.X.mul_(_factor(np.where(self._usable, scale, np.nan), self.X))

    def corrections(self, tol: float) -> int:
        """How many are predicted to bring an error of `tol`."""
        return corrections_for(min(self.left, 0.5), tol) if self.found else 0

    def _look(self, Y: Tensor) -> tuple[Array, Array]:
        """The root of the mean square of I − Y over V, and η, `(b,)` each. Reads once."""
        self._W = torch.baddbmm(self.V, Y, self.V, alpha=-1)
        n = Y.shape[-1]
        sizes = [
            torch.linalg.vector_norm(M, dim=(-2, -1), dtype=torch.float32) for M in (self._W, self.products.iterate)
        ]
        found: Array = torch.stack(sizes).cpu().numpy().astype(np.float64)
        return found[0] / (n * COLUMNS) ** 0.5, NOISE * self.sigma * found[1] / n**0.5

    def _largest(self, Y: Tensor) -> float:
        """The largest modulus of an eigenvalue of I − Y, of all usable matrices, by the power method. Reads once.

        Of a singular value that is not there yet V has the share 1/√n, and of all others LAST^CHAIN, or less, is left.
        """
        W = self._W
        for _ in range(CHAIN - 1):
            before, W = W, torch.baddbmm(W, Y, W, alpha=-1)
        sizes = [torch.linalg.vector_norm(M, dim=(-2, -1), dtype=torch.float32) for M in (before, W)]
        found: Array = torch.stack(sizes).cpu().numpy().astype(np.float64)
        ratio = found[1] / np.maximum(found[0], np.finfo(np.float32).tiny)  # all of it may be below fp16
        return float(ratio[self._usable].max())


def left_by_correction(error: float, noise: float) -> float:
    """Of an error, after a last step with this ε and η."""
    return error + LEFT_OF_NOISE * noise + ROUNDED


def start_of(y: float, taken: list[Quadratic]) -> float:
    """The smallest eigenvalue of Y₀ that these steps take to y."""
    for q in reversed(taken):
        roots = np.roots([q.c, q.b, q.a, -y])
        y = float(roots.real[(abs(roots.imag) < 1e-9 * abs(roots)) & (roots.real > 0)].min())
    return y


def _factor(values: Array, like: Tensor) -> float | Tensor:
    """A number for every matrix: of one it need not go to the device."""
    if values.size == 1:
        return float(values[0])
    found = torch.from_numpy(values)
    found = found if like.device.type == "cpu" else found.pin_memory().to(like.device, non_blocking=True)
    return found.to(like.dtype)[:, None, None]


@lru_cache(maxsize=32)
def probes(n: int, device: torch.device, seed: int) -> Tensor:
    """Normal numbers `(n, COLUMNS)` in 16 bits; kept, so not to be written to."""
    return gaussian(n, COLUMNS, device, seed).to(PLANE)

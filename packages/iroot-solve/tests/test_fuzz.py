"""Random calls of the public functions: a right answer or a documented error, never a wrong or a silent one.

`IROOT_FUZZ_CALLS=10000` makes more of them, `IROOT_FUZZ_SEED` others; a failure names the seed of its call.
"""

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from iroot_solve import (
    IrootError,
    PrecondConfig,
    SolveWorkspace,
    Status,
    apply_inverse_root_gram_rhs_spd,
    orthogonalize,
    solve_gram_spd,
    solve_nonspd,
    solve_spd,
)
from iroot_solve._choose import STRATEGIES
from iroot_solve._general_solve import INVERSES, ROOTS
from iroot_solve._polar_result import STRATEGIES as POLAR

CALLS = int(os.environ.get("IROOT_FUZZ_CALLS", "1500"))
SECONDS = float(os.environ.get("IROOT_FUZZ_SECONDS", "40"))
SEED = int(os.environ.get("IROOT_FUZZ_SEED", "20261125"))
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
DTYPES = list(TOLERANCES)
FORMS = ["spd", "spd", "gram", "dual", "general", "polar"]


@dataclass
class Call:
    """One random call.

    Attributes:
        form: spd, gram, dual, general or polar.
        M: A or G.
        B: Right-hand side or None.
        settings: Keyword arguments.
        poison: What was made wrong, or "".
        reuse: With the workspace of an earlier call with other numbers.
    """

    form: str
    M: torch.Tensor
    B: torch.Tensor | None
    settings: dict = field(default_factory=dict)
    poison: str = ""
    reuse: bool = False

    def make(self):
        """(answer, stats)."""
        if not self.reuse:
            return self._solve(self.M)
        ws = SolveWorkspace()
        with suppress(IrootError):
            self._solve(self.M.flip(-1, -2), workspace=ws)
        return self._solve(self.M, workspace=ws)

    def _solve(self, M, **more):
        if self.form == "polar":
            return orthogonalize(M, return_stats=True, **self.settings, **more)
        result = SOLVERS[self.form](M, self.B, **self.settings, **more)
        return result.Z, result.stats

    @property
    def vector(self):
        rows = self.M.shape[:-2] + (self.M.shape[-2 if self.form == "dual" else -1],)
        return self.B is not None and (self.B.ndim == 1 or self.B.shape == rows)

    @property
    def columns(self):
        """B in float64 as a matrix, or the identity."""
        if self.B is None:
            return torch.eye(self.M.shape[-1], dtype=torch.float64)
        return (self.B.unsqueeze(-1) if self.vector else self.B).double()

    @property
    def exponent(self):
        return self.settings.get("exponent") or Fraction(-1, self.settings.get("p_val", 2))

    @property
    def tol(self):
        return self.settings.get("tol", TOLERANCES[self.M.dtype])

    def __str__(self):
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        right = None if self.B is None else tuple(self.B.shape)
        return f"{self.form} {tuple(self.M.shape)} {right} {self.M.dtype} {settings} {self.poison!r} reuse={self.reuse}"


SOLVERS = {
    "spd": solve_spd,
    "gram": solve_gram_spd,
    "dual": apply_inverse_root_gram_rhs_spd,
    "general": solve_nonspd,
}


def _spectral_truth(call):
    """(V·f(λ)·Vᵀ·B, κ) in float64 from a full SVD of G or an eigendecomposition of A; f(λ) = 0 below the cut."""
    exponent, ridge = float(call.exponent), call.settings.get("ridge", 0.0)
    M = call.M.double()
    if call.form == "spd":
        values, V = torch.linalg.eigh((M + M.mT) / 2)
    else:
        _, sigma, Vh = torch.linalg.svd(M, full_matrices=True)
        values, V = torch.nn.functional.pad(sigma**2, (0, M.shape[-1] - sigma.shape[-1])), Vh.mT
    values = values + ridge
    f = torch.where(values > 0, values.clamp_min(1e-300), 1.0).pow(exponent) * (values > 0)
    right = M.mT @ call.columns if call.form == "dual" else call.columns
    kappa = values.abs().amax(-1) / values.abs().amin(-1).clamp_min(1e-300)
    return V @ (f.unsqueeze(-1) * (V.mT @ right)), kappa


def _general_truth(call):
    """(A^(-1/p)·B, κ) in float64, for p ≥ 2 from 60 digits; NaN where A is singular, because no answer is right."""
    A = call.M.double()
    sigma = torch.linalg.svdvals(A)
    if call.exponent == -1:
        X = torch.linalg.inv_ex(A).inverse
    else:
        X = torch.stack([_root(M, call.exponent) for M in A.reshape(-1, *A.shape[-2:])]).reshape(A.shape)
    lost = sigma[..., -1] <= A.shape[-1] * 2.0**-52 * sigma[..., 0]
    kappa = sigma[..., 0] / sigma[..., -1] if call.exponent == -1 else torch.ones_like(sigma[..., 0])
    return torch.where(lost[..., None, None], torch.nan, X) @ call.columns, torch.where(lost, 1.0, kappa)


def _root(A, exponent):
    """A^exponent; 1e-40 of a Hilbert matrix separates the eigenvalues of a defective A."""
    n = A.shape[-1]
    with mpmath.workdps(60):
        values, V = mpmath.eig(mpmath.matrix(A.tolist()) + mpmath.mpf("1e-40") * mpmath.hilbert(n))
        alpha = mpmath.mpf(exponent.numerator) / exponent.denominator
        X = V * mpmath.diag([value**alpha for value in values]) * V**-1
        return torch.tensor([[float(mpmath.re(X[i, j])) for j in range(n)] for i in range(n)], dtype=torch.float64)


def _polar_truth(call):
    """(P·f(σ)·Vᵀ, κ) in float64: f is 1 above the cut and 0 below, or the steps asked for; at the cut it is unknown."""
    P, sigma, Vh = torch.linalg.svd(call.M.double(), full_matrices=False)
    share = sigma / sigma[..., :1].clamp_min(1e-300)
    if "schedule" in call.settings:
        f = sigma / torch.linalg.vector_norm(sigma, dim=-1, keepdim=True).clamp_min(1e-300)
        for a, b, c in call.settings["schedule"]:
            f = a * f + b * f**3 + c * f**5
        return (P * f.unsqueeze(-2)) @ Vh, torch.ones_like(share[..., 0])
    size, u = max(call.M.shape[-2:]), 2.0**-53 if call.M.dtype is torch.float64 else 2.0**-24
    cut = call.settings.get("rtol", size * u)
    kept = share > cut
    doubtful = ((share - cut).abs() < min(cut / 2, 8 * size * 2.0**-53)).any(-1)
    kappa = 1 / torch.where(kept, share, 1.0).amin(-1)
    return (P * kept.unsqueeze(-2)) @ Vh, torch.where(doubtful, torch.inf, kappa)


TRUTHS = {"general": _general_truth, "polar": _polar_truth}


def _draw(rng):
    form, dtype, p = str(rng.choice(FORMS)), DTYPES[rng.integers(4)], int(rng.choice([1, 2, 3, 4, 8]))
    # The truth of general roots takes long.
    n = int(rng.integers(1, 7 if form == "general" and p > 1 else 25))
    batch = tuple(rng.integers(1, 4, size=rng.integers(0, 3)))
    kappa = 10.0 ** rng.uniform(0, 2 if dtype.itemsize == 2 else 5)
    M = (_matrix(rng, form, n, kappa, batch) * 10.0 ** rng.uniform(-3, 3)).to(dtype)
    call = Call(form, M, None, reuse=bool(rng.random() < 0.1))
    if form == "dual" or (form != "polar" and rng.random() < 0.9):
        call.B = _right(rng, M.shape[-2] if form == "dual" else n, batch).to(dtype)
    settings = {"general": _general_settings, "polar": _polar_settings}.get(form, _spectral_settings)
    call.settings = settings(rng, call, p) | {
        "on_failure": str(rng.choice(["raise", "nan", "warn"])),
        "seed": int(rng.integers(5)),
    }
    if rng.random() < 0.3 and "schedule" not in call.settings:
        call.settings["tol"] = 10.0 ** rng.uniform(-9 if dtype is torch.float64 else -6, -2)
    _poison(rng, call)
    call.M = _laid_out(rng, call.M)
    return call


def _matrix(rng, form, n, kappa, batch):
    if form == "spd":
        return _spd(rng, n, kappa, batch)
    if form == "general":
        return _general(rng, n, kappa, batch)
    m = int(rng.integers(1, 40))
    if form == "polar" and rng.random() < 0.5:
        U, V = (_orthogonal(rng, size, batch)[..., : min(m, n)] for size in (m, n))
        return (U * torch.logspace(0, -np.log10(kappa), min(m, n), dtype=torch.float64)) @ V.mT
    return torch.from_numpy(rng.standard_normal((*batch, m, n)))


def _orthogonal(rng, n, batch):
    return torch.from_numpy(np.linalg.qr(rng.standard_normal((*batch, n, n)))[0])


def _spd(rng, n, kappa, batch):
    kind = rng.integers(3)
    if kind == 0:
        values = np.logspace(-np.log10(kappa), 0, n)
    elif kind == 1:
        values = np.append(1 / kappa, rng.uniform(0.5, 1, n - 1))
    else:
        values = rng.uniform(1 / kappa, 1, n)
    Q = _orthogonal(rng, n, batch)
    A = (Q * torch.from_numpy(values)) @ Q.mT
    return (A + A.mT) / 2


def _general(rng, n, kappa, batch):
    """With eigenvalues in the right half-plane, with almost one eigenvector only, or with any eigenvalues."""
    kind = rng.integers(4)
    Q, R = _orthogonal(rng, n, batch), torch.from_numpy(rng.standard_normal((*batch, n, n)))
    if kind <= 1:
        return _spd(rng, n, kappa, batch) + rng.uniform(0, 1) * (R - R.mT) / n**0.5
    if kind == 2:
        return Q @ (torch.eye(n) + rng.uniform(0, 1) * torch.triu(R, 1)) @ Q.mT
    return (Q * torch.logspace(0, -np.log10(kappa), n, dtype=torch.float64)) @ _orthogonal(rng, n, batch)


def _right(rng, rows, batch):
    k = int(rng.integers(1, 9))
    shape = [(rows,), (*batch, rows, k), (rows, k)][rng.integers(3)]
    return _laid_out(rng, torch.from_numpy(rng.standard_normal(shape)))


def _laid_out(rng, X):
    """The same numbers, row by row, column by column, or every other one in memory."""
    layout = rng.integers(3)
    if layout == 1 and X.ndim > 1:
        return X.mT.contiguous().mT
    return torch.stack((X, X), -1)[..., 0] if layout == 2 else X


def _spectral_settings(rng, call, p):
    found = {}
    if rng.random() < 0.8:
        found["p_val"] = p
    else:
        found["exponent"] = Fraction(int(rng.choice([-2, -1, 1])), int(rng.choice([2, 3])))
    wide = call.form == "gram" and call.M.shape[-2] < call.M.shape[-1]
    if wide or rng.random() < 0.3:
        found["ridge"] = float(
            call.M.double().abs().amax() ** (1 if call.form == "spd" else 2) * 10 ** rng.uniform(-3, 0)
        )
    if rng.random() < 0.3:
        found["strategy"] = str(rng.choice(STRATEGIES[1:]))
    if rng.random() < 0.15:
        found["precond_config"] = PrecondConfig(mode=str(rng.choice(["jacobi", "ruiz", "aol", "frob", "row-norm"])))
    if rng.random() < 0.1:
        found["precision"] = str(rng.choice(["fp64", "fp32"]))
    if rng.random() < 0.1:
        found["expected_reuse"] = int(rng.integers(1, 50))
    return found


def _general_settings(rng, call, p):
    found = {"p_val": p}
    if rng.random() < 0.4:
        found["strategy"] = str(rng.choice((INVERSES if p == 1 else ROOTS)[1:]))
    if rng.random() < 0.15:
        found["precision"] = str(rng.choice(["fp64", "fp32", "fp16x3", "bf16"]))
    if rng.random() < 0.1:
        found["fallback"] = False
    if rng.random() < 0.05:
        found["verify"] = False
    return found


def _polar_settings(rng, call, p):
    found = {}
    if rng.random() < 0.1:
        # Around those of Newton and Schulz; f(σ) ≤ 1.1 for σ ≤ 1.
        found["schedule"] = [(rng.uniform(1.5, 2), -1.25, 0.375) for _ in range(rng.integers(1, 4))]
        return found
    if rng.random() < 0.5:
        found["strategy"] = str(rng.choice(POLAR[1:]))
    if rng.random() < 0.2:
        found["precision"] = str(rng.choice(["fp64", "fp32", "fp16x3", "bf16"]))
    if rng.random() < 0.2:
        found["rtol"] = float(rng.choice([0.0, 10.0 ** rng.uniform(-6, -1)]))
    return found


def _poison(rng, call):
    """Something wrong in a tenth of the calls; what it is must be found out or not matter."""
    if rng.random() > 0.1:
        return
    kinds = ["nan", "inf", "asymmetric", "indefinite", "zero", "singular", "dtype", "shape", "integer"]
    call.poison = str(rng.choice(kinds))
    M, last = call.M, (-1,) * call.M.ndim
    if call.poison in ("nan", "inf"):
        M[last] = float(call.poison)
    elif call.poison == "asymmetric" and M.shape[-1] > 1:
        M[..., 0, -1] += 2 * M.abs().amax()
    elif call.poison == "indefinite":
        M.diagonal(dim1=-2, dim2=-1).sub_(2 * M.abs().amax() * M.shape[-1])
    elif call.poison == "zero":
        M.zero_()
    elif call.poison == "singular" and call.form in ("general", "polar"):
        M[..., 0] = M[..., -1]
    elif call.poison == "dtype" and call.B is not None:
        call.B = call.B.to(torch.float64 if call.B.dtype is torch.float32 else torch.float32)
    elif call.poison == "shape" and call.B is not None:
        call.B = torch.cat((call.B, call.B), -1 if call.vector else -2)
    elif call.poison == "integer":
        call.M = M.round().clamp(-5, 5).nan_to_num().int()


def _verify(call):
    """The answer is right where it is said to be, and what is refused is refused by name."""
    before = call.M.clone(), None if call.B is None else call.B.clone()
    try:
        Z, stats = call.make()
    except (IrootError, ValueError, TypeError) as error:
        assert len(str(error)) > 20
        return "refused"
    assert torch.equal(call.M.nan_to_num(), before[0].nan_to_num())
    assert call.B is None or torch.equal(call.B, before[1])
    assert Z.dtype == call.M.dtype
    codes = stats.status_code.reshape(-1)
    if call.settings["on_failure"] == "nan" and bool((codes > Status.unverified).any()):
        flat = Z.reshape(-1, *Z.shape[-2:]) if not call.vector and Z.ndim > 2 else Z.reshape(codes.numel(), -1, 1)
        assert bool(flat[codes[: len(flat)] > Status.unverified].isnan().all())
    # Fixed steps are not verified, but it is known where they lead.
    promised = codes <= (Status.unverified if "schedule" in call.settings else Status.converged)
    if not bool(call.M.isfinite().all()) or not bool(promised.any()):
        return "not converged"
    expected, kappa = TRUTHS.get(call.form, _spectral_truth)(call)
    found = (Z.unsqueeze(-1) if call.vector else Z).double()
    expected = expected.expand(found.shape)
    size = torch.linalg.matrix_norm(expected)
    error = (torch.linalg.matrix_norm(found - expected) / size.clamp_min(1e-300)).reshape(-1)
    u = torch.finfo(Z.dtype).eps / 2
    # Rounding Z to its dtype, which may underflow, is not counted; and the truth is known to κ·n·u₆₄ only.
    underflow = (
        torch.finfo(Z.dtype).smallest_normal
        * u
        * expected.shape[-2:].numel() ** 0.5
        / size.clamp_min(1e-300).reshape(-1)
    )
    slack = u + underflow + 64 * 2.0**-53 * float(kappa.amax()) * max(call.M.shape[-2:])
    fine = error <= call.tol + slack
    assert bool((fine | ~promised.expand(error.shape)).all()), f"error {error.tolist()}, tol {call.tol}, {stats}"
    return "converged"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::iroot_solve.StagnationWarning", "ignore::iroot_solve.PreconditionerIgnoredWarning")
def test_random_calls():
    stop, outcomes = time.monotonic() + SECONDS, Counter()
    print(f"seed {SEED}, up to {CALLS} calls")
    for i in range(CALLS):
        call = _draw(np.random.default_rng((SEED, i)))
        try:
            outcomes[_verify(call)] += 1
        except Exception as error:
            raise AssertionError(f"call {i} of seed {SEED}: {call}: {error!r}") from error
        if time.monotonic() > stop:
            break
    assert outcomes["converged"] > 0.6 * outcomes.total(), outcomes

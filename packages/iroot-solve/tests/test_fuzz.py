"""Random calls of the public functions: a right answer or a documented error, never a wrong or a silent one.

`IROOT_FUZZ_CALLS=10000` makes more of them, `IROOT_FUZZ_SEED` others; a failure names the seed of its call.
"""

import os
import time
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
import torch
from iroot_solve import (
    IrootError,
    PrecondConfig,
    apply_inverse_root_gram_rhs_spd,
    solve_gram_spd,
    solve_spd,
)
from iroot_solve._choose import STRATEGIES

CALLS = int(os.environ.get("IROOT_FUZZ_CALLS", "1500"))
SECONDS = float(os.environ.get("IROOT_FUZZ_SECONDS", "40"))
SEED = int(os.environ.get("IROOT_FUZZ_SEED", "20261125"))
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
DTYPES = list(TOLERANCES)


@dataclass
class Call:
    """One random call.

    Attributes:
        form: spd, gram or dual.
        M: A or G.
        B: Right-hand side or None.
        settings: Keyword arguments.
        poison: What was made wrong, or "".
    """

    form: str
    M: torch.Tensor
    B: torch.Tensor | None
    settings: dict = field(default_factory=dict)
    poison: str = ""

    def make(self):
        solve = {"spd": solve_spd, "gram": solve_gram_spd, "dual": apply_inverse_root_gram_rhs_spd}[self.form]
        return solve(self.M, self.B, **self.settings)

    def truth(self):
        """(V·f(λ)·Vᵀ·B, κ) in float64 from a full SVD of G or an eigendecomposition of A; f(λ) = 0 below the cut."""
        exponent, ridge = float(self.exponent), self.settings.get("ridge", 0.0)
        M = self.M.double()
        if self.form == "spd":
            values, V = torch.linalg.eigh((M + M.mT) / 2)
        else:
            _, sigma, Vh = torch.linalg.svd(M, full_matrices=True)
            values, V = torch.nn.functional.pad(sigma**2, (0, M.shape[-1] - sigma.shape[-1])), Vh.mT
        values = values + ridge
        f = torch.where(values > 0, values.clamp_min(1e-300), 1.0).pow(exponent) * (values > 0)
        B = torch.eye(M.shape[-1], dtype=M.dtype) if self.B is None else self.B.double()
        B = B.unsqueeze(-1) if self.vector else B
        right = M.mT @ B if self.form == "dual" else B
        kappa = values.abs().amax(-1) / values.abs().amin(-1).clamp_min(1e-300)
        return V @ (f.unsqueeze(-1) * (V.mT @ right)), kappa

    @property
    def vector(self):
        rows = self.M.shape[:-2] + (self.M.shape[-2 if self.form == "dual" else -1],)
        return self.B is not None and (self.B.ndim == 1 or self.B.shape == rows)

    @property
    def exponent(self):
        return self.settings.get("exponent") or Fraction(-1, self.settings.get("p_val", 2))


def _draw(rng):
    form = rng.choice(["spd", "spd", "gram", "dual"])
    dtype = DTYPES[rng.integers(4)]
    n, batch = int(rng.integers(1, 25)), tuple(rng.integers(1, 4, size=rng.integers(0, 3)))
    kappa = 10.0 ** rng.uniform(0, 2 if dtype.itemsize == 2 else 5)
    if form == "spd":
        M = _spd(rng, n, kappa, batch)
    else:
        m = int(rng.integers(1, 40))
        M = torch.from_numpy(rng.standard_normal((*batch, m, n)))
    M = (M * 10.0 ** rng.uniform(-3, 3)).to(dtype)
    rows = M.shape[-2] if form == "dual" else n
    call = Call(form, M, _right(rng, rows, batch, form).to(dtype) if form == "dual" or rng.random() < 0.9 else None)
    call.settings = _settings(rng, call)
    _poison(rng, call)
    return call


def _spd(rng, n, kappa, batch):
    kind = rng.integers(3)
    if kind == 0:
        values = np.logspace(-np.log10(kappa), 0, n)
    elif kind == 1:
        values = np.append(1 / kappa, rng.uniform(0.5, 1, n - 1))
    else:
        values = rng.uniform(1 / kappa, 1, n)
    Q = np.linalg.qr(rng.standard_normal((*batch, n, n)))[0]
    A = torch.from_numpy((Q * values) @ np.swapaxes(Q, -1, -2))
    return (A + A.mT) / 2


def _right(rng, rows, batch, form):
    k = int(rng.integers(1, 9))
    shape = [(rows,), (*batch, rows, k), (rows, k)][rng.integers(3)]
    B = torch.from_numpy(rng.standard_normal(shape))
    layout = rng.integers(3)
    if layout == 1 and B.ndim > 1:
        return B.mT.contiguous().mT
    return torch.stack((B, B), -1)[..., 0] if layout == 2 else B


def _settings(rng, call):
    found = {"on_failure": str(rng.choice(["raise", "nan", "warn"])), "seed": int(rng.integers(5))}
    if rng.random() < 0.8:
        found["p_val"] = int(rng.choice([1, 2, 3, 4, 8]))
    else:
        found["exponent"] = Fraction(int(rng.choice([-2, -1, 1])), int(rng.choice([2, 3])))
    wide = call.form == "gram" and call.M.shape[-2] < call.M.shape[-1]
    if wide or rng.random() < 0.3:
        found["ridge"] = float(
            call.M.double().abs().amax() ** (1 if call.form == "spd" else 2) * 10 ** rng.uniform(-3, 0)
        )
    if rng.random() < 0.3:
        found["tol"] = 10.0 ** rng.uniform(-9 if call.M.dtype is torch.float64 else -6, -2)
    if rng.random() < 0.3:
        found["strategy"] = str(rng.choice(STRATEGIES[1:]))
    if rng.random() < 0.15:
        found["precond_config"] = PrecondConfig(mode=str(rng.choice(["jacobi", "ruiz", "aol", "frob", "row-norm"])))
    if rng.random() < 0.1:
        found["precision"] = str(rng.choice(["fp64", "fp32"]))
    if rng.random() < 0.1:
        found["expected_reuse"] = int(rng.integers(1, 50))
    return found


def _poison(rng, call):
    """Something wrong in a tenth of the calls; what it is must be found out or not matter."""
    if rng.random() > 0.1:
        return
    call.poison = str(rng.choice(["nan", "inf", "asymmetric", "indefinite", "zero", "dtype", "shape", "integer"]))
    M, last = call.M, (-1,) * call.M.ndim
    if call.poison in ("nan", "inf"):
        M[last] = float(call.poison)
    elif call.poison == "asymmetric" and M.shape[-1] > 1:
        M[..., 0, -1] += 2 * M.abs().amax()
    elif call.poison == "indefinite":
        M.diagonal(dim1=-2, dim2=-1).sub_(2 * M.abs().amax() * M.shape[-1])
    elif call.poison == "zero":
        M.zero_()
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
        result = call.make()
    except (IrootError, ValueError, TypeError) as error:
        assert len(str(error)) > 20
        return "refused"
    assert torch.equal(call.M.nan_to_num(), before[0].nan_to_num())
    assert call.B is None or torch.equal(call.B, before[1])
    Z, stats = result.Z, result.stats
    assert Z.dtype == call.M.dtype
    converged = stats.converged.reshape(-1)
    if call.settings["on_failure"] == "nan" and not bool(converged.all()):
        flat = Z.reshape(-1, *Z.shape[-2:]) if not call.vector and Z.ndim > 2 else Z.reshape(converged.numel(), -1, 1)
        assert bool(flat[~converged[: len(flat)]].isnan().all())
    if not bool(call.M.isfinite().all()) or not bool(converged.any()):
        return "not converged"
    expected, kappa = call.truth()
    found = (Z.unsqueeze(-1) if call.vector else Z).double()
    expected = expected.expand(found.shape)
    size = torch.linalg.matrix_norm(expected)
    error = (torch.linalg.matrix_norm(found - expected) / size.clamp_min(1e-300)).reshape(-1)
    tol, u = call.settings.get("tol", TOLERANCES[Z.dtype]), torch.finfo(Z.dtype).eps / 2
    # Rounding Z to its dtype, which may underflow, is not counted; and the truth is known to κ·n·u₆₄ only.
    underflow = (
        torch.finfo(Z.dtype).smallest_normal
        * u
        * expected.shape[-2:].numel() ** 0.5
        / size.clamp_min(1e-300).reshape(-1)
    )
    slack = u + underflow + 64 * 2.0**-53 * float(kappa.amax()) * call.M.shape[-1]
    fine = error <= tol + slack
    assert bool((fine | ~converged.expand(error.shape)).all()), f"error {error.tolist()}, tol {tol}, {stats}"
    return "converged"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::iroot_solve.StagnationWarning", "ignore::iroot_solve.PreconditionerIgnoredWarning")
def test_random_calls():
    stop, outcomes = time.monotonic() + SECONDS, {}
    print(f"seed {SEED}, up to {CALLS} calls")
    for i in range(CALLS):
        call = _draw(np.random.default_rng((SEED, i)))
        try:
            outcome = _verify(call)
        except Exception as error:
            settings = ", ".join(f"{name}={value!r}" for name, value in call.settings.items())
            shapes = (
                f"{call.form} {tuple(call.M.shape)} {None if call.B is None else tuple(call.B.shape)} {call.M.dtype}"
            )
            raise AssertionError(f"call {i} of seed {SEED}: {shapes} {settings} {call.poison!r}: {error!r}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if time.monotonic() > stop:
            break
    assert outcomes["converged"] > 0.6 * sum(outcomes.values()), outcomes

"""General systems by Newton–Schulz steps in one plane of fp16: the mathematics, what it serves, what it refuses.

Truth is numpy's float64 solve: κ·u of float64 is 1e-12 at most here, far below every tolerance.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace
from iroot_solve import SingularMatrixError, _general_solve, _newton_schulz, solve_nonspd
from iroot_solve._general_cost import lu_ms, newton_schulz_ms, newton_schulz_pays
from iroot_solve._newton_schulz import CLOSE, FAR, UNIT, NewtonSchulz, quadratic

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
SPECTRA = ["log", "half", "few", "lone"]


def singular_values(n, kappa, spectrum):
    values = np.logspace(0, -np.log10(kappa), n)
    if spectrum == "lone":
        values = np.linspace(1.0, 0.5, n)
        values[-1] = 1 / kappa
    elif spectrum != "log":
        values = np.full(n, 1 / kappa)
        values[: {"half": n // 2, "few": 4}[spectrum]] = 1.0
    return values


def general(n, kappa, spectrum="log", seed=0, dtype=torch.float32):
    """U·diag(σ)·Vᵀ with random orthogonal U and V."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return torch.from_numpy((U * singular_values(n, kappa, spectrum)) @ V.T).to(dtype)


def solved(A, B):
    return torch.linalg.solve(A.double(), B.double())


def by_name(A, B, **settings):
    return solve_nonspd(A, B, strategy="newton-schulz", **settings)


def scaled(A):
    """In float64 with entries of at most 1, as the solver has it."""
    return (A.double() / A.abs().max())[None]


@pytest.mark.parametrize(("lo", "hi"), [(FAR, 1.0), (CLOSE, 1.4), (0.5, 1.5), (0.9, 1.1)])
def test_the_residual_of_a_step_equioscillates(lo, hi):
    """1 − y·q(y) is T₃ of the interval over its value at y = 0, where it is 1: no cubic with that value is smaller."""
    q = quadratic(lo, hi)
    y = np.linspace(lo, hi, 2001)
    residual = 1 - y * (q.a + q.b * y + q.c * y**2)
    nodes = (lo + hi) / 2 - (hi - lo) / 2 * np.cos(np.pi * np.arange(4) / 3)
    at = 1 - nodes * (q.a + q.b * nodes + q.c * nodes**2)
    # Rounding of three terms of size a·hi.
    assert np.abs(residual).max() <= q.error + 8 * q.a * hi * 2.0**-53
    assert np.allclose(at * np.array([1, -1, 1, -1]), q.error, atol=8 * q.a * hi * 2.0**-53, rtol=0)


def test_what_an_interval_gains_in_a_step():
    """The figures of the module: an eigenvalue near 0 gains a over the end 1 + ε of the next interval."""
    gains = [quadratic(floor, 1.0).a / (1 + quadratic(floor, 1.0).error) for floor in (1e-9, FAR, CLOSE)]
    assert [round(gain, 1) for gain in gains] == [9.0, 8.4, 7.4]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kappa", [10.0, 1e2, 1e3])
def test_rounding_an_inverse_to_16_bits(kappa, spectrum):
    """‖δX·A‖ is about η = 2·u/√3·‖X‖_F/√n·σ_max: the norm of n² independent numbers, uniform below u·|x_ij|.

    They are half as large where |x_ij| is at the end of its binade, and of columns of δX·A that are few the norm is
    half of that of all: 1/4 at least. The norm is at most that of the largest row and column together, which for X of
    rank one, x_ij = v_i·u_j with normal v and u, are 3 times as large as the mean (n = 192).
    """
    A = general(192, kappa, spectrum, dtype=torch.float64)
    X = torch.linalg.inv(A)
    noise = torch.linalg.matrix_norm((X.half().double() - X) @ A, 2)
    eta = 2 / 3**0.5 * UNIT * X.norm() / 192**0.5
    assert 0.2 * eta <= noise <= 3 * eta


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize(("kappa", "steps"), [(10.0, 4), (1e2, 6), (1e3, 8)])
def test_steps_and_contraction(kappa, steps, spectrum):
    """Steps as counted in the module, three products each, and what a correction leaves as predicted before."""
    A = scaled(general(192, kappa, spectrum))
    F = NewtonSchulz(A, Workspace(), 0)
    assert F.found and steps - 1 <= F.steps <= steps and F.square == 3 * F.steps
    sigma = float(torch.linalg.matrix_norm(A, 2))
    assert sigma <= F.highest[0] <= 192**0.125 * _newton_schulz.MARGIN * sigma * (1 + UNIT)
    G = torch.eye(192, dtype=torch.float64) - F.X[0].double() @ A[0]
    V = torch.from_numpy(np.random.default_rng(3).standard_normal((192, 32)))
    start = float(V.norm())
    for _ in range(4):
        V = G @ V
    assert (float(V.norm()) / start) ** 0.25 <= F.left <= 0.2


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kappa", [1.5, 1e2, 1e3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_by_name(rhs, distance, within, dtype, kappa, spectrum):
    if dtype is torch.bfloat16:
        kappa = min(kappa, 30.0)  # rounding A moves small singular values by 2^-9 of the largest
    A, B = general(160, kappa, spectrum, dtype=dtype), rhs(160, 5, dtype=dtype)
    result = by_name(A, B)
    true = distance(result.Z, solved(A, B))
    stats = result.stats
    assert (stats.strategy, stats.precision, stats.fallbacks) == ("newton-schulz", "fp16", ())
    assert stats.status == "converged" and true <= within(TOLERANCES[dtype], dtype)
    # An estimate within a factor of 10, beyond what rounding Z to its dtype and the LU of the truth lose.
    noise = torch.finfo(dtype).eps + kappa * 160**0.5 * 2.0**-53
    assert 0.1 * (true - noise) <= float(stats.error) <= 10 * true + noise
    assert stats.products["square"] == 3 * stats.steps and "lu" not in stats.products
    assert str(result.schedule).startswith(f"newton-schulz in fp16: {stats.steps} steps")


def test_the_inverse_itself(distance):
    A = general(96, 30.0)
    assert distance(by_name(A, None).Z, torch.linalg.inv(A.double())) <= 1e-4


@pytest.mark.parametrize("kappa", [1e5, 1e7])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_too_ill_conditioned_is_left_to_lu(rhs, distance, kappa, spectrum):
    A, B = general(128, kappa, spectrum, dtype=torch.float64), rhs(128, 3, dtype=torch.float64)
    result = by_name(A, B, tol=1e-6)
    assert result.stats.strategy == "lu" and result.stats.fallbacks[0].startswith("lu in")
    assert distance(result.Z, solved(A, B)) <= 1e-6 and result.stats.status == "converged"
    refused = by_name(A, B, tol=1e-6, fallback=False, on_failure="nan")
    assert refused.stats.status == "stagnated" and bool(refused.Z.isnan().all())


@pytest.mark.parametrize("spectrum", ["log", "half", "few"])
@pytest.mark.parametrize("kappa", [1e5, 1e7])
def test_what_is_in_vain_ends_early(kappa, spectrum):
    """η grows threefold in a step and says in time that there is no inverse to be had: two steps less than at most."""
    F = NewtonSchulz(scaled(general(128, kappa, spectrum)), Workspace(), 0)
    assert not F.found and F.square <= 28 and bool(F.X.isnan().all())


@pytest.mark.parametrize("kappa", [1e4, 1e6])
def test_a_singular_value_that_no_look_saw(rhs, distance, monkeypatch, kappa):
    """If the look says that all are there, X lacks a direction: what stands beside B in the refinement shows it."""
    A, B = general(128, kappa, "lone", dtype=torch.float64), rhs(128, 3, dtype=torch.float64)
    monkeypatch.setattr(NewtonSchulz, "_largest", lambda self, Y: 0.4)
    F = NewtonSchulz(scaled(A), Workspace(), 0)
    U, sigma, V = torch.linalg.svd(scaled(A)[0])
    assert F.found and abs(float(V[-1] @ F.X[0].double() @ U[:, -1])) * float(sigma[-1]) < 0.1
    result = by_name(A, B, tol=1e-2)
    assert result.stats.strategy == "lu" and distance(result.Z, solved(A, B)) <= 1e-2
    assert by_name(A, B, tol=1e-2, fallback=False, on_failure="nan").stats.status == "stagnated"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_singular(rhs, dtype):
    M = np.random.default_rng(0).integers(-2, 3, (40, 39)) @ np.random.default_rng(1).integers(-2, 3, (39, 40))
    A, B = torch.from_numpy(M).to(dtype), rhs(40, 2, dtype=dtype)
    rank = int(torch.linalg.matrix_rank(A.double()))
    for right in (B, A @ B, torch.zeros_like(B)):
        with pytest.raises(SingularMatrixError, match=f"estimated rank is {rank} of 40"):
            by_name(A, right)


def test_a_batch_of_different_matrices(rhs, distance):
    """Scales from 1e-8 to 1e8, κ from 3 to 1e6, one singular, one not finite: each gets what it would get alone."""
    A = torch.stack([general(64, kappa, seed=i) for i, kappa in enumerate((3.0, 1e3, 1e6, 30.0, 1e2, 1e2))])
    A *= torch.logspace(-8, 8, 6)[:, None, None]
    A[4, :, 0] = A[4, :, 1]
    A[5, 3, 3] = torch.nan
    B = rhs(6, 64, 4)
    result = by_name(A, B, on_failure="nan")
    codes = ["converged", "converged", "converged", "converged", "singular", "nonfinite_input"]
    assert result.stats.status == codes and bool(result.Z[4:].isnan().all())
    for i in range(4):
        assert distance(result.Z[i], solved(A[i], B[i])) <= 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_for_powers_of_two(rhs, dtype):
    A, B = general(48, 20.0, dtype=dtype), rhs(48, 3, dtype=dtype)
    Z = by_name(A, B).Z
    for j in (1, 3) if dtype is torch.float16 else (-60, -1, 60):
        assert torch.equal(by_name(A * 2.0**j, B).Z, Z * 2.0**-j)
        assert torch.equal(by_name(A, B * 2.0**j).Z, Z * 2.0**j)


@pytest.mark.parametrize("c", [1e-20, 1e-3, 1e20])
def test_scale_equivariance(rhs, distance, c):
    """Both answers are within 1e-4; A·c is rounded to float32, which moves the inverse by κ·u."""
    A, B = general(64, 1e2), rhs(64, 2)
    assert distance(by_name(A * c, B).Z.double() * c, by_name(A, B).Z) <= 2e-4 + 1e2 * 2.0**-24


def test_random_spectra(rhs, distance):
    """Whatever κ ≤ 10³ and the singular values are: no fallback, and an error as estimated."""
    rng = np.random.default_rng(2)
    for seed in range(40):
        n, kappa = int(rng.integers(2, 120)), 10 ** rng.uniform(0.1, 2.9)
        sigma = np.clip(np.exp(-rng.exponential(rng.uniform(0.1, 8.0), n)), 1 / kappa, 1.0)
        U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
        A, B = torch.from_numpy((U * sigma) @ V).float(), rhs(n, 3, seed=seed)
        B = A @ B if seed % 3 == 0 else B
        result = by_name(A, B)
        true = distance(result.Z, solved(A, B))
        noise = 2.0**-23 + kappa * n**0.5 * 2.0**-53
        assert true <= 1e-4 + 2.0**-24 and result.stats.fallbacks == (), (n, kappa)
        assert 0.1 * (true - noise) <= float(result.stats.error) <= 10 * true + noise


HARD = {
    "identity": torch.eye(33),
    "permutation": torch.eye(64)[torch.randperm(64, generator=torch.Generator().manual_seed(0))],
    "one row": torch.full((1, 1), -3.0),
    "one large entry": torch.diag(torch.tensor([200.0] + 63 * [1.0])),
    "nearly all ones": 0.1 * torch.eye(64) + torch.ones(64, 64) / 64,
    "negative": -2 * torch.eye(5),
    "rotation": torch.tensor([[0.0, -1.0], [1.0, 0.0]]),
    "triangle": torch.eye(24) + 0.3 * torch.triu(torch.ones(24, 24), 1),
}


@pytest.mark.parametrize("name", HARD)
def test_hard_matrices(rhs, distance, name):
    A = HARD[name]
    B = rhs(len(A), 2)
    result = by_name(A, B)
    assert distance(result.Z, solved(A, B)) <= 1e-4 and result.stats.fallbacks == ()


def test_without_verification(rhs, distance):
    A, B = general(96, 1e2), rhs(96, 4)
    result = by_name(A, B, verify=False)
    assert result.stats.status == "unverified" and distance(result.Z, solved(A, B)) <= 1e-4


def test_reads(rhs, host_reads):
    """The problem, the bound, one for each step, the last look and the certificate."""
    A, B = general(96, 1e2), rhs(96, 4)
    with host_reads() as found:
        steps = by_name(A, B).stats.steps
    assert len(found) <= steps + 4, found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_second_call_allocates_nothing_but_Z(rhs, allocations, batch, dtype):
    """Vectors of 8 or 16 columns are less than what counts."""
    A = general(96, 5.0, dtype=dtype).repeat(*batch, 1, 1)
    B = rhs(*batch, 96, 64, dtype=dtype)
    ws = by_name(A, B).workspace
    with allocations(A[..., 0, 0].numel() * 96 * 64, A, B, *ws.buffers) as found:
        by_name(A, B, workspace=ws)
    assert len(found) == 1, found


def test_results_repeat_and_inputs_stay(rhs):
    A, B = general(64, 1e2), rhs(64, 3)
    before = A.clone(), B.clone()
    first = by_name(A, B)
    again = by_name(A, B, workspace=first.workspace)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = by_name(A, B)
    assert torch.equal(first.Z, again.Z) and torch.equal(first.Z, cast.Z)
    assert torch.equal(A, before[0]) and torch.equal(B, before[1])


def problem(n, k, dtype=torch.float32, device="cuda", count=1):
    """What the choice looks at."""
    A = SimpleNamespace(device=SimpleNamespace(type=device))
    tol = TOLERANCES[dtype]
    return SimpleNamespace(A=A, n=n, columns=k, count=count, dtype=dtype, tol=tol, empty=False)


def test_auto_takes_it_on_a_device_where_it_pays():
    assert newton_schulz_pays(problem(4096, 64)) and newton_schulz_pays(problem(2048, 64))
    assert newton_schulz_pays(problem(4096, 64, torch.float64))
    assert not newton_schulz_pays(problem(128, 16)) and not newton_schulz_pays(problem(64, 4, count=512))
    assert not newton_schulz_pays(problem(4096, 64, device="cpu"))


def test_predicted_times_grow_with_all_that_costs():
    for ms in (lu_ms, lambda *a: newton_schulz_ms(*a[:-1], 1e-4, a[-1])):
        assert ms(1024, 64, 1, 32, "cuda") < ms(2048, 64, 1, 32, "cuda") < ms(2048, 512, 1, 32, "cuda")
    assert newton_schulz_ms(2048, 64, 1, 32, 1e-4, "cuda") < newton_schulz_ms(2048, 64, 1, 64, 1e-10, "cuda")


def test_auto_falls_back_to_what_it_was(rhs, distance, monkeypatch):
    """As on a device: first this, and LU for what it refuses; nothing new where nothing is verified or may be tried."""
    monkeypatch.setattr(_general_solve, "newton_schulz_pays", lambda problem: True)
    B = rhs(96, 4)
    for kappa, strategy, fallbacks in ((1e2, "newton-schulz", ()), (1e5, "lu", ("lu in fp32",))):
        A = general(96, kappa)
        result = solve_nonspd(A, B)
        assert (result.stats.strategy, result.stats.fallbacks) == (strategy, fallbacks)
        assert distance(result.Z, solved(A, B)) <= 1e-4
    A = general(96, 10.0)
    for settings in ({"verify": False}, {"fallback": False}, {"precision": "fp64"}, {"strategy": "lu"}):
        assert solve_nonspd(A, B, **settings).stats.strategy == "lu"


@pytest.mark.parametrize("precision", ["fp32", "fp64", "bf16"])
def test_other_precisions_are_refused(rhs, precision):
    with pytest.raises(ValueError, match=r"these do: auto, fp16"):
        by_name(general(8, 2.0), rhs(8, 1), precision=precision)

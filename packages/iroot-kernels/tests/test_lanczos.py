"""Lanczos application against eigendecompositions in float64; `test_krylov` has its estimates."""

import math
import warnings

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace, lanczos_apply
from iroot_kernels._lanczos import _Lanczos

EXPONENTS = [-1, -1 / 2, -1 / 4, -2 / 3, 1 / 2]
UNIT = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}
CLUSTER_AND_TAIL = np.append(1 - 1e-3 * np.linspace(0, 1, 60), np.geomspace(1e-4, 0.5, 60))


def rounding(n, kappa, dtype=torch.float64):
    """Products err by √n·u·‖A‖ (random signs), a backward error that moves λ_min relatively by √n·κ·u.

    For |α| ≤ 1 that moves f(λ_min) by no more, and the result by no more than f(λ_min)'s own part of it. Twice: A's
    symmetrised storage, and the truth.
    """
    return 2 * math.sqrt(n) * kappa * UNIT[dtype]


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize(("n", "k"), [(48, 1), (48, 3), (24, 24)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "kappa", "tol"),
    [
        (torch.float32, 10.0, 1e-5),
        (torch.float32, 1e3, 1e-4),
        (torch.float64, 10.0, 1e-10),
        (torch.float64, 1e3, 1e-8),
        (torch.float64, 1e5, 1e-6),
    ],
)
def test_applies_the_power(exponent, n, k, batch, dtype, kappa, tol, spd, power, error, rhs):
    A, B = spd(n, kappa, batch, dtype), rhs(n, k, batch, dtype)
    kept = B.clone()
    result = lanczos_apply(A.matmul, B, exponent, tol=tol, max_steps=n)
    assert result.converged.all() and result.Z.dtype == dtype and result.error.dtype == torch.float64
    # An honest estimate is at least 0.3 of the truth.
    assert error(result.Z, power(A, exponent) @ B.double()) <= tol / 0.3 + rounding(n, kappa, dtype)
    assert result.products == result.steps * k and result.steps <= n
    assert torch.equal(B, kept)
    values = torch.linalg.eigvalsh(A.double())
    slack = 8 * math.sqrt(n) * UNIT[dtype] * values[:, -1]
    assert (result.ritz_low >= values[:, 0] - slack).all() and (result.ritz_high <= values[:, -1] + slack).all()


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kappa", [3.0, 30.0, 300.0])
def test_two_passes_agree_with_one(exponent, dtype, kappa, spd, error, rhs):
    A, B, tol = spd(64, kappa, 2, dtype), rhs(64, 3, 2, dtype), 1e-5
    one = lanczos_apply(A.matmul, B, exponent, tol=tol, max_steps=64)
    ws = Workspace()
    two = lanczos_apply(A.matmul, B, exponent, tol=tol, max_steps=200, ws=ws, passes=2)
    assert one.converged.all() and two.converged.all()
    assert error(two.Z, one.Z.double()) <= 2 * tol / 0.3 + rounding(64, kappa, dtype)
    assert two.products == 2 * 3 * two.steps
    # Two rows of the basis, w, its product with q, Z, and the coefficients.
    assert ws.nbytes == 6 * (5 * 64 * B.element_size() + 401 * 8)


def test_two_passes_go_beyond_n_where_orthogonality_is_lost(power, error, with_spectrum, rhs):
    A, B = with_spectrum(CLUSTER_AND_TAIL)[0], rhs(120, 2)
    result = lanczos_apply(A.matmul, B, -0.5, tol=1e-6, max_steps=600, passes=2)
    assert result.converged.all() and result.steps > 120
    assert error(result.Z, power(A, -0.5) @ B) <= 1e-6 / 0.3 + rounding(120, 1e4)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_breakdown_is_exact_for_that_column_only(exponent, passes, dtype, power, error, with_spectrum, rhs):
    """Columns: an eigenvector, three of them, nothing, a random one, tiny and huge ones; and a multiple of I."""
    A, V = with_spectrum(np.linspace(0.1, 1, 40))
    A = torch.cat((A, 3 * torch.eye(40, dtype=torch.float64)[None])).to(dtype)
    V = V[0]
    columns = [V[:, 5], V[:, [1, 2, 39]].sum(1), torch.zeros(40), rhs(40, 1)[0, :, 0]]
    columns += [1e-12 * columns[-1], 1e12 * V[:, 7]]
    B = torch.stack([c.double() for c in columns], 1).expand(2, 40, 6).to(dtype)
    result = lanczos_apply(A.matmul, B, exponent, tol=1e-5, max_steps=60, passes=passes)
    want = power(A, exponent) @ B.double()
    assert result.converged.all() and result.Z.isfinite().all()
    assert (result.Z[..., 2] == 0).all()
    for column in (0, 1, 5):  # 1e12·V dominates the norm that tol refers to; these are exact all the same
        assert error(result.Z[..., [column]], want[..., [column]]) <= rounding(40, 10, dtype)
    assert float(result.ritz_low[1]) == pytest.approx(3) and float(result.ritz_high[1]) == pytest.approx(3)


def test_zeros_give_zeros(spd):
    result = lanczos_apply(
        spd(24, 10.0, 2).matmul, torch.zeros(2, 24, 3, dtype=torch.float64), -1, tol=1e-8, max_steps=9
    )
    assert (result.Z == 0).all() and result.converged.all() and (result.error == 0).all()
    assert result.ritz_low.isnan().all() and not result.indefinite.any()


@pytest.mark.parametrize("k", [0, 2])
def test_empty(k):
    B = torch.zeros(2 if k == 0 else 0, 5, k)
    result = lanczos_apply(lambda V: V, B, -0.5, tol=1e-3, max_steps=5)
    assert result.Z.shape == B.shape and result.steps == 0 and result.converged.all()


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("passes", [1, 2])
def test_what_fails_is_named_and_leaves_its_neighbours_alone(exponent, passes, spd, power, error, rhs):
    good, bad, poisoned = (spd(40, 30.0)[0].clone() for _ in range(3))
    bad -= 0.3 * torch.eye(40, dtype=torch.float64)
    poisoned[3, 4] = math.nan
    A, B = torch.stack([bad, good, poisoned]), rhs(40, 2, 3)
    result = lanczos_apply(A.matmul, B, exponent, tol=1e-8, max_steps=60, passes=passes)
    assert result.indefinite.tolist() == [True, False, False]
    assert result.converged.tolist() == [False, True, False]
    assert result.error.isinf().tolist() == [True, False, True]
    assert result.Z[0].isnan().all() and result.Z[2].isnan().all()
    assert float(result.ritz_low[0]) < 0 and result.ritz_low[2].isnan()
    assert error(result.Z[1:2], power(good, exponent) @ B[1:2]) <= 1e-8 / 0.3 + rounding(40, 30)


@pytest.mark.parametrize("exponent", [1 / 2, 1 / 4, 3 / 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positive_powers_of_a_singular_matrix(exponent, dtype, error, with_spectrum, rhs):
    values = np.append(np.zeros(40), np.geomspace(1e-3, 1, 40))
    A, V = with_spectrum(values)
    want = (V * torch.from_numpy(values**exponent)) @ (V.mT @ rhs(80, 3))
    result = lanczos_apply(A.to(dtype).matmul, rhs(80, 3, dtype=dtype), exponent, tol=1e-3, max_steps=80)
    assert result.converged.all() and not result.indefinite.any()
    # A zero eigenvalue stored with an error √n·u counts with its power.
    assert error(result.Z, want) <= 1e-3 / 0.3 + 2 * (math.sqrt(80) * UNIT[dtype]) ** exponent


def laplacian(V):
    """2.5·v_i − v_{i−1} − v_{i+1}."""
    out = 2.5 * V
    out[:, 1:] -= V[:, :-1]
    out[:, :-1] -= V[:, 1:]
    return out


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_an_action_without_a_matrix(exponent, power, error, rhs):
    n = 60
    A = (2.5 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)).double()[None]
    B = rhs(n, 2)
    result = lanczos_apply(laplacian, B, exponent, tol=1e-10, max_steps=n, low=0.5)
    assert error(result.Z, power(A, exponent) @ B) <= 1e-10 / 0.3 + rounding(n, 9)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_second_call_allocates_nothing(passes, spd, allocations, rhs):
    A, B, ws, product = spd(400, 10.0), rhs(400, 3), Workspace(), torch.empty(1, 400, 3, dtype=torch.float64)

    def run():
        return lanczos_apply(
            lambda V: torch.bmm(A, V, out=product), B, -0.5, tol=1e-3, max_steps=60, ws=ws, passes=passes
        )

    first = run().Z.clone()
    with allocations(400 * 3) as seen:
        second = run()
    # The small matrices of a check are smaller than that here.
    assert seen.made == [] and torch.equal(first, second.Z) and second.steps**2 < 400


@pytest.mark.parametrize(
    "values",
    [
        CLUSTER_AND_TAIL,
        0.01 + np.logspace(-6, 0, 120),
        np.append(np.linspace(0.1, 1, 118), [1e-3, 1e-6]),
        np.geomspace(1e-5, 1, 120),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_basis_stays_orthonormal(values, dtype, with_spectrum, rhs):
    A, steps = with_spectrum(values)[0].to(dtype), 80
    process = _Lanczos(A.matmul, rhs(120, 2, dtype=dtype), steps, Workspace(), keep=True)
    for j in range(steps):
        process.step(j)
    Q = process.Q.double()
    # Of each vector a pass leaves √n·u along every other; a few of them add up in what the recurrence divides by β_j.
    assert (Q @ Q.mT - torch.eye(steps)).abs().max() <= 16 * math.sqrt(120) * UNIT[dtype]


def test_same_in_autocast_and_under_global_flags(spd, flags, power, error, rhs):
    A, B = spd(48, 30.0, dtype=torch.float32), rhs(48, 3, dtype=torch.float32)

    def exact(V):
        return (A.double() @ V.double()).float()

    def run():
        ws = Workspace()
        return lanczos_apply(exact, B, -0.5, tol=1e-5, max_steps=48, ws=ws).Z, ws.nbytes

    plain, narrow = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(run()[0], plain)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    reduced, wide = run()
    # Not every processor obeys the flag, but the basis is float64 wherever one could.
    assert wide > 1.9 * narrow
    assert reduced.dtype == torch.float32
    assert error(reduced, power(A, -0.5) @ B.double()) <= 1e-5 / 0.3 + rounding(48, 30.0, torch.float32)


def test_bad_arguments():
    B = torch.ones(1, 4, 2)
    for changed, message in (
        ({"tol": 0.0}, "tol=0"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"exponent": 0}, "exponent=0"),
        ({"check_every": 0}, "check_every=0"),
        ({"passes": 3}, "passes=3"),
        ({"B": B[0]}, r"B must have shape \(b, n, k\)"),
    ):
        options = {"B": B, "exponent": -1, "tol": 1e-3, "max_steps": 4} | changed
        with pytest.raises(ValueError, match=message):
            lanczos_apply(lambda V: V, **options)
    with pytest.raises(TypeError, match="float32 or float64"):
        lanczos_apply(lambda V: V, B.half(), -1, tol=1e-3, max_steps=4)


def synchronisations(run):
    """How often `run` makes the host wait for the device."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in seen)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("flag", ["ieee", "tf32"])
def test_on_cuda_with_one_synchronisation_a_check(exponent, passes, flag, flags, spd, power, error, rhs):
    A, B, ws = spd(256, 30.0, 2, torch.float32), rhs(256, 3, 2, torch.float32), Workspace()
    torch.backends.cuda.matmul.fp32_precision = flag
    wide, start = A.double().cuda(), B.cuda()
    result = None

    def run():
        nonlocal result
        result = lanczos_apply(
            lambda V: (wide @ V.double()).float(),
            start,
            exponent,
            tol=1e-5,
            max_steps=64,
            ws=ws,
            passes=passes,
            low=0.03,
        )

    run()
    # Checks at 8, 16, 24, … of at most 64 steps.
    assert 1 <= synchronisations(run) <= result.steps // 8 + 1
    assert result.converged.is_cuda and result.Z.is_cuda and result.converged.all()
    assert error(result.Z, power(A, exponent) @ B.double()) <= 1e-5 / 0.3 + rounding(256, 30.0, torch.float32)

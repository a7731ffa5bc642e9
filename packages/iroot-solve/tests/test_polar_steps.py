"""The parts of the polar iteration: given steps, segments, and the certificate."""

import math

import numpy as np
import pytest
import torch
from iroot_coeffs import MUON, NAMED, POLAR_EXPRESS, Schedule, minimax, named, plan
from iroot_kernels import Polynomial, Workspace
from iroot_solve import orthogonalize
from iroot_solve._polar_certificate import measure_full_rank, measure_partial
from iroot_solve._polar_iteration import PolarIteration, restarted, segments

NAMES = [name for name, entry in NAMED.items() if entry.orders == (2,)]
PUBLISHED = {
    "muon": [MUON] * 5,
    "polar-express": [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in POLAR_EXPRESS[:5]],
    "newton-schulz": [(1.5, -0.5)] * 5,
    "newton-schulz-5": [(1.875, -1.25, 0.375)] * 5,
}


def _composed(sigma, steps):
    """σ ↦ σ·q(σ²), step by step, in numpy."""
    for q in steps:
        sigma = sigma * q(sigma**2)
    return sigma


def _powers(rows):
    return [lambda y, row=row: np.polynomial.polynomial.polyval(y, row) for row in rows]


@pytest.fixture(scope="session")
def factors():
    """(m, n, σ, seed) ↦ U, σ, V in float64 from QR factorisations of normal numbers."""

    def make(m, n, sigma, seed=0):
        generator = torch.Generator().manual_seed(seed)
        U, V = (
            torch.linalg.qr(torch.randn(size, len(sigma), generator=generator, dtype=torch.float64)).Q
            for size in (m, n)
        )
        return U, torch.as_tensor(sigma, dtype=torch.float64), V

    return make


def _check(factors, shape, polynomials, form, /, **settings):
    """U·f(σ/‖σ‖)·Vᵀ for the composition f.

    A step moves perturbations by at most q(0), the slope of σ·q(σ²) at 0, and every product adds about √n·u of what it
    computes; a segment loses L²·u instead of L·u, and with one restart L² is the whole lift, too.
    """
    U, sigma, V = factors(*shape, np.logspace(0, -1.5, min(shape)))
    unit = (sigma / torch.linalg.vector_norm(sigma)).numpy()
    expected = (U * torch.from_numpy(_composed(unit, polynomials))) @ V.mT
    X, stats = orthogonalize(7.3 * (U * sigma) @ V.mT, strategy=form, return_stats=True, **settings)
    lift = math.prod(max(1.0, float(q(0.0))) for q in polynomials)
    assert float((X - expected).norm()) <= len(polynomials) * max(shape) * 2.0**-53 * lift
    assert stats.steps == len(polynomials) and stats.status == "unverified" and stats.strategy == form
    assert math.isnan(float(stats.error)) and int(stats.rank) == -1


@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize("shape", [(24, 24), (60, 20), (20, 60)], ids=str)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_steps(factors, name, shape, strategy):
    _check(factors, shape, _powers(PUBLISHED[name]), strategy, schedule=name, steps=5)


@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize("name", NAMES)
def test_every_name(factors, name, strategy):
    _check(factors, (30, 20), list(named(name, 2, kappa=1e6)), strategy, schedule=name)


def test_rows_and_schedules(factors):
    shape, rows = (30, 20), [MUON, (1.875, -1.25, 0.375)]
    _check(factors, shape, _powers(rows), "plain", schedule=rows)
    _check(factors, shape, _powers(rows), "plain", schedule=torch.tensor(rows, dtype=torch.float64))
    _check(factors, shape, _powers(rows[:1]), "plain", schedule=rows, steps=1)
    _check(factors, shape, _powers([*rows, rows[1], rows[1]]), "plain", schedule=rows, steps=4)
    schedule = plan(2, kappa=1e4, tol=1e-3)
    _check(factors, shape, list(schedule), "plain", schedule=schedule)
    _check(factors, shape, list(schedule), "gram", schedule=schedule.rescaled(9.0))
    with pytest.raises(ValueError, match="needs -1/2"):
        orthogonalize(torch.eye(3), schedule=Schedule(3, (minimax(3, 2, 0.1, 1.0),)))


def test_a_planned_schedule_is_as_good_as_it_says(factors):
    """On a spectrum within [1/κ, 1] after division by ‖G‖_F."""
    U, sigma, V = factors(40, 10, np.linspace(1.0, 0.3, 10))
    schedule = plan(2, kappa=float(sigma.square().sum() / sigma.amin() ** 2), tol=1e-6)
    X = orthogonalize((U * sigma) @ V.mT, schedule=schedule)
    values = torch.linalg.svdvals(X)
    assert float((values - 1).abs().amax()) <= schedule.error + 1e-13


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "tf32"])
def test_low_precision_products(factors, dtype, precision):
    """Polar Express for σ ≥ 0.05 ends within 0.03 of 1; operands rounded to v = 2^-8 move a step's σ by at most
    2v·‖X‖·‖q(Y) − a·I‖ ≤ 2v·1.5 for X·R and by half as much for the Gram matrix: 0.02, and 0.01 of what was before."""
    U, sigma, V = factors(40, 20, np.linspace(1.0, 0.3, 20))
    G = ((U * sigma) @ V.mT).to(dtype)
    X, stats = orthogonalize(G, schedule="polar-express", precision=precision, return_stats=True)
    assert X.dtype is dtype and stats.precision == ("fp32" if precision == "auto" else precision)
    assert float((torch.linalg.svdvals(X.double()) - 1).abs().amax()) <= 0.06


@pytest.mark.parametrize("strategy", ["plain", "gram"])
def test_given_steps_wait_for_nothing(host_reads, strategy):
    G = torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0))
    orthogonalize(G, schedule="polar-express")  # a name is looked up once
    with host_reads() as found:
        orthogonalize(G, schedule="polar-express", steps=8, strategy=strategy)
    assert found == []


def test_zero_and_nan_under_given_steps():
    G = torch.eye(4).repeat(3, 1, 1)
    G[0], G[2, 0, 0] = 0.0, torch.inf
    U = orthogonalize(G, schedule="newton-schulz")
    assert not U[0].any() and bool(U[1].isfinite().all()) and not bool(U[2].isfinite().all())


def test_segments():
    assert segments([3.0, 3.0, 3.0, 2.0], 0.0) == (1, 1, 1, 1)
    assert segments([3.0, 3.0, 3.0, 2.0], 9.0) == (2, 2)
    assert segments([3.0, 3.0, 3.0, 2.0], 1e9) == (4,)
    assert segments([100.0, 1.5, 1.2], 2.0) == (1, 2)
    assert restarted([8.0, 4.0, 4.0, 3.0, 2.0]) == (2, 3)
    assert restarted([8.0, 1.5]) == (1, 1)
    assert restarted([8.0]) == (1,)


@pytest.mark.parametrize("kappa", [1e3, 1e4, 1e5])
def test_a_restart_squares_the_loss_away(factors, kappa):
    """float64: κ²·u with one Gram matrix, κ·u with two; half of the singular values at the lower end."""
    U, sigma, V = factors(80, 40, [1.0] * 20 + [1 / kappa] * 20)
    G = ((U * sigma) @ V.mT)[None]
    schedule = plan(2, kappa=1.01 * kappa**2, tol=4e-15).rescaled(1.0001)
    steps = [Polynomial(step.center, step.half_width, step.chebyshev) for step in schedule]
    lifts = [float(step(step.lo)) for step in schedule]
    errors = []
    for lengths in ((len(steps),), restarted(lifts)):
        iteration = PolarIteration(G, "fp64", Workspace())
        iteration.run(steps, lengths)
        errors.append(float((iteration.X[0] - U @ V.mT).norm()) / 40**0.5)
    u = 2.0**-53
    assert errors[0] >= 0.01 * kappa**2 * u
    assert errors[1] <= 8 * 40**0.5 * kappa * u


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("n", [12, 40])
@pytest.mark.parametrize("kind", ["rotation", "defect", "outside"])
def test_each_kind_of_error_is_seen(factors, kind, n, dtype):
    """Known errors of size 1e-3: probes see them to 1/√(2·16) at worst, a rotation no less and √κ/2 times at most."""
    U, sigma, V = factors(60, n, np.logspace(0, -1, n))
    generator = torch.Generator().manual_seed(5)
    size = 1e-3 * n**0.5
    if kind == "outside":
        E = torch.randn(60, n, generator=generator, dtype=torch.float64)
        E -= U @ (U.mT @ E)
    else:
        K = torch.randn(n, n, generator=generator, dtype=torch.float64)
        E = U @ (V.mT @ (K - K.mT if kind == "rotation" else K + K.mT))
    E *= size / E.norm()
    G, X = ((U * sigma) @ V.mT)[None].to(dtype), (U @ V.mT + E)[None].to(dtype)
    true = float((X[0].double() - U @ V.mT).norm()) / n**0.5
    measure = measure_full_rank(G, X, Workspace(), 0)
    assert 0.5 * true <= float(measure.error) <= (math.sqrt(10) if kind == "rotation" else 1.5) * true
    assert float(measure.smallest) == pytest.approx(0.1, rel=0.1)
    seen_by_defect = float(measure.defect) / 2
    assert (seen_by_defect > 0.5 * true) if kind == "defect" else (seen_by_defect < 0.05 * true)


def test_another_isometry_is_not_the_polar_factor(factors):
    """One singular vector with the wrong sign: XᵀX = I, but H is indefinite."""
    U, sigma, V = factors(30, 20, np.linspace(1.0, 0.5, 20))
    flipped = U.clone()
    flipped[:, 3] *= -1
    measure = measure_full_rank(((U * sigma) @ V.mT)[None], (flipped @ V.mT)[None], Workspace(), 0)
    assert float(measure.defect) <= 1e-14 and math.isinf(float(measure.error)) and float(measure.smallest) == 0.0


@pytest.mark.parametrize("kind", ["columns", "rows", "rotation"])
def test_errors_of_a_partial_isometry(factors, kind):
    """Rank 6 of 20, with an error of 1e-6 where an orthogonality defect does not show: to first order exactly."""
    U, sigma, V = factors(30, 20, [*np.linspace(1.0, 0.2, 6), *[0.0] * 14])
    generator, left, right = torch.Generator().manual_seed(1), U[:, :6], V[:, :6]
    noise = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    E = {
        "columns": U[:, 6:12] @ noise @ right.mT,
        "rows": left @ noise @ V[:, 6:12].mT,
        "rotation": left @ (noise - noise.mT) @ right.mT,
    }[kind]
    E *= 1e-6 / E.norm()
    found = V.clone()
    if kind == "rows":
        found[:, :6] += E.mT @ left  # the singular vectors that X is made of
    measure = measure_partial(((U * sigma) @ V.mT)[None], (left @ right.mT + E)[None], sigma[None], found[None])
    assert float(measure.error) * 6**0.5 == pytest.approx(1e-6, rel=1e-3)

"""Series by planes: under the interpreter against eigendecompositions, and where one plane begins by simulation.

u = 2^-22 of two planes. A sum to tol misses SHARE·tol, adds COARSE_SHARE·tol·spread in one plane, and rounds what
`rounding_error` predicts, times spread; for random B the spread is about 1.
"""

import math
from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_kernels import PlaneMatrix, chebyshev_series
from iroot_solve import SolveWorkspace, _case, solve_spd
from iroot_solve._blind import fastest, recordable
from iroot_solve._choose import candidates, choose
from iroot_solve._predict import rounding_error
from iroot_solve._sums import chebyshev_series_of
from iroot_solve._sums_by_planes import (
    COARSE_SHARE,
    MOVED,
    PLANES,
    SHARE,
    Span,
    by_planes,
    checked_by_planes,
    coarse_from,
    coarse_terms,
    fixed_by_planes,
    shifted,
)
from iroot_solve._sums_checked import plan_of
from iroot_solve._task import Task

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning"),
]
N, K = 192, 16
LATER = {"verify": "deferred", "on_failure": "nan"}
SPECTRA = {
    "log": lambda kappa, n: np.geomspace(1 / kappa, 1, n),
    "two": lambda kappa, n: np.repeat([1 / kappa, 1.0], n // 2),
    "power": lambda kappa, n: np.maximum(1 / kappa, np.arange(1.0, n + 1) ** -2),
    "lone": lambda kappa, n: np.r_[1 / kappa, np.linspace(0.5, 1, n - 1)],
}


@pytest.fixture
def planes(monkeypatch):
    """There are kernels, which the interpreter runs, and choices are those for a GPU."""
    if find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("needs Triton's interpreter")
    monkeypatch.setattr("iroot_kernels._thin.symmetric_products", lambda device: True)
    monkeypatch.setattr("iroot_solve._case.symmetric_products", lambda device: True)
    usual = _case.task_of

    def task_of(problem, options):
        return replace(usual(problem, options), device="cuda", recorded=options.blind)

    monkeypatch.setattr("iroot_solve._case.task_of", task_of)


def _relative(Z, expected):
    return torch.linalg.matrix_norm(Z.double() - expected) / torch.linalg.matrix_norm(expected)


# What it computes -----------------------------------------------------------------------------------------------------

FORMS = {
    "by_planes": lambda *args: by_planes(*args, 5),
    "checked": lambda *args: checked_by_planes(*args, 5),
    "fixed": lambda *args: fixed_by_planes(*args),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("p", [1, 2, 4])
def test_it_is_as_accurate_as_it_says(planes, with_spectrum, rhs, truth, form, p):
    """A batch of two spectra, half way in one plane; the error within what it is made of, the estimate above it."""
    kappa, tol = 20.0, 1e-4
    A = torch.stack([with_spectrum(SPECTRA[name](kappa, N), 3, torch.float32) for name in ("log", "two")])
    B = rhs(2, N, K)
    span = Span(Fraction(-1, p), 0.98 / kappa, 1.01, tol)
    outcome = FORMS[form](A, B, span, SolveWorkspace())
    error = _relative(outcome.Z, truth(A, B, -1 / p))
    rounded = rounding_error("chebyshev", PLANES, kappa, span.exponent)
    assert bool((error <= (SHARE + COARSE_SHARE) * tol + rounded).all())
    assert "one plane in the last" in outcome.backend and 2 * span.coarse < 2 * outcome.steps
    if form == "fixed":
        assert outcome.error is None
    else:
        assert bool((outcome.error >= error / 3).all()) and bool((outcome.error <= tol).all())


@pytest.mark.parametrize("form", ["by_planes", "checked"])
def test_what_is_rounded_is_more_of_an_answer_that_is_small(planes, with_spectrum, truth, form):
    """B of top eigenvectors: A⁻¹ leaves 1 of them, and κ/√2 of what is rounded, in all directions. Without that factor
    the estimate would be a fifth of the error."""
    kappa, tol = 100.0, 1e-3
    A = with_spectrum(SPECTRA["two"](kappa, N), 3, torch.float32)[None]
    B = 4 * torch.linalg.eigh(A.double()).eigenvectors[..., -K:].float()
    span = Span(Fraction(-1), 0.98 / kappa, 1.01, tol)
    outcome = FORMS[form](A, B.contiguous(), span, SolveWorkspace())
    error, spread = float(_relative(outcome.Z, truth(A, B, -1.0))), kappa / 2**0.5
    assert 3 * (COARSE_SHARE * tol + rounding_error("chebyshev", PLANES, kappa, span.exponent)) < error
    assert error <= COARSE_SHARE * tol * spread
    assert error / 3 <= float(outcome.error) <= 1.5 * (SHARE + COARSE_SHARE) * tol * spread


def test_an_eigenvalue_below_what_was_promised_is_seen_by_the_probes(planes, with_spectrum, rhs):
    """B has nothing of it. Its neighbour in the batch keeps the promise, and is told nothing of it."""
    kappa = 10.0
    kept = SPECTRA["log"](kappa, N)
    A = torch.stack([with_spectrum(values, 3, torch.float32) for values in (np.r_[1e-3, kept[1:]], kept)])
    V = torch.linalg.eigh(A.double()).eigenvectors[..., :1]
    B = rhs(2, N, K).double()
    B = (B - V @ (V.mT @ B)).float()
    found = checked_by_planes(A, B, Span(Fraction(-1, 2), 1 / kappa, 1.0, 1e-4), SolveWorkspace(), 5)
    assert found.error[0] == torch.inf and found.error[1] <= 1e-4


@pytest.mark.parametrize(("form", "room"), [("by_planes", False), ("fixed", False), ("checked", True)])
def test_the_series_has_room_below_where_probes_watch(planes, monkeypatch, spd, rhs, form, room):
    seen = []

    def noted(matrix, W, c, low, high, **settings):
        seen.append((low, high))
        return chebyshev_series(matrix, W, c, low, high, **settings)

    monkeypatch.setattr("iroot_solve._sums_by_planes.chebyshev_series", noted)
    span = Span(Fraction(-1, 2), 0.1, 1.1, 1e-2)
    FORMS[form](spd(N, 10.0)[None], rhs(1, N, K), span, SolveWorkspace())
    assert seen == [(pytest.approx(0.1 - room * MOVED * 1.1), pytest.approx(1.1 * (1 + 2 * MOVED)))]


@pytest.mark.slow
def test_eigenvalues_that_one_plane_moves_are_no_others(planes, with_spectrum, rhs, truth):
    """Half of them at either promised end: of the lower ones one plane takes up to a fifth."""
    A, B = with_spectrum(SPECTRA["two"](1e3, N), 3, torch.float32)[None], rhs(1, N, K)
    found = checked_by_planes(A, B, Span(Fraction(-1), 1e-3, 1.0, 1e-2), SolveWorkspace(), 5)
    assert "one plane" in found.backend and float(found.error) <= 1e-2
    assert float(_relative(found.Z, truth(A, B, -1.0))) <= 3 * float(found.error)


@pytest.mark.parametrize("form", ["by_planes", "checked"])
@pytest.mark.parametrize("right", ["random", "low"])
def test_a_shift_of_the_spectrum_is_seen(planes, monkeypatch, with_spectrum, rhs, truth, form, right):
    """Planes of S + δ·I, as tensor cores make of an identity but for one direction: κ·δ/p of what that has in Z."""
    kappa, shift, tol = 1e3, 2.0**-18, 1e-2
    A = with_spectrum(np.r_[1 / kappa, np.ones(N - 1)], 3, torch.float32)[None]
    V = torch.linalg.eigh(A.double()).eigenvectors
    B = rhs(1, N, K) if right == "random" else V[..., :K].float().contiguous()
    usual = PlaneMatrix.of
    monkeypatch.setattr(
        "iroot_solve._sums_by_planes.PlaneMatrix.of", lambda S, *rest: usual(S + shift * torch.eye(N), *rest)
    )
    outcome = FORMS[form](A, B, Span(Fraction(-1, 2), 0.98 / kappa, 1.01, tol), SolveWorkspace())
    error = float(_relative(outcome.Z, truth(A, B, -0.5)))
    assert error > 5e-4 and error / 1.5 <= float(outcome.error) <= 3 * error


def test_what_a_shift_is_of_z(planes, with_spectrum, rhs):
    """α·δ·‖S⁻¹z‖ of one small eigenvalue and the largest, exactly; of a zero column nothing; of NaN all."""
    low, shift, ws = 1e-2, 1e-4, SolveWorkspace()
    S = with_spectrum(np.r_[np.full(3, low), np.ones(N - 3)], 3, torch.float32)[None]
    Z = rhs(1, N, K)
    Z[..., 2] = 0.0
    matrix = PlaneMatrix.of(S + shift * torch.eye(N), ws)
    expected = 0.5 * shift * torch.linalg.solve(S.double(), Z.double()).norm() / Z.double().norm()
    assert float(shifted(matrix, S, Z, Fraction(-1, 2), low, 1.0)) == pytest.approx(float(expected), rel=2e-2)
    assert float(shifted(matrix, S, torch.zeros_like(Z), Fraction(-1, 2), low, 1.0)) == 0.0
    assert float(shifted(matrix, S, Z * torch.nan, Fraction(-1, 2), low, 1.0)) == math.inf
    same = torch.eye(N)[None]  # κ = 1: no interval
    found = shifted(PlaneMatrix.of(same * (1 + shift), ws), same, rhs(1, N, K), Fraction(-1, 2), 1.0, 1.0)
    assert float(found) == pytest.approx(0.5 * shift, rel=2e-2)


# Where one plane begins -----------------------------------------------------------------------------------------------


def _to_11_bits(X):
    m, e = np.frexp(X)
    return np.ldexp(np.round(m * 2.0**11), e - 11)


def _series(S, B, c, kappa, start):
    """Σ c_j·T_j(X)·B for A = S on [1/κ, 1], with S and V_{j−1} of 11 bits from that term on."""
    slope, offset, low = 2 / (1 - 1 / kappa), (1 + 1 / kappa) / (1 - 1 / kappa), _to_11_bits(S)
    here, before, total = B, np.zeros_like(B), c[0] * B
    for j in range(1, len(c)):
        product = low @ _to_11_bits(here) if j > start else S @ here
        here, before = (1 if j == 1 else 2) * (slope * product - offset * here) - before, here
        total = total + c[j] * here
    return total


class _Simulated:
    """What one plane from a term on adds to the sum, in units of COARSE_SHARE·tol·spread."""

    def __init__(self, spectrum, kappa, p, tol, seed, top=False, n=128):
        rng, self.kappa = np.random.default_rng(seed), kappa
        self.span = Span(Fraction(-1, p), 1 / kappa, 1.0, tol)
        self.Q, self.values = np.linalg.qr(rng.standard_normal((n, n)))[0], SPECTRA[spectrum](kappa, n)
        self.S = (self.Q * self.values) @ self.Q.T
        self.B = 3 * self.Q[:, np.argsort(self.values)[-K:]] if top else rng.standard_normal((n, K))
        self.V = rng.standard_normal((n, K))
        self.c = chebyshev_series_of(self.span.exponent, kappa)
        self.exact = _series(self.S, self.B, self.c, kappa, 10**9)
        size = [np.linalg.norm(M) for M in (self.B, self.exact, self._power(self.V), self.V)]
        self.unit = COARSE_SHARE * tol * max(1.0, size[0] / size[1] * size[2] / size[3]) * size[1]

    def _power(self, V):
        return (self.Q * self.values ** float(self.span.exponent)) @ (self.Q.T @ V)

    def __call__(self, start):
        found = _series(self.S, self.B, self.c, self.kappa, start)
        return np.linalg.norm(found - self.exact) / self.unit


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [10.0, 100.0, pytest.param(1e3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("tol", [1e-3, 1e-4])
def test_one_plane_adds_what_it_may(spectrum, p, kappa, tol):
    """From `coarse_from` on no more than its share, whatever B; from the start far more. For two values, whose errors
    repeat, it is early enough and not earlier by a factor of 4, which is √κ/2·ln 4 terms."""
    start, earlier = coarse_from(Fraction(-1, p), kappa, tol), math.ceil(math.sqrt(kappa) / 2 * math.log(4.0))
    for seed, top in ((0, False), (1, False), (2, True)):
        added = _Simulated(spectrum, kappa, p, tol, seed, top)
        assert added(start) <= 1 < added(0)
        if spectrum == "two" and not top and start > earlier:
            assert added(start - earlier) > 1


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("tol", [1e-3, 1e-4, 1e-5])
def test_the_planner_knows_about_how_many_terms_that_is(p, tol):
    for kappa in (10.0, 30.0, 100.0, 300.0, 1e3, 1e4):
        found, predicted = (count(Fraction(-1, p), kappa, tol) for count in (coarse_from, coarse_terms))
        assert abs(predicted - found) <= max(1.0, 0.15 * found)


@pytest.mark.parametrize("n", [64, 256, 400])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_one_plane_moves_eigenvalues_by_no_more_than_it_is_said_to(n, share):
    """The ends of two values, so many of the small one; at a distance of 1 others add MOVED² or so."""
    values = np.where(np.arange(n) < share * n, 1e-3, 1.0)
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]
    S = (Q * values) @ Q.T
    found = np.linalg.eigvalsh(_to_11_bits((S + S.T) / 2))
    assert 1e-3 - found[0] <= MOVED + 4 * MOVED**2 and found[-1] - 1 <= 2 * MOVED + 4 * MOVED**2
    assert share != 0.5 or 1e-3 - found[0] >= MOVED / 2


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("kappa", [300.0, 1e3])
def test_a_kept_promise_is_not_refused_for_what_one_plane_moves(p, kappa):
    """Half of the eigenvalues at the promised end, where one plane moves some below: the last block of the probes stays
    under the limit, as planned from `begin` on; planned for the promise itself, it would not."""
    tol, shown = 1e-3, {}
    added = _Simulated("two", kappa, p, tol, 4)
    for room in (True, False):
        span = added.span._replace(room=room)
        plan = plan_of("chebyshev", span.exponent, span.kappa, SHARE * tol, len(added.S))
        c, count = chebyshev_series_of(span.exponent, span.kappa), plan.counted.terms
        last = np.where(np.arange(count + 1) > count - 8, c[: count + 1], 0.0)
        shown[room] = (
            np.linalg.norm(_series(added.S / span.end, added.V, last, span.kappa, span.coarse)) ** 2 / K / plan.limit
        )
    assert shown[True] <= 0.5 and shown[False] > 5 * shown[True]
    assert kappa < 1e3 or shown[False] > 1


def test_beyond_what_one_plane_can_tell_from_zero_there_is_none():
    """At κ·MOVED = 2.4 an eigenvalue may come out negative, and V_j grows without end."""
    for kappa, room, one in ((1e3, True, True), (2e3, True, False), (2e3, False, True), (1e4, False, False)):
        span = Span(Fraction(-1, 2), 1 / kappa, 1.0, 1e-2, room)
        assert span.one_plane == one and (span.coarse is not None) == one
        assert (span.more(10**4) > 0) == one and ("one plane" in span.backend(10**4)) == one
        assert span.begin == pytest.approx(1 / kappa - (MOVED if room and one else 0.0))
        assert span.end == pytest.approx(1.0 + (2 * MOVED if one else 0.0))


# In a call ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"kappa_max": 21.0}, LATER | {"kappa_max": 21.0}])
def test_a_call_of_that_name(planes, spd, rhs, truth, distance, settings):
    A, B = spd(N, 20.0), rhs(N, K)
    Z, _, stats, _ = solve_spd(A, B, strategy="chebyshev", **settings)
    error = distance(Z, truth(A, B, -0.5))
    assert stats.status == "converged" and stats.strategy == "chebyshev" and not stats.fallbacks
    assert stats.backend.startswith("triton: products with columns, one plane in the last")
    assert error <= 1e-4 and error / 3 <= float(stats.error) <= 1e-4


def test_a_call_that_verifies_nothing(planes, spd, rhs, truth, distance, host_reads):
    A, B = spd(N, 20.0), rhs(N, K)
    solve_spd(A, B, strategy="chebyshev", kappa_max=21.0, verify=False, on_failure="nan")
    with host_reads() as found:
        Z, _, stats, _ = solve_spd(A, B, strategy="chebyshev", kappa_max=21.0, verify=False, on_failure="nan")
    assert found == [] and stats.status == "unverified" and stats.backend.startswith("triton: products with columns")
    assert distance(Z, truth(A, B, -0.5)) <= (SHARE + COARSE_SHARE) * 1e-4 + 1e-5


def test_a_broken_promise(planes, spd, rhs, truth, distance):
    """Too small by 100: nobody is there to act on it in a deferred call; else it is dropped."""
    A, B = spd(N, 300.0), rhs(N, K)
    later = solve_spd(A, B, strategy="chebyshev", kappa_max=3.0, **LATER)
    assert later.stats.status == "stagnated" and bool(later.Z.isnan().all())
    now = solve_spd(A, B, strategy="chebyshev", kappa_max=3.0)
    assert now.stats.status == "converged" and now.stats.fallbacks
    assert distance(now.Z, truth(A, B, -0.5)) <= 1e-4


def test_only_float32_has_planes(planes, spd, rhs, truth, distance):
    A = spd(N, 10.0)
    assert PlaneMatrix.serves(A) and not PlaneMatrix.serves(A.double()) and not PlaneMatrix.serves(A[:128, :128])
    wide = solve_spd(A.double(), rhs(N, K).double(), strategy="chebyshev", tol=1e-8)
    assert wide.stats.backend == "torch" and wide.stats.precision == "fp64"


def test_without_kernels_there_are_no_planes(spd, rhs):
    A = spd(N, 10.0)
    assert not PlaneMatrix.serves(A)
    assert solve_spd(A, rhs(N, K), strategy="chebyshev").stats.backend == "torch"


# In a choice ----------------------------------------------------------------------------------------------------------

WIDE = Task(8192, 64, 1, Fraction(-1, 2), 1e-4, False, device="cuda", symmetric=True)
BLIND = replace(WIDE, recorded=True, reduced=False)


def _recorded(task, kappa):
    return fastest(task, 1 / kappa, 1.0, kappa, recordable(task, "auto"))


def test_auto_takes_it_for_few_columns_of_a_large_matrix():
    for found in (choose(WIDE, 1e-2, 1.0), _recorded(BLIND, 1e2)):
        assert (found.strategy, found.precision, found.symmetric) == ("chebyshev", PLANES, True)
    for found in (choose(WIDE, 1e-6, 1.0), _recorded(BLIND, 1e6)):
        assert found.strategy in ("materialize-root", "direct-solve")


def test_auto_takes_no_other_series_on_a_device():
    """One that reads numbers back while it runs, or is no kernel; by name there is one."""
    without, blind = replace(WIDE, symmetric=False), replace(BLIND, symmetric=False)
    assert candidates(without, 0.1, 1.0)[0].strategy in ("chebyshev", "cayley")
    for kappa in (2.0, 10.0, 1e2, 1e4):
        assert choose(without, 1 / kappa, 1.0).strategy not in ("chebyshev", "cayley", "lanczos")
        assert _recorded(blind, kappa).strategy not in ("chebyshev", "cayley", "lanczos")
        for task in (WIDE, BLIND):
            found = choose(task, 1 / kappa, 1.0)
            assert found.symmetric or found.strategy not in ("chebyshev", "cayley", "lanczos")
    assert choose(without, 0.1, 1.0, "chebyshev").strategy == "chebyshev"


def test_beyond_one_plane_its_terms_cost_what_two_cost():
    """1/(4·MOVED) = 1024 where nothing is read."""
    below, above = (next(c for c in candidates(BLIND, 1 / kappa, 1.0) if c.symmetric and c.strategy == "chebyshev")
                    for kappa in (1e3, 1.05e3))  # fmt: skip
    assert above.milliseconds > 1.15 * below.milliseconds and above.error < below.error


# On a device ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [{}, LATER], ids=["eager", "deferred"])
@pytest.mark.parametrize("right", ["random", "low"])
@pytest.mark.parametrize(("p", "kappa", "tol"), [(1, 1e2, 1e-3), (2, 1e3, 1e-3), (4, 1e3, 1e-3)])
def test_one_small_eigenvalue_on_a_device(truth, p, kappa, tol, right, settings):
    """An identity but for one direction, which tensor cores shift by 2^-20."""
    n, g = 1024, torch.Generator("cuda").manual_seed(5)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, device="cuda", generator=g)).Q
    A = torch.eye(n, device="cuda", dtype=torch.float64) - (1 - 1 / kappa) * Q[:, :1] @ Q[:, :1].mT
    A = ((A + A.mT) / 2).float()
    B = torch.randn(n, K, device="cuda", generator=g) if right == "random" else Q[:, :K].float().contiguous()
    found = solve_spd(A, B, p_val=p, strategy="chebyshev", kappa_max=1.01 * kappa, tol=tol, **settings)
    if found.stats.status == "converged":
        error = float(_relative(found.Z.cpu(), truth(A.cpu(), B.cpu(), -1 / p)))
        assert error <= tol and float(found.stats.error) >= error / 3
    else:
        assert settings == LATER and float(found.stats.error) > tol

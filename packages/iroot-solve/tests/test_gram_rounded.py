"""GᵀG by symmetric products where its rounding has room in tol, against a float64 SVD of G.

A solve on a CPU takes itself for one on a device with symmetric products. Its iterations are made of whole products in
the same precision, and GᵀG of those of `symmetric_rank_k`'s reference, unless a test says that kernels run.
"""

from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import pytest
import torch
from iroot_kernels import _rank_k, symmetric_rank_k
from iroot_solve import (
    PrecondConfig,
    SolveWorkspace,
    Status,
    _case,
    _gram_formed,
    _iterate,
    _solve,
    apply_inverse_root_gram_rhs_spd,
    solve_gram_spd,
)
from iroot_solve._gram_formed import MOST, ROUNDING, SHARE
from iroot_solve._problem import Gram

LATER = {"verify": "deferred", "on_failure": "nan"}
ROUNDED, FINE = "GᵀG by symmetric products", "GᵀG in float64"
# −1/2, and what δ·κ/s may take of 1e-4 for p = 2.
HALF, ROOM = Fraction(-1, 2), 1e-4 * SHARE * 2 / ROUNDING


@pytest.fixture
def device(monkeypatch):
    """Symmetric products run, as far as anybody knows, in two planes."""
    known = _case.task_of

    def task_of(problem, options):
        return replace(known(problem, options), device="cuda", symmetric=True, reduced=False)

    for module in (_case, _solve, _gram_formed):
        monkeypatch.setattr(module, "task_of", task_of)
    monkeypatch.setattr(_iterate.Iteration, "_is_symmetric", lambda self, schedule: False)


@pytest.fixture
def forms(device, monkeypatch):
    """What was formed, in order."""
    found, fine, coarse = [], _gram_formed._in_float64, _gram_formed._rounded
    monkeypatch.setattr(_gram_formed, "_in_float64", lambda *args: (found.append("float64"), fine(*args))[1])
    monkeypatch.setattr(_gram_formed, "_rounded", lambda *args: (found.append("rounded"), coarse(*args))[1])
    return found


def _values(kind, n, kappa):
    """Singular values between κ^-½ and 1."""
    low = kappa**-0.5
    if kind == "log":
        return torch.logspace(0, torch.tensor(low).log10(), n, dtype=torch.float64)
    values = torch.full((n,), 1.0 if kind in ("lone", "half") else low, dtype=torch.float64)
    values[{"lone": n - 1, "half": n // 2, "top": 1}[kind] :] = low
    values[0] = 1.0
    return values


def _matrix(m, n, kappa, kind="log", dtype=torch.float32, seed=0):
    """G with that κ of GᵀG and dense random singular vectors."""
    generator = torch.Generator().manual_seed(seed)
    U, V = (
        torch.linalg.qr(torch.randn(size, min(m, n), generator=generator, dtype=torch.float64)).Q for size in (m, n)
    )
    return ((U * _values(kind, min(m, n), kappa)) @ V.mT).to(dtype)


def _truth(G, B, exponent=HALF, ridge=0.0, dual=False):
    """Of the numbers that were passed."""
    _, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    right = B.double() if not dual else G.double().mT @ B.double()
    return Vh.mT @ ((sigma.square() + ridge).pow(float(exponent)).unsqueeze(-1) * (Vh @ right))


@pytest.mark.parametrize("kind", ["log", "lone", "half", "top"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("m", "n"), [(128, 128), (2000, 64)])
@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
def test_what_rounding_moves(distance, kind, dtype, m, n, kappa):
    """δ·κ/s, never more, and never less than a two-hundredth: of what was passed, whatever rounded it before."""
    if dtype is torch.float16 and kappa > 1e4:
        pytest.skip("fp16 itself leaves no such matrix")
    G = _matrix(m, n, kappa, kind, dtype)
    A = symmetric_rank_k(G[None]).double()
    sigma = torch.linalg.svdvals(G.double())
    values, V = torch.linalg.eigh(A)
    for p in (1, 2, 4):
        found = (V * values.pow(-1 / p)) @ V.mT
        error = distance(found, _truth(G, torch.eye(n), Fraction(-1, p)))
        predicted = ROUNDING * float(sigma[0] / sigma[-1]) ** 2 / p
        assert predicted / 200 <= error <= predicted


@pytest.mark.parametrize("form", ["primal", "dual", "dual wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("k", [3, 24])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_rounded_and_right(forms, rhs, distance, within, form, dtype, p, k, ridge):
    m, n = (40, 120) if "wide" in form else (120, 40)
    G = _matrix(m, n, 20.0, dtype=dtype)
    tol = 1e-4 if dtype is torch.float32 else 1e-2
    B = rhs(n if form == "primal" else m, k, dtype=dtype)
    solve = solve_gram_spd if form == "primal" else apply_inverse_root_gram_rhs_spd
    result = solve(G, B, p_val=p, ridge=ridge, strategy="direct-solve")
    assert forms == ["rounded"] and result.stats.status == "converged" and result.stats.fallbacks == ()
    assert ("GGᵀ" if "wide" in form else "GᵀG") + " by symmetric products" in result.stats.backend
    error = distance(result.Z, _truth(G, B, Fraction(-1, p), ridge, form != "primal"))
    assert error <= within(tol, dtype)
    assert 0.1 * error <= float(result.stats.error) + torch.finfo(dtype).eps


@pytest.mark.parametrize("scale", [1e-18, 1e-3, 1e3, 1e18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [1, 3, 8])
def test_any_scale(forms, rhs, distance, within, scale, dtype, p):
    """The largest number of 2^-g·G is between 2^-p and 1; what fp16 holds of a smaller one beside it is enough."""
    if dtype is torch.float16:
        scale = min(max(scale, 2.0**-6), 2.0**6)
    G, B = (scale * _matrix(90, 36, 15.0)).to(dtype), rhs(36, 4, dtype=dtype)
    if dtype is torch.float16:
        B = B * scale  # so that Z is one of its normal numbers
    result = solve_gram_spd(G, B, p_val=p, strategy="direct-solve")
    assert forms == ["rounded"] and result.stats.status == "converged" and result.stats.fallbacks == ()
    tol = 1e-4 if dtype is torch.float32 else 1e-2
    assert distance(result.Z, _truth(G, B, Fraction(-1, p))) <= within(tol, dtype)


@pytest.mark.parametrize(
    ("kappa", "tol", "expected"), [(30.0, 1e-4, 1), (2e3, 1e-4, 2), (2e3, 1e-2, 1), (1e6, 1e-2, 2)]
)
def test_what_is_seen_decides(forms, rhs, distance, kappa, tol, expected):
    """Room for κ up to 210 at 1e-4 and 2.1e4 at 1e-2; beyond it, GᵀG in float64 and no second look."""
    assert ROOM == pytest.approx(105, rel=1e-2) and kappa * ROUNDING < MOST or kappa == 1e6
    G, B = _matrix(200, 64, kappa, seed=3), rhs(64, 4)
    result = solve_gram_spd(G, B, tol=tol, strategy="direct-solve")
    assert forms == ["rounded", "float64"][:expected]
    assert result.stats.status == "converged" and (ROUNDED in result.stats.backend) == (expected == 1)
    assert distance(result.Z, _truth(G, B)) <= tol


@pytest.mark.parametrize(("kappa", "looks"), [(2e3, 1), (3e5, 2)])
def test_what_a_look_has_seen_is_not_looked_for_again(forms, rhs, distance, monkeypatch, kappa, looks):
    """Unless rounding may have moved it: δ·κ > 2^-5."""
    found, look = [], _case.Case.look
    monkeypatch.setattr(_case.Case, "look", lambda self: (found.append(self), look(self))[1])
    G, B = _matrix(200, 64, kappa, "half"), rhs(64, 4)
    result = solve_gram_spd(G, B, strategy="direct-solve", tol=1e-4)
    assert forms == ["rounded", "float64"] and len(found) == looks and result.stats.status == "converged"
    assert distance(result.Z, _truth(G, B)) <= 1e-4
    assert float(result.stats.lambda_max) >= float(torch.linalg.matrix_norm(G.double(), 2)) ** 2


def test_the_ends_are_taken_over_in_units_of_the_other_matrix(forms, monkeypatch, rhs, distance):
    """max|a_ij| = 1/4 is a power of two, and on one side of it or the other by rounding alone."""
    G, kappa = torch.zeros(64, 64, dtype=torch.float64), 2e3
    G[:, :] = _matrix(64, 64, kappa, "half").double()
    A = G.mT @ G
    G = (G * (0.25 / float(A.abs().max())) ** 0.5).float()
    size = float((G.double().mT @ G.double()).abs().max())
    coarse = _gram_formed._rounded

    def rounded(source, ws):  # to the other side
        return coarse(source, ws).mul_(1 - 2.0**-20 if size >= 0.25 else 1 + 2.0**-20)

    monkeypatch.setattr(_gram_formed, "_rounded", rounded)
    found, take = [], _gram_formed._take_ends

    def watched(fresh, case):
        take(fresh, case)
        found.append((int(case.matrix.exponent - fresh.matrix.exponent), fresh))

    monkeypatch.setattr(_gram_formed, "_take_ends", watched)
    result = solve_gram_spd(G, rhs(64, 4), strategy="direct-solve")
    (shift, fresh), values = found[0], torch.linalg.eigvalsh(G.double().mT @ G.double())
    assert abs(shift) == 2 and result.stats.status == "converged"  # exponents are multiples of p
    scaled = torch.ldexp(values, -fresh.matrix.exponent)
    low, high = (float(end) for end in fresh.ends)
    assert scaled[0] * 0.99 <= low <= 3 * scaled[0] and 0.7 * scaled[-1] <= high <= 1.01 * scaled[-1]
    assert float(fresh.matrix.upper) >= scaled[-1]


@pytest.mark.parametrize(
    "settings", [{}, {"kappa_max": 25.0}, {"fallback": False, "on_failure": "nan"}, {"kappa_max": 25.0, **LATER}]
)
@pytest.mark.parametrize("form", ["direct-solve", "materialize-root"])
def test_a_worse_rounding_than_predicted_is_seen_and_made_good(forms, rhs, distance, monkeypatch, settings, form):
    """The certificate multiplies by G: nobody else could tell GᵀG from what stands for it."""
    coarse = _gram_formed._rounded
    monkeypatch.setattr(_gram_formed, "_rounded", lambda source, ws: _worse(coarse(source, ws)))
    G, B = _matrix(100, 40, 20.0), rhs(40, 4)
    result = solve_gram_spd(G, B, strategy=form, **settings)
    if "on_failure" in settings:
        assert result.stats.status == "stagnated" and float(result.stats.error) > 1e-4 and forms == ["rounded"]
        assert bool(result.Z.isnan().all())
        return
    assert result.stats.status == "converged" and forms == ["rounded", "float64"]
    assert result.stats.fallbacks[-1].endswith(FINE) and len(result.stats.fallbacks) == 1
    assert ROUNDED not in result.stats.backend and distance(result.Z, _truth(G, B)) <= 1e-4


def _worse(A):
    """Off by 1e-3 in its smallest eigenvalue."""
    values, V = torch.linalg.eigh(A.double())
    moved = A.double() + 1e-3 * values[:, :1, None] * V[..., :1] @ V[..., :1].mT
    return A.copy_((moved + moved.mT) / 2)


def test_a_rung_is_for_those_that_need_it(forms, rhs, distance, monkeypatch):
    coarse = _gram_formed._rounded

    def second(source, ws):
        A = coarse(source, ws)
        _worse(A[1:2])
        return A

    monkeypatch.setattr(_gram_formed, "_rounded", second)
    G, B = torch.stack([_matrix(100, 40, 20.0, seed=seed) for seed in range(3)]), rhs(3, 40, 4)
    result = solve_gram_spd(G, B, strategy="direct-solve")
    assert forms == ["rounded", "float64"] and bool(result.stats.converged.all())
    for i in range(3):
        assert distance(result.Z[i], _truth(G[i], B[i])) <= 1e-4


@pytest.mark.parametrize("kappa", [1e3, 1e6])
def test_the_worst_of_a_batch_decides(forms, rhs, distance, kappa):
    """Also where the plan is for the others, because float32 serves those."""
    G, B = torch.stack([_matrix(100, 40, k) for k in (10.0, kappa)]), rhs(2, 40, 4)
    result = solve_gram_spd(G, B, strategy="direct-solve")
    assert forms == ["rounded", "float64"] and bool(result.stats.converged.all())
    assert not any(rung.endswith(FINE) for rung in result.stats.fallbacks)
    assert distance(result.Z[1], _truth(G[1], B[1])) <= 1e-4


@pytest.mark.parametrize("verify", ["deferred", False])
@pytest.mark.parametrize("kappa", [20.0, 1e4])
def test_a_promise_decides_where_nothing_is_read(forms, rhs, distance, host_reads, verify, kappa):
    G, B = _matrix(200, 48, 15.0), rhs(48, 4)
    with host_reads() as found:
        Z, _, stats, _ = solve_gram_spd(G, B, kappa_max=kappa, verify=verify, on_failure="nan")
    assert found == [] and forms == ["rounded" if kappa == 20.0 else "float64"]
    assert stats.status == ("converged" if verify else "unverified") and (ROUNDED in stats.backend) == (kappa == 20.0)
    error = distance(Z, _truth(G, B))
    assert error <= 1e-4 and (not verify or error <= 1.5 * float(stats.error) + 1e-7)


@pytest.mark.parametrize("kappa", [1e6, 1e10, 1e14])
@pytest.mark.parametrize("share", [1.0, 1e-4, 1e-8])
@pytest.mark.parametrize("settings", [LATER, {"on_failure": "nan"}, {"on_failure": "nan", "kappa_max": None}])
def test_an_eigenvalue_that_rounding_buries(forms, rhs, distance, kappa, share, settings):
    """Of a size that what was formed knows nothing of, in a direction that B hardly has: most of the answer all the
    same, and of nothing that was computed."""
    G = _matrix(100, 40, kappa, "lone")
    _, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    B = (Vh[:20].mT @ rhs(20, 2).double() + share * Vh[-1:].mT).float()
    result = solve_gram_spd(G, B, strategy="direct-solve", **{"kappa_max": 20.0, **settings})
    assert forms[0] == "rounded"
    right = distance(torch.nan_to_num(result.Z), _truth(G, B)) <= 1e-4
    assert right or result.stats.status != "converged"
    if settings is LATER:
        assert result.stats.status == "stagnated"


def test_no_steps_are_taken_on_what_rounding_made(forms, rhs, distance, monkeypatch):
    """Of λ = 1e-6 it has made 1e-4, and the promise that both break was not looked at, as on a device.

    More steps would serve 1e-4, of which B's share of that eigenvector is 1e2 times as much of the answer, less than
    tol; of the true one it is 1e3 times as much.
    """
    tol, share = 1e-3, 2.3e-6
    G = _matrix(100, 40, 1e6, "lone")
    v, coarse = torch.linalg.svd(G.double(), full_matrices=False).Vh[-1:].mT, _gram_formed._rounded
    B = rhs(40, 1).double()
    B = (B + (share * float(B.norm()) - v.mT @ B) * v).float()
    assert 1e2 * share < tol / 4 and 1e3 * share > 2 * tol

    def rounded(source, ws):
        exact = source.G.mT @ source.G
        moved = (1e-4 * torch.linalg.matrix_norm(exact, 2) - v.mT @ exact @ v) * v @ v.mT
        return coarse(source, ws).copy_(exact + moved)

    def bounded(case):
        case.least_share = case.matrix.bound_by_power()

    monkeypatch.setattr(_gram_formed, "_rounded", rounded)
    monkeypatch.setattr(_case.Case, "look", bounded)
    result = solve_gram_spd(G, B, kappa_max=20.0, strategy="direct-solve", tol=tol)
    assert result.stats.fallbacks[0].endswith(FINE) and distance(result.Z, _truth(G, B)) <= tol


@pytest.mark.parametrize("s", [1, 8])
def test_small_numbers_beside_large_ones(rhs, s):
    """Where all of 2^-g·G is below 2^(1−s), and half of it a thousandth of that, fp16 holds it all as it was passed."""
    G = rhs(60, 40)
    G[:, ::2] *= 1e-3
    wide = G.half().double()
    wide = (wide * 2.0 ** (1 - s) / 4)[None]
    assert 2.0**-s <= float(wide.abs().max()) < 2.0 ** (1 - s)
    source = Gram(wide, torch.zeros(1, dtype=torch.int32), torch.float16)
    found, size = _gram_formed._rounded(source, SolveWorkspace()).double(), wide.abs().mT @ wide.abs()
    # A float32 sum of 60 products is off by 60·2^-24 at worst.
    assert bool(((found - wide.mT @ wide).abs() <= 60 * 2.0**-24 * size).all())


@pytest.mark.parametrize(
    "settings",
    [
        {"exponent": Fraction(1, 2)},
        {"p_val": 9},
        {"on_singular": "pinv"},
        {"abc_t": torch.tensor([[1.875, -1.25, 0.375]] * 12)},
        {"p_val": 1, "precond_config": PrecondConfig("jacobi")},
        {"strategy": "eigh"},
        {"strategy": "chebyshev"},
        {"precision": "fp64"},
        {"precision": "fp32"},
        {"tol": 1e-7, "on_failure": "nan"},
        {"kappa_max": 1e4},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_it_is_not_for(forms, rhs, settings):
    assert settings.get("strategy") != "chebyshev" or pytest.importorskip("triton")  # by planes
    result = solve_gram_spd(_matrix(100, 40, 10.0), rhs(40, 2), **settings)
    assert forms == ["float64"] and ROUNDED not in result.stats.backend


def test_what_it_is_not_there_for(forms, rhs, monkeypatch):
    solve_gram_spd(_matrix(100, 40, 10.0).double(), rhs(40, 2).double())
    solve_gram_spd(_matrix(100, 24, 10.0), rhs(24, 2))
    monkeypatch.undo()
    assert forms == ["float64"] * 2
    assert ROUNDED not in solve_gram_spd(_matrix(100, 40, 10.0), rhs(40, 2), strategy="direct-solve").stats.backend


def test_it_is_formed_once(forms, rhs, distance):
    """And what was formed again is what is kept."""
    for kappa, expected in ((10.0, ["rounded"]), (1e3, ["rounded", "float64"])):
        forms.clear()
        G, ws = _matrix(100, 40, kappa), SolveWorkspace()
        for seed in range(3):
            B = rhs(40, 3, seed=seed)
            Z = solve_gram_spd(G, B, strategy="direct-solve", workspace=ws, expected_reuse=3).Z
            assert forms == expected and distance(Z, _truth(G, B)) <= 1e-4
        G.mul_(2.0)
        forms.clear()
        assert distance(solve_gram_spd(G, B, strategy="direct-solve", workspace=ws).Z, _truth(G, B)) <= 1e-4
        assert forms == expected
        forms.clear()
        solve_gram_spd(G, B, strategy="direct-solve", workspace=ws, reuse_precond=False)
        solve_gram_spd(G, B, strategy="direct-solve", workspace=ws)
        assert forms == 2 * expected


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_harms_no_other(forms, rhs, distance, bad):
    G, B = torch.stack([_matrix(100, 40, 10.0, seed=seed) for seed in range(3)]), rhs(3, 40, 4)
    G[1, 2, 3] = bad
    for settings in ({"on_failure": "nan"}, {"kappa_max": 12.0, **LATER}):
        result = solve_gram_spd(G, B, strategy="direct-solve", **settings)
        assert result.stats.status == ["converged", "nonfinite_input", "converged"]
        assert bool(result.Z[1].isnan().all()) and distance(result.Z[2], _truth(G[2], B[2])) <= 1e-4
    assert set(forms) == {"rounded"}


def test_a_second_call_allocates_nothing_but_Z(device, rhs, allocations):
    G, B = _matrix(200, 96, 10.0), rhs(96, 64)
    ws = solve_gram_spd(G, B, strategy="direct-solve").workspace
    with allocations(96 * 64, G, B, *ws._buffers.values()) as found:
        solve_gram_spd(G, B, strategy="direct-solve", workspace=ws)
    assert len(found) == 1, found


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_by_the_kernels(device, rhs, distance, within, monkeypatch, dtype, strategy):
    """Under the interpreter: all of it as it is on a device."""
    if torch.cuda.is_available() or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")
    monkeypatch.undo()
    known = _case.task_of
    for module in (_case, _solve, _gram_formed):
        monkeypatch.setattr(module, "task_of", lambda *args: replace(known(*args), device="cuda", symmetric=True))
    monkeypatch.setattr(_rank_k, "symmetric_products", lambda device: True)
    G, B = _matrix(70, 40, 12.0, dtype=dtype), rhs(40, 3, dtype=dtype)
    tol = 1e-4 if dtype is torch.float32 else 1e-2
    for settings in ({}, {"kappa_max": 15.0, **LATER}):
        result = solve_gram_spd(G, B, strategy=strategy, **settings)
        assert result.stats.status_code == Status.converged and result.stats.fallbacks == ()
        assert result.stats.backend.startswith("triton") and result.stats.backend.endswith(ROUNDED)
        assert distance(result.Z, _truth(G, B)) <= within(tol, dtype)

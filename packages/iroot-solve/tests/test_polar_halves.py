"""Polar factors on the kernels of symmetric products, under the interpreter: the same numbers as by whole products.

Both ways round the same operands once, so that their errors are two draws of one distribution; over 40² numbers and
more their norms differ by less than a factor of 4. The interpreter knows no bfloat16: such numbers are held in fp16.
"""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_coeffs import named, plan
from iroot_kernels import Polynomial, Workspace, _rank_k
from iroot_solve import _polar_products, orthogonalize
from iroot_solve._bridge import polynomial
from iroot_solve._polar import _on_device
from iroot_solve._polar_iteration import PolarIteration, ending
from iroot_solve._polar_planes import PlaneIteration, shortened
from iroot_solve._polar_products import Halves, reached

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
SHAPES = [(70, 70), (2, 130, 40), (40, 130)]
ODD = [(1, 1), (1, 5), (5, 1), (3, 65), (65, 3), (2, 0, 3)]
DTYPES = {torch.float32: "fp16x3", torch.float16: "fp16", torch.bfloat16: "fp16"}
STEPS = {"muon": 5, "polar-express": 5, "cans": 6}


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        new = name not in self._buffers or self._buffers[name].shape != tuple(shape)
        held = super().buffer(name, shape, dtype, device)
        return held.fill_(torch.nan) if new and held.is_floating_point() else held


@pytest.fixture
def kernels(monkeypatch):
    """`kernels(False)` takes them away again."""
    if torch.cuda.is_available() or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")

    def switch(on=True):
        for module in (_rank_k, _polar_products):
            monkeypatch.setattr(module, "symmetric_products", lambda device: on)

    switch()
    return switch


@pytest.fixture
def matrix(rhs):
    """(shape, dtype, seed) ↦ normal numbers, which have small singular values where the shape is square."""
    return lambda *shape, dtype=torch.float32, seed=1: rhs(*shape, seed=seed, dtype=torch.float64).to(dtype)


def _error(U, G, name):
    """‖U − f(G/‖G‖_F)‖_F/√r of the composition f of the steps, the largest of the batch."""
    P, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    s = (sigma / torch.linalg.vector_norm(sigma, dim=-1, keepdim=True)).numpy()
    for q in named(name, 2, kappa=1e6, steps=STEPS[name]):
        s = s * q(s * s)
    expected = (P * torch.from_numpy(s).unsqueeze(-2)) @ Vh
    return float((torch.linalg.matrix_norm(U.double() - expected) / sigma.shape[-1] ** 0.5).amax())


@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "name"),
    [*((shape, "muon") for shape in SHAPES), *((SHAPES[-1], name) for name in STEPS if name != "muon")],
)
def test_given_steps_are_as_by_whole_products(kernels, matrix, shape, name, dtype, strategy):
    """And far better than in bfloat16: by 2^-3 in one plane of fp16 (half of that is asked for), by 2^-14 in two."""
    G, how = matrix(*shape, dtype=dtype), {"schedule": name, "steps": STEPS[name], "strategy": strategy}
    U, stats = orthogonalize(G, workspace=_Poisoned(), return_stats=True, **how)
    assert stats.precision == DTYPES[dtype] and stats.backend == "triton: symmetric products"
    assert U.dtype is dtype and stats.strategy == strategy
    kernels(False)
    whole, known = orthogonalize(G, precision=stats.precision, return_stats=True, **how)
    assert known.backend == "torch: on a CPU"
    error, own = _error(U, G, name), torch.finfo(dtype).eps / 2
    assert error <= 4 * _error(whole, G, name)
    coarse = _error(orthogonalize(G.float(), precision="bf16", **how), G, name)
    assert error <= coarse * (2.0**-2 if DTYPES[dtype] == "fp16" else 2.0**-10) + own
    assert error >= 2.0**-24


@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    # The planes of bfloat16 are those of fp16 here.
    [*((shape, dtype) for shape in ODD for dtype in (torch.float32, torch.float16)), ((3, 65), torch.bfloat16)],
    ids=str,
)
def test_odd_shapes(kernels, matrix, shape, dtype, strategy):
    """Muon's steps end where a step hardly moves errors: 16 roundings, and that of the output."""
    G = matrix(*shape, dtype=dtype)
    U = orthogonalize(G, schedule="muon", strategy=strategy, workspace=_Poisoned())
    assert U.shape == shape and U.dtype is dtype
    if U.numel():
        u = 2.0**-22 if dtype is torch.float32 else 2.0**-11
        assert _error(U, G, "muon") <= 16 * u + torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_one_plane_by_name(kernels, matrix, precision):
    G = matrix(40, 40)
    U, stats = orthogonalize(G, schedule="muon", precision=precision, return_stats=True)
    assert stats.precision == precision and stats.backend.startswith("triton") and U.dtype is torch.float32
    assert 2.0**-13 < _error(U, G, "muon") <= 16 * 2.0**-11


def test_float64_stays_float64(kernels, matrix):
    G = matrix(30, 20, dtype=torch.float64)
    for how in ({"schedule": "muon"}, {}):
        U, stats = orthogonalize(G, return_stats=True, **how)
        assert stats.precision == "fp64" and stats.backend == "torch: on a CPU"
    P, _, Vh = torch.linalg.svd(G, full_matrices=False)
    assert torch.dist(U, P @ Vh) <= 1e-10 * 20**0.5


@pytest.mark.parametrize("strategy", ["plain", "gram"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_zero_and_nan(kernels, matrix, dtype, strategy):
    """A power of two changes no bit, to both ends of the dtype; neighbours of all kinds do no harm."""
    G = matrix(20, 12, dtype=torch.float16).to(dtype)
    how = {"schedule": "polar-express", "steps": 3, "strategy": strategy}
    U = orthogonalize(G, **how)
    for e in (-10, 3) if dtype is torch.float16 else (-110, 120):
        scaled = torch.ldexp(G.double(), torch.tensor(e)).to(dtype)
        if torch.equal(torch.ldexp(scaled.double(), torch.tensor(-e)), G.double()):
            assert torch.equal(orthogonalize(scaled, **how), U)
        else:  # numbers below fp16's smallest normal one were rounded
            assert dtype is torch.float16 and torch.dist(orthogonalize(scaled, **how), U) <= 0.1 * U.norm()
    batch = torch.stack((torch.zeros_like(G), G, G.clone(), 100 * G))
    batch[2, 3, 3] = torch.inf
    found = orthogonalize(batch, **how)
    assert not found[0].any() and torch.equal(found[1], U) and not bool(found[2].isfinite().all())
    assert torch.dist(found[3].double(), U.double()) <= 0.05 * U.double().norm()


def test_layouts(kernels, matrix):
    """The caller's layout is kept, square and wide ones included."""
    for shape in ((24, 24), (24, 50), (50, 24)):
        G = matrix(*shape, dtype=torch.float16)
        U = orthogonalize(G, schedule="muon")
        assert torch.equal(orthogonalize(G.mT.contiguous().mT, schedule="muon"), U)
        assert torch.equal(orthogonalize(G.repeat_interleave(2, -1)[..., ::2], schedule="muon"), U)
        assert torch.dist(orthogonalize(G.mT, schedule="muon").mT.double(), U.double()) <= 0.02 * U.double().norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("strategy", ["plain", "gram"])
def test_given_steps_wait_for_nothing_and_allocate_nothing(
    kernels, matrix, host_reads, allocations, monkeypatch, dtype, strategy
):
    """On the second call with a workspace: but for U. Mixed degrees share their slots; the kernels themselves are out
    of it, since the interpreter reads all it is passed."""
    from iroot_kernels import _symmetric_root

    eye = torch.eye(40)
    monkeypatch.setattr(_symmetric_root, "run", lambda program, tables, A, B, held, choose: held.whole.fill_(0.01))
    monkeypatch.setattr(
        _polar_products, "symmetric_rank_k", lambda G, *, out, workspace, **_: torch.bmm(G.mT, G, out=out)
    )
    monkeypatch.setattr("iroot_solve._polar_planes.symmetric_rank_k", lambda G, *, out, workspace, **_: out.copy_(eye))
    G, ws = matrix(2, 60, 40, dtype=dtype), Workspace()
    schedule = plan(2, kappa=1e3, tol=1e-3, degrees=(2, 3, 4))
    assert len({step.degree for step in schedule}) > 1
    how = {"schedule": schedule, "strategy": strategy, "workspace": ws}
    orthogonalize(G, **how)
    held = ws.nbytes
    with host_reads() as reads, allocations(40 * 40, G, eye, *ws._buffers.values()) as made:
        orthogonalize(G, **how)
    assert reads == [] and ws.nbytes == held
    assert [line for line in made if "(2, 60, 40)" not in line] == [] and len(made) == 1


def test_what_is_the_same_for_all_is_made_on_the_device(monkeypatch):
    """Of given steps all is: nothing is copied from the host, so that they can be captured."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    for values in (np.full(3, 4, np.int8), np.full(3, np.nan), np.full(2, -1), np.zeros(0)):
        found = _on_device(values, torch.device("meta"))
        assert found.shape == values.shape and found.dtype is torch.from_numpy(values).dtype
    assert not pinned
    assert _on_device(np.array([1.0, 2.0]), torch.device("meta")).shape == (2,) and len(pinned) == 1
    assert _on_device(np.array([1.0, 2.0]), torch.device("cpu")).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_graph_reads_is_held(kernels, matrix, dtype):
    """Of a call that is captured, and of no other: the tables of every segment."""
    G, ws = matrix(20, 10, dtype=dtype), Workspace()
    how = {"schedule": "muon", "strategy": "gram", "workspace": ws}
    orthogonalize(G, **how)
    assert ws._held == [] and not ws.recording
    ws.recording = True
    orthogonalize(G, **how)
    assert len(ws._held) == 2


def test_what_the_bound_of_a_gram_matrix_allows_for():
    """The error of `symmetric_rank_k` in two planes on a GPU, c·|X|ᵀ|X| (test_rank_k_gpu.py), by m + slack units."""
    for m in (1, 2, 64, 1000, 10**6):
        c = 3 * 2.0**-22 + 72 * 2.0**-23 + (m / 64 + 3) * 2.0**-24
        assert c <= (m + Halves.slack) * 2.0**-23 and Halves.slack <= 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "strategy"), [((70, 70), "auto"), ((150, 40), "plain"), ((150, 40), "auto"), ((30, 90), "gram")]
)
def test_to_a_tolerance(kernels, spd, matrix, shape, strategy, dtype):
    """κ = 20 beside harder ones, which float64 finishes, and zero; all to the tolerance of the dtype."""
    tol = 1e-4 if dtype is torch.float32 else 1e-2
    r = min(shape)
    P, V = (torch.linalg.qr(matrix(size, r, dtype=torch.float64, seed=i)).Q for i, size in enumerate(shape))
    G = torch.stack([(P * torch.logspace(0, -math.log10(kappa), r).double()) @ V.mT for kappa in (20.0, 5.0)]).to(dtype)
    U, stats = orthogonalize(G, strategy=strategy, return_stats=True, workspace=_Poisoned())
    assert stats.precision == "fp16x3" and stats.fallbacks == () and bool(stats.converged.all())
    assert stats.backend == "triton: symmetric products"
    assert stats.strategy == (strategy if strategy != "auto" else "gram" if shape[0] != shape[1] else "plain")
    wide, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    true = torch.linalg.matrix_norm(U.double() - wide @ Vh) / r**0.5
    own = torch.finfo(dtype).eps / 2
    assert bool((true <= tol + own).all()) and bool((stats.error >= 0.1 * (true - own)).all())


def test_every_kind_in_one_batch(kernels, matrix):
    """Hard, deficient, and zero matrices beside an easy one: what fp16x3 cannot promise float64 or vectors do."""
    P, V = (torch.linalg.qr(matrix(size, 12, dtype=torch.float64, seed=size)).Q for size in (20, 12))
    easy, hard = ((P * torch.logspace(0, -e, 12).double()) @ V.mT for e in (0.5, 4.0))
    deficient = easy.clone()
    deficient[:, 3] = 0
    G = torch.stack((easy, hard, torch.zeros_like(easy), deficient, 1e-9 * easy)).float()
    U, stats = orthogonalize(G, return_stats=True)
    assert stats.rank.tolist() == [12, 12, 0, 11, 12] and bool(stats.converged.all())
    wide, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    expected = (wide * (sigma > 20 * 2.0**-24 * sigma[:, :1]).unsqueeze(-2)) @ Vh
    assert float(torch.linalg.matrix_norm(U.double() - expected).amax()) <= 1e-4 * 12**0.5


def test_steps_without_a_form_are_whole(kernels, matrix):
    """Degree 5 has none: float32 iterates, the other steps by halves."""
    steps = [Polynomial.of_monomials(c) for c in ((1.5, -0.5), (1.5, -0.4, -0.1, 0.05, 0.01, -0.06))]
    G = matrix(1, 50, 30) / 40
    for lengths in ((1, 1), (2,)):
        halves, whole = PolarIteration(G, "fp16x3", Workspace()), PolarIteration(G, "fp64", Workspace())
        assert isinstance(halves.products, Halves)
        halves.run(steps, lengths)
        whole.X = G.double()
        whole.run(steps, lengths)
        assert torch.dist(halves.X.double(), whole.X) <= 2e-6 * whole.X.norm()


@pytest.mark.parametrize("strategy", ["plain", "gram"])
def test_in_one_plane_steps_without_a_form_are_whole(kernels, matrix, strategy):
    """Of a spectrum in [0, 1/40] those steps are 1.5·σ and as much again: nothing is lifted far."""
    rows = [(1.5, -0.4, -0.1, 0.05, 0.01, -0.06)] * 2
    steps = [Polynomial.of_monomials(row) for row in rows]
    G = matrix(1, 50, 30, dtype=torch.float16)
    iteration, U = PlaneIteration(G, "fp16", Workspace()), torch.empty(1, 50, 30)
    iteration.run(steps, (1, 1) if strategy == "plain" else (2,))
    iteration.write(U)
    P, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    s = (sigma / sigma.norm()).numpy()
    for q in steps:
        s = s * q(s * s)
    expected = (P * torch.from_numpy(s).unsqueeze(-2)) @ Vh
    assert torch.dist(U.double(), expected) <= 8 * 2.0**-11 * expected.norm()


@pytest.mark.parametrize(("m", "n"), [(128, 128), (512, 128)])
@pytest.mark.parametrize("strategy", ["plain", "gram"])
def test_the_work_is_what_the_count_says(kernels, matrix, monkeypatch, m, n, strategy):
    """Five steps of degree 2 and two segments: 5·(1.5·a + 1/2) whole products, or 3·a + (5·1 + 3·3)/2."""
    _, stats = orthogonalize(matrix(m, n, dtype=torch.float16), schedule="muon", strategy=strategy, return_stats=True)
    a, halves, segments = m / n, stats.products["square"], stats.products["rectangular"] / 2
    assert segments == (5 if strategy == "plain" else 2)
    units = halves / 2 + segments * 1.5 * a
    assert units == (5 * (1.5 * a + 0.5) if strategy == "plain" else 2 * 1.5 * a + (5 + 3 * (5 - 2)) / 2)


def test_the_form_follows_from_the_aspect(kernels, matrix):
    for dtype, shape, form in (
        (torch.float32, (20, 20), "plain"),
        (torch.float32, (22, 20), "gram"),
        (torch.float16, (30, 20), "plain"),
        (torch.float16, (31, 20), "gram"),
    ):
        assert orthogonalize(matrix(*shape, dtype=dtype), schedule="muon", return_stats=True)[1].strategy == form
    kernels(False)
    assert orthogonalize(matrix(90, 20), schedule="muon", return_stats=True)[1].strategy == "plain"


def test_segments_are_short_in_one_plane():
    assert ending([3.0, 3.0, 3.0, 3.0], 9.0, 0.0) == (2, 2)
    assert ending([9.0, 4.0, 2.0, 2.0], 4.0, 36.0) == (2, 2)
    assert ending([9.0, 4.0, 2.0, 2.0], 4.0, 35.0) == (1, 1, 2)
    assert ending([1.0, 1.0, 1.0], 3.0, 3.0) == (3,)
    assert ending([8.0, 100.0], 3.0, 3.0) == (1, 1)
    assert ending([8.0], 3.0, 3.0) == (1,)
    lifts = {
        name: [float(q(0.0)) for q in named(name, 2, kappa=1e6)]
        for name in ("muon", "polar-express", "newton-schulz-5")
    }
    assert shortened(lifts["muon"], "fp16") == (3, 2)
    assert shortened(lifts["polar-express"], "fp16") == (2, 2, 4)
    assert shortened(lifts["newton-schulz-5"][:1] * 5, "fp16") == (5,)
    assert shortened(lifts["muon"], "bf16") == (2, 1, 1, 1)


@pytest.mark.parametrize("name", STEPS)
def test_where_steps_take_singular_values(name):
    """On a finer grid, and not much further: planes are scaled by it."""
    steps = [polynomial(step) for step in named(name, 2, kappa=1e6)]
    y = np.union1d(np.linspace(0.0, 1.0, 100_001), np.geomspace(1e-12, 1.0, 100_001))
    for i, q in enumerate(steps, start=1):
        y = y * q(y) ** 2
        assert 0.99 * y.max() <= reached(steps[:i], 1.0) * 1.001 and reached(steps[:i], 1.0) <= 1.01 * y.max()


@pytest.mark.slow
def test_long_segments_diverge_in_one_plane(kernels, matrix):
    """Why they are limited: σ from 1 to 1e-3, lifted by 430 in the first of two; −u becomes −u·430² and leaves fp16."""
    steps = [polynomial(step) for step in named("polar-express", 2, kappa=1e6)]
    P, V = (torch.linalg.qr(matrix(96, 96, dtype=torch.float64, seed=seed)).Q for seed in (1, 2))
    G = ((P * torch.logspace(0, -3, 96).double()) @ V.mT)[None].half()
    errors = []
    for lengths in (shortened([float(q(0.0)) for q in steps], "fp16"), (4, 4)):
        iteration, U = PlaneIteration(G, "fp16", Workspace()), torch.empty(1, 96, 96)
        iteration.run(steps, lengths)
        iteration.write(U)
        left, sigma, Vh = torch.linalg.svd(G.double())
        s = (sigma / sigma.norm()).numpy()
        for q in steps:
            s = s * q(s * s)
        expected = (left * torch.from_numpy(s).unsqueeze(-2)) @ Vh
        errors.append(float(torch.dist(U.double(), expected)) / 96**0.5)
    assert errors[0] <= 0.02 and not errors[1] <= 0.2

"""The symmetric rank-k product against float64: the kernels under the interpreter, and the fallback."""

import os
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from iroot_kernels import PRECISIONS, Workspace, _rank_k, symmetric_rank_k
from iroot_kernels._precision import round_tf32
from iroot_kernels._rank_k import RANK_K_PRECISIONS, rank_k_tiling
from iroot_kernels._tiling import SHARED_BYTES

SIZES = [(1, 1), (3, 1), (1, 3), (3, 65), (65, 3), (130, 65), (65, 130), (64, 128)]
# The interpreter does not know bfloat16.
INTERPRETED = ("fp16x3", "fp16", "tf32")
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        held = super().buffer(name, shape, dtype, device)
        return held.fill_(torch.nan) if held.is_floating_point() else held


@pytest.fixture
def interpreted(monkeypatch):
    """The kernels on a CPU."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")
    monkeypatch.setattr(_rank_k, "symmetric_products", lambda device: True)


@pytest.fixture
def launches(interpreted, monkeypatch):
    """The names and grids of what is launched."""
    from iroot_kernels import _rank_k_triton as kernels

    seen = []

    def recorded(name, kernel):
        class Recorder:
            def __getitem__(self, grid):
                seen.append((name, *grid))
                return kernel[grid]

        return Recorder()

    for name in ("largest", "split", "product"):
        monkeypatch.setattr(kernels, name, recorded(name, getattr(kernels, name)))
    return seen


def _matrix(b, m, n, dtype=torch.float32, seed=0):
    return torch.randn(b, m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _truth(G, transposed=False):
    """(S, bound of what S is a sum of) in float64."""
    V = G.double() if transposed else G.double().mT
    return V @ V.mT, V.abs() @ V.abs().mT


def _tolerance(G, name, depth):
    """Of the error over |V|·|V|ᵀ, entry by entry, beside an absolute one of fp16's smallest numbers.

    An operand is off by u, so a product by 2u, and by u more for lo·lo where there are two planes; a float32 sum of k
    terms by k·2^-24 at worst, and by 6√k·2^-24 with a probability of 1 − 2·exp(−18) (Higham and Mary, 2019). Four more
    roundings are those of the three sums of a block and of what undoes the scale near the ends of float32.
    """
    u = PRECISIONS[name].unit_roundoff if G.dtype is torch.float32 else 0.0
    return 3 * u + (4 + min(depth, 6 * depth**0.5)) * 2.0**-24


def _check(G, S, name, transposed=False):
    truth, size = _truth(G, transposed)
    depth = G.shape[2 if transposed else 1]
    # A number below 2^-26 of the largest is off by half of fp16's least number, 2^-25, at a scale of 2^12 and more.
    floor = 2 * depth * 2.0**-37 * G.abs().double().amax((1, 2), keepdim=True) ** 2
    assert S.dtype is torch.float32 and S.shape == truth.shape and torch.equal(S, S.mT)
    assert bool(((S.double() - truth).abs() <= _tolerance(G, name, depth) * size + floor).all())


@quiet
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", INTERPRETED)
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_kernels_under_the_interpreter(interpreted, m, n, name, transposed):
    """Tiles, mirrors, padding and planes, of two matrices; buffers begin as NaN."""
    G = _matrix(2, m, n)
    _check(G, symmetric_rank_k(G, transposed=transposed, precision=name, workspace=_Poisoned()), name, transposed)


@quiet
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", ["fp16x3", "tf32"])
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_a_plane_of_its_own_is_not_rounded(interpreted, m, n, name, transposed):
    """Whatever precision is asked for, numbers of both ends of fp16 included."""
    G = _matrix(2, m, n, torch.float16)
    G[0] *= 2.0**-20
    G[1] *= 2.0**13
    _check(G, symmetric_rank_k(G, transposed=transposed, precision=name, workspace=_Poisoned()), name, transposed)


@quiet
def test_integers_are_exact(interpreted):
    """Small integers have exact products and sums in every precision, so that each bit is known."""
    G = torch.randint(-8, 9, (1, 100, 70), generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float16):
        for name in INTERPRETED:
            S = symmetric_rank_k(G.to(dtype), precision=name)
            assert torch.equal(S.long(), G.mT @ G)


@quiet
def test_large_tiles(interpreted, monkeypatch):
    """Three of 128 rows to a side would take minutes; two are enough for one off the diagonal."""
    monkeypatch.setattr(_rank_k, "tiling", lambda N, planes, step: _rank_k.Tiling(128, 64, 8, 3))
    G = _matrix(1, 65, 130)
    for name in INTERPRETED:
        _check(G, symmetric_rank_k(G, precision=name, workspace=_Poisoned()), name)


@quiet
@pytest.mark.parametrize("name", INTERPRETED)
@pytest.mark.parametrize("exponent", [-126, -100, -65, -60, -40, 0, 40, 57])
def test_a_power_of_two_changes_no_bit(interpreted, name, exponent):
    """S(2^e·G) = 2^2e·S(G) exactly; beyond float32, infinite or zero as float32 rounds it."""
    G = _matrix(1, 40, 66)
    S = symmetric_rank_k(G, precision=name)
    scaled = symmetric_rank_k(torch.ldexp(G, torch.tensor(exponent)), precision=name)
    expected = torch.ldexp(S.double(), torch.tensor(2 * exponent)).float()
    assert torch.equal(scaled, expected) and bool(scaled.isfinite().all())


@quiet
@pytest.mark.parametrize("name", INTERPRETED)
@pytest.mark.parametrize(
    ("size", "expected"), [(1e30, torch.inf), (3e38, torch.inf), (1e-30, 0.0), (1e-38, 0.0), (1e-45, 0.0), (0.0, 0.0)]
)
def test_numbers_whose_squares_leave_float32(interpreted, name, size, expected):
    assert bool((symmetric_rank_k(torch.full((1, 3, 2), size), precision=name) == expected).all())


@quiet
def test_large_sums_that_cancel_are_finite(interpreted):
    """128 products of 2^126, then as many of −2^126: the sum of the first is out of float32's range, S is not."""
    G = torch.full((1, 256, 2), 2.0**63)
    G[0, 128:, 1] *= -1
    S = symmetric_rank_k(G)
    assert S[0, 0, 1] == 0 and torch.isinf(S[0, 0, 0])


@quiet
@pytest.mark.parametrize(
    ("name", "dtype", "bad"),
    [
        *((name, torch.float32, bad) for name in INTERPRETED for bad in (torch.nan, -torch.inf)),
        *(("fp16", torch.float16, bad) for bad in (torch.nan, torch.inf)),  # a plane already, whatever the name
    ],
)
def test_what_is_not_finite_stays_where_it_is(interpreted, name, dtype, bad):
    """Its row and column of S are not finite; all else has the same bits as without it, at any scale."""
    G = _matrix(3, 20, 66, dtype) * (1e-12 if dtype is torch.float32 else 1)
    S = symmetric_rank_k(G, precision=name)
    G[1, 4, 65] = bad
    found = symmetric_rank_k(G, precision=name, workspace=_Poisoned())
    assert not found[1, 65].isfinite().any() and not found[1, :, 65].isfinite().any()
    assert torch.equal(found[1, :65, :65], S[1, :65, :65])
    assert torch.equal(found[::2], S[::2])


@quiet
@pytest.mark.parametrize("most", [1, 4, 512])
def test_the_largest_number_is_found_in_every_share(interpreted, monkeypatch, most):
    """One number of 2^20 among ones, in corners of the 12 tiles: unnoticed, it would overflow fp16."""
    monkeypatch.setattr(_rank_k, "MOST_PARTS", most)
    G = torch.ones(6, 130, 130)  # each at a place of its own, and one without
    for i, at in enumerate(((0, 0), (0, 129), (64, 64), (129, 0), (129, 129))):
        G[i][at] = 2.0**20
    _check(G, symmetric_rank_k(G, precision="fp16"), "fp16")


@quiet
def test_tf32_rounds_to_nearest(interpreted):
    """By itself: tensor cores leave out the last bits, which would be a bias."""
    G, ws = _matrix(2, 40, 66), Workspace()
    rounded = round_tf32(G, ws, "rounded")
    assert not torch.equal(G, rounded)
    assert torch.equal(symmetric_rank_k(G, precision="tf32"), symmetric_rank_k(rounded, precision="tf32"))


@quiet
def test_a_diagonal_tile_is_mirrored(interpreted, monkeypatch):
    """Tiles of a GPU are not symmetric by themselves; those of numpy are."""
    import triton
    import triton.language as tl
    from iroot_kernels import _rank_k_triton as kernels

    @triton.jit
    def lopsided(planes, left, right, R, K, STORED: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
        return 2.0 * (left + tl.arange(0, BM))[:, None] + (right + tl.arange(0, BM))[None, :]

    monkeypatch.setitem(globals(), "tl", tl)  # where the interpreter looks for it
    monkeypatch.setattr(kernels, "_multiply", lopsided)
    S = symmetric_rank_k(torch.ones(1, 3, 130, dtype=torch.float16))[0]
    at = torch.arange(130.0)
    expected = (2 * at[:, None] + at).tril()
    assert torch.equal(S, expected + expected.tril(-1).mT)


@quiet
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_any_strides(interpreted, dtype, transposed):
    G = _matrix(2, 20, 70, dtype)
    S = symmetric_rank_k(G, transposed=transposed)
    wide = torch.zeros(2, 40, 140, dtype=dtype)
    wide[:, ::2, ::2] = G
    for view in (wide[:, ::2, ::2], G.mT.contiguous().mT, G.transpose(0, 1).contiguous().transpose(0, 1)):
        assert torch.equal(view, G)
        assert torch.equal(symmetric_rank_k(view, transposed=transposed), S)
    assert torch.equal(symmetric_rank_k(G[:1].expand(3, -1, -1), transposed=transposed), S[:1].expand(3, -1, -1))


@quiet
def test_launches_and_half_of_the_tiles(launches):
    """float32: 2·3 tiles of V have 6 numbers to find; 3 tiles of S to a side have 6 on and below the diagonal."""
    symmetric_rank_k(_matrix(5, 100, 130))
    assert launches == [("largest", 5 * 8), ("split", 5 * 6), ("product", 5 * 6)]
    launches.clear()
    symmetric_rank_k(_matrix(5, 100, 130, torch.float16))
    assert launches == [("split", 5 * 6), ("product", 5 * 6)]


@quiet
def test_a_plane_is_read_where_it_is(launches):
    """A 16-bit G of whole tiles, contiguous along K, needs no copy; off a border of 16 bytes it does."""
    G, workspace = _matrix(2, 64, 128, torch.float16), Workspace()
    S = symmetric_rank_k(G, transposed=True, workspace=workspace)
    assert launches == [("product", 2)] and workspace.nbytes == 2 * 4
    _check(G, S, "fp16", transposed=True)
    shifted = torch.empty(G.numel() + 1, dtype=G.dtype)[1:].view_as(G).copy_(G)
    launches.clear()
    assert torch.equal(symmetric_rank_k(shifted, transposed=True), S)
    assert [name for name, _ in launches] == ["split", "product"]


@quiet
def test_a_second_call_writes_the_same_buffers(interpreted):
    G, out, workspace = _matrix(2, 20, 70), torch.full((2, 70, 70), torch.nan), Workspace()
    first = symmetric_rank_k(G, out=out, workspace=workspace)
    held = workspace.nbytes
    # Two planes of 128 × 64 numbers, eight shares of a maximum at most and a scale.
    assert first is out and held <= 2 * (128 * 64 * 2 * 2 + 9 * 4)
    S = symmetric_rank_k(G)
    assert torch.equal(S, out)
    symmetric_rank_k(_matrix(2, 20, 70, seed=1), out=out, workspace=workspace)
    assert torch.equal(symmetric_rank_k(G, out=out, workspace=workspace), S) and workspace.nbytes == held


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("b", "m", "n"), [(1, 3, 65), (2, 65, 30)])
def test_elsewhere_it_is_a_product_of_torch(b, m, n, dtype, name, transposed):
    G = _matrix(b, m, n, dtype)
    S = symmetric_rank_k(G, transposed=transposed, precision=name, workspace=_Poisoned())
    _check(G, S, name, transposed)


def test_elsewhere_it_is_mirrored(monkeypatch):
    """No library says that its product with a transpose is symmetric in every bit."""

    def lopsided(V, W, *, out):
        out.copy_(torch.arange(9.0).view(1, 3, 3))

    monkeypatch.setattr(_rank_k, "Products", lambda name, ws: lopsided)
    S = symmetric_rank_k(torch.ones(1, 2, 3))
    assert torch.equal(S, torch.tensor([[[0.0, 3.0, 6.0], [3.0, 4.0, 7.0], [6.0, 7.0, 8.0]]]))


def test_elsewhere_neighbours_do_not_disturb_one_another():
    G, workspace = _matrix(3, 20, 30), Workspace()
    S = symmetric_rank_k(G, workspace=workspace)
    G[1, 2, 3] = torch.nan
    found = torch.empty_like(S)
    symmetric_rank_k(G, out=found, workspace=workspace)
    assert torch.equal(found[::2], S[::2]) and not found[1, 3].isfinite().any()


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_a_sum_of_nothing_is_zero(shape):
    assert torch.equal(symmetric_rank_k(torch.empty(shape)), torch.zeros(shape[0], shape[2], shape[2]))


@pytest.mark.parametrize(
    ("G", "options", "error", "message"),
    [
        (torch.ones(3, 2), {}, ValueError, "shape"),
        (torch.ones(1, 3, 2).double(), {}, TypeError, "float64"),
        (torch.ones(1, 3, 2), {"precision": "fp32"}, ValueError, "fp16x3, bf16x3, fp16, bf16, tf32"),
        (torch.ones(1, 3, 2), {"out": torch.empty(1, 3, 3)}, ValueError, "out must"),
        (torch.ones(1, 3, 2), {"out": torch.empty(1, 2, 2).double()}, ValueError, "out must"),
        (torch.ones(2, 3, 2), {"out": torch.empty(2, 2, 4)[..., ::2]}, ValueError, "out must"),
    ],
)
def test_what_does_not_fit_is_an_error(G, options, error, message):
    with pytest.raises(error, match=message):
        symmetric_rank_k(G, **options)


def test_more_rows_than_can_be_counted_are_an_error(interpreted):
    """The output is never written, so that none of its memory is."""
    G = torch.empty(1, 1, 1).expand(2**25, 1, 1)
    with pytest.raises(ValueError, match="several calls"):
        symmetric_rank_k(G)


def test_shared_memory_is_that_of_the_largest_tile():
    """Two planes, or two blocks of one; of both operands."""
    for name in RANK_K_PRECISIONS:
        how = _rank_k._checked(torch.empty(1, 1, 1), name)
        for n in range(1, 8192, 61):
            cut = rank_k_tiling(n, how)
            assert cut.stages * 2 * 2 * cut.size * cut.depth * how.plane.itemsize <= SHARED_BYTES
            assert cut.size % _rank_k.split_tiling().rows == 0


def test_the_gradient_is_not_followed():
    G = torch.ones(1, 2, 2, requires_grad=True)
    assert not symmetric_rank_k(G).requires_grad


def test_the_device_decides(monkeypatch):
    called = SimpleNamespace(by=None)
    monkeypatch.setattr(_rank_k, "symmetric_products", lambda device: True)
    monkeypatch.setattr(_rank_k, "_launched", lambda V, how, S, ws: setattr(called, "by", how.name) or S)
    symmetric_rank_k(torch.ones(1, 2, 2), precision="bf16x3")
    assert called.by == "bf16x3"

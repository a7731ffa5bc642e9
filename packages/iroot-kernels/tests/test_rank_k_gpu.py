"""The symmetric rank-k product on CUDA: accuracy in all precisions, same bits, no host, and capture in a graph."""

import pytest
import torch
from iroot_kernels import PRECISIONS, Workspace, symmetric_products, symmetric_rank_k
from iroot_kernels._rank_k import RANK_K_PRECISIONS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        return super().buffer(name, shape, dtype, device).fill_(torch.nan)


def _matrix(b, m, n, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(b, m, n, generator=generator, device="cuda").to(dtype)


def _check(G, S, name, transposed=False):
    """|S − V·Vᵀ| ≤ c·|V|·|V|ᵀ, entry by entry, in float64.

    An operand is off by u, so a product by 2u, and by u more for lo·lo. An instruction adds 16 products or fewer to a
    sum, each of them cut off two bits below float32, and the sum at float32: 17·2^-25 + 2^-23 < 6·2^-23 of the sizes.
    At most 12 make a block (three products of 64 deep), so its error is 72·2^-23 at worst; blocks are added up in
    float32, 2^-24 each; 3 more are for padding and scale. What is small beside the largest number: see test_rank_k.
    """
    V = G.double() if transposed else G.double().mT
    truth, size, depth = V @ V.mT, V.abs() @ V.abs().mT, V.shape[-1]
    u = PRECISIONS[name].unit_roundoff if G.dtype is torch.float32 else 0.0
    c = 3 * u + 72 * 2.0**-23 + (depth / 64 + 3) * 2.0**-24
    floor = 2 * depth * 2.0**-37 * V.abs().amax((1, 2), keepdim=True) ** 2
    assert S.dtype is torch.float32 and S.shape == truth.shape and torch.equal(S, S.mT)
    assert bool(((S.double() - truth).abs() <= c * size + floor).all())


def test_the_kernels_run_here():
    assert symmetric_products(torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 65), (65, 1), (63, 130), (257, 64), (500, 1000), (1024, 512)])
def test_accuracy(name, dtype, transposed, m, n):
    G = _matrix(2, m, n, dtype)
    _check(G, symmetric_rank_k(G, transposed=transposed, precision=name, workspace=_Poisoned()), name, transposed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
@pytest.mark.parametrize(("m", "n"), [(300, 3200), (4096, 3075), (10000, 200)])
def test_large_tiles_and_deep_sums(name, dtype, m, n):
    G = _matrix(1, m, n, dtype)
    _check(G, symmetric_rank_k(G, precision=name, workspace=_Poisoned()), name)


@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
def test_integers_are_exact(name):
    """Products and sums of small integers are exact, so that each bit is known; no plane or tile may be missing."""
    G = torch.randint(-8, 9, (2, 700, 3300), generator=torch.Generator("cuda").manual_seed(0), device="cuda").float()
    truth = (G.double().mT @ G.double()).float()
    for dtype in DTYPES:
        assert torch.equal(symmetric_rank_k(G.to(dtype), precision=name, workspace=_Poisoned()), truth)


@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
@pytest.mark.parametrize("exponent", [-126, -65, -60, -40, 40, 57])
def test_a_power_of_two_changes_no_bit(name, exponent):
    G = _matrix(1, 200, 130)
    expected = torch.ldexp(symmetric_rank_k(G, precision=name).double(), torch.tensor(2 * exponent, device="cuda"))
    scaled = torch.ldexp(G, torch.tensor(exponent, device="cuda"))
    assert torch.equal(symmetric_rank_k(scaled, precision=name), expected.float())


@pytest.mark.parametrize(("size", "expected"), [(1e30, torch.inf), (3e38, torch.inf), (1e-30, 0.0), (1e-38, 0.0)])
@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
def test_numbers_whose_squares_leave_float32(name, size, expected):
    G = torch.full((1, 70, 66), size, device="cuda")
    assert bool((symmetric_rank_k(G, precision=name) == expected).all())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", RANK_K_PRECISIONS)
def test_what_is_not_finite_stays_where_it_is(name, dtype, bad):
    G = _matrix(3, 100, 300, dtype) * (1e-12 if dtype is torch.float32 else 1)
    S = symmetric_rank_k(G, precision=name)
    G[1, 4, 290] = bad
    found = symmetric_rank_k(G, precision=name, workspace=_Poisoned())
    assert not found[1, 290].isfinite().any() and not found[1, :, 290].isfinite().any()
    assert torch.equal(found[1, :290, :290], S[1, :290, :290])
    assert torch.equal(found[::2], S[::2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_same_bits_and_any_strides(dtype, transposed):
    G = _matrix(2, 256, 384, dtype)
    S = symmetric_rank_k(G, transposed=transposed)
    for _ in range(5):
        assert torch.equal(symmetric_rank_k(G, transposed=transposed), S)
    wide = torch.zeros(2, 512, 768, dtype=dtype, device="cuda")
    wide[:, ::2, ::2] = G
    shifted = torch.empty(G.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(G).copy_(G)
    for view in (wide[:, ::2, ::2], G.mT.contiguous().mT, G.transpose(0, 1).contiguous().transpose(0, 1), shifted):
        assert torch.equal(symmetric_rank_k(view, transposed=transposed), S)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_synchronisation_and_nothing_new_on_the_second_call(dtype):
    G, workspace = _matrix(2, 200, 300, dtype), Workspace()
    out = torch.empty(2, 300, 300, device="cuda")
    symmetric_rank_k(G, out=out, workspace=workspace)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        symmetric_rank_k(G, out=out, workspace=workspace)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.max_memory_allocated() == before


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_product_answers_for_new_data(dtype):
    """At another scale, too: it is found on the device."""
    G, workspace = _matrix(2, 200, 300, dtype), Workspace()
    out = torch.empty(2, 300, 300, device="cuda")
    symmetric_rank_k(G, out=out, workspace=workspace)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        symmetric_rank_k(G, out=out, workspace=workspace)
    G.copy_(_matrix(2, 200, 300, dtype, seed=1) * 2.0**12)
    graph.replay()
    _check(G, out, "fp16x3")


def test_more_than_two_to_the_31_numbers():
    """Offsets in G beyond 32 bits: the last row alone is not zero."""
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB")
    G = torch.zeros(1, 2**25, 65, dtype=torch.bfloat16, device="cuda")
    G[0, -1] = torch.arange(65, device="cuda")
    S = symmetric_rank_k(G)
    assert torch.equal(S[0], torch.outer(G[0, -1].float(), G[0, -1].float()))

"""T + Tᵀ and the norms of T and T − Tᵀ on CUDA: the bits of torch, one launch, no host, and capture in a graph."""

import pytest
import torch
from iroot_kernels import Workspace, _symmetric_part, scaled_symmetric_part
from iroot_kernels._symmetric_part import part_tiling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
WIDTHS = [torch.float32, torch.float64]


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        return super().buffer(name, shape, dtype, device).fill_(torch.nan)


def _matrix(b, n, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(b, n, n, generator=generator, device="cuda").to(dtype)


def _factor(b, dtype=torch.float32, first=0.5):
    return (first * 4.0 ** -torch.arange(b, dtype=torch.float64, device="cuda")).to(dtype)[:, None, None]


def _run(A, factor, **settings):
    out = torch.full(A.shape, torch.nan, dtype=factor.dtype, device="cuda")
    S, norms = scaled_symmetric_part(A, factor, norms=True, out=out, workspace=_Poisoned(), **settings)
    return (S, *norms)


def _check(A, factor, found):
    """Bits of S: T is a product that float64 holds, or rounds as it is rounded here; norms as in test_symmetric_part.

    Sums of squares are those of a tile here and float64 in the truth, so that n is not in the tolerance.
    """
    S, size, skew = found
    T = (A.double() * factor.double()).to(factor.dtype)
    assert torch.equal(S, T + T.mT) and torch.equal(S, S.mT)
    c, T = (part_tiling(A.shape[-1]).size + 4) * torch.finfo(factor.dtype).eps, T.double()
    truth = T.square().sum((1, 2)).sqrt()
    assert bool(((size - truth).abs() <= c * truth).all())
    assert bool(((skew - (T - T.mT).square().sum((1, 2)).sqrt()).abs() <= 2 * c * truth).all())


@pytest.mark.parametrize("first", [0.5, 1 / 3])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("b", "n"), [(5, 1), (5, 2), (3, 16), (3, 17), (2, 33), (2, 64), (2, 65), (2, 1000), (1, 8192)]
)
def test_bits_and_norms(b, n, dtype, width, first):
    """Whatever the factor: nothing is fused."""
    A, factor = _matrix(b, n, dtype), _factor(b, width, first)
    _check(A, factor, _run(A, factor))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_as_torch_on_this_device(monkeypatch, dtype, width):
    A, factor = _matrix(3, 500, dtype), _factor(3, width, 1 / 3)
    found = _run(A, factor)
    monkeypatch.setattr(_symmetric_part, "symmetric_products", lambda device: False)
    other = _run(A, factor)
    assert torch.equal(found[0], other[0])
    torch.testing.assert_close(found[1:], other[1:], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [(4, 4), (4, 290), (290, 4), (299, 298)])
def test_what_is_not_finite_reaches_the_norms_of_its_matrix_alone(bad, at):
    A, factor = _matrix(3, 300), _factor(3)
    before = _run(A, factor)
    A[1][at] = bad
    found = _run(A, factor)
    wrong = torch.zeros(300, 300, dtype=torch.bool, device="cuda")
    wrong[at] = wrong[at[::-1]] = True
    assert torch.equal(~found[0][1].isfinite(), wrong) and torch.equal(found[0][1][~wrong], before[0][1][~wrong])
    assert not found[1][1].isfinite() and not found[2][1].isfinite()
    for one, other in zip(found, before, strict=True):
        assert torch.equal(one[::2], other[::2])


@pytest.mark.parametrize("width", WIDTHS)
def test_denormals(width):
    """Half of an odd multiple of the smallest number is a tie, before it is added; nothing is flushed to zero."""
    tiny = torch.finfo(width).smallest_normal * torch.finfo(width).eps
    A = (tiny * torch.arange(2 * 70 * 70, dtype=width)).reshape(2, 70, 70)
    T = A * _factor(2, width).cpu()
    assert torch.equal(_run(A.cuda(), _factor(2, width))[0].cpu(), T + T.mT)


@pytest.mark.parametrize("n", [20, 300])
def test_small_numbers_have_a_norm_in_float64(n):
    A, factor = _matrix(2, n) * 2.0**-80, _factor(2)
    T = A.double() * factor.double()
    _, size, skew = _run(A, factor, small=True)
    torch.testing.assert_close(size, torch.linalg.matrix_norm(T), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(skew, torch.linalg.matrix_norm(T - T.mT), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_and_any_strides(dtype):
    A, factor = _matrix(2, 500, dtype), _factor(2)
    expected = _run(A, factor)
    wide = torch.zeros(2, 1000, 1500, dtype=dtype, device="cuda")
    wide[:, ::2, ::3] = A
    shifted = torch.empty(A.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(A).copy_(A)
    views = (wide[:, ::2, ::3], A.mT.contiguous().mT, A.transpose(0, 1).contiguous().transpose(0, 1), shifted)
    assert all(torch.equal(one, other) for one, other in zip(_run(A, factor), expected, strict=True))
    for view in views:  # how a tile is read is how it is added up
        S, *norms = _run(view, factor)
        assert torch.equal(S, expected[0])
        torch.testing.assert_close(tuple(norms), expected[1:], rtol=1e-5, atol=0.0)
    many = scaled_symmetric_part(A[:1].expand(3, -1, -1), factor[:1].expand(3, 1, 1))[0]
    assert torch.equal(many, expected[0][:1].expand(3, -1, -1))


def test_a_million_small_matrices():
    A, factor = _matrix(2**20, 16), torch.full((2**20, 1, 1), 0.5, device="cuda")
    S, size, skew = _run(A, factor)
    assert torch.equal(S, A / 2 + A.mT / 2)
    torch.testing.assert_close(size, torch.linalg.matrix_norm(A.double()) / 2, rtol=2e-6, atol=0.0)
    torch.testing.assert_close(skew, torch.linalg.matrix_norm(A.double() - A.double().mT) / 2, rtol=2e-6, atol=0.0)


@pytest.mark.parametrize(("b", "n"), [(3, 2**15), (1, 50_000)])
def test_more_than_two_to_the_31_numbers(b, n):
    """Offsets beyond 32 bits, of a matrix and within one: the ends of the last matrix are not zero."""
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("needs 30 GB")
    A = torch.zeros(b, n, n, dtype=torch.float16, device="cuda")
    A[-1, -1, 0], A[-1, 0, -2], A[-1, -1, -1], A[-1, -2, -1] = 1.0, 2.0, 4.0, 8.0
    S, norms = scaled_symmetric_part(A, torch.ones(b, 1, 1, device="cuda"), norms=True)
    ends = S[-1][[0, n - 2, n - 1]][:, [0, n - 2, n - 1]].cpu()
    assert torch.equal(ends, torch.tensor([[0.0, 2.0, 1.0], [2.0, 0.0, 8.0], [1.0, 8.0, 8.0]]))
    assert int(S.count_nonzero()) == 7
    assert norms[0].square().tolist() == pytest.approx([0.0] * (b - 1) + [85.0])
    assert norms[1].square().tolist() == pytest.approx([0.0] * (b - 1) + [138.0])


@pytest.mark.filterwarnings("ignore:Synchronization debug mode", "ignore:.*Profiler clears events")
def test_one_launch_without_a_host():
    """And two on `(2, b)` numbers."""
    A, factor, workspace = _matrix(2, 500), _factor(2), Workspace()
    out = torch.empty_like(A)
    scaled_symmetric_part(A, factor, norms=True, out=out, workspace=workspace)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        torch.cuda.set_sync_debug_mode("error")
        try:
            scaled_symmetric_part(A, factor, norms=True, out=out, workspace=workspace)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
    on_device = torch.autograd.DeviceType.CUDA
    kernels = [event.name for event in profile.events() if event.device_type == on_device]
    assert len(kernels) == 3 and kernels[0].startswith("symmetric_part"), kernels
    assert workspace.nbytes == 2 * 2 * part_tiling(500).tiles * 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_captured_pass_answers_for_new_data(dtype):
    A, factor, workspace = _matrix(2, 300, dtype), _factor(2), Workspace()
    out = torch.empty(2, 300, 300, device="cuda")
    scaled_symmetric_part(A, factor, norms=True, out=out, workspace=workspace)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, norms = scaled_symmetric_part(A, factor, norms=True, out=out, workspace=workspace)
    A.copy_(_matrix(2, 300, dtype, seed=1))
    factor.mul_(8.0)
    graph.replay()
    _check(A, factor, (out, *norms))

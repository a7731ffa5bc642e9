"""T + Tᵀ of T = factor·A and the norms of T and T − Tᵀ: the kernel under the interpreter, and torch elsewhere."""

import os
from importlib.util import find_spec

import pytest
import torch
from iroot_kernels import Workspace, _symmetric_part, frobenius_norms, plus_transpose, scaled_symmetric_part
from iroot_kernels._symmetric_part import part_tiling

SIZES = [1, 2, 15, 16, 17, 32, 33, 64, 65, 130]
# The interpreter does not know bfloat16.
INTERPRETED = (torch.float32, torch.float64, torch.float16)
DTYPES = (*INTERPRETED, torch.bfloat16)
WIDTHS = (torch.float32, torch.float64)
quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        return super().buffer(name, shape, dtype, device).fill_(torch.nan)


@pytest.fixture
def launches(monkeypatch):
    """The kernel on a CPU: the grids of what is launched."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")
    from iroot_kernels import _symmetric_part_triton as kernels

    grids, kernel = [], kernels.symmetric_part

    class Recorder:
        def __getitem__(self, grid):
            grids.append(*grid)
            return kernel[grid]

    monkeypatch.setattr(kernels, "symmetric_part", Recorder())
    monkeypatch.setattr(_symmetric_part, "symmetric_products", lambda device: True)
    return grids


def _matrix(b, n, dtype, seed=0):
    """Not symmetric."""
    return torch.randn(b, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _factor(b, dtype, first=0.5):
    """A quarter from matrix to matrix."""
    return (first * 4.0 ** -torch.arange(b, dtype=torch.float64)).to(dtype)[:, None, None]


def _run(A, factor, **settings):
    """(S, ‖T‖_F, ‖T − Tᵀ‖_F) with everything that is to be written poisoned."""
    out = torch.full(A.shape, torch.nan, dtype=factor.dtype)
    S, norms = scaled_symmetric_part(A, factor, norms=True, out=out, workspace=_Poisoned(), **settings)
    assert S is out
    return (S, *norms)


def _check(A, factor, found, small=False):
    """Bits of S, and norms within rounding.

    T is a product, rounded once, and S a sum of two of these: numbers of 16 or 32 bits have exact products in float64.
    A sum of the squares of a tile of m² numbers, twice m additions one after the other at worst, is off by (2m + 1)·u,
    its root by half of that; T − Tᵀ is rounded, too. Row by row it is n and u instead, and T − Tᵀ is 2·(T − S/2), off
    by u·|T| in either rounding.
    """
    S, size, skew = found
    T = (A.double() * factor.double()).to(factor.dtype)
    assert S.dtype is factor.dtype and torch.equal(S, T + T.mT) and torch.equal(S, S.mT)
    rounding, T = torch.finfo(factor.dtype).eps / 2, T.double()
    u = torch.finfo(torch.float64).eps / 2 if small else rounding
    c = (max(part_tiling(A.shape[-1]).size, A.shape[-1]) + 4) * u
    truth = torch.linalg.matrix_norm(T)
    assert size.dtype is skew.dtype is torch.float64 and size.shape == skew.shape == A.shape[:1]
    assert bool(((size - truth).abs() <= c * truth).all())
    assert bool(((skew - torch.linalg.matrix_norm(T - T.mT)).abs() <= 2 * (c + 2 * rounding) * truth).all())


@quiet
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", INTERPRETED)
@pytest.mark.parametrize("n", SIZES)
def test_kernel_under_the_interpreter(launches, n, dtype, width):
    """Whole tiles and parts of one, two matrices with factors of their own."""
    A, factor = _matrix(2, n, dtype), _factor(2, width)
    _check(A, factor, _run(A, factor))
    assert launches == [2 * part_tiling(n).tiles]


@quiet
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", INTERPRETED)
@pytest.mark.parametrize("n", [1, 20, 70])
def test_the_kernel_has_the_bits_of_torch(launches, monkeypatch, n, dtype, width):
    """Of S, whatever the factor: products and sums are rounded alike."""
    A = _matrix(3, n, dtype)
    for first in (0.5, 1 / 3):
        S, size, skew = _run(A, _factor(3, width, first))
        with monkeypatch.context() as patch:
            patch.setattr(_symmetric_part, "symmetric_products", lambda device: False)
            other, other_size, other_skew = _run(A, _factor(3, width, first))
        assert torch.equal(S, other)
        torch.testing.assert_close((size, skew), (other_size, other_skew), rtol=2e-5, atol=1e-6)
    assert len(launches) == 2


@quiet
@pytest.mark.parametrize("n", [5, 64, 70])
def test_norms_of_integers_are_exact(launches, n):
    """Sums of squares below 2^24 are: every tile, and its mirror, counts once; symmetric matrices have no skew."""
    A = torch.randint(-4, 5, (2, n, n), generator=torch.Generator().manual_seed(0)).float()
    A[1] = A[1] + A[1].mT
    _, size, skew = _run(A, torch.ones(2, 1, 1))
    assert torch.equal(size.square().round(), A.square().sum((1, 2)).double())
    assert torch.equal(skew.square().round(), (A - A.mT).square().sum((1, 2)).double()) and skew[1] == 0


@quiet
@pytest.mark.parametrize("at", [(3, 3), (40, 3), (3, 40), (69, 69), (69, 2), (2, 69)])
def test_one_number_is_seen_wherever_it_is(launches, at):
    """In diagonal tiles, in others and in their mirrors."""
    A = torch.zeros(1, 70, 70)
    A[0][at] = 4.0
    S, size, skew = _run(A, torch.full((1, 1, 1), 0.5))
    expected = torch.zeros(1, 70, 70)
    expected[0][at] += 2.0
    expected[0][at[::-1]] += 2.0
    assert torch.equal(S, expected) and size == 2.0
    assert skew == (0.0 if at[0] == at[1] else pytest.approx(8**0.5, rel=1e-15))


@quiet
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [(4, 4), (4, 66), (66, 4), (69, 68)])
def test_what_is_not_finite_reaches_the_norms_of_its_matrix_alone(launches, bad, at):
    A, factor = _matrix(3, 70, torch.float32), _factor(3, torch.float32)
    S, size, skew = _run(A, factor)
    A[1][at] = bad
    found, *norms = _run(A, factor)
    wrong = torch.zeros(70, 70, dtype=torch.bool)
    wrong[at] = wrong[at[::-1]] = True
    assert torch.equal(~found[1].isfinite(), wrong) and torch.equal(found[1][~wrong], S[1][~wrong])
    assert not norms[0][1].isfinite() and not norms[1][1].isfinite()
    for one, other in zip((found, *norms), (S, size, skew), strict=True):
        assert torch.equal(one[::2], other[::2])


@quiet
@pytest.mark.parametrize("width", WIDTHS)
def test_denormals_are_rounded_as_by_torch(launches, width):
    """Half of an odd multiple of the smallest number is a tie, before it is added."""
    tiny = torch.finfo(width).smallest_normal * torch.finfo(width).eps
    A = tiny * torch.arange(2 * 17 * 17, dtype=width).reshape(2, 17, 17)
    S, _, _ = _run(A, _factor(2, width))
    T = A * _factor(2, width)
    assert torch.equal(S, T + T.mT) and not torch.equal(S, 2 * T)
    up = 2.0**100 if width is torch.float32 else 2.0**1000
    lifted, size, _ = _run(A, torch.full((2, 1, 1), up, dtype=width))
    assert torch.equal(lifted, A * up + A.mT * up) and bool((size > 0).all())


@quiet
@pytest.mark.parametrize("n", [7, 70])
def test_small_numbers_have_a_norm_in_float64(launches, n):
    """Squares of 2^-80 are no numbers of float32."""
    A, factor = _matrix(2, n, torch.float32) * 2.0**-80, _factor(2, torch.float32)
    assert not any(norm.any() for norm in _run(A, factor)[1:])
    _check(A, factor, _run(A, factor, small=True), small=True)


@quiet
@pytest.mark.parametrize("dtype", INTERPRETED)
def test_any_strides(launches, dtype):
    A, factor = _matrix(2, 70, dtype), _factor(2, torch.float32)
    expected = _run(A, factor)
    wide = torch.zeros(2, 140, 210, dtype=dtype)
    wide[:, ::2, ::3] = A
    for view in (wide[:, ::2, ::3], A.mT.contiguous().mT, A.transpose(0, 1).contiguous().transpose(0, 1)):
        assert torch.equal(view, A)
        for one, other in zip(_run(view, factor), expected, strict=True):
            assert torch.equal(one, other)
    one = scaled_symmetric_part(A[:1].expand(3, -1, -1), factor[:1].expand(3, 1, 1))[0]
    assert torch.equal(one, expected[0][:1].expand(3, -1, -1))


@quiet
def test_only_what_is_asked_for(launches):
    """Without norms there are no sums, and there is never a T."""
    A, workspace = _matrix(2, 70, torch.float32), Workspace()
    S, norms = scaled_symmetric_part(A, _factor(2, torch.float32), workspace=workspace)
    assert norms is None and workspace.nbytes == 0 and torch.equal(S, S.mT)
    again, _ = scaled_symmetric_part(A, _factor(2, torch.float32), norms=True, workspace=workspace)
    assert torch.equal(again, S) and workspace.nbytes == 2 * 2 * 3 * 8


@quiet
def test_more_programs_than_a_grid_has_are_for_torch(launches, monkeypatch):
    A, factor = _matrix(2, 70, torch.float32), _factor(2, torch.float32)
    monkeypatch.setattr(_symmetric_part, "MOST", 5)
    _check(A, factor, _run(A, factor))
    assert launches == []
    monkeypatch.setattr(_symmetric_part, "MOST", 6)
    _check(A, factor, _run(A, factor))
    assert launches == [6]


@pytest.mark.parametrize("n", [1, 2, 16, 17, 32, 33, 64, 65, 4096, 100_000])
def test_tiles_cover_the_lower_triangle(n):
    cut = part_tiling(n)
    blocks = len(range(0, n, cut.size))
    assert cut.tiles == sum(range(blocks + 1)) and (cut.size < 2 * n or cut.size == 16)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "n"), [(1, 1), (3, 7), (1, 530)])
def test_elsewhere_it_is_torch(b, n, dtype, width):
    A, factor = _matrix(b, n, dtype), _factor(b, width)
    _check(A, factor, _run(A, factor))
    S, norms = scaled_symmetric_part(A, factor)
    assert norms is None and torch.equal(S, S.mT)


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 0)])
def test_nothing_has_no_norm(launches, shape):
    S, norms = scaled_symmetric_part(torch.empty(shape), torch.ones(shape[0], 1, 1), norms=True)
    assert S.shape == shape and launches == [] and all(torch.equal(norm, torch.zeros(shape[:1])) for norm in norms)


ONE = torch.ones(2, 1, 1)


@pytest.mark.parametrize(
    ("A", "factor", "out", "error", "message"),
    [
        (torch.ones(3, 3), ONE, None, ValueError, "shape"),
        (torch.ones(2, 3, 4), ONE, None, ValueError, "shape"),
        (torch.ones(2, 3, 3, dtype=torch.int32), ONE, None, TypeError, "int32"),
        (torch.ones(2, 3, 3), torch.ones(2), None, ValueError, "factor"),
        (torch.ones(2, 3, 3), torch.ones(1, 1, 1), None, ValueError, "factor"),
        (torch.ones(2, 3, 3), ONE.half(), None, TypeError, "factor"),
        (torch.ones(2, 3, 3), ONE, torch.ones(2, 3, 4), ValueError, "out"),
        (torch.ones(2, 3, 3), ONE, torch.ones(2, 3, 3).double(), ValueError, "out"),
        (torch.ones(2, 3, 3), ONE, torch.ones(2, 3, 3).mT, ValueError, "out"),
    ],
)
def test_refused(A, factor, out, error, message):
    with pytest.raises(error, match=message):
        scaled_symmetric_part(A, factor, out=out)


@pytest.mark.parametrize(("b", "n"), [(1, 7), (3, 7), (1, 1030)])
def test_a_matrix_plus_its_transpose(b, n):
    """Large single matrices go another way; on numbers that are not symmetric, so that a missing transpose shows."""
    T = _matrix(b, n, torch.float32)
    assert torch.equal(plus_transpose(T, torch.empty_like(T)), T + T.mT)


@pytest.mark.parametrize("dtype", WIDTHS)
def test_norms_of_any_layout(dtype):
    """Row by row, of rows or of columns; squares of 2^-80 are no numbers of float32."""
    V = _matrix(3, 9, dtype)[:, :, :5]
    truth = V.double().square().sum((1, 2)).sqrt()
    for view in (V, V.mT, V.contiguous()):
        torch.testing.assert_close(frobenius_norms(view), truth, rtol=20 * torch.finfo(dtype).eps, atol=0.0)
    torch.testing.assert_close(frobenius_norms(V * 2.0**-80, small=True), truth * 2.0**-80, rtol=1e-14, atol=0.0)

"""The recurrence from planes of 16 bits against float64; under the interpreter, and on a device."""

from importlib.util import find_spec

import pytest
import torch
from iroot_kernels import PlaneMatrix, Workspace

quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        new = name not in self._buffers or self._buffers[name].shape != tuple(shape)
        held = super().buffer(name, shape, dtype, device)
        return held.fill_(torch.nan) if new and held.is_floating_point() else held


@pytest.fixture
def device():
    """Where the kernels run."""
    if find_spec("triton") is None:
        pytest.skip("needs triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _symmetric(batch, n):
    """Eigenvalues between −1 and 1, as those of a matrix whose T_j do not grow; entries at most 1."""
    Q = torch.linalg.qr(_numbers(batch, n, n)).Q
    A = (Q * torch.linspace(-1, 1, n, dtype=torch.float64)) @ Q.mT
    return ((A + A.mT) / 2).float()


def _terms(A, V, count, factors):
    """V_0 … and Σ w_j·V_j, in float64."""
    alpha, beta, gamma, weights = factors
    here, before, total = V, torch.zeros_like(V), torch.zeros_like(V)
    for weight in weights[:count]:
        before = alpha * A @ here + beta * here + gamma * before
        here, before, total = before, here, total + weight * before
    return here, total


def _run(A, V, factors, device, coarse=None):
    alpha, beta, gamma, weights = factors
    here, ws = V.float().to(device, copy=True), _Poisoned()
    before, part = torch.zeros_like(here), torch.zeros_like(here)
    recurrence = PlaneMatrix.of(A.to(device), ws).recurrence(here, coarse)
    for weight in weights:
        recurrence.term(here, before, part, alpha, beta, gamma, weight)
        here, before = before, here
    return here.double().cpu(), part.double().cpu()


FACTORS = (2.0, -0.25, -1.0, (0.5, -0.3, 0.7, 0.1))


@quiet
@pytest.mark.parametrize(
    ("batch", "n", "k"),
    [(1, 65, 3), (2, 40, 17), (2, 40, 80), pytest.param(1, 300, 90, marks=pytest.mark.slow), (1, 128, 130)],
)
def test_it_is_the_recurrence(device, batch, n, k):
    """To the rounding of two planes, whatever the padding; the sum as well."""
    A, V = _symmetric(batch, n), _numbers(batch, n, k, seed=1)
    expected = _terms(A.double(), V, 4, FACTORS)
    for found, wanted in zip(_run(A, V, FACTORS, device), expected, strict=True):
        assert torch.dist(found, wanted) < 1e-6 * wanted.norm()


@quiet
def test_one_plane_is_read_from_a_term_on(device):
    """Until then the numbers are those of two planes; after it they are those of one, and not less."""
    A, V = _symmetric(1, 96), _numbers(1, 96, 16, seed=2)
    fine, mixed, rough = (_run(A, V, FACTORS, device, coarse) for coarse in (None, 3, 0))
    wanted = _terms(A.double(), V, 4, FACTORS)[0]
    errors = [float(torch.dist(found[0], wanted) / wanted.norm()) for found in (fine, mixed, rough)]
    assert errors[0] < 1e-6 < 2e-5 < errors[1] < errors[2] < 2e-3
    three = (*FACTORS[:3], FACTORS[3][:3])
    assert all(torch.equal(x, y) for x, y in zip(_run(A, V, three, device, 3), _run(A, V, three, device), strict=True))


@quiet
def test_what_planes_cannot_hold_is_not_finite(device):
    """A recurrence that grows beyond fp16 gives no number that could be taken for an answer."""
    A, V = _symmetric(1, 64), _numbers(1, 64, 4, seed=3)
    found, total = _run(A, V, (64.0, 0.0, 0.0, (1.0,) * 6), device)
    assert not found.isfinite().all() and not total.isfinite().all()


@quiet
def test_small_columns_keep_their_digits(device):
    """Columns of 2^-8 of the largest one are right to 2^-16 of themselves."""
    A, V = _symmetric(1, 64), _numbers(1, 64, 4, seed=4)
    V[..., 0] *= 2.0**-8
    found, wanted = _run(A, V, FACTORS, device)[0][..., 0], _terms(A.double(), V, 4, FACTORS)[0][..., 0]
    assert torch.dist(found, wanted) < 2.0**-16 * wanted.norm()


@quiet
def test_what_it_is_not_for_is_refused(device):
    """By name, and before a kernel reads it."""
    S, V = torch.eye(64, device=device)[None], torch.ones(1, 64, 3, device=device)
    matrix = PlaneMatrix.of(S, Workspace())
    for wrong in (S.double(), S.half()):
        with pytest.raises(TypeError, match="S must be float32"):
            PlaneMatrix.of(wrong, Workspace())
    for wrong in (S[0], S[:, :3], torch.ones(1, 64, 128, device=device)[..., ::2]):
        with pytest.raises(ValueError, match="S must have shape"):
            PlaneMatrix.of(wrong, Workspace())
    with pytest.raises(TypeError, match="V must be float32"):
        matrix.recurrence(V.double())
    for wrong in (V[0], V[:, :3], V[..., :0], V.expand(2, -1, -1), torch.ones(1, 64, 6, device=device)[..., ::2]):
        with pytest.raises(ValueError, match="V must be contiguous"):
            matrix.recurrence(wrong)


def _power(A, count, device, seed=7):
    """‖A^count·V‖_F by planes, and in float64."""
    V = _numbers(*A.shape[:2], 16, seed=seed)
    found, exponent = PlaneMatrix.of(A.float().to(device), _Poisoned(), planes=1).power(V.float().to(device), count)
    wanted = torch.linalg.matrix_norm(torch.linalg.matrix_power(A.double(), count) @ V)
    return torch.ldexp(found.double().cpu(), exponent.double().cpu()), wanted


def _all_ones(n):
    return torch.ones(1, n, n)


def _two_sizes(n):
    """One eigenvalue of 1, and the others 2^-12 of it: numbers of the plane fall by that in the first product."""
    d = torch.full((n,), 2.0**-12)
    d[5] = 1.0
    return torch.diag(d)[None]


@quiet
@pytest.mark.parametrize(
    "A",
    [_symmetric(2, 70), _all_ones(130), _two_sizes(64), torch.eye(64)[None] * 0.5, _symmetric(1, 40) * 2.0**-10],
    ids=["batch", "ones", "two sizes", "eye", "small"],
)
@pytest.mark.parametrize("count", [1, 8])
def test_a_power_has_its_size(device, A, count):
    """Whatever its growth: to 2^-11 or so for every product."""
    found, wanted = _power(A, count, device)
    assert ((found / wanted - 1).abs() < count * 2.0**-11).all()


@quiet
def test_a_power_of_nothing_is_zero_and_of_nan_nan(device):
    """And they leave their neighbours alone."""
    A = torch.stack((torch.zeros(64, 64), torch.full((64, 64), torch.nan), torch.eye(64)))
    found, wanted = _power(A, 3, device)
    assert found[0] == 0 and found[1].isnan() and abs(found[2] / wanted[2] - 1) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("n", "k", "batch"), [(1024, 16, 1), (4096, 64, 1), (8192, 80, 1), (1000, 64, 3), (2050, 200, 1)]
)
def test_on_a_device(n, k, batch):
    """Large, odd, batched; 40 terms of T_j, and the same bits again."""
    g = torch.Generator("cuda").manual_seed(n)
    A = torch.randn(batch, n, n, device="cuda", generator=g)
    A = (A + A.mT) / (4 * n) ** 0.5 / 1.5  # a semicircle of radius 0.94
    V = torch.randn(batch, n, k, device="cuda", generator=g)
    factors = (2.0, 0.0, -1.0, tuple(0.9**j for j in range(40)))
    found = _run(A, V, factors, torch.device("cuda"))
    wanted = (X.cpu() for X in _terms(A.double(), V.double(), 40, factors))
    assert all(torch.dist(mine, X) < 1e-5 * X.norm() for mine, X in zip(found, wanted, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(found, _run(A, V, factors, torch.device("cuda")), strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize(("n", "batch"), [(1024, 1), (1000, 3), (8192, 1)])
def test_power_on_a_device(n, batch):
    """Large, odd, batched."""
    A = _numbers(batch, n, n, seed=n).cuda()
    A = (A @ A.mT) / (A @ A.mT).amax((-2, -1), keepdim=True)
    V = torch.randn(batch, n, 16, device="cuda")
    found, exponent = PlaneMatrix.of(A.float(), Workspace(), planes=1).power(V, 8)
    wanted = V.double()
    for _ in range(8):
        wanted = A @ wanted
    ratio = torch.ldexp(found.double(), exponent.double()) / torch.linalg.matrix_norm(wanted)
    assert ((ratio - 1).abs() < 8 * 2.0**-11).all()

"""A small matrix to a program on CUDA: every precision, 10⁵ mixed matrices, same bits, no host, capture in a graph."""

import numpy as np
import pytest
import torch
from iroot_kernels import SmallRoot, small_matrices, small_roots

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
NONFINITE, ASYMMETRIC, UNFINISHED = 1, 2, 4
# Unit roundoff of a product: that of its operands, or of sums of up to 128 terms, which tensor cores cut off.
UNIT = {"fp16x3": 2.0**-21, "tf32x3": 2.0**-21, "bf16x6": 2.0**-21, "bf16x3": 2.0**-15, "tf32": 2.0**-11}


def rounding(kappa, s, unit, q=1):
    """A rounded increment moves an eigenvalue by `unit` of the largest: q·κ/s relative to the smallest, at worst."""
    return 2 * q * (kappa / s + 4) * unit


def each(X, truth):
    """Relative error of every matrix."""
    return (X.double().cpu() - truth.cpu()).flatten(1).norm(dim=1) / truth.cpu().flatten(1).norm(dim=1)


@pytest.fixture(scope="session")
def roots(schedule):
    """roots(p, power, κ): a chain made for matrices of condition κ; the bound takes a factor 24 = 2·√128 and more."""

    def make(p=2, power=1, kappa=1e2, **options):
        return SmallRoot(schedule(p, 24 * kappa, (2,), 1e-7), p=p, power=power, **options)

    return make


@pytest.fixture(scope="module", autouse=True)
def able():
    if not small_matrices(torch.device("cuda", torch.cuda.current_device())):
        pytest.skip("needs 224 KiB of shared memory")


@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 31, 33, 64, 65, 100, 128])
def test_accuracy(name, p, n, spd, power, roots):
    A = spd(n, 1e2, batch=3).float()
    result = roots(p, precision=name)(A.cuda())
    assert result.status.tolist() == [0] * 3 and torch.equal(result.Z, result.Z.mT)
    assert float(each(result.Z, power(A, -1 / p)).max()) <= rounding(1e2, p, UNIT[name])


@pytest.mark.parametrize(("p", "power_of_q"), [(3, 1), (5, 1), (6, 1), (7, 1), (8, 1), (1, 2), (3, 2), (7, 3)])
@pytest.mark.parametrize("n", [13, 32, 50, 96])
def test_other_exponents(p, power_of_q, n, spd, rhs, power, roots):
    A, B = spd(n, 1e2, batch=2).float(), rhs(n, 20, batch=2, dtype=torch.float32)
    truth, root = power(A, -power_of_q / p), roots(p, power_of_q)
    assert float(each(root(A.cuda()).Z, truth).max()) <= rounding(1e2, p, UNIT["fp16x3"], power_of_q)
    # Random B: the error of Z is that of X, within a factor that random columns scatter.
    Z = root(A.cuda(), B.cuda()).Z
    assert float(each(Z, truth @ B.double()).max()) <= 2 * rounding(1e2, p, UNIT["fp16x3"], power_of_q)


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("n", [16, 64, 128])
@pytest.mark.parametrize("spread", ["log-spaced", "one tiny", "cluster and tail"])
def test_certificate(p, n, spread, with_spectrum, power, roots):
    """Never below a tenth of the truth; while ≤ 1e-3 above ten times it only where the truth is less than float32."""
    root = roots(p, kappa=1e3)
    for kappa in (1e2, 1e4, 1e6):
        tail = np.geomspace(1 / kappa, 0.5, 4)
        values = {"log-spaced": np.geomspace(1 / kappa, 1, n), "one tiny": np.r_[1 / kappa, np.ones(n - 1)]}
        values["cluster and tail"] = np.r_[np.ones(n - 4), tail]
        A = with_spectrum(values[spread], batch=4, seed=1)[0].float()
        result = root(A.cuda())
        error, found, fine = each(result.Z, power(A, -1 / p)), result.error.cpu(), result.status.cpu() == 0
        assert bool((found >= 0.1 * error)[fine].all()), (kappa, found, error)
        # The sums of the certificate's own products are cut off at 2^-23 or so.
        least = 2.0**-22 * (kappa / p + 1)
        assert bool((found <= 10 * error.clamp(min=least))[fine & (found <= 1e-3)].all()), (kappa, found, error)
        assert kappa > 1e4 or bool(fine.all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits(dtype, spd, power, roots):
    """The values of a 16-bit matrix are exact in float32; a κ of 100 stays positive definite in them."""
    A = spd(40, 20.0, batch=2).to(dtype)
    truth, root = power(A, -1 / 2), roots()
    assert float(each(root(A.cuda()).Z, truth).max()) <= rounding(1e2, 2, UNIT["fp16x3"])
    out = torch.empty_like(A, device="cuda")
    assert float(each(root(A.cuda(), out=out).Z, truth).max()) <= torch.finfo(dtype).eps


def mixed(count, n, seed=0):
    """(A, κ, what status is due): log-spaced spectra of κ 1 … 1e8 times 1e±15, and every eighth matrix poisoned."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def random(*shape):
        return torch.rand(*shape, dtype=torch.float64, generator=generator, device="cuda")

    Q = torch.linalg.qr(torch.randn(count, n, n, dtype=torch.float64, generator=generator, device="cuda")).Q
    kappa = 10 ** (8 * random(count))
    values = kappa[:, None] ** -random(count, n)
    values[:, 0], values[:, -1] = 1.0, 1 / kappa
    kind = torch.arange(count, device="cuda") % 40
    values[kind == 0, -1] = 0.0  # singular, or indefinite by the rounding to float32
    values[kind == 5, -1] *= -1
    values[kind == 5, -1] -= 1e-3
    A = ((Q * values[:, None, :]) @ Q.mT) * 10 ** (30 * random(count)[:, None, None] - 15)
    A = ((A + A.mT) / 2).float()
    due = torch.zeros(count, dtype=torch.int32, device="cuda")
    A[kind == 10, n // 2, 0], A[kind == 15, 0, n - 1], A[kind == 20] = torch.nan, torch.inf, 0
    A[kind == 25] += A[kind == 25].abs().amax((1, 2), keepdim=True) * torch.ones(n, n, device="cuda").triu(1)
    due[(kind == 10) | (kind == 15)], due[kind == 25] = NONFINITE, ASYMMETRIC
    due[(kind == 5) | (kind == 20)] = UNFINISHED
    return A, due


@pytest.mark.slow
@pytest.mark.parametrize(("n", "count"), [(16, 60000), (31, 25000), (64, 12000), (100, 3000)])
@pytest.mark.parametrize("p", [2, 4])
def test_many_mixed_matrices(n, count, p, roots):
    """10⁵ of them in all: none whose estimate says 1e-4 while the truth is beyond 1e-3, none bad and unnoticed."""
    A, due = mixed(count, n)
    result = roots(p, kappa=1e4)(A)
    assert torch.equal(result.status[due > 0], due[due > 0])
    assert bool(result.Z[result.status & 7 > 0].isnan().all())
    fine = result.status == 0
    values, V = torch.linalg.eigh(A[fine].double().cpu())
    # What passes is positive definite, but for eigenvalues that rounding to float32 could have made.
    assert bool((values[:, 0] > -1e-6 * values[:, -1]).all())
    sure = values[:, 0] > 1e-8 * values[:, -1]
    truth = (V * values.clamp(min=0)[:, None, :] ** (-1 / p)) @ V.mT
    error, found = each(result.Z[fine][sure.cuda()], truth[sure]), result.error[fine].cpu()
    wrong = (found[sure] <= 1e-4) & (error > 1e-3)
    assert not bool(wrong.any()), (error[wrong], found[sure][wrong])
    assert not bool((found[~sure] <= 1e-4).any())
    assert bool((found[sure] >= 0.1 * error).double().mean() > 0.9999)
    # Up to κ = 1e6 float32 has something to say, and the rounds suffice.
    condition = torch.linalg.eigvalsh(A[due == 0].double().nan_to_num().cpu())
    easy = (condition[:, 0] > 1e-6 * condition[:, -1]).cuda()
    assert not bool(result.status[due == 0][easy].any())


def test_same_bits_and_neighbours(spd, roots):
    for n in (16, 33, 64, 128):
        A, root = spd(n, 1e3, batch=6).float().cuda(), roots(kappa=1e2)
        first = root(A)
        A[2], A[4] = torch.nan, 0
        for _ in range(3):
            again = root(A)
            for i in (0, 1, 3, 5):
                assert all(torch.equal(x[i], y[i]) for x, y in zip(first, again, strict=True))
        assert again.status.tolist() == [0, 0, NONFINITE, 0, UNFINISHED, 0]


def test_powers_of_two_scale_the_bits(spd, roots):
    A, root = spd(50, 1e2, batch=2).float().cuda(), roots(3, 2)
    for m in (-35, 35):
        scaled = torch.ldexp(A, torch.tensor(3 * m, device="cuda"))
        assert torch.equal(root(scaled).Z, torch.ldexp(root(A).Z, torch.tensor(-2 * m, device="cuda")))


def test_ragged(spd, rhs, roots):
    sizes = (3, 17, 1, 40, 128, 16, 64, 65)
    matrices = [spd(n, 1e2, seed=n).float()[0].cuda() for n in sizes]
    right = [rhs(n, n % 7 + 1, dtype=torch.float32)[0].cuda() for n in sizes]
    root = roots()
    for given in (None, right):
        for i, result in enumerate(small_roots(matrices, given, root=root, ridge=0.125)):
            alone = root(matrices[i][None], None if given is None else given[i][None], ridge=0.125)
            assert all(torch.equal(x, y[0]) for x, y in zip(result, alone, strict=True))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_synchronisation_and_capture(spd, power, roots):
    A, root = spd(48, 1e2, batch=4).float().cuda(), roots()
    ridge = torch.full((4,), 1e-3, device="cuda")
    root(A, ridge=ridge)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        root(A, ridge=ridge)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = root(A, ridge=ridge)
    other = spd(48, 1e2, batch=4, seed=5).float()
    A.copy_(other)
    ridge.fill_(0.5)
    graph.replay()
    truth = power(other.double() + 0.5 * torch.eye(48, dtype=torch.float64), -1 / 2)
    assert float(each(result.Z, truth).max()) <= rounding(1e2, 2, UNIT["fp16x3"])


@pytest.mark.slow
def test_more_numbers_than_int32(roots):
    """600 000 matrices of 64×64 are 2.4e9 numbers: the last ones are where they belong."""
    A = torch.eye(64, device="cuda").expand(600_000, 64, 64).contiguous()
    A[-1] *= 0.25
    Z = roots(kappa=1.0)(A).Z
    assert torch.allclose(Z[-1], 2 * torch.eye(64, device="cuda"), atol=1e-5)
    assert torch.allclose(Z[-2], torch.eye(64, device="cuda"), atol=1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_data_on_another_device_than_the_current_one(spd, power, roots):
    A = spd(20, 1e2, batch=2).float()
    with torch.cuda.device(0):
        result = roots()(A.to(torch.device("cuda", 1)))
    assert float(each(result.Z, power(A, -1 / 2)).max()) <= rounding(1e2, 2, UNIT["fp16x3"])

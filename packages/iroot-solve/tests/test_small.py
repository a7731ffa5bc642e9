"""Small matrices in one launch: what the kernel is sure of is the answer, the rest goes the usual way.

The logic under Triton's interpreter with a few tiny matrices; accuracy in bulk on a device.
"""

from fractions import Fraction
from functools import partial
from importlib.util import find_spec

import pytest
import torch
from iroot_kernels import SmallRoot
from iroot_kernels._small_root import Launch
from iroot_solve import NotPositiveDefiniteError, _small, inverse_root, solve_spd

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
BACKEND = "triton: a program to a matrix"


@pytest.fixture
def device(monkeypatch):
    """Where the kernel runs: the device, or the interpreter on a CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if find_spec("triton") is None:
        pytest.skip("needs Triton")
    monkeypatch.setattr(_small, "small_matrices", lambda device: True)
    monkeypatch.setattr("iroot_solve._plain._applies", lambda problem, options: False)
    # It does not know the precision of the certificate.
    monkeypatch.setattr(_small, "SmallRoot", partial(SmallRoot, choose=lambda NP, _: Launch(1, 1, min(NP, 64), "ieee")))
    return torch.device("cpu")


quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")


@quiet
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("columns", [None, 3])
def test_a_batch_is_answered_by_the_kernel(device, spd, rhs, truth, distance, p, columns):
    A = torch.stack([spd(12, kappa) for kappa in (2.0, 1e2, 1e3)])
    B = None if columns is None else rhs(3, 12, columns)
    result = solve_spd(A.to(device), None if B is None else B.to(device), p_val=p)
    stats, expected = result.stats, truth(A, B, -1 / p)
    assert stats.backend == BACKEND and stats.fallbacks == () and bool(stats.converged.all())
    for Z, Z_true, error in zip(result.Z.cpu(), expected, stats.error.tolist(), strict=True):
        true = distance(Z, Z_true)
        assert true <= 1e-4 and 0.1 * true <= error <= max(10 * true, 1e-6)
    values = torch.linalg.eigvalsh(A.double())
    assert bool((stats.lambda_max.cpu() >= values[:, -1]).all()) and bool(
        (stats.lambda_max.cpu() <= 6 * values[:, -1]).all()
    )
    assert bool((stats.lambda_min.cpu() >= 0.99 * values[:, 0]).all())
    assert bool((stats.amplification > 0).all()) and stats.products["square"] > 0 and stats.steps > 0


@quiet
def test_the_rest_goes_the_usual_way(device, spd, truth, distance):
    """Ill-conditioned: float64 serves it. Not finite, indefinite, zero: a status each, and no harm to the others."""
    good, hard = spd(10, 1e2), spd(10, 1e6)
    nan, indefinite = good.clone(), -good
    nan[3, 3] = torch.nan
    A = torch.stack((good, hard, nan, indefinite, torch.zeros(10, 10), good)).to(device)
    result = solve_spd(A, None, on_failure="nan")
    names = ["converged", "converged", "nonfinite_input", "not_positive_definite", "singular", "converged"]
    assert result.stats.status == names and "4 of 6" in result.stats.fallbacks[0]
    expected = truth(torch.stack((good, hard, good)), None, -1 / 2)
    assert distance(result.Z[[0, 1, 5]].cpu(), expected) <= 1e-4
    assert torch.equal(result.Z[0], result.Z[5]) and bool(result.Z[2:5].isnan().all())
    with pytest.raises(NotPositiveDefiniteError):
        solve_spd(A[[0, 3]], None)
    skew = torch.stack((good, good + torch.triu(good, 1)))
    with pytest.raises(ValueError, match=r"A\[1\].*not symmetric"):
        solve_spd(skew.to(device), None)


@quiet
def test_work_is_that_of_all_rungs(device, spd, rhs):
    """More steps where the chain was repeated; the products of the rest beside those of the kernel."""
    easy = solve_spd(spd(8, 10.0)[None].to(device), rhs(1, 8, 3).to(device)).stats
    assert easy.products == {"square": easy.products["square"], "columns": 3} and easy.products["square"] > easy.steps
    repeated = solve_spd(spd(8, 10.0)[None].to(device), None, kappa_max=1.5).stats
    alone = solve_spd(torch.eye(8)[None].to(device), None, kappa_max=1.5).stats
    assert repeated.backend == BACKEND and repeated.steps > alone.steps
    assert repeated.products["square"] > alone.products["square"]
    hard = spd(8, 1e7)
    rest = solve_spd(torch.stack((spd(8, 10.0), hard)).to(device), None).stats
    usual = solve_spd(hard[None].to(device), None, lambda_max=1.01).stats
    assert rest.fallbacks and usual.backend != BACKEND
    more = {kind for kind, count in usual.products.items() if count} - {"columns"}
    assert more and all(rest.products.get(kind, 0) >= usual.products[kind] for kind in more)
    assert rest.products["square"] > usual.products.get("square", 0), "the kernel's are in it"


@quiet
@pytest.mark.parametrize("p", [1, 2])
def test_what_float16_cannot_hold_is_no_answer(device, p):
    """(1e-5·I)^-1 is beyond float16, so is (0.01·I)^(-1/2) times 6e4."""
    A = (10.0 ** (-5 if p == 1 else -2) * torch.eye(4)).half()[None].to(device)
    B = None if p == 1 else torch.full((1, 4, 1), 6e4, dtype=torch.float16, device=device)
    result = solve_spd(A, B, p_val=p, on_failure="nan")
    assert result.stats.status == ["stagnated"] and bool(result.Z.isnan().all())


@quiet
@pytest.mark.parametrize(("tol", "p"), [(0.1, 4), (0.3, 4), (0.5, 2), (0.7, 2)])
def test_a_loose_tolerance_finds_an_indefinite_matrix(device, with_spectrum, tol, p):
    """√n times what such a chain leaves of each eigenvalue is more than the one that is negative."""
    A = with_spectrum([1.0, *[2e-4] * 62, -1e-5], dtype=torch.float32)[None].to(device)
    assert solve_spd(A, None, p_val=p, tol=tol, on_failure="nan").stats.status == ["not_positive_definite"]


@quiet
def test_a_ridge_below_float32s_normal_numbers_is_not_rounded(device, with_spectrum, truth, distance):
    A = (1e-39 * with_spectrum([*[1.0] * 6, 0.0, 0.0], dtype=torch.float64)).float()
    result = solve_spd(A[None].to(device), None, ridge_rel=3e-3, on_failure="nan")
    amount = 3e-3 * A.double().diagonal().mean().item()
    assert result.stats.ridge.tolist() == pytest.approx([amount], rel=1e-12)
    if result.stats.status == ["converged"]:
        assert distance(result.Z[0].cpu(), truth(A, None, -1 / 2, amount)) <= 1e-4


@quiet
@pytest.mark.parametrize("scale", [1e-20, 2.0**-60, 2.0**60, 1e20])
def test_scale_equivariance(device, spd, rhs, scale):
    A, B = spd(9, 50.0).expand(2, 9, 9).to(device), rhs(2, 9, 2).to(device)
    plain, scaled = solve_spd(A, B, p_val=2), solve_spd(scale * A, B, p_val=2)
    assert scaled.stats.backend == BACKEND
    gap = torch.dist(scaled.Z * scale**0.5, plain.Z)
    assert gap <= (0.0 if scale in (2.0**-60, 2.0**60) else 2e-5) * plain.Z.norm()


@quiet
def test_ridge_and_other_exponents(device, spd, truth, distance):
    A = spd(8, 10.0)
    found = solve_spd(A.expand(2, 8, 8).to(device), None, p_val=4, ridge=0.5)
    assert found.stats.backend == BACKEND and found.stats.ridge.tolist() == [0.5, 0.5]
    assert distance(found.Z.cpu(), truth(A, None, -1 / 4, 0.5).expand(2, 8, 8)) <= 1e-4
    relative = solve_spd(A.expand(2, 8, 8).to(device), None, ridge_rel=0.1)
    amount = 0.1 * A.diagonal().mean().item()
    assert relative.stats.ridge.tolist() == pytest.approx([amount] * 2, rel=1e-6)
    assert distance(relative.Z.cpu(), truth(A, None, -1 / 2, amount).expand(2, 8, 8)) <= 1e-4
    power = solve_spd(A[None].to(device), None, p_val=None, exponent=Fraction(-2, 3))
    assert power.stats.backend == BACKEND and distance(power.Z[0].cpu(), truth(A, None, -2 / 3)) <= 1e-4


@quiet
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(device, spd, truth, distance, within, dtype):
    if dtype is torch.bfloat16 and device.type == "cpu":
        pytest.skip("the interpreter does not know bfloat16")
    A = spd(8, 10.0, dtype=dtype)
    found = solve_spd(A[None].to(device), None)
    assert found.stats.backend == BACKEND and found.Z.dtype is dtype
    assert distance(found.Z[0].cpu(), truth(A, None, -1 / 2)) <= within(1e-2, dtype)


@quiet
def test_out_shapes_and_one_matrix(device, spd, rhs):
    A, B = spd(8, 10.0).to(device), rhs(8, 2).to(device)
    Z = solve_spd(A, B).Z
    out = torch.empty_like(Z)
    assert solve_spd(A, B, out=out).Z is out and torch.equal(out, Z)
    assert torch.equal(solve_spd(A, B[:, 0]).Z, solve_spd(A, B[:, :1]).Z[:, 0])
    assert inverse_root(A.expand(2, 3, 8, 8)).shape == (2, 3, 8, 8)


@quiet
def test_a_blind_call_reads_nothing(device, spd, truth, distance, host_reads):
    A = torch.stack((spd(8, 10.0), spd(8, 1e9))).to(device)
    settings = {"kappa_max": 20.0, "verify": False, "on_failure": "nan"}
    solve_spd(A, None, **settings)
    with host_reads() as found:
        result = solve_spd(A, None, **settings)
    assert found == [] and result.stats.status == ["unverified", "unverified"] and result.stats.backend == BACKEND
    assert solve_spd(A, None, **{**settings, "kappa_max": 1e6}).stats.backend != BACKEND, "float32 is not enough"
    assert distance(result.Z[0].cpu(), truth(A[0].cpu(), None, -1 / 2)) <= 1e-4
    assert bool(result.stats.lambda_max[0] >= 1.0)


def test_what_is_asked_for_beyond_the_root_goes_the_usual_way(device, spd, rhs):
    A, B = spd(8, 10.0)[None].to(device), rhs(1, 8, 1).to(device)
    for settings in (
        {"strategy": "eigh"},
        {"precision": "fp64"},
        {"expected_reuse": 3},
        {"on_singular": "pinv"},
        {"lambda_max": 2.0},
        {"p_val": None, "exponent": Fraction(1, 2)},
    ):
        assert solve_spd(A, B, **settings).stats.backend != BACKEND
    assert solve_spd(A.double(), B.double()).stats.backend != BACKEND
    assert solve_spd(torch.eye(65, device=device), None).stats.backend != BACKEND


KINDS = 8


def _mixed(count, n, seed):
    """Spectra, scales 1e±15, ranks and poison, in turn: A, whether it has a float32 answer."""
    rng = torch.Generator("cuda").manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(count, n, n, dtype=torch.float64, device="cuda", generator=rng))[0]
    kind = torch.arange(count, device="cuda") % KINDS
    kappa = 10.0 ** (6 * torch.rand(count, 1, dtype=torch.float64, device="cuda", generator=rng))
    share = torch.linspace(0, 1, n, dtype=torch.float64, device="cuda")
    values = kappa**-share
    values[kind == 1] = torch.where(share > 0, 1.0, 1 / kappa[kind == 1])  # one small
    values[kind == 2] = torch.where(share < 0.9, 1.0, values[kind == 2])  # a cluster and a tail
    values[kind == 3] = torch.where(share > 0.5, 0.0, values[kind == 3])  # half the rank
    values[kind == 4] = values[kind == 4] * torch.where(share == 1, -1.0, 1.0)  # indefinite
    scale = 10.0 ** (30 * torch.rand(count, 1, 1, dtype=torch.float64, device="cuda", generator=rng) - 15)
    A = (scale * (Q * values.unsqueeze(-2)) @ Q.mT).float()
    A = (A + A.mT) / 2
    A[kind == 5, 0, 0] = torch.nan
    A[kind == 6, -1, -1] = torch.inf
    return A


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("n", [5, 16, 31, 64])
class TestOnDevice:
    pytestmark = gpu

    def test_nothing_wrong_is_called_converged(self, n, p):
        """Of thousands of matrices of all kinds, against float64's eigh of the numbers that were passed."""
        A = _mixed(9000, n, n + p)
        result = solve_spd(A, None, p_val=p, on_failure="nan")
        good = result.stats.converged
        values, V = torch.linalg.eigh(A[good].double())
        truth = (V * values.pow(-1 / p).unsqueeze(-2)) @ V.mT
        error = torch.linalg.matrix_norm(result.Z[good].double() - truth) / torch.linalg.matrix_norm(truth)
        # float64's eigh knows the smallest eigenvalue to κ·u only.
        assert bool((error <= 1e-4 + 1e-15 * values[:, -1] / values[:, 0]).all())
        kind = torch.arange(len(A), device="cuda") % KINDS
        assert not bool(good[(kind == 4) | (kind == 5) | (kind == 6)].any())
        assert float(good[(kind < 3) | (kind == 7)].double().mean()) > 0.99

    def test_a_batch_is_its_matrices_one_by_one(self, n, p):
        A = _mixed(64, n, 7)[torch.arange(64) % KINDS < 1]
        together = solve_spd(A, None, p_val=p, on_failure="nan")
        for i in range(len(A)):
            alone = solve_spd(A[i], None, p_val=p, on_failure="nan")
            if alone.stats.backend == together.stats.backend and not alone.stats.fallbacks:
                assert torch.equal(alone.Z, together.Z[i])

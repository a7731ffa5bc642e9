"""A small matrix to a program, under the interpreter: roots, scales, status, certificate, against eigh in float64."""

import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_kernels import Polynomial, SmallRoot, small_matrices
from iroot_kernels._small_root import Launch, padded, small_launch, small_roots
from iroot_kernels._small_table import power_scale, table

# The interpreter warns of what numpy does with infinities, which the kernel sorts out.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
NONFINITE, ASYMMETRIC, UNFINISHED, OUT_OF_RANGE = 1, 2, 4, 8
POWERS = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (8, 1), (1, 2), (3, 2), (7, 3)]


def rounding(kappa, s, q=1):
    """Of fp16x3: 2^-22 of the largest eigenvalue of an iterate, a relative q·κ/s of X at the smallest; twice that and
    eight units of float32 for the sums. No bound (it was measured for larger matrices), and rarely reached."""
    return 2 * q * kappa * 2.0**-22 / s + 8 * q * 2.0**-23


def plain(NP, precision):
    """float32 products for the certificate: the interpreter knows no bf16x6."""
    return Launch(1, 1, 16, "ieee")


@pytest.fixture
def interpreted():
    """The kernel on a CPU."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")


@pytest.fixture(scope="session")
def roots(schedule):
    """roots(p, power, κ): a `SmallRoot` whose chain is made for matrices of condition κ; the bound takes a factor 8."""

    def make(p=2, power=1, kappa=1e2, degrees=(2,), **options):
        return SmallRoot(schedule(p, 8 * kappa, degrees, 1e-7), p=p, power=power, choose=plain, **options)

    return make


def each(X, truth):
    """Relative error of every matrix."""
    return (X.double() - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


@pytest.mark.parametrize(
    ("n", "p", "power_of_q"),
    [
        *((17, *powers) for powers in POWERS),
        *((n, *powers) for n in (1, 3, 16, 40) for powers in ((1, 1), (2, 1), (7, 3))),
    ],
)
def test_roots(interpreted, spd, power, roots, n, p, power_of_q):
    """Every power at one size, and every padding with three of them."""
    A = spd(n, 1e2, batch=2).float()
    result = roots(p, power_of_q, degrees=(1, 2) if n == 17 else (2,))(A)
    assert result.Z.shape == A.shape and torch.equal(result.Z, result.Z.mT)
    assert float(each(result.Z, power(A, -power_of_q / p)).max()) <= rounding(1e2, p, power_of_q)
    # The residual's own rounding is u·‖A‖·‖X^s‖, κ·u.
    assert result.status.tolist() == [0, 0] and bool((result.residual < 1e2 * 2.0**-20).all())


@pytest.mark.parametrize(("p", "power_of_q"), [(1, 1), (2, 1), (3, 2), (7, 3)])
def test_powers_of_two_scale_the_bits(interpreted, spd, power, roots, p, power_of_q):
    A, root = spd(17, 1e2, batch=1).float(), roots(p, power_of_q)
    given = root(A)
    for m in (-14, 9) if p == 7 else (-30, 25):
        scaled = root(torch.ldexp(A, torch.tensor(p * m)))
        assert torch.equal(scaled.Z, torch.ldexp(given.Z, torch.tensor(-power_of_q * m)))
        assert torch.equal(scaled.error, given.error) and torch.equal(scaled.residual, given.residual)
        assert torch.equal(scaled.bound, torch.ldexp(given.bound, torch.tensor(p * m)))


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 7e-9, 3e11, 1e30, 1e37])
@pytest.mark.parametrize(("p", "power_of_q"), [(2, 1), (3, 2)])
def test_scales(interpreted, spd, power, roots, scale, p, power_of_q):
    A = (scale * spd(17, 1e2, batch=1)).float()
    result = roots(p, power_of_q)(A)
    assert float(each(result.Z, power(A, -power_of_q / p)).max()) <= rounding(1e2, p, power_of_q)
    values = torch.linalg.eigvalsh(A.double())[0]
    # ‖A‖_F ≤ √n·λmax; λmin is found from above, and by X² two of 17 log-spaced directions are told apart.
    assert values[-1] <= result.bound <= 17**0.5 * values[-1] * 1.001
    assert 0.99 * values[0] <= result.low <= 1.5 * values[0]


def test_subnormal_numbers(interpreted, power, roots):
    A = torch.tensor([[[4.0, 1.0], [1.0, 3.0]]]) * 2.0**-149
    assert float(each(roots(2)(A).Z, power(A, -1 / 2)).max()) <= rounding(1e2, 2)


def test_results_out_of_range(interpreted, roots):
    tiny, large = 2.0**-140 * torch.eye(3), 2.0**127 * torch.eye(3)
    result = roots(1)(torch.stack((tiny, torch.eye(3), large)))
    assert result.status.tolist() == [OUT_OF_RANGE, 0, OUT_OF_RANGE]
    assert bool(result.Z[0].diagonal().isinf().all()) and torch.allclose(result.Z[1], torch.eye(3))


@pytest.mark.parametrize(("k", "p", "power_of_q"), [(1, 2, 1), (16, 1, 1), (16, 7, 3), (37, 2, 1)])
def test_right_hand_sides(interpreted, spd, rhs, power, roots, k, p, power_of_q):
    """B of very different columns; its norm must not overflow."""
    A, B = spd(17, 1e2, batch=2).float(), rhs(17, k, batch=2, dtype=torch.float32)
    B[0] *= 1e25
    B[1, :, 0] *= 1e-30
    result = roots(p, power_of_q)(A, B)
    truth = power(A, -power_of_q / p) @ B.double()
    amplification = power(A, -power_of_q / p).flatten(1).norm(dim=1) / 17**0.5
    amplification = amplification * B.double().flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    error = each(result.Z, truth)
    assert bool((error <= rounding(1e2, p, power_of_q) * amplification.clamp(min=1)).all())
    assert result.status.tolist() == [0, 0] and bool((result.error >= 0.1 * error).all())
    plain = roots(p, power_of_q)(A).error
    assert torch.allclose(result.error, plain * amplification.clamp(min=1).float(), rtol=1e-3)


def test_a_right_hand_side_that_is_zero_or_not_finite(interpreted, spd, rhs, roots):
    A, B = spd(5, 1e2, batch=3).float(), rhs(5, 2, batch=3, dtype=torch.float32)
    B[0], B[1, 2, 1] = 0, torch.inf
    result = roots()(A, B)
    assert result.status.tolist() == [0, NONFINITE, 0] and bool(result.Z[1].isnan().all())
    assert not bool(result.Z[0].any()) and bool(result.Z[2].isfinite().all())


@pytest.mark.parametrize("r", [3e-3, 2.0, 1e9])
def test_ridge(interpreted, power, roots, r):
    """Of matrices of rank 5: all of the root is made of the ridge."""
    G = torch.randn(2, 17, 5, generator=torch.Generator().manual_seed(0))
    A = G @ G.mT / 17
    A = (A + A.mT) / 2
    root = roots(2, kappa=1e3)
    each_its_own = torch.tensor([r, 2 * r])
    truth = power(A.double() + each_its_own.double()[:, None, None] * torch.eye(17), -1 / 2)
    result = root(A, ridge=each_its_own)
    # Rounding of A + r to float32 is 2^-24 of it, and the certificate sees it.
    error = each(result.Z, truth)
    assert float(error.max()) <= rounding(1e3, 2) and bool((result.error >= 0.1 * error).all())
    assert torch.equal(root(A[:1], ridge=r).Z[0], result.Z[0])


def test_bad_matrices_do_not_disturb_their_neighbours(interpreted, spd, roots):
    A = spd(17, 1e2, batch=9).float()
    root = roots()
    alone = [root(A[i : i + 1]) for i in (0, 8)]
    A[1, 3, 4], A[2, 0, 0], A[3] = torch.nan, -torch.inf, 0
    A[4, 2, 5] += 0.01
    A[5] -= 0.1 * torch.eye(17)  # indefinite
    A[6] = -A[6]
    A[7] = torch.ones(17, 17)  # of rank one
    result = root(A)
    assert result.status.tolist() == [0, NONFINITE, NONFINITE, UNFINISHED, ASYMMETRIC, *[UNFINISHED] * 3, 0]
    for given, i in zip(alone, (0, 8), strict=True):
        assert all(torch.equal(x[i], y[0]) for x, y in zip(result, given, strict=True))
    assert bool(result.Z[1:8].isnan().all()) and bool(result.error[1:8].isinf().all())
    # What is known to be bad is through after the chain; what never becomes finite is not repeated.
    assert set(result.steps[:5].tolist()) == {root.table.first}


def test_symmetry_is_that_of_the_dtype(interpreted, spd, roots):
    """‖A − Aᵀ‖_F ≤ 8·√n·u·‖A‖_F is rounding."""
    A = spd(16, 10.0, batch=2)
    skew = torch.triu(torch.ones(16, 16, dtype=torch.float64), 1)
    skew = (skew - skew.mT) / (skew - skew.mT).norm()
    allowed = 8 * 4 * 2.0**-24 * A.flatten(1).norm(dim=1)
    A = A + 0.5 * skew * allowed[:, None, None] * torch.tensor([0.8, 1.25])[:, None, None]
    assert roots()(A.float()).status.tolist() == [0, ASYMMETRIC]
    assert roots()(A.half()).status.tolist() == [0, 0]


@pytest.mark.parametrize("spread", ["log-spaced", "one tiny"])
@pytest.mark.parametrize("p", [1, 2, 5])
def test_an_ill_conditioned_matrix_goes_on_by_itself(interpreted, with_spectrum, power, roots, p, spread):
    hard = np.geomspace(1e-4, 1, 17) if spread == "log-spaced" else np.r_[1e-4, np.ones(16)]
    A = torch.cat([with_spectrum(values)[0].float() for values in (np.geomspace(0.1, 1, 17), hard)])
    root = roots(p, kappa=10.0)
    result = root(A)
    first = root.table.first
    assert result.steps[0] == first < result.steps[1] and result.status.tolist() == [0, 0]
    assert float(each(result.Z, power(A, -1 / p))[1]) <= rounding(1e4, p)
    ended = roots(p, kappa=10.0, rounds=0)(A)
    assert ended.steps.tolist() == [first] * 2 and ended.status.tolist() == [0, UNFINISHED]
    assert torch.equal(ended.Z[0], result.Z[0])


def test_only_the_last_steps_are_repeated(interpreted, with_spectrum, power, roots, schedule):
    A = with_spectrum(np.r_[1e-3, np.ones(4)])[0].float()
    steps = schedule(2, 80.0, (2,), 1e-7)
    # The chain's later steps accept only what its first has made; here they are all made for [0.01, 1].
    result = SmallRoot([*steps, *steps], p=2, again=len(steps), rounds=4, choose=plain)(A)
    assert (result.steps[0] - 2 * len(steps)) % len(steps) == 0
    assert float(each(result.Z, power(A, -1 / 2)).max()) <= rounding(1e3, 2)


SPECTRA = {
    "log-spaced": lambda kappa: np.geomspace(1 / kappa, 1, 16),
    "one tiny": lambda kappa: np.r_[1 / kappa, np.ones(15)],
    "cluster and tail": lambda kappa: np.r_[np.ones(12), np.geomspace(1 / kappa, 0.5, 4)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("p", "power_of_q"), [(1, 1), (2, 1), (4, 1), (3, 2)])
def test_the_certificate_is_honest(interpreted, with_spectrum, power, roots, name, p, power_of_q):
    """Never below a tenth of the truth; while ≤ 1e-3, no more than ten times it, or than what rounding takes.

    q·2^-24·κ/s of A·X is the estimate's own: where the truth is less by luck, it says that much.
    """
    root = roots(p, power_of_q, kappa=1e3)
    for kappa in (1e2, 1e4, 1e6):
        A = with_spectrum(SPECTRA[name](kappa), batch=2, seed=1)[0].float()
        result = root(A)
        error = each(result.Z, power(A, -power_of_q / p))
        assert bool((result.error >= 0.1 * error)[result.status == 0].all()), (kappa, result.error, error)
        own = power_of_q * (2.0**-24 * kappa / p + 2.0**-24)
        small = (result.error <= 1e-3) & (result.status == 0)
        assert bool((result.error <= 10 * error.clamp(min=own))[small].all()), (kappa, result.error, error)
        assert kappa > 1e4 or bool((result.status == 0).all())


@pytest.mark.parametrize("precise", [True, False])
def test_the_certificate_sees_truncation(interpreted, with_spectrum, power, schedule, precise):
    """One step less than enough: an error of 1e-3, which rounding has no part in."""
    A = with_spectrum(np.geomspace(0.1, 1, 17))[0].float()
    steps = schedule(2, 40.0, (1,), 1e-7 if precise else 1e-2)
    result = SmallRoot(steps, p=2, rounds=0, choose=plain)(A)
    error = float(each(result.Z, power(A, -1 / 2))[0])
    assert (error < 1e-6) == precise and 0.5 * error <= float(result.error[0]) <= 2 * error + 1e-6


def test_what_n_is_padded_with_is_not_judged(interpreted, power, schedule):
    """Coarse steps err by ε at the padding's eigenvalue 1, and cross zero between ½ and 1."""
    A = torch.linspace(0.51, 0.99, 40)[:, None, None]
    steps = schedule(2, 4.0, (2,), 0.1)
    result = SmallRoot(steps, p=2, rounds=0, choose=plain)(A)
    error = each(result.Z, power(A, -1 / 2))
    assert error.min() < 0.1 * error.max() and error.max() > 1e-3
    # Of one number E = 2e + e², and the estimate is (E + E²)/2 = e + 2.5e² + O(e³); 1e-6 is rounding.
    assert bool(((result.error - error).abs() <= 3 * error.square() + 1e-6).all())


@pytest.mark.parametrize("p", [1, 2])
def test_the_rounding_of_a_ridge_is_judged(interpreted, power, roots, p):
    """Correlation matrices of rank two: 1 + ridge is rounded, in all of the diagonal alike, by 2^-24, an error of the
    root of 2^-10/p; so it is not luck if the certificate sees it."""
    G = torch.nn.functional.normalize(torch.randn(6, 4, 2, generator=torch.Generator().manual_seed(0)), dim=2)
    A = G @ G.mT
    A = (A + A.mT) / 2
    A.diagonal(dim1=1, dim2=2).fill_(1.0)
    ridge = 2.0**-14 + 0.999 * 2.0**-24
    result = roots(p, kappa=1e4)(A, ridge=ridge)
    error = each(result.Z, power(A.double() + ridge * torch.eye(4, dtype=torch.float64), -1 / p))
    assert float(error.min()) > 2.0**-12 / p and bool((result.error >= 0.6 * error).all())


@pytest.mark.parametrize("dtype", [torch.float16])
def test_16_bit_input_and_output(interpreted, spd, power, roots, dtype):
    A = spd(17, 1e2, batch=2).to(dtype)
    out = torch.empty_like(A)
    result = roots(kappa=1e3)(A, out=out)
    assert result.Z is out and float(each(out, power(A, -1 / 2)).max()) <= torch.finfo(dtype).eps
    assert float(each(roots(kappa=1e3)(A).Z, power(A, -1 / 2)).max()) <= rounding(1e3, 2)


def test_strides(interpreted, spd, rhs, roots):
    A, B, root = spd(17, 1e2, batch=2).float(), rhs(17, 3, batch=2, dtype=torch.float32), roots()
    expected = root(A, B).Z
    wide = torch.full((4, 20, 40), torch.nan)
    wide[::2, 1:18, 2:19] = A
    columns = torch.full((2, 17, 6), torch.nan)
    columns[:, :, ::2] = B
    assert torch.equal(root(wide[::2, 1:18, 2:19], columns[:, :, ::2]).Z, expected)
    assert torch.equal(root(A.mT, B.mT.contiguous().mT).Z, expected)
    assert torch.equal(root(A[:1].expand(3, -1, -1)).Z, root(A[:1]).Z.expand(3, -1, -1))


def test_ragged_batches_are_one_by_one(interpreted, spd, rhs, roots):
    sizes = (3, 17, 1, 40, 16, 20)
    matrices = [spd(n, 1e2, seed=n).float()[0] for n in sizes]
    right = [rhs(n, k, dtype=torch.float32)[0] for n, k in zip(sizes, (1, 20, 3, 2, 16, 5), strict=True)]
    root = roots()
    for given in (None, right):
        together = small_roots(matrices, given, root=root, ridge=0.125)
        for i, (A, result) in enumerate(zip(matrices, together, strict=True)):
            alone = root(A[None], None if given is None else given[i][None], ridge=0.125)
            assert all(torch.equal(x, y[0]) for x, y in zip(result, alone, strict=True))


@pytest.mark.parametrize(("p", "power", "count"), [(1, 1, 4), (2, 1, 6), (2, 3, 8), (3, 1, 8), (4, 1, 8), (8, 1, 10)])
def test_products_are_counted_by_hand(p, power, count):
    """Degrees 1, 2: R costs 0 and 1, X nothing and 1, Y·q^p per step 1, 2, 3, 3, 4 for p = 1, 2, 3, 4, 8; then X^q."""
    steps = [Polynomial(0.5, 0.5, (1.0, -0.1)), Polynomial(0.5, 0.5, (1.0, -0.1, 0.01))]
    root = SmallRoot(steps, p=p, power=power)
    assert root.products(2) == count and root.products(1) == power - 1 + (count - power + 1 - 2) // 2


def test_nothing_to_do(roots):
    assert roots()(torch.empty(0, 5, 5)).Z.shape == (0, 5, 5)
    nothing = roots()(torch.empty(2, 0, 0))
    assert nothing.Z.shape == (2, 0, 0) and nothing.status.tolist() == [0, 0] and nothing.error.tolist() == [0.0, 0.0]
    assert small_roots([], root=roots()) == []


def test_the_chain_bounds_every_plane(schedule):
    """Entries lie below the norm, and so below 2^13 after the scale; repetitions have rows of their own."""
    steps = tuple(schedule(3, 1e3, (1, 2), 1e-6))
    plan = table(steps, 3, len(steps), 2)
    assert len(plan.rows) == 3 * len(steps) and plan.first == plan.again == len(steps)
    x = y = np.geomspace(1e-12, 1, 300)
    x = np.ones_like(x)
    for row, q in zip(plan.rows, steps * 3, strict=True):
        r = q(y)
        held = [(y - row[0]) * row[1], y * r**2, x, r - row[2], r**2 - row[2] ** 2]
        # The powers of p = 3 end at q itself; that of q² is there for p > 3.
        for values, scale in zip(held, row[5:10], strict=True):
            assert np.abs(values).max() * scale <= 1.02 * 2.0**13
        assert np.allclose(r, row[2] + row[3] * held[0] + row[4] * held[0] ** 2, rtol=1e-12, atol=1e-12)
        x, y = x * r, y * r**3
    assert power_scale(0.0) == power_scale(np.inf) == 1.0 and power_scale(1.0) == 2.0**12


def test_sizes_and_launches():
    assert [padded(n) for n in (1, 16, 17, 32, 33, 64, 65, 128)] == [16, 16, 32, 32, 64, 64, 128, 128]
    assert small_launch(64, "fp16x3").check == "bf16x6" and small_launch(16, "ieee").check == "ieee"
    assert not small_matrices(torch.device("cpu"))


LINE = Polynomial.of_monomials((1.5, -0.5))


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        ([], {}, "no steps"),
        ([Polynomial(0.5, 0.5, (1.0, 0.1, 0.1, 0.1))], {}, "degree 1 or 2"),
        ([LINE], {"p": 9}, "from 1 to 8"),
        ([LINE], {"power": 0}, "from 1 to 8"),
        ([LINE], {"again": 2}, "the number of steps"),
        ([LINE], {"precision": "fp8"}, "is not one of fp16x3"),
    ],
)
def test_plans_that_are_errors(steps, options, message):
    with pytest.raises(ValueError, match=message):
        SmallRoot(steps, **({"p": 2} | options))


def test_matrices_that_are_errors():
    root, A = SmallRoot([LINE], p=2), torch.eye(3)[None]
    for given, message in (((A[0],), "must have shape"), ((torch.eye(129)[None],), "n ≤ 128"), ((A, A[0]), "like A")):
        with pytest.raises(ValueError, match=message):
            root(*given)
    with pytest.raises(TypeError, match="not torch.float64"):
        root(A.double())
    with pytest.raises(ValueError, match="ridge must be"):
        root(A, ridge=torch.zeros(2))
    with pytest.raises(ValueError, match="out must be"):
        root(A, out=torch.empty(3, 3))
    with pytest.raises(ValueError, match="matrix 1"):
        small_roots([torch.eye(2), torch.ones(2, 3)], root=root)
    with pytest.raises(TypeError, match="matrix 1 is"):
        small_roots([torch.eye(2), torch.eye(2).half()], root=root)
    with pytest.raises(ValueError, match="right-hand side"):
        small_roots([torch.eye(2)], [torch.eye(3)], root=root)

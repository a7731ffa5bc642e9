import math

import numpy as np
import pytest
import torch
from iroot_precond import (
    _exact_product,
    frobenius_bound,
    lanczos,
    lanczos_bound,
    power_guess,
    row_sum_bound,
    square_frobenius_bound,
    upper_bound,
)
from iroot_precond._bounds import absolute_row_sums, unscaled_bound

MATRIX_BOUNDS = [row_sum_bound, frobenius_bound, upper_bound, lambda A: upper_bound(A, lanczos_steps=0)]
# Powers of ten and denormal magnitudes round the matrix; the bound must hold for the rounded one.
SCALES = {torch.float32: [1e-44, 1e-30, 1.0, 1e30], torch.float64: [1e-320, 1e-150, 1.0, 1e150, 1e300]}
CASES = [(dtype, s) for dtype, scales in SCALES.items() for s in scales]


@pytest.mark.parametrize("bound", MATRIX_BOUNDS)
@pytest.mark.parametrize(("dtype", "scale"), CASES)
def test_bounds_hold_on_the_gallery_at_every_magnitude(bound, dtype, scale, gallery_batch, dominates):
    A = (gallery_batch * scale).to(dtype)
    before = A.clone()
    assert dominates(bound(A), A)
    assert torch.equal(A, before)


@pytest.mark.parametrize("steps", [10, 20, 40])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", SCALES)
def test_lanczos_bound_holds_for_every_start(steps, seed, dtype, gallery_batch, dominates):
    A = gallery_batch.to(dtype)
    bound = lanczos_bound(lambda V: A @ V, A, steps, torch.Generator().manual_seed(seed))
    assert bound.dtype == dtype and dominates(bound, A)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_lanczos_misses_only_starts_nearly_orthogonal_to_the_top(steps, with_spectrum):
    A = with_spectrum(np.append(np.linspace(0, 1, 60), 1.5))
    top, missed = torch.linalg.eigh(A).eigenvectors[:, -1], 0
    for seed in range(60):
        generators = [torch.Generator().manual_seed(seed) for _ in range(3)]
        run = lanczos(lambda V: A @ V, A, steps, generators[0])
        T = torch.diag(run.alpha) + torch.diag(run.beta, 1) + torch.diag(run.beta, -1)
        start = torch.randn(61, generator=generators[1], dtype=torch.float64)
        component = (start / start.norm() @ top).abs()
        limit = run.beta.prod() * run.residual / (1.5 - torch.linalg.eigvalsh(T)).prod()
        # the documented condition, an identity but for the factor |vᵀq_{k+1}| ≤ 1
        assert component <= limit * (1 + 1e-10)
        missed += int(lanczos_bound(lambda V: A @ V, A, steps, generators[2]) < 1.5)
    assert missed > 0


def test_twenty_steps_miss_none_of_those_starts(with_spectrum):
    A = with_spectrum(np.append(np.linspace(0, 1, 60), 1.5))
    for seed in range(60):
        assert lanczos_bound(lambda V: A @ V, A, 20, torch.Generator().manual_seed(seed)) >= 1.5


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_square_frobenius_bound_holds(dtype, scale, gallery_batch, dominates):
    A = (gallery_batch * scale).to(dtype)
    assert dominates(square_frobenius_bound(A @ A), A)
    assert dominates(upper_bound(A, A @ A), A)


def test_square_bound_covers_a_product_of_rounded_operands(gallery_batch, dominates):
    A = gallery_batch.to(torch.float32)
    rounded = A.to(torch.bfloat16).to(torch.float32)
    # two operands rounded to 8 bits and n float32 additions
    error = 2 * 2.0**-8 + 2.0**-16 + A.shape[-1] * 2.0**-24
    assert dominates(square_frobenius_bound(rounded @ rounded, product_error=error), A)


def test_square_bound_needs_the_error_of_the_product_where_rounding_went_down(dominates):
    A = torch.zeros(4, 4)
    A[0, 0] = 1 + 2.0**-8 - 2.0**-20
    rounded = A.to(torch.bfloat16).to(torch.float32)
    assert rounded[0, 0] == 1 and not dominates(square_frobenius_bound(rounded @ rounded), A)
    assert dominates(square_frobenius_bound(rounded @ rounded, product_error=2 * 2.0**-8), A)


def test_square_bound_is_between_the_norm_and_frobenius(with_spectrum):
    A = with_spectrum(np.logspace(-3, 0, 64))
    truth = float((torch.linalg.eigvalsh(A) ** 4).sum() ** 0.25)
    assert square_frobenius_bound(A @ A).item() == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-22, 1e22])
def test_a_square_that_left_the_range_is_ignored(magnitude, with_spectrum, dominates):
    A = (magnitude * with_spectrum(np.logspace(-2, 0, 32))).to(torch.float32)
    assert dominates(upper_bound(A, A @ A), A)
    assert upper_bound(A, A @ A).isfinite()


@pytest.mark.parametrize("bound", [*MATRIX_BOUNDS, power_guess, lambda A: upper_bound(A, A @ A)])
def test_zero_gives_zero_and_nonfinite_gives_nonfinite_alone(bound):
    A = torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0])).repeat(4, 1, 1)
    A[0] = 0
    A[1, 2, 3] = math.inf
    A[2, 0, 0] = math.nan
    result = bound(A)
    assert result[0] == 0 and not result[1].isfinite() and not result[2].isfinite()
    assert result[3] == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("bound", [*MATRIX_BOUNDS, power_guess, lambda A: upper_bound(A, A @ A)])
@pytest.mark.parametrize("dtype", SCALES)
def test_batch_equals_loop(bound, dtype, gallery_batch):
    # A repeated eigenvalue has one direction in the Krylov space; rounding brings in the others, sooner or later. The
    # Lanczos residual of such a matrix is a bound, but no continuous function of its entries.
    A = gallery_batch[1:].to(dtype)  # all but cluster_tail
    loop = torch.stack([bound(M) for M in A])
    # products of a batch may sum in another order: n·u per product, ten products
    tolerance = 20 * A.shape[-1] * torch.finfo(dtype).eps
    torch.testing.assert_close(bound(A), loop, rtol=tolerance, atol=0)
    torch.testing.assert_close(bound(A[:8].reshape(2, 4, 32, 32)), loop[:8].reshape(2, 4), rtol=tolerance, atol=0)


@pytest.mark.parametrize("bound", [row_sum_bound, frobenius_bound])
def test_permutation_invariance(bound, gallery_batch):
    order = torch.randperm(gallery_batch.shape[-1], generator=torch.Generator().manual_seed(3))
    permuted = gallery_batch[:, order][:, :, order]
    torch.testing.assert_close(bound(permuted), bound(gallery_batch), rtol=1e-14, atol=0)


@pytest.mark.parametrize("bound", [*MATRIX_BOUNDS, power_guess])
@pytest.mark.parametrize("k", [-90, -1, 1, 90])
def test_scaling_by_a_power_of_two_scales_the_bound_exactly(bound, k, gallery_batch):
    A = gallery_batch.to(torch.float32)
    assert torch.equal(bound(A * 2.0**k), bound(A) * 2.0**k)


def test_values_against_their_definitions(with_spectrum):
    A = with_spectrum(np.logspace(-2, 0, 40))
    assert row_sum_bound(A).item() == pytest.approx(np.abs(A.numpy()).sum(1).max(), rel=2e-14)
    assert frobenius_bound(A).item() == pytest.approx(np.linalg.norm(A.numpy()), rel=2e-14)


def test_minimum_is_the_sharpest(with_spectrum):
    A = with_spectrum(np.logspace(-4, 0, 200))
    all_bounds = torch.stack([row_sum_bound(A), frobenius_bound(A), square_frobenius_bound(A @ A)])
    assert 1 <= upper_bound(A) <= 1.3
    assert upper_bound(A, A @ A, lanczos_steps=0) == all_bounds.min()


def test_bound_is_rounded_up_where_undoing_the_scale_is_inexact():
    bound = torch.tensor([0.7500001, 0.5, 0.9])
    result = unscaled_bound(bound, torch.tensor([-147, -148, 0]))
    smallest = 2.0**-149
    # 0.75·2^-147 is three smallest denormals: the excess over it must go up, not away
    assert result.tolist() == [4 * smallest, smallest, bound[2].item()]
    assert unscaled_bound(torch.tensor(1.5), torch.tensor(128)).item() == math.inf


def test_power_iteration_underestimates_and_is_only_a_guess(with_spectrum):
    A = with_spectrum(np.linspace(0.5, 1, 200))
    guess = power_guess(A, iters=8)
    assert 0.5 < guess < 1.0
    with pytest.raises(ValueError, match="iters >= 1"):
        power_guess(A, iters=0)


def test_empty_matrices_and_empty_batches():
    assert upper_bound(torch.zeros(3, 0, 0)).tolist() == [0, 0, 0]
    assert upper_bound(torch.zeros(0, 4, 4)).shape == (0,)
    assert upper_bound(torch.tensor([[-3.0]])).item() == pytest.approx(3, rel=1e-5)


def test_expanded_and_strided_inputs(with_spectrum):
    A = with_spectrum(np.logspace(-2, 0, 16))
    expanded, strided = A.expand(3, 16, 16), A.repeat_interleave(2, -1)[:, ::2]
    torch.testing.assert_close(upper_bound(expanded), upper_bound(A).expand(3))
    torch.testing.assert_close(upper_bound(strided), upper_bound(A))


def test_row_sums_with_and_without_scratch_and_beyond_one_chunk():
    S = torch.rand(5, 300, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    truth = np.abs(S.numpy()).sum(-1)
    np.testing.assert_allclose(absolute_row_sums(S).numpy(), truth, rtol=1e-13)
    np.testing.assert_allclose(absolute_row_sums(S, work=torch.empty_like(S)).numpy(), truth, rtol=1e-13)


def test_identical_inside_autocast(gallery_batch):
    A = gallery_batch.to(torch.float32)
    outside = upper_bound(A), power_guess(A)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = upper_bound(A), power_guess(A)
    assert torch.equal(outside[0], inside[0]) and torch.equal(outside[1], inside[1])


def test_reduced_global_precision_moves_products_to_float64(monkeypatch, with_spectrum):
    A = with_spectrum(np.logspace(-2, 0, 32)).to(torch.float32)
    full = upper_bound(A)
    monkeypatch.setattr(_exact_product, "_reduced_float32", lambda device: True)
    assert _exact_product.exact_operand(A).dtype == torch.float64
    torch.testing.assert_close(upper_bound(A), full, rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", ["ieee", "none", "tf32", "bf16"])
def test_global_flag_is_read(value, monkeypatch):
    class Flag:
        fp32_precision = value

    monkeypatch.setattr(torch.backends.mkldnn, "matmul", Flag)
    monkeypatch.setattr(torch.backends.cuda, "matmul", Flag)
    expected = value in ("tf32", "bf16")
    assert _exact_product._reduced_float32(torch.device("cpu")) is expected
    assert _exact_product._reduced_float32(torch.device("cuda")) is expected
    assert not _exact_product._reduced_float32(torch.device("meta"))

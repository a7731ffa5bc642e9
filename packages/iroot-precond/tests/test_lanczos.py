import math

import numpy as np
import pytest
import torch
from iroot_precond import lanczos, ritz_extremes, symmetric_action


def action(A):
    return lambda V: A @ V


def reference(A, k):
    """The three-term recurrence in extended precision, from the same start."""
    A = A.numpy().astype(np.longdouble)
    q = torch.randn(len(A), generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    basis, alpha, beta = [q.astype(np.longdouble) / np.sqrt((q.astype(np.longdouble) ** 2).sum())], [], []
    for _ in range(k):
        w = A @ basis[-1]
        alpha.append(w @ basis[-1])
        for _ in range(3):
            for b in basis:
                w = w - (w @ b) * b
        beta.append(np.sqrt(w @ w))
        basis.append(w / beta[-1])
    return np.array(alpha, float), np.array(beta, float)


@pytest.mark.parametrize("k", [1, 2, 8])
def test_tridiagonal_against_extended_precision(k, with_spectrum):
    A = with_spectrum(np.linspace(0.01, 1, 40))
    alpha, beta = reference(A, k)
    run = lanczos(action(A), A, k)
    # the entries of T are well conditioned functions of A and the start for so few steps
    np.testing.assert_allclose(run.alpha.numpy(), alpha, rtol=1e-10)
    np.testing.assert_allclose(run.beta.numpy(), beta[:-1], rtol=1e-10)
    assert run.residual.item() == pytest.approx(beta[-1], rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 10, 50])
def test_ritz_values_lie_inside_the_spectrum(dtype, steps, gallery_batch):
    A = gallery_batch.to(dtype)
    low, high, beta = ritz_extremes(action(A), A, steps)
    truth = torch.linalg.eigvalsh(A.double())
    # rounding of a product: √n·u·‖A‖ a step, constant 8 as in the breakdown test
    slack = 8 * math.sqrt(A.shape[-1]) * torch.finfo(dtype).eps * truth.abs().amax(-1)
    assert low.dtype == high.dtype == beta.dtype == dtype
    assert (low.double() >= truth[:, 0] - slack).all() and (high.double() <= truth[:, -1] + slack).all()
    assert (low <= high).all() and (beta >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_cluster_at_the_lower_end_does_not_spoil_the_basis(seed, with_spectrum):
    """A ridge on a power law: twenty float32 products leave a tiny residual for many steps, and no ghost below it."""
    A = with_spectrum(0.01 + np.logspace(-6, 0, 24)).float()
    low, _, _ = ritz_extremes(action(A), A, 20, torch.Generator().manual_seed(seed))
    assert low.item() >= 0.01 - 8 * math.sqrt(24) * torch.finfo(torch.float32).eps


def test_as_many_steps_as_dimensions_find_both_ends(with_spectrum):
    A = with_spectrum(np.linspace(0.3, 2.5, 20))
    low, high, beta = ritz_extremes(action(A), A, 20)
    assert (low.item(), high.item()) == (pytest.approx(0.3, rel=1e-12), pytest.approx(2.5, rel=1e-12))
    assert beta.item() < 1e-12


@pytest.mark.parametrize(
    ("spectrum", "ends"),
    [
        (np.ones(30), (1, 1)),
        (np.zeros(30), (0, 0)),
        (np.append(np.zeros(29), 3.0), (0, 3)),
        (np.append(np.full(15, 0.5), np.full(15, 2.0)), (0.5, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_breakdown_gives_exact_ends_and_no_nan(spectrum, ends, dtype, with_spectrum):
    A = with_spectrum(spectrum).to(dtype)
    low, high, beta = ritz_extremes(action(A), A, 12)
    tolerance = 8 * math.sqrt(30) * torch.finfo(dtype).eps * 3
    assert (low.item(), high.item()) == (
        pytest.approx(ends[0], abs=tolerance),
        pytest.approx(ends[1], abs=tolerance),
    )
    assert beta.item() <= tolerance


def test_one_element_breaking_down_leaves_its_neighbours_alone(with_spectrum):
    good = with_spectrum(np.logspace(-2, 0, 24))
    broken, poisoned = torch.eye(24, dtype=torch.float64), good.clone()
    poisoned[0, 0] = math.nan
    A = torch.stack([broken, good, poisoned])
    low, high, beta = ritz_extremes(action(A), A, 8)
    alone = torch.stack(ritz_extremes(action(good), good, 8))
    torch.testing.assert_close(torch.stack((low, high, beta))[:, 1], alone, rtol=1e-12, atol=0)
    assert low[2].isnan() and high[2].isnan() and beta[2].isnan()
    assert low[0] == pytest.approx(1) and high[0] == pytest.approx(1)


def test_start_is_deterministic_and_follows_the_generator(with_spectrum):
    A = with_spectrum(np.logspace(-3, 0, 30))
    first, second = (torch.stack(ritz_extremes(action(A), A, 4)) for _ in range(2))
    other = torch.stack(ritz_extremes(action(A), A, 4, torch.Generator().manual_seed(1)))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_operators_need_only_one_column_as_likeness():
    d = torch.linspace(1, 2, 15, dtype=torch.float64)[:, None]
    low, high, _ = ritz_extremes(lambda V: d * V, d, 15)
    assert (low.item(), high.item()) == (pytest.approx(1), pytest.approx(2))


def test_impossible_requests_are_named():
    with pytest.raises(ValueError, match="steps >= 1"):
        lanczos(action(torch.eye(3)), torch.eye(3), 0)
    with pytest.raises(ValueError, match="n=0"):
        lanczos(action(torch.eye(0)), torch.eye(0), 3)


def linear_step(l, u):
    """Minimax q(y) = a − b·y of y^(-1/2) on [l, u]: q·√y equal at both ends, largest at a/(3b)."""
    a, b = u + math.sqrt(u * l) + l, 1.0
    end, top = math.sqrt(u) * (a - b * u), 2 * a / 3 * math.sqrt(a / (3 * b))
    s = 2 / (end + top)
    return s * a, s * b, (s * end) ** 2, (s * top) ** 2


@pytest.mark.parametrize(("kappa", "on_A", "on_Y"), [(1e2, 3, 1.5), (1e3, 4, 1.5), (1e4, 25, 2), (1e6, math.inf, 12)])
def test_lambda_min_is_overestimated_less_on_the_iterate(kappa, on_A, on_Y, with_spectrum):
    # Seen before (20 steps): on A 1–3 times up to 1e3, 10 at 1e4, 380 at 1e6; on Y after three linear steps
    # 1.1 at 1e4, 5.8 at 1e6. The limits are about twice that.
    A = with_spectrum(np.logspace(-math.log10(kappa), 0, 256))
    Y, (l, u) = A.clone(), (1 / kappa, 1.0)
    for _ in range(3):
        a, b, l, u = linear_step(l, u)
        R = a * torch.eye(256, dtype=torch.float64) - b * Y
        Y = R @ Y @ R
        Y = (Y + Y.mT) / 2
    ratios = [(ritz_extremes(action(M), M, 20)[0] / torch.linalg.eigvalsh(M)[0]).item() for M in (A, Y)]
    assert 1 - 1e-9 <= ratios[0] <= on_A and 1 - 1e-9 <= ratios[1] <= on_Y
    assert ratios[1] <= ratios[0]


@pytest.mark.parametrize("shape", [(6, 6), (3, 6, 6), (2, 3, 6, 6), (1030, 1030), (1, 1030, 1030)])
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_symmetric_action_multiplies(shape, columns, dtype):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(shape, generator=generator, dtype=torch.float64)
    A, V = (A + A.mT).to(dtype), torch.randn(*shape[:-1], columns, generator=generator, dtype=torch.float64)
    # n products, each rounded, of numbers of size one: n·u of the norm at most; V itself is rounded once.
    expected = A.double() @ V
    gap = torch.linalg.vector_norm(symmetric_action(A)(V).double() - expected)
    assert gap <= (shape[-1] + 1) * torch.finfo(dtype).eps * torch.linalg.vector_norm(A) * torch.linalg.vector_norm(V)

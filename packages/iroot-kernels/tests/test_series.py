"""Adaptive Chebyshev series against eigendecompositions, and the honesty of where they stop."""

import numpy as np
import pytest
import torch
from iroot_kernels import Counted, Workspace, cayley_coefficients, cayley_series, chebyshev_series
from numpy.polynomial import chebyshev

N = 96
SPECTRA = {
    "log 1e2": np.geomspace(1e-2, 1, N),
    "log 1e4": np.geomspace(1e-4, 1, N),
    "power law": np.arange(1, N + 1.0) ** -1.5,
    "one tiny": np.append(np.linspace(0.3, 1, N - 1), 1e-3),
    "tail": np.append(np.geomspace(1e-3, 0.1, N // 2), np.linspace(0.9, 1, N // 2)),
    "one large": np.append(np.full(N - 1, 1e-2), 1.0),
}


def _coefficients(exponent, kappa):
    """Of x^α on [1/κ, 1], by interpolation in enough points, down to 1e-12 of the largest."""
    degree = int(24 * np.sqrt(kappa)) + 32
    x = lambda t: ((1 + 1 / kappa) + (1 - 1 / kappa) * t) / 2  # noqa: E731
    c = chebyshev.chebinterpolate(lambda t: x(t) ** exponent, degree)
    return c[: int(np.flatnonzero(np.abs(c) > 1e-12 * np.abs(c).max())[-1]) + 1]


@pytest.fixture
def problem(with_spectrum, rhs):
    """(spectrum, exponent, batch) ↦ A, B, A^exponent·B and λ_min."""

    def make(name, exponent, batch=1):
        values, B = SPECTRA[name], rhs(N, 3, batch)
        A, V = with_spectrum(values)
        expected = (V * torch.from_numpy(values**exponent)) @ (V.mT @ B)
        return A.expand(batch, N, N), B, expected, float(values.min())

    return make


def _run(method, A, B, exponent, low, high, tol, ws=None, counted=None):
    if method == "cayley":
        c = cayley_coefficients(exponent, high / low, max(1e-12, 2.0**-45 * high / low))
        return cayley_series(A, B, c, low, high, exponent=exponent, tol=tol, ws=ws, counted=counted)
    c = _coefficients(exponent, high / low)
    return chebyshev_series(lambda V: A @ V, B, c, low, high, exponent=exponent, tol=tol, ws=ws, counted=counted)


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("share", [1.0, 0.3, 3.0])
@pytest.mark.parametrize("rows", [False, True])
def test_a_count_gives_the_same_sum_and_estimate(method, name, share, rows, problem):
    """As the series that stops by itself, to as many terms as that took: V and its norms are no part of either."""
    A, B, _, smallest = problem(name, -0.5, 1 if rows else 2)
    low = min(share * smallest, 0.4)
    stopped = _run(method, A, B, -0.5, low, 1.05, 1e-6)
    if not bool(stopped.converged.all()):
        pytest.skip("it ran out of coefficients")
    V = torch.randn(*B.shape[:-1], 5, generator=torch.Generator().manual_seed(5), dtype=B.dtype)
    W = torch.cat((B, V), -1)
    W = W.contiguous() if rows else W.mT.contiguous().mT
    found = _run(method, A, W, -0.5, low, 1.05, 1e-6, counted=Counted(stopped.terms - 1, 5))
    assert found.terms == stopped.terms
    torch.testing.assert_close(found.Z[..., :-5], stopped.Z, rtol=1e-10, atol=1e-10 * float(stopped.Z.abs().max()))
    torch.testing.assert_close(found.error, stopped.error, rtol=1e-6, atol=1e-12)
    assert torch.equal(found.converged, stopped.converged)
    # b(X)·V is what the sum gains by its last block.
    block = {"chebyshev": 8, "cayley": 4}[method]
    if stopped.terms - 1 > 3 * block:
        before = _run(method, A, W, -0.5, low, 1.05, 1e-6, counted=Counted(stopped.terms - 1 - block, 5))
        unit = 1.05**-0.5 if method == "chebyshev" else (low * 1.05) ** -0.25
        gained = (found.Z - before.Z)[..., -5:].square().sum((-2, -1)) / 5 / unit**2
        torch.testing.assert_close(found.probed, gained, rtol=1e-4, atol=1e-20)


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("exponent", [-1.0, -0.5, -0.25])
@pytest.mark.parametrize("share", [1.0, 0.3, 3.0, 30.0])
def test_it_stops_when_it_is_done(method, name, exponent, share, problem):
    """`low` on the safe side, right, or far above λ_min: what is called converged is, within the estimate."""
    A, B, expected, smallest = problem(name, exponent)
    low, tol = min(share * smallest, 0.4), 1e-6
    found = _run(method, A, B, exponent, low, 1.05, tol)
    error = float((found.Z - expected).norm() / expected.norm())
    assert bool(found.converged.all()) == bool((found.error <= tol).all())
    if bool(found.converged.all()):
        assert error <= 2 * tol and float(found.error.max()) >= 0.3 * error
    else:
        assert share > 1
    if share <= 1:
        assert bool(found.converged.all())


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
def test_an_eigenvalue_that_is_not_positive_shows(method, problem):
    """The series diverges there: the terms grow, or there is no Cholesky factor."""
    A, B, _, _ = problem("log 1e2", -0.5)
    found = _run(method, A - 0.02 * torch.eye(N, dtype=torch.float64), B, -0.5, 1e-2, 1.05, 1e-6)
    assert not bool(found.converged.any())


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
def test_an_eigenvalue_above_the_bound_shows(method, problem):
    A, B, _, _ = problem("log 1e2", -0.5)
    found = _run(method, A, B, -0.5, 1e-3, 0.1, 1e-6)
    error = float((found.Z - problem("log 1e2", -0.5)[2]).norm())
    assert not bool(found.converged.all()) or error <= 1e-5 * float(found.Z.norm())


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
def test_a_batch_goes_on_until_its_last_is_done(method, problem):
    A, B, expected, smallest = problem("log 1e2", -0.5, batch=3)
    A = A * torch.tensor([1.0, 0.9, 0.8], dtype=torch.float64)[:, None, None]
    expected = expected / torch.tensor([1.0, 0.9, 0.8], dtype=torch.float64).sqrt()[:, None, None]
    found = _run(method, A, B, -0.5, 0.7 * smallest, 1.05, 1e-8)
    assert bool(found.converged.all()) and found.error.shape == (3,)
    assert float((found.Z - expected).norm() / expected.norm()) <= 1e-8


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
def test_not_a_number_is_infinitely_wrong_and_zero_is_zero(method, problem):
    A, B, _, smallest = problem("log 1e2", -0.5, batch=2)
    B = B.clone()
    B[0], B[1] = 0.0, torch.nan
    found = _run(method, A, B, -0.5, smallest, 1.05, 1e-8)
    assert found.error.tolist() == [0.0, float("inf")] and not bool(found.Z[0].any())


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
def test_float32(method, problem):
    """Rounding: each term errs by u·‖V‖, and the sum by u·κ^|α| at most per term."""
    A, B, expected, smallest = problem("log 1e2", -0.5)
    found = _run(method, A.float(), B.float(), -0.5, smallest, 1.05, 1e-5)
    assert found.Z.dtype == torch.float32 and bool(found.converged.all())
    assert float((found.Z.double() - expected).norm() / expected.norm()) <= 1e-5 + found.terms * 2.0**-24 * 10


@pytest.mark.parametrize("method", ["chebyshev", "cayley"])
def test_the_workspace_is_used_again(method, problem):
    A, B, _, smallest = problem("log 1e2", -0.5)
    ws = Workspace()
    first = _run(method, A, B, -0.5, smallest, 1.05, 1e-8, ws)
    held = {name: buffer.data_ptr() for name, buffer in ws._buffers.items()}
    Z = first.Z.clone()
    assert torch.equal(_run(method, A, B, -0.5, smallest, 1.05, 1e-8, ws).Z, Z)
    assert held == {name: buffer.data_ptr() for name, buffer in ws._buffers.items()}

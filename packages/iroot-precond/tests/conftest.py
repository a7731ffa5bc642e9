"""Matrices with known spectra in dense random eigenbases; truth is always a float64 eigendecomposition."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

N = 32


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a CUDA device; skipped where there is none")


def _with_spectrum(spectrum: np.ndarray, seed: int = 0) -> Tensor:
    n = len(spectrum)
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    A = (Q * spectrum) @ Q.T
    return torch.from_numpy((A + A.T) / 2)


def _gallery() -> dict[str, Tensor]:
    rng = np.random.default_rng(7)
    G = rng.standard_normal((N, 5))
    vector = rng.standard_normal((N, 1))
    graded = np.diag(10.0 ** -np.arange(N / 4, step=0.25))
    return {
        "log_1e4": _with_spectrum(np.logspace(-4, 0, N)),
        "one_tiny": _with_spectrum(np.append(1e-8, np.ones(N - 1))),
        "one_large": _with_spectrum(np.append(np.linspace(0.01, 0.5, N - 1), 1.0)),
        "cluster_tail": _with_spectrum(np.append(np.full(N // 2, 1.0), np.logspace(-6, -1, N - N // 2))),
        "identity": torch.eye(N, dtype=torch.float64),
        "rank_one": torch.from_numpy(vector @ vector.T),
        "rank_five": torch.from_numpy(G @ G.T),
        "ones": torch.ones(N, N, dtype=torch.float64),
        "graded": torch.from_numpy(graded),
        "single_entry": torch.from_numpy(np.diag(np.eye(N)[3])),
        "negative": -_with_spectrum(np.logspace(-2, 0, N)),
        "zero": torch.zeros(N, N, dtype=torch.float64),
    }


GALLERY = _gallery()


@pytest.fixture(params=sorted(GALLERY))
def gallery_matrix(request: pytest.FixtureRequest) -> Tensor:
    """One float64 matrix of the gallery."""
    return GALLERY[request.param].clone()


@pytest.fixture
def gallery_batch() -> Tensor:
    """The whole gallery as one float64 batch."""
    return torch.stack([GALLERY[name] for name in sorted(GALLERY)])


@pytest.fixture
def with_spectrum() -> Callable[..., Tensor]:
    """Symmetric float64 matrix with a given spectrum and a dense random eigenbasis."""
    return _with_spectrum


@pytest.fixture
def dominates() -> Callable[[Tensor, Tensor], bool]:
    """Whether bounds (...) are at least the spectral norms of A (...), compared at the scale of A."""

    def check(bound: Tensor, A: Tensor) -> bool:
        # Exact powers of two in two halves, so that the truth neither over- nor underflows.
        X = A.numpy().astype(np.float64)
        e = np.frexp(np.abs(X).max((-2, -1)))[1]
        half = e // 2
        down = np.ldexp(np.ldexp(X, -half[..., None, None]), -(e - half)[..., None, None])
        truth = np.abs(np.linalg.eigvalsh(down)).max(-1)
        scaled = np.ldexp(np.ldexp(bound.numpy().astype(np.float64), -half), -(e - half))
        return bool((scaled >= truth).all())

    return check

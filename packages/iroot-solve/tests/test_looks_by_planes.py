"""λmax and completeness from one plane of A or Y, of 11 bits, under the interpreter."""

import math
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_coeffs import minimax, plan
from iroot_solve import PrecondConfig, SolveWorkspace
from iroot_solve._completeness import MOST_ENTRY, degree, unfinished
from iroot_solve._matrix import POWER, Damping, ScaledMatrix
from iroot_solve._problem import read_problem
from iroot_solve._sums_by_planes import MOVED
from iroot_solve.gallery import _spectra as spectra

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
N = 192
SPECTRA = {
    "log-spaced": spectra.log_spaced(N, 1e4),
    "one tiny": spectra.one_tiny(N, 1e6),
    "cluster and tail": spectra.cluster_and_tail(N, 1e4),
    "power law": spectra.power_law(N, 2.0),
    "two values": spectra.two_values(N, 1e3),
    "Marchenko-Pastur": spectra.marchenko_pastur(N, 0.5),
    "semidefinite": spectra.semidefinite(N, 20),
    "one above": np.r_[np.full(N - 1, 1e-4), 1.0],
    "equal": np.ones(N),
}
ENDS = {
    "quadratic": minimax(2, 2, 0.6, 1.5),
    "quartic": minimax(4, 4, 0.2, 1.8),
    "of a loose plan": plan(2, kappa=1e4, tol=0.1).steps[-1],
    "of a high degree": minimax(2, 40, 0.01, 1.0),
}


@pytest.fixture
def planes(monkeypatch):
    """`planes(True)`: kernels from now on, which the interpreter runs."""
    if find_spec("triton") is None or torch.cuda.is_available():
        pytest.skip("needs Triton's interpreter")
    return lambda there: monkeypatch.setattr("iroot_kernels._thin.symmetric_products", lambda device: there)


def _bound(A):
    """(λmax, its bound, share) of the scaled matrix."""
    problem = read_problem(A, None, p_val=2, exponent=None, tol=None)
    matrix = ScaledMatrix(problem, Damping(), PrecondConfig(), SolveWorkspace(), 0)
    share = matrix.bound_by_power()
    largest = torch.linalg.eigvalsh(matrix.matrix(torch.float32).double())[..., -1]
    return largest, matrix.upper, share


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_power_of_one_plane_bounds_the_spectrum(planes, with_spectrum, spectrum, scale):
    """λmax ≤ bound ≤ λmax/share; and the bound is that of products in float32, to 11 bits."""
    A = (scale * with_spectrum(spectrum, 7)).float()
    planes(True)
    largest, upper, share = _bound(A)
    assert bool((largest <= upper).all()) and bool((share * upper <= largest).all())
    assert share == pytest.approx((2 * (N + 1) / 0.1) ** (-0.5 / POWER), rel=0.01)
    planes(False)
    assert float(upper) == pytest.approx(float(_bound(A)[1]), rel=2.0**-11)


def test_a_batch_has_bounds_of_its_own(planes, with_spectrum):
    """Of matrices as different as they are; one that is not finite harms no other."""
    A = torch.stack([(scale * with_spectrum(SPECTRA["log-spaced"], 7)).float() for scale in (1.0, 1e-6, 1.0)])
    A[2, 3, 3] = torch.nan
    planes(True)
    largest, upper, share = _bound(A[:2])
    assert bool((largest <= upper).all()) and bool((share * upper <= largest).all())
    problem = read_problem(A, None, p_val=2, exponent=None, tol=None)
    matrix = ScaledMatrix(problem, Damping(), PrecondConfig(), SolveWorkspace(), 0)
    matrix.bound_by_power()
    assert torch.equal(matrix.upper[:2], upper) and not bool(matrix.upper[2].isfinite())


def _ratio(Y, end, seed=5):
    return float(unfinished(Y[None], end, seed, SolveWorkspace()))


def _more(end):
    """By how much one plane may raise |T_j|² inside: eigenvalues move by MOVED·u."""
    j, _ = degree(N, end)
    return math.cosh(j * math.acosh(1 + 2 * MOVED / (1 - end.lo / end.hi))) ** 2 - 1


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_one_plane_tells_what_is_unfinished(planes, with_spectrum, end):
    """As products in float32 do, to 1 %; eigenvalues at the very end, of which there are many, to what they move by."""
    kinds = {
        "lone": np.r_[0.05 * end.lo, np.linspace(end.lo, end.hi, N - 1)],
        "spread": np.geomspace(end.lo, end.hi, N),
        "ends": np.repeat([end.lo, end.hi], N // 2),
    }
    for kind, values in kinds.items():
        Y = with_spectrum(values, 3, torch.float32)
        found = []
        for there in (True, False):
            planes(there)
            found.append(_ratio(Y, end))
        assert found[0] == pytest.approx(found[1], rel=max(0.01, _more(end)) if kind == "ends" else 0.01)
        assert (found[0] > 1) == (kind == "lone") and (kind == "lone" or found[0] <= 0.3)


def test_a_lone_eigenvalue_is_seen_from_every_start(planes, with_spectrum):
    planes(True)
    end = ENDS["quadratic"]
    Y = with_spectrum(np.r_[0.0, np.linspace(end.lo, end.hi, N - 1)], 3, torch.float32)
    assert all(_ratio(Y, end, seed) > 1 for seed in range(10))


@pytest.mark.parametrize("p", [2, 8])
def test_what_fp16_cannot_hold_is_left_to_float32(planes, p):
    """A diagonal Y with entries up to u: fp16 ends at 2^16, which is 4 after the factor of planes."""
    planes(True)
    end = plan(p, kappa=1e4, tol=0.025).steps[-1]
    assert (end.hi > MOST_ENTRY) == (p == 8)
    assert _ratio(torch.diag(torch.linspace(end.lo, end.hi, N)), end) <= 0.3


def test_planes_hold_entries_of_that_size(planes):
    planes(True)
    assert _ratio(MOST_ENTRY * torch.eye(N), minimax(2, 2, 1.5, MOST_ENTRY)) <= 0.3

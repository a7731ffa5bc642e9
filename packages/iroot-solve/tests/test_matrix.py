"""A_s, its bound and its defect from one pass over A: the numbers of a CPU, and nothing passes over A besides.

The kernel runs under Triton's interpreter; what these tests see of the device is what is queued.
"""

import os
from fractions import Fraction
from importlib.util import find_spec

import pytest
import torch
from iroot_kernels import _symmetric_part
from iroot_solve._config import PrecondConfig
from iroot_solve._matrix import Damping, ScaledMatrix
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveWorkspace
from torch.utils._python_dispatch import TorchDispatchMode

quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
DTYPES = [torch.float32, torch.float64, torch.float16]  # the interpreter does not know bfloat16
SETTINGS = [(Damping(), "none"), (Damping(0.1, 0.1), "none"), (Damping(), "jacobi")]


@pytest.fixture
def kernel(monkeypatch):
    """`kernel(True)`: the kernel on a CPU from now on."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")

    def use(there):
        monkeypatch.setattr(_symmetric_part, "symmetric_products", lambda device: there)

    return use


@pytest.fixture
def passes():
    """`with passes(floor) as found:` the operations on tensors of `floor` numbers or more."""

    class Passes(TorchDispatchMode):
        def __init__(self, floor):
            super().__init__()
            self.floor, self.found = floor, []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            if any(x.numel() >= self.floor for x in tensors):
                self.found.append(func.overloadpacket.__name__)
            return result

    return Passes


def _scaled(A, exponent, damping, mode):
    problem = read_problem(A, None, p_val=None, exponent=exponent, tol=None)
    return ScaledMatrix(problem, damping, PrecondConfig(mode=mode), SolveWorkspace(), 0)


def _numbers(A, exponent, damping, mode):
    """(what has the same bits, what is rounded otherwise), of both dtypes."""
    matrix = _scaled(A, exponent, damping, mode)
    S = matrix.matrix(matrix.problem.storage).clone()
    rounded = torch.stack((matrix.upper, matrix.defect))
    matrix.normalise()  # by a power of two
    return (S, matrix.matrix(matrix.problem.storage), matrix.matrix(torch.float64)), rounded


def _skewed(spd, n, dtype):
    """Two sizes, and a defect that float16 shows."""
    A = torch.stack((spd(n, 1e2, 0, torch.float64), spd(n, 1e2, 1, torch.float64) / 64))
    A[:, 0, -1] *= 1.5
    return A.to(dtype)


@quiet
@pytest.mark.parametrize("exponent", [Fraction(-1), Fraction(-1, 2), Fraction(-1, 40)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("damping", "mode"), SETTINGS)
def test_the_same_numbers(spd, kernel, damping, mode, dtype, exponent):
    """S in every bit; norms are sums of float32 squares in another order, n = 70 of them to a row."""
    A = _skewed(spd, 70, dtype)
    kernel(False)
    bits, rounded = _numbers(A, exponent, damping, mode)
    kernel(True)
    found, numbers = _numbers(A, exponent, damping, mode)
    for one, other in zip(found, bits, strict=True):
        assert torch.equal(one, other)
    u = torch.finfo(torch.float32).eps
    assert bool((numbers[0] - rounded[0]).abs().le(70 * u * rounded[0]).all())
    assert bool((numbers[1] - rounded[1]).abs().le(70 * u).all()) and bool((numbers[1] > 1e-6).all())


@quiet
def test_a_whole_division_is_in_the_factor(spd, kernel):
    """The second copy is made with the unit, which is no power of two; T is rounded as by torch."""
    A = _skewed(spd, 40, torch.float32)
    found = []
    for there in (False, True):
        kernel(there)
        matrix = _scaled(A, Fraction(-1), Damping(), "none")
        matrix.matrix(torch.float32)
        matrix.upper = torch.tensor([0.7, 1.3], dtype=torch.float64)
        matrix.normalise(wholly=True)
        found.append((matrix.matrix(torch.float32), matrix.matrix(torch.float64)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other) and torch.equal(one, one.mT)
    assert float(matrix.scales.half(torch.float64)[0] * 2 * A[0, 0, 0].double() / 0.7) == pytest.approx(
        float(found[1][1][0, 0, 0]), rel=1e-15
    )


@quiet
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen_and_blanked(spd, kernel, bad):
    A = _skewed(spd, 40, torch.float32)
    A[1, 3, 2] = bad
    kernel(True)
    matrix = _scaled(A, Fraction(-1), Damping(), "none")
    matrix.matrix(torch.float32)
    assert matrix.upper.isfinite().tolist() == matrix.defect.isfinite().tolist() == [True, False]
    matrix.blank()
    for dtype in (torch.float32, torch.float64):
        S = matrix.matrix(dtype)
        assert not S[1].any() and bool(S[0].isfinite().all())


@quiet
def test_nothing_passes_over_the_matrix_besides(spd, kernel, passes, monkeypatch):
    """A kernel that does nothing, so that what is seen is what else is queued: no T, no norm of its own."""
    A = _skewed(spd, 70, torch.float32)
    matrix = _scaled(A, Fraction(-1), Damping(), "none")
    kernel(True)
    launched = []
    monkeypatch.setattr(_symmetric_part, "_launched", _nothing(launched))
    with passes(A.numel()) as mode:
        for dtype in (torch.float32, torch.float64):
            matrix.matrix(dtype)
    assert set(mode.found) <= {"empty", "detach"}, mode.found
    assert launched == [(torch.float32, True), (torch.float64, False)]
    assert not any(name.startswith("T ") for name in matrix.ws._buffers)


def _nothing(launched):
    """In place of the launch: what is asked for."""

    def launch(A, factor, S, cut, norms, small, ws):
        launched.append((S.dtype, norms))
        return (torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)) if norms else None

    return launch


def test_the_unit_is_found_once(spd):
    """ldexp by ldexp: one where the scale is set, none for each dtype; the same numbers in both."""
    A = _skewed(spd, 20, torch.float32)
    matrix = _scaled(A, Fraction(-1), Damping(), "none")
    matrix.matrix(torch.float32)

    class Calls(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.found += func.overloadpacket.__name__ in ("ldexp", "reciprocal")
            return func(*args, **(kwargs or {}))

    with Calls() as calls:
        matrix.normalise(wholly=True)
        wide = matrix.matrix(torch.float64)
    assert calls.found == 2
    torch.testing.assert_close(matrix.matrix(torch.float32).double(), wide, rtol=3e-7, atol=1e-9)

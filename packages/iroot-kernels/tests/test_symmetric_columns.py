"""The factors of an iteration that has acted on B, applied to other columns; under the interpreter, and on a device."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_kernels import SymmetricRoot, Workspace
from iroot_kernels import _symmetric_root as module

quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
SIZES = {"fp16": 2e-3, "fp16x3": 2e-6}


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


def _applied(steps, p, power, A, V):
    """The polynomials of the eigenvalues, in float64."""
    values, Q = torch.linalg.eigh(A.double())
    y = values.numpy()
    x = np.ones_like(y)
    for q in steps:
        x, y = x * q(y) ** power, y * q(y) ** p
    return Q @ (torch.from_numpy(x).unsqueeze(-1) * (Q.mT @ V))


@quiet
@pytest.mark.parametrize(
    ("name", "n", "batch", "p", "power", "degrees"),
    [
        ("fp16x3", 65, 1, 1, 1, (1, 2)),
        pytest.param("fp16", 130, 1, 1, 1, (2, 5), marks=pytest.mark.slow),
        pytest.param("fp16x3", 40, 2, 3, 2, (2, 5), marks=pytest.mark.slow),
        ("fp16", 40, 2, 3, 2, (1, 2)),
    ],
)
def test_it_is_what_was_applied(device, spd, schedule, name, n, batch, p, power, degrees):
    """The same bits for the same columns; for others, of any number, scale and dtype, what the polynomials say."""
    steps, A = schedule(p, 12.0, degrees)[:2], spd(n, 10.0, batch).float()
    B = torch.randn(batch, n, 3, generator=torch.Generator().manual_seed(0))
    root = SymmetricRoot(steps, p=p, power=power, precision=name, workspace=_Poisoned())
    first = root(A.to(device), B.to(device)).clone()
    square, columns = root.products.square, root.products.columns
    assert torch.equal(root.again(B.to(device)), first)
    for k, scale, dtype in ((1, 1e-30, torch.float32), (64, 1e30, torch.float32), (70, 1e-60, torch.float64)):
        V = torch.randn(batch, n, k, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        expected = _applied(steps, p, power, A, V)
        # A float64 V may be far below float32's numbers, if the answer is not wanted in them.
        W = root.again((V * scale).to(dtype).mT.contiguous().mT.to(device))
        if scale < 1e-40:
            assert torch.equal(W, torch.zeros_like(W))
            continue
        assert W.shape == V.shape and W.dtype is torch.float32
        gap = torch.dist(W.double().cpu() / scale, expected) / expected.norm()
        assert gap <= SIZES[name]
    assert torch.equal(root.X, first) and torch.equal(root.again(B.to(device)), first)
    assert root.products.square == square
    assert root.products.columns == columns + root.program.thin_products * (3 + 1 + 64 + 70 + 3)


@quiet
def test_nothing_is_allocated_twice(device, spd, schedule):
    ws, A = Workspace(), spd(65, 10.0).float().to(device)
    root = SymmetricRoot(schedule(1, 12.0, (1, 2))[:2], p=1, precision="fp16", workspace=ws)
    root(A, torch.ones(1, 65, 3, device=device))
    for k in (3, 70):
        held = None
        for _ in range(2):
            root.again(torch.ones(1, 65, k, dtype=torch.float64, device=device))
            found = {name: buffer.data_ptr() for name, buffer in ws._buffers.items()}
            assert held is None or found == held
            held = found


@quiet
def test_what_has_no_columns_and_what_has_too_many(device, spd, schedule, monkeypatch):
    A = spd(65, 10.0).float().to(device)
    root = SymmetricRoot(schedule(1, 12.0, (1, 2))[:2], p=1, precision="fp16")
    root(A, torch.ones(1, 65, 3, device=device))
    assert root.again(torch.empty(1, 65, 0, device=device)).shape == (1, 65, 0)
    monkeypatch.setattr(module, "MOST", 128 * 200)
    with pytest.raises(ValueError, match="300 columns"):
        root.again(torch.ones(1, 65, 300, device=device))

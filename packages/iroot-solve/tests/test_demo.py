"""The demo at a reduced size; `python -m nox -s demo` runs all of it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", exc_type=ImportError)
pytest.importorskip("matplotlib", exc_type=ImportError)
SCRIPT = Path(__file__).parents[3] / "docs" / "examples" / "demo.py"
if not SCRIPT.exists():
    pytest.skip("the demo belongs to the repository, not to a wheel", allow_module_level=True)


@pytest.fixture(scope="module")
def demo():
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["demo"]


@pytest.fixture(scope="module")
def trained(demo):
    return demo.train(width=128, steps=30)


def test_the_covariance_is_that_of_the_digits(demo):
    C, x = demo.digits_covariance()
    assert C.shape == (61, 61) and x.shape == (61, 1797)
    # numpy sums in another order: n·u of the largest entry
    assert torch.allclose(C, torch.cov(x), rtol=0, atol=1797 * 2.0**-53 * float(C.abs().max()))
    assert float(C.diagonal().min()) > 0


def test_whitening_makes_it_white(demo):
    wide, narrow = demo.whitening()
    assert wide.good and narrow.good
    assert demo.whiteness(wide.result.Z) <= 2 * wide.tol + len(wide.task.A) ** 0.5 * wide.tol**2


def test_training_learns_and_repeats(demo, trained):
    layers, accuracy = trained
    again, _ = demo.train(width=128, steps=30)
    assert accuracy > 0.5  # chance is 0.1
    # Threaded products may sum in another order, and training amplifies a rounding: room for a thousandfold.
    pairs = [(x, y) for a, b in zip(layers, again, strict=True) for x, y in ((a.L, b.L), (a.R, b.R))]
    assert all(float(torch.dist(a, b)) <= 1e3 * 2.0**-24 * float(a.norm()) for a, b in pairs)
    assert [layer.W.shape for layer in layers] == [(128, 64), (128, 128), (10, 128)]


def test_blocks_are_the_blocks_of_the_gradient(demo, trained):
    layer = trained[0][1]
    blocks = layer.blocks()
    assert blocks.shape == (4, 64, 64)
    assert torch.equal(blocks[1], layer.G[:64, 64:]) and torch.equal(blocks[2], layer.G[64:, :64])


def test_preconditioned_gradients_and_the_report(demo, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "train", lambda: trained)
    monkeypatch.setattr(demo, "REPEATS", 1)
    assert demo.main(["--out", str(tmp_path / "picture")]) == 0
    printed = capsys.readouterr().out
    for name in ("digits, float64", "layer 1: L", "layer 3: R", "layer 2: 4 blocks"):
        assert name in printed
    for name in ("demo.svg", "demo.png"):
        assert (tmp_path / "picture" / name).stat().st_size > 10_000 and name in printed


def test_the_exact_power_undoes_itself(demo):
    A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    task = demo.Task("", A, torch.eye(2), 2, ridge_rel=0.5)
    Z, values = demo.exact(task)
    damped = A.double() + 1.75 * torch.eye(2, dtype=torch.float64)
    assert torch.allclose(Z @ damped @ Z, torch.eye(2, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(values, torch.linalg.eigvalsh(damped))
    assert demo.error_of(demo.by_eigh(task), Z) < 1e-6

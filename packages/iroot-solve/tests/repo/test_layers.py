"""Which package may import which: the contracts of pyproject.toml hold, and would not hold after a slip."""

import os
import shutil
import subprocess
import sys

import pytest


def lint_imports(root, packages):
    sources = os.pathsep.join(str(root / "packages" / package / "src") for package in packages)
    environment = {**os.environ, "PYTHONPATH": sources}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    options = ["--no-cache", "--config", str(root / "pyproject.toml")]
    return subprocess.run([*command, *options], cwd=root, env=environment, capture_output=True, text=True)


@pytest.fixture
def copy(root, tmp_path):
    """A copy of the sources and settings, to be spoilt."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    for source in (root / "packages").glob("*/src"):
        shutil.copytree(source, tmp_path / source.relative_to(root))
    return tmp_path


def test_contracts_hold(root, noxfile):
    outcome = lint_imports(root, noxfile.PACKAGES)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("package", "line", "contract"),
    [
        ("iroot-kernels", "import iroot_precond", "building blocks never import"),
        ("iroot-precond", "from iroot_solve import solve_spd", "facade over solver"),
        ("iroot-coeffs", "import torch", "coeffs needs numpy only"),
        ("iroot-kernels", "import scipy", "kernels and precond need"),
        ("iroot-solve", "import fast_iroot", "facade over solver"),
    ],
)
def test_a_slip_is_seen(copy, noxfile, package, line, contract):
    module = noxfile.PACKAGES[package][0]
    planted = copy / "packages" / package / "src" / module / "_planted.py"
    planted.write_text(f"def late():\n    {line}\n", "utf-8")
    outcome = lint_imports(copy, noxfile.PACKAGES)
    assert outcome.returncode != 0
    broken = [row for row in outcome.stdout.splitlines() if row.endswith("BROKEN")]
    assert [row for row in broken if contract in row], outcome.stdout

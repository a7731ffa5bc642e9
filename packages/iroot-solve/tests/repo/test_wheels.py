"""A wheel holds its packages, their type marker, their data and the licence, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ["iroot-coeffs", "iroot-kernels", "iroot-precond", "iroot-solve"]


@pytest.fixture(scope="module")
def wheels(noxfile, tmp_path_factory) -> dict[str, Path]:
    """Each package's freshly built wheel; the build backend is that of the environment."""
    target = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, "-m", *noxfile.wheel_command(PACKAGES, target), "--no-build-isolation"]
    subprocess.run(command, check=True, cwd=target)
    return {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in target.glob("*.whl")}


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def text(wheel: Path, ending: str) -> str:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(ending)]
        return archive.read(name).decode()


@pytest.mark.parametrize("package", PACKAGES)
def test_holds_the_whole_source_and_nothing_else(wheels, noxfile, root, package):
    source = root / "packages" / package / "src"
    files = [path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {path.relative_to(source).as_posix() for path in files}
    held = {name for name in names(wheels[package]) if ".dist-info/" not in name}
    assert held == expected
    assert {f"{module}/py.typed" for module in noxfile.PACKAGES[package]} <= held
    assert {name.split("/")[0] for name in held} == set(noxfile.PACKAGES[package])
    assert not [name for name in held if Path(name).name.startswith("test_") or "tests" in Path(name).parts]


@pytest.mark.parametrize("package", PACKAGES)
def test_carries_licence_and_readme(wheels, root, package):
    licence = (root / "LICENSE").read_text("utf-8")
    assert text(wheels[package], ".dist-info/licenses/LICENSE") == licence
    assert licence.startswith("MIT License")
    metadata = text(wheels[package], ".dist-info/METADATA")
    assert "License-Expression: MIT" in metadata
    assert "Requires-Python: >=3.10" in metadata
    assert (root / "packages" / package / "README.md").read_text("utf-8").strip() in metadata


def test_coeffs_ships_its_table(wheels):
    assert [name for name in names(wheels["iroot-coeffs"]) if name.endswith(".npz")]


def test_solve_installs_the_command(wheels):
    assert "iroot = iroot_solve.cli:main" in text(wheels["iroot-solve"], "entry_points.txt")

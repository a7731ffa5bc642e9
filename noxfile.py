"""Sessions of the repository: ``nox -l`` lists them, ``nox -s NAME`` runs one.

Everything that makes a package stand alone is decided here, in plain functions over a folder, so that
the sessions and the tests of the repository use the same code.
"""

from __future__ import annotations

import ast
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nox
from nox.project import load_toml

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
COVERAGE_FLOOR = 95  # per cent of the lines of src

# Each wheel and the packages that are imported from it.
PACKAGES: dict[str, tuple[str, ...]] = {
    "iroot-coeffs": ("iroot_coeffs",),
    "iroot-kernels": ("iroot_kernels",),
    "iroot-precond": ("iroot_precond",),
    "iroot-solve": ("iroot_solve", "fast_iroot"),
}
TEST_NEEDS = ("pytest", "hypothesis", "mpmath", "scipy", "sybil")
# Its interpreter runs the kernels on a CPU.
KERNEL_TEST_NEEDS = ("triton; platform_system == 'Linux'",)
# For the tests of `iroot bench`.
BENCH_TEST_NEEDS = ("matplotlib",)
# What the sessions that test wheels leave out: `tests` runs it on the same code.
QUICK = ("-m", "not slow")
SLOW = ("-m", "slow")
REPO_TEST_NEEDS = ("pytest-cov", "nox", "hatchling", "import-linter")

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests", "lint", "typecheck"]

# Idle OpenMP threads of two torch processes side by side would spin and starve one another.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

each_package = nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])


def metadata(package: str, root: Path = ROOT) -> dict[str, Any]:
    """The ``[project]`` table of a package."""
    project: dict[str, Any] = load_toml(root / "packages" / package / "pyproject.toml")["project"]
    return project


def requirements(package: str, root: Path = ROOT) -> list[str]:
    """The declared dependencies of a package, without its extras."""
    return list(metadata(package, root)["dependencies"])


def extra(package: str, name: str, root: Path = ROOT) -> list[str]:
    """The requirements of an extra of a package."""
    return list(metadata(package, root)["optional-dependencies"][name])


def declared_siblings(package: str, root: Path = ROOT) -> set[str]:
    """The packages of this repository that a package declares as its dependencies."""
    return {name for name in PACKAGES for need in requirements(package, root) if need.startswith(f"{name}==")}


def imports_of(source: str) -> Iterator[str]:
    """The top-level names that a module's text imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def undeclared_imports(package: str, root: Path = ROOT) -> dict[str, set[str]]:
    """Which modules of a package's src and tests import a sibling that it does not declare.

    An import inside a function that no test reaches is found too; one made from a string is not, that is what
    the environment of ``alone`` is for.
    """
    allowed = {package, *declared_siblings(package, root)}
    forbidden = {module for name, modules in PACKAGES.items() if name not in allowed for module in modules}
    base = root / "packages" / package
    found = {
        path.relative_to(base).as_posix(): set(imports_of(path.read_text("utf-8"))) & forbidden
        for folder in ("src", "tests", "benchmarks")
        for path in sorted((base / folder).rglob("*.py"))
    }
    return {path: names for path, names in found.items() if names}


def wheel_command(packages: list[str], target: Path, root: Path = ROOT) -> list[str]:
    """The pip command that builds fresh wheels of some packages into a folder."""
    folders = [str(root / "packages" / package) for package in packages]
    return ["pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), *folders]


def lay_out(packages: list[str], target: Path, root: Path = ROOT) -> Path:
    """Copy what the tests of some packages need, and no source, to a folder outside the tree."""
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(root / name, target)
    leave = shutil.ignore_patterns("repo", "__pycache__")
    for package in packages:
        origin, copy = root / "packages" / package, target / "packages" / package
        shutil.copytree(origin / "tests", copy / "tests", ignore=leave)
        if (origin / "benchmarks").is_dir():
            shutil.copytree(origin / "benchmarks", copy / "benchmarks", ignore=leave)
        shutil.copy(origin / "README.md", copy)
    return target


def with_siblings(package: str, root: Path = ROOT) -> list[str]:
    """A package and the siblings that it declares."""
    return [package, *sorted(declared_siblings(package, root))]


def floors(root: Path = ROOT) -> list[str]:
    """The oldest torch and numpy that the metadata of the packages allow, as exact requirements."""
    needs = {need for package in PACKAGES for need in requirements(package, root)}
    return sorted(need.replace(">=", "==") for need in needs if need.startswith(("torch>=", "numpy>=")))


def install(session: nox.Session, *what: str) -> None:
    """Install under the constraints, without bytecode: most of torch is never imported."""
    session.install("--no-compile", "-c", str(CONSTRAINTS), *what)


def install_tree(session: nox.Session, *needs: str) -> None:
    """Install the four packages from the tree, editable."""
    folders = [argument for package in PACKAGES for argument in ("-e", str(ROOT / "packages" / package))]
    install(session, *folders, *needs)


def build_wheels(session: nox.Session, packages: list[str]) -> list[str]:
    """Build fresh wheels of some packages and return their paths."""
    wheels = Path(session.create_tmp(), "wheels")
    shutil.rmtree(wheels, ignore_errors=True)
    session.run(*wheel_command(packages, wheels))
    return sorted(str(wheel) for wheel in wheels.glob("*.whl"))


def install_wheels(session: nox.Session, packages: list[str], *needs: str) -> None:
    """Install fresh wheels of some packages; each must import, and no other sibling may come along."""
    install(session, *build_wheels(session, packages), *needs)
    script = "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    installed = set(str(session.run("python", "-c", script, silent=True)).split()) & set(PACKAGES)
    if installed != set(packages):
        session.error(f"installed {sorted(installed)}, declared {sorted(packages)}")
    modules = ", ".join(module for package in packages for module in PACKAGES[package])
    session.run("python", "-c", f"import {modules}")


def pytest_outside(session: nox.Session, packages: list[str], *arguments: str) -> None:
    """Run pytest on copies of the tests in a folder outside the tree."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(packages, Path(folder))
        with session.chdir(folder):
            session.run("python", "-m", "pytest", *arguments, *session.posargs)


def benchmark_folders(packages: list[str]) -> list[str]:
    """The benchmark folders of those packages that have one, relative to the root."""
    folders = [Path("packages", package, "benchmarks") for package in packages]
    return [folder.as_posix() for folder in folders if (ROOT / folder).is_dir()]


@nox.session
def tests(session: nox.Session) -> None:
    """All tests of the four packages and of the repository, every example of the docs, and the quick ones' coverage."""
    install_tree(
        session, *TEST_NEEDS, *KERNEL_TEST_NEEDS, *BENCH_TEST_NEEDS, *REPO_TEST_NEEDS, *extra("iroot-solve", "rivals")
    )
    pytest = ("python", "-m", "pytest")
    if session.posargs:
        session.run(*pytest, *session.posargs)
        return
    # Watched line by line, tests take up to twice as long; the slow ones sweep numbers through lines seen before.
    session.run(*pytest, *QUICK, "--cov", f"--cov-fail-under={COVERAGE_FLOOR}")
    session.run(*pytest, *SLOW)


@nox.session
@each_package
def alone(session: nox.Session, package: str) -> None:
    """One wheel with its declared needs only, tested outside the tree."""
    if found := undeclared_imports(package):
        session.error(f"{package} does not declare what it imports: {found}")
    needs = {"iroot-kernels": KERNEL_TEST_NEEDS, "iroot-solve": BENCH_TEST_NEEDS}.get(package, ())
    install_wheels(session, with_siblings(package), *TEST_NEEDS, *needs)
    pytest_outside(session, [package], *QUICK, "packages")


@nox.session
def combined(session: nox.Session) -> None:
    """The four wheels together, tested outside the tree."""
    install_wheels(session, list(PACKAGES), *TEST_NEEDS, *KERNEL_TEST_NEEDS, *BENCH_TEST_NEEDS)
    pytest_outside(session, list(PACKAGES), *QUICK, "packages")


@nox.session
@each_package
def bench_alone(session: nox.Session, package: str) -> None:
    """The benchmarks of one wheel with its declared needs only."""
    install_wheels(session, with_siblings(package), *TEST_NEEDS, "pytest-benchmark")
    pytest_outside(session, [package], "--benchmark-only", *benchmark_folders([package]))


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks of the four wheels together."""
    install_wheels(session, list(PACKAGES), *TEST_NEEDS, "pytest-benchmark")
    pytest_outside(session, list(PACKAGES), "--benchmark-only", *benchmark_folders(list(PACKAGES)))


@nox.session
def lint(session: nox.Session) -> None:
    """Style of the code, and which package may import which."""
    install(session, "ruff", "import-linter")
    session.run("ruff", "check", ".")
    sources = os.pathsep.join(str(ROOT / "packages" / package / "src") for package in PACKAGES)
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": sources})


@nox.session
def typecheck(session: nox.Session) -> None:
    """Types of the four packages, strictly."""
    needs = {need for package in PACKAGES for need in requirements(package)}
    install(session, "mypy", "matplotlib", *sorted(need for need in needs if not need.startswith("iroot-")))
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, strictly; ``-- serve`` shows it while it is edited."""
    install(session, "mkdocs-material", "mkdocstrings[python]", "ruff")
    session.run("mkdocs", *(session.posargs or ["build"]), "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def demo(session: nox.Session) -> None:
    """The main job on real data: whitening, and the preconditioned gradients of a small network."""
    install_tree(session, "scikit-learn", "matplotlib")
    session.run("python", "docs/examples/demo.py", *session.posargs)


@nox.session
def gallery(session: nox.Session) -> None:
    """The table of hard spectra: true error, estimate, status and products for each p and dtype."""
    install_tree(session, "mpmath")
    session.run("python", "-m", "iroot_solve.gallery", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant one lie at a time in a copy of the sources and see the tests turn red (some minutes)."""
    install_tree(session, *TEST_NEEDS)
    session.run("python", "packages/iroot-solve/tests/repo/mutants.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """The four wheels, into dist."""
    session.run(*wheel_command(list(PACKAGES), ROOT / "dist"))


@nox.session
def lowest(session: nox.Session) -> None:
    """All tests of the packages with the oldest torch and numpy allowed; by hand before a release."""
    session.install(*build_wheels(session, list(PACKAGES)), *TEST_NEEDS, *floors())
    pytest_outside(session, list(PACKAGES), "packages")

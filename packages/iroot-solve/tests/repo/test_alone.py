"""The session ``alone`` turns red on a sibling that a package imports and does not declare.

The same import works in an environment that holds all four packages, so no other run would notice it.
"""

import os
import shutil
import subprocess
import sys

import pytest

STATIC = "import iroot_precond\n"
HIDDEN = "import importlib\n\nimportlib.import_module('iroot_precond')\n"


@pytest.fixture
def copy(root, tmp_path):
    """A copy of what the sessions read, to be spoilt."""
    for name in ("noxfile.py", "pyproject.toml", "conftest.py"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / ".ci", tmp_path / ".ci")
    leave = shutil.ignore_patterns("repo", "__pycache__")
    shutil.copytree(root / "packages", tmp_path / "packages", ignore=leave)
    return tmp_path


def plant(copy, package, lines):
    """Put lines at the end of a package's ``__init__``, and return its source folder."""
    source = copy / "packages" / package / "src"
    initial = source / package.replace("-", "_") / "__init__.py"
    initial.write_text(initial.read_text("utf-8") + lines, "utf-8")
    return source


def run_alone(copy, package):
    """Run the session itself on the copy, as a process that knows nothing of this one."""
    ours = ("COV", "NOX", "PYTEST", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    command = [sys.executable, "-m", "nox", "-f", str(copy / "noxfile.py"), "-s", f"alone({package})"]
    outcome = subprocess.run(command, cwd=copy, env=kept, capture_output=True, text=True)
    return outcome.returncode, outcome.stdout + outcome.stderr


def imports_where_all_are_installed(source, module):
    """Whether the spoilt package imports beside its siblings, and is the one imported."""
    environment = {**os.environ, "PYTHONPATH": str(source)}
    script = f"import sys, {module}; assert 'iroot_precond' in sys.modules; print({module}.__file__)"
    outcome = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    return outcome.returncode == 0 and str(source) in outcome.stdout


def test_packages_declare_what_they_import(noxfile):
    assert {package: noxfile.undeclared_imports(package) for package in noxfile.PACKAGES} == dict.fromkeys(
        noxfile.PACKAGES, {}
    )


@pytest.mark.parametrize("lines", [STATIC, "def late():\n    from iroot_precond import _bounds\n"])
def test_an_undeclared_import_is_named(copy, noxfile, lines):
    plant(copy, "iroot-kernels", lines)
    found = noxfile.undeclared_imports("iroot-kernels", copy)
    assert found == {"src/iroot_kernels/__init__.py": {"iroot_precond"}}
    assert noxfile.undeclared_imports("iroot-solve", copy) == {}


def test_alone_is_red_while_the_combined_environment_is_green(copy):
    source = plant(copy, "iroot-kernels", STATIC)
    assert imports_where_all_are_installed(source, "iroot_kernels")
    code, output = run_alone(copy, "iroot-kernels")
    assert code != 0
    assert "iroot-kernels does not declare what it imports" in output


@pytest.mark.slow
def test_alone_is_red_where_only_running_shows_it(copy, noxfile):
    # iroot-coeffs, because its environment is made in seconds: no torch.
    source = plant(copy, "iroot-coeffs", HIDDEN)
    assert noxfile.undeclared_imports("iroot-coeffs", copy) == {}
    assert imports_where_all_are_installed(source, "iroot_coeffs")
    code, output = run_alone(copy, "iroot-coeffs")
    assert code != 0
    assert "No module named 'iroot_precond'" in output

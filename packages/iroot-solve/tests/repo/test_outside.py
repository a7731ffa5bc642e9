"""What the tests of a package see when it stands alone: its tests and its README, no source, and nothing slow."""

import ast
import importlib
import re

import pytest

PACKAGES = ["iroot-coeffs", "iroot-kernels", "iroot-precond", "iroot-solve"]


def slow(*nodes):
    """Whether any of these decorators, or values of `pytestmark`, is the mark."""
    return any(re.search(r"\bmark\.slow\b", ast.unparse(node)) for node in nodes)


def quick(text):
    """A module without the tests that are marked `slow`."""
    body = ast.parse(text).body
    marks = [line.value for line in body if isinstance(line, ast.Assign) and ast.unparse(line.targets) == "pytestmark"]
    kept = [node for node in body if not (isinstance(node, ast.FunctionDef) and slow(*node.decorator_list))]
    return "" if slow(*marks) else ast.unparse(kept)


def words(texts):
    return set(re.findall(r"\w+", " ".join(texts)))


def test_layout_holds_tests_and_no_source(noxfile, tmp_path):
    noxfile.lay_out(list(noxfile.PACKAGES), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"pyproject.toml", "conftest.py", "packages"}
    for package in noxfile.PACKAGES:
        names = {path.name for path in (tmp_path / "packages" / package).iterdir()}
        assert {"tests", "README.md"} <= names <= {"tests", "README.md", "benchmarks"}
    assert not (tmp_path / "packages" / "iroot-solve" / "tests" / "repo").exists()


def test_every_package_has_tests_and_benchmarks(noxfile, root):
    for package in noxfile.PACKAGES:
        assert list((root / "packages" / package / "tests").rglob("test_*.py")), package
    assert len(noxfile.benchmark_folders(list(noxfile.PACKAGES))) == len(noxfile.PACKAGES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def test_a(): pass", {"test_a"}),
        ("pytestmark = pytest.mark.slow\ndef test_a(): pass", set()),
        ("pytestmark = [pytest.mark.slow, pytest.mark.gpu]\ndef test_a(): pass", set()),
        ("pytestmark = pytest.mark.slower\ndef test_a(): pass", {"test_a"}),
        ("@pytest.mark.slow\n@given(x=1)\ndef test_a(): pass\ndef test_b(): pass", {"test_b"}),
    ],
)
def test_a_mark_is_found_wherever_it_stands(text, found):
    assert words([quick(text)]) & {"test_a", "test_b"} == found


@pytest.mark.parametrize("package", PACKAGES)
def test_wheels_are_tested_with_most_tests_and_every_public_name_that_any_test_uses(noxfile, root, package):
    """What `alone` and `combined` leave out is little."""
    assert noxfile.QUICK == ("-m", "not slow")
    texts = [path.read_text("utf-8") for path in (root / "packages" / package / "tests").glob("test_*.py")]
    everything, kept = words(map(ast.unparse, map(ast.parse, texts))), words(map(quick, texts))
    tests = {word for word in everything if word.startswith("test_")}
    assert len(tests & kept) >= 0.9 * len(tests) > 0
    public = {name for module in noxfile.PACKAGES[package] for name in importlib.import_module(module).__all__}
    assert public & everything - kept == set()

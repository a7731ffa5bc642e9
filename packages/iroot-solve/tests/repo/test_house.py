"""Limits on size and names that keep the code readable."""

import ast
import statistics
import subprocess

import pytest

TOP = {
    *(".ci", ".gitignore", "LICENSE", "conftest.py", "mkdocs.yml", "noxfile.py", "pyproject.toml"),
    *("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"),
    *("benchmark_results", "docs", "packages"),
}
PACKAGE = {"LICENSE", "README.md", "benchmarks", "pyproject.toml", "src", "tests"}
CATCH_ALL = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}


def code_files(root):
    return [root / "noxfile.py", root / "conftest.py", *sorted((root / "packages").glob("*/src/**/*.py"))]


def body_lengths(path):
    """Lines of each function's body without its docstring: yields (where, lines)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            yield f"{path.name}:{node.lineno} {node.name}", lines


def test_functions_are_short(root):
    lengths = {where: lines for path in code_files(root) for where, lines in body_lengths(path)}
    assert {where: lines for where, lines in lengths.items() if lines > 60} == {}
    assert statistics.median(lengths.values()) <= 10
    assert sum(lines <= 30 for lines in lengths.values()) >= 0.9 * len(lengths)


def test_files_are_short(root):
    files = [*code_files(root), *(root / "packages").glob("*/tests/**/*.py")]
    long = {path.name: count for path in files if (count := len(path.read_text("utf-8").splitlines())) > 400}
    assert long == {}


def test_no_module_is_a_catch_all(root):
    assert [path for path in code_files(root) if path.stem.strip("_") in CATCH_ALL] == []


def test_nothing_unexpected_at_the_top(root):
    if not (root / ".git").exists():
        pytest.skip("not a checkout")
    listing = subprocess.run(["git", "ls-files"], cwd=root, check=True, capture_output=True, text=True).stdout
    tracked = [line.split("/") for line in listing.splitlines()]
    assert {parts[0] for parts in tracked} <= TOP
    assert {parts[2] for parts in tracked if parts[0] == "packages"} <= PACKAGE


def test_licences_agree(root, noxfile):
    licence = (root / "LICENSE").read_text("utf-8")
    for package in noxfile.PACKAGES:
        assert (root / "packages" / package / "LICENSE").read_text("utf-8") == licence

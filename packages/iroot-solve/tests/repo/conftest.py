"""Fixtures for the tests of the repository itself; they run in the session ``tests``, from the tree."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).resolve().parents[4]


@pytest.fixture(scope="session")
def noxfile(root: Path) -> ModuleType:
    """The module that defines the sessions."""
    spec = importlib.util.spec_from_file_location("repository_noxfile", root / "noxfile.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

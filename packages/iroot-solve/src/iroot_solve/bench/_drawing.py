"""Modules that draw, where matplotlib is installed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional(name: str) -> ModuleType | None:
    """The module of this package that draws something; `None` without matplotlib."""
    try:
        return import_module(f"iroot_solve.bench.{name}")
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "matplotlib":
            raise
        return None

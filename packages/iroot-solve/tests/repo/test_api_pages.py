"""Every public name has its place on the API page of its package, once, and nothing else has."""

import importlib
import re

import pytest

PAGES = {
    "coeffs": ["iroot_coeffs"],
    "kernels": ["iroot_kernels"],
    "precond": ["iroot_precond"],
    "solve": ["iroot_solve", "iroot_solve.gallery"],
}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_every_public_name_once(root, page):
    text = (root / "docs" / "api" / f"{page}.md").read_text("utf-8")
    listed = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    expected = [f"{module}.{name}" for module in PAGES[page] for name in importlib.import_module(module).__all__]
    assert sorted(listed) == sorted(expected)
    assert "**Alone**" in text and "**depends** on" in text.replace("\n", " ")

"""Every public name is shown at work, with its shapes, and what works says what that costs."""

import importlib
import inspect
import re

import pytest

PAGES = {
    "coeffs": ("iroot_coeffs",),
    "kernels": ("iroot_kernels",),
    "precond": ("iroot_precond",),
    "solve": ("iroot_solve", "iroot_solve.gallery"),
}
NAMES = [
    (page, module, name)
    for page, modules in PAGES.items()
    for module in modules
    for name in importlib.import_module(module).__all__
]
# What an array looks like in a docstring: dimensions in brackets, "scalar", or another argument that it is like.
SHAPE = r"\((?:\.\.\.|b|n|n_i|T|S|k|m|d|degree)(?:, ?[^)]*)?\)|\b[Ll]ike\b|broadcasts?\b"
COST = r"\b[Cc]osts?\b|\bproducts?\b|\bflops\b|\bformed\b"
# They multiply, factorise or iterate.
WORK = {
    *("plan", "chebyshev_expansion", "increment", "apply_polynomial", "symmetric_rank_k"),
    *("lanczos_apply", "golub_kahan_apply", "chebyshev_apply", "cayley_apply", "chebyshev_series", "cayley_series"),
    *("inverse_proot_pe_quadratic_coupled", "inverse_proot_pe_quadratic_uncoupled"),
    *("upper_bound", "lanczos", "lanczos_bound", "power_guess", "ritz_extremes", "precond_gram_spd"),
    *("solve_spd", "solve_gram_spd", "solve_nonspd", "orthogonalize", "hybrid_pe_nsrc_solve"),
    *("apply_inverse_root_auto", "apply_inverse_root_gram_spd", "apply_inverse_root_gram_rhs_spd"),
}
# As another function, which its docstring names; or of any shape.
REFERS = {"inverse_proot_pe_quadratic_uncoupled", "precond_gram_dual_spd", "relative_error"}


def the(module, name):
    return getattr(importlib.import_module(module), name)


def blocks(root, page):
    """The code of a page."""
    text = (root / "docs" / "api" / f"{page}.md").read_text("utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


def is_said_in_words(found):
    """Exceptions, and what only comes back from a function that has an example."""
    return inspect.isclass(found) and (
        issubclass(found, BaseException) or re.search(r"(Result|Stats|Run|Probe|Schedule|Entry)$", found.__name__)
    )


@pytest.mark.parametrize(("page", "module", "name"), NAMES)
def test_it_has_a_docstring_and_an_example(root, page, module, name):
    found = the(module, name)
    if not callable(found):
        source = inspect.getsource(importlib.import_module(module))
        assert name in source  # a constant: its page says what it is
        return
    assert inspect.getdoc(found), f"{name} has no docstring"
    if is_said_in_words(found):
        return
    shown = ">>>" in inspect.getdoc(found) or re.search(rf"\b{name}\b", blocks(root, page))
    assert shown, f"{name}: add an example to its docstring or to docs/api/{page}.md"


@pytest.mark.parametrize(("page", "module", "name"), NAMES)
def test_an_example_is_shown_as_code(page, module, name):
    """Under any other heading the site takes ">>>" for a quotation and "[a, b]" for a link."""
    doc = inspect.getdoc(the(module, name)) or ""
    before, found, _ = doc.partition(">>>")
    assert not found or before.rstrip().endswith("Examples:")


@pytest.mark.parametrize(("page", "module", "name"), NAMES)
def test_no_asterisk_is_taken_for_italics(page, module, name):
    """The exact Z is Z⋆: two asterisks in a paragraph vanish from the site."""
    text, _, _ = (inspect.getdoc(the(module, name)) or "").partition(">>>")
    assert not re.search(r"[A-Za-z]\*[^*`]*[A-Za-z]\*", re.sub(r"`[^`]*`", "", text))


@pytest.mark.parametrize(("page", "module", "name"), NAMES)
def test_it_says_its_shapes(page, module, name):
    found = the(module, name)
    if inspect.isfunction(found) and name not in REFERS and "Tensor" in str(inspect.signature(found)):
        assert re.search(SHAPE, inspect.getdoc(found)), f"{name}: its docstring has no shape"


@pytest.mark.parametrize("name", sorted(WORK))
def test_it_says_its_cost(name):
    found = next(the(module, public) for _, module, public in NAMES if public == name)
    assert re.search(COST, inspect.getdoc(found)), f"{name}: its docstring does not say what it costs"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_begins_with_what_it_is_alone_and_what_it_depends_on(root, page):
    text = (root / "docs" / "api" / f"{page}.md").read_text("utf-8")
    head = text.split("## ")[0].replace("\n", " ")
    assert "**Alone**" in head and "**depends** on" in head and "```python" in head

"""What the pages point at exists: links, anchors, functions, tests, runs and pictures."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("packages/*/README.md"))]
PACKAGES = ("iroot_coeffs", "iroot_kernels", "iroot_precond", "iroot_solve", "fast_iroot")
NUMBERED = [
    page for page in PAGES if page.parent.name == "theory" and page.stem not in ("precision", "planner", "references")
]
by_path = {"ids": lambda path: path.relative_to(ROOT).as_posix()}


def prose(page):
    """The text without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Ids of headings, as Python-Markdown makes them, and of API entries."""
    text = prose(page)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\\\((.*?)\\\)", r"\1", heading) for heading in headings]
    slugs = {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in plain}
    return slugs | set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))


def resolves(name):
    """Whether a dotted name leads to a module or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part) and part not in getattr(found, "__dataclass_fields__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.fixture(scope="module")
def known_tests():
    """Names of all test functions, alone and with their file, and of the files."""
    names = set()
    for path in ROOT.glob("packages/*/tests/**/test_*.py"):
        names.add(path.stem)
        for test in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE):
            names |= {test, f"{path.name}::{test}"}
    return names


@pytest.mark.parametrize("page", [*PAGES, *READMES], **by_path)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        exists = goal.is_dir() or goal.is_file()
        if not exists or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, **by_path)
def test_names_in_code_exist(page):
    names = set(re.findall(rf"`((?:{'|'.join(PACKAGES)})[\w.]*)`", prose(page)))
    assert [name for name in sorted(names) if not resolves(name)] == []


@pytest.mark.parametrize("page", PAGES, **by_path)
def test_tests_that_are_named_exist(page, known_tests):
    named = set(re.findall(r"`((?:test_\w+\.py::)?test_\w+)`", prose(page)))
    assert [name for name in sorted(named) if name not in known_tests] == []


@pytest.mark.parametrize("page", [*PAGES, *READMES], **by_path)
def test_runs_that_are_named_exist(page):
    named = set(re.findall(r"\d{4}-\d\d-\d\d_[\w-]+", prose(page)))
    assert [run for run in sorted(named) if not (ROOT / "benchmark_results" / "runs" / run).is_dir()] == []


@pytest.mark.parametrize("page", NUMBERED, **by_path)
def test_every_statement_is_numbered_and_checked(page):
    """Each is followed by the names of its tests before the next one begins."""
    _, *statements = re.split(r"^\*\*(?=\d+\. )", page.read_text("utf-8"), flags=re.MULTILINE)
    assert [int(text.split(".")[0]) for text in statements] == list(range(1, len(statements) + 1))
    assert [text[:40] for text in statements if "*Checked by:*" not in text.replace("\n", " ")] == []


@pytest.mark.parametrize("page", PAGES, **by_path)
def test_every_page_is_in_the_navigation(page):
    assert page.relative_to(DOCS).as_posix() in (ROOT / "mkdocs.yml").read_text("utf-8")


def test_the_guide_knows_every_status_exception_and_field():
    solve = importlib.import_module("iroot_solve")
    text = (DOCS / "guide" / "results.md").read_text("utf-8")
    failures = [name for name in solve.__all__ if name.endswith(("Error", "Warning"))]
    fields = set(solve.SolveStats.__dataclass_fields__) - {"noise"}
    properties = {name for name, value in vars(solve.SolveStats).items() if isinstance(value, property)} - {"converged"}
    wanted = {status.name for status in solve.Status} | set(failures) | fields | properties
    assert [name for name in sorted(wanted) if f"`{name}`" not in text] == []


def test_nothing_is_fetched_from_elsewhere():
    """The site works without a network: no page, setting or script names another host to load from."""
    files = [*PAGES, ROOT / "mkdocs.yml", *sorted((DOCS / "assets").rglob("*.css")), *sorted(DOCS.rglob("*.svg"))]
    loads = re.compile(r"(?:src|href)=[\"']https?://|url\([\"']?https?://|^\s*- https?://|!\[[^\]]*\]\(https?://", re.M)
    assert [path.name for path in files if loads.search(path.read_text("utf-8"))] == []


@pytest.fixture(scope="module")
def draw():
    """The script of the pictures."""
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("docs_figures_draw", DOCS / "figures" / "draw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def split(svg):
    """(text without numbers and ids, numbers): the last digits of a coordinate are the processor's."""
    svg = re.sub(r"(?<=[a-z#])[0-9a-f]{10}", "ID", svg)
    return re.sub(r"-?\d+(?:\.\d+)?", "0", svg), [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", svg)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["equioscillation", "spectrum_steps", "pareto", "strategy_map"])
def test_a_picture_is_what_its_script_draws(draw, name):
    """`python docs/figures/draw.py` draws them again."""
    text, numbers = split(draw.svg(name))
    kept_text, kept_numbers = split((DOCS / "figures" / f"{name}.svg").read_text("utf-8"))
    assert text == kept_text
    assert numbers == pytest.approx(kept_numbers, abs=0.02)


def test_every_picture_is_drawn_and_shown(draw):
    drawn = {path.stem for path in (DOCS / "figures").glob("*.svg")}
    shown = {name for page in PAGES for name in re.findall(r"figures/(\w+)\.svg", page.read_text("utf-8"))}
    assert drawn == shown == {*draw.FIGURES, *draw.COPIES}


def test_a_picture_of_a_run_is_that_of_the_run(draw):
    for name, source in draw.COPIES.items():
        assert (DOCS / "figures" / f"{name}.svg").read_bytes() == source.read_bytes()

"""The page of the benchmarks' arms in the documentation is what the arms say of themselves."""

from iroot_solve.bench import _arms
from iroot_solve.bench._pages import page


def test_the_committed_page_is_that_of_the_arms(root):
    """`python -m iroot_solve.bench._pages > docs/benchmarks/arms.md` writes it again."""
    assert (root / "docs" / "benchmarks" / "arms.md").read_text("utf-8") == page()


def test_every_arm_has_its_entry():
    headings = [line.removeprefix("### ") for line in page().splitlines() if line.startswith("### ")]
    assert headings == [arm.name for arm in _arms.every_arm()]

"""The arms' pages as one page of the documentation.

python -m iroot_solve.bench._pages > docs/benchmarks/arms.md
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from iroot_solve.bench import _arms
from iroot_solve.bench._arm import Arm
from iroot_solve.bench._variants import VARIANTS
from iroot_solve.bench.rivals import RIVALS

WIDTH = 120
HEAD = """\
# Arms of the benchmarks

What `iroot bench` times, by the name that `--arms` takes and the tables show. Every arm gets the same random problems,
its set-up is outside the time, and its answer is compared with float64. What differs in what it computes, or in what it
is told, is said here. This page is made from the code, by `python -m iroot_solve.bench._pages`."""
SECTIONS = (
    ("The library", "They run by default.", _arms.OWN),
    ("Baselines", "What torch and scipy users write today. They run by default.", _arms.BASELINES),
    (
        "Rivals",
        "Registry packages, and published iterations written from their formulas. They run by default where their "
        "package is installed.",
        RIVALS,
    ),
    (
        "Variants",
        "For A/B studies of a default: one thing differs between those of a group. They run only when `--arms` names "
        "them.",
        VARIANTS,
    ),
)


def page() -> str:
    """All arms in Markdown, in the order in which `--arms` lists them."""
    parts = [HEAD]
    for title, words, arms in SECTIONS:
        parts += [f"## {title}", _filled(words), *_entries(arms)]
    return "\n\n".join(parts) + "\n"


def _entries(arms: Iterable[Arm]) -> list[str]:
    return [part for arm in arms for part in (f"### {arm.name}", _filled(arm.page + _needed(arm)))]


def _needed(arm: Arm) -> str:
    return f" Needs the package `{arm.needs}`." if arm.needs else ""


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    print(page(), end="")

"""The map of strategies: which arm wins each cell of (n, batch, k, p, κ), and how far `auto` is from it.

`benchmarks/strategy_map.py` measures. Everything here follows from the manifest and the samples of its run alone. The
winner of a cell is the fastest arm, `auto` aside, whose true error meets tol; arms are compared by median times. A
strategy that the ladder left for another one is no winner: that one has a name of its own.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from iroot_solve.bench._drawing import optional
from iroot_solve.bench._rows import AUTO, power_of_ten
from iroot_solve.bench._run import MANIFEST, REPORT, SAMPLES
from iroot_solve.bench._table import LONGEST, milliseconds
from iroot_solve.bench._table import cell as text_cell

NEAR = 1.10
# What a CPU is held to: a call of Python costs about so much, whatever it calls.
FACTOR, CONSTANT_MS = 1.05, 0.3
WANTED = 0.95
WORST = 12
FIGURE = Path("plots", "map.svg")
ALT = "Heat maps over k/n and κ for each size, batch and p: colour of the winner, time of auto over its time"
HEAD = "n|batch|k|p|κ|auto ms|took|error|winner|ms|margin|auto/winner|auto/own".split("|")
NOTE = (
    "The winner is the fastest arm, `auto` aside, whose true error, ‖Z − Z*‖_F/‖Z*‖_F against float64 and the largest "
    "of a batch, is at most tol; of the own strategies by name, those that did not fall back to another one. Times are "
    "medians of what a user waits for: the call, and the device until it is done with it. The margin is the second "
    "fastest over the winner; own is the fastest own strategy. An arm that missed tol or whose first calls took more "
    "than {slow:g} × the best was not timed again (* where one of them wins); an own strategy predicted to take more "
    "than {hopeless:g} × the best of them was not called."
)


@dataclass(frozen=True)
class Cell:
    """One problem, and what every arm made of it: a line of the samples.

    Attributes:
        n: Size.
        batch: Number of matrices; `None` for a single one.
        k: Columns of B.
        p: A^(-1/p)·B.
        kappa: Condition number, as constructed.
        took: What `auto` did: "eigh/fp64".
        estimate: What `auto` says of its error, the worst of a batch.
        errors: True error by arm; `None` where there is no finite answer.
        ms: All timed calls by arm; none of an arm that raised.
        tol: Of all arms.
        skipped: Arms of whose first calls that is the only time.
        ran: What the own strategies by name did; another one than theirs where the ladder was climbed.
        failed: What arms raised.
        predicted: Milliseconds by the tables of costs.
        left_out: Arms that were not called, for what is predicted of them.
    """

    n: int
    batch: int | None
    k: int
    p: int
    kappa: float
    took: str
    estimate: float | None
    errors: dict[str, float | None]
    ms: dict[str, list[float]]
    tol: float = 1e-4
    skipped: list[str] = field(default_factory=list)
    ran: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Where it is."""
        batch = f", batch {self.batch}" if self.batch else ""
        return f"n = {self.n}{batch}, k = {self.k}, p = {self.p}, κ = {power_of_ten(self.kappa)}"

    @property
    def place(self) -> tuple[float, ...]:
        """The same, for sorting."""
        return self.n, self.batch or 0, self.k, self.p, self.kappa

    def meets(self, arm: str) -> bool:
        """Whether an arm has a time and a true error within tol."""
        error = self.errors.get(arm)
        return bool(self.ms.get(arm)) and error is not None and error <= self.tol

    def median(self, arm: str) -> float:
        """Milliseconds; NaN without any."""
        return statistics.median(self.ms[arm]) if self.ms.get(arm) else math.nan

    def fell_back(self, arm: str) -> bool:
        """Whether another strategy gave the answer."""
        return arm in self.ran and self.ran[arm].partition("/")[0] != arm

    @property
    def ranking(self) -> list[str]:
        """The arms within tol that did it themselves, fastest first, without `auto`."""
        able = (arm for arm in self.ms if arm != AUTO and self.meets(arm) and not self.fell_back(arm))
        return sorted(able, key=self.median)

    @property
    def winner(self) -> str | None:
        """The first of them."""
        return next(iter(self.ranking), None)

    @property
    def margin(self) -> float | None:
        """Time of the second over that of the winner."""
        first, second, *_ = *self.ranking, None, None
        return self.median(second) / self.median(first) if first and second else None

    @property
    def ratio(self) -> float:
        """Time of `auto` over that of the winner: infinite where `auto` misses tol, NaN where only `auto` meets it."""
        if not self.meets(AUTO):
            return math.inf
        return math.nan if self.winner is None else self.median(AUTO) / self.median(self.winner)

    @property
    def choice(self) -> float:
        """The same over the fastest own strategy by name that meets tol; NaN where there is none."""
        own = [arm for arm in self.ranking if arm in self.ran]
        if not self.meets(AUTO):
            return math.inf
        return self.median(AUTO) / self.median(own[0]) if own else math.nan

    @property
    def near(self) -> bool:
        """Whether `auto` is within 10 % of the winner."""
        return not self.ratio > NEAR

    @property
    def on_target(self) -> bool:
        """Whether it is within 1.05 × the winner, plus 0.3 ms."""
        if self.winner is None or not self.meets(AUTO):
            return self.meets(AUTO)
        return self.median(AUTO) <= FACTOR * self.median(self.winner) + CONSTANT_MS


def line(cell: Cell) -> str:
    """A cell as one line of JSON, which knows no NaN and no infinity: they become null."""
    record = asdict(cell)
    record["estimate"] = _finite(cell.estimate)
    record["errors"] = {arm: _finite(error) for arm, error in cell.errors.items()}
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def read(path: Path) -> list[Cell]:
    """The cells of a file of samples; a last line that a kill left half-written is left out."""
    *lines, _ = path.read_text("utf-8").split("\n")
    return [Cell(**json.loads(text)) for text in lines]


def render(folder: Path) -> str:
    """Draw `plots/map.svg` of a run again and return the text of its `report.md`.

    Args:
        folder: Of the run; its manifest and `raw/samples.jsonl` are read.
    """
    manifest, cells = json.loads((folder / MANIFEST).read_text("utf-8")), read(folder / SAMPLES)
    if (drawing := optional("_map_plot")) and cells:
        (folder / FIGURE).parent.mkdir(exist_ok=True)
        (folder / FIGURE).write_bytes(drawing.svg(cells, manifest["device_name"]))
    return report(manifest, cells)


def rewrite(folder: Path) -> None:
    """The same, with the page written."""
    (folder / REPORT).write_text(render(folder), "utf-8", newline="\n")


def report(manifest: dict[str, Any], cells: Sequence[Cell]) -> str:
    """The page of a run, in Markdown.

    Args:
        manifest: Of the run; `map` holds what the samples do not say: how many cells were asked for, and the limits.
        cells: All of them.
    """
    asked = [f"**{key.capitalize()}.** {manifest[key]}" for key in ("question", "hypothesis") if manifest.get(key)]
    settings, threads = manifest["map"], manifest["threads"]
    where = f"{manifest['device_name']}, {threads} thread{'s' * (threads != 1)}, torch {manifest['versions']['torch']}"
    where += f", commit {manifest['commit']}{' with changes' * manifest['dirty']}."
    missing = settings["cells"] - len(cells)
    parts = [
        "# Map of strategies: `auto` against the fastest arm that meets tol",
        *([f"> **Interrupted.** {missing} of {settings['cells']} cells are missing."] if missing else []),
        f"{where} {verdict(cells)}" if cells else "Nothing was measured.",
        *(f"> {text}" for text in asked),
        NOTE.format(**settings),
    ]
    if cells:
        worst = [c for c in _by_distance(cells) if not c.near][:WORST]
        parts += [f"![{ALT}]({FIGURE.as_posix()})"] if optional("_map_plot") else []
        parts += ["## Worst cells", _table(worst)] if worst else []
        parts += ["## Arms", _arms(cells), "## All cells", _table(sorted(cells, key=lambda c: c.place))]
    return "\n\n".join(parts) + "\n"


def verdict(cells: Sequence[Cell]) -> str:
    """How often `auto` is where it has to be, its worst cell, and how often it is as good as the best own strategy."""
    near, target = (_share([getattr(c, name) for c in cells]) for name in ("near", "on_target"))
    worst, chosen = _by_distance(cells)[0], [c.choice for c in cells if not math.isnan(c.choice)]
    kept = "met" if sum(c.near for c in cells) >= WANTED * len(cells) else "missed"
    sentences = [
        f"`auto` is within {NEAR:.2f} × the fastest arm that meets tol = {power_of_ten(worst.tol)} in {near}, "
        f"{WANTED:.0%} wanted: {kept}; within {FACTOR} × plus {CONSTANT_MS} ms in {target}; "
        f"worst: {worst.name} ({_times(worst.ratio)})."
    ]
    if chosen:
        share = _share([ratio <= NEAR for ratio in chosen])
        sentences.append(f"It is within {NEAR:.2f} × the fastest own strategy by name in {share}.")
    return " ".join(sentences)


def _arms(cells: Sequence[Cell]) -> str:
    """In how many cells each arm did what; one that raised has no time."""
    counts = {
        "won": Counter(c.winner for c in cells if c.winner),
        "within tol": Counter(arm for c in cells for arm in c.ms if c.meets(arm)),
        "fell back": Counter(arm for c in cells for arm in c.ran if c.fell_back(arm)),
        "above tol": Counter(arm for c in cells for arm in c.ms if not c.meets(arm)),
        "raised": Counter(arm for c in cells for arm in c.failed),
        "not called": Counter(arm for c in cells for arm in c.left_out),
    }
    arms = sorted({arm for count in counts.values() for arm in count}, key=lambda arm: (-counts["won"][arm], arm))
    lines = [("arm", *counts), ("---", *("---:",) * len(counts))]
    lines += [(arm, *(str(count[arm]) for count in counts.values())) for arm in arms]
    alone = sum(c.winner is None for c in cells)
    return _markdown(lines) + (f"\n\nNo arm but `auto` meets tol in {alone} of the cells." if alone else "")


def _table(cells: Iterable[Cell]) -> str:
    return _markdown([HEAD, ["---"] * len(HEAD), *map(_line, cells)])


def _line(c: Cell) -> list[str]:
    error = c.errors.get(AUTO)
    won = [f"{c.winner}{'*' * (c.winner in c.skipped)}", milliseconds(c.median(c.winner))] if c.winner else ["–", "–"]
    margin = "–" if c.margin is None else f"{c.margin:.2f}"
    where = [str(c.n), str(c.batch or "–"), str(c.k), str(c.p), power_of_ten(c.kappa)]
    took = text_cell(c.failed.get(AUTO, c.took))[:LONGEST]
    return [
        *where,
        milliseconds(c.median(AUTO)),
        took,
        "–" if error is None else f"{error:.1e}",
        *won,
        margin,
        _times(c.ratio),
        _times(c.choice),
    ]


def _markdown(lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _by_distance(cells: Iterable[Cell]) -> list[Cell]:
    """The worst first."""
    return sorted(cells, key=lambda c: -math.inf if math.isnan(c.ratio) else c.ratio, reverse=True)


def _times(ratio: float) -> str:
    return "misses tol" if math.isinf(ratio) else "–" if math.isnan(ratio) else f"{ratio:.2f} ×"


def _share(good: Sequence[bool]) -> str:
    return f"{sum(good)} of {len(good)} cells ({sum(good) / len(good):.0%})"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

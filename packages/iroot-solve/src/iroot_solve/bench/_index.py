"""The list of all runs, `benchmark_results/README.md`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from iroot_solve.bench._manifest import by_bench
from iroot_solve.bench._samples import read
from iroot_solve.bench._table import cell
from iroot_solve.bench._winners import verdict

HEAD = """\
# Results

Each run is a folder `runs/<date>_<slug>_<device>_<commit>/`:

- `manifest.json`: command, commit and whether the tree had changes, versions, device, threads, seed, date;
- `raw/samples.jsonl`: one line for each timed call, solve or cell of a grid, everything that was measured (`null`
  stands for a number that is not finite); older runs have one file `samples.json`;
- `report.md`, `summary.csv`, `plots/`: made from these two alone; `iroot bench report RUN` makes them again;
- `env/`: packages, torch's configuration, processor and GPU.

An error without a time says how accurate a routine is, a time without an error says nothing: no table here has one."""
COLUMNS = ("run", "date", "device", "question", "verdict")


def index(runs: Path) -> str:
    """The page that lists the runs of a folder, newest first.

    Args:
        runs: `benchmark_results/runs`; the page is meant for the folder above it. A folder without a manifest is no
            run. Runs made by other means than `iroot bench` are listed by what their manifest and report say.
    """
    found = sorted((path.parent for path in runs.glob("*/manifest.json")), key=lambda run: run.name, reverse=True)
    lines = [COLUMNS, ("---",) * len(COLUMNS), *map(_row, found)]
    return HEAD + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _row(run: Path) -> tuple[str, ...]:
    manifest: dict[str, Any] = json.loads((run / "manifest.json").read_text("utf-8"))
    question, found = _own(run, manifest) if by_bench(manifest) else _foreign(run, manifest)
    dirty = " (dirty tree)" if manifest.get("dirty") else ""
    link = f"[{manifest.get('slug', run.name)}]({run.parent.name}/{run.name}/report.md){dirty}"
    device = manifest.get("device_name") or manifest.get("device", "–")
    return link, str(manifest.get("date", "–")), cell(device), cell(question), cell(found)


def _own(run: Path, manifest: dict[str, Any]) -> tuple[str, str]:
    """Question and verdict of a run of `iroot bench`."""
    return manifest["question"] or "–", verdict(manifest, read(run / "raw" / "samples.jsonl"))


def _foreign(run: Path, manifest: dict[str, Any]) -> tuple[str, str]:
    """Question, or else title of the report with the command; its first sentence that does not repeat the manifest."""
    page = run / "report.md"
    paragraphs = page.read_text("utf-8").split("\n\n") if page.exists() else []
    title = next((text.removeprefix("# ").strip() for text in paragraphs if text.startswith("# ")), "–")
    prose = " ".join(text for text in paragraphs if not text.startswith(("#", "|", "!", ">")))
    command, commit = str(manifest.get("command", "")), str(manifest.get("commit", ""))
    known = [text for text in (command, commit) if text]
    sentences = re.split(r"(?<=\.)\s+", prose)
    said = next((text for text in sentences if text and not any(fact in text for fact in known)), "–")
    return manifest.get("question") or (f"{title}; `{command}`" if command else title), said


def rewrite(runs: Path) -> None:
    """Write the index again that lies beside a folder of runs, where there is one."""
    page = runs.parent / "README.md"
    if runs.name == "runs" and page.is_file():
        page.write_text(index(runs), "utf-8")

"""Committed maps of strategies: figure and page are what the samples give, and older grids are judged as they were."""

import json
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from iroot_solve.bench import _map  # noqa: E402

RUNS = Path(__file__).resolve().parents[4] / "benchmark_results" / "runs"
MAPS = sorted(run.parent for run in RUNS.glob("*/manifest.json") if "map" in json.loads(run.read_text("utf-8")))
GRID = RUNS / "2026-11-26_auto-grid_cpu_a5f6338"


@pytest.mark.parametrize("run", MAPS, ids=lambda run: run.name)
def test_a_map_is_what_its_samples_give(run, tmp_path):
    """`iroot bench report RUN` makes both again."""
    copy = tmp_path / run.name
    (copy / "raw").mkdir(parents=True)
    for name in ("manifest.json", "raw/samples.jsonl"):
        shutil.copy(run / name, copy / name)
    _map.rewrite(copy)
    for path in ("report.md", _map.FIGURE):
        assert (copy / path).read_bytes() == (run / path).read_bytes(), path


def test_the_grid_before_the_map_is_judged_as_its_own_report_says():
    """That page was written by other code: a script of its own, which is no more."""
    said = re.search(r"(\d+) of (\d+) cells within 1.05 × best \+ 0.3 ms", (GRID / "report.md").read_text("utf-8"))
    cells = _map.read(GRID / "raw" / "samples.jsonl")
    assert said is not None and [sum(c.on_target for c in cells), len(cells)] == [int(said[1]), int(said[2])]

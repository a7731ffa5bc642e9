"""The committed results: the index is that of the runs, and every report is what its raw samples give."""

import shutil
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[4] / "benchmark_results"
MADE_BY_BENCH = sorted(path.parent for path in (RESULTS / "runs").glob("*/summary.csv"))


def test_the_index_is_that_of_the_runs():
    """`iroot bench report RUN` writes it again."""
    index = pytest.importorskip("iroot_solve.bench._index").index
    assert (RESULTS / "README.md").read_text("utf-8") == index(RESULTS / "runs")


@pytest.mark.parametrize("run", MADE_BY_BENCH, ids=lambda run: run.name)
def test_a_report_is_what_its_samples_give(run, tmp_path):
    pytest.importorskip("matplotlib")
    from iroot_solve.bench._report import render

    copy = tmp_path / run.name
    (copy / "raw").mkdir(parents=True)
    for name in ("manifest.json", "raw/samples.jsonl"):
        shutil.copy(run / name, copy / name)
    render(copy)
    made = {path.relative_to(copy) for path in copy.rglob("*") if path.is_file()}
    assert made == {path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.parts[-2] != "env"}
    for path in made:
        assert (copy / path).read_bytes() == (run / path).read_bytes(), path

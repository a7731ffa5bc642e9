"""The committed results: the index is that of the runs, and every report is what its raw samples give."""

import json
import shutil
from pathlib import Path

import pytest
from iroot_solve.bench import _manifest
from iroot_solve.gallery import _record

RESULTS = Path(__file__).resolve().parents[4] / "benchmark_results"
RUNS = sorted(path.parent for path in (RESULTS / "runs").glob("*/manifest.json"))
MADE_BY_BENCH = [run for run in RUNS if (run / "summary.csv").exists()]
MADE_BY_GALLERY = [run for run in RUNS if "_gallery_" in run.name]
by_name = {"ids": lambda run: run.name}


def test_the_index_is_that_of_the_runs():
    """`iroot bench report RUN` writes it again."""
    index = pytest.importorskip("iroot_solve.bench._index").index
    assert (RESULTS / "README.md").read_text("utf-8") == index(RESULTS / "runs")


@pytest.mark.parametrize("run", RUNS, **by_name)
def test_a_manifest_is_complete_and_names_its_folder(run):
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    _manifest.validate(manifest)
    assert _manifest.folder_name(manifest) == run.name
    assert _manifest.by_bench(manifest) == (run in MADE_BY_BENCH)


@pytest.mark.parametrize("run", MADE_BY_GALLERY, **by_name)
def test_a_page_of_the_gallery_is_what_its_samples_give(run):
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    assert (run / "report.md").read_text("utf-8") == _record.report(manifest, _record.read_samples(run))


@pytest.mark.slow
@pytest.mark.parametrize("run", MADE_BY_BENCH, **by_name)
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

"""The list of runs: verdicts come from the samples, and runs made by other means are listed by what they say."""

import json
import re
from pathlib import Path

import pytest
from iroot_solve.bench import _samples
from iroot_solve.bench._index import index, rewrite
from iroot_solve.bench._samples import Sample

REPOSITORY = Path(__file__).parents[3]
OURS = {
    **{
        "schema": 1,
        "date": "2026-11-26",
        "slug": "matrix",
        "device": "h100",
        "device_name": "H100 | 80GB",
        "tol": 1e-3,
    },
    **{"question": "Is auto\nthe fastest?", "dirty": False, "ab": None, "commit": "1a2b3c4"},
}
GALLERY = {"date": "2026-11-25", "slug": "gallery", "command": "python -m gallery", "commit": "2dd2191", "dirty": True,
           "device": "cpu", "device_name": "x86_64 AVX512"}  # fmt: skip
PAGE = """# Gallery of hard spectra

2026-11-25, commit 2dd2191, torch 2.13.0+cpu. Made by `python -m gallery`.

990 solves, 839 of them converged, 0.3 ms each. And more.

| a | table |
"""


def sample(arm, ms, error=1e-5):
    ending = {"estimate": None, "status": "done", "took": "", "products": {}}
    point = {"case": "SPD p=2 k<n", "problem": "spd", "p": 2, "n": 256, "m": None, "k": 16, "batch": 1, "kappa": 1e3}
    return Sample(**point, dtype="float32", arm=arm, trial=0, rep=0, ms=ms, error=error, **ending)


def make(runs, manifest, samples=(), page=None):
    run = runs / "_".join(manifest[key] for key in ("date", "slug", "device", "commit"))
    (run / "raw").mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    _samples.write(run / "raw" / "samples.jsonl", samples)
    (run / "report.md").write_text(page or "", "utf-8")
    return run


def lines(page):
    """The rows of the table as cells."""
    found = [line for line in page.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found]


@pytest.mark.parametrize(("other", "wins"), [(2.0, 1), (0.5, 0)])
def test_verdict_comes_from_the_samples(tmp_path, other, wins):
    runs = tmp_path / "runs"
    run = make(runs, OURS, [sample("auto", 1.0), sample("eigh32", other), sample("wrong", 0.1, error=1.0)])
    (link, date, device, question, verdict), = lines(index(runs))  # fmt: skip
    assert link == f"[matrix](runs/{run.name}/report.md)" and date == "2026-11-26"
    assert (device, question) == ("H100 \\| 80GB", "Is auto the fastest?")
    assert f"auto is the fastest arm within tol = 0.001 at {wins} of 1 point;" in verdict
    assert f"{1 / other:.2f} × that of the best other arm" in verdict


def test_runs_made_by_other_means_say_what_they_are(tmp_path):
    make(tmp_path / "runs", GALLERY, page=PAGE)
    (link, date, device, question, verdict), = lines(index(tmp_path / "runs"))  # fmt: skip
    assert link.endswith("/report.md) (dirty tree)") and (date, device) == ("2026-11-25", "x86_64 AVX512")
    assert question == "Gallery of hard spectra; `python -m gallery`"
    # The two sentences before it repeat the commit and the command.
    assert verdict == "990 solves, 839 of them converged, 0.3 ms each."


def test_a_run_made_by_other_means_may_say_what_it_asked(tmp_path):
    make(tmp_path / "runs", {**GALLERY, "question": "Is it right?"}, page=PAGE)
    assert lines(index(tmp_path / "runs"))[0][3] == "Is it right?"


def test_runs_that_say_nothing_are_listed(tmp_path):
    run = make(tmp_path / "runs", {"date": "2026-11-25", "slug": "odd", "device": "cpu", "commit": "0"})
    (run / "report.md").unlink()
    assert [cells[1:] for cells in lines(index(tmp_path / "runs"))] == [["2026-11-25", "cpu", "–", "–"]]


def test_newest_first_and_only_runs(tmp_path):
    runs = tmp_path / "runs"
    make(runs, GALLERY, page=PAGE)
    make(runs, OURS)
    (runs / "empty").mkdir()
    (runs / "note.txt").write_text("no run")
    assert [cells[1] for cells in lines(index(runs))] == ["2026-11-26", "2026-11-25"]
    assert lines(index(runs))[0][-1] == "Nothing was measured."


def test_the_page_of_no_run(tmp_path):
    assert index(tmp_path).startswith("# Results") and lines(index(tmp_path)) == []


def test_the_page_beside_a_folder_of_runs_is_written_again(tmp_path):
    runs = tmp_path / "runs"
    make(runs, OURS, [sample("auto", 1.0)])
    rewrite(runs)
    assert not (tmp_path / "README.md").exists()  # nobody asked for one
    (tmp_path / "README.md").write_text("old", "utf-8")
    rewrite(runs)
    assert (tmp_path / "README.md").read_text("utf-8") == index(runs)
    rewrite(runs / "not-runs")


def test_links_of_the_runs_in_the_repository_lead_somewhere():
    runs = REPOSITORY / "benchmark_results" / "runs"
    if not runs.exists():
        pytest.skip("outside the repository")
    page = index(runs)
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) == len(list(runs.glob("*/manifest.json"))) > 0
    assert all((runs.parent / link).is_file() for link in links)
    assert all(all(cell not in ("", "–") for cell in cells) for cells in lines(page))

"""The report says what the samples say and nothing else: times, ratios, sentences and summary, recomputed by hand.

Truth are samples whose medians, quartiles and worst errors can be read off: times are c·(1, 2, 3, 4, 5), which have the
median 3c and the quartiles 2c and 4c.
"""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from iroot_solve.bench import _ab_table, _samples
from iroot_solve.bench._report import render, report, summary
from iroot_solve.bench._rows import power_of_ten, ranking, rows
from iroot_solve.bench._samples import Sample
from iroot_solve.bench._table import milliseconds, table
from iroot_solve.bench._winners import fastest, overall, verdict

TOL = 1e-3
STEPS = (1, 2, 3, 4, 5)
MANIFEST = {
    **{"schema": 1, "date": "2026-11-26", "slug": "matrix", "question": "Is auto the fastest?", "hypothesis": ""},
    **{"command": "iroot bench", "commit": "1a2b3c4", "dirty": False, "device": "cpu", "device_name": "x86_64 AVX512"},
    **{"threads": 2, "python": "3.11.7", "versions": {"torch": "2.13.0"}, "seed": 0, "tol": TOL, "dtype": "float32"},
    **{"cases": ["SPD p=2 k<n"], "arms": ["auto", "eigh32", "five steps", "scipy"], "trials": 1, "timing_reps": 5},
    **{"timing_warmup_reps": 1, "started": "2026-11-26T10:00:00+00:00", "finished": "2026-11-26T10:02:00+00:00"},
    **{"ab": None, "clocks": None},
}


def calls(arm, c, *, kappa=1e3, n=256, error=1e-5, trial=0, case="SPD p=2 k<n", **changes):
    """Five calls of c, 2c, …, 5c milliseconds."""
    own = {"estimate": 2e-5, "took": "chebyshev/fp32", "status": "converged", "products": {"full": 3}}
    ending = own if arm == "auto" else {"estimate": None, "took": "", "status": "done", "products": {}}
    point = {"case": case, "problem": "spd", "p": 2, "n": n, "m": None, "k": 16, "batch": 1, "kappa": kappa}
    sample = Sample(**point, dtype="float32", arm=arm, trial=trial, rep=0, ms=c, error=error, **ending)
    return [replace(sample, rep=i, ms=c * step, **changes) for i, step in enumerate(STEPS)]


def failing(arm, **where):
    return calls(arm, 0.1, **where, error=None, status="failed: LinAlgError: not positive | singular,\nat 3")


@pytest.fixture
def samples():
    """κ = 10³: auto before eigh32, five steps too wrong to count; κ = 10⁵: eigh32 before auto, scipy raises."""
    return [
        *(calls("auto", 1) + calls("eigh32", 2) + calls("five steps", 0.1, error=0.3)),
        *(calls("auto", 2, kappa=1e5) + calls("eigh32", 1, kappa=1e5) + failing("scipy", kappa=1e5)),
    ]


def cells(text, arm):
    """The cells of the first line of an arm."""
    line = next(line for line in text.splitlines() if re.search(rf"\| \**{re.escape(arm)}\** \|", line))
    return [cell.strip().strip("*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# Rows ----------------------------------------------------------------------------------------------------------------


def test_rows_have_median_quartiles_and_the_worst_trial():
    worse = calls("auto", 2, error=5e-4, trial=1, estimate=7e-4)
    (row,) = rows(calls("auto", 1, error=1e-5) + worse)
    # 1 2 2 3 4 4 5 6 8 10 sorted: the median is between 4 and 4, the quartiles are at places 2.25 and 6.75 from 0.
    assert (row.ms, row.low, row.high) == (4.0, 2.25, 5.75)
    assert (row.error, row.estimate, row.trials, row.calls) == (5e-4, 7e-4, 2, 10)
    assert row.meets(5e-4) and not row.meets(4e-4)


def test_one_trial_without_an_answer_spoils_the_row():
    (row,) = rows(calls("auto", 1) + calls("auto", 1, error=None, trial=1))
    assert row.error is None and not row.meets(1.0) and ranking([row], 1.0) == []


def test_what_it_took_to_raise_is_no_time():
    (row,) = rows(calls("auto", 1) + failing("auto", trial=1))
    assert row.ms == 3.0 and not row.meets(1.0)
    (row,) = rows(failing("auto"))
    assert row.ms != row.ms and milliseconds(row.ms) == "–"


def test_rows_do_not_depend_on_the_order_within_a_case(samples):
    assert rows(samples[::-1]) == rows(samples)


@pytest.mark.parametrize(
    ("value", "text"), [(1.0, "10⁰"), (10.0, "10"), (1e5, "10⁵"), (2.5e6, "2.5·10⁶"), (1e-12, "10⁻¹²")]
)
def test_powers_of_ten(value, text):
    assert power_of_ten(value) == text


@pytest.mark.parametrize(("ms", "text"), [(0.01234, "0.0123"), (1.0, "1.00"), (12.34, "12.3"), (1234.5, "1234")])
def test_milliseconds_have_three_digits_and_no_exponent(ms, text):
    assert milliseconds(ms) == text


# Table and sentences -------------------------------------------------------------------------------------------------


def test_table_compares_with_the_best_arm_within_tol(samples):
    first = table([row for row in rows(samples) if row.point.kappa == 1e3], TOL)
    assert cells(first, "auto") == ["10³", "auto", "3.00", "2.00–4.00", "1.00", "1.0e-05", "2.0e-05", "chebyshev/fp32"]
    assert cells(first, "eigh32")[2:] == ["6.00", "4.00–8.00", "2.00", "1.0e-05", "–", ""]
    # The fastest of all misses tol: it has no ratio, comes last, and no other ratio is to it.
    assert cells(first, "five steps")[2:6] == ["0.300", "0.200–0.400", "misses tol", "3.0e-01"]
    assert [line.split("|")[2].strip() for line in first.splitlines()[2:]] == ["**auto**", "eigh32", "five steps"]


def test_tables_stay_tables_whatever_an_exception_says(samples):
    text = table(rows(samples), TOL)
    assert len({len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines()}) == 1
    last = cells(text, "scipy")
    assert last[1:-1] == ["scipy", "–", "–", "misses tol", "–", "–"]
    assert last[-1] == "failed: LinAlgError: not positive \\| singular, at 3"


def test_fastest_arms_are_named_with_their_points(samples):
    found = fastest(rows(samples), TOL)
    assert found.startswith("Fastest within tol: auto at κ = 10³; eigh32 at κ = 10⁵.")
    # 2–4 and 4–8 touch at both points.
    assert found.endswith("The quartiles of the two fastest overlap at every point.")
    sizes = [*samples, *calls("auto", 1, n=1024), *calls("auto", 1, n=1024, kappa=1e5)]
    assert "auto at n = 256 (κ = 10³), n = 1024; eigh32 at n = 256 (κ = 10⁵)." in fastest(rows(sizes), TOL)


def test_a_clear_lead_is_not_called_an_overlap():
    assert fastest(rows(calls("auto", 1) + calls("eigh32", 2.1)), TOL) == "Fastest within tol: auto at its only point."


def test_points_that_no_arm_answers_are_named():
    found = fastest(rows(calls("auto", 1) + calls("auto", 1, kappa=1e7, error=0.1)), TOL)
    assert found == "Fastest within tol: auto at κ = 10³. No arm is within tol at κ = 10⁷."


def test_sentences_follow_the_samples(samples):
    swap = {"auto": "eigh32", "eigh32": "auto"}
    swapped = [replace(sample, arm=swap.get(sample.arm, sample.arm)) for sample in samples]
    assert "eigh32 at κ = 10³; auto at κ = 10⁵" in fastest(rows(swapped), TOL)
    assert "misses tol" not in overall(rows(samples), TOL)
    wrong = [replace(sample, error=0.1) if sample.arm == "auto" else sample for sample in samples]
    assert overall(rows(wrong), TOL).endswith("auto misses tol at 2 of 2 points.")


def test_auto_is_compared_by_the_geometric_mean(samples):
    """Half and twice the time of the other: 1, where the arithmetic mean is 1.25."""
    found = overall(rows(samples), TOL)
    assert "(2 points), auto takes 1.00 × the time of the best other arm (geometric mean): from 0.50 × eigh32" in found
    assert "auto at 1 (clear at 0), eigh32 at 1 (clear at 0)" in found
    assert verdict(MANIFEST, samples) == (
        "auto is the fastest arm within tol = 0.001 at 1 of 2 points; its time is 1.00 × that of the best other arm "
        "(geometric mean; 0.50 to 2.00)."
    )


def test_verdict_tells_a_miss_of_auto_and_that_nothing_was_measured():
    samples = [*calls("auto", 1), *calls("eigh32", 2), *calls("auto", 1, n=512, error=0.1), *calls("eigh32", 2, n=512)]
    assert " at 1 of 2 points and misses it at 1; its time is 0.50 ×" in verdict(MANIFEST, samples)
    assert verdict(MANIFEST, calls("eigh32", 2)) == "Fastest within tol = 0.001: eigh32 at 1 (clear at 1)."
    assert verdict(MANIFEST, []) == "Nothing was measured."


# The page ------------------------------------------------------------------------------------------------------------


def test_report_begins_with_what_a_reader_wants(samples):
    page = report({**MANIFEST, "hypothesis": "It is."}, samples)
    title, question, hypothesis, result, made = page.split("\n\n")[:5]
    assert title == "# Benchmark: matrix"
    assert (question, hypothesis) == ("**Question.** Is auto the fastest?", "**Hypothesis.** It is.")
    assert result == f"**Result.** {verdict(MANIFEST, samples)}"
    assert all(fact in made for fact in ("1a2b3c4", "x86_64 AVX512", "2 threads", "torch 2.13.0", "`iroot bench`"))
    assert table(rows(samples), TOL) in page and overall(rows(samples), TOL) in page


def test_a_dirty_tree_and_an_interruption_are_marked_at_the_top(samples):
    page = report({**MANIFEST, "dirty": True, "finished": None}, samples)
    assert [block[:8] for block in page.split("\n\n")[1:3]] == ["> **The ", "> **Inte"]
    assert "dirty" in page and "dirty" not in report(MANIFEST, samples) and "> " not in report(MANIFEST, samples)


def test_report_without_samples():
    assert "**Result.** Nothing was measured." in report(MANIFEST, [])


def test_report_of_two_sides_has_their_comparison_and_no_winners():
    """Twenty rounds, B 20 % slower in each: more than chance and the floor, which is exactly 1, allow."""
    first = [replace(s, rep=5 * i + s.rep) for i in range(4) for s in calls("old · auto", 1)]
    again = [replace(sample, arm="old (again) · auto") for sample in first]
    second = [replace(sample, arm="new · auto", ms=1.2 * sample.ms) for sample in first]
    ab = {"label_a": "old", "label_b": "new", "extra_args_a": "", "extra_args_b": "--arms auto"}
    manifest, samples = {**MANIFEST, "ab": ab}, first + again + second
    page = report(manifest, samples)
    assert "**Result.** new against old: slower at 1 of 1 comparison." in page
    assert _ab_table.markdown(_ab_table.comparisons(samples, "old", "new", TOL)).strip() in page
    assert "A is old, B is new (`--arms auto`)." in page and "Fastest within tol" not in page


def test_spectra_have_their_section_only_where_samples_have_them(samples):
    pytest.importorskip("matplotlib", exc_type=ImportError)
    page = report(MANIFEST, [replace(samples[0], spectrum=[-3.0, -1.0, 0.0]), *samples[1:]])
    before, after = page.split("## Spectra\n\n")
    assert before.strip() == report(MANIFEST, samples).strip() and "singular values" in after
    assert re.findall(r"!\[[^\]]+\]\(plots/([^)]+)\)", after) == ["spectra.svg"]


def test_a_spectrum_outlives_the_file_and_costs_nothing_where_there_is_none(samples, tmp_path):
    with_one = [replace(samples[0], spectrum=[None, -1.25, 0.0]), *samples[1:]]
    _samples.write(tmp_path / "s.jsonl", with_one)
    assert _samples.read(tmp_path / "s.jsonl") == with_one
    lines = (tmp_path / "s.jsonl").read_text("utf-8").splitlines()
    assert ["spectrum" in line for line in lines] == [True] + [False] * (len(lines) - 1)
    assert summary(with_one) == summary(samples)


# Summary -------------------------------------------------------------------------------------------------------------


def test_summary_has_one_line_for_each_point_and_arm(samples):
    lines = list(csv.DictReader(io.StringIO(summary(samples))))
    assert [(line["kappa"], line["arm"]) for line in lines] == [
        *(("1000", arm) for arm in ("auto", "eigh32", "five steps")),
        *(("100000", arm) for arm in ("auto", "eigh32", "scipy")),
    ]
    first, last = lines[0], lines[-1]
    assert {name: first[name] for name in ("median_ms", "q1_ms", "q3_ms", "error", "estimate", "took")} == {
        **{"median_ms": "3", "q1_ms": "2", "q3_ms": "4", "error": "1e-05", "estimate": "2e-05"},
        "took": "chebyshev/fp32",
    }
    assert (last["median_ms"], last["error"]) == ("", "") and last["status"].endswith("singular,\nat 3")


# The folder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(samples, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST), "utf-8")
    _samples.write(tmp_path / "raw" / "samples.jsonl", samples)
    return tmp_path


def contents(folder):
    made = [*folder.glob("plots/*"), folder / "report.md", folder / "summary.csv"]
    return {path.name: path.read_bytes() for path in made}


@pytest.mark.slow
def test_render_gives_the_same_bytes_in_fresh_processes(folder, tmp_path_factory):
    pytest.importorskip("matplotlib", exc_type=ImportError)
    twin = tmp_path_factory.mktemp("twin") / "run"
    shutil.copytree(folder, twin)
    script = "import sys, pathlib; from iroot_solve.bench._report import render; render(pathlib.Path(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(run)], env={**os.environ, "PYTHONHASHSEED": seed})
        for run, seed in ((folder, "1"), (twin, "2"))
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert contents(folder) == contents(twin) and len(contents(folder)) == 5


def test_render_draws_every_image_of_its_report_and_removes_old_ones(folder):
    pytest.importorskip("matplotlib", exc_type=ImportError)
    (folder / "plots").mkdir()
    (folder / "plots" / "of-a-case-that-is-gone.svg").write_text("<svg/>")
    render(folder)
    images = re.findall(r"!\[([^\]]+)\]\(plots/([^)]+)\)", (folder / "report.md").read_text("utf-8"))
    assert all(len(alt) > 20 for alt, _ in images)
    assert sorted(name for _, name in images) == sorted(path.name for path in (folder / "plots").iterdir())
    assert {name for _, name in images} == {"pareto_spd-p2-k-lt-n.svg", "time-kappa_spd-p2-k-lt-n.svg", "speed-up.svg"}


def test_render_without_matplotlib_says_so_in_one_line(folder, monkeypatch):
    import iroot_solve.bench

    monkeypatch.delattr(iroot_solve.bench, "_plots", raising=False)
    monkeypatch.delitem(sys.modules, "iroot_solve.bench._plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    render(folder)
    page = (folder / "report.md").read_text("utf-8")
    assert [line for line in page.splitlines() if "matplotlib" in line] == [
        'Plots are left out: they need matplotlib (`pip install "iroot-solve[bench]"`).'
    ]
    assert "![" not in page and (folder / "summary.csv").exists() and not (folder / "plots").exists()

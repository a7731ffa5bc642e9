"""`iroot bench`: a run writes what was asked for, an interrupted one loses nothing and goes on where it stopped."""

import json
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec

import pytest
import torch
from iroot_solve import cli
from iroot_solve.bench import _arms, _cases, _manifest, _measure, _problems, _samples
from iroot_solve.bench._ab import ROUNDS
from iroot_solve.bench._arm import Arm
from iroot_solve.bench._cases import Case, Point
from iroot_solve.bench._options import BenchOptions

CASES = (
    Case("SPD p=2 k<n", "spd", 2, (Point(16, 4, 10.0), Point(16, 4, 1e3))),
    Case("SPD p=1 k=n", "spd", 1, (Point(16, 16, 10.0),)),
)
QUICK = ("--timing-reps", "2", "--trials", "2")
CALLS = 2 * 2  # of each arm at each point


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Two small cases, a tree without changes, and no plots, which have tests of their own."""
    if find_spec("matplotlib"):
        monkeypatch.setattr("iroot_solve.bench._plots.plots", lambda manifest, samples: {})
    monkeypatch.setattr(_cases, "CASES", CASES)
    monkeypatch.setattr(_manifest, "commit", lambda: "abc1234")
    monkeypatch.setattr(_manifest, "dirty", lambda: False)


@pytest.fixture
def arms(monkeypatch):
    """Sets the arms to these."""

    def use(*found):
        monkeypatch.setattr(_arms, "every_arm", lambda: found)

    return use


def bench(*words):
    return cli.main(["bench", *map(str, words)])


def refused(capsys, *words):
    """The one line that says what is wrong."""
    assert bench(*words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("iroot") and ": error: " in line
    return line


def the_run(folder):
    [run] = folder.iterdir()
    return run


def raw(run):
    return _samples.read(run / "raw" / "samples.jsonl")


def right(name, call=_problems.truth):
    return Arm(name, "", lambda problem: True, lambda problem: lambda: call(problem))


# A run ----------------------------------------------------------------------------------------------------------------


def test_a_run_is_a_folder_with_manifest_samples_report_and_environment(tmp_path, capsys):
    assert bench("--arms", "auto,eigh32", "--runs", tmp_path, "--run-name", "small", *QUICK) == 0
    run = the_run(tmp_path)
    manifest = _manifest.read(run / "manifest.json")
    assert run.name == _manifest.folder_name(manifest) and run.name.endswith("_small_cpu_abc1234")
    assert manifest["command"] == "iroot bench --arms auto,eigh32 --trials 2 --timing-reps 2 --run-name small"
    assert manifest["cases"] == [case.name for case in CASES] and manifest["arms"] == ["auto", "eigh32"]
    assert manifest["finished"] >= manifest["started"] and manifest["ab"] is None and manifest["tol"] == 1e-4
    samples = raw(run)
    assert len(samples) == len({_measure.key(s) for s in samples}) == 3 * CALLS + 2 * CALLS  # no eigh for p = 1
    assert all(s.error <= 1e-4 for s in samples)
    assert {s.status for s in samples} == {"converged", "done"}
    assert "SPD p=1 k=n" in (run / "report.md").read_text("utf-8")
    assert (run / "summary.csv").is_file() and (run / "env" / "torch.txt").is_file()
    assert "small_cpu_abc1234" in capsys.readouterr().err


def test_files_without_a_folder(tmp_path, capsys):
    out, manifest, rows = (tmp_path / name for name in ("report.md", "manifest.json", "rows.jsonl"))
    wanted = ("--out", out, "--manifest-out", manifest, "--baseline-rows-out", rows, "--integrity-checksums")
    assert bench("--only", "p=1", "--arms", "cholesky64", "--markdown", *wanted, *QUICK) == 0
    report = out.read_text("utf-8")
    assert capsys.readouterr().out == report + "\n" and "SPD p=1 k=n" in report and "SPD p=2" not in report
    assert "](plots/" not in report  # there are none beside it
    assert _manifest.read(manifest)["cases"] == ["SPD p=1 k=n"]
    assert len(_samples.read(rows)) == CALLS
    listed = [line.split("  ")[1] for line in (tmp_path / "CHECKSUMS").read_text("utf-8").splitlines()]
    assert listed == ["report.md", "rows.jsonl", "manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*listed, "CHECKSUMS"])


def test_without_options_for_output_the_report_is_printed(capsys):
    assert bench("--only", "p=1", "--arms", "cholesky64", "--timing-reps", 1) == 0
    output = capsys.readouterr().out
    assert "SPD p=1 k=n" in output and "cholesky64" in output


def test_arms_whose_package_is_missing_are_named_in_one_line(arms, capsys):
    arms(right("there"), Arm("absent", "", lambda p: True, lambda p: lambda: p.source, needs="no-such-thing"))
    assert bench("--markdown", "--timing-reps", 1) == 0
    printed = capsys.readouterr()
    assert printed.err == "left out, their packages are not installed: absent (no-such-thing)\n"
    assert "there" in printed.out


def test_a_run_of_that_name_is_not_overwritten(tmp_path, capsys):
    words = ("--only", "p=1", "--arms", "cholesky64", "--runs", tmp_path)
    assert bench(*words) == 0
    before = (the_run(tmp_path) / "raw" / "samples.jsonl").read_bytes()
    capsys.readouterr()
    assert "is there already; --resume it" in refused(capsys, *words)
    assert (the_run(tmp_path) / "raw" / "samples.jsonl").read_bytes() == before


def test_the_report_is_made_again_from_manifest_and_samples(tmp_path, capsys):
    assert bench("--only", "p=1", "--arms", "cholesky64", "--runs", tmp_path) == 0
    run = the_run(tmp_path)
    before = (run / "report.md").read_bytes()
    (run / "report.md").unlink()
    capsys.readouterr()
    assert bench("report", run) == 0
    assert (run / "report.md").read_bytes() == before
    assert capsys.readouterr().out.strip().endswith("report.md")


# Interrupted ----------------------------------------------------------------------------------------------------------


def stopping(name, calls):
    """An arm that Ctrl-C meets in its call of this number; and the list of its calls."""
    made = []

    def call(problem):
        made.append(problem)
        if len(made) == calls:
            raise KeyboardInterrupt
        return _problems.truth(problem)

    return right(name, call), made


def test_an_interrupted_run_keeps_every_sample_and_goes_on_without_repeating_one(tmp_path, arms):
    arm, made = stopping("b", 9)
    arms(right("a"), arm)
    words = ("--runs", tmp_path, "--run-name", "stopped", "--integrity-checksums", *QUICK)
    assert bench(*words) == 130
    run, total = the_run(tmp_path), 2 * 3 * CALLS
    first, manifest = raw(run), _manifest.read(run / "manifest.json")
    assert manifest["finished"] is None and (run / "report.md").is_file() and (run / "CHECKSUMS").is_file()
    assert len([s for s in first if s.arm == "b"]) == 5  # of 9 calls three were warm-ups, one was cut off
    with open(run / "raw" / "samples.jsonl", "ab") as file:
        file.write(b'{"case": "SPD')  # as if it had been killed
    assert bench("--resume", run) == 0
    second, finished = raw(run), _manifest.read(run / "manifest.json")
    assert second[: len(first)] == first and len(second) == total
    assert len({_measure.key(s) for s in second}) == total
    assert finished["finished"] and {**finished, "finished": None} == manifest
    made.clear()
    assert bench("--resume", run) == 0
    assert raw(run) == second and made == []


def test_an_interrupt_before_the_first_sample_leaves_a_run_that_can_be_resumed(tmp_path, arms):
    arm, _ = stopping("b", 1)
    arms(arm)
    assert bench("--runs", tmp_path, *QUICK) == 130
    run = the_run(tmp_path)
    assert raw(run) == [] and _manifest.read(run / "manifest.json")["finished"] is None
    assert bench("--resume", run) == 0
    assert len(raw(run)) == 3 * CALLS


def test_a_killed_process_loses_no_finished_sample(tmp_path):
    script = f"""
import os, sys
from iroot_solve import cli
from iroot_solve.bench import _arms, _problems
from iroot_solve.bench._arm import Arm
made = []
def call(problem):
    made.append(0)
    if len(made) == 4:
        os._exit(9)
    return _problems.truth(problem)
_arms.every_arm = lambda: (Arm("a", "", lambda p: True, lambda p: lambda: call(p)),)
cli.main(["bench", "--only", "Batch 64 p=2", "--runs", {str(tmp_path)!r}])
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert [s.rep for s in raw(the_run(tmp_path))] == [0, 1]  # a warm-up, two calls, and the one that killed it


@pytest.mark.parametrize(
    ("key", "value"), [("commit", "fff0000"), ("threads", 99), ("device_name", "abacus"), ("versions", {})]
)
def test_a_run_is_not_resumed_elsewhere(tmp_path, capsys, key, value):
    assert bench("--only", "p=1", "--arms", "cholesky64", "--runs", tmp_path) == 0
    path = the_run(tmp_path) / "manifest.json"
    _manifest.write(path, {**_manifest.read(path), key: value})
    capsys.readouterr()
    assert f"--resume: the run has {key}" in refused(capsys, "--resume", the_run(tmp_path))


def test_a_package_that_no_arm_of_the_run_needs_does_not_hinder_resuming(tmp_path, arms):
    arms(right("a"), Arm("b", "", lambda problem: False, lambda problem: lambda: problem.source, needs="pytest"))
    assert bench("--runs", tmp_path, *QUICK) == 0
    assert "pytest" not in _manifest.read(the_run(tmp_path) / "manifest.json")["versions"]
    assert bench("--resume", the_run(tmp_path)) == 0


def test_a_resumed_run_keeps_its_settings(tmp_path, capsys):
    assert bench("--only", "p=1", "--arms", "cholesky64", "--tol", "1e-3", "--runs", tmp_path) == 0
    capsys.readouterr()
    for words in (("--trials", 3), ("--arms", "auto"), ("--dtype", "float64"), ("--question", "why")):
        assert f"leave {words[0]} out" in refused(capsys, "--resume", the_run(tmp_path), *words)
    out = tmp_path / "report.md"
    assert bench("--resume", the_run_beside(tmp_path), "--out", out) == 0
    assert out.read_text("utf-8").startswith("# ")


def the_run_beside(folder):
    [run] = [path for path in folder.iterdir() if path.is_dir()]
    return run


# Failing arms ---------------------------------------------------------------------------------------------------------


def test_a_raising_arm_is_in_the_samples_and_the_report(tmp_path, arms, capsys):
    def refuse(problem):
        raise RuntimeError("no convergence")

    arms(right("good"), right("bad", refuse))
    assert bench("--runs", tmp_path, "--markdown", *QUICK) == 0
    failed = [s for s in raw(the_run(tmp_path)) if s.arm == "bad"]
    assert len(failed) == 3 * CALLS
    assert {(s.status, s.error) for s in failed} == {("failed: RuntimeError: no convergence", None)}
    assert "bad" in capsys.readouterr().out


# Comparisons ----------------------------------------------------------------------------------------------------------


def test_sides_are_handed_over_with_all_options(tmp_path, monkeypatch, capsys):
    compare = pytest.importorskip("iroot_solve.bench._compare")
    seen = []

    def run_ab(options, keep):
        seen.append(options)
        [job] = _measure.jobs(CASES[1:], options.chosen_arms, 1, options.settings)
        for sample in _measure.measure(job, options.settings):
            keep(sample)
        return "# A table"

    monkeypatch.setattr(compare, "run_ab", run_ab)
    sides = ("--ab-extra-args-a", "--tol=1e-3", "--ab-extra-args-b", "--arms cholesky64 --dtype float64")
    out = tmp_path / "ab.md"
    words = ("--only", "p=1", "--arms", "cholesky32", "--ab-label-b", "new", "--ab-match-on-method", "--ab-out", out)
    assert bench(*words, *sides, "--runs", tmp_path, "--markdown") == 0
    [options] = seen
    assert (options.ab_label_a, options.ab_label_b, options.ab_match_on_method) == ("A", "new", True)
    a, b = options.with_extra(options.ab_extra_args_a), options.with_extra(options.ab_extra_args_b)
    assert (a.tol, a.arms, a.dtype) == (1e-3, ("cholesky32",), "float32")
    assert (b.tol, b.arms, b.dtype) == (None, ("cholesky64",), "float64")
    assert options.settings.budget_ms == float("inf")
    assert out.read_text("utf-8") == "# A table" and "# A table" in capsys.readouterr().out
    manifest = _manifest.read(the_run_beside(tmp_path) / "manifest.json")
    assert manifest["ab"] == {
        **{"label_a": "A", "label_b": "new"},
        **{"extra_args_a": "--tol=1e-3", "extra_args_b": "--arms cholesky64 --dtype float64"},
    }
    assert manifest["arms"] == ["cholesky32"]


def test_a_comparison_that_cannot_be_made_leaves_no_folder(tmp_path, monkeypatch, capsys):
    compare = pytest.importorskip("iroot_solve.bench._compare")

    def run_ab(options, keep):
        raise ValueError("--ab-commits: there is no commit 'old'")

    monkeypatch.setattr(compare, "run_ab", run_ab)
    assert "no commit 'old'" in refused(capsys, "--ab-commits", "old", "new", "--runs", tmp_path, "--arms", "auto")
    assert not list(tmp_path.iterdir())


def test_two_sides_are_measured_and_compared(tmp_path, capsys):
    sides = ("--ab-extra-args-a", "--arms cholesky64", "--ab-extra-args-b", "--arms cholesky32")
    assert bench("--only", "p=1", *sides, "--runs", tmp_path, "--markdown", "--timing-reps", 3) == 0
    assert "cholesky32" in capsys.readouterr().out
    samples = raw(the_run(tmp_path))
    assert {s.arm for s in samples} == {"A · cholesky64", "A (again) · cholesky64", "B · cholesky32"}
    assert len(samples) == 9


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--only", "SPD p=5"], "SPD p=2 k<n, SPD p=1 k=n"),
        (["--arms", "auto,eigh16"], "there is no 'eigh16'; there are: auto, "),
        (["--arms", "hyperpower"], "no arm applies to any of these cases"),
        (["--trials", "0"], "--trials"),
        (["--trials", "many"], "--trials"),
        (["--timing-reps", "0"], "--timing-reps"),
        (["--timing-warmup-reps", "-1"], "--timing-warmup-reps"),
        (["--timing-budget", "0"], "--timing-budget"),
        (["--dtype", "int8"], "--dtype must be one of float64, float32"),
        (["--device", "abacus"], "--device"),
        (["--device", "meta"], "--device"),
        (["--device", "cuda:99"], "--device: torch finds no cuda:99"),
        (["--tol", "2"], "--tol"),
        (["--tol", "nan"], "--tol"),
        (["--run-name", "a/b"], "--run-name"),
        (["--run-name", ""], "--run-name"),
        (["--out", "no/such/folder/report.md"], "--out: there is no folder"),
        (["--integrity-checksums"], "--integrity-checksums needs"),
        (["--resume", "no-such-run"], "--resume: no-such-run holds no manifest.json"),
        (["--resume", "a", "--runs", "b"], "leave --runs out"),
        (["--resume", "a", "--ab-extra-args-a", "--arms auto"], "cannot be resumed"),
        (["--ab-extra-args-a", "--arms=auto --colour red"], "extra arguments of a side: unrecognized"),
        (["--ab-extra-args-b", "--dtype int8"], "--dtype"),
        (["--ab-extra-args-b", "--only Gram"], "extra arguments of a side"),
        (["--ab-extra-args-b", "--tol '1"], "quotation"),
        (["--ab-commits", "old"], "--ab-commits"),
        (["--ab-baseline-rows-in", "no-such-rows"], "--ab-baseline-rows-in: there is no file"),
        (["--depth", "3"], "--depth"),
        (["report"], "RUN"),
        (["report", "a", "b"], "one run"),
        (["report", "no-such-run"], "report: no-such-run holds no manifest.json"),
        (["rapport"], "rapport"),
    ],
)
def test_what_cannot_be_right_is_named_in_one_line_and_nothing_is_written(capsys, monkeypatch, tmp_path, words, named):
    monkeypatch.chdir(tmp_path)
    assert named.lower() in refused(capsys, *words).lower()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("commit", "dirty"), [("abc1234", True), (_manifest.UNCOMMITTED, False)])
def test_what_no_commit_holds_is_not_published(capsys, monkeypatch, commit, dirty):
    monkeypatch.setattr(_manifest, "commit", lambda: commit)
    monkeypatch.setattr(_manifest, "dirty", lambda: dirty)
    assert "--publish: the tree has changes" in refused(capsys, "--publish", "--only", "p=1", "--arms", "cholesky64")


def test_a_clean_tree_is_published(tmp_path):
    words = ("--publish", "--only", "p=1", "--arms", "cholesky64", "--timing-reps", 1)
    assert bench(*words, "--runs", tmp_path) == 0
    assert _manifest.read(the_run(tmp_path) / "manifest.json")["dirty"] is False


def test_every_option_is_in_the_help_and_has_a_default(capsys):
    with pytest.raises(SystemExit) as stop:
        bench("--help")
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for field in fields(BenchOptions):
        assert "--" + field.name.replace("_", "-") in text
    assert BenchOptions().settings.dtype is torch.float32


def test_the_command_that_is_noted_makes_the_same_options():
    options = BenchOptions(only="SPD p=2 k<n", arms=("auto", "eigh32"), trials=2, tol=1e-5, publish=True)
    assert options.command == "iroot bench --only 'SPD p=2 k<n' --arms auto,eigh32 --trials 2 --tol 1e-05 --publish"
    sides = BenchOptions(ab_extra_args_a="--arms auto", ab_commits=["old", "new"])
    assert sides.command == "iroot bench --ab-extra-args-a '--arms auto' --ab-commits old new"


def test_json_of_a_run_has_no_number_that_json_does_not_know(tmp_path, arms):
    arms(right("right"), right("nan", lambda problem: _problems.truth(problem) * torch.nan))
    assert bench("--only", "p=1", "--runs", tmp_path, "--timing-reps", 1) == 0
    lines = (the_run(tmp_path) / "raw" / "samples.jsonl").read_text("utf-8").splitlines()
    found = {record["arm"]: record["error"] for record in (json.loads(s, parse_constant=pytest.fail) for s in lines)}
    assert found == {"right": pytest.approx(0.0, abs=1e-12), "nan": None}


def test_two_sides_take_as_many_turns_as_a_verdict_needs():
    assert BenchOptions().settings.reps == 5
    assert BenchOptions(ab_extra_args_b="--arms eigh32").settings.reps == ROUNDS
    assert BenchOptions(ab_extra_args_b="--arms eigh32", timing_reps=9).settings.reps == 9

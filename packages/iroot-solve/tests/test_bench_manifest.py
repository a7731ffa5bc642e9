"""What a run writes: samples that survive a kill, and a manifest that is refused where it is wrong."""

import json
import math
import shutil
import subprocess
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from iroot_solve.bench import _manifest, _run, _samples
from iroot_solve.bench._samples import Sample

CPU = torch.device("cpu")
SAMPLE = Sample(
    case="SPD p=2 k<n",
    problem="spd",
    p=2,
    n=16,
    m=None,
    k=4,
    batch=1,
    kappa=10.0,
    dtype="float32",
    arm="auto",
    trial=0,
    rep=1,
    ms=0.5,
    error=1e-6,
    estimate=2e-6,
    status="converged",
    took="eigh/fp32",
    products={"eigh": 1},
)
OTHERS = {
    **_manifest.describe(CPU, ["scipy"]),
    "slug": "test",
    "question": "Which one?",
    "hypothesis": "",
    "command": "iroot bench",
}
FACTS = {
    **OTHERS,
    "tol": 1e-4,
    "dtype": "float32",
    "cases": ["SPD p=2 k<n"],
    "arms": ["auto"],
    "trials": 1,
    "timing_reps": 5,
    "timing_warmup_reps": 1,
    "ab": None,
}


# Samples --------------------------------------------------------------------------------------------------------------


def test_samples_come_back_as_they_were(tmp_path):
    path, other = tmp_path / "samples.jsonl", replace(SAMPLE, arm="κ · Jürgen", m=32, products={}, estimate=None)
    _samples.append(path, SAMPLE)
    _samples.append(path, other)
    assert _samples.read(path) == [SAMPLE, other]
    text = path.read_text("utf-8")
    # The spectrum is only written where there is one.
    assert "κ · Jürgen" in text and [*json.loads(text.splitlines()[0]), "spectrum"] == list(asdict(SAMPLE))
    _samples.write(tmp_path / "again.jsonl", [SAMPLE, other])
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_null(tmp_path, value):
    _samples.append(tmp_path / "s", replace(SAMPLE, error=value, estimate=value))
    assert _samples.read(tmp_path / "s") == [replace(SAMPLE, error=None, estimate=None)]


@pytest.mark.parametrize("size", [1, 40, -1])
def test_a_half_written_last_line_is_left_out(tmp_path, size):
    path = tmp_path / "samples.jsonl"
    _samples.append(path, SAMPLE)
    half = _samples.line(replace(SAMPLE, rep=2, took="κ")).encode()[:size]
    path.write_bytes(path.read_bytes() + half)
    assert _samples.read(path) == [SAMPLE]


def test_a_kill_within_a_letter_of_two_bytes_is_survived(tmp_path):
    path = tmp_path / "samples.jsonl"
    _samples.append(path, SAMPLE)
    path.write_bytes(path.read_bytes() + '{"case": "κ'.encode()[:-1])
    assert _samples.read(path) == [SAMPLE]


@pytest.mark.parametrize("line", ["", "{}", '{"case": 1', "[1]", json.dumps({**asdict(SAMPLE), "colour": "red"})])
def test_a_wrong_line_is_named(tmp_path, line):
    path = tmp_path / "samples.jsonl"
    path.write_text(_samples.line(SAMPLE) + line + "\n", "utf-8")
    with pytest.raises(ValueError, match=r"samples.jsonl:2: not a sample"):
        _samples.read(path)


# Manifest -------------------------------------------------------------------------------------------------------------


def manifest(**changes):
    return {**_run.begin(FACTS).manifest, **changes}


def test_a_manifest_holds_every_key_and_comes_back(tmp_path):
    written = manifest()
    assert list(written) == list(_manifest.KEYS)
    _manifest.write(tmp_path / "m.json", written)
    assert _manifest.read(tmp_path / "m.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
    assert written["versions"]["torch"] == torch.__version__ and written["threads"] == FACTS["threads"]


@pytest.mark.parametrize("key", _manifest.KEYS)
def test_a_missing_key_is_named(key):
    wrong = manifest()
    del wrong[key]
    with pytest.raises(ValueError, match=f"manifest: '{key}' is missing"):
        _manifest.validate(wrong)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("schema", 2), ("schema", True), ("dirty", 1), ("tol", "1e-4"), ("tol", None), ("trials", 1.5)],
        *[("cases", "SPD"), ("arms", [1]), ("finished", 3), ("versions", []), ("commit", None), ("clocks", "fast")],
    ],
)
def test_a_wrong_value_is_named(key, value):
    with pytest.raises(ValueError, match=f"manifest: '{key}'"):
        _manifest.validate(manifest(**{key: value}))


def test_sides_of_a_comparison_have_labels_and_arguments():
    sides = {"label_a": "A", "label_b": "B", "extra_args_a": "", "extra_args_b": "--arms eigh32"}
    _manifest.validate(manifest(ab=sides))
    with pytest.raises(ValueError, match="'ab' lacks 'label_b'"):
        _manifest.validate(manifest(ab={"label_a": "A"}))


def test_another_program_has_the_same_facts_and_its_own_keys(tmp_path):
    run = _run.begin({"powers": [1, 2], **OTHERS})
    assert [key for key in _manifest.KEYS if key not in run.manifest] == [
        k for k in _manifest.KEYS if k in _manifest.BENCH
    ]
    assert list(run.manifest)[-1] == "powers"
    _manifest.write(tmp_path / "m.json", run.manifest)
    with pytest.raises(ValueError, match="not by `iroot bench`"):  # it has no samples of a kind known here
        _manifest.read(tmp_path / "m.json")


@pytest.mark.parametrize("key", [key for key in _manifest.KEYS if key not in _manifest.BENCH])
def test_another_program_leaves_no_fact_out(key):
    wrong = _manifest.begin(OTHERS)
    del wrong[key]
    with pytest.raises(ValueError, match=f"manifest: '{key}' is missing"):
        _manifest.validate(wrong)


def test_another_program_leaves_a_folder_like_any_other(tmp_path):
    page = tmp_path / "README.md"
    page.touch()
    run = _run.begin(OTHERS)
    run.open(tmp_path / "runs", CPU)
    assert run.folder.name == _manifest.folder_name(run.manifest)
    run.finish("# A title\n\nAll is well.\n")
    manifest = json.loads((run.folder / "manifest.json").read_text("utf-8"))
    assert manifest == run.manifest and manifest["finished"] >= manifest["started"]
    assert (run.folder / "raw").is_dir() and (run.folder / "env" / "torch.txt").is_file()
    assert "| Which one? | All is well. |" in page.read_text("utf-8")
    with pytest.raises(ValueError, match="is there already; take another name"):
        _run.begin(OTHERS).open(tmp_path / "runs", CPU, "take another name")


def test_a_wrong_manifest_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="'tol'"):
        _manifest.write(tmp_path / "m.json", manifest(tol="small"))
    assert not list(tmp_path.iterdir())


def test_the_folder_is_named_after_what_tells_runs_apart():
    named = manifest(date="2026-01-02", slug="matrix", device="h100", commit="abc1234")
    assert _manifest.folder_name(named) == "2026-01-02_matrix_h100_abc1234"


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        *[("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-40GB", "a100"), ("NVIDIA GeForce RTX 4090", "4090")],
        ("Accelerator", "cuda"),
    ],
)
def test_a_gpu_has_a_short_name(monkeypatch, name, slug):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert _manifest.device_slug(torch.device("cuda")) == slug
    assert _manifest.device_slug(CPU) == "cpu"


def test_clocks_are_those_that_the_driver_tells_of_this_gpu(monkeypatch):
    asked = []

    def smi(command, **_):
        asked.append(command)
        return SimpleNamespace(returncode=0, stdout="1980, 2619, 1980, 2619, 700.00\n")

    properties = SimpleNamespace(uuid="4-2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(subprocess, "run", smi)
    assert _manifest.clocks(torch.device("cuda:1")) == dict(
        zip(_manifest.CLOCKS, ("1980", "2619", "1980", "2619", "700.00"), strict=True)
    )
    assert asked[0][-2:] == ("-i", "GPU-4-2")
    assert _manifest.clocks(CPU) is None


def test_without_git_there_is_no_commit_and_no_change(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    assert (_manifest.commit(), _manifest.dirty()) == (_manifest.UNCOMMITTED, False)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_repository_that_does_not_hold_the_code_is_not_its_commit(monkeypatch, tmp_path):
    package = tmp_path / "iroot_solve" / "bench"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    monkeypatch.setattr(_manifest, "HERE", package)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], check=True)
    assert _manifest.commit() == _manifest.UNCOMMITTED and not _manifest.dirty()
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "code"], check=True)
    assert len(_manifest.commit()) >= 7 and not _manifest.dirty()
    (tmp_path / "benchmark_results" / "runs").mkdir(parents=True)
    (tmp_path / "benchmark_results" / "runs" / "new").touch()
    assert not _manifest.dirty()
    (package / "new.py").touch()
    assert _manifest.dirty()


def test_the_environment_is_told_without_names_of_folders():
    found = _manifest.environment(CPU)
    assert {"packages.txt", "torch.txt", "machine.txt"} <= found.keys() and "gpu.txt" not in found
    assert f"torch=={torch.__version__}" in found["packages.txt"].splitlines()
    assert all(" @ " not in text and "file:" not in text for text in found.values())


# Checksums ------------------------------------------------------------------------------------------------------------


def test_checksums_are_those_that_sha256sum_reads(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "samples.jsonl").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_bytes(b"")
    _run.write_checksums(tmp_path / "manifest.json", [tmp_path / "raw" / "samples.jsonl"])
    # FIPS 180-2, B.1, and the hash of nothing
    assert (tmp_path / "CHECKSUMS").read_text("utf-8") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  raw/samples.jsonl\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  manifest.json\n"
    )

"""The command line: what it prints is what the functions behind it say, and what is wrong is named in one line."""

import subprocess
import sys
from fractions import Fraction
from types import SimpleNamespace

import iroot_coeffs
import pytest
import torch
from iroot_coeffs import Schedule, plan
from iroot_solve import _calibrate, _cost, _doctor, cli, explain


def run(capsys, *words):
    """(exit status, standard output) of `iroot WORDS`, with nothing on standard error."""
    status = cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    assert printed.err == ""
    return status, printed.out


def cells(output):
    """The rows of the tables in an output, as lists of their cells."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line[:1] == "│"]


def test_plan_prints_every_step_and_the_sum(capsys):
    schedule = plan(4, kappa=1e6, tol=1e-4)
    status, output = run(capsys, "plan", "--p", 4, "--kappa", 1e6, "--tol", 1e-4)
    assert status == 0 and str(schedule) in output
    rows = cells(output)
    assert [int(row[1]) for row in rows] == [step.degree for step in schedule]
    assert sum(float(row[4]) for row in rows) == schedule.products()
    assert f"error ≤ {schedule.final_error:.2e}" in output and "root form" in output


@pytest.mark.parametrize("words", [("--exponent", "-2/3"), ("--exponent=-2/3",)])
def test_plan_takes_other_powers(capsys, words):
    schedule = plan(3, kappa=1e3, tol=1e-3, exponent=Fraction(-2, 3))
    status, output = run(capsys, "plan", "--kappa", "1e3", *words)
    assert status == 0 and str(schedule) in output


def test_plan_acting_on_B_counts_thin_products(capsys):
    schedule = plan(2, kappa=1e3, tol=1e-3, k_over_n=0.01)
    assert schedule.terminal_is_skinny(0.01)
    _, output = run(capsys, "plan", "--kappa", "1e3", "--k-over-n", "0.01")
    assert f"{schedule.products(0.01):.4g} products n×n×n (acting on B with k/n = 0.01" in output
    assert "last step by products with B only" in output


def test_plan_as_json_is_the_schedule(capsys):
    _, output = run(capsys, "plan", "--kappa", "1e4", "--json")
    assert Schedule.from_json(output) == plan(2, kappa=1e4, tol=1e-3)


def test_explain_lists_every_candidate_and_marks_one(capsys):
    expected = explain(n=512, k=16, p=1, kappa=1e3, tol=1e-3, dtype=torch.float32, batch=2)
    words = ("--n", 512, "--k", 16, "--p", 1, "--kappa", "1e3", "--tol", "1e-3", "--dtype", "float32", "--batch", 2)
    status, output = run(capsys, "explain", *words, "--device", "cpu")
    rows = cells(output)
    assert status == 0
    assert [tuple(row[:2]) for row in rows] == [(c.strategy, c.precision) for c in expected.candidates]
    assert [float(row[4]) for row in rows] == pytest.approx([c.error for c in expected.candidates], rel=0.06)
    assert [tuple(row[:2]) for row in rows if row[5].startswith("chosen")] == [(expected.strategy, expected.precision)]
    assert "calibration of a CPU" in output


def test_explain_without_k_is_about_the_root(capsys):
    _, output = run(capsys, "explain", "--n", 64, "--exponent", "1/2", "--dtype", "float64")
    assert "A^(1/2), n = 64, the root itself" in output
    assert "does not apply: direct-solve, hybrid-pe-nsrc, chebyshev, cayley, lanczos, cholesky" in output
    assert {row[1] for row in cells(output)} == {"fp64"}


def test_doctor_tells_versions_threads_flags_backends_and_calibration(capsys):
    flags = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    status, output = run(capsys, "doctor")
    facts = {row[0]: row[1:] for row in cells(output)}
    assert status == 0
    for wheel in ("iroot-coeffs", "iroot-kernels", "iroot-precond", "iroot-solve"):
        assert facts[wheel] == [iroot_coeffs.__version__]
    assert facts["torch"] == [torch.__version__]
    assert facts["CPU capability"] == [torch.backends.cpu.get_cpu_capability()]
    assert facts["threads"][0].startswith(f"{torch.get_num_threads()} ")
    assert facts["torch.get_float32_matmul_precision()"] == [flags[0]]
    assert facts["cpu"][0] == "torch" and "BLAS" in output
    assert "measured on" in facts and "this machine" in facts
    assert flags == (torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision)


def test_doctor_calibrates(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("IROOT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_calibrate, "_median_ms", lambda call, seconds=0.4, device="cpu": 0.5)
    try:
        status, _ = run(capsys, "doctor", "--calibrate")
        assert status == 0 and (tmp_path / "calibration_cpu.json").exists()
        assert _cost.table()["single"]["mm32"][0] == 0.5
    finally:  # the table is kept: the other tests go by the one that ships
        monkeypatch.undo()
        _cost.table.cache_clear()


def test_doctor_is_red_where_the_wheels_do_not_belong_together(capsys, monkeypatch):
    monkeypatch.setattr(iroot_coeffs, "__version__", "0.0.0")
    status, output = run(capsys, "doctor")
    assert status == 1 and "one version" in output


def test_doctor_without_a_gpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    _, output = run(capsys, "doctor")
    assert ["cuda", "not in use", "no CUDA device was found"] in cells(output)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_doctor_with_a_gpu(capsys, monkeypatch, backend):
    device = SimpleNamespace(name="Accelerator", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(_doctor, "symmetric_products", lambda device: backend == "triton")
    _, output = run(capsys, "doctor")
    assert ["cuda:0", "Accelerator, 80 GiB, sm_90"] in cells(output)
    assert [row[1] for row in cells(output) if row[0] == "cuda"] == [backend]


def test_doctor_survives_flags_that_torch_refuses_to_read(capsys, monkeypatch):
    def refuse():
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(torch, "get_float32_matmul_precision", refuse)
    status, output = run(capsys, "doctor")
    assert status == 0 and "unreadable: set through both" in output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["plan"], "--kappa"),
        (["plan", "--kappa", "0.5"], "--kappa"),
        (["plan", "--kappa", "many"], "--kappa"),
        (["plan", "--kappa", "1e4", "--tol", "2"], "--tol"),
        (["plan", "--kappa", "1e4", "--k-over-n", "0"], "--k-over-n"),
        (["plan", "--kappa", "1e4", "--p", "0"], "--p"),
        (["plan", "--kappa", "1e4", "--p", "2.5"], "--p"),
        (["plan", "--kappa", "1e4", "--exponent", "5/3"], "--exponent"),
        (["plan", "--kappa", "1e4", "--exponent", "-1/0"], "--exponent"),
        (["plan", "--kappa", "1e4", "--p", "3", "--exponent", "-1/3"], "--exponent"),
        (["plan", "--kappa", "1e4", "--depth", "3"], "--depth"),
        (["explain"], "--n"),
        (["explain", "--n", "0"], "--n"),
        (["explain", "--n", "8", "--k", "-1"], "--k"),
        (["explain", "--n", "8", "--tol", "0"], "--tol"),
        (["explain", "--n", "8", "--dtype", "int8"], "--dtype"),
        (["explain", "--n", "8", "--device", "abacus"], "--device"),
        (["explain", "--n", "8", "--batch", "0"], "--batch"),
        (["explore"], "explore"),
        ([], "{plan,explain,bench,doctor}"),
    ],
)
def test_what_cannot_be_right_is_named_in_one_line(capsys, words, named):
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith("iroot") and ": error: " in line and named in line


def test_what_the_library_refuses_is_one_line_too(capsys, monkeypatch):
    def refuse(*_arguments, **_settings):
        raise ValueError("plan: no schedule")

    monkeypatch.setattr(iroot_coeffs, "plan", refuse)
    assert cli.main(["plan", "--kappa", "10"]) == 2
    assert capsys.readouterr().err == "iroot plan: error: plan: no schedule\n"


@pytest.mark.parametrize("words", [["--help"], ["plan", "--help"], ["--version"]])
def test_help_and_version(capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0 and "iroot" in capsys.readouterr().out


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "iroot_solve.cli", "plan", "--kappa", "0"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 2 and "--kappa" in done.stderr

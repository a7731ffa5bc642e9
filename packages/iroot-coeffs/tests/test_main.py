"""The command line."""

import subprocess
import sys

import pytest
from iroot_coeffs import Schedule, plan
from iroot_coeffs.__main__ import main


def test_prints_the_plan(capsys):
    assert main(["plan", "--p", "4", "--kappa", "1e6", "--tol", "1e-4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    schedule = plan(4, kappa=1e6, tol=1e-4)
    assert lines[0] == str(schedule)
    assert len(lines) == len(schedule) + 5
    assert lines[-1].startswith(f"{schedule.products():.4g} products (root form)")
    degrees = [int(line.split()[1]) for line in lines[3:-2]]
    assert degrees == [step.degree for step in schedule]


def test_acting_on_b(capsys):
    assert main(["plan", "--p", "2", "--kappa", "1e4", "--k-over-n", "0.02"]) == 0
    assert "acting on B, k/n = 0.02, last step by skinny products" in capsys.readouterr().out


def test_json(capsys):
    assert main(["plan", "--p", "4", "--kappa", "100", "--exponent=-3/4", "--json"]) == 0
    schedule = Schedule.from_json(capsys.readouterr().out)
    assert schedule.power == 3


def test_what_cannot_be_planned(capsys):
    assert main(["plan", "--p", "2", "--kappa", "1e40"]) == 2
    assert "kappa" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


def test_as_a_module():
    command = [sys.executable, "-m", "iroot_coeffs", "plan", "--p", "2", "--kappa", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout.startswith("p=2, κ=100: degrees 4-4")

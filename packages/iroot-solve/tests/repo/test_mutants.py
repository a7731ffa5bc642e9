"""The planted lies still find their place; that each turns a test red is what `nox -s mutants` shows, in minutes."""

import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).with_name("mutants.py")))
MUTANTS, ROOT = SCRIPT["MUTANTS"], SCRIPT["ROOT"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.file.rpartition("/")[-1])
def test_the_text_to_replace_is_there_once_and_its_tests_exist(mutant):
    assert (ROOT / mutant.file).read_text("utf-8").count(mutant.old) == 1 and mutant.old != mutant.new
    assert all((ROOT / path).exists() for path in mutant.tests)

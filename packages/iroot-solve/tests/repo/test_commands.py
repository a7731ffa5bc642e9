"""A newcomer's commands are in the README, work as sessions, and are the ones that CI runs."""

import re

COMMANDS = [
    "python -m pip install nox && python -m nox -s demo",
    "python -m pip install nox && python -m nox -s tests",
]


def test_readme_and_ci_use_the_same_commands(root):
    readme = (root / "README.md").read_text("utf-8")
    script = (root / ".ci" / "run").read_text("utf-8")
    for command in COMMANDS:
        assert command in readme, command
        assert command in script, command


def test_every_session_that_is_named_exists(root, noxfile):
    script = root / ".ci" / "run"
    pages = [root / "README.md", root / "CONTRIBUTING.md", script, *(root / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"nox -s \"?'?([a-z_]+)", page.read_text("utf-8"))}
    named |= set(re.findall(r"^ *session \"?([a-z]+)", script.read_text("utf-8"), re.MULTILINE))
    assert named and not [name for name in sorted(named) if not hasattr(noxfile, name)]


def test_ci_runs_every_package_alone(root, noxfile):
    script = (root / ".ci" / "run").read_text("utf-8")
    assert f"for package in {' '.join(noxfile.PACKAGES)}; do" in script

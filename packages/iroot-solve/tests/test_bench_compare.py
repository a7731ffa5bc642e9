"""Two sides of a comparison: what is called in which order, what is paired with what, and two commits by real git.

Times come from clocks that the tests make, so that verdicts are known; matrices are small.
"""

import random
import shutil
import subprocess
import textwrap
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from iroot_solve.bench import _ab, _cases, _compare, _worker
from iroot_solve.bench._ab_table import comparisons, comparisons_unpaired, markdown
from iroot_solve.bench._arm import Arm
from iroot_solve.bench._cases import Case, Point
from iroot_solve.bench._compare import Side, interleaved, pairs, run_ab, turns
from iroot_solve.bench._measure import Settings
from iroot_solve.bench._options import BenchOptions
from iroot_solve.bench._problems import build, relative_error, truth
from iroot_solve.bench._samples import Sample, write

SMALL = Case("Small p=2", "spd", 2, (Point(12, 3, 10.0), Point(12, 3, 100.0)))
CPU = torch.device("cpu")
SETTINGS = Settings(torch.float32, CPU, 1e-4, _ab.ROUNDS, 1)


def arm(name):
    return Arm(name, "", lambda problem: True, lambda problem: pytest.fail("nothing is called"))


def sample(name, trial=0, rep=0, ms=1.0, error=1e-6, **others):
    """A sample of the first point of `SMALL`."""
    facts = {"case": SMALL.name, "problem": "spd", "p": 2, "n": 12, "m": None, "k": 3, "batch": 1, "kappa": 10.0}
    facts |= {"dtype": "float32", "estimate": None, "status": "done", "took": "", "products": {}} | others
    return Sample(arm=name, trial=trial, rep=rep, ms=ms, error=error, **facts)


def clocked(seed, slowdown=1.0, error=1e-6):
    """`measure` on a machine whose calls scatter by 3 %."""

    def measure(job, settings):
        (only,) = job.arms
        rng = np.random.default_rng([*np.atleast_1d(seed), job.trial, int(job.point.kappa)])
        for rep in range(settings.reps):
            ms = 10 * slowdown * rng.lognormal(0, 0.03)
            yield sample(only.name, job.trial, rep, ms, error, kappa=job.point.kappa)

    return measure


def sides(b):
    """(A, A again, B), with `b` for the last one's `measure`."""
    a = Side("old", SETTINGS, (arm("auto"),), clocked(0))
    return a, replace(a, label="old (again)", measure=clocked(1)), replace(a, label="new", measure=b)


def found(b, trials=1):
    """The rows of `SMALL` with that B."""
    samples = [s for trial in range(trials) for s in interleaved(sides(b), [SMALL], trial, match=True)]
    return comparisons(samples, "old", "new", tol=1e-4)


def test_every_round_calls_each_once_in_an_order_of_its_own():
    calls = [iter([(name, rep) for rep in range(60)]) for name in "abc"]
    made = list(turns(calls, 60, random.Random(0)))
    rounds = [made[i : i + 3] for i in range(0, len(made), 3)]
    assert all(sorted(those) == [(name, rep) for name in "abc"] for rep, those in enumerate(rounds))
    orders = ["".join(name for name, _ in those) for those in rounds]
    # Each of the six orders misses all of 60 rounds with probability (5/6)^60 = 2e-5.
    assert len(set(orders)) == 6


def test_all_problems_are_measured_in_rounds_of_three():
    samples = list(interleaved(sides(clocked(2)), [SMALL], 2, match=True))
    assert len(samples) == 3 * _ab.ROUNDS * len(SMALL.points) and {s.trial for s in samples} == {2}
    for i in range(0, len(samples), 3):
        those = samples[i : i + 3]
        assert {s.arm for s in those} == {"old · auto", "old (again) · auto", "new · auto"}
        assert len({(s.kappa, s.trial, s.rep) for s in those}) == 1


def test_verdicts_of_planted_differences():
    assert [row.verdict for row in found(clocked(2))] == ["no difference"] * 2
    slower = found(clocked(2, slowdown=1.1))
    assert [row.verdict for row in slower] == ["slower"] * 2
    # 101 ratios that scatter by 4 %: the standard deviation of their median is 0.5 %.
    assert slower[0].times.ratio == pytest.approx(1.1, rel=0.02)
    assert [row.verdict for row in found(clocked(2, slowdown=0.9))] == ["faster"] * 2
    assert [row.verdict for row in found(clocked(2, slowdown=0.9, error=3e-4))] == ["less accurate"] * 2
    assert [row.verdict for row in found(clocked(2, slowdown=0.9, error=None))] == ["B failed"] * 2


def test_rounds_of_all_trials_count_and_the_worst_error_of_them():
    rows = found(clocked(2), trials=3)
    assert len(rows) == 2 and rows[0].times.rounds == 3 * _ab.ROUNDS
    samples = [
        sample(name, trial, 0, error=10.0**-trial)
        for name in ("old · a", "old (again) · a", "new · a")
        for trial in (4, 6)
    ]
    (row,) = comparisons(samples, "old", "new", tol=1e-5)
    assert row.error_a == row.error_b == 1e-4


def test_times_are_paired_by_trial_and_round_whatever_the_order_of_the_lines():
    """B takes twice as long as A in the same round; times of rounds differ by factors of up to 300."""
    base = {(trial, rep): 1.5 ** (7 * trial + rep) for trial in range(2) for rep in range(7)}
    factors = {"old · a": 1.0, "old (again) · a": 1.0, "new · a": 2.0}
    samples = [sample(name, *key, ms=f * ms) for name, f in factors.items() for key, ms in base.items()]
    random.Random(0).shuffle(samples)
    (row,) = comparisons(samples, "old", "new", tol=1e-4)
    assert row.times.interval == pytest.approx((2.0, 2.0)) and row.verdict == "slower"


def test_a_run_that_was_ended_early_counts_its_whole_rounds():
    names = ("old · a", "old (again) · a", "new · a")
    samples = [sample(name, 0, rep) for rep in range(9) for name in names]
    (row,) = comparisons(samples[:-1], "old", "new", tol=1e-4)
    assert row.times.rounds == 8
    assert comparisons(samples[:2], "old", "new", tol=1e-4) == []


def test_which_arms_pair():
    assert pairs(["auto", "eigh32"], ["eigh32", "auto", "lanczos"], True) == [
        ("auto", ["auto"]),
        ("eigh32", ["eigh32"]),
    ]
    assert pairs(["auto"], ["eigh32", "lanczos"], False) == [("auto", ["eigh32", "lanczos"])]
    assert pairs(["auto"], [], False) == pairs(["auto"], ["eigh32"], True) == []
    with pytest.raises(ValueError, match="auto, eigh32.*--ab-match-on-method"):
        pairs(["auto", "eigh32"], ["auto"], False)


def test_rows_pair_as_they_were_measured():
    def rows(a, b):
        names = [
            *(f"{label} · {name}" for label in ("old", "old (again)") for name in a),
            *(f"new · {name}" for name in b),
        ]
        made = comparisons([sample(name) for name in names], "old", "new", tol=1e-4)
        return [(row.arm_a, row.arm_b) for row in made]

    assert rows(["auto"], ["cayley", "eigh32"]) == [("auto", "cayley"), ("auto", "eigh32")]
    assert rows(["auto", "cayley"], ["cayley", "auto"]) == [("auto", "auto"), ("cayley", "cayley")]


def test_markdown_holds_every_figure():
    samples = [sample("old · auto", 0, rep, ms=2.0) for rep in range(9)]
    samples += [sample("old (again) · auto", 0, rep, ms=2.02) for rep in range(9)]
    samples += [sample("new · eigh32", 0, rep, ms=3.0, error=None) for rep in range(9)]
    text = markdown(comparisons(samples, "old", "new", tol=1e-4))
    row = next(line for line in text.splitlines() if line.startswith(f"| {SMALL.name}"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        *(SMALL.name, "n = 12, k = 3, κ = 10", "auto / eigh32", "2.01", "3", "1.500 [1.500, 1.500]"),
        *("[1.010, 1.010]", "1.0e-06", "–", "B failed"),
    ]
    assert text.startswith("1 comparisons: B failed 1.") and "A/A floor is" in text
    assert "nothing was measured" in markdown([])


@pytest.fixture
def small(monkeypatch):
    """The matrix of cases is one small one."""
    monkeypatch.setattr(_cases, "CASES", (SMALL,))


def options(**given):
    return BenchOptions(**{"timing_reps": 3, **given})


def test_two_sets_of_options(small):
    """dtype and arm of each side are its own; every call is kept, and what it returned judged against float64."""
    kept = []
    asked = {"ab_extra_args_a": "--arms eigh32", "ab_extra_args_b": "--arms eigh64 --dtype float64 --tol 1e-4"}
    text = run_ab(options(**asked, ab_label_a="single", ab_label_b="double"), kept.append)
    assert len(kept) == 3 * 3 * len(SMALL.points)
    assert {(s.arm, s.dtype) for s in kept} == {
        ("single · eigh32", "float32"),
        ("single (again) · eigh32", "float32"),
        ("double · eigh64", "float64"),
    }
    assert all(s.error <= (1e-4 if s.dtype == "float32" else 1e-12) and s.ms > 0 for s in kept)
    assert text.startswith("# double against single") and "`--arms eigh32`" in text
    assert "eigh32 (float32) / eigh64 (float64)" in text and text.count("too few rounds |") == 2


def test_auto_is_compared_where_no_arm_is_named(small):
    kept = []
    run_ab(options(ab_extra_args_b="--tol 1e-2"), kept.append)
    assert {s.arm for s in kept} == {"A · auto", "A (again) · auto", "B · auto"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ab_extra_args_a": "--arms auto", "ab_label_b": "A"}, "two names"),
        ({"ab_extra_args_a": "--arms auto", "ab_label_b": "A (again)"}, "two names"),
        ({"ab_extra_args_a": "--arms auto,eigh32"}, "--ab-match-on-method"),
        ({"ab_extra_args_a": "--arms eigh32", "ab_match_on_method": True}, "no arm is on both"),
        ({"ab_extra_args_a": "--arms nothing"}, "nothing"),
        ({"ab_commits": ["a", "b"], "ab_extra_args_b": "--arms eigh32"}, "'eigh32' is none"),
    ],
)
def test_options_that_cannot_be_right(small, wrong, message):
    with pytest.raises(ValueError, match=message):
        run_ab(options(**wrong), lambda sample: pytest.fail("nothing is measured"))


def test_an_earlier_run_is_compared_unpaired(small, tmp_path):
    """Of its arms, those that this run has too; a run that took 1000 s a call is beaten."""
    earlier = [sample("eigh32", 0, rep, ms=1e6, kappa=kappa) for rep in range(9) for kappa in (10.0, 100.0)]
    write(tmp_path / "rows.jsonl", [*earlier, sample("of another time", 0, 0)])
    kept = []
    text = run_ab(options(ab_baseline_rows_in=tmp_path / "rows.jsonl"), kept.append)
    assert {s.arm for s in kept} == {"B · eigh32"} and len(kept) == 3 * 2
    assert text.count("unpaired: faster |") == 2 and "nothing bounds false verdicts" in text and " – | 1.0e-06" in text


def test_an_earlier_run_without_anything_in_common_is_an_error(small, tmp_path):
    write(tmp_path / "rows.jsonl", [sample("eigh32", kappa=7.0)])
    with pytest.raises(ValueError, match="no row has"):
        run_ab(options(ab_baseline_rows_in=tmp_path / "rows.jsonl"), lambda sample: None)


def test_unpaired_rows_need_the_same_dtype():
    new = [sample("new · a", 0, rep, dtype="float64") for rep in range(3)]
    with pytest.raises(ValueError, match="no row has"):
        comparisons_unpaired([sample("a")], new, "new", tol=1e-4)
    (row,) = comparisons_unpaired([sample("a", dtype="float64", ms=2.0)], new, "new", tol=1e-4)
    assert row.verdict == "unpaired: faster" and row.times.ratio == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("kind", "p", "point"),
    [
        ("spd", 2, Point(16, 3, 10.0)),
        ("spd", 4, Point(8, 3, 10.0, batch=5)),
        ("gram", 2, Point(12, 3, 10.0, m=30)),
        ("gram", 2, Point(30, 3, 10.0, m=12)),
        ("dual", 2, Point(12, 3, 10.0, m=30)),
        ("nonspd", 1, Point(16, 3, 10.0)),
    ],
)
def test_the_worker_answers_every_kind_of_problem_by_public_names(tmp_path, kind, p, point):
    problem = build(Case("any", kind, p, (point,)), point, 0, torch.float32, CPU, 1e-4)
    fields = {name: getattr(problem, name) for name in ("kind", "B", "p", "tol", "ridge")}
    torch.save({"matrix": problem.source, **fields}, tmp_path / "problem.pt")
    request = {"problem": str(tmp_path / "problem.pt"), "answer": str(tmp_path / "answer.pt")}
    call = _worker.prepare({**request, "strategy": "auto", "warmups": 2, "threads": 1}, CPU)
    assert relative_error(torch.load(tmp_path / "answer.pt", weights_only=True), truth(problem)) <= 1e-4
    ms, outcome = _worker.timed(call, CPU)
    account = _worker.account(outcome)
    assert ms > 0 and account["status"] == "converged" and account["estimate"] <= 1e-4
    assert account["took"].count("/") == 1 and sum(account["products"].values()) > 0


LIBRARY = """
    from collections import namedtuple
    from types import SimpleNamespace

    import torch

    Result = namedtuple("Result", "Z workspace stats schedule")


    def solve_spd(A, B, *, p_val, tol, strategy, on_failure, workspace):
        values, V = torch.linalg.eigh(A.double())
        Z = ((V * values ** (-1 / p_val)) @ (V.mT @ B.double())).to(A.dtype)
        error = torch.tensor(1e-7)
        stats = SimpleNamespace(error=error, status="converged", strategy="{name}", precision="fp64", products={{}})
        {more}
        return Result(Z, None, stats, None)
"""
COMMITS = {
    "wrong": LIBRARY.format(name="wrong", more="Z = 1.01 * Z"),
    "raising": LIBRARY.format(name="raising", more="raise RuntimeError('no\\nway')"),
    "broken": "raise ImportError('of no use')",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """One commit for each of `COMMITS`, tagged, of a library with the public name that a worker needs."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    top = tmp_path_factory.mktemp("repository")

    def git(*words):
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(top), *identity, *words], check=True, capture_output=True)

    git("init")
    package = top / "packages" / "iroot-solve" / "src" / "iroot_solve"
    package.mkdir(parents=True)
    for name, text in COMMITS.items():
        (package / "__init__.py").write_text(textwrap.dedent(text), "utf-8")
        git("add", ".")
        git("commit", "-m", name)
        git("tag", name)
    return top


def worktrees(repository):
    listed = subprocess.run(["git", "-C", str(repository), "worktree", "list"], capture_output=True, text=True)
    return len(listed.stdout.splitlines())


@pytest.fixture
def compare_commits(small, monkeypatch, repository):
    """(old, new) ↦ (table, samples), from a folder inside the repository; nothing may be left behind."""
    monkeypatch.chdir(repository / "packages")

    def compared(old, new):
        kept = []
        return run_ab(options(ab_commits=[old, new], timing_reps=8), kept.append), kept

    yield compared
    assert worktrees(repository) == 1


def test_two_commits_have_new_processes_in_each_of_eight_trials(small, monkeypatch):
    """The 20 rounds that are asked for become three of each trial."""
    entered = []

    @contextmanager
    def three(trees, names, seed):
        entered.append((trees, names, seed))
        yield [SimpleNamespace(measure=clocked([seed, i])) for i in range(3)]

    monkeypatch.setattr(_compare, "worktrees", lambda old, new: nullcontext((f"tree of {old}", f"tree of {new}")))
    monkeypatch.setattr(_compare, "workers", three)
    kept = []
    text = run_ab(options(ab_commits=["x", "y"], timing_reps=20), kept.append)
    assert entered == [(("tree of x", "tree of y"), ("x", "y"), trial) for trial in range(8)]
    assert len(kept) == 8 * 3 * 3 * len(SMALL.points)
    assert {(s.trial, s.rep) for s in kept} == {(trial, rep) for trial in range(8) for rep in range(3)}
    assert text.count("no difference |") == len(SMALL.points)


def test_ctrl_c_leaves_neither_processes_nor_worktrees(small, monkeypatch):
    left = []

    @contextmanager
    def entered(name, given):
        try:
            yield given
        finally:
            left.append(name)

    three = [SimpleNamespace(measure=clocked(i)) for i in range(3)]
    monkeypatch.setattr(_compare, "worktrees", lambda old, new: entered("worktrees", (old, new)))
    monkeypatch.setattr(_compare, "workers", lambda trees, names, seed: entered("workers", three))

    def interrupt(sample):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run_ab(options(ab_commits=["x", "y"]), interrupt)
    assert caught.traceback and left == ["workers", "worktrees"]


def test_each_side_is_the_library_of_its_commit(compare_commits, monkeypatch):
    """The answer of the first commit is 1 % off; a call of the second raises, which is a sample as well."""
    monkeypatch.setattr(_compare, "TRIALS", 1)
    text, kept = compare_commits("wrong", "raising")
    assert len(kept) == 3 * 8 * len(SMALL.points) and all(s.ms > 0 for s in kept)
    assert {(s.arm, s.took, s.status) for s in kept} == {
        ("A · auto", "wrong/fp64", "converged"),
        ("A (again) · auto", "wrong/fp64", "converged"),
        ("B · auto", "", "failed: RuntimeError: no"),
    }
    assert [s.error for s in kept if s.took] == pytest.approx([0.01] * (2 * 8 * len(SMALL.points)), abs=1e-6)
    assert all(s.error is None for s in kept if not s.took)
    assert "commit wrong" in text and "commit raising" in text and text.count("B failed |") == len(SMALL.points)


@pytest.mark.parametrize(
    ("old", "message"), [("broken", "broken: its worker ended: .*of no use"), ("none", "there is no commit 'none'")]
)
def test_commits_that_cannot_be_compared(compare_commits, old, message):
    with pytest.raises(ValueError, match=message):
        compare_commits(old, "wrong")

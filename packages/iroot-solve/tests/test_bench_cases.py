"""The maintained matrix: its names are those that were promised, filters find them, and problems are what they say.

Truths of the problems are compared with the same power by another route: of the formed float64 matrix. Both are right
to about n·κ·2⁻⁵³ < 1e-12 at κ = 1e3 and n ≤ 40.
"""

import pytest
import torch
from iroot_solve.bench import _arms, _cases
from iroot_solve.bench._cases import CASES, Case, Point
from iroot_solve.bench._measure import Settings, jobs
from iroot_solve.bench._problems import build, outline, relative_error, truth

CPU = torch.device("cpu")
POINTS = {
    "spd": (Case("spd", "spd", 3, ()), Point(20, 3, 1e3)),
    "root of a batch": (Case("root", "spd", 4, (), root=True), Point(20, 20, 1e3, batch=3)),
    "tall": (Case("gram", "gram", 2, ()), Point(20, 3, 1e3, m=40)),
    "wide": (Case("gram", "gram", 2, ()), Point(40, 3, 1e3, m=20)),
    "dual": (Case("dual", "dual", 2, ()), Point(20, 3, 1e3, m=40)),
    "wide dual": (Case("dual", "dual", 2, ()), Point(40, 3, 1e3, m=20)),
    "nonspd": (Case("nonspd", "nonspd", 1, ()), Point(20, 3, 1e3)),
}


def made(kind, dtype=torch.float32, trial=0):
    case, point = POINTS[kind]
    return build(case, point, trial, dtype, CPU, 1e-4)


def formed(problem):
    """A, or GᵀG + r·I, in float64."""
    if problem.A is not None:
        return problem.A.double()
    G = problem.G.double()
    return G.mT @ G + problem.ridge * torch.eye(G.shape[-1], dtype=torch.float64)


def eigh_power(A, p):
    values, V = torch.linalg.eigh(A)
    return (V * values.pow(-1 / p).unsqueeze(-2)) @ V.mT


# The matrix -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *(f"SPD p={p} {shape}" for p in (1, 2, 3, 4, 8) for shape in ("k<n", "k=n")),
        *("Gram p=2", "Gram p=4", "Gram wide p=2", "Dual p=2", "Non-SPD p=1", "Batch 64 p=2", "Batch 256x64 p=4"),
    ],
)
def test_every_promised_case_is_there_once(name):
    [case] = [case for case in CASES if case.name == name]
    assert f"p={case.p}" in case.name and case.points
    for point in case.points:
        assert (point.k < point.n) == (not case.name.endswith("k=n") and not case.root)
        assert (point.batch > 1) == case.name.startswith("Batch")
        assert (point.m is not None) == (case.problem in ("gram", "dual"))
        assert (point.rows < point.n) == ("wide" in case.name)


def test_points_are_told_apart_by_what_is_written_of_them():
    seen = [(c.name, p.n, p.m, p.k, p.batch, p.kappa) for c in CASES for p in c.points]
    assert len(seen) == len(set(seen))


def test_filters_look_for_a_part_of_the_name():
    assert [case.name for case in _cases.select("SPD p=2 k<n")] == ["SPD p=2 k<n"]
    assert [case.name for case in _cases.select("gram")] == ["Gram p=2", "Gram p=4", "Gram wide p=2"]
    assert _cases.select("") == CASES
    # What takes minutes on a CPU is asked for by name.
    assert not any(case.name.startswith("Large") for case in _cases.select("p=2"))
    assert [case.name for case in _cases.select("large root p=4")] == ["Large root p=4"]


def test_an_unknown_filter_lists_the_names():
    with pytest.raises(ValueError, match="--only: no case has 'SPD p=5'.*Non-SPD p=1, Batch 64 p=2") as error:
        _cases.select("SPD p=5")
    assert all(name in str(error.value) for name in _cases.names())
    with pytest.raises(ValueError, match="no case 'SPD'"):
        _cases.named("SPD")


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float64, 1e5), (torch.float32, 1e5), (torch.bfloat16, 1e1)])
def test_points_that_rounding_would_make_singular_are_left_out(dtype, largest):
    assert {max(point.kappa for point in case.solvable(dtype)) for case in CASES} == {largest}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_has_auto_a_baseline_and_no_more_than_applies(case):
    found = jobs([case], (*_arms.OWN, *_arms.BASELINES), 2, Settings(torch.float32, CPU, 1e-4, 1, 1))
    assert len(found) == 2 * len(case.points) and {job.trial for job in found} == {0, 1}
    for job in found:
        names = {arm.name for arm in job.arms}
        assert "auto" in names and names & {"eigh64", "cholesky64", "solve64"}
        assert (names & {"cholesky32", "cholesky"} != set()) == (case.problem == "spd" and case.p == 1)
        assert ("scipy-power" in names) <= (job.point.n <= 256)


def test_a_run_in_float64_has_no_arm_in_float32():
    found = jobs(CASES, _arms.BASELINES, 1, Settings(torch.float64, CPU, 1e-10, 1, 1))
    assert {arm.name for job in found for arm in job.arms} == {"eigh64", "cholesky64", "solve64", "scipy-power"}


# Arms by name ---------------------------------------------------------------------------------------------------------


def test_names_of_arms_are_unique_and_every_page_has_a_source():
    arms = _arms.every_arm()
    assert len({arm.name for arm in arms}) == len(arms)
    assert all("Source: " in arm.page for arm in arms)


def test_arms_are_chosen_by_name():
    assert [arm.name for arm in _arms.choose(("eigh64", "auto"))] == ["auto", "eigh64"]
    with pytest.raises(ValueError, match="--arms: there is no 'eigh16'; there are: auto, .*cholesky64"):
        _arms.choose(("auto", "eigh16"))


def test_an_arm_whose_package_is_missing_is_left_out_and_refused_by_name(monkeypatch):
    absent = _arms.Arm(
        "absent", "", lambda problem: True, lambda problem: lambda: problem.source, needs="no-such-thing"
    )
    monkeypatch.setattr(_arms, "RIVALS", (absent,))
    assert "absent" not in {arm.name for arm in _arms.choose()}
    with pytest.raises(ValueError, match="absent needs the package no-such-thing"):
        _arms.choose(("absent",))


# Problems -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", POINTS)
def test_truth_is_that_of_the_formed_matrix(kind):
    problem = made(kind)
    A, p, B = formed(problem), problem.p, None if problem.B is None else problem.B.double()
    if kind == "nonspd":
        Z = torch.linalg.inv(A) @ B
    elif kind == "wide dual":
        G = problem.G.double()
        Z = G.mT @ eigh_power(G @ G.mT, p) @ B
    else:
        right = problem.G.double().mT @ B if kind == "dual" else B
        Z = eigh_power(A, p) if right is None else eigh_power(A, p) @ right
    assert relative_error(Z, truth(problem)) < 1e-12


@pytest.mark.parametrize("kind", POINTS)
def test_problems_have_the_condition_that_they_say(kind):
    problem = made(kind, torch.float64)
    A = problem.G @ problem.G.mT if kind == "wide dual" else formed(problem)
    sigma = torch.linalg.svdvals(A)
    assert (sigma[..., 0] / sigma[..., -1]).tolist() == pytest.approx(
        [1e3] * 3 if problem.source.ndim == 3 else 1e3, rel=1e-8
    )


@pytest.mark.parametrize("spectrum", _cases.SPECTRA)
def test_spectra_reach_from_one_to_the_condition(spectrum):
    case = Case("spectrum", "spd", 2, (), root=True, spectrum=spectrum)
    values = torch.linalg.eigvalsh(build(case, Point(64, 64, 1e3), 0, torch.float64, CPU, 1e-4).A)
    assert values[-1].item() == pytest.approx(1.0) and values[0].item() == pytest.approx(1e-3)
    small = {"log-spaced": 1 / 3, "power law": 1 - 16 / 64, "cluster and tail": 2 / 64, "Wishart": 0.1}[spectrum]
    assert (values < 0.01).double().mean().item() == pytest.approx(small, abs=0.07)


def test_a_damped_matrix_is_singular_without_its_ridge():
    case, point = Case("damped", "spd", 2, (), root=True, damped=True), Point(64, 64, 1e8)
    problem = build(case, point, 0, torch.float32, CPU, 1e-4)
    values = torch.linalg.eigvalsh(problem.A.double())
    assert values[0].abs() < 1e-7 and case.solvable(torch.float32) == case.points
    assert ((values[-1] + problem.ridge) / (values[0] + problem.ridge)).item() == pytest.approx(1e8, rel=1e-4)


@pytest.mark.parametrize("kind", POINTS)
def test_the_outline_of_a_problem_is_the_problem_without_values(kind):
    problem, (case, point) = made(kind), POINTS[kind]
    sketch = outline(case, point, torch.float32, CPU, 1e-4)
    for name in ("A", "G", "B"):
        real, empty = getattr(problem, name), getattr(sketch, name)
        assert (real is None) == (empty is None)
        assert real is None or (real.shape, real.dtype, real.device) == (empty.shape, empty.dtype, empty.device)
    for name in ("kind", "p", "kappa", "tol", "ridge"):
        assert getattr(problem, name) == getattr(sketch, name)


def test_a_trial_is_a_seed():
    assert torch.equal(made("spd").A, made("spd").A)
    assert not torch.equal(made("spd", trial=1).A, made("spd").A)
    A, B = made("root of a batch").A[:2]
    assert not torch.equal(A, B)


def test_the_error_is_the_worst_of_a_batch_and_null_where_it_is_no_number():
    true = torch.ones(2, 4, 4, dtype=torch.float64)
    Z = true.clone()
    Z[1] *= 1.5
    assert relative_error(Z, true) == pytest.approx(0.5)
    Z[0, 0, 0] = torch.nan
    assert relative_error(Z, true) is None
    assert relative_error(true[0], true) is None

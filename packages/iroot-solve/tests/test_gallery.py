"""The contract on the gallery of hard spectra: a result that says converged is right, and its estimate is honest.

Truth is a float64 eigendecomposition of the stored numbers for float32 and 16-bit matrices, and mpmath's for float64
ones and beyond κ = 1e8. Rounding of Z to its dtype is no error of the solver: it may add u of that dtype to the
measured error, once.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_solve import IrootError, SolveResult, solve_spd
from iroot_solve.bench import _manifest
from iroot_solve.gallery import CASES, KINDS, POWERS, Case, Truth, relative_error
from iroot_solve.gallery import _matrices as matrices
from iroot_solve.gallery import _spectra as spectra
from iroot_solve.gallery.__main__ import main
from iroot_solve.gallery._record import read_samples, report
from iroot_solve.gallery._survey import Sample
from iroot_solve.gallery._table import rows, verdict

U32 = 2.0**-24
LOG_SPACED_BOUNDS = {1e2: 2e-6, 1e4: 6e-5, 1e6: 4e-3}
ITERATIONS = ("direct-solve", "materialize-root")
by_label = {case.label: case for case in CASES}
answered = [case for case in CASES if case.status == "converged"]
labelled = {"argvalues": CASES, "ids": lambda case: case.label}


def attempt(A, B, **options) -> SolveResult:
    """The result, also where it comes with an exception."""
    try:
        return solve_spd(A, B, **options)
    except IrootError as failure:
        assert failure.result is not None
        return failure.result


def rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def right_hand_side(truth: Truth, kind: str, dtype: torch.dtype):
    return None if kind == "root" else truth.right_hand_side(kind, dtype)


@cache
def root(case: Case, p: int, kind: str) -> torch.Tensor:
    """(A + ridge·I)^(-1/p)·B, or the root itself, by the case's own truth; mpmath's takes longer than most solves."""
    truth = case.truth()
    return truth.power(Fraction(-1, p), right_hand_side(truth, kind, case.dtype))


def true_error(case: Case, Z: torch.Tensor, p: int, kind: str) -> float:
    return relative_error(Z, root(case, p, kind))


def breaches(result: SolveResult, error: float, tol: float, u: float) -> list[str]:
    """What is wrong with a result whose true error is `error`.

    0.1·(t − u) ≤ estimate ≤ 10·(t + u): the estimate is of Z before it is rounded to its dtype, the measured error t is
    of Z after that, and the two errors differ by u at most. Above 1e-3 an estimate may exceed the truth by more.
    """
    if result.stats.status != "converged":
        return []
    estimate = float(result.stats.error)
    return [
        *([f"wrong and converged: {error:.2e} > {tol:.1e}"] if not error <= tol + u else []),
        *([f"estimate {estimate:.2e} below a tenth of {error:.2e}"] if not 0.1 * (error - u) <= estimate else []),
        *([f"estimate {estimate:.2e} above ten times {error:.2e}"] if 1e-3 >= estimate > 10 * (error + u) else []),
    ]


# The table -----------------------------------------------------------------------------------------------------------


def test_labels_are_unique():
    assert len(by_label) == len(CASES)


@pytest.mark.parametrize("kind", ["log-spaced", "one tiny", "cluster", "power law", "Wishart", "Marchenko", "Hilbert",
                                  "Kahan", "rank", "ridge", "graded", "1e±150", "denormal"])  # fmt: skip
def test_every_kind_is_there(kind):
    assert any(kind in case.label for case in CASES)


@pytest.mark.parametrize("case", **labelled)
def test_matrices_are_dense_symmetric_and_have_their_spectrum(case):
    A, spectrum = case.build()
    assert A.dtype is torch.float64 and torch.equal(A, A.mT)
    assert A.shape == (case.n, case.n)
    assert bool((A[0, 1:] != 0).all()) and int((case.matrix() != 0).sum()) > 0.99 * case.n**2
    if spectrum is not None:
        scale = spectrum.max()
        found = torch.linalg.eigvalsh(A / scale).flip(0)
        # Three roundings of V·Λ·Vᵀ and the backward error of eigvalsh, each about √n·u·λmax; denormals keep fewer bits.
        u = max(rounding(torch.float64), 5e-324 / float(scale))
        assert (found - spectrum / scale).abs().max() <= 8 * case.n * u


def test_marchenko_pastur_has_its_moments():
    """The law has mean 1 and second moment 1 + aspect; quantiles of 2000 matrices' worth integrate to 1e-3."""
    x = spectra.marchenko_pastur(2000, 0.5) * (1 + math.sqrt(0.5)) ** 2
    assert x.mean() == pytest.approx(1, abs=1e-3) and (x**2).mean() == pytest.approx(1.5, abs=2e-3)


# The truth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["Wishart 2:1 n=24 float64", "log-spaced 1e+04 n=24 float64"])
@pytest.mark.parametrize("p", POWERS)
def test_the_exact_truth_agrees_with_float64_to_rounding(label, p):
    case = by_label[label]
    exact, A = case.truth(), case.matrix()
    assert exact.exact is not None
    plain = Truth(*torch.linalg.eigh(A))
    # A float64 eigendecomposition is exact for A + δA, ‖δA‖ ≤ √n·u·‖A‖, which moves the root by κ·√n·u at most.
    bound = exact.kappa * math.sqrt(case.n) * rounding(torch.float64) + 8 * rounding(torch.float64)
    assert relative_error(plain.power(Fraction(-1, p), None), exact.power(Fraction(-1, p), None)) <= bound


def test_the_exact_truth_is_finer_than_float64():
    """X^(-2) against A, both in mpmath: the root itself satisfies its equation to 1e-25 at κ = 1e10."""
    import mpmath

    case = by_label["log-spaced 1e+10, default tol n=24 float64"]
    truth = case.truth()
    values, V = truth.exact
    with mpmath.workdps(truth.digits):
        A = np.vectorize(mpmath.mpf, otypes=[object])(case.matrix().numpy())
        X = (V * np.array([1 / mpmath.sqrt(value) for value in values])) @ V.T
        assert max(map(abs, (X @ A @ X - np.eye(24)).ravel())) < 1e-25


def test_errors_of_what_is_no_number_are_infinite():
    truth = Truth(*torch.linalg.eigh(torch.eye(2, dtype=torch.float64)))
    assert truth.error(torch.tensor([[math.nan, 0.0], [0.0, 1.0]]), Fraction(-1, 2), None) == math.inf
    assert Truth(torch.tensor([-1.0, 1.0]), torch.eye(2)).kappa == math.inf


# The gallery, as `auto` solves it ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("case", **labelled)
def test_gallery(case: Case, p: int):
    """Statuses as expected; converged is true; estimates are honest: for B random and aligned with either end."""
    truth, A, u = case.truth(), case.matrix(), rounding(case.dtype)
    found = {}
    for kind in KINDS:
        B = truth.right_hand_side(kind, case.dtype)
        result = attempt(A, B, p_val=p, tol=case.tol, ridge=case.ridge, ridge_rel=case.ridge_rel)
        error = math.nan if truth.kappa == math.inf else true_error(case, result.Z, p, kind)
        bad = breaches(result, error, case.tol, u)
        if not case.allows(result.stats.status, p, kind):
            bad.append(f"{result.stats.status} instead of {case.expected(p, kind)}")
        if bad:
            found[kind] = bad
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("case", answered, ids=lambda case: case.label)
def test_gallery_at_loose_tolerances(case: Case):
    """The looser the tolerance, the more the estimate decides alone: converged has to be true there as well."""
    truth, A, found = case.truth(), case.matrix(), {}
    for p in (2, 3):
        for kind in (*KINDS, "root"):
            B = right_hand_side(truth, kind, case.dtype)
            for tol in (1e-1, 1e-2, 1e-3):
                if tol < 2 * rounding(case.dtype):
                    continue
                result = attempt(A, B, p_val=p, tol=tol, ridge=case.ridge, ridge_rel=case.ridge_rel)
                error = true_error(case, result.Z, p, kind)
                if result.stats.status == "converged" and not error <= tol + rounding(case.dtype):
                    found[p, kind, tol] = f"true {error:.2e}, estimate {float(result.stats.error):.2e}"
    assert found == {}


def test_a_result_beyond_the_range_of_its_dtype_is_not_called_converged():
    """(1e-40·A₀)⁻¹ has entries near 1e40: there is no float32 for them."""
    result = attempt(by_label["denormal, scaled to 1e-40 n=96 float32"].matrix(), None, p_val=1)
    assert bool(result.Z.isfinite().all()) or result.stats.status != "converged"


# Accuracy in float32 alone -------------------------------------------------------------------------------------------


fits_float32 = [case for case in answered if case.dtype is torch.float32 and case.truth().kappa <= 1.02e6]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ITERATIONS)
@pytest.mark.parametrize("case", fits_float32, ids=lambda case: case.label)
def test_accuracy_of_the_iteration_in_float32(case: Case, strategy: str):
    """p = 2, log-spaced: 2e-6, 6e-5, 4e-3; elsewhere max(2κu, 5e-6), where float32 eigh has 0.6 to 1.7·κu for p = 2.

    Asked for 2u with κ promised, so that the first plan is long enough and only rounding is left.
    """
    truth, A, found = case.truth(), case.matrix(), {}
    kind = "random" if strategy == "direct-solve" else "root"
    for p in POWERS:
        B = right_hand_side(truth, kind, case.dtype)
        if B is None and case.matrix().abs().max() < 1e-30 and p == 1:
            continue  # the inverse is beyond float32
        options = {"ridge": case.ridge, "ridge_rel": case.ridge_rel, "kappa_max": 1.01 * truth.kappa}
        result = attempt(A, B, p_val=p, tol=2 * U32, strategy=strategy, precision="fp32", fallback=False, **options)
        assert (result.stats.strategy, result.stats.precision, result.stats.fallbacks) == (strategy, "fp32", ())
        bound = max(2 * truth.kappa * U32, 5e-6)
        if p == 2 and case.name.startswith("log-spaced"):
            bound = LOG_SPACED_BOUNDS[float(case.name.split()[1])]
        error = true_error(case, result.Z, p, kind)
        if not error <= bound:
            found[p] = f"{error:.2e} > {bound:.2e}"
    assert found == {}


@pytest.mark.slow
@pytest.mark.parametrize("p", POWERS)
@pytest.mark.parametrize("kind", [*KINDS, "root"])
def test_float64_at_1e10(p: int, kind: str):
    """κ·2⁻⁵³ = 1e-6: an answer to 1e-5 can be had, and is."""
    case = by_label["log-spaced 1e+10 n=48 float64"]
    truth = case.truth()
    assert truth.exact is not None and case.n <= 64
    B = right_hand_side(truth, kind, case.dtype)
    result = solve_spd(case.matrix(), B, p_val=p, tol=1e-5)
    assert result.stats.status == "converged" and true_error(case, result.Z, p, kind) <= 1e-5


# Scale equivariance --------------------------------------------------------------------------------------------------

few = settings(max_examples=25, deadline=None, derandomize=True)
plans = st.sampled_from(
    [{}, *({"strategy": s, "precision": r} for s in (*ITERATIONS, "eigh") for r in ("auto", "fp32", "fp64"))]
)


@few
@given(log_c=st.floats(-20, 20), p=st.sampled_from(POWERS), plan=plans)
def test_scale_equivariance(log_c, p, plan):
    """Z(cA) = c^(-1/p)·Z(A) to the tolerance: rounding c·A to float32 moves the root by κu = 2e-6 only."""
    case = by_label["Wishart 2:1 n=96 float32"]
    A, c = case.matrix(), 10.0**log_c
    B = case.truth().right_hand_side("random", case.dtype)
    Z = solve_spd(A, B, p_val=p, **plan).Z.double()
    scaled = solve_spd((c * A.double()).float(), B, p_val=p, **plan).Z.double()
    assert relative_error(scaled * c ** (1 / p), Z) <= 2 * case.tol + case.truth().kappa * U32


@few
@given(j=st.integers(-66, 66), p=st.sampled_from(POWERS), plan=plans, kind=st.sampled_from(["random", "root"]))
def test_scale_equivariance_is_exact_for_powers_of_two_to_the_p(j, p, plan, kind):
    """A ↦ 2^(pi)·A gives 2^(-i)·Z bit for bit, |pi| ≤ 66 being 1e±20."""
    case = by_label["Wishart 2:1 n=96 float32"]
    if kind == "root" and plan.get("strategy") == "direct-solve":
        return
    i = int(j / p)
    A, B = case.matrix(), right_hand_side(case.truth(), kind, case.dtype)
    Z, scaled = solve_spd(A, B, p_val=p, **plan).Z, solve_spd(A * 2.0 ** (p * i), B, p_val=p, **plan).Z
    assert torch.equal(scaled * 2.0**i, Z)


# A bound that is none ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 0.99])
@pytest.mark.parametrize("p", [2, 4])
@pytest.mark.parametrize("label", ["log-spaced 1e+02 n=96 float32", "cluster and tail 1e+06 n=96 float32",
                                   "power law 2 n=96 float32", "Wishart 2:1 n=24 float64"])  # fmt: skip
def test_an_underestimated_lambda_max_is_found_out(label, p, share):
    """λmax outside the plan converges to −λ^(-1/p) without a residual of even p seeing it: never under `converged`."""
    case = by_label[label]
    truth, A, found = case.truth(), case.matrix(), {}
    for strategy in ("auto", *ITERATIONS, "eigh"):
        for kind in ("random", "top") + (("root",) if strategy != "direct-solve" else ()):
            for fallback in (True, False):
                B = right_hand_side(truth, kind, case.dtype)
                options = {"lambda_max": share * float(truth.values[-1]), "fallback": fallback, "strategy": strategy}
                result = attempt(A, B, p_val=p, tol=case.tol, **options)
                error = true_error(case, result.Z, p, kind)
                if result.stats.status == "converged" and not error <= case.tol + rounding(case.dtype):
                    found[strategy, kind, fallback] = error
    assert found == {}


# Anything at all -----------------------------------------------------------------------------------------------------


def random_matrix(rng: np.random.Generator, dtype: torch.dtype, n: int, seed: int) -> torch.Tensor:
    kappa = 10 ** rng.uniform(0, 2 if dtype is torch.bfloat16 else 7)
    decades = rng.uniform(0, {torch.bfloat16: 3, torch.float32: 14, torch.float64: 14}[dtype])
    log, tiny, cluster, two = spectra.log_spaced, spectra.one_tiny, spectra.cluster_and_tail, spectra.two_values
    builders = [
        *(lambda make=make: matrices.dense(make(n, kappa), seed=seed) for make in (log, tiny, cluster, two)),
        lambda: matrices.dense(spectra.power_law(n, float(rng.uniform(0.5, 3))), seed=seed),
        lambda: matrices.wishart(n, 1 + int(n * rng.uniform(1.05, 4)), seed),
        lambda: matrices.graded(min(n, 16), decades, bool(rng.integers(2)), seed=seed),
    ]
    return builders[rng.integers(len(builders))]().A.to(dtype)


def random_problem(seed: int):
    """Dtype, size, spectrum, p, kind of B, strategy, precision, tolerance and fallback, all drawn."""
    rng = np.random.default_rng(seed)
    dtype = [torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16][rng.integers(5)]
    A = random_matrix(rng, dtype, int(rng.integers(2, 13 if dtype is torch.float64 else 65)), seed)
    p, kind = int(rng.choice([1, 2, 3, 4, 5, 8])), str(rng.choice([*KINDS, "root"]))
    names = ["auto", "materialize-root", "eigh"]
    names += ["direct-solve"] * (kind != "root") + ["cholesky"] * (p == 1)
    precisions = ["auto"] if dtype is torch.float64 else ["auto", "fp32", "fp64"]
    options = {
        "p_val": p,
        "tol": float(10 ** rng.uniform(math.log10(2.1 * rounding(dtype)), -1)),
        "strategy": str(rng.choice(names)),
        "precision": str(rng.choice(precisions)),
        "fallback": bool(rng.integers(2)),
    }
    return A, kind, options


@pytest.mark.slow
@pytest.mark.parametrize("block", range(10))
def test_random_problems_are_never_wrong_and_converged(block):
    found, checked = {}, 0
    for seed in range(30 * block, 30 * block + 30):
        A, kind, options = random_problem(seed)
        truth = Truth.of(A)
        if truth.kappa == math.inf:  # rounding to the dtype made it indefinite
            continue
        B = right_hand_side(truth, kind, A.dtype)
        result = attempt(A, B, **options)
        error = truth.error(result.Z, Fraction(-1, options["p_val"]), B)
        # An estimate above ten times the truth is no wrong answer; grading makes results better than κu by chance.
        bad = [text for text in breaches(result, error, options["tol"], rounding(A.dtype)) if "above" not in text]
        checked += 1
        if bad:
            found[seed] = (tuple(A.shape), A.dtype, kind, options, f"κ = {truth.kappa:.1e}", bad)
    assert found == {} and checked >= 15


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_keeps_the_run(tmp_path, capsys):
    assert main(["--only", "hilbert", "--p", "1", "2", "--out", str(tmp_path), "--slug", "try"]) in (0, 1)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("Hilbert", "not_positive_definite", "singular", "float64", "eigh"))
    (folder,) = tmp_path.iterdir()
    facts = json.loads((folder / "manifest.json").read_text("utf-8"))
    _manifest.validate(facts)
    assert folder.name == _manifest.folder_name(facts) and "_try_cpu_" in folder.name and facts["finished"]
    assert facts["command"] == "python -m iroot_solve.gallery --only 'hilbert' --p 1 2" and facts["powers"] == [1, 2]
    samples = read_samples(folder)
    cases = [case for case in CASES if "Hilbert" in case.label]
    assert len([sample for sample in samples if sample.arm == "auto"]) == len(cases) * 2 * len(KINDS)
    assert report(facts, samples) == (folder / "report.md").read_text("utf-8")
    with pytest.raises(SystemExit, match="2"):  # before anything is solved
        main(["--only", "hilbert", "--out", str(tmp_path), "--slug", "try"])
    assert "is there already; choose another --slug" in capsys.readouterr().err


def test_the_command_refuses_an_unknown_case(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "no such matrix"])
    assert "--only" in capsys.readouterr().err


def sample(**changes) -> Sample:
    facts = {"case": "x", "n": 4, "dtype": "float32", "tol": 1e-4, "expected": "converged", "arm": "auto", "p": 2}
    facts |= {"side": "top", "kappa": 1e2, "status": "converged", "strategy": "eigh", "precision": "fp64", "steps": 0}
    facts |= {"products": {"eigh": 1}, "fallbacks": (), "error": 1e-5, "estimate": 1e-5, "eigh_error": math.nan}
    return Sample(**{**facts, **changes})


def test_verdict_counts_what_is_wrong():
    assert not sample().surprising and not sample(expected="stagnated").surprising
    assert sample(error=1e-3).surprising and sample(error=math.nan).surprising
    assert sample(status="singular").surprising and not sample(arm="float32 root", error=1.0).surprising
    text = verdict([sample(), sample(error=1e-3), sample(status="stagnated")])
    assert text.startswith("3 solves, 2 of them converged, 1 of those") and "; 1 ended" in text


def test_rows_show_the_worst_right_hand_side():
    (row,) = rows([sample(side="random"), sample(side="top", error=5e-5), sample(side="bottom", error=2e-5)])
    assert row[6:9] == ("5.0e-05", "1.0e-05", "top") and row[9] == "–" and row[-1] == "1 eigh"

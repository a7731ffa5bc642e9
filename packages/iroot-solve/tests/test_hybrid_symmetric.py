"""p = 1 by symmetric products and corrections: what a correction leaves, the choice, rungs, under the interpreter."""

from dataclasses import replace
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from iroot_coeffs import plan
from iroot_kernels import SymmetricRoot, Workspace, has_form
from iroot_solve import _case, _hybrid_symmetric, _plain, _solve, solve_spd
from iroot_solve._bridge import polynomial
from iroot_solve._choose import candidates, choose
from iroot_solve._hybrid import Correction, HybridSchedule, correct_on_columns
from iroot_solve._hybrid_symmetric import LEFT, MOST_LEFT, ONE_PLANE, hybrid_ms
from iroot_solve._symmetric import symmetric_rounding
from iroot_solve._task import Task

quiet = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
N, INVERSE = 64, Fraction(-1)
TASK = Task(4096, 64, 1, INVERSE, 1e-4, False, device="cuda", symmetric=True)


@pytest.fixture
def interpreted():
    """The kernels on a CPU."""
    if torch.cuda.is_available() or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")


@pytest.fixture
def device(interpreted, monkeypatch):
    """A solve on a CPU takes itself for one on a device with symmetric products, without cheaper ways around it."""
    known = _case.task_of

    def task_of(problem, options):
        return replace(known(problem, options), device="cuda", symmetric=True)

    for module in (_case, _solve):
        monkeypatch.setattr(module, "task_of", task_of)
    monkeypatch.setattr(_plain, "_applies", lambda problem, options: False)


def _spectrum(name, n, kappa):
    if name == "log":
        return np.logspace(-np.log10(kappa), 0, n)
    if name == "cluster":
        return np.concatenate((np.ones(n - n // 8), kappa ** -np.linspace(0, 1, n // 8)))
    return np.concatenate((np.linspace(0.5, 1, n - 1), [1 / kappa]))


def _steps(kappa, stop):
    return plan(1, kappa=kappa, tol=stop, degrees=(1, 2, 3), k_over_n=0.5, terminal_degrees=(1, 2, 3, 4)).rescaled(1.01)


def _different(fallbacks):
    """No rung but that of more steps is taken twice."""
    rungs = [rung for rung in fallbacks if rung != "more steps"]
    return len(set(rungs)) == len(rungs)


def _contraction(errors):
    return max(after / before for before, after in zip(errors, errors[1:], strict=False))


@quiet
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kappa", "spectrum", "k"),
    [(10.0, "log", 1), (1e2, "cluster", 16), (1e3, "lone", 16), (1e3, "log", N // 2), (1e3, "cluster", 1)],
)
def test_what_a_correction_leaves(interpreted, with_spectrum, rhs, truth, distance, kappa, spectrum, k):
    """ε + O(1)·ρ with the ρ of this matrix, whatever stands alone; and what the table says of it to a factor of two."""
    A, B = with_spectrum(_spectrum(spectrum, N, kappa), dtype=torch.float32), rhs(N, k)
    steps = _steps(1.1 * kappa, 0.01)
    root = SymmetricRoot([polynomial(step) for step in steps], p=1, upper=steps.steps[0].hi, precision="fp16")
    first = root(A[None], B[None]).clone()
    exact = truth(A, None, -1)
    rho = distance(root.again(torch.eye(N)[None])[0], exact)
    correction = Correction(root.again, A[None].double(), B[None].double(), Workspace())
    errors = [distance(correction.run(m, first)[0], exact @ B.double()) for m in range(4)]
    found = _contraction(errors)
    # ε is among ρ, whose share of small eigenvalues may be larger than that of e: a factor of five for both.
    assert found <= steps.error + 5 * rho
    table = symmetric_rounding("fp16", 0, steps.steps[0].degree, kappa, INVERSE)
    predicted = steps.error + LEFT * table
    assert predicted / 20 <= found <= 2 * predicted


@quiet
@pytest.mark.parametrize("spectrum", ["log", "lone"])
def test_a_formed_root_in_one_plane_is_no_inverse(interpreted, with_spectrum, rhs, truth, distance, spectrum):
    """κ = 10³: its error is 2 to 3 % like that of the factors, but not where the next one of Z lies."""
    n = 96  # what is left grows with n: 0.30 at 64, 2.7 here
    A, B = with_spectrum(_spectrum(spectrum, n, 1e3), dtype=torch.float32), rhs(n, 4)
    steps = plan(1, kappa=1.1e3, tol=1e-3, degrees=(1, 2, 3, 4)).rescaled(1.01)
    X = SymmetricRoot([polynomial(step) for step in steps], p=1, upper=steps.steps[0].hi, precision="fp16")(A[None])
    exact = truth(A, None, -1)
    assert distance(X[0], exact) <= 0.1
    correction = Correction(lambda V: X.double() @ V, A[None].double(), B[None].double(), Workspace())
    errors = [distance(correction.run(m)[0], exact @ B.double()) for m in range(4)]
    assert _contraction(errors) > MOST_LEFT


@quiet
@pytest.mark.parametrize(("k", "name"), [(1, "fp16"), (70, "fp16x3")])
def test_columns_take_no_wide_copies(interpreted, spd, rhs, truth, distance, k, name):
    """One float64 matrix, that of A; the error falls by what is left each time, and the outcome knows how to go on."""
    A, B, ws = spd(N, 1e2), rhs(N, k), Workspace()
    steps, exact = _steps(1.1e2, 0.1), truth(A, None, -1) @ B.double()
    errors = []
    for m in (0, 1, 2):
        schedule = HybridSchedule(steps, m, False, 0.01)
        wide = (A[None].double(), B[None].double())
        outcome = correct_on_columns(A[None], B[None], schedule, wide, name, ws, 1e-4)
        errors.append(distance(outcome.Z[0], exact))
        thin = (m + 1) * schedule.factors + m
        assert outcome.products["columns"] == thin * k and outcome.products["square"] <= steps.products()
    assert errors[2] <= schedule.left * errors[1] <= schedule.left**2 * errors[0]
    X = outcome.root.power(1, B[None].double())
    assert distance(X[0], exact) <= 0.2 and X.dtype is torch.float64
    assert not any(held.shape[-2:] == (N, N) and held.dtype is torch.float64 for held in ws._buffers.values())
    again = correct_on_columns(A[None], B[None], replace(schedule, corrections=0), wide, name, ws, 1e-6).resume()
    assert distance(again.Z[0], exact) <= 1e-6 and again.schedule.corrections > 1 and again.resume is None


@quiet
@pytest.mark.parametrize(
    ("kappa", "spectrum", "k"),
    [(10.0, "log", 1), (1e2, "cluster", N // 2), (1e3, "lone", 16), (1e4, "log", 16), (1e4, "cluster", 1)],
)
def test_a_solve(device, with_spectrum, rhs, truth, distance, kappa, spectrum, k):
    A, B = with_spectrum(_spectrum(spectrum, N, kappa), dtype=torch.float32), rhs(N, k)
    found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc")
    true = distance(found.Z, truth(A, B, -1))
    assert found.stats.status == "converged" and true <= 1e-4
    assert 0.1 * (true - 2.0**-23) <= float(found.stats.error) <= 1e-4
    assert found.stats.strategy == "hybrid-pe-nsrc" and found.stats.backend.startswith("triton")


@quiet
@pytest.mark.parametrize("name", ["fp16", "fp16x3"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_named_planes(device, spd, rhs, truth, distance, name, batch):
    A, B = spd(N, 1e2).repeat(*batch, 1, 1), rhs(*batch, N, 3)
    found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc", precision=name)
    assert found.stats.precision == name and found.stats.fallbacks in ((), ("more steps",))
    assert distance(found.Z, truth(A, B, -1)) <= 1e-4


@quiet
def test_a_prediction_that_is_too_kind_is_found_out(device, spd, rhs, truth, distance, monkeypatch):
    """One plane of fp16 is taken for exact: at κ = 10⁴ a correction leaves a quarter, and more of them help; at 10⁶
    none does, and the next rung is another one."""
    rounding = _hybrid_symmetric.symmetric_rounding
    kind = {"fp16": 1e-5, "fp16x3": 1.0}
    monkeypatch.setattr(_hybrid_symmetric, "symmetric_rounding", lambda way, *a: kind[way] * rounding(way, *a))
    # In the table's time one plane is no faster for so small a matrix, and float64 no slower.
    faster = {"fp16": 0.1, "fp16x3": 0.5}
    monkeypatch.setattr(_hybrid_symmetric, "hybrid_ms", lambda task, s, way: hybrid_ms(task, s, way) * faster[way])
    B = rhs(N, 3)
    for kappa in (1e4, 1e6):
        A = spd(N, kappa)
        found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc", kappa_max=2 * kappa)
        assert found.stats.fallbacks[0] == ("more steps" if kappa < 1e5 else "hybrid-pe-nsrc in fp16x3")
        assert _different(found.stats.fallbacks)
        assert found.stats.status == "converged" and distance(found.Z, truth(A, B, -1)) <= 1e-4


@quiet
@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_an_eigenvalue_that_was_not_foreseen(device, with_spectrum, rhs, truth, distance, precision):
    """A broken promise: what X has not begun on is in no correction, and only the certificate can see it."""
    A = with_spectrum(np.concatenate((np.linspace(0.2, 1, N - 1), [1e-5])), dtype=torch.float32)
    V = torch.linalg.eigh(A.double())[1]
    B = (V[:, 1:] @ rhs(N - 1, 3, dtype=torch.float64)).float()  # it has hardly any part in B
    for right in (B, rhs(N, 3)):
        found = solve_spd(A, right, p_val=1, strategy="hybrid-pe-nsrc", kappa_max=1e2, precision=precision)
        assert found.stats.fallbacks and _different(found.stats.fallbacks)
        assert found.stats.status == "converged" and distance(found.Z, truth(A, right, -1)) <= 1e-4


@pytest.mark.parametrize("kappa", [10.0, 1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("n", [512, 4096])
def test_candidates(n, kappa):
    """What is predicted to contract meets the tolerance, what is not is never taken; one plane never forms X."""
    task = replace(TASK, n=n)
    found = [c for c in candidates(task, 1 / kappa, 1.0) if c.strategy == "hybrid-pe-nsrc" and c.symmetric]
    assert {(c.precision, c.schedule.formed) for c in found} == {
        ("fp16", False),
        ("fp16x3", False),
        ("fp16x3", True),
    }
    for c in found:
        assert task.meets(c.error) == (c.schedule.left <= MOST_LEFT)
        steps = c.schedule.steps.steps
        assert c.schedule.steps.kappa >= 0.99 * kappa
        assert all(has_form(polynomial(step)) for step in (steps if c.schedule.formed else steps[:-1]))
        times = 0.5 * kappa if c.schedule.formed else LEFT
        table = symmetric_rounding(c.precision, 0, c.schedule.steps.steps[0].degree, kappa, INVERSE)
        assert c.schedule.rounding == pytest.approx(times * table)
    assert any(task.meets(c.error) for c in found if c.precision not in ONE_PLANE)
    quiet_task = replace(task, reduced=False)
    rest = [c for c in candidates(quiet_task, 1 / kappa, 1.0) if c.strategy == "hybrid-pe-nsrc" and c.symmetric]
    assert {c.precision for c in rest} == {"fp16x3"}


def test_where_auto_takes_it():
    """By the shipped table at n = 4096 and κ = 10; never where there are no symmetric products, in this form."""
    chosen = choose(TASK, 1 / 13, 1.0, "auto", 10.0)
    assert (chosen.strategy, chosen.precision, chosen.schedule.formed) == ("hybrid-pe-nsrc", "fp16", False)
    for other in (replace(TASK, symmetric=False), replace(TASK, precisions=("fp32",)), replace(TASK, device="cpu")):
        other = replace(other, symmetric=other.symmetric and other.device == "cuda")
        hybrids = [c for c in candidates(other, 0.1, 1.0) if c.strategy == "hybrid-pe-nsrc"]
        assert hybrids and all(c.schedule.formed and not c.symmetric and not c.schedule.rounding for c in hybrids)


def test_a_thin_product_that_costs_less_is_used_more():
    """The end of a schedule goes to the columns where they are few and the matrix is large."""
    few = choose(replace(TASK, n=16384, k=1), 1e-2, 1.0, "hybrid-pe-nsrc")
    many = choose(replace(TASK, n=16384, k=1024), 1e-2, 1.0, "hybrid-pe-nsrc")
    assert few.schedule.steps.products(0.0) < many.schedule.steps.products(0.0 if not many.schedule.formed else None)
    assert few.schedule.factors > many.schedule.factors


def test_another_right_hand_side_is_solved_anew(spd, rhs, truth, distance):
    """X alone is no answer for it, and no reason to climb to float64."""
    A, ws = spd(300, 1e2), None
    for seed in (1, 2):
        B = rhs(300, 3, seed=seed)
        found = solve_spd(A, B, p_val=1, strategy="hybrid-pe-nsrc", expected_reuse=5, workspace=ws)
        ws = found.workspace
        assert found.stats.fallbacks == () and found.stats.precision == "fp32"
        assert distance(found.Z, truth(A, B, -1)) <= 1e-4

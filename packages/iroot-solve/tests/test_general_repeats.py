"""General systems that repeat are replayed: by a plan that reads nothing, with the certificate of an eager call.

Truth is a float64 solve: κ·u of float64 is 1e-12 at most here, far below every tolerance.
"""

import numpy as np
import pytest
import torch
from iroot_kernels import Workspace
from iroot_solve import IrootError, SolveWorkspace, _general_repeats, _general_solve, solve_nonspd, solve_spd
from iroot_solve._general_repeats import ANEW, FINENESS, FORGOTTEN, LARGEST_KAPPA, OFTEN, GeneralRepeat
from iroot_solve._general_system import Hardness
from iroot_solve._newton_schulz import MOST_NOISE, NewtonSchulz
from iroot_solve._problem import read_problem
from iroot_solve._repeats import MARGIN, RECORDED_FROM, with_margin
from iroot_solve._schulz_planned import planned

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
REPLAYED = ", replayed"


@pytest.fixture(autouse=True)
def a_device(monkeypatch):
    """A CPU stands for one: there is no graph, and a replay is the planned call itself."""
    monkeypatch.setattr("iroot_solve._repeats.ON", ("cpu", "cuda"))


def general(n, kappa, seed=0, dtype=torch.float32, smallest=None):
    """U·diag(σ)·Vᵀ with random orthogonal U and V, σ logarithmic; or a lone smallest one."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    sigma = np.logspace(0, -np.log10(kappa), n)
    sigma[-1] = sigma[-1] if smallest is None else smallest
    return torch.from_numpy((U * sigma) @ V.T).to(dtype)


def expected(A, B):
    return torch.linalg.solve(A.double(), torch.eye(A.shape[-1], dtype=torch.float64) if B is None else B.double())


def called(A, B, ws, **settings):
    """The result, and the one that an exception carries."""
    try:
        return solve_nonspd(A, B, workspace=ws, strategy="newton-schulz", **settings)
    except IrootError as error:
        return error.result


def trained(n, kappa, B, dtype=torch.float32, **settings):
    """A workspace that has seen enough of these."""
    ws = SolveWorkspace()
    results = [called(general(n, kappa, seed, dtype), B, ws, **settings) for seed in range(4)]
    assert was_replayed(results)[-1]
    return ws


def was_replayed(results):
    return [result.stats.backend.endswith(REPLAYED) for result in results]


@pytest.mark.parametrize("kappa", [1.5, 1e2, 1e3])
@pytest.mark.parametrize("columns", [None, 5])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_third_call_is_replayed_and_right(rhs, distance, within, dtype, columns, kappa):
    if dtype is torch.bfloat16:
        kappa = min(kappa, 30.0)  # rounding A moves small singular values by 2^-9 of the largest
    B = None if columns is None else rhs(96, columns, dtype=dtype)
    matrices = [general(96, kappa, seed, dtype) for seed in range(7)]
    ws = SolveWorkspace()
    results = [called(A, B, ws) for A in matrices]
    assert was_replayed(results) == [False] * (RECORDED_FROM - 1) + [True] * 5
    for A, result in zip(matrices, results, strict=True):
        stats, true = result.stats, distance(result.Z, expected(A, B))
        assert stats.status == "converged" and stats.fallbacks == () and stats.strategy == "newton-schulz"
        assert true <= within(TOLERANCES[dtype], dtype)
        noise = torch.finfo(dtype).eps + kappa * 96**0.5 * 2.0**-53
        assert 0.1 * (true - noise) <= float(stats.error) <= 10 * true + noise
        assert stats.products["square"] == 3 * stats.steps
    assert len({result.Z.data_ptr() for result in results}) == 7, "a result is nobody else's"


def test_the_facts_are_those_of_an_eager_call(rhs):
    """The same estimates from the same vectors and Z; but of σ_min by Xᵀ·Z, which what X leaves of an error changes."""
    A, B = general(96, 1e2, 9), rhs(96, 4)
    again, eager = called(A, B, trained(96, 1e2, B)).stats, called(A, B, None).stats
    left = {"lambda_min": 2 * NewtonSchulz(A.double()[None], Workspace(), 0).left}
    for name in ("lambda_max", "lambda_min", "amplification"):
        close = pytest.approx(float(getattr(eager, name)), rel=left.get(name, 2e-3))  # A is rounded at two scales
        assert float(getattr(again, name)) == close, name
    sigma = torch.linalg.svdvals(A.double())
    assert float(again.lambda_max) >= sigma[0] and float(again.lambda_min) >= 0.999 * sigma[-1]


def test_auto_where_it_pays_and_the_workspace_of_a_result(rhs, distance, monkeypatch):
    monkeypatch.setattr(_general_solve, "newton_schulz_pays", lambda problem: True)
    ws, B = None, rhs(80, 3)
    for seed in range(6):
        A = general(80, 50.0, seed)
        Z, ws, stats, _ = solve_nonspd(A, B, workspace=ws)
        assert distance(Z, expected(A, B)) <= 1e-4
    assert stats.backend.endswith(REPLAYED)
    assert not solve_nonspd(A, B).stats.backend.endswith(REPLAYED)


@pytest.mark.parametrize("worse", [3.0, 10.0, 1e3, 1e6])
@pytest.mark.parametrize("lone", [False, True])
def test_a_harder_matrix_has_what_an_eager_call_has(rhs, distance, worse, lone):
    """Also one with a single σ that no right-hand side of the plan's refinement could show: V does."""
    B = rhs(96, 4)
    ws = trained(96, 30.0, B)
    A = general(96, 30.0, 9, smallest=1 / (30.0 * worse)) if lone else general(96, 30.0 * worse, 9)
    found, eager = called(A, B, ws, on_failure="nan"), called(A, B, None, on_failure="nan")
    assert found.stats.status == eager.stats.status
    if worse >= 10:
        assert was_replayed([found]) == [False] and found.stats.strategy == eager.stats.strategy
        assert found.stats.fallbacks == eager.stats.fallbacks and torch.equal(found.Z, eager.Z)
    if found.stats.status == "converged":
        noise = 30.0 * worse * 96**0.5 * 2.0**-53
        assert distance(found.Z, expected(A, B)) <= 1e-4 + 2.0**-24 + noise


def test_what_was_harder_is_learned(rhs, distance):
    B = rhs(96, 4)
    ws = trained(96, 10.0, B)
    matrices = [general(96, 300.0, seed) for seed in range(6)]
    results = [called(A, B, ws) for A in matrices]
    assert was_replayed(results) == [False, False, True, True, True, True]
    for A, result in zip(matrices, results, strict=True):
        assert result.stats.fallbacks == () and distance(result.Z, expected(A, B)) <= 1e-4
    assert was_replayed([called(general(96, 10.0, 7), B, ws)]) == [True]


def test_what_no_steps_serve_is_no_fault_of_the_plan(rhs):
    B = rhs(96, 4)
    ws = trained(96, 10.0, B)
    hopeless, later = called(general(96, 1e6, 8), B, ws), called(general(96, 10.0, 9), B, ws)
    assert hopeless.stats.strategy == "lu" and was_replayed([hopeless, later]) == [False, True]


def test_a_plan_that_is_no_good_is_given_up(rhs, distance, monkeypatch):
    """What was recorded fails where an eager call finds nothing harder than planned for: until one does."""
    B, ws = rhs(96, 4), SolveWorkspace()
    monkeypatch.setattr(_general_repeats, "planned", lambda kappa, *rest: planned(max(kappa / 30, 1.0), *rest))
    results = [called(general(96, 100.0, seed), B, ws) for seed in range(6)]
    (repeat,) = ws.repeats.values()
    assert not any(was_replayed(results)) and repeat.counted.replay is None and repeat.counted.times == 1
    assert all(distance(result.Z, expected(general(96, 100.0, i), B)) <= 1e-4 for i, result in enumerate(results))
    monkeypatch.undo()
    monkeypatch.setattr("iroot_solve._repeats.ON", ("cpu",))
    assert was_replayed([called(general(96, 500.0, seed), B, ws) for seed in range(3)]) == [False, True, True]


def spoilt(A, how):
    A = A.clone()
    if how == "singular":
        A[:, 0] = A[:, 1]
    elif how == "zero":
        A.zero_()
    else:
        A[3, 4] = float(how)
    return A


@pytest.mark.parametrize("how", ["nan", "inf", "zero", "singular"])
@pytest.mark.parametrize("on_failure", ["nan", "raise"])
def test_what_has_no_answer_is_named_as_ever(rhs, how, on_failure):
    A, B = general(64, 20.0, 9), rhs(64, 2)
    ws = trained(64, 20.0, B, on_failure=on_failure)
    bad = spoilt(A, how)
    found, eager = called(bad, B, ws, on_failure=on_failure), called(bad, B, None, on_failure=on_failure)
    assert found.stats.status == eager.stats.status == ("nonfinite_input" if how in ("nan", "inf") else "singular")
    assert bool(found.Z.isnan().all())
    # What is no matrix to solve says nothing of the plan.
    assert was_replayed([called(A, B, ws, on_failure=on_failure)]) == [True]


def test_right_hand_sides_that_are_zero_or_not_finite(rhs):
    A, B = general(64, 20.0, 9), rhs(64, 2)
    ws = trained(64, 20.0, B)
    zero = called(A, torch.zeros_like(B), ws)
    assert was_replayed([zero]) == [True] and not zero.Z.any() and float(zero.stats.error) == 0
    assert called(A, B / 0, ws).stats.status == "nonfinite_input"
    assert was_replayed([called(A, B, ws)]) == [True]


def test_an_answer_beyond_its_dtype_is_none(rhs):
    B = rhs(64, 2, dtype=torch.float16)
    ws = trained(64, 20.0, B, torch.float16)
    A = general(64, 20.0, 9, torch.float16) * 2e-4
    found, eager = (called(A, B, w, on_failure="nan").stats for w in (ws, None))
    assert found.status == eager.status == "stagnated"


@pytest.mark.parametrize("c", [2.0**-60, 1e-3, 1e20])
def test_other_scales(rhs, distance, c):
    """Whatever the scale of new numbers: all of it is on the device."""
    A, B = general(64, 20.0, 9), rhs(64, 2)
    found = called(A * c, B * 2.0**30, trained(64, 20.0, B))
    assert was_replayed([found]) == [True] and found.stats.status == "converged"
    assert distance(found.Z, expected(A * c, B * 2.0**30)) <= 1e-4


def test_a_batch_and_one_matrix_for_many(rhs, distance):
    """Scales differ; one that needs more sends the batch the usual way."""
    ws, B = SolveWorkspace(), rhs(3, 64, 4)
    scales = torch.tensor([1e-8, 1.0, 1e8])[:, None, None]
    for seed in range(6):
        A = torch.stack([general(64, kappa, 10 * seed + i) for i, kappa in enumerate((3.0, 300.0, 30.0))]) * scales
        result = called(A, B, ws)
        assert result.stats.status == 3 * ["converged"]
        assert max(distance(result.Z[i], expected(A[i], B[i])) for i in range(3)) <= 1e-4
    assert was_replayed([result]) == [True]
    A[2] = general(64, 1e6, 1)
    mixed = called(A, B, ws)
    assert was_replayed([mixed]) == [False] and mixed.stats.status == 3 * ["converged"]
    assert distance(mixed.Z[2], expected(A[2], B[2])) <= 1e-4
    one, ws = general(64, 20.0), SolveWorkspace()
    results = [called(one, B, ws) for _ in range(5)]
    assert was_replayed(results)[-1] and results[-1].Z.shape == B.shape
    assert distance(results[-1].Z[1], expected(one, B[1])) <= 1e-4


def test_a_place_for_the_answer_and_one_column(rhs, distance):
    A, b = general(64, 20.0, 9), rhs(64)
    out, ws = torch.empty(64), trained(64, 20.0, b)
    found = called(A, b, ws, out=out)
    assert (
        was_replayed([found]) == [True] and found.Z is out and distance(out[:, None], expected(A, b[:, None])) <= 1e-4
    )
    before = A.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = called(A, b, ws)
    assert torch.equal(again.Z, out) and torch.equal(A, before)


def test_one_read(rhs, host_reads):
    A, B = general(64, 20.0, 9), rhs(64, 2)
    ws = trained(64, 20.0, B)
    with host_reads() as found:
        result = called(A, B, ws)
    assert was_replayed([result]) == [True] and found == ["numpy"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_recorded_reads_nothing_and_is_few_operations(queue, monkeypatch, dtype):
    """On the meta device there are no numbers to read. κ = 10² at n = 1024: 89 operations, 18 products among them."""
    monkeypatch.setattr(
        "iroot_solve._probed_refine.gaussian",
        lambda n, k, device, seed: torch.empty(n, k, dtype=torch.float64, device=device),
    )
    A, B = (torch.empty(1024, k, dtype=dtype, device="meta") for k in (1024, 64))
    problem = read_problem(A, B, p_val=1, exponent=None, tol=None)
    plan = planned(190.0, 0.03, 0, problem.tol / 2)
    alone, ws = _general_repeats.without_numbers(problem), SolveWorkspace()
    ws.recording = True
    with queue() as found:
        called = _general_repeats._unread(problem.A, problem.B, workspace=ws, problem=alone, plan=plan, seed=0)
    assert called.products.square == 18 and called.numbers.shape == (5 + 8 * (64 + 4),)
    assert found.crossings == [] and len(found.queued) <= (90 if dtype is torch.float32 else 240)


def test_a_replay_allocates_nothing_but_Z(rhs, allocations):
    """On a CPU a replay is a call: Z of that, and the caller's."""
    A, B = general(96, 20.0, 9), rhs(96, 64)
    ws = trained(96, 20.0, B)
    (repeat,) = ws.repeats.values()
    held = repeat.counted.replay
    with allocations(96 * 64, A, B, *held._buffers, *held.inputs) as found:
        called(A, B, ws)
    assert len(found) == 2, found


def test_kinds_are_kept_apart(rhs, distance, monkeypatch):
    """One workspace for a symmetric and a general solver, the same shapes and settings."""
    monkeypatch.setattr(_general_solve, "newton_schulz_pays", lambda problem: True)
    monkeypatch.setattr("iroot_solve._repeats._worthwhile", lambda *_: True)
    ws, B = SolveWorkspace(), rhs(48, 2)
    S = general(48, 4.0)
    S = S @ S.mT + torch.eye(48)
    for seed in range(5):
        A = general(48, 20.0, seed)
        both = solve_spd(S, B, p_val=1, workspace=ws), solve_nonspd(A, B, workspace=ws)
        assert distance(both[0].Z, expected(S, B)) <= 1e-4 and distance(both[1].Z, expected(A, B)) <= 1e-4
    assert was_replayed(both) == [True, True] and len(ws.repeats) == 2
    others = [solve_nonspd(A, rhs(48, 3), workspace=ws), solve_nonspd(A, B, workspace=ws, tol=1e-3)]
    assert was_replayed(others) == [False, False]


@pytest.mark.parametrize("settings", [{"verify": False}, {"tol": 1e-8}])
def test_what_is_not_recorded(rhs, settings):
    """Nothing to judge; and a tolerance below the rounding of Z, which no answer meets."""
    ws, B = SolveWorkspace(), rhs(48, 2)
    results = [called(general(48, 20.0, seed), B, ws, on_failure="nan", **settings) for seed in range(5)]
    assert not any(was_replayed(results)) and not ws.repeats


def test_what_is_planned_for_has_a_margin_and_only_grows():
    repeat = GeneralRepeat()
    repeat.learn(Hardness(100.0, 0.02, 0))
    first = repeat.known
    assert MARGIN <= first.kappa / 100 <= MARGIN * 2 ** (1 / FINENESS) and first.noise == with_margin(0.02, FINENESS)
    repeat.learn(Hardness(110.0, 0.01, 0))
    assert repeat.known == first
    repeat.learn(Hardness(50.0, 0.01, 2))
    assert repeat.known == Hardness(first.kappa, first.noise, 2)
    repeat.learn(Hardness(1e9, 5.0, 0))
    assert repeat.known == Hardness(LARGEST_KAPPA, MOST_NOISE, 2)
    assert planned(LARGEST_KAPPA, MOST_NOISE / 4, 0, 1e-4) is not None


def test_a_plan_is_kept_until_it_fails_often():
    """One failure among many calls is none to act on; two of late are, and the plan is for the harder of them."""
    repeat = GeneralRepeat()
    repeat.learn(Hardness(100.0, 0.02, 0))
    repeat.counted.calls, repeat.counted.times = RECORDED_FROM, 1
    first = repeat.known
    for kappa in (900.0, 500.0):
        repeat.learn(Hardness(kappa, 0.02, 0))
        assert repeat.known == first and repeat.counted.due
        repeat.missed *= FORGOTTEN**20
    assert 1 + FORGOTTEN**6 >= OFTEN
    repeat.missed = FORGOTTEN**6
    repeat.learn(Hardness(300.0, 0.02, 0))
    assert repeat.known.kappa == ANEW * with_margin(900.0, FINENESS) and repeat.missed == 0
    assert not repeat.counted.due and repeat.counted.calls == RECORDED_FROM - 1


def test_conditions_that_scatter(distance):
    """Gaussian matrices, κ from 10 to 10⁵: nearly all calls are replayed, and all answers are right."""
    ws, generator = SolveWorkspace(), torch.Generator().manual_seed(0)
    B, count = torch.randn(48, 4, generator=generator), 0
    for _ in range(100):
        A = torch.randn(48, 48, generator=generator)
        found = called(A, B, ws)
        count += was_replayed([found])[0]
        noise = float(torch.linalg.cond(A.double())) * 48**0.5 * 2.0**-53
        assert found.stats.status == "converged" and distance(found.Z, expected(A, B)) <= 1e-4 + 2.0**-24 + noise
    assert count >= 80

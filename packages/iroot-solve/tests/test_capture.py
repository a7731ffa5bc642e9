"""A recorded call: it reads nothing, copies nothing from the host, and a replay is right on new numbers."""

from fractions import Fraction

import pytest
import torch
from iroot_solve import (
    PrecondConfig,
    SolveWorkspace,
    apply_inverse_root_gram_rhs_spd,
    orthogonalize,
    solve_gram_spd,
    solve_nonspd,
    solve_spd,
)

LATER = {"kappa_max": 40.0, "verify": "deferred", "on_failure": "nan"}
UNVERIFIED = {"kappa_max": 40.0, "verify": False, "on_failure": "nan"}


def test_a_replay_is_right_on_new_numbers(spd, rhs, truth, distance):
    recorded = SolveWorkspace().capture(solve_spd, spd(24, 30.0), rhs(24, 3), p_val=4, **LATER)
    for seed, scale in ((1, 1.0), (2, 1e12), (3, 1e-12)):
        A, B = scale * spd(24, 30.0, seed), rhs(24, 3, seed=seed)
        result = recorded(A, B)
        assert result.stats.status == "converged"
        assert distance(result.Z, truth(A, B, -0.25)) <= 1e-4


def test_inputs_may_be_written_to_in_place(spd, truth, distance):
    recorded = SolveWorkspace().capture(solve_spd, spd(16, 10.0), None, **LATER)
    recorded.inputs[0].copy_(3 * spd(16, 10.0, 5))
    Z = recorded.replay().Z
    assert distance(Z, truth(3 * spd(16, 10.0, 5), None, -0.5)) <= 1e-4
    assert recorded.result.Z is Z


def test_the_caller_s_tensors_are_not_touched(spd):
    A = spd(16, 10.0)
    before = A.clone()
    SolveWorkspace().capture(solve_spd, A, None, **LATER)(2 * A, None)
    assert torch.equal(A, before)


def test_new_numbers_that_break_the_promise_are_found(spd):
    recorded = SolveWorkspace().capture(solve_spd, spd(24, 30.0), None, **LATER)
    assert recorded(spd(24, 1e6, 3), None).stats.status == "stagnated"
    assert recorded(spd(24, 30.0, 3), None).stats.status == "converged"


@pytest.mark.parametrize("solver", [solve_gram_spd, apply_inverse_root_gram_rhs_spd])
def test_gram_matrices_are_formed_again(rhs, truth, distance, solver):
    """Kept by the identity of G, which a replay changes in place."""
    dual = solver is apply_inverse_root_gram_rhs_spd
    G, B = rhs(40, 12), rhs(40 if dual else 12, 2)
    recorded = SolveWorkspace().capture(solver, G, B, **LATER)
    for seed in (4, 5):
        G = rhs(40, 12, seed=seed)
        Z = recorded(G, B).Z
        S, right = G.double().mT @ G.double(), G.double().mT @ B.double() if dual else B
        assert distance(Z, truth(S, right, -0.5)) <= 1e-4


def test_nothing_is_kept_from_one_run_to_the_next_while_a_graph_is_recorded(spd):
    """The last run is the one that a graph repeats: what it only looked up would never change again."""
    workspace, owner, made = SolveWorkspace(), spd(4, 2.0), []
    workspace.recording = True
    for _ in range(2):
        workspace.keep("name", owner, (), lambda: made.append(1) or "something", reuse=True)
    assert len(made) == 2


def test_the_polar_factor_by_given_steps(rhs):
    recorded = SolveWorkspace().capture(orthogonalize, rhs(24, 8), schedule="polar-express", return_stats=True)
    G = rhs(24, 8, seed=7)
    result = recorded(G)
    assert torch.allclose(result.U, orthogonalize(G, schedule="polar-express"), atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "dtype"),
    [*((k, torch.float32) for k in (None, 2, 48)), (2, torch.float64), (None, torch.bfloat16)],
)
@pytest.mark.parametrize(
    "settings",
    [
        LATER,
        UNVERIFIED,
        {**LATER, "ridge_rel": 1e-3, "p_val": 1},
        {**LATER, "exponent": Fraction(1, 3)},
        {**LATER, "abc_t": [[2.0, -1.5, 0.4]] * 3},
        {**LATER, "precond_config": PrecondConfig("frob", lambda_max_est="frobenius"), "p_val": 30},
    ],
    ids=lambda settings: " ".join(sorted(set(settings) - set(UNVERIFIED))) or str(settings["verify"]),
)
def test_nothing_crosses_between_host_and_device(queue, dtype, settings, columns):
    A = torch.empty(3, 48, 48, dtype=dtype, device="meta")
    B = None if columns is None else torch.empty(3, 48, columns, dtype=dtype, device="meta")
    workspace = SolveWorkspace()
    solve_spd(A, B, workspace=workspace, **settings)
    with queue() as found:
        result = solve_spd(A, B, workspace=workspace, **settings)
    assert found.crossings == []
    tensors = [result.Z, *(value for value in vars(result.stats).values() if isinstance(value, torch.Tensor))]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_the_certificate_is_a_fixed_number_of_small_operations(queue):
    """Beside the iteration, whose products are launches of their own: no Lanczos process, no loop over anything."""
    A = torch.empty(256, 256, device="meta")

    def operations(settings):
        with queue() as found:
            solve_spd(A, None, strategy="materialize-root", precision="fp16x3", tol=1e-3, **settings)
        return len(found.queued)

    assert operations(LATER) - operations(UNVERIFIED) <= 170


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kappa_max": 10.0},
        {"kappa_max": 10.0, "verify": False},
        {"verify": False, "on_failure": "nan"},
        {**UNVERIFIED, "strategy": "eigh"},
        {**UNVERIFIED, "exponent": Fraction(3, 2)},
    ],
)
def test_a_call_that_reads_is_not_recorded(spd, settings):
    workspace = SolveWorkspace()
    with pytest.raises(ValueError, match="reads nothing back"):
        workspace.capture(solve_spd, spd(8, 10.0), None, **settings)
    assert not workspace.recording
    assert solve_spd(spd(8, 10.0), None, workspace=workspace).stats.status == "converged"


def test_solvers_that_always_read_are_not_recorded(spd, rhs):
    for solver, tensors in (
        (solve_nonspd, (spd(8, 10.0), rhs(8, 1))),
        (orthogonalize, (rhs(8, 4),)),
        (solve_gram_spd, (rhs(4, 8), rhs(8, 1))),
    ):
        settings = {"ridge": 0.1, **LATER} if solver is solve_gram_spd else {}
        with pytest.raises(ValueError, match="reads nothing back"):
            SolveWorkspace().capture(solver, *tensors, **settings)


def test_other_shapes_are_refused(spd, rhs):
    recorded = SolveWorkspace().capture(solve_spd, spd(8, 10.0), rhs(8, 2), **LATER)
    with pytest.raises(ValueError, match=r"\(8, 2\) .* was recorded, not \(8, 3\)"):
        recorded(spd(8, 10.0), rhs(8, 3))
    with pytest.raises(ValueError, match=r"float32 cpu was recorded, not \(8, 2\) torch.float64"):
        recorded(spd(8, 10.0), rhs(8, 2).double())
    with pytest.raises(ValueError, match="cpu was recorded, not .* meta"):
        recorded(spd(8, 10.0), torch.empty(8, 2, device="meta"))
    with pytest.raises(ValueError, match="was recorded, not None"):
        recorded(spd(8, 10.0), None)
    with pytest.raises(ValueError, match="1 tensors were passed, where 2"):
        recorded(spd(8, 10.0))
    with pytest.raises(ValueError, match="no tensor"):
        SolveWorkspace().capture(solve_spd, None, None)
    with pytest.raises(ValueError, match="an empty one"):
        SolveWorkspace().capture(solve_spd, torch.empty(0, 0), None, **LATER)
    with pytest.raises(ValueError, match="B is a tensor: pass it by place"):
        SolveWorkspace().capture(solve_spd, spd(8, 10.0), B=rhs(8, 2), **LATER)


def test_a_workspace_is_for_one_recorded_call(spd):
    workspace = SolveWorkspace()
    workspace.capture(solve_spd, spd(8, 10.0), None, **LATER)
    with pytest.raises(ValueError, match="another one in a new workspace"):
        workspace.capture(solve_spd, spd(8, 10.0), None, **LATER)


def test_recorded_in_inference_mode_and_replayed_outside(spd):
    with torch.inference_mode():
        recorded = SolveWorkspace().capture(solve_spd, spd(8, 10.0), None, **LATER)
    assert recorded(spd(8, 10.0, 1), None).stats.status == "converged"


def test_an_operator_is_recorded_with_a_promised_spectrum(spd, rhs, truth, distance, host_reads):
    """What it multiplies by is a tensor of its own, which a replay reads as it is then."""
    held = spd(40, 20.0).clone()
    settings = {"strategy": "chebyshev", **UNVERIFIED, "lambda_max": 1.101, "kappa_max": 20.0, "ridge": 0.1}

    def solve(B, **more):
        return solve_spd(lambda V: held @ V, B, **more)

    recorded = SolveWorkspace().capture(solve, rhs(40, 2), **settings)
    held.copy_(spd(40, 20.0, 5))
    B = 1e10 * rhs(40, 2, seed=6)
    with host_reads() as found:
        result = recorded(B)
    assert found == [] and result.stats.status == "unverified" and float(result.stats.ridge) == 0.1
    assert distance(result.Z, truth(spd(40, 20.0, 5), B, -0.5, ridge=0.1)) <= 1e-4
    with pytest.raises(ValueError, match="reads nothing back"):
        SolveWorkspace().capture(solve, B, **UNVERIFIED)


def test_another_exponent(spd, truth, distance):
    recorded = SolveWorkspace().capture(solve_spd, spd(16, 10.0), None, exponent=Fraction(-2, 3), **LATER)
    assert distance(recorded(spd(16, 10.0, 8), None).Z, truth(spd(16, 10.0, 8), None, -2 / 3)) <= 1e-4

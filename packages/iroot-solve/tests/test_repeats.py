"""Calls that repeat are replayed: on new numbers, with a certificate, and never instead of the ladder."""

from fractions import Fraction

import pytest
import torch
from iroot_solve import IrootError, SolveWorkspace, _blind, _spectrum, solve_spd
from iroot_solve._repeats import MOST_KINDS, RECORDED_FROM, Repeat
from iroot_solve._task import Candidate

REPLAYED = ", replayed"
STRATEGIES = ["auto", "materialize-root"]  # on a CPU `auto` factorises matrices this small
PLACES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.fixture(params=PLACES)
def place(request, monkeypatch):
    """A device that calls are recorded on; on a CPU, where it gains nothing, a replay is the call itself."""
    monkeypatch.setattr("iroot_solve._repeats.ON", ("cpu", "cuda"))
    if request.param == "cpu":
        monkeypatch.setattr("iroot_solve._repeats._worthwhile", lambda *_: True)
    return request.param


def solved(matrices, B=None, ws=None, **settings):
    """The results of calls that share a workspace."""
    ws = SolveWorkspace() if ws is None else ws
    return [solve_spd(A, B, workspace=ws, **settings) for A in matrices]


def was_replayed(results):
    return [result.stats.backend.endswith(REPLAYED) for result in results]


@pytest.mark.parametrize(("p", "columns"), [(2, None), (4, None), (2, 3), (1, 5)])
def test_the_third_call_with_a_promise_is_replayed_and_right(spd, rhs, truth, distance, place, p, columns):
    matrices = [spd(96, 90.0, seed) for seed in range(5)]
    B = None if columns is None else rhs(96, columns)
    right = None if B is None else B.to(place)
    results = solved([A.to(place) for A in matrices], right, p_val=p, kappa_max=1e2)
    assert was_replayed(results) == [False] * (RECORDED_FROM - 1) + [True] * (6 - RECORDED_FROM)
    for A, result in zip(matrices, results, strict=True):
        error = distance(result.Z.cpu(), truth(A, B, -1 / p))
        assert result.stats.status == "converged" and error <= 1e-4
        assert float(result.stats.error) >= 0.5 * error or error < 1e-6
    assert len({result.Z.data_ptr() for result in results}) == 5, "a result is nobody else's"
    assert results[-1].stats.products == results[-2].stats.products


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_a_promise_the_condition_of_the_calls_before_is_planned_for(spd, truth, distance, place, strategy):
    matrices = [spd(96, 50.0, seed) for seed in range(6)]
    results = solved([A.to(place) for A in matrices], strategy=strategy)
    assert was_replayed(results)[-1] and not any(was_replayed(results)[:2])
    assert distance(results[-1].Z.cpu(), truth(matrices[-1], None, -0.5)) <= 1e-4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_larger_condition_goes_the_usual_way_and_is_learned(spd, truth, distance, place, strategy):
    ws = SolveWorkspace()
    solved([spd(96, 5.0, seed).to(place) for seed in range(5)], ws=ws, strategy=strategy)
    harder = [spd(96, 2e3, seed) for seed in range(6)]
    results = solved([A.to(place) for A in harder], ws=ws, strategy=strategy)
    assert was_replayed(results) == [False, False, False, True, True, True]
    for A, result in zip(harder, results, strict=True):
        assert result.stats.status == "converged" and distance(result.Z.cpu(), truth(A, None, -0.5)) <= 1e-4


def test_a_broken_promise_is_kept_no_longer(spd, truth, distance, place):
    ws, hard = SolveWorkspace(), spd(96, 1e5, 9)
    solved([spd(96, 5.0, seed).to(place) for seed in range(4)], ws=ws, kappa_max=6.0)
    results = solved([hard.to(place), spd(96, 5.0).to(place)], ws=ws, kappa_max=6.0)
    assert was_replayed(results) == [False, False]
    assert results[0].stats.status == "converged" and distance(results[0].Z.cpu(), truth(hard, None, -0.5)) <= 1e-4


def test_what_has_no_answer_is_named_as_ever(spd, place):
    ws, bad = SolveWorkspace(), spd(96, 5.0)
    good = [spd(96, 5.0, seed).to(place) for seed in range(4)]
    bad[3, 4] = torch.nan
    assert was_replayed(solved(good, ws=ws, kappa_max=6.0))[-1]
    with pytest.raises(IrootError, match="NaN"):
        solve_spd(bad.to(place), None, kappa_max=6.0, workspace=ws)


def test_other_settings_are_another_kind_and_few_are_kept(spd, place):
    ws, A = SolveWorkspace(), spd(40, 5.0).to(place)
    for p in range(2, MOST_KINDS + 5):
        for _ in range(4):
            found = solve_spd(A, None, exponent=Fraction(-1, p), kappa_max=6.0, tol=1e-3, workspace=ws)
        assert found.stats.backend.endswith(REPLAYED)
    assert len(ws.repeats) == MOST_KINDS


def test_a_batch_of_right_hand_sides_and_a_place_for_the_answer(spd, rhs, place):
    A, B = spd(64, 5.0).to(place), torch.stack([rhs(64, 2, seed=i) for i in range(3)]).to(place)
    ws, out = SolveWorkspace(), torch.empty(64, 64, device=place)
    first, *_, last = solved([A] * 4, B, ws=ws, kappa_max=6.0)
    assert last.stats.backend.endswith(REPLAYED) and last.Z.shape == (3, 64, 2) == first.Z.shape
    assert torch.dist(first.Z, last.Z) <= 1e-5 * first.Z.norm()
    for _ in range(4):
        found = solve_spd(A, None, kappa_max=6.0, out=out, workspace=ws)
    assert found.stats.backend.endswith(REPLAYED) and found.Z is out


def test_an_answer_in_place_of_the_matrix_when_the_replay_has_none(spd, truth, distance, place):
    """A itself is `out`: what a replay leaves there would be lost to the usual way."""
    ws, hard = SolveWorkspace(), spd(96, 1e5, 9)
    for A in [spd(96, 5.0, seed).to(place) for seed in range(4)] + [hard.to(place)]:
        expected = truth(A.cpu(), None, -0.5)
        found = solve_spd(A, None, kappa_max=6.0, out=A, workspace=ws)
        assert found.Z is A and found.stats.status == "converged" and distance(A.cpu(), expected) <= 1e-4


def test_slightly_worse_than_predicted_is_recorded_with_more_caution():
    """An estimate of six times what was predicted: eight times. One of another kind, or no prediction: not again."""
    chosen = Candidate("materialize-root", "fp16x3", None, 1.0, 1.0, 1e-5, True)
    known = Repeat(100.0, calls=5, chosen=chosen, replay=object())
    known.failed(6e-5, 1e-4)
    assert known.caution == 8.0 and known.replay is None and known.calls == 0 and not known.curious
    known.wary(4.0)
    assert known.caution == 8.0
    for error, way in ((1e-3, chosen), (float("inf"), chosen), (float("nan"), chosen), (6e-5, None)):
        known = Repeat(100.0, calls=5, chosen=way, replay=object())
        known.failed(error, 1e-4)
        assert known.caution == 1.0 and known.replay is None and known.calls == -float("inf")


def test_a_call_with_caution_takes_what_is_predicted_to_be_better(spd, monkeypatch, place):
    """What a replay or a rung has shown of a kind, the next call of that kind knows; one of another kind does not."""
    seen, A, ws = [], spd(96, 50.0).to(place), SolveWorkspace()
    chosen = _spectrum.choose
    monkeypatch.setattr(_spectrum, "choose", lambda task, *rest: seen.append(task.caution) or chosen(task, *rest))
    settings = {"strategy": "materialize-root", "kappa_max": 60.0, "workspace": ws}
    solve_spd(A, None, **settings)
    ws.repeats[next(iter(ws.repeats))].wary(16.0)
    solve_spd(A, None, **settings)
    solve_spd(A, None, p_val=4, **settings)
    assert seen == [1.0, 16.0, 1.0]


def test_a_call_is_recorded_with_the_caution_of_its_kind(spd, monkeypatch, place):
    seen, A, ws = [], spd(96, 50.0).to(place), SolveWorkspace()
    fastest = _blind.fastest
    monkeypatch.setattr(_blind, "fastest", lambda task, *rest: seen.append(task.caution) or fastest(task, *rest))
    settings = {"strategy": "materialize-root", "kappa_max": 60.0, "workspace": ws}
    solve_spd(A, None, **settings)
    ws.repeats[next(iter(ws.repeats))].wary(2.0)
    for _ in range(RECORDED_FROM):
        found = solve_spd(A, None, **settings)
    assert found.stats.backend.endswith(REPLAYED) and set(seen) == {2.0}


def test_without_a_workspace_nothing_is_recorded(spd, place):
    A = spd(64, 5.0).to(place)
    assert not any(solve_spd(A, None, kappa_max=6.0).stats.backend.endswith(REPLAYED) for _ in range(5))

"""Quadratic schedules as tensors, and the low-level solver that takes them."""

import pytest
import torch
from iroot_precond import precond_spd
from iroot_solve import ScheduleConfig, apply_inverse_root_auto, build_pe_schedules, build_schedule, solve_spd

STRATEGIES = ["auto", "direct-solve", "materialize-root"]


def _errors(abc_t, p, low):
    """max |x·y^(1/p) − 1| on [low, 1] after the scalar iteration y ← y·q^p, x ← x·q."""
    y0 = torch.logspace(torch.log10(torch.tensor(low)).item(), 0, 2001, dtype=torch.float64)
    y, x = y0.clone(), torch.ones_like(y0)
    for a, b, c in abc_t.double():
        q = a + b * y + c * y * y
        x, y = x * q, y * q**p
    return float((x * y0 ** (1 / p) - 1).abs().max())


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("l_target", [0.5, 0.05, 1e-3])
def test_a_planned_schedule_converges_on_its_interval(p, l_target):
    abc_t, text = build_schedule("cpu", p_val=p, config=ScheduleConfig(l_target=l_target))
    assert abc_t.shape[1:] == (3,) and abc_t.dtype == torch.float32 and abc_t.device.type == "cpu"
    assert "\n" not in text and text
    assert _errors(abc_t, p, l_target) <= 1e-3


def test_modes():
    auto = build_schedule("cpu", config=ScheduleConfig(coeff_mode="auto"))[0]
    assert torch.equal(auto, build_schedule("cpu", config=ScheduleConfig(coeff_mode="tuned"))[0])
    fixed = build_schedule("cpu", config=ScheduleConfig(coeff_mode="precomputed"))[0]
    assert fixed.shape == (4, 3) and _errors(fixed, 2, 0.05) <= 1e-3


def test_the_seed_is_accepted_and_unused():
    schedules = [build_schedule("cpu", config=ScheduleConfig(coeff_seed=seed))[0] for seed in (0, 7)]
    assert torch.equal(*schedules)


def test_safety_widens_the_upper_end():
    """A spectrum that reaches 1.1 diverges from the minimax steps and is harmless to the widened ones."""
    safe, _ = build_schedule("cpu", config=ScheduleConfig(coeff_safety=1.1))
    plain, _ = build_schedule("cpu")
    open_end, _ = build_schedule("cpu", config=ScheduleConfig(coeff_safety=1.1, coeff_no_final_safety=True))
    assert not torch.equal(safe, plain)
    assert torch.equal(safe[:-1], open_end[:-1]) and not torch.equal(safe[-1], open_end[-1])


def test_build_schedule_is_build_pe_schedules_of_the_config():
    config = ScheduleConfig(l_target=0.02, coeff_safety=1.01)
    rows, text = build_pe_schedules(0.02, "cpu", "auto", 0, 1.01, False, 3)
    assert torch.equal(rows, build_schedule("cpu", p_val=3, config=config)[0])
    assert text == build_schedule("cpu", p_val=3, config=config)[1]


@pytest.mark.parametrize(
    "setting", [{"l_target": 0.0}, {"l_target": 1.0}, {"coeff_mode": "best"}, {"coeff_safety": 0.5}]
)
def test_configs_out_of_range_are_refused_by_name(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ScheduleConfig(**setting)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_apply_to_a_normalized_matrix(spd, rhs, truth, distance, dtype, p, strategy):
    A, M = spd(24, 10.0, dtype=dtype).repeat(2, 1, 1), rhs(2, 24, 4, dtype=dtype)
    A_norm, stats = precond_spd(A)
    low = float(torch.linalg.eigvalsh(A_norm.double()).min())
    abc_t, _ = build_schedule("cpu", p_val=p, config=ScheduleConfig(l_target=0.9 * low))
    Z, ws = apply_inverse_root_auto(A_norm, M, abc_t, p, strategy=strategy)
    assert Z.shape == M.shape and Z.dtype == dtype
    # The schedule's own error, and products in float32 (numerics: ≤ κu for κ ≤ 1e2).
    assert distance(Z, truth(A_norm, M, -1 / p)) <= _errors(abc_t, p, low) + 100 * torch.finfo(dtype).eps
    assert distance(stats.undo(Z, p), truth(A, M, -1 / p)) <= _errors(abc_t, p, low) + 100 * torch.finfo(dtype).eps
    kept = Z.clone()
    again, same = apply_inverse_root_auto(A_norm, M, abc_t, p, ws=ws, strategy=strategy)
    assert same is ws and torch.equal(again, kept)


def test_apply_chooses_by_cost(spd, rhs):
    abc_t, _ = build_schedule("cpu")
    A, M = spd(24, 10.0), rhs(24, 2)
    auto, direct, root = (apply_inverse_root_auto(A, M, abc_t, strategy=name)[0].clone() for name in STRATEGIES)
    assert torch.equal(auto, direct) and not torch.equal(direct, root)
    assert torch.equal(apply_inverse_root_auto(A, M, abc_t, expected_reuse=1000)[0], root)


def test_apply_refuses_what_it_cannot_do(spd, rhs):
    abc_t, _ = build_schedule("cpu")
    with pytest.raises(ValueError, match="strategy='eigh' is not one of auto, direct-solve, materialize-root"):
        apply_inverse_root_auto(spd(8, 4.0), rhs(8, 2), abc_t, strategy="eigh")
    with pytest.raises(ValueError, match=r"abc_t must have shape \(T, 3\)"):
        apply_inverse_root_auto(spd(8, 4.0), rhs(8, 2), torch.ones(2, 2))


def test_given_steps_are_taken_by_auto(spd, rhs, truth, distance):
    """`abc_t` and `coeff_mode="precomputed"` mean the iteration, on B where that takes fewer products."""
    A, B = spd(48, 15.0), rhs(48, 4)
    precomputed = ScheduleConfig(coeff_mode="precomputed")
    rows, _ = build_schedule("cpu", config=precomputed)
    for options in ({"abc_t": rows}, {"schedule_config": precomputed}):
        result = solve_spd(A, B, **options)
        assert (result.stats.strategy, result.stats.steps, result.stats.fallbacks) == ("direct-solve", 4, ())
        assert distance(result.Z, truth(A, B, -0.5)) <= 1e-4
    wide = solve_spd(A, rhs(48, 40), schedule_config=precomputed)
    assert (wide.stats.strategy, wide.stats.steps) == ("materialize-root", 4)


def test_safety_widens_what_the_solver_plans_for(spd, rhs, truth, distance):
    A, B = spd(48, 15.0), rhs(48, 4)
    plain, safe = (
        solve_spd(A, B, strategy="materialize-root", schedule_config=ScheduleConfig(coeff_safety=safety))
        for safety in (1.0, 1.5)
    )
    # The upper end lies on a grid of eighths of an octave.
    assert safe.schedule.hi >= 1.5 * plain.schedule.hi / 2 ** (1 / 8)
    assert distance(safe.Z, truth(A, B, -0.5)) <= 1e-4

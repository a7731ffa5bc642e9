"""The names that people import, from both places."""

import importlib

import fast_iroot
import iroot_solve
import pytest
import torch

PATHS = {
    "fast_iroot.coeffs": ["build_pe_schedules", "plan", "minimax", "Schedule"],
    "fast_iroot.precond": ["precond_spd", "PrecondStats"],
    "fast_iroot.apply": [
        "apply_inverse_root_auto",
        "inverse_proot_pe_quadratic_coupled",
        "inverse_proot_pe_quadratic_uncoupled",
        "inverse_solve_pe_quadratic_coupled",
    ],
    "fast_iroot": [
        "solve_spd",
        "build_schedule",
        "ScheduleConfig",
        "PrecondConfig",
        "inverse_root",
        "inverse_root_apply",
        "explain",
    ],
}


@pytest.mark.parametrize("module", PATHS)
def test_import_paths(module):
    loaded = importlib.import_module(module)
    assert {name for name in PATHS[module] if not hasattr(loaded, name)} == set()
    assert set(PATHS[module]) <= set(loaded.__all__)


def test_every_name_of_the_solver_is_in_the_facade():
    assert set(iroot_solve.__all__) <= set(fast_iroot.__all__)
    assert all(getattr(fast_iroot, name) is getattr(iroot_solve, name) for name in iroot_solve.__all__)


@pytest.mark.parametrize("module", [iroot_solve, fast_iroot, fast_iroot.apply, fast_iroot.coeffs, fast_iroot.precond])
def test_every_public_name_exists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_the_low_level_path_end_to_end(spd, rhs, truth, distance):
    from fast_iroot.apply import apply_inverse_root_auto
    from fast_iroot.coeffs import build_pe_schedules
    from fast_iroot.precond import precond_spd

    A, B = spd(32, 10.0), rhs(32, 4)
    A_norm, stats = precond_spd(A, mode="frob", ridge_rel=1e-3, l_target=0.02)
    abc_t, _ = build_pe_schedules(0.02, torch.device("cpu"), "auto", 0, 1.0, False, p_val=2)
    Z, ws = apply_inverse_root_auto(A_norm, B, abc_t, p_val=2)
    assert distance(stats.undo(Z, 2), truth(A, B, -0.5, ridge=float(stats.ridge))) <= 1e-3


def test_versions_agree():
    assert fast_iroot.__version__ == iroot_solve.__version__ == importlib.import_module("iroot_kernels").__version__

"""Counts that decide the time of a small problem: torch calls, and whether the spectrum is looked at."""

from collections import Counter

import pytest
import torch
from iroot_solve import solve_spd
from iroot_solve._case import Case
from iroot_solve._options import Options
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveWorkspace
from torch.utils._python_dispatch import TorchDispatchMode


class _Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def _count(*args, **settings):
    workspace = solve_spd(*args, **settings).workspace
    with _Calls() as calls:
        stats = solve_spd(*args, workspace=workspace, **settings).stats
    assert bool(stats.converged.all()) and stats.fallbacks == ()
    return calls.found


# Views are among them.
@pytest.mark.parametrize(("p", "k", "limit"), [(2, 16, 130), (1, 16, 145), (2, None, 120)])
@pytest.mark.parametrize("batch", [(), (64,)])
def test_torch_calls_of_a_small_solve(spd, rhs, batch, p, k, limit):
    A = spd(32, 1e2).repeat(*batch, 1, 1)
    calls = _count(A, None if k is None else rhs(*batch, 32, k), p_val=p, strategy="eigh" if p == 2 else "cholesky")
    assert sum(calls.values()) <= limit, calls.most_common()


def test_a_small_matrix_is_not_looked_at(spd, rhs, monkeypatch):
    monkeypatch.setattr(Case, "look", None)
    for p in (1, 2):
        assert solve_spd(spd(32, 1e2), rhs(32, 4), p_val=p).stats.status == "converged"


@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5])
def test_a_factorisation_sees_both_ends(spd, kappa):
    """Two steps of inverse iteration: λmin from above and to a factor of two; of direct iteration: λmax from below."""
    A = torch.stack([spd(96, kappa, dtype=torch.float64), -spd(96, kappa, dtype=torch.float64)])
    case = Case(read_problem(A, None, p_val=2, exponent=None, tol=None), Options(), SolveWorkspace())
    values = torch.linalg.eigvalsh(case.matrix.matrix(torch.float64))
    low, high = case.matrix.factor_ends()
    assert values[0, 0] * (1 - 1e-9) <= low[0] <= 2 * values[0, 0] and low[1].isnan()
    assert 0.5 * values[0, -1] <= high[0] <= values[0, -1] * (1 + 1e-9)

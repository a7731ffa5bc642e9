"""Through torch.compile in one graph: the same numbers, any shapes, no break."""

from fractions import Fraction

import pytest
import torch
from iroot_solve import NotPositiveDefiniteError, inverse_root, inverse_root_apply
from iroot_solve._compiled import solve_op

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def _compiled(function, **how):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **how)


SETTINGS = [
    {},
    {"p": 4, "ridge": 0.1},
    {"exponent": Fraction(-2, 3), "tol": 1e-5},
    {"p": 1, "ridge_rel": 1e-2, "kappa_max": 1e3},
    {"strategy": "materialize-root", "precision": "fp32", "on_failure": "nan", "verify": False, "kappa_max": 20.0},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_same_numbers(spd, rhs, settings):
    A, B = spd(12, 10.0), rhs(12, 3)

    def apply(A, B):
        return 2 * inverse_root_apply(A, B, **settings)

    def root(A):
        return inverse_root(A, **settings) + 1

    assert torch.equal(_compiled(apply)(A, B), apply(A, B))
    assert torch.equal(_compiled(root)(A), root(A))


@pytest.mark.parametrize("shapes", [((6, 6), (6,)), ((6, 6), (6, 2)), ((2, 3, 6, 6), (6, 2)), ((6, 6), (4, 6, 2))])
def test_shapes(spd, rhs, shapes):
    A, B = spd(6, 10.0).expand(shapes[0]).contiguous(), rhs(*shapes[1])
    Z = _compiled(inverse_root_apply)(A, B)
    assert Z.shape == inverse_root_apply(A, B).shape and torch.equal(Z, inverse_root_apply(A, B))


def test_one_graph_for_all_sizes(spd, rhs):
    calls = _compiled(lambda A, B: inverse_root_apply(A, B) * 3, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n, k in ((5, 2), (6, 3), (17, 4)):
            assert torch.equal(calls(spd(n, 10.0), rhs(n, k)), 3 * inverse_root_apply(spd(n, 10.0), rhs(n, k)))


def test_errors_come_through(spd):
    with pytest.raises(NotPositiveDefiniteError, match="not positive definite"):
        _compiled(inverse_root)(-spd(6, 10.0))


def test_what_an_operator_cannot_take_is_an_error(spd):
    with pytest.raises(Exception, match="seed does not go through torch.compile"):
        _compiled(lambda A: inverse_root(A, seed=3))(spd(6, 10.0))


@pytest.mark.parametrize("B", [None, torch.ones(4, 2)])
def test_it_is_an_operator_by_the_rules(B):
    """Of aliasing, mutation, fake tensors and dispatch."""
    A = 4.0 * torch.eye(4)
    torch.library.opcheck(solve_op, (A, B, -1, 2))
    torch.library.opcheck(solve_op, (A.double(), None if B is None else B.double(), -2, 3, 1e-8, 0.5))


def test_in_eager_mode_nothing_changes(spd):
    A = spd(6, 10.0)
    assert torch.equal(inverse_root(A, seed=3), inverse_root(A, seed=3))
    assert torch.equal(torch.ops.iroot.solve(A, None, -1, 2), inverse_root(A))

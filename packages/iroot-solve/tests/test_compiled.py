"""Through torch.compile in one graph: the same numbers, any shapes, no break."""

import inspect
from fractions import Fraction

import pytest
import torch
from iroot_solve import NotPositiveDefiniteError, SolveWorkspace, inverse_root, inverse_root_apply, solve_spd
from iroot_solve._compiled import solve_op
from iroot_solve._traced import OTHERS

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


@pytest.mark.parametrize(
    "settings",
    [
        {"p_val": 4, "tol": 1e-3, "ridge": 0.1},
        {"exponent": Fraction(-2, 3), "strategy": "materialize-root"},
        {"kappa_max": 20.0, "verify": "deferred", "on_failure": "nan"},
        {"kappa_max": 20.0, "verify": False, "on_failure": "nan"},
    ],
)
@pytest.mark.parametrize("shapes", [((6, 6), None), ((6, 6), (6, 2)), ((6, 6), (4, 6, 2)), ((2, 3, 6, 6), (3, 6, 1))])
def test_the_solver_with_its_stats(spd, rhs, settings, shapes):
    """What it knows of every matrix comes through, for decisions in the graph as well."""
    A, B = spd(6, 10.0).expand(shapes[0]).contiguous(), None if shapes[1] is None else rhs(*shapes[1])

    def solve(A, B):
        Z, _, stats, _ = solve_spd(A, B, **settings)
        return torch.where(stats.converged[..., None, None], Z, -Z), stats

    Z, stats = _compiled(solve)(A, B)
    expected, known = solve(A, B)
    assert torch.equal(Z, expected) and stats.status == known.status
    for name in ("error", "residual", "lambda_max", "lambda_min", "ridge", "kappa_proxy"):
        assert torch.equal(getattr(stats, name).nan_to_num(7.0), getattr(known, name).nan_to_num(7.0)), name
    assert stats.strategy == "in a compiled graph"


def test_one_graph_of_the_solver_for_all_sizes(spd):
    solve = _compiled(lambda A: solve_spd(A, None, p_val=4).stats.error, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for n in (5, 9, 17):
            assert torch.equal(solve(spd(n, 10.0)), solve_spd(spd(n, 10.0), None, p_val=4).stats.error)


def test_settings_of_the_solver_that_an_operator_cannot_take(spd):
    for settings in ({"seed": 3}, {"lambda_max": 1.0}, {"expected_reuse": 2}, {"on_singular": "pinv"}):
        with pytest.raises(Exception, match=f"{next(iter(settings))} does not go through torch.compile"):
            _compiled(lambda A, settings=settings: solve_spd(A, None, **settings).Z)(spd(6, 10.0))
    workspace = SolveWorkspace()
    assert _compiled(lambda A: solve_spd(A, None, workspace=workspace).Z)(spd(6, 10.0)).shape == (6, 6)


def test_what_is_refused_is_all_that_the_operator_lacks():
    """By the defaults of the solver's own signature."""
    defaults = {name: found.default for name, found in inspect.signature(solve_spd).parameters.items()}
    taken = {argument.name for argument in torch.ops.iroot.solve.default._schema.arguments}
    rest = set(defaults) - taken - {"p_val", "exponent", "workspace"}
    assert {name: defaults[name] for name in rest} == OTHERS


@pytest.mark.parametrize("B", [None, torch.ones(4, 2), torch.ones(2, 4, 2)])
def test_it_is_an_operator_by_the_rules(B):
    """Of aliasing, mutation, fake tensors and dispatch."""
    A = 4.0 * torch.eye(4)
    torch.library.opcheck(solve_op, (A, B, -1, 2))
    torch.library.opcheck(solve_op, (A.double(), None if B is None else B.double(), -2, 3, 1e-8, 0.5))


def test_in_eager_mode_nothing_changes(spd):
    A = spd(6, 10.0)
    assert torch.equal(inverse_root(A, seed=3), inverse_root(A, seed=3))
    assert torch.equal(torch.ops.iroot.solve(A, None, -1, 2)[0], inverse_root(A))

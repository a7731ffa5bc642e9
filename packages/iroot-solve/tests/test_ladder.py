"""The ledger keeps the best answer of every matrix and the work of all rungs."""

import numpy as np
import pytest
import torch
from iroot_coeffs import minimax
from iroot_solve import build_schedule, solve_spd
from iroot_solve._case import Case
from iroot_solve._certificate import Certificate, Root
from iroot_solve._ladder import Ledger
from iroot_solve._options import Options
from iroot_solve._outcome import Outcome
from iroot_solve._problem import read_problem
from iroot_solve._result import SolveWorkspace, Status


def _outcome(name, steps, **products):
    return Outcome(torch.empty(0), Root(lambda j, V: V), torch.float64, name, "fp32", name, steps, products)


def _certificate(*errors):
    values = np.array(errors)
    return Certificate(values, 2 * values, 3 * values)


def test_empty():
    ledger = Ledger.empty(torch.empty(2, 3, 1))
    assert ledger.codes.tolist() == [Status.stagnated] * 2
    assert bool(np.isinf(ledger.error).all()) and bool(np.isnan(ledger.lambda_min).all())


def test_the_first_answer_is_taken_whatever_it_is():
    ledger = Ledger.empty(torch.ones(2, 1, 1))
    ledger.record(np.arange(2), ledger.Z, _certificate(np.inf, 0.5))
    assert ledger.Z.flatten().tolist() == [1.0, 1.0]
    assert ledger.error.tolist() == [np.inf, 0.5]


def test_later_answers_replace_worse_ones_only():
    ledger = Ledger.empty(torch.ones(3, 1, 1))
    ledger.record(np.arange(3), ledger.Z, _certificate(0.1, 0.1, 0.1))
    ledger.account(_outcome("first", 2, square=4))
    ledger.record(np.array([0, 2]), torch.tensor([[[2.0]], [[3.0]]]), _certificate(0.2, 0.05))
    assert ledger.Z.flatten().tolist() == [1.0, 1.0, 3.0]
    assert ledger.error.tolist() == [0.1, 0.1, 0.05]
    assert ledger.residual.tolist() == [0.2, 0.2, 0.1]


def test_work_adds_up_and_the_last_rung_has_the_name():
    ledger = Ledger.empty(torch.zeros(1, 1, 1))
    ledger.account(_outcome("first", 2, square=4))
    ledger.account(_outcome("second", 0, eigh=1, square=1))
    assert ledger.products == {"square": 5, "eigh": 1} and ledger.steps == 2
    assert (ledger.strategy, ledger.schedule) == ("second", "second")


def test_a_wrong_sign_is_seen_where_a_bound_was_promised(spd, rhs):
    """X with −λ^(-1/2) on the top eigenvector satisfies X·A·X = I; only the sign of A·X shows it."""
    A, B = spd(24, 100.0, dtype=torch.float64), rhs(24, 4, dtype=torch.float64)
    problem = read_problem(A, B, p_val=2, exponent=None, tol=None)
    for promise, found in ((None, False), (float(torch.linalg.eigvalsh(A)[-1]), True)):
        case = Case(problem, Options(lambda_max=promise), SolveWorkspace())
        values, V = torch.linalg.eigh(case.matrix.matrix(torch.float64))
        x = values.rsqrt()
        x[..., -1] *= -1
        X = (V * x.unsqueeze(-2)) @ V.mT

        def power(j, W, X=X):
            for _ in range(j):
                W = X @ W
            return W

        Z = X @ case.right(torch.float64)
        outcome = Outcome(Z, Root(power), torch.float64, "materialize-root", "fp64", None)
        outcome.iterate, outcome.end = torch.eye(24, dtype=torch.float64)[None], minimax(2, 1, 0.9, 1.1)
        assert bool(np.isinf(case.certify(outcome, torch.empty_like(Z)).certificate.error).all()) is found


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
def test_an_eigenvalue_that_B_hardly_shows_is_not_forgotten(with_spectrum, strategy):
    """B has 1e-6 of an eigenvector with λ = 1e-14: most of A^(-1/2)·B, and next to nothing of what was computed."""
    A = with_spectrum([1e-14, *torch.linspace(0.06, 1, 31).tolist()], dtype=torch.float64)
    V = torch.linalg.eigh(A).eigenvectors
    B = V[:, 1:2] + 1e-6 * V[:, :1]
    abc_t, _ = build_schedule("cpu", p_val=2)
    settings = {"abc_t": abc_t, "strategy": strategy, "tol": 1e-3, "fallback": False, "on_failure": "nan"}
    result = solve_spd(A, B, **settings)
    assert result.stats.status == "stagnated"
    # The residual alone, twice the error it can see, would have let it pass.
    assert float(result.stats.residual) / 2 <= 1e-3

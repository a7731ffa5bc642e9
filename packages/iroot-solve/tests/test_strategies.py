"""Strategy names: each does what it says where it applies, and names those that do where it does not."""

import warnings
from fractions import Fraction

import pytest
import torch
from iroot_solve import PreconditionerIgnoredWarning, solve_spd


@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root", "eigh"])
@pytest.mark.parametrize("p", [1, 2, 5])
def test_a_named_strategy_is_used(spd, rhs, strategy, p):
    assert solve_spd(spd(16, 10.0), rhs(16, 2), p_val=p, strategy=strategy).stats.strategy == strategy


def test_cholesky_is_used_for_p_1(spd, rhs, truth, distance, within):
    A, B = spd(16, 10.0), rhs(16, 2)
    assert solve_spd(A, B, p_val=1, strategy="cholesky").stats.strategy == "cholesky"
    root = solve_spd(A, None, p_val=1, strategy="cholesky")
    assert root.stats.strategy == "cholesky"
    assert distance(root.Z, truth(A, None, -1)) <= within(1e-4, A.dtype)


@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e4])
def test_float32_cholesky_is_refined_to_the_square_of_its_error_where_that_is_needed(spd, rhs, truth, distance, kappa):
    A, B = spd(48, kappa), rhs(48, 4)
    e, u = distance(torch.cholesky_solve(B, torch.linalg.cholesky(A)), truth(A, B, -1)), 2.0**-24
    assert e > 4 * u  # there is something to refine
    plain = solve_spd(A, B, p_val=1, strategy="cholesky", precision="fp32", tol=min(4 * e, 0.1))
    assert plain.stats.fallbacks == () and distance(plain.Z, truth(A, B, -1)) <= 2 * e + u
    result = solve_spd(A, B, p_val=1, strategy="cholesky", precision="fp32", tol=max((4 * e) ** 2, 4 * u))
    # e of the worst direction is a few times that of B's; and the output is rounded.
    assert distance(result.Z, truth(A, B, -1)) <= (4 * e) ** 2 + u
    assert result.stats.fallbacks == ("more steps",) and result.stats.precision == "fp32"
    assert "refined" in str(result.schedule)
    assert float(result.stats.error) >= 0.1 * (distance(result.Z, truth(A, B, -1)) - u)


REFUSED = [
    ("cholesky", {"p_val": 2}, "direct-solve, materialize-root, chebyshev, cayley, lanczos, eigh"),
    ("cholesky", {"exponent": Fraction(1, 2)}, "direct-solve, materialize-root, lanczos, eigh"),
    ("fast", {"p_val": 1}, "direct-solve.*lanczos, eigh, hybrid-pe-nsrc, cholesky"),
    ("lu", {"p_val": 1}, "cholesky"),
    ("direct-solve", {"exponent": Fraction(3, 2)}, "eigh"),
]


@pytest.mark.parametrize(("strategy", "settings", "names"), REFUSED)
def test_a_strategy_that_does_not_apply_names_those_that_do(spd, rhs, strategy, settings, names):
    with pytest.raises(ValueError, match=f"strategy='{strategy}' does not apply.*those that do: auto,.*{names}"):
        solve_spd(spd(8, 10.0), rhs(8, 2), strategy=strategy, **settings)


def test_direct_solve_needs_a_right_hand_side(spd):
    with pytest.raises(ValueError, match="'direct-solve' does not apply.*without B.*materialize-root, eigh"):
        solve_spd(spd(8, 10.0), None, strategy="direct-solve")


def test_unknown_strategies_are_refused_for_empty_problems_too():
    with pytest.raises(ValueError, match="strategy='fast'"):
        solve_spd(torch.empty(0, 4, 4), torch.empty(0, 4, 2), strategy="fast")


@pytest.mark.parametrize("precision", ["fp64", "fp32", "fp16x3", "bf16x3"])
@pytest.mark.parametrize("strategy", ["direct-solve", "materialize-root"])
def test_a_named_precision_is_used(spd, rhs, truth, distance, within, strategy, precision):
    A, B = spd(24, 20.0), rhs(24, 3)
    result = solve_spd(A, B, strategy=strategy, precision=precision, tol=1e-3)
    assert result.stats.precision == precision and result.stats.fallbacks == ()
    assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-3, A.dtype)


def test_a_float64_problem_in_float32_products(spd, rhs, truth, distance):
    A, B = spd(24, 20.0, dtype=torch.float64), rhs(24, 3, dtype=torch.float64)
    for scale in (1.0, 2.0**500, 2.0**-500):  # beyond float32's range: scaled before it is rounded
        for strategy in ("direct-solve", "materialize-root", "eigh"):
            result = solve_spd(A * scale, B, strategy=strategy, precision="fp32", tol=1e-4, fallback=False)
            assert result.stats.precision == "fp32"
            assert distance(result.Z * scale**0.5, truth(A, B, -0.5)) <= 1e-4


def test_reuse_moves_the_choice_away_from_acting_on_B(spd, rhs, truth, distance, within):
    """Whatever one skinny B costs, for a thousand like it something is formed once."""
    A, B = spd(256, 20.0), rhs(256, 8)
    once = solve_spd(A, B, tol=1e-3)
    often = solve_spd(A, B, tol=1e-3, expected_reuse=1000)
    assert once.stats.status == often.stats.status == "converged"
    assert often.stats.strategy in ("materialize-root", "eigh")
    for result in (once, often):
        assert distance(result.Z, truth(A, B, -0.5)) <= within(1e-3, A.dtype)


def test_precisions_are_quiet(spd, rhs):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PreconditionerIgnoredWarning)
        for precision in ("auto", "fp64", "fp32"):
            assert solve_spd(spd(8, 10.0), rhs(8, 1), precision=precision).stats.status == "converged"

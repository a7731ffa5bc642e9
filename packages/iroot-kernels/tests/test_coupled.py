"""The coupled iteration against eigendecompositions in float64."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_kernels import (
    PRECISIONS,
    CoupledIteration,
    Polynomial,
    Products,
    Workspace,
    _coupled,
    _workspace,
    apply_polynomial,
)
from numpy.polynomial import Chebyshev, chebyshev

EVERY = sorted(PRECISIONS)
# numerics: products for Y in a step (the shortest chain of p, and one).
Y_PRODUCTS = {1: 1, 2: 2, 3: 3, 4: 3, 5: 4, 6: 4, 7: 5, 8: 4, 16: 5}
Q_PRODUCTS = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4}


def run(A, steps, start=None, **options):
    iteration = CoupledIteration(A, start, **options)
    for i, q in enumerate(steps, start=1):
        iteration.step(q, last=i == len(steps))
    return iteration


def rounding(p, kappa, n, u=2.0**-53, power=1):
    """What rounding may cost a float64 (or float32) run, relative to the root.

    A product errs by √n·u at most (random signs); a step has m = 4 + (chain of p) + 1 of them at most. An error δ in
    Y_t moves its smallest eigenvalue l_t by δ/l_t relatively, so the root by δ·κ_t/p; κ_t at least halves in every
    step, and Σ κ_t ≤ 2κ. The root to a power multiplies that by the power.
    """
    return 2 * power / p * kappa * (5 + Y_PRODUCTS[p]) * n**0.5 * u


def rhs(n, k, batch=1, dtype=torch.float64):
    return torch.randn(batch, n, k, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("p", range(1, 9))
@pytest.mark.parametrize("kappa", [3.0, 1e2, 1e4])
def test_root_in_float64(p, kappa, spd, power, error, schedule):
    A = spd(32, kappa, batch=2)
    for degrees in ((2,), (1, 3, 5, 8), (4, 6, 7)):
        root = run(A, schedule(p, kappa, degrees, 1e-12), p=p, precision="fp64")
        assert error(root.X, power(A, -1 / p)) <= 1e-12 + rounding(p, kappa, 32)


@pytest.mark.parametrize("p", [1, 2, 3, 4, 7, 16])
def test_root_acting_on_b_in_float64(p, spd, power, error, schedule):
    A, B, kept = spd(32, 1e3), rhs(32, 5), rhs(32, 5)
    steps = schedule(p, 1e3, (2, 4), 1e-12)
    acting = run(A, steps, B, p=p, precision="fp64")
    want = power(A, -1 / p) @ B
    assert error(acting.X, want) <= 1e-12 + rounding(p, 1e3, 32)
    assert torch.equal(B, kept)
    assert torch.equal(A, spd(32, 1e3).clone())


@pytest.mark.parametrize(("s", "q"), [(2, 1), (3, 2), (4, 3), (5, 2), (4, 1)])
def test_rational_powers(s, q, spd, power, error, schedule):
    A, B, kappa = spd(24, 1e2), rhs(24, 3), 1e2
    steps = schedule(s, kappa, (2, 3), 1e-12)
    bound = s * 1e-12 + rounding(s, kappa, 24, power=s)
    root = run(A, steps, p=s, power=q, precision="fp64")
    assert error(root.X, power(A, -q / s)) <= bound
    assert error(run(A, steps, B, p=s, power=q, precision="fp64").X, power(A, -q / s) @ B) <= bound
    positive = run(A, steps, A @ B, p=s, power=s - q, precision="fp64")
    assert error(positive.X, power(A, q / s) @ B) <= bound * kappa ** (q / s)


@pytest.mark.parametrize(("s", "q"), [(2, 1), (3, 1), (4, 3)])
def test_positive_powers_of_a_singular_matrix(s, q, spd, power, error, schedule):
    # Rank 12 of 24, eigenvalues from 1 to 1/κ and twelve zeros.
    kappa, n = 1e3, 24
    values, vectors = torch.linalg.eigh(spd(n, 10.0)[0])
    values = torch.cat([torch.zeros(12, dtype=torch.float64), torch.logspace(-3, 0, 12, dtype=torch.float64)])
    A = ((vectors * values) @ vectors.mT)[None]
    B = rhs(n, 4)
    want = ((vectors * values ** (q / s)) @ vectors.mT)[None] @ B
    root = run(A, schedule(s, kappa, (1, 2, 4), 1e-12), A @ B, p=s, power=s - q, precision="fp64")
    # A·B holds rounding u·‖B‖ along the null space, where the steps multiply it by q(0)^(s−q) each: as much as the
    # lowest eigenvalue's (κ^((s−q)/s)) times a factor 2 a step at most that the interval's end gains on zero.
    bound = 1e-10 + rounding(s, kappa, n, power=s - q) + 2.0 ** (8 * (s - q)) * kappa ** ((s - q) / s) * n * 2.0**-53
    assert error(root.X, want) <= bound
    assert bound < 1e-7


@pytest.mark.parametrize("power_of_q", [1, 2])
def test_kept_increments_act_on_more_right_hand_sides(power_of_q, spd, power, error, schedule):
    A, V = spd(24, 1e2, batch=2), rhs(24, 5, batch=2)
    root = run(A, schedule(3, 1e2, (2, 4), 1e-12), p=3, power=power_of_q, precision="fp64", keep=True)
    assert root.X is not None
    bound = rounding(3, 1e2, 24, power=2)
    kept = V.clone()
    assert error(root.apply(V), power(A, -power_of_q / 3) @ V) <= 1e-11 + bound
    assert torch.equal(V, kept)
    assert error(root.apply(torch.eye(24, dtype=torch.float64).expand(2, 24, 24), "I"), root.X) <= bound
    twice = root.apply(root.apply(V))
    assert error(twice, power(A, -2 * power_of_q / 3) @ V) <= 2e-11 + 2 * bound


@pytest.mark.parametrize("degree", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("power_of_q", [1, 2])
def test_finish_acts_with_any_degree(degree, power_of_q, spd, power, error, schedule):
    A, B = spd(24, 1e2), rhs(24, 3)
    first = schedule(2, 1e2, (4,), 1.0)
    assert len(first) == 1
    acting = CoupledIteration(A, B, p=2, power=power_of_q, precision="fp64")
    acting.step(first[0])
    values = torch.linalg.eigvalsh(acting.Y)
    lo, hi = float(values.min()) * 0.999, float(values.max()) * 1.001
    # Chebyshev interpolation of y^(-1/2) on the spectrum that the first step left; its error is measured here.
    q = interpolant(degree, lo, hi)
    truncation = relative_error(q, lo, hi)
    columns = acting.products.columns
    acting.finish(q)
    assert acting.products.columns - columns == power_of_q * degree * 3
    exact = power(A, 0.0) @ B
    for _ in range(power_of_q):
        exact = spectral(first[0], spd(24, 1e2)) @ exact
    Y = CoupledIteration(A, p=2, precision="fp64")
    Y.step(first[0])
    for _ in range(power_of_q):
        exact = spectral(q, Y.Y) @ exact
    assert error(acting.X, exact) <= rounding(2, 1e2, 24, power=2) * (degree + 1)
    # A^(-1/2) = q₁(A)·(A·q₁(A)²)^(-1/2), so what is left is the interpolant's error, to the power.
    bound = (1 + truncation) ** power_of_q - 1 + rounding(2, 1e2, 24, power=2) * (degree + 1)
    assert error(acting.X, power(A, -power_of_q / 2) @ B) <= bound
    assert degree < 12 or bound < 1e-5


def relative_error(q, lo, hi):
    """max |q(y)·y^(1/2) − 1| on [lo, hi]."""
    y = np.linspace(lo, hi, 2000)
    return float(np.abs(Chebyshev(q.chebyshev)((y - q.center) / q.half_width) * y**0.5 - 1).max())


def interpolant(degree, lo, hi):
    c, h = (hi + lo) / 2, (hi - lo) / 2
    return Polynomial(c, h, tuple(map(float, chebyshev.chebinterpolate(lambda x: (c + h * x) ** -0.5, degree))))


def spectral(q, Y):
    """q(Y) from the eigenvalues."""
    values, vectors = torch.linalg.eigh(Y)
    at = torch.from_numpy(Chebyshev(q.chebyshev)(((values - q.center) / q.half_width).numpy()))
    return (vectors * at[..., None, :]) @ vectors.mT


def test_finish_needs_a_start(spd):
    with pytest.raises(AssertionError, match="start"):
        CoupledIteration(spd(4, 2.0), p=2, precision="fp64").finish(Polynomial.of_monomials((1.5, -0.5)))


def test_another_chain(spd, power, error, schedule):
    A, steps = spd(16, 1e2), schedule(15, 1e2, (2,), 1e-12)
    shorter = run(A, steps, p=15, chain=[(1, 1), (1, 2), (2, 3), (5, 5), (5, 10)], precision="fp64")
    binary = run(A, steps, p=15, precision="fp64")
    # One product less for each update of Y.
    assert binary.products.square - shorter.products.square == len(steps) - 1
    bound = 2 / 15 * 1e2 * 12 * 4 * 2.0**-53 + 1e-12
    assert error(shorter.X, power(A, -1 / 15)) <= bound
    assert error(binary.X, power(A, -1 / 15)) <= bound


@pytest.mark.parametrize("p", list(Y_PRODUCTS))
@pytest.mark.parametrize("degree", range(1, 9))
def test_product_counts(p, degree, spd, schedule):
    A, q = spd(8, 10.0), schedule(p, 10.0, (degree,), 1.0)[0]
    root, acting = CoupledIteration(A, p=p, precision="fp64"), CoupledIteration(A, rhs(8, 3), p=p, precision="fp64")
    seen = []
    for last in (False, False, True):
        before = root.products.square
        root.step(q, last=last)
        acting.step(q, last=last)
        seen.append(root.products.square - before)
    build, update = Q_PRODUCTS[degree], Y_PRODUCTS[p]
    assert seen == [build + update, build + 1 + update, build + 1]
    assert root.products.columns == 0
    assert (acting.products.square, acting.products.columns) == (3 * build + 2 * update, 3 * 3)


def test_the_last_step_leaves_y(spd, schedule):
    A = spd(8, 10.0)
    root = run(A, schedule(2, 10.0, (2,), 1.0), p=2, precision="fp64")
    assert root.Y is A and root.steps == 1


@pytest.mark.parametrize("precision", EVERY)
@pytest.mark.parametrize("columns", [None, 5])
def test_batch_is_a_loop(precision, columns, spd, error, schedule):
    dtype = PRECISIONS[precision].storage
    A, steps = spd(32, 1e2, batch=3, dtype=dtype), schedule(4, 1e2, (1, 2))
    start = None if columns is None else rhs(32, columns, 3, dtype)
    together = run(A, steps, start, p=4, precision=precision)
    assert together.X is not None
    for i in range(3):
        one = None if start is None else start[i : i + 1]
        alone = run(A[i : i + 1], steps, one, p=4, precision=precision)
        # Sums in another order: rounding in storage precision, and where that flips an operand's rounding, one u.
        bound = rounding(4, 1e2, 32, 2.0**-53 if precision == "fp64" else 2.0**-24)
        bound += 4 * PRECISIONS[precision].unit_roundoff if PRECISIONS[precision].plane or precision == "tf32" else 0
        assert error(alone.X, together.X[i : i + 1].double()) <= bound


@given(st.permutations(range(12)))
@settings(max_examples=10, deadline=None)
def test_permutation_of_the_basis(spd, error, schedule, order):
    A, steps = spd(12, 1e2), schedule(2, 1e2, (2,), 1e-10)
    X = run(A, steps, p=2, precision="fp64").X
    permuted = run(A[:, order][:, :, order], steps, p=2, precision="fp64").X
    assert X is not None
    assert error(permuted, X[:, order][:, :, order]) <= rounding(2, 1e2, 12)


@pytest.mark.parametrize("precision", EVERY)
def test_a_second_run_allocates_nothing(precision, spd, schedule, allocations):
    dtype, n, k = PRECISIONS[precision].storage, 16, 3
    A, B, steps = spd(n, 10.0, 2, dtype), rhs(n, k, 2, dtype), schedule(3, 10.0, (1, 2, 4, 5, 8), 1e-14)
    ws, ws_acting = Workspace(), Workspace()

    def everything():
        root = run(A, steps, p=3, power=2, precision=precision, workspace=ws, keep=True)
        root.apply(B)
        acting = CoupledIteration(A, B, p=3, precision=precision, workspace=ws_acting)
        for q in steps[:-1]:
            acting.step(q)
        acting.finish(steps[-1])

    everything()
    bytes_held = ws.nbytes + ws_acting.nbytes
    with allocations(n * k) as seen:
        everything()
    assert seen.made == []
    assert ws.nbytes + ws_acting.nbytes == bytes_held


def test_flags_do_not_make_it_allocate(spd, schedule, allocations, flags):
    torch.set_float32_matmul_precision("medium")
    A, steps, ws = spd(16, 10.0, dtype=torch.float32), schedule(2, 10.0, (2,)), Workspace()
    run(A, steps, p=2, workspace=ws)
    with allocations(16 * 16) as seen:
        run(A, steps, p=2, workspace=ws)
    assert seen.made == []


@pytest.mark.parametrize("precision", EVERY)
def test_inputs_are_left_as_they_were(precision, spd, schedule):
    dtype = PRECISIONS[precision].storage
    A, B = spd(12, 10.0, dtype=dtype).clone(), rhs(12, 2, 1, dtype)
    before = A.clone(), B.clone()
    acting = CoupledIteration(A, B, p=2, precision=precision, keep=True)
    for q in schedule(2, 10.0, (2,)):
        acting.step(q)
    acting.apply(B)
    acting.finish(Polynomial.of_monomials((1.5, -0.5)))
    assert torch.equal(A, before[0]) and torch.equal(B, before[1])


def test_results_of_a_workspace_serve_as_inputs_of_it(spd, power, error, schedule):
    # A^(-1/2) of the buffer that holds A^(-1/2)·B, twice: A^(-1)·B, all in one workspace.
    A, B, ws, steps = spd(12, 10.0), rhs(12, 12), Workspace(), schedule(2, 10.0, (2,), 1e-12)
    half = run(A, steps, B, p=2, precision="fp64", workspace=ws).X
    whole = run(A, steps, half, p=2, precision="fp64", workspace=ws).X
    assert error(whole, power(A, -1.0) @ B) <= 2e-12 + 2 * rounding(2, 10.0, 12)


def test_counting_products_may_be_shared(spd, schedule):
    products, steps = Products("fp64"), schedule(2, 10.0, (2,))
    first = run(spd(8, 10.0), steps, p=2, precision=products)
    count = products.square
    run(spd(8, 10.0), steps, p=2, precision=products)
    assert first.products is products
    assert products.square == 2 * count


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ValueError, {"A": torch.eye(3)}, r"A must have shape \(b, n, n\), not \(3, 3\)"),
        (ValueError, {"A": torch.ones(1, 2, 3)}, r"A must have shape"),
        (TypeError, {"A": torch.eye(3, dtype=torch.float64)[None]}, r"A must be torch.float32 for precision 'fp32'"),
        (TypeError, {"precision": "fp64"}, r"A must be torch.float64 for precision 'fp64'"),
        (ValueError, {"start": torch.ones(1, 4, 2)}, r"start must have shape \(1, 3\)"),
        (ValueError, {"start": torch.ones(3, 2)}, r"start must have shape"),
        (TypeError, {"start": torch.ones(1, 3, 2, dtype=torch.float64)}, r"start must be torch.float32"),
        (ValueError, {"p": 0}, r"p=0 .*integers ≥ 1"),
        (ValueError, {"p": 1.5}, r"p=1.5 .*integers ≥ 1"),
        (ValueError, {"power": 0}, r"power=0 .*integers ≥ 1"),
        (ValueError, {"chain": [(1, 1)], "p": 3}, r"chain="),
        (ValueError, {"precision": "fp8"}, r"precision='fp8'"),
    ],
)
def test_bad_arguments(kind, options, message):
    with pytest.raises(kind, match=message):
        CoupledIteration(**{"A": torch.eye(3)[None], "p": 2, **options})


@pytest.mark.parametrize("shape", [(0, 3, 3), (1, 0, 0), (1, 1, 1)])
def test_small_and_empty(shape):
    A = torch.full(shape, 0.25, dtype=torch.float64)
    root = run(A, [Polynomial.of_monomials((1.5, -0.5))] * 8, p=2, precision="fp64")
    assert root.X is not None and root.X.shape == shape
    if shape == (1, 1, 1):  # Newton–Schulz from 0.25 is quadratic: at rounding after eight steps
        assert abs(float(root.X) - 2.0) < 1e-14


@pytest.mark.parametrize("module", [_coupled, _workspace])
def test_examples(module):
    tested = doctest.testmod(module)
    assert tested.attempted > 0 and tested.failed == 0


def test_finish_is_apply_polynomial(spd):
    A, B, q = spd(8, 10.0), rhs(8, 2), Polynomial(0.5, 0.5, (1.0, -0.5, 0.25))
    acting = CoupledIteration(A, B, p=1, precision="fp64")
    acting.finish(q)
    assert torch.equal(acting.X, apply_polynomial(q, A, B, Products("fp64"), Workspace(), "W"))
    assert acting.steps == 1


@pytest.mark.parametrize("power_of_q", [1, 2])
@pytest.mark.parametrize("columns", [None, 3])
def test_undo_last(power_of_q, columns, spd, schedule):
    A, steps = spd(12, 1e2), schedule(3, 1e2, (2,), 1e-12)
    start = None if columns is None else rhs(12, columns)
    options = {"p": 3, "power": power_of_q, "precision": "fp64", "keep": True}
    straight, detour = run(A, steps, start, **options), CoupledIteration(A, start, **options)
    for i, q in enumerate(steps, start=1):
        # Every step is taken as the last one, undone, and taken again.
        detour.step(Polynomial.of_monomials((2.0, -1.0)), last=True)
        detour.undo_last()
        if start is not None:
            detour.finish(Polynomial(0.5, 0.5, (1.0, -0.5, 0.25, 0.125)))
            detour.undo_last()
        detour.step(q, last=i == len(steps))
    assert detour.steps == straight.steps == len(detour.factors)
    assert torch.equal(detour.X, straight.X)
    V = rhs(12, 2)
    assert torch.equal(detour.apply(V), straight.apply(V))


def test_only_a_last_step_can_be_undone_and_once(spd):
    newton = Polynomial.of_monomials((1.5, -0.5))
    root = CoupledIteration(spd(4, 2.0), p=2, precision="fp64")
    with pytest.raises(RuntimeError, match="undo_last needs a last step"):
        root.undo_last()
    root.step(newton)
    with pytest.raises(RuntimeError, match="undo_last needs a last step"):
        root.undo_last()
    root.step(newton, last=True)
    root.undo_last()
    with pytest.raises(RuntimeError, match="undo_last needs a last step"):
        root.undo_last()
    root.step(newton, last=True)
    root.step(newton)
    with pytest.raises(RuntimeError, match="undo_last needs a last step"):
        root.undo_last()


@pytest.mark.parametrize("power_of_q", [1, 2])
def test_apply_includes_the_terminal_polynomial(power_of_q, spd, error, schedule):
    A, B, V = spd(16, 1e2), rhs(16, 3), rhs(16, 5)
    acting = CoupledIteration(A, B, p=2, power=power_of_q, precision="fp64", keep=True)
    acting.step(schedule(2, 1e2, (2,), 1.0)[0])
    acting.finish(interpolant(9, 0.05, 1.2))
    assert acting.X is not None
    # The same factors on B as were used for X, each product within n·u of the sizes that rounding() allows for.
    assert error(acting.apply(B), acting.X) <= rounding(2, 1e2, 16, power=2)
    both = acting.apply(torch.cat([B, V], -1)).clone()
    assert error(both[..., :3], acting.X) <= rounding(2, 1e2, 16, power=2)
    assert error(acting.apply(V), both[..., 3:]) <= rounding(2, 1e2, 16, power=2)


def test_apply_in_float64_takes_the_factors_as_exact(spd, error, schedule):
    A, B = spd(16, 1e2, dtype=torch.float32), rhs(16, 3, dtype=torch.float32)
    acting = CoupledIteration(A, B, p=2, precision="bf16", keep=True)
    for q in schedule(2, 1e2, (1, 2), 1e-2):
        acting.step(q)
    acting.finish(Polynomial.of_monomials((1.5, -0.5)))
    want = B.double()
    for a, R in acting.factors:
        want = a * want + R.double() @ want
    want = 1.5 * want - 0.5 * acting.Y.double() @ want
    V = B.double()
    assert error(acting.apply(V), want) <= 100 * 16 * 2.0**-53
    assert error(acting.apply(B), want) > 2.0**-12  # in bf16 the products round

"""Line 13: GᵀG of any aspect, and the dual form, against a float64 singular value decomposition of G."""

from fractions import Fraction

import pytest
import torch
from iroot_solve import NonFiniteInputError, PrecondConfig, apply_inverse_root_gram_rhs_spd, solve_gram_spd

EXPONENTS = [Fraction(-1, p) for p in (1, 2, 3, 4, 8)] + [Fraction(-2, 3), Fraction(1, 2)]
TALL, SQUARE, WIDE = (96, 24), (24, 24), (12, 60)
DTYPES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@pytest.fixture(scope="session")
def matrix():
    """(shape, κ, seed, dtype) ↦ G with log-spaced singular values in [1/κ, 1] and dense random singular vectors."""

    def make(shape, kappa, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        r = min(shape[-2:])
        U, V = (
            torch.linalg.qr(torch.randn(*shape[:-2], size, r, generator=generator, dtype=torch.float64)).Q
            for size in shape[-2:]
        )
        return ((U * torch.logspace(0, -torch.tensor(kappa).log10(), r, dtype=torch.float64)) @ V.mT).to(dtype)

    return make


def _truth(G, B, exponent, ridge=0.0, dual=False):
    """Of the numbers that were passed: V·(σ² + r)^α·Vᵀ·B (Gᵀ·B in the dual form) from a full SVD."""
    _, sigma, Vh = torch.linalg.svd(G.double(), full_matrices=True)
    values = torch.nn.functional.pad(sigma.square(), (0, G.shape[-1] - sigma.shape[-1])) + ridge
    f = torch.where(values > 0, values, 1.0).pow(float(exponent)) * (values > 0)
    right = B.double() if not dual else G.double().mT @ B.double()
    return Vh.mT @ (f.unsqueeze(-1) * (Vh @ right))


@pytest.mark.parametrize("exponent", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [TALL, SQUARE, WIDE], ids=str)
def test_primal(matrix, rhs, distance, within, shape, dtype, exponent):
    G, B = matrix(shape, 8.0, dtype=dtype), rhs(shape[1], 5, dtype=dtype)
    ridge = 0.0 if shape[0] >= shape[1] else 1e-2
    result = solve_gram_spd(G, B, exponent=exponent, ridge=ridge)
    assert result.stats.status == "converged" and result.Z.dtype == dtype
    assert distance(result.Z, _truth(G, B, exponent, ridge)) <= within(DTYPES[dtype], dtype)
    assert float(result.stats.ridge) == ridge


@pytest.mark.parametrize("exponent", EXPONENTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [TALL, SQUARE, WIDE], ids=str)
@pytest.mark.parametrize("ridge", [0.0, 0.25])
def test_dual(matrix, rhs, distance, within, shape, dtype, exponent, ridge):
    G, B = matrix(shape, 8.0, dtype=dtype), rhs(shape[0], 5, dtype=dtype)
    result = apply_inverse_root_gram_rhs_spd(G, B, exponent=exponent, ridge=ridge)
    assert result.stats.status == "converged" and result.Z.shape == (shape[1], 5)
    assert distance(result.Z, _truth(G, B, exponent, ridge, dual=True)) <= within(DTYPES[dtype], dtype)


@pytest.mark.parametrize("form", ["primal", "dual"])
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [1e2, 1e3])
def test_ill_conditioned(matrix, rhs, distance, within, kappa, p, form):
    """float32: κ(G)²·u₃₂ would be 6e-2 at κ = 1e3, but GᵀG is formed in float64: κ(G)²·u₆₄ = 1e-10."""
    G, solve = matrix(TALL, kappa), solve_gram_spd if form == "primal" else apply_inverse_root_gram_rhs_spd
    B = rhs(TALL[form == "primal"], 3)
    result = solve(G, B, p_val=p)
    expected = _truth(G, B, Fraction(-1, p), dual=form == "dual")
    assert result.stats.status == "converged"
    assert distance(result.Z, expected) <= within(1e-4, G.dtype)


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=str)
@pytest.mark.parametrize("kappa", [1e2, 1e3, 3e4])
def test_float64_loses_the_square_of_the_condition_and_says_so(matrix, rhs, distance, kappa, shape):
    """c·κ(G)²·u with c = √m from the sums of m products; and the estimate is honest about it."""
    G, B = matrix(shape, kappa, dtype=torch.float64), rhs(shape[0], 3, dtype=torch.float64)
    result = apply_inverse_root_gram_rhs_spd(G, B, tol=1e-3)
    error = distance(result.Z, _truth(G, B, Fraction(-1, 2), dual=True))
    assert error <= shape[0] ** 0.5 * kappa**2 * 2.0**-53
    assert 0.1 * error <= float(result.stats.error) + 2.0**-52


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strategy", ["direct-solve", "eigh"])
def test_of_a_float32_G_too(matrix, rhs, distance, seed, strategy):
    """κ(G) = 1e6, one small singular value: κ²·u₆₄ = 1e-4, which the formed GᵀG knows nothing of, and G shows in full:
    of one eigenvector the estimate is the truth, but for the second order."""
    U, _, Vh = torch.linalg.svd(matrix((100, 40), 2.0, seed, torch.float64), full_matrices=False)
    sigma = torch.ones(40, dtype=torch.float64)
    sigma[-1] = 1e-6
    G, B = ((U * sigma) @ Vh).float(), rhs(40, 2)
    result = solve_gram_spd(G, B, strategy=strategy, tol=1e-3)
    error = distance(result.Z, _truth(G, B, Fraction(-1, 2)))
    assert result.stats.status == "converged" and result.stats.precision == "fp64"
    assert 0.8 * error <= float(result.stats.error) <= 1.2 * error + 1e-6


def test_cancellation(matrix, rhs, distance, within):
    """B in the range of Gᵀ: ‖Z‖ is ridge/σ² of r^(-1/p)·‖B‖, and float32 would keep nothing of it."""
    G = matrix(WIDE, 2.0)
    B = G.mT @ rhs(WIDE[0], 4)
    for ridge in (1e-4, 1e-6):
        for p in (1, 2):
            result = solve_gram_spd(G, B, p_val=p, ridge=ridge)
            expected = _truth(G, B, Fraction(-1, p), ridge)
            assert result.stats.status == "converged"
            assert distance(result.Z, expected) <= within(1e-4, G.dtype)


def test_nothing_of_the_larger_size_is_formed(matrix, rhs, allocations):
    G, B = matrix((8, 400), 4.0), rhs(400, 2)
    with allocations(400 * 400, G, B) as found:
        solve_gram_spd(G, B, ridge=1e-2)
        apply_inverse_root_gram_rhs_spd(G, rhs(8, 2))
    assert found == []


def test_the_gram_matrix_is_formed_once(matrix, rhs):
    G, B = matrix(TALL, 8.0), rhs(TALL[1], 2)
    ws = solve_gram_spd(G, B).workspace

    def kept():
        return ws._kept["gram"]

    first = kept()
    solve_gram_spd(G, B, workspace=ws)
    assert kept() is first
    for change in (lambda: G.mul_(2.0), lambda: G.t_().t_(), lambda: G.resize_(TALL)):
        change()
        result, before = solve_gram_spd(G, B, workspace=ws), kept()
        torch.testing.assert_close(result.Z.double(), _truth(G, B, Fraction(-1, 2)), rtol=1e-4, atol=1e-4)
    assert kept() is not first
    twin = G.clone()
    torch.testing.assert_close(
        solve_gram_spd(3 * twin, B, workspace=ws).Z.double(), _truth(3 * G, B, Fraction(-1, 2)), rtol=1e-4, atol=1e-4
    )
    solve_gram_spd(G, B, workspace=ws, reuse_precond=False)
    assert "gram" not in ws._kept and before is not None


def test_a_dead_owner_is_not_taken_for_a_new_one(matrix, rhs):
    B = rhs(TALL[1], 2)
    ws = solve_gram_spd(matrix(TALL, 8.0), B).workspace
    G = matrix(TALL, 8.0, seed=1)
    assert torch.equal(solve_gram_spd(G, B, workspace=ws).Z, solve_gram_spd(G, B).Z)


def test_inference_tensors_are_not_kept(matrix, rhs):
    with torch.inference_mode():
        G = matrix(TALL, 8.0)
        result = solve_gram_spd(G, rhs(TALL[1], 2))
    assert result.stats.status == "converged" and "gram" not in result.workspace._kept


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=str)
@pytest.mark.parametrize("c", [1e-18, 1e18])
@pytest.mark.parametrize("p", [2, 3])
def test_scale_equivariance(matrix, rhs, distance, shape, c, p):
    """(c·G) gives c^(-2/p)·Z, and the dual form c^(1 − 2/p)·Z."""
    G, ridge = matrix(shape, 8.0), 0.0 if shape[0] >= shape[1] else 0.5
    for solve, B, power in (
        (solve_gram_spd, rhs(shape[1], 2), -2 / p),
        (apply_inverse_root_gram_rhs_spd, rhs(shape[0], 2), 1 - 2 / p),
    ):
        plain = solve(G, B, p_val=p, ridge=ridge).Z.double()
        scaled = solve((c * G.double()).float(), B, p_val=p, ridge=ridge * c * c).Z.double()
        assert distance(scaled * c**-power, plain) <= 2e-4


def test_ridge_rel_is_a_share_of_the_mean_diagonal(matrix, rhs, distance):
    for shape in (TALL, WIDE):
        G, B = matrix(shape, 8.0), rhs(shape[1], 2)
        amount = 0.1 * float(G.double().square().sum()) / shape[1]
        result = solve_gram_spd(G, B, ridge_rel=0.1)
        assert float(result.stats.ridge) == pytest.approx(amount, rel=1e-12)
        assert distance(result.Z, _truth(G, B, Fraction(-1, 2), amount)) <= 1e-4


@pytest.mark.parametrize(
    ("of_G", "of_B", "expected"),
    [
        ((9, 4), (4,), (4,)),
        ((9, 4), (4, 3), (4, 3)),
        ((2, 9, 4), (4, 3), (2, 4, 3)),
        ((9, 4), (2, 4, 3), (2, 4, 3)),
        ((2, 1, 9, 4), (3, 4, 1), (2, 3, 4, 1)),
        ((2, 9, 4), (2, 4), (2, 4)),
        ((9, 4), (4, 0), (4, 0)),
        ((0, 9, 4), (4, 2), (0, 4, 2)),
        ((9, 0), (0, 2), (0, 2)),
    ],
)
@pytest.mark.parametrize("form", ["tall", "wide", "dual tall", "dual wide"])
def test_shapes(matrix, rhs, distance, of_G, of_B, expected, form):
    n = of_G[-1]
    wide, dual = "wide" in form, "dual" in form
    G = rhs(*of_G[:-2], *((3, n) if wide else (9, n)))
    rows = G.shape[-2] if dual else n
    swap = lambda shape: tuple(rows if size == n and i >= len(shape) - 2 else size for i, size in enumerate(shape))  # noqa: E731
    B = rhs(*(swap(of_B) if dual else of_B))
    solve = apply_inverse_root_gram_rhs_spd if dual else solve_gram_spd
    Z = solve(G, B, ridge=0.5).Z
    assert Z.shape == expected
    if Z.numel():
        vector = len(expected) == 1 or expected[-1] == n and len(of_B) == len(of_G) - 1
        columns = B.unsqueeze(-1) if vector else B
        found = Z.unsqueeze(-1) if vector else Z
        assert distance(found, _truth(G, columns, Fraction(-1, 2), 0.5, dual)) <= 1e-4


def test_no_rows(rhs):
    """GᵀG = 0: the ridge alone, or in the dual form nothing at all."""
    B = rhs(4, 2)
    torch.testing.assert_close(solve_gram_spd(torch.zeros(0, 4), B, ridge=4.0).Z, B / 2)
    assert not apply_inverse_root_gram_rhs_spd(torch.zeros(0, 4), torch.zeros(0, 2)).Z.any()


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=str)
def test_the_root_itself(matrix, distance, shape):
    G = matrix(shape, 8.0)
    result = solve_gram_spd(G, None, ridge=0.5)
    assert distance(result.Z, _truth(G, torch.eye(shape[1]), Fraction(-1, 2), 0.5)) <= 1e-4


def test_what_is_refused(rhs):
    G = rhs(3, 5)
    with pytest.raises(ValueError, match=r"3 rows and 5 columns.*ridge.*dual form"):
        solve_gram_spd(G, rhs(5, 1))
    with pytest.raises(ValueError, match="auto, eigh"):
        solve_gram_spd(G, rhs(5, 1), ridge=1.0, strategy="direct-solve")
    with pytest.raises(ValueError, match=r"B has shape \(4, 1\).*B needs 5 rows"):
        solve_gram_spd(G, rhs(4, 1), ridge=1.0)
    with pytest.raises(ValueError, match=r"B needs 3 rows"):
        apply_inverse_root_gram_rhs_spd(G, rhs(5, 1))
    with pytest.raises(ValueError, match=r"G must be a matrix"):
        solve_gram_spd(G[0], rhs(5, 1))
    with pytest.raises(TypeError, match=r"G is torch.float32 and B is torch.float64"):
        solve_gram_spd(G, rhs(5, 1).double(), ridge=1.0)
    with pytest.raises(TypeError, match=r"rigde"):
        solve_gram_spd(G, rhs(5, 1), rigde=1.0)


@pytest.mark.parametrize("shape", [(2, 9, 4), (2, 3, 7)], ids=str)
@pytest.mark.parametrize("where", ["G", "B"])
def test_a_matrix_that_is_not_finite_harms_no_other(rhs, distance, shape, where):
    G, B = rhs(*shape), rhs(2, shape[-1], 2)
    (G if where == "G" else B)[1, 0, 0] = torch.nan
    result = solve_gram_spd(G, B, ridge=0.5, on_failure="nan")
    assert result.stats.status == ["converged", "nonfinite_input"] and bool(result.Z[1].isnan().all())
    assert distance(result.Z[0], _truth(G[0], B[0], Fraction(-1, 2), 0.5)) <= 1e-4
    with pytest.raises(NonFiniteInputError, match=rf"GᵀG\[1\].*{where} contains NaN"):
        solve_gram_spd(G, B, ridge=0.5)


def test_inputs_stay(rhs):
    G, B = rhs(9, 4), rhs(4, 2)
    copies = G.clone(), B.clone()
    solve_gram_spd(G, B)
    solve_gram_spd(G.mT.contiguous(), rhs(9, 2), ridge=1.0)
    assert torch.equal(G, copies[0]) and torch.equal(B, copies[1])


def test_the_eigenvectors_of_a_wide_gram_matrix_are_kept(matrix, rhs, distance, monkeypatch):
    G, calls, eigh = matrix(WIDE, 8.0), [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda *args, **kwargs: (calls.append(1), eigh(*args, **kwargs))[1])
    ws = None
    for ridge, seed in ((0.1, 0), (0.1, 1), (0.3, 2)):
        B = rhs(WIDE[1], 3, seed=seed)
        result = solve_gram_spd(G, B, ridge=ridge, workspace=ws)
        ws = result.workspace
        assert distance(result.Z, _truth(G, B, Fraction(-1, 2), ridge)) <= 1e-4
    assert len(calls) == 1
    G.mul_(2.0)
    assert distance(solve_gram_spd(G, B, ridge=0.3, workspace=ws).Z, _truth(G, B, Fraction(-1, 2), 0.3)) <= 1e-4
    assert len(calls) == 2


@pytest.mark.parametrize("shape", [(200, 96), (20, 300)], ids=str)
@pytest.mark.parametrize("form", ["primal", "dual"])
def test_a_second_call_allocates_nothing_but_Z(matrix, rhs, allocations, shape, form):
    G, solve = matrix(shape, 4.0), solve_gram_spd if form == "primal" else apply_inverse_root_gram_rhs_spd
    B = rhs(shape[form == "primal"], 64)
    ws = solve(G, B, ridge=0.1).workspace
    with allocations(shape[1] * 64, G, B, *ws._buffers.values()) as found:
        solve(G, B, ridge=0.1, workspace=ws)
    assert len(found) == 1, found


@pytest.mark.parametrize("shape", [TALL, SQUARE, WIDE], ids=str)
@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("kappa", [1e2, 1e3, 1e6])
def test_golub_kahan_loses_the_condition_of_G_only(matrix, rhs, distance, allocations, shape, p, kappa):
    """c·κ(G)·u in float64, c = 2√m for products of length m and both of them, where GᵀG would lose κ(G)²·u."""
    G, B = matrix(shape, kappa, dtype=torch.float64), rhs(shape[1], 3, dtype=torch.float64)
    ridge = 0.0 if shape[0] >= shape[1] else kappa**-2.0
    with allocations(shape[1] ** 2, G, B) as found:
        result = solve_gram_spd(G, B, p_val=p, ridge=ridge, strategy="lanczos", tol=1e-8)
    if shape is not SQUARE:
        assert [name for name in found if name.endswith(f"(1, {shape[1]}, {shape[1]})")] == []  # no GᵀG
    error = distance(result.Z, _truth(G, B, Fraction(-1, p), ridge))
    assert result.stats.status == "converged" and result.stats.strategy == "lanczos"
    assert error <= 1e-8 and (kappa < 1e6 or error <= 2 * shape[0] ** 0.5 * kappa * 2.0**-53 + 2.5e-9)
    assert 0.1 * error <= float(result.stats.error) + 2.0**-50


def test_golub_kahan_knows_a_singular_matrix(rhs):
    G = rhs(30, 4, dtype=torch.float64) @ rhs(4, 8, seed=3, dtype=torch.float64)
    result = solve_gram_spd(G, rhs(8, 2, dtype=torch.float64), strategy="lanczos", on_failure="nan")
    assert result.stats.status in ("singular", "stagnated") and bool(result.Z.isnan().all())
    with pytest.raises(ValueError, match="needs B"):
        solve_gram_spd(G, None, strategy="lanczos")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("mode", ["jacobi", "ruiz", "aol", "row-norm"])
def test_column_scalings_are_undone_for_p_1(matrix, rhs, distance, within, dtype, mode):
    G = (matrix(TALL, 4.0, dtype=torch.float64) * torch.logspace(-2, 2, TALL[1], dtype=torch.float64)).to(dtype)
    B = rhs(TALL[1], 3, dtype=dtype)
    result = solve_gram_spd(G, B, p_val=1, precond_config=PrecondConfig(mode=mode))
    assert result.stats.status == "converged" and "undone" in result.stats.precond
    assert distance(result.Z, _truth(G, B, Fraction(-1))) <= within(DTYPES[dtype], dtype)


def test_more_steps_are_not_taken_on_a_float32_copy(rhs, truth, distance):
    """A promise broken by a factor of two: GᵀG in float32 may have lost what nobody looked for, so float64 is next."""
    U, V = (torch.linalg.qr(rhs(size, 60, dtype=torch.float64, seed=size)).Q for size in (200, 60))
    G = ((U * torch.logspace(0, -1, 60, dtype=torch.float64)) @ V.mT).float()
    result = solve_gram_spd(G, rhs(60, 5), strategy="direct-solve", kappa_max=50.0)
    assert result.stats.fallbacks[0] == "direct-solve in fp64" and result.stats.status == "converged"
    assert distance(result.Z, truth(G.double().mT @ G.double(), rhs(60, 5), -0.5)) <= 1e-4

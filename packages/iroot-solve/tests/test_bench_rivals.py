"""Rival arms against the root by a float64 eigendecomposition, within the error that each of them is made for.

All in float64 at κ = 10, where rounding is far below what the published stopping rules and fixed steps leave.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from iroot_coeffs import MUON
from iroot_solve.bench._arm import Arm, Problem
from iroot_solve.bench._arms import installed
from iroot_solve.bench.rivals import RIVALS
from iroot_solve.bench.rivals._newton_schulz import CANS_10, polar_express_steps
from iroot_solve.gallery._matrices import dense, random_basis
from iroot_solve.gallery._spectra import log_spaced
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

N, KAPPA, K = 32, 10.0, 5
# Up to thirty products, each with n·u, amplified by κ.
ROUNDING = 30 * N * KAPPA * 2.0**-53
by_name = {arm.name: arm for arm in RIVALS}
MUON_5 = (MUON,) * 5


def newton_schulz_gap(x: float, steps: int = 10) -> float:
    """1 − x after steps of x ← (3·x − x³)/2: the smaller x is before, the larger."""
    for _ in range(steps):
        x = (3 * x - x**3) / 2
    return 1 - x


def scaled_minimum(kappa: float) -> float:
    """√(λmin/s) of newton-db: s is twice a Rayleigh quotient in bfloat16, which is at most 1 % above λmax."""
    return math.sqrt(1 / (2.02 * kappa))


def claimed(name: str, p: int) -> float:
    """The relative error to expect at κ = 10, rounding included.

    Stopping rules: M = X^p·A, so X = A^(-1/p)·M^(1/p) and the error is ‖M^(1/p) − I‖₂ ≤ ‖M − I‖₂ ≤ n·max|M − I|.
    Damping by r: the smallest eigenvalue is λmin + r, its root wrong by r/(p·λmin).
    Newton–Schulz: the gap of the smallest eigenvalue; for p = 4 that of the square root counts half.
    Contour integral: 15 nodes leave exp(−2π²·15/(log κ + 3)) ≈ 1e-24 (Hale, Higham and Trefethen 2008); MINRES stops
    at 1e-4, and its error counts √κ times at most.
    """
    bounds = {
        "coupled-newton": N * 1e-6,
        "third-order": N * 1e-8,
        "schur-newton": N * 1e-3 + 1e-6 * KAPPA / p,
        "newton-db": (1.5 if p == 4 else 1) * newton_schulz_gap(scaled_minimum(KAPPA)) + 1e-10 * KAPPA,
        "cans-10": 3e-5,
        "polar-express-coupled": 0.0,
        "polar-express": 0.0,
        "muon-5": 0.32,
        "denman-beavers": 0.0,
        "contour-integral": 1e-4 * math.sqrt(KAPPA),
        "torchspd": 0.0,
    }
    return bounds[name] + ROUNDING


def spd(seed: int = 0, kappa: float = KAPPA) -> Tensor:
    return dense(log_spaced(N, kappa), seed=seed).A


def tall(rows: int, seed: int = 0) -> Tensor:
    """G `(rows, n)` with κ(GᵀG) = 10."""
    U = torch.from_numpy(random_basis(rows, seed + 1))[:, :N]
    values, V = torch.linalg.eigh(spd(seed))
    return (U * values.sqrt()) @ V.mT


def right(rows: int, *batch: int) -> Tensor:
    return torch.randn(*batch, rows, K, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def problem(kind: str, p: int, *, root: bool = False, ridge: float = 0.0, batch: bool = False) -> Problem:
    """A problem of any kind; wide G for "wide gram" and "wide dual"."""
    rows = 48
    shape, _, kind = kind.rpartition(" ")
    if kind in ("spd", "nonspd"):
        A = torch.stack([spd(seed) for seed in range(3)]) if batch else spd()
        return Problem(kind, A, None, None if root else right(N, *A.shape[:-2]), p, KAPPA, 1e-4, ridge)
    G = tall(rows).mT.contiguous() if shape else tall(rows)
    B = right(G.shape[0] if kind == "dual" else G.shape[1])
    return Problem(kind, None, G, None if root else B, p, KAPPA, 1e-4, ridge)


def power(A: Tensor, exponent: float) -> Tensor:
    values, V = torch.linalg.eigh(A)
    return (V * values.pow(exponent).unsqueeze(-2)) @ V.mT


def truth(given: Problem) -> Tensor:
    """By eigendecomposition of A + r·I, or of GᵀG + r·I; for a wide dual G of GGᵀ + r·I."""
    A, G, B = given.A, given.G, given.B
    eye = given.ridge * torch.eye(given.source.shape[-1], dtype=torch.float64)
    if G is None:
        X = power(A + eye, -1 / given.p)
        return X if B is None else X @ B
    if given.kind == "gram":
        return power(G.mT @ G + eye, -1 / given.p) @ B
    if G.shape[0] < G.shape[1]:
        return G.mT @ power(G @ G.mT + given.ridge * torch.eye(len(G)), -1 / given.p) @ B
    return power(G.mT @ G + eye, -1 / given.p) @ G.mT @ B


def error(Z: Tensor, true: Tensor) -> float:
    return float(torch.linalg.vector_norm(Z - true) / torch.linalg.vector_norm(true))


def answer(arm: Arm, given: Problem) -> Tensor:
    if not installed(arm):
        pytest.skip(f"{arm.needs} is not installed")
    torch.manual_seed(0)  # power iterations of pytorch-optimizer
    return arm.make(given)()


def applicable(*kinds: str, powers: tuple[int, ...] = (2, 3, 4, 8), **options: object) -> list:
    """(arm, kind, p) of all that apply."""
    return [
        pytest.param(arm, kind, p, id=f"{arm.name}-{kind}-p{p}")
        for arm in RIVALS
        for kind in kinds
        for p in powers
        if arm.applies(problem(kind, p, **options))
    ]


# What they are ------------------------------------------------------------------------------------------------------


def test_names_are_unique():
    assert len(by_name) == len(RIVALS)


@pytest.mark.parametrize("arm", RIVALS, ids=lambda arm: arm.name)
def test_every_page_is_one_paragraph_with_a_source(arm):
    assert "Source: " in arm.page and arm.page.endswith(".") and "\n" not in arm.page


def test_no_rival_is_lost():
    assert set(by_name) == {
        *("coupled-newton", "third-order", "cans-10", "polar-express-coupled", "polar-express", "muon-5"),
        *("denman-beavers", "schur-newton", "newton-db", "contour-integral", "torchspd"),
    }


def test_arms_of_packages_name_them():
    needs = {arm.name: arm.needs for arm in RIVALS if arm.needs}
    assert needs == {
        "schur-newton": "pytorch-optimizer",
        "newton-db": "pytorch-optimizer",
        "contour-integral": "linear-operator",
        "torchspd": "torchspd",
    }


# Where they apply ---------------------------------------------------------------------------------------------------


def applying(kind: str, p: int, **options: object) -> set[str]:
    return {arm.name for arm in RIVALS if arm.applies(problem(kind, p, **options))}


ANY_P = {"coupled-newton", "third-order", "schur-newton", "torchspd"}
ROOTS_OF_TWO = {*ANY_P, "cans-10", "denman-beavers", "newton-db"}


@pytest.mark.parametrize("kind", ["spd", "gram", "dual", "nonspd"])
def test_none_applies_to_p_1(kind):
    assert not applying(kind, 1)


@pytest.mark.parametrize(
    ("kind", "p", "expected"),
    [
        ("spd", 2, {*ROOTS_OF_TWO, "polar-express-coupled", "contour-integral"}),
        ("gram", 2, {*ROOTS_OF_TWO, "polar-express-coupled", "contour-integral"}),
        ("dual", 2, {*ROOTS_OF_TWO, "polar-express", "muon-5"}),
        ("nonspd", 2, {"denman-beavers"}),
        ("spd", 3, ANY_P),
        ("gram", 4, {*ANY_P, "newton-db"}),
        ("dual", 4, {*ANY_P, "newton-db"}),
        ("nonspd", 3, set()),
    ],
)
def test_they_apply_where_they_make_sense(kind, p, expected):
    assert applying(kind, p) == expected


def test_the_contour_integral_needs_fewer_columns_than_rows():
    assert "contour-integral" not in applying("spd", 2, root=True)


def test_polar_factors_know_no_ridge():
    assert not {"polar-express", "muon-5"} & applying("dual", 2, ridge=0.1)


@pytest.mark.parametrize(("dtype", "u"), [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_only_fixed_steps_take_16_bits(dtype, u):
    given = problem("spd", 2)
    short = replace(given, A=given.A.to(dtype), B=given.B.to(dtype))
    arms = [arm for arm in RIVALS if arm.applies(short)]
    assert {arm.name for arm in arms} == {"cans-10", "polar-express-coupled"}
    true = truth(replace(given, A=short.A.double(), B=short.B.double()))
    # Thirty independent roundings, each amplified by √κ.
    bound = math.sqrt(30 * KAPPA) * u
    assert all(error(answer(arm, short).double(), true) <= bound for arm in arms)


# What they answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arm", "kind", "p"), applicable("spd", "gram", "wide gram", "dual", "wide dual", "nonspd"))
def test_within_the_error_that_it_is_made_for(arm, kind, p):
    # GᵀG of a wide G is singular without a ridge: (1 + r)/r = κ.
    given = problem(kind, p, ridge=1 / (KAPPA - 1) if kind == "wide gram" else 0.0)
    assert error(answer(arm, given), truth(given)) <= claimed(arm.name, p)


@pytest.mark.parametrize(("arm", "kind", "p"), applicable("spd", powers=(2, 4), root=True))
def test_the_root_itself(arm, kind, p):
    given = problem(kind, p, root=True)
    assert error(answer(arm, given), truth(given)) <= claimed(arm.name, p)


@pytest.mark.parametrize(("arm", "kind", "p"), applicable("spd", powers=(2, 4), batch=True))
def test_every_matrix_of_a_batch(arm, kind, p):
    given = problem(kind, p, batch=True)
    Z, true = answer(arm, given), truth(given)
    assert Z.shape == true.shape
    assert max(error(z, t) for z, t in zip(Z, true, strict=True)) <= claimed(arm.name, p)


@pytest.mark.parametrize(("arm", "kind", "p"), applicable("spd", "gram", "dual", powers=(2, 4), ridge=0.25))
def test_a_ridge_is_added_and_no_input_changed(arm, kind, p):
    given = problem(kind, p, ridge=0.25)
    before = given.source.clone(), given.B.clone()
    assert error(answer(arm, given), truth(given)) <= claimed(arm.name, p)
    assert torch.equal(given.source, before[0]) and torch.equal(given.B, before[1])


@pytest.mark.parametrize("name", ["coupled-newton", "third-order"])
def test_float32_ends_at_its_rounding(name):
    """A tolerance of 1e-8 is below it: the third order has to notice. n·κ·u of A as passed."""
    given = problem("spd", 2, root=True)
    single = replace(given, A=given.A.float())
    true = truth(replace(given, A=single.A.double()))
    assert error(answer(by_name[name], single).double(), true) <= N * KAPPA * 2.0**-24


@pytest.mark.parametrize(
    ("name", "start", "order", "tolerance", "products"),
    [
        # A first step of T² and T²·M; then X·T, T² and T²·M each.
        ("coupled-newton", lambda A: 1.5 / torch.linalg.matrix_norm(A), 2, 1e-6, lambda steps: 2 + 3 * (steps - 1)),
        # (I − M)² more in each, and A·X² in the end.
        ("third-order", lambda A: 1 / A.trace(), 3, 1e-8, lambda steps: 2 + 4 * (steps - 1) + 2),
    ],
)
def test_stopping_rules_take_the_steps_of_the_scalar_iteration(name, start, order, tolerance, products):
    """m ← m·t(m)² on the eigenvalues, from z·λ, until no entry of V·diag(m − 1)·Vᵀ exceeds the tolerance."""
    given = problem("spd", 2, root=True)
    values, V = torch.linalg.eigh(given.A)
    m, steps = values * start(given.A), 0
    while float(((V * (m - 1)) @ V.mT).abs().max()) > tolerance:
        r = 1 - m
        m = m * (1 + r / 2 + (3 * r**2 / 8 if order == 3 and steps else 0)) ** 2
        steps += 1
    with FlopCounterMode(display=False) as counter:
        answer(by_name[name], given)
    assert counter.get_total_flops() == products(steps) * 2 * N**3


# Fixed steps --------------------------------------------------------------------------------------------------------


def polynomial(steps: tuple[tuple[float, ...], ...], x: Tensor) -> Tensor:
    """x after steps x ← a·x + b·x³ (+ c·x⁵)."""
    for coefficients in steps:
        x = sum(c * x ** (2 * i + 1) for i, c in enumerate(coefficients))
    return x


@pytest.mark.parametrize(
    ("steps", "least", "within"),
    [
        # Of CANS: made for [8.5e-4, 1]; 3e-5 is what its last step, Newton–Schulz's, leaves of the ninth's 4.4e-3.
        pytest.param(CANS_10, 8.5e-4, 6.5e-5, id="cans-10"),
        pytest.param(CANS_10, 1e-3, 3e-5, id="cans-10 above 1e-3"),
        # Of Polar Express: minimax from 1e-3 on, eight steps reach double precision.
        pytest.param(polar_express_steps(), 1e-3, 1e-14, id="polar-express"),
        # Of Muon: its authors speak of "Uniform(0.5, 1.5)"; 0.32 is what the quintic gives from 3e-3 on.
        pytest.param(MUON_5, 3e-3, 0.32, id="muon-5"),
    ],
)
def test_published_coefficients_do_what_they_are_published_for(steps, least, within):
    x = torch.logspace(math.log10(least), 0, 20001, dtype=torch.float64)
    assert float((polynomial(steps, x) - 1).abs().max()) <= within


def test_the_cubics_of_cans_are_its_closed_form():
    """p(x) = c·(x − x³/S), S = a² + ab + b², with p(a) + p(x_max) = 2: Grishina et al., arXiv:2506.10935.

    On [8.5e-4, 1] and on what each step leaves, as NVIDIA documents its table: the second coefficient over 1.01, and
    Newton–Schulz's last pair (3/2, −1/2) with 1.01^(-1/2) and 1.01^(-3/2). Rounding of ten steps.
    """
    a, b = 8.5e-4, 1.0
    for first, second in CANS_10[:-1]:
        S = a * a + a * b + b * b
        low, high = a * (1 - a * a / S), 2 / 3 * math.sqrt(S / 3)
        c = 2 / (low + high)
        assert (first, second * 1.01) == pytest.approx((c, -c / S), rel=1e-13)
        a, b = c * low, c * high
    assert CANS_10[-1] == pytest.approx((1.5 * 1.01**-0.5, -0.5 * 1.01**-1.5), rel=1e-15)


@pytest.mark.parametrize(
    ("name", "steps", "scale"),
    [
        ("cans-10", CANS_10, lambda A: torch.linalg.matrix_norm(A, torch.inf)),
        ("polar-express-coupled", polar_express_steps(), lambda A: 1.01 * torch.linalg.matrix_norm(A)),
    ],
)
def test_the_coupled_form_is_the_odd_polynomial_of_the_square_root(name, steps, scale):
    """X = V·diag(x(√(λ/s))/√λ)·Vᵀ at κ = 1e7, where the smallest eigenvalues are far from finished."""
    A = spd(kappa=1e7)
    values, V = torch.linalg.eigh(A)
    X = (V * (polynomial(steps, (values / scale(A)).sqrt()) / values.sqrt())) @ V.mT
    found = answer(by_name[name], Problem("spd", A, None, None, 2, 1e7, 1e-4, 0.0))
    # Thirty products with n·u each, amplified by κ.
    assert error(found, X) <= 30 * N * 1e7 * 2.0**-53
    assert error(found, power(A, -0.5)) > 1e-3


@pytest.mark.parametrize(("name", "products"), [("cans-10", 27), ("polar-express-coupled", 29)])
def test_fixed_steps_take_the_products_that_their_pages_say(name, products):
    arm, given = by_name[name], problem("spd", 2, root=True)
    assert f"{products} products" in arm.page
    with FlopCounterMode(display=False) as counter:
        answer(arm, given)
    assert counter.get_total_flops() == products * 2 * N**3


@pytest.mark.parametrize(("name", "steps", "safety"), [("muon-5", MUON_5, 1.0), ("polar-express", None, 1.01)])
@pytest.mark.parametrize("shape", ["dual", "wide dual"])
def test_the_polar_factor_is_the_odd_polynomial_of_the_singular_values(name, steps, safety, shape):
    given = problem(shape, 2)
    U, sigma, Vh = torch.linalg.svd(given.G, full_matrices=False)
    x = sigma / (safety * torch.linalg.vector_norm(sigma) + 1e-7)
    Z = (Vh.mT * polynomial(steps or polar_express_steps(), x)) @ U.mT @ given.B
    assert error(answer(by_name[name], given), Z) <= ROUNDING


# Where they fail ----------------------------------------------------------------------------------------------------


def test_the_third_order_raises_on_a_wrong_result():
    """A singular A has no X with A·X² = I: in its null space the defect is 1."""
    A = dense(log_spaced(N, KAPPA)).A
    values, V = torch.linalg.eigh(A)
    values[:8] = 0
    given = Problem("spd", (V * values) @ V.mT, None, None, 2, math.inf, 1e-4, 0.0)
    with pytest.raises(ArithmeticError, match="exceeds"):
        answer(by_name["third-order"], given)


def test_the_schur_newton_of_pytorch_optimizer_is_damped():
    """λmin + 1e-6·λmax is twice λmin at κ = 1e6: its root is 1 − 1/√2 too small."""
    A = spd(kappa=1e6)
    given = Problem("spd", A, None, None, 2, 1e6, 1e-4, 0.0)
    assert 0.1 < error(answer(by_name["schur-newton"], given), power(A, -0.5)) < 0.3


def test_a_general_matrix_has_its_square_root_too():
    """Denman–Beavers on A = I + a skew part: X·A·X = I, no eigendecomposition needed. κ(A) < 10, so κ·n·u·steps."""
    skew = torch.randn(N, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    A = torch.eye(N, dtype=torch.float64) + (skew - skew.mT) / 4
    X = answer(by_name["denman-beavers"], Problem("nonspd", A, None, None, 2, KAPPA, 1e-4, 0.0))
    assert float(torch.linalg.matrix_norm(X @ A @ X - torch.eye(N))) <= 10 * N * KAPPA * 2.0**-53

"""out = α·A·B + β·C in every precision, against float64 products of operands rounded here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from iroot_kernels import PRECISIONS, Products

EVERY = sorted(PRECISIONS)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def storage(name):
    return PRECISIONS[name].storage


def bits(X, t):
    """X rounded to t significant bits, ties to even."""
    fraction, exponent = np.frexp(X)
    return np.ldexp(np.rint(np.ldexp(fraction, t)), exponent - t)


def model(name, A, B):
    """The product that `name` should compute, rounded operands multiplied in float64."""
    A, B = A.double().numpy(), B.double().numpy()
    t = {"fp64": 53, "fp32": 24, "tf32": 11, "fp16": 11, "bf16": 8, "fp16x3": 11, "bf16x3": 8}[name]
    high, right = bits(A, t), bits(B, t)
    if not name.endswith("x3"):
        return torch.from_numpy(high @ right)
    low, right_low = bits(A - high, t), bits(B - right, t)
    return torch.from_numpy(high @ right + high @ right_low + low @ right)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("batch", [1, 3])
def test_product_of_rounded_operands_plus_unrounded_term(name, batch):
    n, k, dtype = 24, 7, storage(name)
    A, B, C = random(batch, n, n, dtype=dtype), random(batch, n, k, seed=1, dtype=dtype), random(batch, n, k, seed=2)
    C = 100 * C.to(dtype)
    out = Products(name)(A, B, C=C, alpha=-0.75, beta=1.5, out=torch.empty_like(C))
    want = -0.75 * model(name, A, B) + 1.5 * C.double()
    # Accumulating n terms (3n with planes), scaling and adding, each in the storage precision:
    # |error| ≤ (3n + 4)·u_storage·(|α||A||B| + |β||C|). Rounding C to 11 bits would cost 2^-11·150 instead of 2^-16.
    bound = 0.75 * A.double().abs() @ B.double().abs() + 1.5 * C.double().abs()
    u = 2.0**-53 if dtype is torch.float64 else 2.0**-24
    assert ((out.double() - want).abs() <= (3 * n + 4) * u * bound).all()


@pytest.mark.parametrize("name", EVERY)
def test_product_is_exact_to_its_unit_roundoff(name):
    A, B = random(2, 32, 32, dtype=storage(name)), random(2, 32, 32, seed=1, dtype=storage(name))
    out = Products(name)(A, B, out=torch.empty_like(A))
    u, n = PRECISIONS[name].unit_roundoff, 32
    accumulation = 2.0**-53 if name == "fp64" else 2.0**-24
    # Each operand within u of its value (three dropped or rounded terms with planes), then n-term sums.
    bound = (3 * u + 3 * n * accumulation) * (A.double().abs() @ B.double().abs())
    assert ((out.double() - A.double() @ B.double()).abs() <= bound).all()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("batch", [1, 2])
def test_c_may_be_out_and_out_is_ignored_without_c(name, batch):
    A, B, C = (random(batch, 9, 9, seed=seed, dtype=storage(name)) for seed in range(3))
    product = Products(name)
    apart = product(A, B, C=C, alpha=2.0, beta=-0.5, out=torch.empty_like(C))
    held = C.clone()
    assert product(A, B, C=held, alpha=2.0, beta=-0.5, out=held) is held
    assert torch.equal(held, apart)
    bare = product(A, B, alpha=2.0, beta=-0.5, out=torch.full_like(C, float("nan")))
    assert torch.equal(bare, product(A, B, C=torch.zeros_like(C), alpha=2.0, out=torch.empty_like(C)))


def test_counts():
    product = Products("fp16x3")
    A, B = random(2, 6, 6), random(2, 6, 4)
    for _ in range(3):
        product(A, A, out=torch.empty_like(A))
    for _ in range(2):
        product(A, B, out=torch.empty_like(B))
    assert (product.square, product.columns) == (3, 8)


@pytest.mark.parametrize("name", EVERY)
def test_batch_is_a_loop(name):
    # Sizes far apart: the scale of one matrix must not touch its neighbours.
    sizes = torch.tensor([1e-12, 1.0, 1e12]).reshape(3, 1, 1)
    A, B = (sizes * random(3, 16, 16)).to(storage(name)), random(3, 16, 16, seed=1, dtype=storage(name)).div(sizes)
    B = B.to(storage(name))
    together = Products(name)(A, B, out=torch.empty_like(A))
    for i in range(3):
        alone = Products(name)(A[i : i + 1], B[i : i + 1], out=torch.empty_like(A[:1]))
        # Two GEMMs may sum in another order: 2·(3n)·u of the sum of absolute values.
        bound = 6 * 16 * 2.0 ** (-53 if name == "fp64" else -24) * (A[i].abs() @ B[i].abs())
        assert ((together[i] - alone[0]).abs() <= bound).all()


@pytest.mark.parametrize("name", ["fp64", "fp32", "bf16x3", "fp16x3"])
@given(seed=st.integers(0, 2**16), shift=st.integers(-40, 40))
@settings(max_examples=20, deadline=None)
def test_small_integers_times_a_power_of_two_are_exact(name, seed, shift):
    # |A| < 2^16 and |B| < 2^4 split exactly into two 8-bit planes, and 12 sums of their products stay below 2^24.
    generator = torch.Generator().manual_seed(seed)
    A = torch.randint(-(2**16) + 1, 2**16, (2, 12, 12), generator=generator).to(storage(name))
    B = torch.randint(-15, 16, (2, 12, 5), generator=generator).to(storage(name))
    out = Products(name)(A * 2.0**shift, B, out=torch.empty_like(B))
    assert torch.equal(out.double(), (A.double() @ B.double()) * 2.0**shift)


@pytest.mark.parametrize("name", ["fp16", "fp16x3"])
@pytest.mark.parametrize("size", [1e-30, 1e-15, 1e15, 1e30])
def test_fp16_reaches_over_the_range_of_float32(name, size):
    A, B = random(1, 8, 8), random(1, 8, 8, seed=1)
    factor = 2.0 ** int(np.log2(size))
    want = Products(name)(A, B, out=torch.empty_like(A))
    assert torch.equal(Products(name)(A * factor, B / factor, out=torch.empty_like(A)), want)
    assert torch.equal(Products(name)(A * factor, B, out=torch.empty_like(A)), want * factor)
    # The result is a normal number; the product of the two scales, 2^152, is none.
    small = Products(name)(A * 2.0**-62, B * 2.0**-60, alpha=2.0**10, out=torch.empty_like(A))
    assert torch.equal(small, want * 2.0**-112)
    zero = Products(name)(torch.zeros_like(A), B * factor, out=torch.full_like(A, float("nan")))
    assert torch.equal(zero, torch.zeros_like(A))


FLAGS = {
    "older medium": lambda: torch.set_float32_matmul_precision("medium"),
    "older high": lambda: torch.set_float32_matmul_precision("high"),
    "newer bf16": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "newer tf32, other backend": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("flag", list(FLAGS))
def test_global_flags_do_not_reduce_cpu_products(name, flag, flags):
    n = 64
    A, B = random(1, n, n, dtype=storage(name)), random(1, n, n, seed=1, dtype=storage(name))
    before = Products(name)(A, B, C=A, alpha=0.5, beta=2.0, out=torch.empty_like(A))
    FLAGS[flag]()
    after = Products(name)(A, B, C=A, alpha=0.5, beta=2.0, out=torch.empty_like(A))
    # Both are within (3n + 4)u of the product of the same rounded operands; bf16 operands would be 2^-8 off.
    u = 2.0**-53 if name == "fp64" else 2.0**-24
    assert ((before - after).abs() <= 2 * (3 * n + 4) * u * (0.5 * A.abs() @ B.abs() + 2 * A.abs())).all()


def test_a_flag_sends_float32_to_float64_products(flags):
    A, B, C = (random(2, 48, 48, seed=seed) for seed in range(3))
    torch.set_float32_matmul_precision("medium")
    out = Products("fp32")(A, B, C=C, alpha=-1.0, beta=0.25, out=torch.empty_like(A))
    want = -(A.double() @ B.double()) + 0.25 * C.double()
    # Rounded once: half a unit of the result, whatever this processor makes of the flag.
    assert ((out.double() - want).abs() <= 2.0**-24 * want.abs() + 1e-14).all()
    bare = Products("fp32")(A, B, out=torch.full_like(A, float("nan")))
    assert torch.isfinite(bare).all()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("batch", [1, 2])
def test_autocast_changes_nothing(name, batch):
    A, B = random(batch, 32, 32, dtype=storage(name)), random(batch, 32, 32, seed=1, dtype=storage(name))
    outside = Products(name)(A, B, C=B, out=torch.empty_like(A))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Products(name)(A, B, C=B, out=torch.empty_like(A))
    assert torch.equal(inside, outside)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 0)])
def test_empty(name, shape):
    A = torch.zeros(shape, dtype=storage(name))
    assert Products(name)(A, A, C=A, out=torch.empty_like(A)).shape == shape

"""The same accuracies on CUDA, in every precision and under the global tf32 flag."""

import pytest
import torch
from iroot_kernels import PRECISIONS, CoupledIteration, Products, TripleIteration, Workspace
from iroot_kernels._precision import fp16_scale

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
EVERY = sorted(PRECISIONS)


def run(iteration, steps):
    for i, q in enumerate(steps, start=1):
        iteration.step(q, last=i == len(steps))
    return iteration


def pair(n, k, name, batch=2):
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(batch, n, m, generator=generator).to(PRECISIONS[name].storage) for m in (n, k))
    return A.cuda(), B.cuda()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("columns", [256, 17])
def test_products_are_those_of_the_emulation(name, batch, columns):
    A, B = pair(256, columns, name, batch)
    C = torch.ones_like(B)
    got = Products(name)(A, B, C=C, alpha=-0.5, beta=2.0, out=torch.empty_like(B)).cpu()
    A, B, C = A.cpu(), B.cpu(), C.cpu()
    want = Products(name)(A, B, C=C, alpha=-0.5, beta=2.0, out=torch.empty_like(B))
    # The operands round alike; sums of 3n products differ by 2·3n·u_storage, four times that where tensor cores
    # truncate instead of rounding.
    u = 2.0**-53 if name == "fp64" else 2.0**-24
    assert ((got - want).abs() <= 4 * 6 * 256 * u * (0.5 * A.abs() @ B.abs() + 2 * C)).all()


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("name", ["fp32", "fp16x3"])
@pytest.mark.parametrize("degrees", [(1,), (2,), (4,), (6,), (1, 2, 4, 6)])
def test_accuracy_of_float32(name, kappa, degrees, spd, power, error, schedule):
    promised = {1e2: 2e-6, 1e4: 6e-5, 1e6: 4e-3}[kappa]
    # Tensor cores truncate, with errors that grow like n and not √n: at n = 256 four times those of rounded sums.
    promised *= 4 if name == "fp16x3" else 1
    A = spd(256, kappa, dtype=torch.float32)
    root = run(CoupledIteration(A.cuda(), p=2, precision=name), schedule(2, kappa, degrees))
    assert error(root.X, power(A, -1 / 2)) <= promised


@pytest.mark.parametrize("name", ["tf32", "fp16", "bf16", "bf16x3"])
def test_error_is_that_of_the_emulation(name, spd, power, error, schedule):
    A, steps = spd(256, 1e2, dtype=torch.float32), schedule(2, 1e2, (1, 2))
    truth = power(A, -1 / 2)
    emulated = error(run(CoupledIteration(A, p=2, precision=name), steps).X, truth)
    # Only the order of float32 sums differs, which flips few roundings; truncation at n = 256 adds its 256·2^-24.
    got = error(run(CoupledIteration(A.cuda(), p=2, precision=name), steps).X, truth)
    assert got <= 1.5 * emulated + 1e2 * 2.0**-16


def test_float64(spd, power, error, schedule):
    A = spd(64, 1e4)
    root = run(CoupledIteration(A.cuda(), p=3, precision="fp64"), schedule(3, 1e4, (2, 4), 1e-12))
    assert error(root.X, power(A, -1 / 3)) <= 1e-12 + 2 / 3 * 1e4 * 8 * 8 * 2.0**-53


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("api", ["older", "newer"])
def test_the_global_tf32_flag_takes_no_accuracy(allowed, api, flags, spd, power, error, schedule):
    A, steps = spd(256, 1e4, dtype=torch.float32), schedule(2, 1e4, (2, 4))
    truth = power(A, -1 / 2)
    if api == "older":
        torch.backends.cuda.matmul.allow_tf32 = allowed
    else:
        torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"
    # One tf32 product in float32's place would show: κ·2^-11 ≫ 1.
    assert error(run(CoupledIteration(A.cuda(), p=2, precision="fp32"), steps).X, truth) <= 4 * 6e-5
    emulated = error(run(CoupledIteration(A, p=2, precision="tf32"), steps).X, truth)
    assert error(run(CoupledIteration(A.cuda(), p=2, precision="tf32"), steps).X, truth) <= 2 * emulated


@pytest.mark.parametrize("name", EVERY)
def test_autocast_changes_nothing(name):
    A, B = pair(64, 64, name)
    outside = Products(name)(A, B, C=B, out=torch.empty_like(B))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        inside = Products(name)(A, B, C=B, out=torch.empty_like(B))
    assert torch.equal(inside, outside)


def test_fp16_scale_is_exact():
    exponents = torch.arange(-126, 128)
    A = torch.ldexp(torch.ones(254, dtype=torch.float64), exponents).float().reshape(-1, 1, 1).cuda()
    want = torch.ldexp(torch.ones(254, dtype=torch.float64), (13 - exponents).clamp(-126, 126))
    assert torch.equal(fp16_scale(A).cpu().flatten().double(), want)


def test_triple_form_reaches_kappa_1e6_in_fp16(spd, power, error, schedule):
    from iroot_kernels import Polynomial
    from numpy.polynomial import Polynomial as Power

    A, steps = spd(256, 1e6, dtype=torch.float32), []
    for q in schedule(2, 1e6, (1,), 1e-5):
        c0, c1 = q.chebyshev
        steps.append(Polynomial.of_monomials(Power([c0 - c1 * q.center / q.half_width, c1 / q.half_width]).coef))
    triple = run(TripleIteration(A.cuda(), precision="fp16"), steps)
    assert error(triple.X, power(A, -1 / 2)) <= 3e-2


@pytest.mark.parametrize("name", EVERY)
def test_a_second_run_allocates_nothing(name, spd, schedule):
    A = spd(256, 10.0, 1, PRECISIONS[name].storage).cuda()
    steps, ws = schedule(2, 10.0, (2, 4)), Workspace()
    for _ in range(2):
        run(CoupledIteration(A, p=2, precision=name, workspace=ws), steps)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    run(CoupledIteration(A, p=2, precision=name, workspace=ws), steps)
    # Less than one matrix of the narrowest plane: scales and LAPACK-free scalars only.
    assert torch.cuda.max_memory_allocated() - before < 256 * 256 * 2

"""Iterations compiled to symmetric products: the same polynomials, no hazards; the kernels under the interpreter."""

import os
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from iroot_kernels import (
    SYMMETRIC_DEGREES,
    Polynomial,
    Products,
    SymmetricRoot,
    Tiling,
    Workspace,
    binary_chain,
    has_form,
    symmetric_products,
    tiling,
)
from iroot_kernels._symmetric import ROOT, X_COLUMNS, Columns
from iroot_kernels._symmetric_compiler import compiled
from iroot_kernels._tiling import SHARED_BYTES

# Degree 8 in three products; see `Polynomial.factors`. Any numbers make a polynomial.
FACTORS = (0.1, -0.1, 0.2, 0.1, -0.2, 0.1, 0.05, -0.06, -0.9, -1.0)
MIXED = [(d, 8 if d < 8 else 1, d) for d in SYMMETRIC_DEGREES]
POWERS = [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (7, 1), (8, 1), (11, 1), (3, 2), (7, 3)]


def _eighth(center=0.45, half=0.5):
    """The polynomial of FACTORS about a center."""
    c1, c2, c3, c4, c5, c6, b2, b1, b0, sign = FACTORS
    x = np.polynomial.Polynomial([0.0, 1.0])
    y2 = x**2 * (c1 * x**2 + c2 * x)
    q = sign * ((y2 + c3 * x**2 + c4 * x) * (y2 + c5 * x**2) + c6 * y2 + b2 * x**2 + b1 * x + b0)
    return Polynomial(center, half, tuple(np.polynomial.chebyshev.poly2cheb(q.coef)), FACTORS)


def _steps(degrees):
    """Between 0.7 and 1.1 on [0, 1], so that Y stays there."""
    generator = np.random.default_rng(0)
    for degree in degrees:
        t = generator.uniform(-0.05, 0.05, degree + 1)
        yield _eighth() if degree == 8 else Polynomial(0.5, 0.5, (0.9 + t[0], *t[1:]))


def _executed(program, A, B=None, check=lambda planes: None):
    """A program in float64, with every operand read through its planes; all buffers of a launch are written late."""
    n = A.shape[-1]
    square, thin = ({}, {}), ({}, {})  # float32 and planes of either kind

    def results(job, P, wholes):
        found = []
        for r in job.results:
            alpha, beta, delta, gamma = r.factors
            value = alpha * P + (gamma * torch.eye(n, dtype=P.dtype) if gamma else 0)
            value = value + (beta * wholes[job.C] if beta else 0) + (delta * wholes[job.D] if delta else 0)
            found.append((r, value))
        return found

    def write(found, wholes, planes):
        for r, value in found:
            if r.whole >= 0:
                wholes[r.whole] = value
            if r.planes >= 0:
                check(r.scale * value)
                planes[r.planes] = r.scale * value

    write(results(program.jobs[0], A, square[0]), *square)
    if B is not None:
        write(results(program.jobs[1], B, thin[0]), *thin)
    for launch in program.launches:
        kind = thin if launch.thin else square
        jobs = program.jobs[launch.first : launch.first + launch.count]
        made = [(job, square[1][job.right] @ kind[1][job.left]) for job in jobs]
        write([pair for job, P in made for pair in results(job, P, kind[0])], *kind)
    return square[0][ROOT] if B is None else thin[0][X_COLUMNS]


def _expected(steps, p, power, values):
    """The same of numbers."""
    x, y = np.ones_like(values), values.copy()
    for q in steps:
        r = q(y)
        x, y = x * r**power, y * r**p
    return x


@pytest.mark.parametrize(("p", "power"), POWERS)
@pytest.mark.parametrize(
    "degrees", [(d,) for d in SYMMETRIC_DEGREES] + [(d, 8 if d < 8 else 1, d) for d in SYMMETRIC_DEGREES]
)
def test_a_program_is_its_polynomials(spd, degrees, p, power):
    steps = list(_steps(degrees))
    program = compiled(tuple(steps), p, power, binary_chain(p), "fp16x3", 1.0)
    A = spd(12, 30.0)[0]
    values, V = torch.linalg.eigh(A)
    largest = []
    X = _executed(program, A, check=lambda planes: largest.append(float(planes.abs().max())))
    expected = (V * torch.from_numpy(_expected(steps, p, power, values.numpy()))) @ V.mT
    assert torch.dist(X, expected) <= 1e-10 * expected.norm()
    # Entries lie below the norm; the grid that bounds it is fine, and planes have three bits to spare.
    assert max(largest) <= 1.01 * 2.0**13 and program.products == len(program.jobs) - 1


@pytest.mark.parametrize("recurrence", [False, True])
@pytest.mark.parametrize(("p", "power"), POWERS)
@pytest.mark.parametrize("degrees", MIXED)
def test_a_program_acts_on_columns(spd, degrees, p, power, recurrence):
    steps = list(_steps(degrees))
    program = compiled(tuple(steps), p, power, binary_chain(p), "fp16x3", 1.0, columns=Columns(2, recurrence))
    A, B = spd(12, 30.0)[0], torch.rand(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values, V = torch.linalg.eigh(A)
    largest = []
    X = _executed(program, A, B, lambda planes: largest.append(float(planes.abs().max())))
    expected = V * torch.from_numpy(_expected(steps, p, power, values.numpy())) @ V.mT @ B
    assert torch.dist(X, expected) <= 1e-10 * expected.norm() and max(largest) <= 1.01 * 2.0**13
    last = steps[-1].degree if recurrence else 1
    assert program.thin_products == power * (len(steps) - 1 + last)
    assert len(program.factors) == len(steps) and program.factors[-1].end is (steps[-1] if recurrence else None)


@pytest.mark.parametrize("recurrence", [False, True])
def test_thin_planes_have_room_for_more_than_the_norm_of_the_root(recurrence):
    """(X·B)_i is more than ‖X‖ where a row of X points along B; B has entries ±1."""
    n = 64
    v = torch.full((n, 1), 0.5**0.5 / (n - 1) ** 0.5, dtype=torch.float64)
    v[0] = 0.5**0.5
    A = torch.eye(n, dtype=torch.float64) - (1 - 1e-3) * v @ v.mT
    steps = (Polynomial(0.5, 0.5, (1.0, -0.9)), Polynomial(0.5, 0.5, (1.0, -0.01)))
    program = compiled(steps, 1, 1, binary_chain(1), "fp16x3", 1.0, columns=Columns(3, recurrence))
    largest = []
    X = _executed(
        program, A, torch.ones(n, 1, dtype=torch.float64), lambda planes: largest.append(float(planes.abs().max()))
    )
    assert float(X.abs().max()) > 2 * 1.91 and max(largest) <= 1.01 * 2.0**13


@pytest.mark.parametrize("recurrence", [None, False, True])
@pytest.mark.parametrize(("p", "power"), POWERS)
@pytest.mark.parametrize("degrees", MIXED)
def test_low_planes_are_written_where_they_are_read(degrees, p, power, recurrence):
    """Whatever the number of coarse steps; and what is kept is never written again."""
    columns = None if recurrence is None else Columns(2, recurrence)
    for coarse in range(4):
        program = compiled(tuple(_steps(degrees)), p, power, binary_chain(p), "fp16x3", 1.0, coarse, columns)
        low, kept = {}, {}
        factors = {factor.planes: factor.coarse for factor in program.factors}
        entering = [(job, None) for job in program.jobs[: 1 if columns is None else 2]]
        for job, launch in entering + [
            (program.jobs[x.first + i], x) for x in program.launches for i in range(x.count)
        ]:
            thin = job is program.jobs[1] if launch is None and columns else launch is not None and launch.thin
            if launch is not None:
                assert launch.coarse == (launch.step >= len(degrees) - coarse)
                assert launch.coarse or (low[thin, job.left] and low[False, job.right])
                if launch.thin and job.right in factors:
                    kept[job.right] = factors[job.right]
            for r in job.results:
                assert r.planes not in kept or thin
                low[thin, r.planes] = bool(r.flags & 8)
        assert all(is_coarse or low[False, slot] for slot, is_coarse in factors.items())


@pytest.mark.parametrize(("p", "power"), POWERS)
@pytest.mark.parametrize("degrees", MIXED)
def test_nothing_is_written_that_is_read_at_the_same_time(degrees, p, power):
    program = compiled(tuple(_steps(degrees)), p, power, binary_chain(p), "fp16x3", 1.0)
    for launch in program.launches:
        jobs = program.jobs[launch.first : launch.first + launch.count]
        read = {slot for job in jobs for slot in (job.left, job.right)}
        written = [r.planes for job in jobs for r in job.results if r.planes >= 0]
        assert not read & set(written) and len(written) == len(set(written))
        wholes = [r.whole for job in jobs for r in job.results if r.whole >= 0]
        assert len(wholes) == len(set(wholes))
        for job in jobs:
            over = [r.whole in {job.C, job.D} - {-1} for r in job.results]
            assert not any(over[:-1]), "what is written over C or D must be the last"
            others = {r.whole for other in jobs if other is not job for r in other.results}
            assert not {job.C, job.D} & others - {-1}


@pytest.mark.parametrize(("p", "bytes_per_entry"), [(1, 36), (2, 36), (3, 40), (4, 36), (8, 40)])
@pytest.mark.parametrize("degrees", [(8, 8, 8), (1, 2, 8, 8)])
def test_memory_of_two_planes(degrees, p, bytes_per_entry):
    """Bytes over n²: four for a float32 slot, four for both planes of a slot."""
    program = compiled(tuple(_steps(degrees)), p, 1, binary_chain(p), "fp16x3", 1.0)
    assert 4 * program.wholes + 4 * program.planes == bytes_per_entry


def test_work_is_that_of_the_schedule():
    """p = 2 by degrees 2, 8, 8: 1 + 2, 3 + 1 + 2 and 3 + 1 products; X and H of the middle step share a launch."""
    program = compiled(tuple(_steps((2, 8, 8))), 2, 1, binary_chain(2), "fp16x3", 1.0)
    assert program.products == 13 and len(program.launches) == 12


@pytest.mark.parametrize(
    ("steps", "precision", "message"),
    [((), "fp16x3", "no steps"), ((5, 2), "fp16x3", "degree 5"), ((2,), "fp32", "has no planes")],
)
def test_what_has_no_form_is_an_error(steps, precision, message):
    with pytest.raises(ValueError, match=message):
        SymmetricRoot(list(_steps(steps)), p=2, precision=precision)


def test_a_last_step_without_a_form_acts_on_columns_only():
    with pytest.raises(ValueError, match="degree 5"):
        SymmetricRoot(list(_steps((2, 5))), p=2)(torch.eye(3)[None])


def test_forms():
    assert [d for d in range(1, 9) if has_form(next(_steps((d,))))] == list(SYMMETRIC_DEGREES)
    assert not has_form(Polynomial(0.5, 0.5, (1.0,) * 9)), "degree 8 needs its factors"


@pytest.fixture
def interpreted():
    """The kernels on a CPU."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        pytest.skip("needs triton, and no CUDA device")


SMALL, DEEP, LARGE = Tiling(64, 32, 4, 2), Tiling(64, 64, 4, 2), Tiling(128, 32, 8, 2)
CASES = [
    *((200, 1, "fp16x3", p, 1, degrees) for p, degrees in ((2, (1, 4)), (4, (1, 8)))),
    *((n, 1, "fp16x3", 2, 1, (2, 8)) for n in (1, 3, 64, 65)),
    *((40, 2, "fp16x3", p, power, (1, 4)) for p, power in ((1, 1), (3, 1), (4, 1), (3, 2))),
    *((40, 1, "fp16x3", 2, 1, (degree,)) for degree in SYMMETRIC_DEGREES),
    # The interpreter does not know bfloat16.
    (130, 1, "fp16x3", 2, 1, (4, 3)),
    (65, 2, "fp16", 2, 1, (4, 3)),
]
ROUNDING = {"fp16x3": 2e-6, "fp16": 3e-3}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(("n", "batch", "name", "p", "power", "degrees"), CASES)
def test_kernels_under_the_interpreter(spd, interpreted, n, batch, name, p, power, degrees):
    """Tiles, mirrors, padding, jobs that share a launch and the tables: against the same polynomials of numbers."""
    steps = list(_steps(degrees))
    A = spd(n, 10.0, batch).float()
    choose = {64: lambda *_: DEEP, 200: lambda *_: LARGE}.get(n, lambda *_: SMALL)
    root = SymmetricRoot(steps, p=p, power=power, precision=name, workspace=_Poisoned(), choose=choose)
    X = root(A)
    values, V = torch.linalg.eigh(A.double())
    x = torch.from_numpy(_expected(steps, p, power, values.numpy()))
    expected = V @ (x.unsqueeze(-1) * V.mT)
    assert X.shape == A.shape and torch.equal(X, X.mT)
    assert torch.dist(X.double(), expected) <= ROUNDING[name] * expected.norm()
    if len(steps) > 1:
        before = SymmetricRoot(steps[:-1], p=p, power=power, precision=name, choose=choose)(A)
        assert torch.dist(root.before(), before) <= ROUNDING[name] * before.norm()
        y = torch.from_numpy(values.numpy() * _expected(steps[:-1], p, 1, values.numpy()) ** p)
        Y = V @ (y.unsqueeze(-1) * V.mT)
        assert torch.dist(root.Y.double(), Y) <= 3 * ROUNDING[name] * Y.norm()
    assert root.products.square == root.program.products


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("n", "k", "batch", "p", "power", "degrees"),
    [(1, 1, 1, 2, 1, (1, 4)), (65, 3, 2, 3, 2, (2, 7)), (130, 70, 1, 4, 1, (1, 8)), (40, 40, 2, 1, 1, (8,))],
)
def test_columns_under_the_interpreter(spd, interpreted, n, k, batch, p, power, degrees):
    """B of several scales; both ways to end (70 columns of 130 are too many for a recurrence)."""
    steps, A = list(_steps(degrees)), spd(n, 10.0, batch).float()
    B = torch.randn(batch, n, k, generator=torch.Generator().manual_seed(0))
    B[-1] *= 1e30
    root = SymmetricRoot(steps, p=p, power=power, workspace=_Poisoned(), choose=lambda *_: SMALL)
    Z = root(A, B)
    values, V = torch.linalg.eigh(A.double())
    x = torch.from_numpy(_expected(steps, p, power, values.numpy()))
    expected = V @ (x.unsqueeze(-1) * (V.mT @ B.double()))
    assert Z.shape == B.shape and root.products.columns == root.program.thin_products * k
    scale = expected.flatten(1).norm(dim=1)
    assert bool(((Z - expected).flatten(1).norm(dim=1) <= 2e-6 * scale).all())
    root.ws = Workspace()
    W = root.apply(B.double())
    assert bool(((W - expected).flatten(1).norm(dim=1) <= 2e-6 * scale).all())
    assert root.products.square == root.program.products


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("columns", [False, True])
def test_coarse_steps_under_the_interpreter(spd, interpreted, columns):
    """Rounding to 11 bits in the last step shows, in all of them more; `apply` is what was applied."""
    steps, A = list(_steps((1, 4, 8))), spd(40, 10.0).float()
    B = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(0)) if columns else None
    values, V = torch.linalg.eigh(A.double())
    expected = V @ (torch.from_numpy(_expected(steps, 2, 1, values.numpy())).unsqueeze(-1) * V.mT)
    expected = expected if B is None else expected @ B.double()
    errors = []
    for coarse in range(4):
        root = SymmetricRoot(steps, p=2, coarse=coarse, workspace=_Poisoned(), choose=lambda *_: SMALL)
        X = root(A, B)
        errors.append(float(torch.dist(X.double(), expected) / expected.norm()))
        root.ws = Workspace()
        if B is not None:  # the thin operands are rounded, too, where apply has float64
            assert torch.dist(root.apply(B.double()), X) <= (2e-6, 3e-4)[coarse > 0] * X.norm()
    assert errors[0] < 2e-6 < 1e-5 < errors[1] < errors[3] < 2e-3


@pytest.mark.parametrize(
    "B", [torch.ones(1, 3), torch.ones(1, 2, 1), torch.ones(1, 3, 0), torch.ones(1, 3, 1).double()]
)
def test_columns_that_do_not_fit_are_an_error(B):
    with pytest.raises((ValueError, TypeError), match="B must"):
        SymmetricRoot(list(_steps((2,))), p=2)(torch.eye(3)[None], B)


def test_nothing_is_the_root_of_nothing(interpreted):
    root = SymmetricRoot(list(_steps((2, 2))), p=2)
    for shape in ((0, 3, 3), (2, 0, 0)):
        assert root(torch.empty(shape)).shape == shape


def test_what_a_graph_works_in_is_held(interpreted):
    """All that launches read or write, but for A and B, hangs on the object."""
    root = SymmetricRoot(list(_steps((2, 2))), p=2)
    X = root(0.5 * torch.eye(3)[None])
    held = [*vars(root._held).values(), *root._tables]
    assert len(held) == 6 and any(M.untyped_storage().data_ptr() == X.untyped_storage().data_ptr() for M in held)


class _Poisoned(Workspace):
    """Buffers that nobody has written hold NaN."""

    def buffer(self, name, shape, dtype, device):
        held = super().buffer(name, shape, dtype, device)
        return held.fill_(torch.nan)


@pytest.mark.parametrize(("A", "error"), [(torch.eye(3), ValueError), (torch.eye(3).double()[None], TypeError)])
def test_a_matrix_that_does_not_fit_is_an_error(A, error):
    with pytest.raises(error, match="A must"):
        SymmetricRoot(list(_steps((2,))), p=2)(A)


@pytest.mark.parametrize(("n", "tilings"), [(200, (SMALL, LARGE)), (150, (LARGE, LARGE))])
def test_tiles_that_leave_holes_are_an_error(interpreted, n, tilings):
    root = SymmetricRoot(list(_steps((2, 2))), p=2, choose=lambda N, planes, step, batch: tilings[step])
    with pytest.raises(ValueError, match="one size"):
        root(torch.eye(n)[None])


def test_more_rows_than_can_be_counted_are_an_error():
    A = torch.empty(1, 1, 1).expand(2**23, 1, 1)
    with pytest.raises(ValueError, match="several calls"):
        SymmetricRoot(list(_steps((2, 2))), p=2)(A)


def test_counts_are_shared(interpreted):
    products = Products("fp16x3")
    SymmetricRoot(list(_steps((2,))), p=2, precision=products)(0.5 * torch.eye(3)[None])
    assert products.square == 1


def test_shared_memory_is_that_of_the_largest_tile():
    tilings = [tiling(N, planes, step) for N in range(64, 8192, 64) for planes in (1, 2) for step in (0, 1)]
    # Two planes, or two blocks of one; of both operands, two bytes a number.
    assert max(cut.stages * 2 * 2 * cut.size * cut.depth * 2 for cut in tilings) == SHARED_BYTES


# Shared memory per block, opted in, from NVIDIA's table of compute capabilities: 227, 163 and 99 KiB.
@pytest.mark.parametrize(
    ("shared", "hip", "runs"),
    [(227, None, True), (163, None, False), (99, None, False), (227, "6.4", False)],
    ids=["H200", "A100", "RTX 4090", "AMD"],
)
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_devices_that_the_kernels_are_for(monkeypatch, shared, hip, runs):
    properties = SimpleNamespace(shared_memory_per_block_optin=shared * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert symmetric_products.__wrapped__(torch.device("cuda", 0)) is runs


def test_a_cpu_has_no_symmetric_products():
    assert not symmetric_products(torch.device("cpu"))

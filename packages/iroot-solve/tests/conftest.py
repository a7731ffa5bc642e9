"""Matrices with known spectra in dense random eigenbases, truths made another way, and instruments.

Truth is V·λ^α·Vᵀ·B from a float64 `eigh` of the numbers that were passed, or mpmath where κ is beyond that.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from iroot_solve import IrootError, SolveResult, _cost, solve_spd
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Kernels run on a CPU where there is no GPU. Triton decides that when it is first imported, its own functions included.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

aten = torch.ops.aten


@pytest.fixture(scope="session", autouse=True)
def _shipped_calibration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Choices do not depend on what the user of this machine has measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IROOT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        _cost.table.cache_clear()
        yield


# What makes the host wait for a value when the tensor lives on a device.
READS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero),
    *(aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.nonzero_numpy),
}
WHOLE_READS = (Tensor.tolist, Tensor.numpy)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices are not worth a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _with_spectrum(spectrum: object, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    values = np.asarray(spectrum, dtype=np.float64)
    Q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    A = torch.from_numpy((Q * values) @ Q.T).to(dtype)
    return ((A + A.mT) / 2).to(dtype)


@pytest.fixture(scope="session")
def with_spectrum() -> Callable[..., Tensor]:
    """(spectrum, seed, dtype) ↦ symmetric matrix with that spectrum and a dense random eigenbasis."""
    return _with_spectrum


@pytest.fixture(scope="session")
def spd() -> Callable[..., Tensor]:
    """(n, kappa, seed, dtype) ↦ log-spaced spectrum in [1/kappa, 1]."""

    def make(n: int, kappa: float, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        return _with_spectrum(np.logspace(-np.log10(kappa), 0, n), seed, dtype)

    return make


@pytest.fixture(scope="session")
def rhs() -> Callable[..., Tensor]:
    """(*shape, seed, dtype) ↦ normal numbers from an own generator."""

    def make(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)

    return make


@pytest.fixture(scope="session")
def truth() -> Callable[..., Tensor]:
    """(A, B, exponent, ridge) ↦ (A + ridge·I)^exponent·B in float64; B = None for the power itself."""

    def power(A: Tensor, B: Tensor | None, exponent: Fraction | float, ridge: float = 0.0) -> Tensor:
        shifted = A.double() + ridge * torch.eye(A.shape[-1], dtype=torch.float64)
        values, V = torch.linalg.eigh(shifted)
        root = (V * values.clamp_min(0).pow(float(exponent)).unsqueeze(-2)) @ V.mT
        return root if B is None else root @ B.double()

    return power


@pytest.fixture(scope="session")
def exact() -> Callable[..., Tensor]:
    """(A, B, exponent) ↦ A^exponent·B by mpmath with 40 digits, for condition numbers that float64 cannot serve."""

    def power(A: Tensor, B: Tensor, exponent: Fraction) -> Tensor:
        with mpmath.workdps(40):
            values, V = mpmath.eigsy(mpmath.matrix(A.double().tolist()))
            alpha = mpmath.mpf(exponent.numerator) / exponent.denominator
            root = V * mpmath.diag([value**alpha for value in values]) * V.T
            Z = root * mpmath.matrix(B.double().tolist())
            return torch.tensor([[float(Z[i, j]) for j in range(Z.cols)] for i in range(Z.rows)], dtype=torch.float64)

    return power


@pytest.fixture(scope="session")
def distance() -> Callable[[Tensor, Tensor], float]:
    """‖Z − Z*‖_F/‖Z*‖_F, the largest of a batch."""

    def relative(Z: Tensor, expected: Tensor) -> float:
        gap = torch.linalg.matrix_norm(Z.double() - expected.double())
        return float((gap / torch.linalg.matrix_norm(expected.double())).amax())

    return relative


@pytest.fixture(scope="session")
def within() -> Callable[[float, torch.dtype], float]:
    """(tol, dtype) ↦ tol + u: what `converged` promises, and rounding Z to its dtype on top of it."""
    return lambda tol, dtype: tol + torch.finfo(dtype).eps / 2


@pytest.fixture(scope="session")
def best() -> Callable[..., SolveResult]:
    """`solve_spd`, and where it raises the best result there is, which the exception carries."""

    def attempt(A: Tensor, B: Tensor | None, **settings: object) -> SolveResult:
        try:
            return solve_spd(A, B, **settings)
        except IrootError as error:
            return error.result

    return attempt


class _Functions(TorchFunctionMode):
    """`tolist` and `numpy` read a whole tensor at once and do not reach the dispatcher on a CPU."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in WHOLE_READS:
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


class _Dispatches(TorchDispatchMode):
    """Reads of single values, and results whose shape depends on values; a mask filled with one value is none."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        packet = func.overloadpacket
        if packet in READS or _masks(packet, args):
            self.found.append(packet.__name__)
        return func(*args, **(kwargs or {}))


def _masks(packet: object, args: tuple[object, ...]) -> bool:
    if packet not in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_):
        return False
    boolean = any(isinstance(i, Tensor) and i.dtype is torch.bool for i in args[1])
    filled = len(args) > 2 and isinstance(args[2], Tensor) and args[2].numel() == 1
    return boolean and not filled


@pytest.fixture
def host_reads() -> Callable[[], object]:
    """`with host_reads() as found:` the reads that would wait for a device, by name."""

    @contextmanager
    def watch() -> Iterator[list[str]]:
        found: list[str] = []
        with _Functions(found), _Dispatches(found):
            yield found

    return watch


class _Allocations(TorchDispatchMode):
    """Storages of at least `floor` numbers that no argument brought along; all are kept, so that no address returns."""

    def __init__(self, floor: int, known: list[Tensor]) -> None:
        super().__init__()
        self.floor, self.found = floor, []
        self.storages = {tensor.untyped_storage()._cdata: tensor for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs)):
            self._keep(tensor)
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if self._keep(tensor) and tensor.untyped_storage().nbytes() >= self.floor * tensor.element_size():
                self.found.append(f"{func} {tuple(tensor.shape)}")
        return result

    def _keep(self, tensor: object) -> bool:
        """Whether the storage is new."""
        if not isinstance(tensor, Tensor):
            return False
        key = tensor.untyped_storage()._cdata
        new = key not in self.storages
        self.storages.setdefault(key, tensor)
        return new


@pytest.fixture
def allocations() -> Callable[..., object]:
    """`with allocations(floor) as found:` new storages of at least `floor` numbers, by operation and shape."""

    @contextmanager
    def watch(floor: int, *known: Tensor) -> Iterator[list[str]]:
        mode = _Allocations(floor, list(known))
        with mode:
            yield mode.found

    return watch


class _Queue(TorchDispatchMode):
    """Operations that a device would run, and those that would copy between it and the host."""

    VIEWS = frozenset(
        "view expand transpose unsqueeze slice select detach unbind diagonal squeeze alias as_strided permute split "
        "empty empty_like empty_strided new_empty device".split()
    )

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[str] = []
        self.crossings: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        if len({x.device for x in tensors}) > 1:
            self.crossings.append(name)
        if name not in self.VIEWS:
            self.queued.append(name)
        return result


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Callable[[], _Queue]:
    """`with queue() as found:` calls with tensors of the meta device, which stands for one that nothing is read from.

    They have no numbers: an operation that needs one raises. What runs is what runs on a device without the kernels.
    """
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # there is none for this device
    for module in ("iroot_solve._case", "iroot_kernels._rank_k"):
        monkeypatch.setattr(f"{module}.symmetric_products", lambda device: False)
    monkeypatch.setattr("iroot_solve._small.small_matrices", lambda device: False)

    # Kept from the first call on, and made by a generator, which that device has not.
    def numbers(n: int, *columns: int, device: torch.device, seed: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(n, *(columns or (16,)), dtype=dtype, device=device)

    for module in ("iroot_solve._certificate", "iroot_solve._cholesky"):
        monkeypatch.setattr(f"{module}.probe_signs", lambda n, k, *rest: numbers(n, k, **_named(rest)))
    for module in ("iroot_solve._completeness", "iroot_solve._matrix"):
        monkeypatch.setattr(f"{module}.normal_numbers", lambda n, *rest: numbers(n, **_named(rest)))
    return _Queue


def _named(rest: tuple[object, ...]) -> dict[str, object]:
    return dict(zip(("device", "seed", "dtype"), rest, strict=True))

"""Measure the table that `_cost` interpolates: `iroot doctor --calibrate`, or `python -m iroot_solve._calibrate FILE`.

No other work should run beside it. `python -m iroot_solve._calibrate FILE cuda` measures a GPU: the table that ships.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path

import torch
from iroot_kernels import PlaneMatrix, Polynomial, SymmetricRoot, Workspace
from torch import Tensor

from iroot_solve._cost import chunk, machine

SINGLE = (16, 32, 64, 128, 256, 512, 1024, 1536)
BATCHED = (16, 32, 64, 128, 256)
SINGLE_CUDA = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
# Of those the last is for products alone: eigenvalues of such a matrix take seconds.
PRODUCTS_FROM = 8192
BATCHED_CUDA = (16, 32, 64, 128, 256, 512, 1024)
BATCH_CUDA, NUMBERS_CUDA = 256, 2**26  # eigh of a batch takes seconds
CACHE_BYTES = 16 << 20
THIN_TERMS = 16


def _median_ms(call: Callable[[], object], seconds: float = 0.4, device: str = "cpu") -> float:
    def timed() -> float:
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    timed()
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 200):
        times.append(timed())
    return 1e3 * statistics.median(times)


def _operations(A: Tensor, B: Tensor) -> dict[str, tuple[Callable[[], object], int]]:
    """The calls as the solvers make them, and how many matrices each of them serves.

    Most find their matrices driven out of the cache, a single one by others, a batch by the rest of it; the products of
    a batch are those of a chunk.
    """
    batch, n, size, thin = A.shape[0], A.shape[-1], A.element_size(), torch.empty_like(B)
    count = max(1, CACHE_BYTES // (2 * A.numel() * size)) if batch == 1 else 1
    turn = cycle([(A.clone(), torch.empty_like(A)) for _ in range(min(count, 64))])
    part = A[: chunk(n, size)] if A.device.type == "cpu" else A
    out = torch.empty_like(part)

    def one_product() -> object:
        source, target = next(turn)
        return torch.addmm(source[0], A[0], source[0], out=target[0])

    def one_pass() -> object:
        source, target = next(turn)
        return torch.mul(source, 2.0, out=target)

    many = (lambda: torch.baddbmm(part, part, part, out=out), part.shape[0])
    return {
        "mm": many if batch > 1 else (one_product, 1),
        "eigh": (lambda: torch.linalg.eigh(A), batch),
        "cholesky": (lambda: torch.linalg.cholesky_ex(A), batch),
        "skinny": (lambda: torch.bmm(A, B, out=thin), batch),
        "pass": (one_pass, batch),
    }


def _symmetric(A: Tensor, name: str) -> tuple[Callable[[], object], int]:
    """A root by symmetric products as a graph, and how many of them."""
    newton_schulz = Polynomial.of_monomials((1.5, -0.5))
    root, bound = SymmetricRoot([newton_schulz] * 6, p=2, precision=name), A.sum(-1).amax()
    S = A / bound
    return _recorded(lambda: root(S)), root.program.products * A.shape[0]


def _thin(A: Tensor, B: Tensor) -> tuple[Callable[[], object], int]:
    """Terms of a recurrence with 80 columns as a graph, and how many of them."""
    V = B.repeat(1, 1, 5)
    U, total = torch.zeros_like(V), torch.zeros_like(V)
    matrix = PlaneMatrix.of(A / A.abs().amax(), Workspace())

    def call() -> None:
        recurrence, here, before = matrix.recurrence(V), V, U
        for _ in range(THIN_TERMS):
            recurrence.term(here, before, total, 0.1, 0.1, -0.1, 0.5)
            here, before = before, here

    return _recorded(call), THIN_TERMS * A.shape[0]


def _recorded(call: Callable[[], object]) -> Callable[[], object]:
    """A graph of the call, on a device: the host has no part in what it takes."""
    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()

    def replay(holding: object = call) -> None:
        graph.replay()

    return replay


def _substitution(A: Tensor, B: Tensor) -> tuple[Callable[[], object], int]:
    """The two triangular solves of a Cholesky factor, as the solver makes them."""
    L, U = torch.linalg.cholesky_ex(A).L.mT.contiguous().mT, B.mT.contiguous().mT

    def call() -> object:
        torch.linalg.solve_triangular(L, U, upper=False, out=U)
        return torch.linalg.solve_triangular(L.mT, U, upper=True, out=U)

    return call, A.shape[0]


def _measure(n: int, many: bool, device: str = "cpu") -> dict[str, float]:
    """Milliseconds per matrix of every operation in both precisions, for one matrix or one of many."""
    found = {}
    for dtype, bits in ((torch.float32, 32), (torch.float64, 64)):
        numbers = n * n
        cached = max(64, CACHE_BYTES // (numbers * dtype.itemsize))
        batch = cached if device == "cpu" else min(BATCH_CUDA, NUMBERS_CUDA // numbers)
        batch = batch if many else 1
        G = torch.randn(batch, n, n, dtype=dtype, generator=torch.Generator().manual_seed(n)).to(device)
        A = torch.bmm(G, G.mT) / n + torch.eye(n, dtype=dtype, device=device)
        B = torch.randn(batch, n, 16, dtype=dtype, device=device)
        operations = {} if n >= PRODUCTS_FROM else _operations(A, B)
        if device == "cuda" and bits == 32:
            operations["symmetric"], operations["coarse"] = _symmetric(A, "fp16x3"), _symmetric(A, "fp16")
            operations["thin"] = _thin(A, B)
        if device == "cuda" and n < PRODUCTS_FROM:
            operations["substitution"] = _substitution(A, B)
        for name, (call, matrices) in operations.items():
            found[f"{name}{bits}"] = _median_ms(call, device=device) / matrices
    return found


def _call_ms(device: str) -> float:
    """One operation on next to nothing."""
    x = torch.ones(1, 4, 4, device=device)
    return _median_ms(lambda: [x.mul(2.0) for _ in range(1000)], device=device) / 1000


def measure(
    progress: Callable[[Sequence[tuple[int, bool]]], Iterable[tuple[int, bool]]] = iter, device: str = "cpu"
) -> dict[str, object]:
    """The whole table, a minute or two; `progress` may watch the (n, whether many) that are measured."""
    sizes, batches = (SINGLE, BATCHED) if device == "cpu" else (SINGLE_CUDA, BATCHED_CUDA)
    shapes = [(n, False) for n in sizes] + [(n, True) for n in batches]
    found = {shape: _measure(*shape, device) for shape in progress(shapes)}
    single, batched = [found[n, False] for n in sizes], [found[n, True] for n in batches]
    return {
        "machine": machine() if device == "cpu" else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "call": float(f"{_call_ms(device):.4g}"),
        "n": list(sizes),
        "single": {name: [float(f"{row[name]:.4g}") for row in single if name in row] for name in single[0]},
        "batched": {name: [float(f"{row[name]:.4g}") for row in batched] for name in batched[0]},
    }


def store(data: dict[str, object], path: Path) -> None:
    """Write a table, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(data, indent=1) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    store(measure(device="cuda" if sys.argv[2:] == ["cuda"] else "cpu"), Path(sys.argv[1]))

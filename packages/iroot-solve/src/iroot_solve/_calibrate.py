"""Measure the table that `_cost` interpolates: `iroot doctor --calibrate`, or `python -m iroot_solve._calibrate FILE`.

No other work should run beside it.
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
from torch import Tensor

from iroot_solve._cost import machine

SINGLE = (16, 32, 64, 128, 256, 512, 1024, 1536)
BATCHED = (16, 32, 64, 128, 256)
BATCH = 64
CACHE_BYTES = 8 << 20


def _median_ms(call: Callable[[], object], seconds: float = 0.4) -> float:
    call()
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < stop and len(times) < 200):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _operations(A: Tensor, B: Tensor) -> dict[str, Callable[[], object]]:
    """The calls as the solvers make them: products and passes find their matrices driven out of the cache by others."""
    out, thin = torch.empty_like(A), torch.empty_like(B)
    count = max(1, CACHE_BYTES // (A.numel() * A.element_size())) if A.shape[0] == 1 else 1
    turn = cycle([(A.clone(), torch.empty_like(A)) for _ in range(min(count, 64))])

    def one_product() -> object:
        source, target = next(turn)
        return torch.addmm(source[0], A[0], source[0], out=target[0])

    def one_pass() -> object:
        source, target = next(turn)
        return torch.mul(source, 2.0, out=target)

    return {
        "mm": (lambda: torch.baddbmm(A, A, A, out=out)) if A.shape[0] > 1 else one_product,
        "eigh": lambda: torch.linalg.eigh(A),
        "cholesky": lambda: torch.linalg.cholesky_ex(A),
        "skinny": lambda: torch.bmm(A, B, out=thin),
        "pass": one_pass,
    }


def _measure(n: int, batch: int) -> dict[str, float]:
    """Milliseconds per matrix of every operation in both precisions."""
    found = {}
    for dtype, bits in ((torch.float32, 32), (torch.float64, 64)):
        G = torch.randn(batch, n, n, dtype=dtype, generator=torch.Generator().manual_seed(n))
        A = torch.bmm(G, G.mT) / n + torch.eye(n, dtype=dtype)
        B = torch.randn(batch, n, 16, dtype=dtype)
        for name, call in _operations(A, B).items():
            found[f"{name}{bits}"] = _median_ms(call) / batch
    return found


def measure(progress: Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]] = iter) -> dict[str, object]:
    """The whole table, a minute or two; `progress` may watch the (n, batch) that are measured."""
    found = {shape: _measure(*shape) for shape in progress([(n, 1) for n in SINGLE] + [(n, BATCH) for n in BATCHED])}
    single, batched = [found[n, 1] for n in SINGLE], [found[n, BATCH] for n in BATCHED]
    return {
        "machine": machine(),
        "torch": torch.__version__,
        "n": list(SINGLE),
        "single": {name: [float(f"{row[name]:.4g}") for row in single] for name in single[0]},
        "batched": {name: [float(f"{row[name]:.4g}") for row in batched] for name in batched[0]},
    }


def store(data: dict[str, object], path: Path) -> None:
    """Write a table, all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(data, indent=1) + "\n")
    draft.replace(path)


if __name__ == "__main__":
    store(measure(), Path(sys.argv[1]))

"""What things cost: measured times of the standard routines, interpolated.

A table holds milliseconds for one matrix and for one of a batch that no cache holds. Those that ship were measured on a
CPU with two AVX-512 cores and on an H200; only ratios decide, and they travel better than times. `iroot doctor
--calibrate` leaves another one for the CPU in the user's cache directory, which then counts on the machine it was
measured on.
"""

from __future__ import annotations

import json
import math
import os
import platform
from bisect import bisect_left
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

# Milliseconds by operation and size, for one matrix and for one of a batch.
OPERATIONS = ("single", "batched")
# Operations that read a matrix, and do little with it.
READING = ("skinny", "pass", "thin")
# Passes over n×n numbers that go with one product (increments, shifts), out of the cache.
PASSES_PER_PRODUCT = 5.0
# The Python around a torch call on next to nothing, and the call, over the call as it is timed, in a loop that the
# processor has learnt: the calls of a solve are different ones, and slower two to three times.
PYTHON_SHARE = 2.0
# Calls of reading, scaling, bounding and reporting a problem that is looked at.
FRAME_CALLS = 180
# Calls of a factorisation with its certificate, of an iteration's certificate, of a product and of a step.
FACTORED_CALLS, CERTIFIED_CALLS, PRODUCT_CALLS, STEP_CALLS, THIN_CALLS = 110, 150, 5, 16, 7

# About an L2 cache: the iterates of a chunk of the batch stay in it and cause no traffic to memory.
CHUNK_BYTES = 3 << 20
BUFFERS = 6
# On a device torch solves with up to so many triangular matrices of this size or more one after another: 8 of 1024 take
# 3.9 ms of an H200, 64 take 1.4.
LOOPED_BATCH, LOOPED_SIZE = 8, 64


def chunk(n: int, size: int) -> int:
    """How many n×n matrices, of numbers of `size` bytes, an iteration for the root takes at a time."""
    return max(1, CHUNK_BYTES // (BUFFERS * n * n * size))


def cache_file() -> Path:
    """Where this user's calibration lies, if there is one: in IROOT_CACHE_DIR, or the user's cache directory."""
    folder = os.environ.get("IROOT_CACHE_DIR")
    return (Path(folder) if folder else user_cache_path("iroot", appauthor=False)) / "calibration_cpu.json"


def machine() -> str:
    """What a calibration depends on: processor, instruction set, threads."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


@lru_cache(maxsize=2)
def table(device: str = "cpu") -> dict[str, Any]:
    """This user's calibration of this machine, or the one that ships for a device of this type."""
    if device == "cuda":
        return _shipped("cuda")
    shipped = _shipped("cpu")
    try:
        own: dict[str, Any] = json.loads(cache_file().read_text())
        fits = own["machine"] == machine() and own["call"] > 0
        fits &= all(own[key].keys() == shipped[key].keys() for key in OPERATIONS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return shipped
    return own if fits else shipped


def _shipped(device: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files("iroot_solve").joinpath(f"calibration_{device}.json").read_text())
    return found


def calls_ms(count: float, device: str = "cpu") -> float:
    """So many torch calls from Python; where the work of a call is less than that, calls are what counts."""
    return PYTHON_SHARE * float(table(device)["call"]) * count


def milliseconds(operation: str, n: int, batch: int = 1, device: str = "cpu") -> float:
    """Predicted time of one batched call of `operation`.

    Args:
        operation: mm, eigh, cholesky, skinny (16 columns) or pass, followed by 32 or 64, e.g. `mm32`; on CUDA also
            symmetric32, a product of `SymmetricRoot` in fp16x3 with everything that belongs to it, coarse32, one in
            fp16, thin32, a term of `PlaneRecurrence` with 80 columns, and substitution, two triangular solves with few
            columns.
        n: Matrix size.
        batch: Number of matrices.
        device: Its type.
    """
    data = table(device)
    sizes, one, many = data["n"], data["single"][operation], data["batched"][operation]
    growth = 2 if operation.startswith(READING) else 3
    first = _interpolate(sizes[: len(one)], one, n, growth)
    # A small batch costs its call, too.
    return first if batch == 1 else max(first, batch * _interpolate(sizes[: len(many)], many, n, growth))


def _interpolate(sizes: list[int], times: list[float], n: int, growth: int) -> float:
    """Log-log between sizes; n^growth beyond the last, the first time below the first."""
    if n <= sizes[0]:
        return times[0]
    if n >= sizes[-1]:
        return times[-1] * (n / sizes[-1]) ** growth
    i = bisect_left(sizes, n)
    share = math.log(n / sizes[i - 1]) / math.log(sizes[i] / sizes[i - 1])
    return float(times[i - 1] * (times[i] / times[i - 1]) ** share)


def iteration_ms(
    n: int,
    batch: int,
    square: float,
    columns: float,
    steps: int,
    thin: int,
    bits: int,
    chunks: int = 1,
    device: str = "cpu",
    call: float | None = None,
) -> float:
    """A coupled iteration: products, the passes between them, products with thin matrices, calls.

    Args:
        n: Matrix size.
        batch: Number of matrices.
        square: n×n by n×n products.
        columns: Right-hand columns multiplied in all thin products together.
        steps: Steps.
        thin: Thin products.
        bits: 32 or 64.
        chunks: Parts of the batch, each with its own calls.
        device: Its type.
        call: Of a torch call, where it is not one from Python.
    """
    skinny = milliseconds(f"skinny{bits}", n, batch, device) * columns / 16
    product = milliseconds(f"mm{bits}", n, batch, device)
    product += PASSES_PER_PRODUCT * milliseconds(f"pass{bits}", n, batch, device)
    calls = PRODUCT_CALLS * square + STEP_CALLS * steps + THIN_CALLS * thin
    each = calls_ms(1, device) if call is None else call
    return square * product + skinny + calls * chunks * each


def eigh_ms(n: int, k: int, batch: int, bits: int, device: str = "cpu") -> float:
    """One eigh and two products with k columns (k = n: the root)."""
    return milliseconds(f"eigh{bits}", n, batch, device) + applied_ms(n, 2 * k if k < n else k, batch, bits, device)


def cholesky_ms(n: int, k: int, batch: int, bits: int, device: str = "cpu") -> float:
    """One Cholesky factorisation and two triangular solves with k columns."""
    return milliseconds(f"cholesky{bits}", n, batch, device) + applied_ms(n, 2 * k, batch, bits, device)


def substitution_ms(n: int, batch: int, bits: int, device: str = "cpu") -> float:
    """What two triangular solves take more than their arithmetic: on a device one row waits for the other."""
    operation = f"substitution{bits}"
    if operation not in table(device)["single"]:
        return 0.0
    if batch <= LOOPED_BATCH and n >= LOOPED_SIZE:
        return batch * milliseconds(operation, n, 1, device)
    return milliseconds(operation, n, batch, device)


def applied_ms(n: int, columns: int, batch: int, bits: int, device: str = "cpu") -> float:
    """Products with `columns` columns: thin ones by bandwidth, wide ones by arithmetic."""
    thin = milliseconds(f"skinny{bits}", n, batch, device) * columns / 16
    if columns <= 16:
        return thin
    return min(thin, milliseconds(f"mm{bits}", n, batch, device) * max(1.0, columns / n))

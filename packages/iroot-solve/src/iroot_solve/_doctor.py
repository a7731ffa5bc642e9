"""What is installed, what it runs on, and what follows from the settings: the facts behind `iroot doctor`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from operator import attrgetter

import iroot_coeffs
import iroot_kernels
import iroot_precond
import torch
from iroot_kernels import symmetric_products

import iroot_solve
from iroot_solve._cost import cache_file, table
from iroot_solve._cost import machine as machine_of_table

WHEELS = (iroot_coeffs, iroot_kernels, iroot_precond, iroot_solve)
LIBRARIES = ("torch", "numpy", "triton", "rich", "platformdirs")
CPU_FP32 = "backends.mkldnn.matmul.fp32_precision"
CUDA_FP32 = "backends.cuda.matmul.fp32_precision"
SETTINGS = (
    CPU_FP32,
    CUDA_FP32,
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
)


def versions() -> dict[str, str]:
    """The four wheels, Python, and the libraries they use."""
    wheels = {wheel.__name__.replace("_", "-"): wheel.__version__ for wheel in WHEELS}
    return {**wheels, "python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def lockstep() -> bool:
    """Whether the four wheels have one version."""
    return len({wheel.__version__ for wheel in WHEELS}) == 1


def machine() -> dict[str, str]:
    """Processor, threads and CUDA devices."""
    found = {
        "platform": platform.platform(),
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "threads": f"{torch.get_num_threads()} in an operation, {os.cpu_count()} processors",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "not set (PASSIVE helps where processes share cores)"),
    }
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = f"{device.total_memory / 2**30:.0f} GiB"
        found[f"cuda:{index}"] = f"{device.name}, {memory}, sm_{device.major}{device.minor}"
    return found


def settings() -> dict[str, str]:
    """torch's global flags that bear on products."""
    found = {f"torch.{name}": _setting(name) for name in SETTINGS}
    found["torch.get_float32_matmul_precision()"] = _read(torch.get_float32_matmul_precision)
    found["deterministic algorithms"] = _read(torch.are_deterministic_algorithms_enabled)
    return found


def backends() -> list[tuple[str, str, str]]:
    """(device, backend, why)."""
    reduced = _setting(CPU_FP32) not in ("none", "ieee")
    fp32 = "run in float64, because a global flag reduces them" if reduced else "are those of the BLAS"
    emulated = "tf32, bf16, fp16 and their x3 forms round as a GPU would, without its speed"
    cpu = ("cpu", "torch", f"the only one for a CPU; float32 products {fp32}; {emulated}")
    return [cpu, ("cuda", *_cuda_backend())]


def calibration() -> dict[str, str]:
    """Where the times come from that decide between strategies, and whether that is here."""
    data, here = table(), machine_of_table()
    same = "the same" if here == data["machine"] else "another: only ratios of times decide, and they travel well"
    own = cache_file() if cache_file().exists() else "the one that ships; `iroot doctor --calibrate` measures another"
    return {
        "measured on": data["machine"],
        "with torch": data["torch"],
        "this machine": f"{here} ({same})",
        "table": str(own),
    }


def _cuda_backend() -> tuple[str, str]:
    if not torch.cuda.is_available():
        return "not in use", "no CUDA device was found"
    reduced = _setting(CUDA_FP32) == "tf32"
    fp32 = "run as three fp16 products, because a global flag asks for tf32" if reduced else "are those of cuBLAS"
    if symmetric_products(torch.device("cuda", torch.cuda.current_device())):
        made = "iterations in float32 are made of symmetric products (fp16x3, or fp16 where that is enough)"
        return "triton", f"{made}; all other float32 products {fp32}"
    why = "Triton is not installed" if find_spec("triton") is None else "they need an NVIDIA H100 or later"
    return "torch", f"{why}: no symmetric products; float32 products {fp32}"


def _setting(name: str) -> str:
    return _read(partial(attrgetter(name), torch))


def _read(getter: Callable[[], object]) -> str:
    """A setting as text; torch refuses to tell where its older and newer switches were mixed."""
    try:
        return str(getter())
    except RuntimeError:
        return "unreadable: set through both the older and the newer switch"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"

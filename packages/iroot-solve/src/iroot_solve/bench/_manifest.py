"""How the samples of a run were made: `manifest.json`, and the facts about the machine beside it.

Every run has one, whatever made it: `iroot bench`, the gallery, a script in `benchmarks`.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import date, datetime, timezone
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import torch

from iroot_solve import _doctor

SCHEMA = 1
PACKAGES = ("iroot-coeffs", "iroot-kernels", "iroot-precond", "iroot-solve", "torch", "numpy", "scipy", "matplotlib")
UNCOMMITTED = "uncommitted"
# Results are no source: a folder of them that is not committed yet leaves the tree clean.
SOURCES = (":/", ":(top,exclude)benchmark_results")
HERE = Path(__file__).parent
PROCESSOR = ("Architecture", "CPU(s)", "Model name", "Thread(s)", "Core(s)", "Socket(s)", "Hypervisor", "L", "NUMA")
CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
GPU = ("name", "driver_version", "memory.total", *CLOCKS)

TEXT, COUNT, NUMBER, NAMES = (str,), (int,), (int, float), (list,)
LISTS = ("cases", "arms")
KEYS: dict[str, tuple[type, ...]] = {
    "schema": COUNT,
    "date": TEXT,
    "slug": TEXT,
    "question": TEXT,
    "hypothesis": TEXT,
    "command": TEXT,
    "commit": TEXT,
    "dirty": (bool,),
    "device": TEXT,
    "device_name": TEXT,
    "threads": COUNT,
    "python": TEXT,
    "versions": (dict,),
    "seed": COUNT,
    "tol": NUMBER,
    "dtype": TEXT,
    "cases": NAMES,
    "arms": NAMES,
    "trials": COUNT,
    "timing_reps": COUNT,
    "timing_warmup_reps": COUNT,
    "started": (str, type(None)),  # not known of the oldest runs
    "finished": (str, type(None)),
    "ab": (dict, type(None)),
    "clocks": (dict, type(None)),
}
# What `iroot bench` says of its samples, all or none; other programs have keys of their own in their place.
BENCH = frozenset({"tol", "dtype", *LISTS, "trials", "timing_reps", "timing_warmup_reps", "ab"})
AB = ("label_a", "label_b", "extra_args_a", "extra_args_b")
# What has to be the same where a run goes on.
HOME = ("commit", "dirty", "device_name", "threads", "python", "versions")


def describe(device: torch.device, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Where and with what: the keys of a manifest that the options of a run do not decide.

    Args:
        device: Where the arms run.
        needs: Packages of rivals, for their versions.
    """
    return {
        "commit": commit(),
        "dirty": dirty(),
        "device": device_slug(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: found for name in (*PACKAGES, *sorted(set(needs))) if (found := _version(name))},
        "seed": 0,
        "clocks": clocks(device),
    }


def begin(facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that starts now; its end is not known yet.

    Args:
        facts: All keys but the schema, the date and the times; keys of the program's own come last.

    Raises:
        ValueError: Names the first key that is missing or wrong.
    """
    found = {"schema": SCHEMA, "date": date.today().isoformat(), **facts, "started": now(), "finished": None}
    manifest = {key: found[key] for key in (*KEYS, *found) if key in found}
    validate(manifest)
    return manifest


def by_bench(manifest: dict[str, Any]) -> bool:
    """Whether `iroot bench` made the run; else its samples and its report are those of another program."""
    return not BENCH.isdisjoint(manifest)


def validate(manifest: dict[str, Any]) -> None:
    """Whether all keys are there, with values of the right kind.

    Args:
        manifest: As read from JSON.

    Raises:
        ValueError: Names the first key that is missing or wrong.
    """
    bench = by_bench(manifest)
    for key, types in KEYS.items():
        if key in BENCH and not bench:
            continue
        if key not in manifest:
            raise ValueError(f"manifest: {key!r} is missing")
        value = manifest[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise ValueError(f"manifest: {key!r} is {value!r}, which is not of type {' or '.join(map(_named, types))}")
        if key in LISTS and not all(isinstance(name, str) for name in manifest[key]):
            raise ValueError(f"manifest: {key!r} holds something that is no name: {value!r}")
    if manifest["schema"] != SCHEMA:
        raise ValueError(f"manifest: 'schema' is {manifest['schema']!r}; this version reads {SCHEMA}")
    sides = manifest.get("ab")
    missing = [key for key in AB if sides is not None and key not in sides]
    if missing:
        raise ValueError(f"manifest: 'ab' lacks {missing[0]!r}")


def write(path: Path, manifest: dict[str, Any]) -> None:
    """Validate and write, so that a kill leaves the old file or the new one."""
    validate(manifest)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    fresh.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The valid manifest of a run of `iroot bench`.

    Args:
        path: A `manifest.json`.

    Raises:
        OSError: There is no such file.
        ValueError: It is no JSON, or no manifest, or that of another program's run.
    """
    manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    validate(manifest)
    if not by_bench(manifest):
        raise ValueError(f"manifest: the run was made by `{manifest['command']}`, not by `iroot bench`")
    return manifest


def folder_name(manifest: dict[str, Any]) -> str:
    """<date>_<slug>_<device>_<commit>."""
    return "_".join(manifest[key] for key in ("date", "slug", "device", "commit"))


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def commit() -> str:
    """Short hash of the commit that the running code belongs to; "uncommitted" outside a checkout of it."""
    tracked = _run("git", "-C", str(HERE.parent), "ls-files", "--error-unmatch", "__init__.py")
    return (_run("git", "-C", str(HERE), "rev-parse", "--short", "HEAD") if tracked else "") or UNCOMMITTED


def dirty() -> bool:
    """Whether the checkout has changes, results aside."""
    return commit() != UNCOMMITTED and bool(_run("git", "-C", str(HERE), "status", "--porcelain", "--", *SOURCES))


def device_slug(device: torch.device) -> str:
    """For names of folders: "cpu", "h100"."""
    if device.type != "cuda":
        return device.type
    words = re.findall(r"[a-z0-9]+", torch.cuda.get_device_name(device).lower())
    return next((word for word in words if any(letter.isdigit() for letter in word)), "cuda")


def device_name(device: torch.device) -> str:
    """What it calls itself."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def clocks(device: torch.device) -> dict[str, str] | None:
    """Clocks of a GPU in MHz and its power limit in W, as far as its driver tells; nothing of a CPU."""
    text = _ask_gpu(device, CLOCKS)
    return dict(zip(CLOCKS, (value.strip() for value in text.split(",")), strict=True)) if text else None


def environment(device: torch.device) -> dict[str, str]:
    """File name ↦ text: packages, torch's configuration, processor and GPU."""
    packages = sorted({f"{found.metadata['Name']}=={found.version}" for found in distributions()}, key=str.lower)
    machine = {**_doctor.machine(), "platform": f"{platform.system()} {platform.machine()}", **_doctor.settings()}
    processor = (line for line in _run("lscpu").splitlines() if line.startswith(PROCESSOR))
    facts = {
        "packages.txt": "\n".join(packages),
        "torch.txt": torch.__config__.show(),
        "machine.txt": "".join(f"{name}: {value}\n" for name, value in machine.items()),
        "cpu.txt": "\n".join(processor),
        "gpu.txt": _ask_gpu(device, GPU, "csv"),
    }
    return {name: text.strip() + "\n" for name, text in facts.items() if text}


def _ask_gpu(device: torch.device, fields: Iterable[str], form: str = "csv,noheader,nounits") -> str:
    if device.type != "cuda":
        return ""
    gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return _run("nvidia-smi", f"--query-gpu={','.join(fields)}", f"--format={form}", "-i", gpu)


def _named(kind: type) -> str:
    return "null" if kind is type(None) else kind.__name__


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _run(*command: str) -> str:
    """Output of a program; empty where it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

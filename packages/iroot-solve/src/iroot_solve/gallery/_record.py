"""A run as a folder: manifest, raw samples and a report that is made from them alone."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from iroot_solve.gallery._survey import ARMS, Sample
from iroot_solve.gallery._table import NOTE, markdown, verdict

PACKAGES = ("iroot-coeffs", "iroot-kernels", "iroot-precond", "iroot-solve", "torch", "numpy", "mpmath")


def manifest(command: str, slug: str, powers: Sequence[int]) -> dict[str, Any]:
    """How the samples were made."""
    return {
        "date": date.today().isoformat(),
        "slug": slug,
        "command": command,
        "commit": _git("rev-parse", "--short", "HEAD") or "uncommitted",
        "dirty": bool(_git("status", "--porcelain")),
        "device": "cpu",
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "seed": 0,
        "powers": list(powers),
    }


def write(out: Path, facts: dict[str, Any], samples: Sequence[Sample]) -> Path:
    """Write `out/<date>_<slug>_<device>_<commit>/` and return it."""
    folder = out / "_".join(facts[key] for key in ("date", "slug", "device", "commit"))
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", "utf-8")
    lines = (json.dumps(_finite(asdict(sample)), ensure_ascii=False, allow_nan=False) for sample in samples)
    (folder / "raw" / "samples.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    (folder / "report.md").write_text(report(facts, samples), "utf-8")
    return folder


def read_samples(folder: Path) -> list[Sample]:
    """The raw samples of a run."""
    return [_sample(json.loads(line)) for line in (folder / "raw" / "samples.jsonl").read_text("utf-8").splitlines()]


def _sample(record: dict[str, Any]) -> Sample:
    numbers: dict[str, Any] = {key: math.nan if value is None else value for key, value in record.items()}
    return Sample(**{**numbers, "fallbacks": tuple(record["fallbacks"])})


def report(facts: dict[str, Any], samples: Sequence[Sample]) -> str:
    """The page of a run."""
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    parts = [
        "# Gallery of hard spectra",
        f"{facts['date']}, commit {facts['commit']}{' (with changes)' if facts['dirty'] else ''}, "
        f"{facts['processor']}, {facts['threads']} threads, Python {facts['python']}, {versions}. "
        f"Made by `{facts['command']}`.",
        verdict(samples),
        NOTE,
    ]
    for arm in ARMS:
        if any(sample.arm == arm for sample in samples):
            parts += [f"## {arm}", markdown(samples, arm)]
    return "\n\n".join(parts) + "\n"


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity: they are written as null."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    """Output of git in the current folder; empty outside a checkout or where there is no git."""
    try:
        run = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""

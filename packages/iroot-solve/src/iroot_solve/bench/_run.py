"""A run while it is made: samples as they come, and what is written of them, also where it ends early."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from iroot_solve.bench import _manifest, _samples
from iroot_solve.bench._samples import Sample

MANIFEST, SAMPLES, REPORT, CHECKSUMS = "manifest.json", Path("raw", "samples.jsonl"), "report.md", "CHECKSUMS"

NAMESAKE = "--resume it, or choose another --run-name"


@dataclass
class Run:
    """What was found so far, and how.

    Attributes:
        manifest: `finished` is null until it is.
        folder: Where it is kept, if anywhere.
        samples: In the order in which they were made.
    """

    manifest: dict[str, Any]
    folder: Path | None = None
    samples: list[Sample] = field(default_factory=list)

    def open(self, runs: Path, device: torch.device, advice: str = NAMESAKE) -> None:
        """Make its folder, with manifest and environment.

        Args:
            runs: Where.
            device: What the environment is told of.
            advice: What to do where there is a folder of that name.

        Raises:
            ValueError: There is one.
        """
        self.folder = runs / _manifest.folder_name(self.manifest)
        if self.folder.exists():
            raise ValueError(f"{self.folder} is there already; {advice}")
        (self.folder / SAMPLES).parent.mkdir(parents=True)
        (self.folder / SAMPLES).touch()
        (self.folder / "env").mkdir()
        for name, text in _manifest.environment(device).items():
            (self.folder / "env" / name).write_text(text, "utf-8")
        _manifest.write(self.folder / MANIFEST, self.manifest)

    def keep(self, sample: Sample) -> None:
        """Add a sample, on disk before anything else happens."""
        self.samples.append(sample)
        if self.folder is not None:
            _samples.append(self.folder / SAMPLES, sample)

    def close(self, complete: bool) -> None:
        """Note whether it was finished; in its folder, make manifest, report, summary and plots."""
        self.manifest["finished"] = _manifest.now() if complete else None
        if self.folder is None:
            return
        _manifest.write(self.folder / MANIFEST, self.manifest)
        if self.samples:
            from iroot_solve.bench._report import render

            render(self.folder)

    def finish(self, page: str) -> None:
        """Note that it is finished, in its folder, where another program than `iroot bench` made it.

        Args:
            page: Its report; the index of the runs beside it is written again.
        """
        from iroot_solve.bench._index import rewrite

        assert self.folder is not None
        self.manifest["finished"] = _manifest.now()
        _manifest.write(self.folder / MANIFEST, self.manifest)
        (self.folder / REPORT).write_text(page, "utf-8", newline="\n")
        rewrite(self.folder.resolve().parent)

    def report(self) -> str:
        """The report as Markdown without the plots, which lie in the run's folder."""
        from iroot_solve.bench._report import report

        return re.sub(r"!\[[^\n]*\n+", "", report(self.manifest, self.samples))


def begin(facts: dict[str, Any]) -> Run:
    """A run that starts now.

    Args:
        facts: See `_manifest.begin`.
    """
    return Run(_manifest.begin(facts))


def reopen(folder: Path) -> Run:
    """A run that goes on, without the line that a kill left half-written.

    Args:
        folder: Of the run.

    Raises:
        ValueError: No run is there, or one of another schema.
    """
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"--resume: {folder} holds no {MANIFEST}")
    samples = _samples.read(folder / SAMPLES)
    _samples.write(folder / SAMPLES, samples)
    return Run(_manifest.read(folder / MANIFEST), folder, samples)


def require_same_home(manifest: dict[str, Any], here: dict[str, Any]) -> None:
    """ValueError, naming it, where something differs that samples of one run have in common."""
    for key in _manifest.HOME:
        then, now = manifest[key], here[key]
        if then != now and isinstance(then, dict):
            then, now = (dict(sorted(side.items() - other.items())) for side, other in ((then, now), (now, then)))
        if then != now:
            raise ValueError(f"--resume: the run has {key} {then!r}, and here it is {now!r}")


def write_checksums(manifest: Path, files: Iterable[Path]) -> Path:
    """SHA-256 of files in a file CHECKSUMS beside the manifest, as `sha256sum --check` reads them."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {Path(os.path.relpath(path, manifest.parent)).as_posix()}\n"
        for path in (*files, manifest)
    ]
    target = manifest.parent / CHECKSUMS
    target.write_text("".join(lines), "utf-8")
    return target

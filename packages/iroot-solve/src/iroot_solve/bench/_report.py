"""The page of a run and all that is made with it: from the manifest and the raw samples alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iroot_solve.bench import _manifest, _samples
from iroot_solve.bench._ab_table import markdown
from iroot_solve.bench._drawing import optional
from iroot_solve.bench._rows import Row, constants_label, grouped, rows
from iroot_solve.bench._samples import Sample
from iroot_solve.bench._table import MISSES, summary, table
from iroot_solve.bench._winners import both_sides, fastest, overall, verdict

__all__ = ["render", "report", "summary"]

NO_PLOTS = 'Plots are left out: they need matplotlib (`pip install "iroot-solve[bench]"`).'
DIRTY = (
    "> **The tree was dirty.** It had changes that are in no commit, so that {commit} alone does not say what was "
    "measured."
)
SPECTRA = (
    "Of the matrix that the power is taken of, ridge included (singular values where it is not symmetric), in the "
    "first random problem of each point, as it was passed. All matrices of a batch are taken together."
)
INTERRUPTED = "> **Interrupted.** What was measured until then is below."
NOTE = (
    "Times are of single calls, all trials and rounds together. An arm is within tol where its true error, "
    "‖Z − Z*‖_F/‖Z*‖_F against float64, is at most {tol:g} in every trial; the one shown is the largest. The estimate "
    "is the library's own, in that trial. Ratios are of medians, to the fastest arm within tol; an arm that misses "
    "tol (“{misses}”, hollow in the plots) has none and is never the best, however fast."
)


def render(folder: Path) -> None:
    """Rebuild `report.md`, `summary.csv` and `plots/` of a run from `manifest.json` and `raw/samples.jsonl`.

    Args:
        folder: Of the run. Plots that the samples do not give any more are removed.

    Raises:
        OSError: One of the two files is not there.
        ValueError: One of them cannot be read.
    """
    manifest, samples = _manifest.read(folder / "manifest.json"), _samples.read(folder / "raw" / "samples.jsonl")
    for old in (folder / "plots").glob("*.svg"):
        old.unlink()
    if drawing := optional("_plots"):
        (folder / "plots").mkdir(exist_ok=True)
        for name, svg in drawing.plots(manifest, samples).items():
            (folder / "plots" / name).write_bytes(svg)
    (folder / "summary.csv").write_text(summary(samples), "utf-8", newline="\n")
    (folder / "report.md").write_text(report(manifest, samples), "utf-8", newline="\n")


def report(manifest: dict[str, Any], samples: Sequence[Sample]) -> str:
    """The page of a run, in Markdown; it shows the plots of `plots/` where matplotlib is installed.

    Args:
        manifest: How the samples were made.
        samples: All of them.
    """
    tol, measured, drawing = manifest["tol"], rows(samples), optional("_plots")
    images: dict[str | None, list[str]] = {}
    for plot in drawing.sheet(manifest, samples) if drawing else []:
        images.setdefault(plot.case, []).append(f"![{plot.alt}](plots/{plot.name})")
    parts = [*_head(manifest, samples), *([] if drawing else [NO_PLOTS])]
    for name, case in grouped(measured, lambda row: row.point.case).items():
        found = [] if manifest["ab"] else [fastest(case, tol)]
        parts += [f"## {name}", _facts(case), table(case, tol), *found, *images.get(name, [])]
    if measured and not manifest["ab"]:
        parts += ["## Which arm wins where", overall(measured, tol), *images.get(None, [])]
    if drawing and drawing.SPECTRA in images:
        parts += [f"## {drawing.SPECTRA}", SPECTRA, *images[drawing.SPECTRA]]
    return "\n\n".join(parts) + "\n"


def _head(manifest: dict[str, Any], samples: Sequence[Sample]) -> list[str]:
    """Title, warnings, question, hypothesis, result, and how the samples were made."""
    asked = [f"**{key.capitalize()}.** {manifest[key]}" for key in ("question", "hypothesis") if manifest[key]]
    return [
        f"# Benchmark: {manifest['slug']}",
        *([DIRTY.format(commit=manifest["commit"])] if manifest["dirty"] else []),
        *([] if manifest["finished"] else [INTERRUPTED]),
        *asked,
        f"**Result.** {verdict(manifest, samples)}",
        _made(manifest),
        NOTE.format(tol=manifest["tol"], misses=MISSES),
        *_sides(manifest, samples),
    ]


def _made(manifest: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    clocks = "".join(f", {name} {value}" for name, value in (manifest["clocks"] or {}).items())
    threads = f"{manifest['threads']} thread{'s' * (manifest['threads'] != 1)}"
    return (
        f"{manifest['date']}, commit {manifest['commit']}{' with changes' * manifest['dirty']}, "
        f"{manifest['device_name']}{clocks}, {threads}, Python {manifest['python']}, {versions}, "
        f"{manifest['dtype']}, seed {manifest['seed']}. Made by `{manifest['command']}`."
    )


def _sides(manifest: dict[str, Any], samples: Sequence[Sample]) -> list[str]:
    """The comparison of two sides, where that is what was measured."""
    compared = both_sides(manifest, samples)
    if not compared:
        return []
    ab = manifest["ab"]
    a, b = (f"{ab[f'label_{side}']}{f' (`{extra}`)' if (extra := ab[f'extra_args_{side}']) else ''}" for side in "ab")
    return [f"## {ab['label_b']} against {ab['label_a']}", f"A is {a}, B is {b}.", markdown(compared).rstrip()]


def _facts(case: Sequence[Row]) -> str:
    """What all points of a case have in common, and how often each arm was called there."""
    point = case[0].point
    common = constants_label(list(grouped(case, lambda row: row.point)))
    trials, calls = _range([row.trials for row in case]), _range([row.calls for row in case])
    return f"{point.problem}, p = {point.p}, {common}. Random problems: {trials}; timed calls of each row: {calls}."


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"

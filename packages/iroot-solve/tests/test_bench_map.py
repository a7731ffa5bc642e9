"""The map of strategies: its verdict by numbers worked out by hand, its figure, and a tiny grid from end to end."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

matplotlib = pytest.importorskip("matplotlib", exc_type=ImportError)

from iroot_solve.bench import _manifest, _map, _map_plot  # noqa: E402
from iroot_solve.bench._command import run_report  # noqa: E402
from iroot_solve.bench._map import Cell  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
CPU = torch.device("cpu")
# What each cell is about, its arms as (milliseconds, error), and which own one let another do it.
MADE = {
    "close": ({"auto": ([0.9, 7.0, 1.0], 1e-5), "eigh32": ([0.95], 1e-4), "eigh64": ([2.0], 1e-9)}, {}),
    "far": ({"auto": ([11.2], 1e-5), "eigh32": ([1.0], 1.1e-4), "eigh64": ([10.0], 1e-9)}, {}),
    "small": ({"auto": ([0.4], 1e-5), "cholesky32": ([0.1], 1e-6), "cholesky": ([0.32], 1e-6)}, {}),
    "wrong": ({"auto": ([1.0], 2e-4), "eigh32": ([5.0], 1e-6)}, {}),
    "alone": ({"auto": ([3.0], 1e-5), "eigh32": ([1.0], None)}, {}),
    "ladder": ({"auto": ([1.0], 1e-5), "lanczos": ([0.5], 1e-6), "eigh": ([0.92], 1e-6)}, {"lanczos": "eigh"}),
}
PLACES = [(64, None, 1, 1), (64, None, 64, 1), (64, None, 1, 2), (64, 32, 4, 1), (64, 32, 64, 2), (1024, None, 64, 4)]


def made():
    """Kind ↦ cell."""
    found = {}
    for (kind, (arms, ran)), (n, batch, k, p) in zip(MADE.items(), PLACES, strict=True):
        ms, errors = {arm: ms for arm, (ms, _) in arms.items()}, {arm: error for arm, (_, error) in arms.items()}
        done = {arm: f"{ran.get(arm, arm)}/fp64" for arm in arms if arm in ("cholesky", "lanczos", "eigh")}
        found[kind] = Cell(n, batch, k, p, 1e3, "eigh/fp64", 1e-6, errors, ms, ran=done)
    return found


def manifest(cells):
    facts = {"slug": "map", "question": "Where?", "hypothesis": "", "command": "strategy_map.py"}
    own = {"map": {"cells": cells, "slow": 5.0, "hopeless": 20.0}}
    return _manifest.begin({**facts, **_manifest.describe(CPU), **own})


def written(folder, cells, asked=None):
    """A run's folder with these cells."""
    (folder / "raw").mkdir(parents=True)
    _manifest.write(folder / "manifest.json", manifest(asked or len(cells)))
    (folder / "raw" / "samples.jsonl").write_text("".join(map(_map.line, cells)), "utf-8")
    return folder


# kind: (winner, margin, auto/winner, auto/own, within 10 %, within 1.05 × + 0.3 ms)
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("close", ("eigh32", 2.0 / 0.95, 1.0 / 0.95, math.nan, True, True)),
        ("far", ("eigh64", None, 1.12, math.nan, False, False)),  # 11.2 > 10.5 + 0.3
        ("small", ("cholesky32", 3.2, 4.0, 1.25, False, True)),  # 0.4 ≤ 0.105 + 0.3
        ("wrong", ("eigh32", None, math.inf, math.inf, False, False)),
        ("alone", (None, None, math.nan, math.nan, True, True)),
        ("ladder", ("eigh", None, 1.0 / 0.92, 1.0 / 0.92, True, True)),  # lanczos let eigh do it
    ],
)
def test_a_cell_is_judged_by_medians_of_the_arms_within_tol(kind, expected):
    c = made()[kind]
    winner, *numbers, near, target = expected
    assert (c.winner, c.near, c.on_target) == (winner, near, target)
    assert (c.margin is None) == (numbers[0] is None)
    assert [c.margin or 0, c.ratio, c.choice] == pytest.approx([numbers[0] or 0, *numbers[1:]], nan_ok=True)


def test_ten_per_cent_are_within_and_more_is_not():
    c = made()["close"]
    for auto, near in ((1.1 * 0.95, True), (1.1001 * 0.95, False)):
        assert replace(c, ms={**c.ms, "auto": [auto]}).near is near


def test_the_verdict_counts_cells_and_names_the_worst():
    cells = list(made().values())
    # near: close, alone, ladder; target: those and small; own: small, wrong and ladder have an own ratio or miss.
    text = _map.verdict(cells)
    assert "tol = 10⁻⁴ in 3 of 6 cells (50%), 95% wanted: missed" in text
    assert "plus 0.3 ms in 4 of 6 cells (67%)" in text
    assert "worst: n = 64, batch 32, k = 4, p = 1, κ = 10³ (misses tol)" in text
    assert "fastest own strategy by name in 1 of 3 cells (33%)" in text
    assert "wanted: met" in _map.verdict([cells[0]] * 19 + [cells[1]]) and "(1.12 ×)" in _map.verdict(cells[:2])
    assert "wanted: missed" in _map.verdict([cells[0]] * 18 + [cells[1]])


def test_the_page_has_the_verdict_for_the_index_and_its_worst_cells_in_order(tmp_path):
    from iroot_solve.bench._index import index

    cells = list(made().values())
    runs = tmp_path / "runs"
    folder = written(runs / "run", cells)
    _map.rewrite(folder)
    page = (folder / "report.md").read_text("utf-8")
    assert _map.verdict(cells).split(" It is ")[0] in index(runs)
    worst = page.split("## Worst cells")[1].split("##")[0]
    assert [line.split(" | ")[11] for line in worst.splitlines()[4:] if line] == ["misses tol", "4.00 ×", "1.12 ×"]
    arms = page.split("## Arms")[1].split("##")[0]
    assert "| eigh32 | 2 | 2 | 0 | 2 | 0 | 0 |" in arms and "| lanczos | 0 | 1 | 1 | 0 | 0 | 0 |" in arms
    assert "No arm but `auto` meets tol in 1 of the cells." in arms
    assert "plots/map.svg" in page and (folder / "plots" / "map.svg").exists()


def test_samples_are_read_back_and_a_half_written_line_is_left_out(tmp_path):
    cells = [replace(c, estimate=math.nan, errors={**c.errors, "auto": math.inf}) for c in made().values()]
    folder = written(tmp_path / "run", cells, asked=7)
    with open(folder / "raw" / "samples.jsonl", "a", encoding="utf-8") as file:
        file.write('{"n": 64, "bat')
    kept = [replace(c, estimate=None, errors={**c.errors, "auto": None}) for c in cells]
    assert _map.read(folder / "raw" / "samples.jsonl") == kept
    assert "1 of 7 cells are missing" in _map.render(folder)


def drawn(cells):
    with matplotlib.style.context(["default", _map_plot.STYLE]):
        return _map_plot.drawn(cells, "x86_64 AVX512")


def frames(ax):
    return [patch for patch in ax.patches if patch.get_facecolor()[3] == 0]


def test_the_figure_has_a_panel_for_each_size_and_batch_and_frames_what_is_not_near():
    cells = made()
    figure = drawn(list(cells.values()))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["n = 64, one matrix", "n = 64, batch 32", "n = 1024, one matrix"]
    one, batch, large = figure.axes
    shown = [{text.get_text() for text in ax.texts} for ax in figure.axes]
    assert shown[0] == {"p = 1", "p = 2", "1.05", "eigh32", "1.12", "eigh64", "4.00", "chol32"}
    assert shown[1] == {"p = 1", "p = 2", "misses", "eigh32", "–", "only auto"}
    assert shown[2] == {"p = 4", "1.09", "eigh"}
    assert [len(frames(ax)) for ax in figure.axes] == [2, 1, 0]
    assert [label.get_text() for label in one.get_xticklabels()] == ["1/64", "1"] * 2
    assert [label.get_text() for label in batch.get_xticklabels()] == ["1/16", "1"] * 2
    assert [label.get_text() for label in large.get_xticklabels()] == ["1/16"]
    assert matplotlib.colors.to_hex(large.patches[0].get_facecolor()) == _map_plot.ARMS["eigh"][0].lower()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    winners = ["cholesky32 (chol32)", "eigh", "eigh32", "eigh64"]
    assert legend == [*winners, "auto above 1.10 ×, or misses tol", "only auto meets tol"]


def test_a_cell_lies_where_its_k_p_and_kappa_are():
    c = made()["close"]
    grid = [replace(c, k=k, p=p, kappa=kappa) for k in (64, 1) for p in (4, 2) for kappa in (1e5, 10.0)]
    for cell in grid:
        others = [other for other in grid if other != cell]
        (ax,) = drawn([*others, replace(cell, ms={**cell.ms, "auto": [7.0]})]).axes  # the only one with a frame
        (frame,) = frames(ax)
        left, row = (cell.p == 4) * (2 + _map_plot.GAP) + (cell.k == 64), int(cell.kappa == 1e5)
        assert left < frame.get_x() < frame.get_x() + frame.get_width() < left + 1
        assert row < frame.get_y() < frame.get_y() + frame.get_height() < row + 1


def test_bytes_follow_from_the_cells_alone():
    cells = list(made().values())
    first = _map_plot.svg(cells, "x86_64 AVX512")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert _map_plot.svg(cells[::-1], "x86_64 AVX512") == first
    texts = {"".join(node.itertext()).strip() for node in ElementTree.fromstring(first).iter(f"{SVG}text")}
    assert {"1.05", "misses", "k/n"} <= texts and b"dc:date" not in first


# The script ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def script():
    """The benchmark, which lies beside the tests."""
    path = Path(__file__).parents[1] / "benchmarks" / "strategy_map.py"
    spec = importlib.util.spec_from_file_location("strategy_map_script", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])])
def test_a_tiny_grid_from_end_to_end(script, device, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SIZES", {device: {16: (None, 3)}})
    monkeypatch.setattr(script, "KAPPAS", (1e1, 1e5))
    script.main(["--out", str(tmp_path / "runs"), "--device", device, "--seconds", "0"])
    (run,) = (tmp_path / "runs").iterdir()
    facts = json.loads((run / "manifest.json").read_text("utf-8"))
    assert facts["finished"] and facts["map"]["cells"] == 24 and not _manifest.by_bench(facts)
    for text in (run / "raw" / "samples.jsonl").read_text("utf-8").splitlines():
        json.loads(text, parse_constant=pytest.fail)
    cells = _map.read(run / "raw" / "samples.jsonl")
    places = {(c.n, c.batch, c.k, c.p, c.kappa) for c in cells}
    assert places == {(16, b, k, p, κ) for b in (None, 3) for k in (1, 16) for p in (1, 2, 4) for κ in (1e1, 1e5)}
    for c in cells:
        named = {"cholesky", "hybrid-pe-nsrc", "cholesky32", "cholesky64"} if c.p == 1 else set()
        named |= {
            "auto",
            "eigh",
            "eigh32",
            "eigh64",
            "materialize-root",
            "direct-solve",
            "chebyshev",
            "cayley",
            "lanczos",
        }
        assert c.failed == {} and c.predicted.keys() == named and c.ms.keys() | set(c.left_out) == named
        assert c.meets("auto") and c.meets("eigh64") and c.winner
        assert all(len(ms) == (1 if arm in c.skipped else 3) for arm, ms in c.ms.items())
        assert all(c.meets(arm) for arm in c.ms if arm not in c.skipped)
    before = {path: path.read_bytes() for path in (run / "report.md", run / "plots" / "map.svg")}
    for path in before:
        path.unlink()
    assert run_report(run) == 0
    assert {path: path.read_bytes() for path in before} == before


def test_no_arm_stops_the_run(script, monkeypatch):
    monkeypatch.setattr(script, "by_cholesky", lambda A, B, dtype: B * (math.nan if dtype is torch.float64 else 1))
    by_eigh = script.by_eigh

    def failing(A, B, p, dtype):
        if dtype is torch.float32:
            raise RuntimeError("no\nmemory")
        return by_eigh(A, B, p, dtype)

    monkeypatch.setattr(script, "by_eigh", failing)
    c = script.cell(script.Matrix(16, None, 1e1, CPU), 1, 1, 0.0)
    assert c.failed == {"eigh32": "RuntimeError: no"} and "eigh32" not in c.ms
    assert c.errors["eigh32"] is None and c.errors["cholesky64"] is None and c.errors["cholesky32"] > 0.1
    assert {"cholesky32", "cholesky64"} <= set(c.skipped)
    assert c.meets("auto") and c.winner not in (None, "eigh32", "cholesky32", "cholesky64")


def test_errors_are_those_against_the_known_eigenbasis(script):
    """By the construction instead of by eigh: A is rounded to float32, which κ = 10 amplifies to less than 1e-6."""
    matrix = script.Matrix(16, 2, 1e1, CPU)
    generator = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(2, 16, 16, generator=generator, dtype=torch.float64)).Q
    values = 10.0 ** -(torch.arange(16, dtype=torch.float64) / 15)
    B = matrix.columns(3)
    expected = (Q * values**-0.25) @ (Q.mT @ B.double())
    assert float((matrix.truth(B, 4) - expected).norm() / expected.norm()) <= 1e-6


def test_first_calls_decide_who_is_timed_again(script, monkeypatch):
    """auto takes 1 ms, twice what is predicted; then each arm: (predicted, times of its calls, worth rounds)."""
    arms = {
        "compiles": (1.0, [90.0, 2.0], True),
        "slow as predicted": (15.0, [59.0], False),
        "slower than predicted": (15.0, [61.0, 70.0], False),
        "hopeless": (20.1, [], False),
        "hopeful": (19.9, [4.9], True),
    }
    truth, called = torch.ones(2, 1, dtype=torch.float64), []
    times = {"auto": iter([3.0, 1.0]), **{arm: iter(ms) for arm, (_, ms, _) in arms.items()}}
    monkeypatch.setattr(
        script, "timed", lambda call, device: (next(times[call]), called.append(call) or torch.ones(2, 1))
    )
    found = script.Found(CPU, truth, {arm: predicted for arm, (predicted, _, _) in arms.items()} | {"auto": 0.5})
    for arm in ("auto", "auto", *arms):
        found.look(arm, arm)
    assert called == ["auto", "auto", *(arm for arm, (_, ms, _) in arms.items() for _ in ms)]
    assert {arm: found.first.get(arm) for arm in arms} == {
        arm: min(ms, default=None) for arm, (_, ms, _) in arms.items()
    }
    assert found.left_out == ["hopeless"]
    assert [arm for arm in arms if arm in found.first and found.worth(arm)] == [
        a for a, (*_, worth) in arms.items() if worth
    ]


def test_an_own_strategy_is_held_against_own_ones(script):
    """Where torch is out of reach, the own ones are still compared; torch's arms are held against all."""
    found = script.Found(CPU, None, {}, first={"cholesky32": 0.1, "auto": 1.0, "eigh64": 0.6})
    found.errors.update(dict.fromkeys(found.first, 0.0))
    assert (found.best("cayley"), found.best("eigh64")) == (1.0, 0.1) and not found.worth("eigh64")
    found.errors["auto"] = 1.0
    assert found.best("cayley") == 0.1  # no own answer yet

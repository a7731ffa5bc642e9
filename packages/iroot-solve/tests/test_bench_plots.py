"""The plots show what was measured, can be read without colours, and have the same bytes whenever they are made.

Truth of a front is dominance, checked pair by pair; the rest is read off figures and SVG.
"""

import math
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest

matplotlib = pytest.importorskip("matplotlib", exc_type=ImportError)

from iroot_solve.bench import _cases, _plots  # noqa: E402
from iroot_solve.bench._plots import plots, sheet  # noqa: E402
from iroot_solve.bench._rows import rows  # noqa: E402
from iroot_solve.bench._samples import Sample  # noqa: E402

TOL = 1e-3
SVG = "{http://www.w3.org/2000/svg}"
MANIFEST = {"tol": TOL, "device_name": "x86_64 AVX512", "arms": ["auto", "direct-solve", "eigh32", "eigh64"]}
# Arm: milliseconds at n = 1024, and true error, both at κ = 10, with the exponents of κ/10 they grow by.
ARMS = {
    "auto": (25.0, 0.1, 3e-6, 0.1),
    "direct-solve": (24.0, 0.2, 2e-6, 0.1),
    "eigh32": (50.0, 0.0, 2e-6, 0.7),
    "eigh64": (85.0, 0.0, 3e-15, 1.0),
    "coupled-newton": (80.0, 0.1, 1e-5, 0.9),
    "five steps": (15.0, 0.0, 0.3, 0.0),
    "Denman-Beavers": (40.0, 0.2, 1e-4, 0.5),
}


def measured(sizes=(256, 1024), kappas=(1e1, 1e3, 1e5), case="SPD p=2 k<n", arms=ARMS, seed=0):
    """Two trials of three calls; Denman-Beavers has no answer at κ = 10⁵."""
    rng = random.Random(seed)
    found = []
    for n in sizes:
        for kappa in kappas:
            for arm, (ms, slower, error, worse) in arms.items():
                time, err = ms * (n / 1024) ** 2.6 * (kappa / 10) ** slower, error * (kappa / 10) ** worse
                raised = arm == "Denman-Beavers" and kappa > 1e4
                common = {"case": case, "problem": "spd", "p": 2, "n": n, "m": None, "k": 16, "batch": 1}
                ending = {"estimate": None, "took": "", "products": {}, "status": "failed: X" if raised else "done"}
                for trial in range(2):
                    true = None if raised else err * math.exp(rng.gauss(0, 0.3))
                    for rep in range(3):
                        noise = {"ms": time * math.exp(abs(rng.gauss(0, 0.05))), "error": true}
                        where = {"kappa": kappa, "dtype": "float32", "arm": arm, "trial": trial, "rep": rep}
                        found.append(Sample(**common, **where, **noise, **ending))
    return found


def drawn(kind, samples):
    """The figure of this kind."""
    with matplotlib.style.context(["default", _plots.STYLE]):
        return next(plot for plot in sheet(MANIFEST, samples) if plot.name.startswith(kind)).draw()


def texts(svg):
    return ["".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bytes_do_not_depend_on_the_settings_of_the_user():
    samples = measured(sizes=(256,), kappas=(1e1, 1e3))
    first = plots(MANIFEST, samples)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert plots(MANIFEST, samples) == first
        assert dict(matplotlib.rcParams) == before


def test_svg_has_text_and_no_date_and_no_pixels():
    for plot, svg in plots(MANIFEST, measured(sizes=(256, 512), kappas=(1e1,))).items():
        assert list(ElementTree.fromstring(svg).iter(f"{SVG}image")) == [] and b"dc:date" not in svg
        expected = {"10", "condition number κ"} if plot == "speed-up.svg" else {"auto", "direct-solve", "eigh64"}
        assert expected <= set(texts(svg)) and any("x86_64 AVX512" in text for text in texts(svg))


@pytest.mark.parametrize(
    ("sizes", "kappas", "kinds"),
    [
        ((256, 1024), (1e1, 1e3), {"pareto", "time-n", "time-kappa"}),
        ((256,), (1e1, 1e3), {"pareto", "time-kappa"}),
        ((256, 1024), (1e1,), {"pareto", "time-n"}),
        ((256,), (1e1,), {"pareto"}),
    ],
)
def test_an_axis_needs_more_than_one_value(sizes, kappas, kinds):
    names = [plot.name for plot in sheet(MANIFEST, measured(sizes, kappas))]
    assert names[-1] == "speed-up.svg"
    assert {name.split("_")[0] for name in names[:-1]} == kinds


def test_files_of_different_cases_have_different_names():
    assert len({_plots._slug(name) for name in _cases.names()}) == len(_cases.names())


def test_speed_up_needs_auto_and_company():
    arms = {name: ARMS[name] for name in ("eigh32", "eigh64")}
    for some in (arms, {"auto": ARMS["auto"]}):
        assert "speed-up.svg" not in [plot.name for plot in sheet(MANIFEST, measured(arms=some))]


def test_a_case_without_any_answer_has_no_plot():
    failed = [replace(sample, status="failed: X", error=None) for sample in measured()]
    assert [plot.name for plot in sheet(MANIFEST, failed)] == ["speed-up.svg"]
    assert set(texts(plots(MANIFEST, failed)["speed-up.svg"])) >= {"auto misses tol"}


def test_markers_are_hollow_where_the_tolerance_is_missed():
    samples = measured()
    lines = [line for line in drawn("time-kappa", samples).axes[0].lines if line.get_linestyle() == "None"]
    hollow = {(x, y) for line in lines if line.get_markerfacecolor() == "white" for x, y in line.get_xydata()}
    small = [row for row in rows(samples) if row.point.n == 256 and math.isfinite(row.ms)]
    assert hollow == {(row.point.kappa, row.ms) for row in small if not row.meets(TOL)}
    assert 0 < len(hollow) < len(small)


def test_lines_and_whiskers_are_medians_and_quartiles():
    samples = measured()
    ax = drawn("time-n", samples).axes[0]
    auto = [row for row in rows(samples) if row.arm == "auto" and row.point.kappa == 10]
    line = next(line for line in ax.lines if line.get_color() == "black" and line.get_linestyle() == "-")
    assert line.get_xydata().tolist() == [[row.point.n, row.ms] for row in auto]
    whiskers = [segment.tolist() for found in ax.collections for segment in found.get_segments()]
    assert all([[row.point.n, row.low], [row.point.n, row.high]] in whiskers for row in auto)


def test_pareto_front_is_what_nothing_dominates():
    samples = measured()
    panels = {}
    for row in rows(samples):
        panels.setdefault(row.point, []).append(row)
    for ax, group in zip(drawn("pareto", samples).axes, panels.values(), strict=True):
        answered = [row for row in group if row.error is not None]
        front = {
            (row.error, row.ms)
            for row in answered
            if not any(o.error <= row.error and o.ms <= row.ms and o is not row for o in answered)
        }
        line = next(line for line in ax.lines if line.get_color() == _plots.FRONT["color"])
        assert {tuple(point) for point in line.get_xydata().tolist()} == front


def test_arms_without_an_answer_are_named():
    silent = [text.get_text() for ax in drawn("pareto", measured()).axes for text in ax.texts]
    assert [text for text in silent if text.startswith("no answer")] == ["no answer:\nDenman-Beavers"] * 2


def test_what_diverged_is_no_answer_and_takes_no_room():
    figure = drawn("pareto", measured(kappas=(1e3,), arms={**ARMS, "diverges": (10.0, 0.0, 1e24, 0.0)}))
    assert all(ax.get_xlim()[1] < 10 for ax in figure.axes)
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert [text for text in texts if "no answer" in text] == ["no answer:\ndiverges"] * 2


def test_a_size_without_any_answer_can_be_drawn():
    samples = [replace(s, status="failed: X", error=None) if s.n == 1024 else s for s in measured(kappas=(1e1,))]
    assert "".join(text.get_text() for text in drawn("pareto", samples).axes[1].texts).count("\n") == len(ARMS)


def test_an_error_of_zero_can_be_drawn():
    exact = [replace(sample, error=0.0) if sample.arm == "eigh64" else sample for sample in measured(kappas=(1e1,))]
    assert plots(MANIFEST, exact)


def test_no_two_coloured_arms_look_alike_and_the_slow_ones_are_grey():
    rivals = {f"rival {i}": (30.0 + i, 0.1, 1e-6, 0.1) for i in range(20)}
    figure = drawn("time-n", measured(arms={"auto": ARMS["auto"], **rivals}))
    legend = [(text.get_text(), handle) for text, handle in zip(
        figure.legends[0].get_texts(), figure.legends[0].legend_handles, strict=True)]  # fmt: skip
    names = [name for name, _ in legend]
    assert names == ["auto", *(f"rival {i}" for i in range(len(_plots.PALETTE))), "other arms"]
    assert len({handle.get_color() for _, handle in legend}) == len({h.get_marker() for _, h in legend}) == len(legend)


def test_legend_is_outside_the_panels():
    figure = drawn("pareto", measured())
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(ax.get_window_extent()) for ax in figure.axes)


@pytest.mark.parametrize("n", [(256,), (256, 1024)])
def test_title_does_not_run_into_the_legend(n):
    figure = drawn("time-kappa", measured(sizes=n))
    figure.draw_without_rendering()
    assert not figure.legends[0].get_window_extent().overlaps(figure._suptitle.get_window_extent())


def test_cells_of_the_heat_map_are_ratios_to_the_best_other_arm_within_tol():
    """Five steps is faster than all and does not count."""
    samples = measured(sizes=(256,))
    expected = []
    for kappa in (1e1, 1e3, 1e5):
        here = {row.arm: row for row in rows(samples) if row.point.kappa == kappa}
        others = [row for row in here.values() if row.arm != "auto" and (row.error or 1) <= TOL]
        best = min(others, key=lambda row: row.ms)
        assert here["five steps"].ms < best.ms
        ratio = best.ms / here["auto"].ms
        expected.append(f"{ratio:.2f} × {best.arm}")
    figure = drawn("speed-up", samples)
    assert [text.get_text() for text in figure.axes[0].texts] == expected
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["10", "10³", "10⁵"]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["SPD p=2 k<n, n = 256"]


# Spectra -------------------------------------------------------------------------------------------------------------


def with_spectra(cases=("a", "b", "c", "d", "wide"), kappas=(1e1, 1e3)):
    """The first sample of each point has the spectrum: log-spaced, but for `wide`, which lies on its lower end."""
    found = []
    for case in cases:
        for kappa in kappas:
            low = -math.log10(kappa)
            for count in (17, 33):
                logs = [low * (1 - i / (count - 1)) for i in range(count)]
                if case == "wide":
                    logs = [low if i < count // 2 else log for i, log in enumerate(logs)]
                [first, *rest] = measured(sizes=(count,), kappas=(kappa,), case=case, arms={"auto": ARMS["auto"]})
                found += [replace(first, spectrum=logs), *rest]
    return found


def test_what_cases_share_is_drawn_once():
    figure = drawn("spectra", with_spectra())
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["the 4 other cases", "wide"]
    assert [len(ax.lines) for ax in figure.axes] == [2, 4]  # that of wide depends on the count: its step is elsewhere
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["κ = 10", "κ = 10³"]


def test_lines_are_eigenvalues_at_their_quantiles():
    figure = drawn("spectra", with_spectra(cases=("a",), kappas=(1e3,)))
    [ax] = figure.axes
    [line] = ax.lines
    assert ax.get_title() == "a" and ax.get_yscale() == "log"
    x, y = line.get_xdata(), line.get_ydata()
    assert y == pytest.approx(1e-3 ** (1 - x), rel=1e-12) and (x[0], x[-1]) == (0.0, 1.0)


def test_names_of_cases_stay_readable():
    five = drawn("spectra", with_spectra(cases=tuple("abcde"))).axes
    assert [ax.get_title() for ax in five] == ["all 5 cases"]
    # κ = 10³ for a alone: its panel has the names of what it shares, and no case is called another.
    mixed = with_spectra(cases=tuple("abcde"), kappas=(1e1,)) + with_spectra(cases=("a",), kappas=(1e3,))
    assert [ax.get_title() for ax in drawn("spectra", mixed).axes] == ["a, b, c and 2 more", "a"]


def test_an_eigenvalue_that_is_not_positive_leaves_a_gap():
    [first, *rest] = measured(sizes=(8,), kappas=(1e1,))
    figure = drawn("spectra", [replace(first, spectrum=[None, -1.0, 0.0]), *rest])
    [line] = figure.axes[0].lines
    assert math.isnan(line.get_ydata()[0]) and line.get_ydata()[-1] == 1.0
    assert b"svg" in plots(MANIFEST, [replace(first, spectrum=[None, -1.0, 0.0]), *rest])["spectra.svg"]


def test_spectra_need_samples_that_have_them():
    assert "spectra.svg" not in plots(MANIFEST, measured(sizes=(256,), kappas=(1e1,)))


def test_points_of_one_n_that_differ_otherwise_get_panels_of_their_own():
    samples = measured(kappas=(1e1,))
    wider = [replace(sample, k=64, ms=3 * sample.ms) for sample in samples]
    titles = [ax.get_title() for ax in drawn("time-n", samples + wider).axes]
    assert titles == ["k = 16, κ = 10", "k = 64, κ = 10"]

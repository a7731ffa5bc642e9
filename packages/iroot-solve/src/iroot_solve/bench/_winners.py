"""Which arm is the fastest where, in sentences that the rows alone decide; only arms within the tolerance count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from iroot_solve.bench import _ab_table
from iroot_solve.bench._rows import (
    AUTO,
    Point,
    Row,
    beside_auto,
    grouped,
    power_of_ten,
    ranking,
    rows,
    shape_label,
    varying,
)
from iroot_solve.bench._samples import Sample

CLEAR = (
    "A lead is clear where the third quartile of the fastest is below the first quartile of the next arm within tol, "
    "which describes and is no test."
)


def verdict(manifest: dict[str, Any], samples: Sequence[Sample]) -> str:
    """What the samples say in one sentence.

    Args:
        manifest: Of the run; `tol` and `ab` are read.
        samples: Of the run.
    """
    points, tol = grouped(rows(samples), lambda row: row.point), manifest["tol"]
    if not points:
        return "Nothing was measured."
    if compared := both_sides(manifest, samples):
        words = Counter(row.verdict for row in compared).most_common()
        found = ", ".join(f"{word} at {count}" for word, count in words)
        sides = f"{manifest['ab']['label_b']} against {manifest['ab']['label_a']}"
        return f"{sides}: {found} of {_count(compared, 'comparison')}."
    if not (pairs := _pairs(points.values(), tol)):
        return f"Fastest within tol = {tol:g}: {_shares(points.values(), tol)}."
    wins = sum(ranked[0].arm == AUTO for group in points.values() if (ranked := ranking(group, tol)))
    missed = sum(row.arm == AUTO and not row.meets(tol) for group in points.values() for row in group)
    ratios = [auto.ms / other.ms for auto, other in pairs]
    return (
        f"{AUTO} is the fastest arm within tol = {tol:g} at {wins} of {_count(points, 'point')}"
        f"{f' and misses it at {missed}' * (missed > 0)}; its time is {_mean(ratios):.2f} × that of the best other arm "
        f"(geometric mean; {min(ratios):.2f} to {max(ratios):.2f})."
    )


def both_sides(manifest: dict[str, Any], samples: Sequence[Sample]) -> list[_ab_table.Row]:
    """The rows of a comparison of two sides in rounds; empty for any other run."""
    ab = manifest["ab"]
    return _ab_table.comparisons(samples, ab["label_a"], ab["label_b"], manifest["tol"]) if ab else []


def fastest(case: Sequence[Row], tol: float) -> str:
    """The fastest arm at each point of a case."""
    points = grouped(case, lambda row: row.point)
    won: dict[str, list[Point]] = {}
    for point, group in points.items():
        won.setdefault(next((row.arm for row in ranking(group, tol)), ""), []).append(point)
    nowhere = won.pop("", [])
    by_wins = sorted(won.items(), key=lambda item: -len(item[1]))
    sentences = []
    if by_wins:
        sentences.append(
            "Fastest within tol: " + "; ".join(f"{arm} at {_places(mine, points)}" for arm, mine in by_wins) + "."
        )
    if nowhere:
        sentences.append(f"No arm is within tol at {_places(nowhere, points)}.")
    if unclear := [point for point, group in points.items() if not _clear(ranking(group, tol))]:
        sentences.append(f"The quartiles of the two fastest overlap at {_places(unclear, points)}.")
    return " ".join(sentences)


def overall(measured: Sequence[Row], tol: float) -> str:
    """The same for all cases together, and `auto` beside the best of the others."""
    points = grouped(measured, lambda row: row.point)
    sentences = [f"Fastest within tol = {tol:g}, over {_count(points, 'point')}: {_shares(points.values(), tol)}."]
    sentences.append(CLEAR)
    if pairs := _pairs(points.values(), tol):
        low, high = (choose(pairs, key=lambda pair: pair[0].ms / pair[1].ms) for choose in (min, max))
        ratios = [auto.ms / other.ms for auto, other in pairs]
        sentences.append(
            f"Where both are within tol ({_count(pairs, 'point')}), {AUTO} takes {_mean(ratios):.2f} × the time of the "
            f"best other arm (geometric mean): from {_pair(low)} to {_pair(high)}."
        )
    auto = [row for row in measured if row.arm == AUTO]
    if missed := [row for row in auto if not row.meets(tol)]:
        sentences.append(f"{AUTO} misses tol at {len(missed)} of {_count(auto, 'point')}.")
    elif auto:
        sentences.append(f"{AUTO} is within tol wherever it ran.")
    return " ".join(sentences)


def _pairs(groups: Iterable[Sequence[Row]], tol: float) -> list[tuple[Row, Row]]:
    """`auto` and the best other row, of the points where both are within the tolerance."""
    found = [beside_auto(group, tol) for group in groups]
    return [(both[0], both[1]) for both in found if both and both[0].meets(tol) and both[1]]


def _pair(pair: tuple[Row, Row]) -> str:
    auto, other = pair
    point = auto.point
    return f"{auto.ms / other.ms:.2f} × {other.arm} ({point.case}, n = {point.n}, κ = {power_of_ten(point.kappa)})"


def _mean(ratios: Sequence[float]) -> float:
    """Geometric, as ratios are averaged."""
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _clear(ranked: Sequence[Row]) -> bool:
    return len(ranked) < 2 or ranked[0].high < ranked[1].low


def _shares(groups: Iterable[Sequence[Row]], tol: float) -> str:
    """How many points each arm wins: "auto at 3 (clear at 2), no arm at 1"."""
    rankings = [ranking(group, tol) for group in groups]
    wins = Counter(ranked[0].arm for ranked in rankings if ranked)
    clear = Counter(ranked[0].arm for ranked in rankings if ranked and _clear(ranked))
    shares = [f"{arm} at {count} (clear at {clear[arm]})" for arm, count in wins.most_common()]
    nowhere = len(rankings) - wins.total()
    return ", ".join(shares + [f"no arm at {nowhere}"] * (nowhere > 0))


def _places(some: Sequence[Point], every: Iterable[Point]) -> str:
    """Points of a case as text: "n = 256 (κ = 10, 10³), n = 1024"; κ is left out where all are meant."""
    everywhere = list(every)
    if len(some) == len(everywhere):
        return "every point" if len(some) > 1 else "its only point"
    names, places = varying(everywhere), []
    for shape in dict.fromkeys(point.shape for point in some):
        mine = [point for point in some if point.shape == shape]
        kappas = "κ = " + ", ".join(power_of_ten(point.kappa) for point in mine)
        whole = len(mine) == sum(point.shape == shape for point in everywhere)
        label = shape_label(mine[0], names)
        places.append(label if whole else f"{label} ({kappas})" if label else kappas)
    return ", ".join(places)


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"

"""Is B faster than A? Statistics of times that were measured in interleaved rounds; numpy only.

A round times A, A again and B once each, in random order. What is compared is the paired ratio of a round, so whatever
is slow all through a round (drift, frequency, a neighbour) cancels. The estimate is the median of log(b/a) over the
rounds, which a heavy right tail does not move; its interval is the percentile bootstrap (Efron 1979) of that median
(BCa would need the jackknife of a median, which is not consistent).

A verdict other than "no difference" needs three things:

1. the interval of B over A excludes 1;
2. one side wins so many rounds that fair coins would do as much with probability at most 1 − level (sign test);
3. the effect exceeds the A/A floor: |log ratio| is above both ends of the interval of A again over A.

**Why false verdicts are bounded.** Let A and B be the same, so that the time of a slot does not depend on whose slot
it is. The order within each round is drawn at random, independently of all else, so that exchanging A and B in any one
round gives an outcome as likely as before: given every |log(b/a)|, their signs are independent fair coins. That holds
for any noise, drifting, autocorrelated and heavy-tailed alike. So the number of rounds that B wins is binomial,
Bin(R, 1/2), without any model of the noise, and condition 2 alone fails with probability at most 1 − level; ties count
for neither side. Conditions 1 and 3 can only take verdicts away. Condition 1 alone is not enough: at 99 % the bootstrap
is wrong in 1.1 % of comparisons of 51 rounds, in 3.5 % of 15.

What the argument leaves out is what A and B keep through all rounds of a trial without any merit: where their memory
lies, their caches, their process. A again differs from A in just that, which is what condition 3 is for. Where there
are enough trials (eight at 99 %), each with inputs, workspaces and, for two commits, processes of its own, the trial
takes the place of the round: one median of log(b/a) each. Their signs are fair coins whatever is kept within a trial.

The bound is for one comparison: of 100 points without a difference one may be called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Interval = tuple[float, float]

# Odd: the median is one of the rounds. 10 % is found where single calls scatter by 10 % around their usual time.
ROUNDS = 101
LEVEL = 0.99
RESAMPLES = 9999
# True errors of two routines of equal merit differ this much from one random problem to the next.
EQUAL_ERROR = 2.0


@dataclass(frozen=True)
class Comparison:
    """B over A.

    Attributes:
        a_ms: Median time of A (of A and A again where there is one), in milliseconds.
        b_ms: Median time of B.
        ratio: Median of the paired ratios of B over A, or of their medians by trial; without pairs, ratio of the
            medians. Above 1: B is slower.
        interval: Bootstrap interval of that ratio.
        quartiles: First and third quartile of the paired ratios; `None` without pairs.
        floor: The same interval of A again over A; `None` without one.
        rounds: Rounds compared; without pairs, the fewer calls of the two.
        verdict: "faster", "slower" or "no difference" (of B), or "too few rounds" for any of these; after "unpaired: "
            where rounds were not shared.
    """

    a_ms: float
    b_ms: float
    ratio: float
    interval: Interval
    quartiles: Interval | None
    floor: Interval | None
    rounds: int
    verdict: str


def compare(
    a: ArrayLike,
    again: ArrayLike,
    b: ArrayLike,
    *,
    trials: ArrayLike | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare times of the same rounds; the module says when a difference is called, and how often falsely.

    Args:
        a: `(rounds,)`, milliseconds of A.
        again: `(rounds,)`, of A again in the same rounds.
        b: `(rounds,)`, of B in the same rounds.
        trials: `(rounds,)`, the trial that each round is of; one trial if not given. Enough of them take the place of
            the rounds.
        level: Of the intervals, and one minus the bound of false verdicts.
        resamples: Of each bootstrap.
        seed: Of the bootstrap.

    Returns:
        Ratio, intervals and verdict: "too few rounds" where not even winning all of them would be enough, at 99 % with
        fewer than eight (2·2⁻⁷ > 0.01).

    Raises:
        ValueError: The arrays are empty, of different lengths, or hold a time that is not positive and finite.
    """
    A, C, B = _logs(a, "a"), _logs(again, "again"), _logs(b, "b")
    if not len(A) == len(C) == len(B):
        raise ValueError(f"a, again and b must be of the same rounds, not {len(A)}, {len(C)} and {len(B)} of them")
    first, third = np.quantile(B - A, (0.25, 0.75))
    d, c = B - A, C - A
    if trials is not None and _chance(np.ones(len(np.unique(trials)))) <= 1 - level:
        d, c = _by_trial(d, trials), _by_trial(c, trials)
    interval = _interval(_medians(d, resamples, seed), level)
    floor = _interval(_medians(c, resamples, seed + 1), level)
    effect = float(np.median(d))
    found = _excludes_zero(interval) and _chance(d) <= 1 - level and abs(effect) > max(map(abs, floor))
    return Comparison(
        a_ms=math.exp(np.median(np.concatenate((A, C)))),
        b_ms=math.exp(np.median(B)),
        ratio=math.exp(effect),
        interval=_exp(interval),
        quartiles=_exp((first, third)),
        floor=_exp(floor),
        rounds=len(A),
        verdict=_word(effect, found) if _chance(np.ones(len(d))) <= 1 - level else "too few rounds",
    )


def compare_unpaired(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare times that were taken at different times: what the machine did meanwhile counts as a difference.

    Nothing bounds the false verdicts of such a comparison, which is why its verdict begins with "unpaired: ".

    Args:
        a: `(calls,)`, milliseconds of A.
        b: `(calls,)`, of B.
        level: Of the interval.
        resamples: Of the bootstrap, which draws from both sides.
        seed: Of the bootstrap.

    Returns:
        Ratio of the medians, its interval, and a verdict that says only whether that excludes 1.

    Raises:
        ValueError: An array is empty, or holds a time that is not positive and finite.
    """
    A, B = _logs(a, "a"), _logs(b, "b")
    effect = float(np.median(B) - np.median(A))
    interval = _interval(_medians(B, resamples, seed) - _medians(A, resamples, seed + 1), level)
    return Comparison(
        a_ms=math.exp(np.median(A)),
        b_ms=math.exp(np.median(B)),
        ratio=math.exp(effect),
        interval=_exp(interval),
        quartiles=None,
        floor=None,
        rounds=min(len(A), len(B)),
        verdict="unpaired: " + _word(effect, _excludes_zero(interval)),
    )


def at_equal_error(verdict: str, error_a: float | None, error_b: float | None, tol: float) -> str:
    """The verdict on time, withheld where the errors of the two cannot be compared.

    An answer is as good as the other's where it meets the tolerance (digits beyond it were not asked for), or where its
    error is within a factor of 2 of the other's. A side whose answer is neither has not done the work, so that no time
    speaks for it: B is then "less accurate" instead of "faster" or "no difference", and "more accurate" instead of
    "slower" or "no difference" where that side is A. What is worse in both is still called "slower" ("faster" where A
    is), since that stands at any error. Errors are true errors against float64, never estimates.

    Args:
        verdict: Of a `Comparison`.
        error_a: Worst relative error of A; `None` where it gave no finite answer.
        error_b: Of B.
        tol: The relative error that was asked for.

    Returns:
        The verdict, or instead of its last word "less accurate", "more accurate", "A failed", "B failed" or "both
        failed".
    """
    *kind, time = verdict.rpartition(": ")
    if error_a is None or error_b is None:
        time = "both failed" if error_a is error_b else "A failed" if error_a is None else "B failed"
    elif error_b > max(EQUAL_ERROR * error_a, tol):
        time = time if time == "slower" else "less accurate"
    elif error_a > max(EQUAL_ERROR * error_b, tol):
        time = time if time == "faster" else "more accurate"
    return "".join((*kind, time))


def _logs(times: ArrayLike, name: str) -> Array:
    values = np.atleast_1d(np.asarray(times, dtype=np.float64))
    if not (values.ndim == 1 and len(values) and np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"{name} must be a row of positive finite times, at least one")
    return np.log(values)


def _by_trial(d: Array, trials: ArrayLike) -> Array:
    """Median of d in each trial."""
    of_trial = np.asarray(trials)
    return np.array([np.median(d[of_trial == trial]) for trial in np.unique(of_trial)])


def _medians(d: Array, resamples: int, seed: int) -> Array:
    """Medians of resamples of d, drawn with replacement."""
    draws = np.random.default_rng(seed).integers(len(d), size=(resamples, len(d)))
    return np.asarray(np.median(d[draws], axis=1))


def _interval(values: Array, level: float) -> Interval:
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _chance(d: Array) -> float:
    """Probability that fair coins, one a round, fall to one side at least as often as these signs; ties to neither."""
    R, wins = len(d), int(max((d > 0).sum(), (d < 0).sum()))
    tail = sum(math.comb(R, i) for i in range(wins, R + 1))
    return min(1.0, 2 * (tail / (1 << R)))


def _excludes_zero(interval: Interval) -> bool:
    return interval[0] > 0 or interval[1] < 0


def _word(effect: float, found: bool) -> str:
    return "no difference" if not found else "slower" if effect > 0 else "faster"


def _exp(interval: Sequence[float]) -> Interval:
    return math.exp(interval[0]), math.exp(interval[1])

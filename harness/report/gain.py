"""Sample efficiency: the area under a curve of score against log2 budget, and the ratio of budgets at a matched score.

No best-so-far envelope is taken: a curve that falls again has fallen. Mark 0 has used nothing and has no place on a
logarithmic axis: it gives the floor, areas begin at the first reading above 0, and a target that is met there already was met
"at that reading or before".

Axes: M marks, S seeds, I items.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.report.stats import Interval, interval, paired

RHOS = (0.5, 0.8, 0.95)
"""Shares of the reference's rise at which gains are reported; `RHOS[1]` is the headline's."""
STEPS = 32
"""Ratios tried in each octave for the interval of a gain."""


@dataclass(frozen=True)
class Course:
    """The runs of one method, mark by mark, mark 0 first.

    Raises:
        ValueError: shapes that do not fit, fewer than two marks, readings that fall or never leave 0, values not finite.
    """

    readings_MS: NDArray[Any]
    """What each run has used of the meter at each mark."""
    scores_MSI: NDArray[Any]

    def __post_init__(self) -> None:
        used_MS, scores_MSI = (np.asarray(each, dtype=np.float64) for each in (self.readings_MS, self.scores_MSI))
        if used_MS.ndim != 2 or scores_MSI.ndim != 3 or scores_MSI.shape[:2] != used_MS.shape or len(used_MS) < 2:
            raise ValueError(f"readings [M, S] and scores [M, S, I] of 2 marks or more, got {used_MS.shape}, {scores_MSI.shape}")
        if not (np.isfinite(used_MS).all() and np.isfinite(scores_MSI).all()):
            raise ValueError("readings and scores must be finite: leave items without a score out everywhere")
        if (used_MS < 0).any() or (np.diff(used_MS, axis=0) < 0).any() or not (used_MS[-1] > 0).all():
            raise ValueError("readings never fall and end above 0: a method that does not use the meter has no course over it")
        object.__setattr__(self, "readings_MS", used_MS)
        object.__setattr__(self, "scores_MSI", scores_MSI)


@dataclass(frozen=True)
class Gain:
    """How many times less budget a method needs than the reference for the same score: above 1 it needs less."""

    ratio: float
    """The median over paired seeds. Where `censored` it is the known bound; nan where undefined."""
    lo: float
    """The 95 % interval; 0 and inf where the data set no bound."""
    hi: float
    censored: Literal["", ">=", "<=", "undefined"]
    target: float
    seeds_censored: int
    """Seeds whose own ratio is a bound or undefined."""
    ends: Interval
    """Score at the last mark less the reference's, paired."""
    why: str
    """Why the ratio may not be headlined; empty if it may."""

    @property
    def headlined(self) -> bool:
        """Whether the ratio tells the whole story: it is defined, and the courses end alike."""
        return not self.why


def area(readings: ArrayLike, scores: ArrayLike, floor: float, ceiling: float, over: tuple[float, float] | None = None) -> float:
    """The mean height of a curve over log2 budget, 0 at the floor and 1 at the ceiling.

    The curve is straight between marks on the logarithmic axis.

    Args:
        readings: [M], mark 0 (or any reading of 0) may be among them and is left out.
        scores: [M].
        floor: the untouched student's score.
        ceiling: the teacher's score, or the best possible.
        over: from which budget to which; from the first reading above 0 to the last unless given.

    Raises:
        ValueError: no two different readings above 0, a range outside them, or a ceiling not above the floor.
    """
    used_M = np.asarray(readings, dtype=np.float64)
    return float((_weights(used_M, over) @ np.asarray(scores, dtype=np.float64) - floor) / _rise(floor, ceiling))


def area_interval(course: Course, floor: float, ceiling: float, against: Course | None = None) -> Interval:
    """The mean area of a course's runs, or its paired difference to another's, with an interval over seeds and items.

    An area is a weighted sum of scores, so each seed and item has its own and `interval` applies. Both courses are taken over
    the budgets that all their runs have in common. Floor and ceiling are taken as known: they scale a difference and leave
    its sign and p alone.

    Raises:
        ValueError: courses of other seeds or items, or no budgets in common, or as in `area`.
    """
    courses = [course] if against is None else [course, against]
    over = common_range(*courses)
    scaled = [(areas(each, over) - floor) / _rise(floor, ceiling) for each in courses]
    return interval(scaled[0]) if against is None else paired(scaled[0], scaled[1])


def common_range(*courses: Course) -> tuple[float, float]:
    """The budgets over which all runs have scores: from the greatest first reading above 0 to the least last one.

    Raises:
        ValueError: there are none.
    """
    columns = [used_M[used_M > 0] for course in courses for used_M in course.readings_MS.T]
    lo, hi = max(float(used_M[0]) for used_M in columns), min(float(used_M[-1]) for used_M in columns)
    if lo >= hi:
        raise ValueError(f"the runs have no budgets in common: one begins at {lo:g}, one ends at {hi:g}")
    return lo, hi


def target_of(reference: Course, rho: float) -> float:
    """The score to match: rho of the way from the reference's mark 0 to its last mark, over all seeds and items.

    Raises:
        ValueError: rho outside 0 to 1, or a reference that does not rise.
    """
    if not 0 < rho < 1:
        raise ValueError(f"rho lies between 0 and 1, got {rho}")
    start, end = float(reference.scores_MSI[0].mean()), float(reference.scores_MSI[-1].mean())
    if end <= start:
        raise ValueError(f"the reference does not rise ({start:.3f} to {end:.3f}): there is no score on its way to match")
    return start + rho * (end - start)


def budgets_to(course: Course, target: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Between which budgets [S] each run reaches a score, as `reached` says: 0 or inf where only one side is known."""
    low_S, high_S = np.array(_by_seed(course, target)).T
    return 2.0**low_S, 2.0**high_S


def gain(course: Course, reference: Course, rho: float = RHOS[1]) -> Gain:
    """The ratio of budgets, the reference's over the method's, at which their runs reach the same score.

    `reached` says where each run meets the target. Ratios of runs that do not, or do so from the start, are bounds, and so is
    the median over paired seeds where they decide it; no run is left out.

    The interval is a test inverted: it holds every ratio g at which the method, at 1/g of the budget that the reference's mean
    curve needs, does not score differently from the reference there (`paired`, over seeds and items). Where the method's
    readings end before a ratio is refused, the interval is open. It always holds the median.

    Raises:
        ValueError: courses of other seeds or items, or as in `target_of`.
    """
    if course.scores_MSI.shape[1:] != reference.scores_MSI.shape[1:]:
        raise ValueError(
            f"courses need the same seeds and items, got {course.scores_MSI.shape[1:]} and {reference.scores_MSI.shape[1:]}"
        )
    target = target_of(reference, rho)
    mine, theirs = _by_seed(course, target), _by_seed(reference, target)
    lows = [reference_low - high for (_, high), (reference_low, _) in zip(mine, theirs, strict=True)]
    highs = [reference_high - low for (low, _), (_, reference_high) in zip(mine, theirs, strict=True)]
    low, high = float(np.median(lows)), float(np.median(highs))
    lo, hi = _matched(course, reference, target)
    censored: Literal["", ">=", "<=", "undefined"]
    if low == high:
        censored, centre = "", low
    elif isfinite(low):
        censored, centre, hi = ">=", low, inf
    elif isfinite(high):
        censored, centre, lo = "<=", high, -inf
    else:
        censored, centre, lo, hi = "undefined", nan, -inf, inf
    ends = paired(course.scores_MSI[-1], reference.scores_MSI[-1])
    return Gain(
        2.0**centre, 2.0 ** min(lo, centre), 2.0 ** max(hi, centre), censored, target,
        sum(low != high for low, high in zip(lows, highs, strict=True)), ends, _why(censored, len(lows), ends),
    )  # fmt: skip


def reached(readings: ArrayLike, scores: ArrayLike, target: float) -> tuple[float, float]:
    """Between which log2 budgets a run reaches a score for good; the two are equal where that is known.

    It is reached at the first mark that meets the target and is not taken back by the next one, on a straight line over log2
    budget from the mark before. If that mark has used nothing, the budget is the first reading above 0 or less. If there is no
    such mark, the budget is more than the last reading.
    """
    used_M, above_M = np.asarray(readings, dtype=np.float64), np.asarray(scores, dtype=np.float64) - target
    first = float(np.log2(used_M[used_M > 0][0]))
    log_M = np.log2(used_M, out=np.full(len(used_M), -inf), where=used_M > 0)
    met_M = above_M >= 0
    held = np.flatnonzero(met_M & np.append(met_M[1:], True))
    if not len(held):
        return float(log_M[-1]), inf
    at = int(held[0])
    if at == 0 or used_M[at - 1] == 0:
        return -inf, max(float(log_M[at]), first)
    share = -above_M[at - 1] / (above_M[at] - above_M[at - 1])
    known = float(log_M[at - 1] + share * (log_M[at] - log_M[at - 1]))
    return known, known


def _by_seed(course: Course, target: float) -> list[tuple[float, float]]:
    return [reached(used_M, score_M, target) for used_M, score_M in
            zip(course.readings_MS.T, course.scores_MSI.mean(axis=2).T, strict=True)]  # fmt: skip


def _matched(course: Course, reference: Course, target: float) -> tuple[float, float]:
    """The log2 ratios that are not refused; without bounds where the reference's mean curve does not reach the target."""
    low, high = reached(reference.readings_MS.mean(axis=1), reference.scores_MSI.mean(axis=(1, 2)), target)
    if low != high:
        return -inf, inf
    start, end = np.log2(common_range(course))
    tried = np.linspace(start, end, 1 + int(np.ceil((end - start) * STEPS)))
    theirs_SI = at(reference, low)
    found = [paired(at(course, log_used), theirs_SI) for log_used in tried]
    needs_more = [each.hi < 0 for each in found]
    needs_less = [each.lo > 0 for each in found]
    worse = len(tried) if all(needs_more) else needs_more.index(False)
    better = len(tried) if all(needs_less) else needs_less[::-1].index(False)
    most = low - tried[worse - 1] if worse else inf
    least = low - tried[-better] if better else -inf
    return float(least), float(most)


def at(course: Course, log_used: float) -> NDArray[Any]:
    """Scores [S, I] at a budget, on straight lines over log2 budget; at the nearest mark beyond a run's readings."""
    rows = []
    for used_M, scores_MI in zip(course.readings_MS.T, course.scores_MSI.transpose(1, 0, 2), strict=True):
        kept = used_M > 0
        place = float(np.interp(log_used, np.log2(used_M[kept]), np.arange(kept.sum())))
        below = int(place)
        above = min(below + 1, int(kept.sum()) - 1)
        rows.append((1 - place + below) * scores_MI[kept][below] + (place - below) * scores_MI[kept][above])
    return np.stack(rows)


def _why(censored: str, seeds: int, ends: Interval) -> str:
    if censored == "undefined":
        return "the runs in the middle give no bound"
    if seeds == 1:
        return "one seed says nothing about others"
    if not ends.holds_zero:
        return f"the ends differ by {ends.mean:+.3f} ({ends.lo:+.3f} to {ends.hi:+.3f}): compare areas and ends"
    return ""


def areas(course: Course, over: tuple[float, float]) -> NDArray[Any]:
    """The mean height over log2 budget of each seed's curve on each item [S, I], on the scale of the scores.

    Raises:
        ValueError: a range outside the readings.
    """
    weights_MS = np.stack([_weights(used_M, over) for used_M in course.readings_MS.T], axis=1)
    return np.einsum("ms,msi->si", weights_MS, course.scores_MSI)


def _weights(used_M: NDArray[Any], over: tuple[float, float] | None) -> NDArray[Any]:
    """Weights [M], of sum 1, with which scores give the mean height of their curve over log2 budget."""
    weights_M = np.zeros(len(used_M))
    log_M = np.log2(used_M, out=np.full(len(used_M), -np.inf), where=used_M > 0)
    kept = np.flatnonzero(used_M > 0)
    if len(kept) < 2 or log_M[kept[0]] == log_M[kept[-1]]:
        raise ValueError(f"an area needs two different readings above 0, got {used_M.tolist()}")
    lo, hi = (log_M[kept[0]], log_M[kept[-1]]) if over is None else np.log2(over)
    if not log_M[kept[0]] <= lo < hi <= log_M[kept[-1]]:
        raise ValueError(f"the range {over} lies outside the readings {used_M.tolist()}")
    for k in kept[:-1]:
        start, end = max(log_M[k], lo), min(log_M[k + 1], hi)
        if start < end:
            share = ((start + end) / 2 - log_M[k]) / (log_M[k + 1] - log_M[k])
            weights_M[k] += (1 - share) * (end - start)
            weights_M[k + 1] += share * (end - start)
    return weights_M / (hi - lo)


def _rise(floor: float, ceiling: float) -> float:
    if ceiling <= floor:
        raise ValueError(f"the ceiling ({ceiling}) lies above the floor ({floor})")
    return ceiling - floor

"""Which order of methods is stable: between suites, model pairs, scales, budgets and decodings.

Two views of the same methods are two lists of mean scores. Kendall's tau-b (Kendall 1945, Biometrika 33) tells how far they put
methods in the same order, 1 in the same and -1 in the opposite; the mean change of rank tells by how many places. Controls, which
are `sharpen` and all with a shuffled signal, are no contestants and have no rank here.

Axes: M methods, P pairs of models, I items, N draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from harness.report.board import Field
from harness.report.notes import SHARPEN
from harness.report.runs import Run, common_marks, scored_alike
from harness.report.stats import RESAMPLES, TAIL, resample
from harness.spec import digest_of

HALF, WHOLE = "1/2", "1"
SUITES, PAIRS, SEEDS, BUDGETS, DECODINGS, TRACKS = "suites", "model pairs", "seeds", "budgets", "decodings", "tracks"
"""What can differ between two views."""


@dataclass(frozen=True)
class Estimate:
    """A figure, with its 95 % interval where what an interval needs was kept."""

    value: float
    lo: float | None = None
    hi: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How far two views put the same methods in the same order."""

    kind: str
    suite: str
    """Empty where the views are suites."""
    left: str
    right: str
    methods: int
    tau: Estimate
    moved: Estimate
    """The mean absolute change of rank; tied methods have the mean of their places."""


@dataclass(frozen=True)
class Neighbours:
    """Two methods next to each other on the board of a suite."""

    upper: str
    lower: str
    difference: float
    kept: float
    """The share of draws in which the upper one stays above the lower one; ties count half."""


@dataclass(frozen=True)
class View:
    """Mean scores of methods, with the means in draws of other pairs and items."""

    scores: Mapping[str, float]
    drawn: Mapping[str, NDArray[Any]]
    """[N] by method; empty where items were not kept."""


@dataclass(frozen=True)
class Scores:
    """The contestants of a suite in arrays: their runs' scores averaged by pair of models."""

    scores_MPI: NDArray[Any]
    labels: tuple[str, ...]
    pairs: tuple[int, ...]
    items: tuple[str, ...]
    models: str
    """Names the models that the pairs are of."""
    kind: str = PAIRS
    """`SEEDS` where each seed counts as a pair of its own."""

    def on(self, items: Sequence[str]) -> Scores:
        """The scores of some of the items."""
        return replace(self, scores_MPI=self.scores_MPI[..., np.isin(self.items, items)], items=tuple(items))

    def view(self) -> View:
        """With pairs and items drawn anew, crossed, and deviations widened as `stats.resample` says."""
        return View(*(dict(zip(self.labels, each, strict=True)) for each in (self._means(), self._drawn().T)))

    def of_pair(self, pair: int) -> View:
        """One pair alone, with items drawn anew."""
        at = self.pairs.index(pair)
        return replace(self, scores_MPI=self.scores_MPI[:, [at]], pairs=(pair,)).view()

    def _means(self) -> list[float]:
        return [float(mean) for mean in self.scores_MPI.mean(axis=(1, 2))]

    def _drawn(self) -> NDArray[Any]:
        """Equal models have equal draws wherever they are, and so have equal items; others' are independent of them."""
        methods, pairs, items = self.scores_MPI.shape
        pairs_NP, _, widening = resample(pairs, 1)
        pairs_NP = _turned(pairs_NP, [self.models, self.pairs])
        items_NI = _turned(resample(1, items)[1], self.items)
        drawn_NMP = (items_NI @ self.scores_MPI.reshape(-1, items).T).reshape(-1, methods, pairs)
        mean_M = np.array(self._means())
        found: NDArray[Any] = mean_M + widening * (np.einsum("np,nmp->nm", pairs_NP, drawn_NMP) - mean_M)
        return found


def contestants(found: Field) -> list[str]:
    """The labels that compete: no twin with a shuffled signal, and not `sharpen`."""
    return [
        label for label in found.ranked
        if not found.groups[label][0].shuffled and found.groups[label][0].method != SHARPEN
    ]  # fmt: skip


def scores_of(found: Field, labels: Sequence[str], mark: str = "") -> Scores | None:
    """The scores of methods at a mark, or at each one's last. None where nothing is common to two of them.

    As on a board, methods with runs of one pair are left out where others have more, pairs are those that all have, and items
    those that all runs share.
    """
    groups = {label: found.groups[label] for label in labels}
    if mark:
        groups = {label: group for label, group in groups.items() if mark in common_marks(group, found.suite)}
    pairs = {label: {run.pair for run in group} for label, group in groups.items()}
    if any(len(mine) > 1 for mine in pairs.values()):
        pairs = {label: mine for label, mine in pairs.items() if len(mine) > 1}
    common = sorted(set.intersection(*pairs.values())) if pairs else []
    if len(pairs) < 2 or not common:
        return None
    runs = {label: [run for run in groups[label] if run.pair in common] for label in pairs}
    read = {label: [run.items(found.suite, mark or found.ends[label]) for run in group] for label, group in runs.items()}
    items = sorted(set.intersection(*(set(scores) for each in read.values() for scores in each)))
    if len(items) < 2:
        return None
    scores_MPI = np.array([
        [
            np.mean([[scores[item] for item in items] for run, scores in zip(runs[label], read[label], strict=True)
                     if run.pair == pair], axis=0)
            for pair in common
        ]
        for label in pairs
    ])  # fmt: skip
    first = next(iter(runs.values()))[0].spec["track"]
    models = digest_of([first.get("student"), first.get("pocket")])
    kind = PAIRS if (first.get("pocket") or {}).get("pairs") else SEEDS
    return Scores(scores_MPI, tuple(pairs), tuple(common), tuple(items), models, kind)


def agreements(runs: Sequence[Run], suites: Sequence[str]) -> list[Agreement]:
    """All agreements within runs of equal conditions. Raises as `runs.scored_alike`."""
    fields = {suite: Field.of(scored_alike(runs, suite), suite) for suite in suites}
    ends = {suite: scores for suite, found in fields.items() if (scores := scores_of(found, contestants(found)))}
    views = {suite: scores.view() for suite, scores in ends.items()}
    told = [compared(SUITES, "", (left, views[left]), (right, views[right])) for left, right in combinations(views, 2)]
    for suite, scores in ends.items():
        one = scores.kind.split()[-1].removesuffix("s")
        ones = {f"{one} {pair}": scores.of_pair(pair) for pair in scores.pairs} if len(scores.pairs) > 1 else {}
        told += [compared(scores.kind, suite, (left, ones[left]), (right, ones[right])) for left, right in combinations(ones, 2)]
    for suite, found in fields.items():
        last = [label for label in contestants(found) if found.ends[label] == WHOLE]
        told.append(_matched(BUDGETS, suite, (HALF, scores_of(found, last, HALF)), (WHOLE, scores_of(found, last, WHOLE))))
    told += [each for suite, scores in ends.items() for each in _decodings(fields[suite], scores.labels)]
    return [each for each in told if each is not None]


def between(left: tuple[str, Sequence[Run]], right: tuple[str, Sequence[Run]], suite: str) -> Agreement | None:
    """How far runs under two conditions agree on a suite, on the methods that both have. None where these are fewer than two.

    Raises as `runs.scored_alike`.
    """
    fields = [Field.of(scored_alike(runs, suite), suite) for _, runs in (left, right)]
    both = [label for label in contestants(fields[0]) if label in contestants(fields[1])]
    return _matched(TRACKS, suite, (left[0], scores_of(fields[0], both)), (right[0], scores_of(fields[1], both)))


def neighbours(runs: Sequence[Run], suite: str) -> list[Neighbours]:
    """Each two methods that follow each other by mean score. Raises as `runs.scored_alike`."""
    found = Field.of(scored_alike(runs, suite), suite)
    scores = scores_of(found, contestants(found))
    if scores is None:
        return []
    view = scores.view()
    order = sorted(view.scores, key=lambda label: (-view.scores[label], label))
    return [
        Neighbours(upper, lower, view.scores[upper] - view.scores[lower],
                   float((1 + _side(view.drawn[upper] - view.drawn[lower])).mean() / 2))
        for upper, lower in pairwise(order)
    ]  # fmt: skip


def compared(kind: str, suite: str, left: tuple[str, View], right: tuple[str, View]) -> Agreement | None:
    """Two views with their names, on the methods that both have; none where these are fewer than two."""
    views = (left[1], right[1])
    labels = [label for label in views[0].scores if label in views[1].scores]
    if len(labels) < 2:
        return None
    means = [np.array([view.scores[label] for label in labels]) for view in views]
    drawn = [np.stack([view.drawn[label] for label in labels], axis=-1) for view in views if view.drawn]
    return Agreement(
        kind, suite, left[0], right[0], len(labels), _estimate(tau_b, means, drawn, (-1.0, 1.0)),
        _estimate(moved, means, drawn, (0.0, np.inf)),
    )  # fmt: skip


def tau_b(left_NM: ArrayLike, right_NM: ArrayLike) -> NDArray[Any]:
    """Kendall's tau-b along the last axis; 0 where all of a side are tied. scipy's takes one pair of lists at a time, and
    thousands of draws in seconds."""
    sides = [np.asarray(each, dtype=np.float64) for each in (left_NM, right_NM)]
    above, below = np.triu_indices(sides[0].shape[-1], 1)
    left, right = (_side(each[..., above] - each[..., below]) for each in sides)
    told = np.sqrt((left**2).sum(axis=-1) * (right**2).sum(axis=-1))
    agreed = (left * right).sum(axis=-1)
    found: NDArray[Any] = np.divide(agreed, told, out=np.zeros_like(told), where=told > 0)
    return found


def moved(left_NM: ArrayLike, right_NM: ArrayLike) -> NDArray[Any]:
    """The mean absolute change of rank along the last axis."""
    ranks = [rankdata(np.round(np.asarray(each, dtype=np.float64), 12), axis=-1) for each in (left_NM, right_NM)]
    found: NDArray[Any] = np.abs(ranks[0] - ranks[1]).mean(axis=-1)
    return found


def by_chance(methods: int) -> float:
    """The mean absolute change of rank between two orders that have nothing to do with each other."""
    return (methods**2 - 1) / (3 * methods)


def _matched(kind: str, suite: str, left: tuple[str, Scores | None], right: tuple[str, Scores | None]) -> Agreement | None:
    """Two views of a suite, on the items that both have, if there are such."""
    if left[1] is None or right[1] is None:
        return None
    both = sorted({*left[1].items} & {*right[1].items})
    sides = [scores.on(both) if len(both) > 1 else scores for scores in (left[1], right[1])]
    return compared(kind, suite, (left[0], sides[0].view()), (right[0], sides[1].view()))


def _estimate(
    statistic: Callable[[ArrayLike, ArrayLike], NDArray[Any]], means: Sequence[NDArray[Any]],
    drawn: Sequence[NDArray[Any]], scale: tuple[float, float],
) -> Estimate:  # fmt: skip
    """Of a statistic of two orders, with the hull of the percentile interval and of its reflection at the estimate.

    A draw adds noise to what has noise already, and noise pulls orders apart: percentiles alone lie too low where orders are
    close, and their reflection alone too high.
    """
    value = float(statistic(means[0], means[1]))
    if len(drawn) < 2:
        return Estimate(value)
    lo, hi = (float(each) for each in np.quantile(statistic(drawn[0], drawn[1]), [TAIL, 1 - TAIL]))
    return Estimate(value, max(min(lo, 2 * value - hi), scale[0]), min(max(hi, 2 * value - lo), scale[1]))


def _decodings(found: Field, labels: Sequence[str]) -> list[Agreement | None]:
    """The headline decoding against each other one, of which means of runs alone are kept."""
    means: dict[str, dict[str, float]] = {}
    headlines: set[str] = set()
    for label in labels:
        told = [run.scores[found.suite][found.ends[label]] for run in found.groups[label]]
        headlines |= {each["headline"] for each in told}
        for how in sorted({how for each in told for how, graded in each.items() if isinstance(graded, dict)}):
            metrics = [each[how][each["metric"]]["value"] for each in told if each["metric"] in each.get(how, {})]
            values = [value for value in metrics if value is not None]
            if len(values) == len(told):
                means.setdefault(how, {})[label] = fmean(values)
    return [
        compared(DECODINGS, found.suite, (headline, View(means[headline], {})), (how, View(means[how], {})))
        for headline in sorted(headlines & {*means}) for how in means if how not in headlines
    ]  # fmt: skip


def _side(differences: NDArray[Any]) -> NDArray[Any]:
    """Signs; sums of equal scores that differ by their order of summation count as equal."""
    found: NDArray[Any] = np.sign(np.round(differences, 12))
    return found


def _turned(weights: NDArray[Any], key: object) -> NDArray[Any]:
    """The rows of draws from a place on that a key decides."""
    return np.roll(weights, int(digest_of(key)[:8], 16) % RESAMPLES, axis=0)

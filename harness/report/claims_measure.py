"""The quantities that claims are about, measured on runs: a difference of two arms by seed and item.

Axes: A arms, M marks, S seeds, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.report import gain
from harness.report.claims_data import Mechanism
from harness.report.runs import Run, aligned, common_marks, reading
from harness.report.stats import Spread, of_these_pairs, spread

RHO = gain.RHOS[1]
"""Share of the opponent's rise whose budget `matched` takes."""
Sides = tuple[list[Run], list[Run]]


@dataclass(frozen=True)
class Difference:
    """The quantity of the first less that of the second, by seed and item."""

    values_SI: NDArray[Any]
    pairs_S: tuple[int, ...]
    """The models that each seed began from; each pair has as many seeds as the others."""

    @property
    def by_pair(self) -> dict[int, float]:
        """Means."""
        pairs_S = np.array(self.pairs_S)
        return {pair: float(self.values_SI[pairs_S == pair].mean()) for pair in sorted(set(self.pairs_S))}

    @property
    def of_these_pairs(self) -> bool:
        """Whether pairs have seeds enough to speak of these very pairs; else they are a sample of others."""
        return len(self.pairs_S) >= 2 * len(set(self.pairs_S))

    def spread(self, sign: int = 1, margin: float = 0.0) -> Spread:
        """Of the difference in the claimed direction beyond a margin."""
        beyond_SI = sign * self.values_SI - margin
        return of_these_pairs(beyond_SI, self.pairs_S) if self.of_these_pairs else spread(beyond_SI, self.pairs_S)


def difference(claim: Mechanism, first: Mapping[int, Run], second: Mapping[int, Run]) -> Difference:
    """The difference over common seeds, as many of each pair of models.

    Raises:
        ValueError: the runs do not allow it, and why.
    """
    by_pair: dict[int, list[int]] = {}
    for seed in sorted(set(first) & set(second)):
        by_pair.setdefault(first[seed].pair, []).append(seed)
    if len(by_pair) < 2:
        raise ValueError("one pair of models says nothing about others")
    fewest = min(map(len, by_pair.values()))
    seeds = sorted(seed for group in by_pair.values() for seed in group[:fewest])
    sides = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    return Difference(_QUANTITIES[claim.quantity](claim, sides), tuple(run.pair for run in sides[0]))


def _end(claim: Mechanism, sides: Sides) -> NDArray[Any]:
    """Scores at the last mark where the meter is what the track's budget counts, else at the greatest reading that all reach."""
    if claim.meter in sides[0][0].budget:
        last = common_marks([*sides[0], *sides[1]], claim.suite)[-1]
        first_SI, second_SI = aligned(*([run.items(claim.suite, last) for run in side] for side in sides))
        return first_SI - second_SI
    first, second = _courses(claim, sides)
    (begun_1, most_1), (begun_2, most_2) = gain.common_range(first), gain.common_range(second)
    most = min(most_1, most_2)
    if most < max(begun_1, begun_2):
        raise ValueError(f"the first scores of one come after the last of the other, by {claim.meter}")
    return gain.at(first, float(np.log2(most))) - gain.at(second, float(np.log2(most)))


def _area(claim: Mechanism, sides: Sides) -> NDArray[Any]:
    """Mean heights over log2 of the meter, over the readings that all have."""
    first, second = _courses(claim, sides)
    over = gain.common_range(first, second)
    return gain.areas(first, over) - gain.areas(second, over)


def _matched(claim: Mechanism, sides: Sides) -> NDArray[Any]:
    """The first's scores at a share of the budget at which the second's mean curve has `RHO` of its rise, less the second's
    scores there."""
    first, second = _courses(claim, sides)
    low, high = gain.reached(second.readings_MS.mean(axis=1), second.scores_MSI.mean(axis=(1, 2)), gain.target_of(second, RHO))
    given = low + float(np.log2(claim.share))
    if low != high or given < np.log2(gain.common_range(first)[0]):
        raise ValueError(f"{claim.methods[1].label} is there before {claim.methods[0].label} scores at {claim.share:g} of it")
    return gain.at(first, given) - gain.at(second, low)


def _gold_gap(claim: Mechanism, sides: Sides) -> NDArray[Any]:
    """How much more the gold quality has changed since mark 0 than the judge's score has."""

    def gap(told: Mapping[str, Any]) -> float:
        graded = told[told["headline"]]
        if "gold" not in graded:
            raise ValueError("these runs record no gold")
        return float(graded["gold"]["value"] - graded[told["metric"]]["value"])

    return _changes(claim, sides, gap)


def _length(claim: Mechanism, sides: Sides) -> NDArray[Any]:
    """The change since mark 0 of an answer's mean tokens."""
    return _changes(claim, sides, lambda told: float(told[told["headline"]]["tokens"]))


_QUANTITIES: dict[str, Callable[[Mechanism, Sides], NDArray[Any]]] = {
    "end": _end, "area": _area, "matched": _matched, "gold_gap": _gold_gap, "length": _length,
}  # fmt: skip


def _changes(claim: Mechanism, sides: Sides, of: Callable[[Mapping[str, Any]], float]) -> NDArray[Any]:
    """Differences of a change that a run has one value of. Two columns alike leave Student's t over runs alone."""
    marks = common_marks([*sides[0], *sides[1]], claim.suite)
    changes_AS = np.array([
        [of(run.scores[claim.suite][marks[-1]]) - of(run.scores[claim.suite][marks[0]]) for run in side] for side in sides
    ])  # fmt: skip
    return np.repeat((changes_AS[0] - changes_AS[1])[:, None], 2, axis=1)


def _courses(claim: Mechanism, sides: Sides) -> tuple[gain.Course, gain.Course]:
    """Both sides mark by mark over the claim's meter, on the items that all share."""
    marks = common_marks([*sides[0], *sides[1]], claim.suite)
    scores = aligned(*([run.items(claim.suite, name) for run in side] for side in sides for name in marks))
    courses = []
    for side, scores_MSI in zip(sides, (scores[: len(marks)], scores[len(marks) :]), strict=True):
        used_SM = [[reading(mark, claim.meter) for mark in run.marks if mark.name in marks] for run in side]
        courses.append(gain.Course(np.array(used_SM).T, np.stack(scores_MSI)))
    return courses[0], courses[1]

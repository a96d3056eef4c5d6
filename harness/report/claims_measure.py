"""The quantities that claims are about, measured on runs: a difference of two arms by model pair and item.

Axes: A arms, M marks, S seeds, P model pairs, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.report import gain
from harness.report.claims_data import Mechanism
from harness.report.runs import Run, aligned, common_marks, reading

RHO = gain.RHOS[1]
"""Share of the opponent's rise whose budget `matched` takes."""
Sides = tuple[list[Run], list[Run]]


def difference(claim: Mechanism, first: Mapping[int, Run], second: Mapping[int, Run]) -> NDArray[Any]:
    """The quantity of the first less that of the second [P, I], over their common seeds and items; seeds of one pair of
    models are averaged.

    Raises:
        ValueError: the runs do not allow it, and why.
    """
    seeds = sorted(set(first) & set(second))
    sides = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
    return _QUANTITIES[claim.quantity](claim, sides)


def _by_pair(values_SI: NDArray[Any], runs: Sequence[Run]) -> NDArray[Any]:
    pairs_S = np.array([run.pair for run in runs])
    return np.stack([values_SI[pairs_S == pair].mean(axis=0) for pair in sorted(set(pairs_S.tolist()))])


def _end(claim: Mechanism, sides: Sides) -> NDArray[Any]:
    """Scores at the last mark where the meter is what the track's budget counts, else at the greatest reading that all reach."""
    if claim.meter in sides[0][0].budget:
        last = common_marks([*sides[0], *sides[1]], claim.suite)[-1]
        first_SI, second_SI = aligned(*([run.items(claim.suite, last) for run in side] for side in sides))
        return _by_pair(first_SI - second_SI, sides[0])
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
    """Differences of a change that a run has one value of. Two columns alike leave Student's t over model pairs alone."""
    marks = common_marks([*sides[0], *sides[1]], claim.suite)
    changes_AS = np.array([
        [of(run.scores[claim.suite][marks[-1]]) - of(run.scores[claim.suite][marks[0]]) for run in side] for side in sides
    ])  # fmt: skip
    return _by_pair(np.repeat((changes_AS[0] - changes_AS[1])[:, None], 2, axis=1), sides[0])


def _courses(claim: Mechanism, sides: Sides) -> tuple[gain.Course, gain.Course]:
    """Both sides mark by mark over the claim's meter, with model pairs in the place of seeds, on the items that all share."""
    marks = common_marks([*sides[0], *sides[1]], claim.suite)
    scores = aligned(*([run.items(claim.suite, name) for run in side] for side in sides for name in marks))
    courses = []
    for side, scores_MSI in zip(sides, (scores[: len(marks)], scores[len(marks) :]), strict=True):
        used_SM = [[reading(mark, claim.meter) for mark in run.marks if mark.name in marks] for run in side]
        scores_MPI = np.stack([_by_pair(scores_SI, side) for scores_SI in scores_MSI])
        courses.append(gain.Course(_by_pair(np.array(used_SM), side).T, scores_MPI))
    return courses[0], courses[1]

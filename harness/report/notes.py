"""What stands beneath a board: what speaks against reading it as a ranking, and how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from harness.report.runs import TEACHER, Run
from harness.report.shares import missing_bounds

if TYPE_CHECKING:
    from harness.report.board import Field, Row

MISSING_LIMIT = 0.01
"""The share of items without a score above which a table warns."""
SHARPEN = "sharpen"
"""The control that is told nothing by anybody."""


@dataclass(frozen=True)
class Basis:
    """What a ranking would rest on."""

    tracks: int
    suites: int
    seeds: int

    LEAST = (2, 3, 5)
    """Tracks (scales), suites and seeds below which an order of methods is no ranking: with 5 seeds and a correction for many
    comparisons, orders still turned over between scales (arXiv 2603.19335)."""

    @classmethod
    def of(cls, runs: Iterable[Run], seeds: Sequence[int]) -> Basis:
        """Of the tracks and suites that runs have, and the number of seeds of each method."""
        runs = list(runs)
        return cls(len({run.track for run in runs}), len({suite for run in runs for suite in run.suites}), min(seeds))

    @property
    def holds(self) -> bool:
        return all(have >= need for have, need in zip((self.tracks, self.suites, self.seeds), self.LEAST, strict=True))

    @property
    def words(self) -> str:
        return f"{_count(self.tracks, 'track')}, {_count(self.suites, 'suite')} and {_count(self.seeds, 'seed')}"

    @property
    def warning(self) -> str:
        tracks, suites, seeds = self.LEAST
        return f"{self.words} make no ranking: it takes at least {tracks}, {suites} and {seeds}"


def seed_count(counts: Sequence[int]) -> str:
    """ "1 seed", "5 seeds" or "3 to 5 seeds"."""
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else _count(low, "seed")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def bounds(group: Sequence[Run], suite: str, mark: str) -> tuple[float, float] | None:
    """The mean score over runs if their missing items had the lowest or the highest score; none where nothing is missing."""
    scores = [run.scores[suite][mark] for run in group if mark in run.scores[suite]]
    metrics = [score[score["headline"]][score["metric"]] for score in scores]
    had, missing = sum(metric["n"] for metric in metrics), sum(metric["missing"] for metric in metrics)
    if not missing:
        return None
    value = sum((metric["value"] or 0.0) * metric["n"] for metric in metrics) / max(had, 1)
    return missing_bounds(value, had, missing, group[0].scale(suite))


def of_board(
    found: Field, rows: Sequence[Row], basis: Basis, effects: Sequence[float], target: float | None, axis: str
) -> list[str]:
    """The lines beneath a board: warnings first, then how to read it.

    Args:
        effects: the smallest differences to the best that each comparison would have shown.
        target: the score of the column that tells how much of the axis was used until then.
    """
    ranked = [found.groups[label] for label in found.ranked]
    told = []
    if any(run.spec["track"].get("judge_is_critic") for group in found.groups.values() for run in group):
        told.append("warning: the evaluation judge is also the training critic")
    told += _references(found)
    told += _missing(found)
    early = [label for label, group in found.groups.items() if not all(run.finished for run in group)]
    if early:
        told.append(f"warning: not finished: {', '.join(f'{label} at mark {found.ends[label]}' for label in early)}")
    told += _tuning(ranked)
    if len(rows) > 1 and not basis.holds:
        told.append(f"warning: {basis.warning}; # is the order of this table alone")
    told += _pairs(ranked)
    told += _controls(found, rows)
    told += _intervals(rows, effects)
    if target is not None and any(row.area is not None for row in rows):
        told.append(f"area: mean height over log2 {axis}, student 0, teacher 1; "
                    f"to {target:.3f}: {axis} until half of the way from student to teacher")  # fmt: skip
    set_here = [" ".join([row.label.split(" ")[0], *(key for key, who in row.origins.items() if who == "--set")]) for row in rows]
    if told_of := [words for words in set_here if " " in words]:
        told.append(f"set by hand: {'; '.join(told_of)}")
    if any(who.startswith("track") for row in rows for who in row.origins.values()):
        told.append("the track sets some methods' settings: harness show RUN tells which")
    return told


def _references(found: Field) -> list[str]:
    """Who wrote what a user's own items are compared with, which decides what a score of one half means."""
    told = []
    for track in (run.spec["track"] for group in found.groups.values() for run in group):
        held = track.get("held_out")
        if held and held["suite"] == found.suite:
            writer = f"the teacher {track['teacher']['model']}" if track.get("teacher") else "the untouched student"
            told.append(f"answers are compared with those that {held['source']} gives, and where it gives none with those of "
                        f"{writer}")  # fmt: skip
    return list(dict.fromkeys(told))


def _missing(found: Field) -> list[str]:
    """Missing verdicts are not random, so the warning bounds each mean by counting them as the lowest and the highest score."""
    told = []
    for label, group in found.groups.items():
        for mark in dict.fromkeys(("0", found.ends[label], TEACHER)):
            scores = [run.scores[found.suite][mark] for run in group if mark in run.scores[found.suite]]
            missing = [score[score["headline"]][score["metric"]]["missing"] for score in scores]
            within = bounds(group, found.suite, mark)
            if within and any(lost > MISSING_LIMIT * score["n"] for lost, score in zip(missing, scores, strict=True)):
                asked = sum(score["n"] for score in scores)
                between = f"score between {within[0]:.3f} and {within[1]:.3f}"
                told.append(f"{label} at mark {mark} {sum(missing):,} of {asked:,}, {between}")
    return [f"warning: items without a score: {'; '.join(told)}"] if told else []


def _tuning(ranked: Sequence[Sequence[Run]]) -> list[str]:
    trials = {group[0].label: fmean(run.marks[-1].meters.get("tuning_trials", 0) for run in group) for group in ranked}
    if len(set(trials.values())) < 2:
        return []
    return [f"warning: unequal tuning, in trials: {', '.join(f'{label} {count:g}' for label, count in trials.items())}"]


def _pairs(ranked: Sequence[Sequence[Run]]) -> list[str]:
    """In the embedded world a seed takes pair s mod `pocket.pairs`; seeds of one pair are no independent draws of models."""
    most = max(len(group) for group in ranked)
    distinct = {run.pair for group in ranked for run in group}
    if most <= len(distinct):
        return []
    told = f"{most} seeds share {_count(len(distinct), 'pair')} of models"
    return [f"{told}: they are averaged by pair, and intervals are over pairs"]


def _controls(found: Field, rows: Sequence[Row]) -> list[str]:
    """Which controls are missing, and which methods do no better than their own."""
    told = []
    methods = {found.groups[label][0].method for label in found.ranked}
    if len(rows) > 1 and SHARPEN not in methods:
        told.append(f"warning: a control is missing: harness run --method {SHARPEN}")
    signals = [label for label in found.ranked if "signal" in found.groups[label][0].spec["config"]]
    without = [label for label in signals if label not in found.twins and not found.groups[label][0].shuffled]
    if without:
        told.append(f"no twin with a shuffled signal (--set signal=shuffled): {', '.join(without)}")
    beaten = [row.label for row in rows if row.over_twin is not None and row.over_twin.lo <= 0]
    if beaten:
        told.append(f"not shown to do better than its twin with a shuffled signal, which shows nothing: {', '.join(beaten)}")
    return told


def _intervals(rows: Sequence[Row], effects: Sequence[float]) -> list[str]:
    told = []
    alone = [row.label for row in rows if len(row.seeds) == 1]
    if len(alone) == len(rows):
        told.append("95 % CI: Student's t over the items of one seed; one seed ranks nothing")
    else:
        told.append("95 % CI: Student's t over seeds and items, crossed: all seeds answer the same items")
        if alone:
            told.append(f"one seed ranks nothing, its interval is over items only: {', '.join(alone)}")
    if any(row.standing == "tied" for row in rows):
        told.append("tied: the interval of the paired difference to the best holds 0, as of all methods above it")
    if any(row.standing == "unclear" for row in rows):
        told.append("unclear: not tied, and not shown to be behind the best (Holm-adjusted p of .05 or more)")
    if effects:
        low, high = min(effects), max(effects)
        size = f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"
        told.append(f"smallest difference to the best that would be found with power .8: {size}")
    return told

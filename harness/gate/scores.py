"""The statistical gate: scores on a suite after short runs must not be worse than their baseline's by a margin.

Axes: S seeds, I items; T seeds of another set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from harness.evaluate import stored
from harness.gate.runs import (
    Frozen,
    Head,
    Outcome,
    Plan,
    Row,
    Tell,
    Verdict,
    conditions_of,
    in_processes,
    read,
    run_apart,
    same_conditions,
)  # fmt: skip
from harness.report.runs import Incomparable
from harness.report.stats import LEVEL, Interval, holm, paired
from harness.store import mark_stem, now

PLAN = Plan(
    track={
        "extends": "pocket", "name": "check-scores", "budget": {"prompts": 256}, "marks": ["0", "1"],
        "evaluation": {"temperatures": [0.0]},
    },
)  # fmt: skip
SUITE = "alpaca"
METHODS = ("grpo", "ropd", "seqkd")
"""One that learns from outcomes, one from rubrics, one from texts."""
SEEDS = 6
MARGIN = 0.05
UNIT = 10_000
"""Scores are kept as whole numbers of this fraction."""
MOST_SEEDS = 1000
UPDATE = 'harness check --scores --update --reason "why"'


class Grader(Frozen):
    """By whom and on what a run was scored."""

    version: str
    data: str
    judge: str | None


class Scored(Frozen):
    config: dict[str, Any]
    scores: tuple[tuple[int, ...], ...]
    """A row a seed, a column an item, in ten-thousandths."""


class ScoreBaseline(Head):
    gate: Literal["scores"] = "scores"
    suite: str
    margin: float = Field(gt=0)
    """The largest loss in score that passes, on the suite's scale."""
    seeds: tuple[int, ...] = Field(min_length=2)
    graders: tuple[Grader, ...]
    """Every one there was, without repetition."""
    items: tuple[str, ...]
    methods: dict[str, Scored]

    def scores_SI(self, method: str) -> NDArray[Any]:
        return np.array(self.methods[method].scores, dtype=np.float64) / UNIT


class Run(Frozen):
    """What a run's last mark says."""

    config: dict[str, Any]
    grader: Grader
    items: dict[str, int]
    """Headline scores in ten-thousandths."""


def scored_run(plan: Plan, suite: str, task: tuple[str, int], folder: Path) -> Run:
    """Trains and scores a method (`task` is its name and a seed) in this process; `folder` takes the files.

    Raises:
        HarnessError: the run could not begin or end.
    """
    method, seed = task
    store = run_apart(plan, method, seed, [suite], folder)
    mark = store.lines("marks")[-1]["mark"]
    told = stored(store, suite, mark)
    path = store.evaluation(suite) / "items" / f"{mark_stem(mark)}.{told['headline']}.json"
    items = {item: round(score * UNIT) for item, score in json.loads(path.read_text(encoding="utf-8")).items()}
    grader = Grader(version=str(told["version"]), data=told["data"], judge=told["judge"])
    return Run(config=store.spec.config, grader=grader, items=items)


def two_sample(a_SI: ArrayLike, b_TI: ArrayLike) -> Interval:
    """The mean of a less the mean of b with its 95 % interval, where the two have the same items but seeds of their own.

    With score = mean + seed + item + rest in each, the variance of the difference is what seeds add in each (their means'
    variances, which hold the rest) and what items add (the variance of the items' differences, less the rest, which it
    holds once more; at least 0). Student's t with Welch's degrees of freedom of the two seed parts (Biometrika 34, 1947).

    Raises:
        ValueError: not two axes, other items, fewer than two seeds or items.
    """
    from scipy.special import stdtr, stdtrit

    a, b = np.asarray(a_SI, dtype=np.float64), np.asarray(b_TI, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(*a.shape, *b.shape) < 2:
        raise ValueError(f"two samples need at least two seeds each and the same two or more items, got {a.shape} and {b.shape}")
    items = a.shape[1]
    parts = [float(x.mean(axis=1).var(ddof=1)) / len(x) for x in (a, b)]
    item = float((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1)) / items
    rest = sum(_rest(x) / x.size for x in (a, b))
    variance = sum(parts) + max(item - rest, 0.0)
    weights = sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    freedom = sum(parts) ** 2 / weights if weights else float(min(len(a), len(b)) - 1)
    mean, error = float(a.mean() - b.mean()), variance**0.5
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(mean) / error)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, min(len(a), len(b)), items, p)


def _rest(x_SI: NDArray[Any]) -> float:
    """The mean square of what neither seed nor item explains."""
    rest_SI = x_SI - x_SI.mean(axis=1, keepdims=True) - x_SI.mean(axis=0) + x_SI.mean()
    return float((rest_SI**2).sum()) / ((x_SI.shape[0] - 1) * (x_SI.shape[1] - 1))


def verdicts(changes: Mapping[str, Interval], margin: float) -> dict[str, Verdict]:
    """Non-inferiority of each row: it passes where the interval lies above -margin; it fails where the interval lies below 0
    and reaches -margin, and its p-value stands after Holm's correction over all rows; else it is unclear."""
    corrected = holm({name: change.p for name, change in changes.items()})
    result: dict[str, Verdict] = {}
    for name, change in changes.items():
        if change.lo > -margin:
            result[name] = "pass"
        else:
            result[name] = "FAIL" if change.hi < 0 and corrected[name] < 1 - LEVEL else "unclear"
    return result


def further_seeds(change: Interval, margin: float) -> int | None:
    """About how many more seeds would settle an unclear row if its mean stayed: the interval shrinks with the root of their
    number, and with Student's t. Nothing where it is more than a thousand."""
    from scipy.special import stdtrit

    def t(seeds: int) -> float:
        return float(stdtrit(seeds - 1, (1 + LEVEL) / 2))

    for seeds in range(change.seeds + 1, MOST_SEEDS):
        half = change.half * math.sqrt(change.seeds / seeds) * t(seeds) / t(change.seeds)
        if change.mean - half > -margin or change.mean + half < 0:
            return seeds - change.seeds
    return None


def compared(baseline: ScoreBaseline, seeds: Sequence[int], runs: Mapping[str, Sequence[Run]]) -> list[Row]:
    """The rows of methods (their runs by seed) against the baseline: paired where the seeds are the baseline's own."""
    changes: dict[str, Interval] = {}
    means: dict[str, tuple[float, float]] = {}
    left_out: dict[str, int] = {}
    for method, group in runs.items():
        if method not in baseline.methods:
            continue
        shared = [item for item in baseline.items if all(item in run.items for run in group)]
        left_out[method] = len(baseline.items) - len(shared)
        places = [place for place, item in enumerate(baseline.items) if item in set(shared)]
        before_SI = baseline.scores_SI(method)[:, places]
        now_TI = np.array([[run.items[item] for item in shared] for run in group], dtype=np.float64) / UNIT
        same = tuple(seeds) == baseline.seeds
        changes[method] = paired(now_TI, before_SI) if same else two_sample(now_TI, before_SI)
        means[method] = float(before_SI.mean()), float(now_TI.mean())
    judged = verdicts(changes, baseline.margin)
    rows = []
    for method, group in runs.items():
        if method not in changes:
            now_mean = np.mean([score for run in group for score in run.items.values()]) / UNIT
            rows.append(Row("unclear", method, baseline.suite, "-", f"{now_mean:.4f}", f"not in the baseline: {UPDATE}"))
            continue
        change, verdict = changes[method], judged[method]
        note = f"{change.mean:+.4f} ({change.lo:+.4f} to {change.hi:+.4f})"
        if verdict == "unclear":
            more = further_seeds(change, baseline.margin)
            note += f", {'over a thousand' if more is None else f'about {more}'} more seeds"
        if left_out[method]:
            note += f", {left_out[method]} of {len(baseline.items)} items have no score"
        if group[0].config != baseline.methods[method].config:
            note += ", other settings"
        before, after = (f"{mean:.4f}" for mean in means[method])
        rows.append(Row(verdict, method, baseline.suite, before, after, note))
    return rows


def _graders(runs: Mapping[str, Sequence[Run]]) -> tuple[Grader, ...]:
    found = {run.grader.model_dump_json(): run.grader for group in runs.values() for run in group}
    return tuple(found[key] for key in sorted(found))


def _measured(
    plan: Plan, suite: str, methods: Sequence[str], seeds: Sequence[int], jobs: int, tell: Tell
) -> dict[str, list[Run]]:
    tasks = [(method, seed) for method in methods for seed in seeds]
    runs = iter(in_processes(partial(scored_run, plan, suite), tasks, jobs, tell))
    return {method: [next(runs) for _ in seeds] for method in methods}


def check(path: Path, methods: Sequence[str], first_seed: int | None, jobs: int, tell: Tell) -> Outcome:
    """Runs the methods (the baseline's, if none is named) and compares their scores with the baseline.

    Args:
        first_seed: where as many seeds as the baseline has begin; by default they are the baseline's own.

    Raises:
        SpecError: no such method or baseline.
        Incomparable: the track, the suite's version or items, or the judge are not what they were.
    """
    baseline = read(path, ScoreBaseline)
    seeds = baseline.seeds if first_seed is None else tuple(range(first_seed, first_seed + len(baseline.seeds)))
    names = list(dict.fromkeys(methods)) or list(baseline.methods)
    for name in names:
        spec, _ = baseline.plan.resolved(name, seeds[0])
        same_conditions(baseline.conditions, conditions_of(spec), UPDATE)
    runs = _measured(baseline.plan, baseline.suite, names, seeds, jobs, tell)
    same_graders(baseline, runs)
    way = "paired seed x item" if seeds == baseline.seeds else f"seeds from {first_seed}, not paired"
    size = f"{len(seeds)} seeds x {len(baseline.items)} items"
    title = f"check scores  baseline of {baseline.written}  {size}  {way}  margin {baseline.margin:g}"
    return Outcome(title, compared(baseline, seeds, runs))


def same_graders(baseline: ScoreBaseline, runs: Mapping[str, Sequence[Run]]) -> None:
    """Raises Incomparable where a suite's version or items, or a judge, are not among the baseline's."""
    strange = [grader for grader in _graders(runs) if grader not in baseline.graders]
    if strange:
        lines = [f"  {name}  {each.model_dump_json()}" for name, group in (("baseline", baseline.graders), ("now", strange))
                 for each in group]  # fmt: skip
        message = "\n".join([f"{baseline.suite} was not scored as the baseline was:", *lines])
        raise Incomparable(message, where=baseline.suite, fix=UPDATE)


def update(
    path: Path, methods: Sequence[str], reason: str, jobs: int, tell: Tell
) -> tuple[ScoreBaseline, Outcome]:
    """A baseline with the methods as they score now, and how that differs from the one on file.

    Raises:
        Incomparable: some methods only, where the track, the suite or the judge are not what they were.
    """
    old = read(path, ScoreBaseline) if path.exists() else None
    plan, suite, margin, seeds = (
        (old.plan, old.suite, old.margin, old.seeds) if old else (PLAN, SUITE, MARGIN, tuple(range(SEEDS)))
    )
    names = list(dict.fromkeys(methods)) or list(old.methods if old else METHODS)
    spec, _ = plan.resolved(names[0], seeds[0])
    conditions = conditions_of(spec)
    if methods and old:
        same_conditions(old.conditions, conditions, f"{UPDATE} without --method")
    runs = _measured(plan, suite, names, seeds, jobs, tell)
    if methods and old:
        same_graders(old, runs)
    items = old.items if methods and old else _shared(runs)
    found = {
        method: Scored(config=group[0].config, scores=tuple(tuple(run.items[item] for item in items) for run in group))
        for method, group in runs.items()
    }
    kept = {name: each for name, each in (old.methods if old else {}).items() if methods and name not in found}
    baseline = ScoreBaseline(
        written=now()[:10], reason=reason, plan=plan, conditions=conditions, suite=suite, margin=margin, seeds=seeds,
        graders=_graders(runs), items=items, methods=dict(sorted({**kept, **found}.items())),
    )  # fmt: skip
    return baseline, Outcome(f"update scores  {path}", compared(old or baseline, seeds, runs))


def _shared(runs: Mapping[str, Sequence[Run]]) -> tuple[str, ...]:
    """Items that have a score in every run."""
    return tuple(sorted(set.intersection(*(set(run.items) for group in runs.values() for run in group))))

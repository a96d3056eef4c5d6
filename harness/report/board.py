"""The board of a suite: methods by score with their controls, what they have used, and what speaks against a ranking.

Axes: S seeds, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import fmean
from typing import Any

import numpy as np

from harness import registry
from harness.errors import SpecError
from harness.ledger import Budget
from harness.report import notes
from harness.report.gain import Course, area_interval, budgets_to
from harness.report.runs import TEACHER, Run, aligned, by_label, common_marks, reading, scored_alike
from harness.report.stats import Interval, detectable, holm, improvement, interval, paired, rank_intervals

READINGS = ("prompts", "teacher_tokens", "critic_tokens", "flops", "usd")
ACCESS = ("nothing", "text", "scores", "logits", "outcomes", "solutions", "unknown")
"""What a method may see of its teacher and critic, in the order of a board's groups."""
LEVEL = 0.05
"""p of the difference to the best: from here on a method is tied with it, and below it, adjusted by Holm's procedure, behind."""


@dataclass(frozen=True)
class Row:
    label: str
    mark: str
    seeds: tuple[int, ...]
    score: Interval
    others: dict[str, float | None]
    """Means over seeds of what has no score by item: `gold`, and the metric under other decodings (`t1`)."""
    access: str = ""
    """One of `ACCESS`; nothing for reference rows."""
    bounds: tuple[float, float] | None = None
    """The score if all missing items had the lowest or the highest one; none where no item is missing."""
    change: Interval | None = None
    """From mark 0, paired."""
    used: dict[str, float] | None = None
    """Means over seeds of `READINGS`; none for reference rows."""
    to_best: Interval | None = None
    """Score less the best method's, paired over common seeds and items; none for the best, or where none are common."""
    p: float | None = None
    """Of no difference to the best, two-sided, adjusted by Holm's procedure over the board."""
    improvement: Interval | None = None
    """The probability that it does better than the best, over common seeds."""
    over_twin: Interval | None = None
    """Score less that of the method's own control with a shuffled signal, paired, at the last mark that both have."""
    places: tuple[int, int] | None = None
    """The interval of its rank among methods with several seeds, over the seeds that all of these have."""
    area: Interval | None = None
    """The mean height of its curve over log2 of the budget's axis, 0 at the student and 1 at the teacher."""
    reached: tuple[float, float] | None = None
    """Between which readings of the axis it reaches the board's target, medians over seeds: two equal ones where that is
    known, (x, inf) where x did not do. None where the board has no target or the method has too few marks."""
    standing: str = ""
    """`best`; `tied` where the interval of the difference to the best holds 0, as of all rows above; nothing where it is shown
    to be behind, over all comparisons of the board; `unclear` between these."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Settings that are not the method's own defaults, with their values and who set them."""

    @property
    def leads(self) -> bool:
        """Whether it is the best or tied with it."""
        return self.standing in ("best", "tied")


@dataclass(frozen=True)
class Board:
    """What the table of a suite says. `rows` are by score; `references` are the student at mark 0, the teacher, and controls
    with a shuffled signal whose method is not there."""

    conditions: str
    suite: str
    title: str
    budget: str
    axis: str
    """The meter on which the marks lie."""
    target: float | None
    """The score half of the way from the student to the teacher; none where one of them is missing or the teacher no better."""
    scale: tuple[float, float]
    rows: list[Row]
    references: list[Row]
    notes: list[str]

    @property
    def extra(self) -> list[str]:
        """The names in `Row.others`, gold first."""
        names = {name for row in [*self.rows, *self.references] for name, value in row.others.items() if value is not None}
        return sorted(names, key=lambda name: (name != "gold", name))

    @property
    def ranks(self) -> list[int | None]:
        """Ranks by score; all tied with the best share the first. None at all where a method has one seed."""
        if any(len(row.seeds) == 1 for row in self.rows) or len(self.rows) == 1:
            return [None] * len(self.rows)
        return [1 if row.leads else place for place, row in enumerate(self.rows, 1)]

    @property
    def groups(self) -> dict[str, list[tuple[int | None, Row]]]:
        """The rows with their ranks by what methods may see, in the order of `ACCESS`."""
        ranked = list(zip(self.ranks, self.rows, strict=True))
        found = {access: [(rank, row) for rank, row in ranked if row.access == access] for access in ACCESS}
        return {access: members for access, members in found.items() if members}


@dataclass(frozen=True)
class Field:
    """The runs of a suite in their parts."""

    suite: str
    groups: Mapping[str, list[Run]]
    """All runs by label."""
    ranked: Sequence[str]
    """The labels that compete."""
    twins: Mapping[str, str]
    """For a label that of its control with a shuffled signal."""
    ends: Mapping[str, str]
    """The last mark that all seeds of a label have."""

    @classmethod
    def of(cls, runs: Sequence[Run], suite: str) -> Field:
        groups = by_label(runs)
        controls = {group[0].kin: label for label, group in groups.items() if group[0].shuffled}
        ranked = [label for label, group in groups.items() if not group[0].shuffled] or list(groups)
        twins = {label: controls[groups[label][0].kin] for label in ranked if groups[label][0].kin in controls}
        twins = {label: twin for label, twin in twins.items() if twin != label}
        return cls(suite, groups, ranked, twins, {label: common_marks(group, suite)[-1] for label, group in groups.items()})

    @property
    def strays(self) -> list[str]:
        """Controls whose method is not there."""
        return [label for label in self.groups if label not in self.ranked and label not in self.twins.values()]

    def pair(self, left: str, right: str, marks: tuple[str, str]) -> tuple[Any, Any, list[int]] | None:
        """Two arrays [S, I] of the scores of two labels at their marks, over common seeds and items, and the model pair of each
        seed; none without such seeds."""
        common = {run.seed for run in self.groups[left]} & {run.seed for run in self.groups[right]}
        sides = [
            [run.items(self.suite, mark) for run in self.groups[label] if run.seed in common]
            for label, mark in zip((left, right), marks, strict=True)
        ]
        if not common:
            return None
        left_SI, right_SI = aligned(*sides)
        return left_SI, right_SI, [run.pair for run in self.groups[left] if run.seed in common]


def build(runs: Sequence[Run], suite: str) -> Board:
    """The board of runs that were made under equal conditions, at the last mark that all seeds of a method have.

    Raises:
        SpecError: none of them is scored on the suite.
        Incomparable: they were made or scored under different conditions.
    """
    every = list(runs)
    runs = scored_alike(every, suite)
    found = Field.of(runs, suite)
    rows = [_row(label, found.groups[label], suite, found.ends[label]) for label in found.ranked]
    rows.sort(key=lambda row: (-row.score.mean, row.label))
    pairs = {row.label: pair for row in rows[1:] if (pair := found.pair(row.label, rows[0].label, (row.mark, rows[0].mark)))}
    rows = _standings([_told(row, found) for row in rows], pairs)
    references = _references(found)
    first = runs[0]
    axis, ends = Budget(first.budget).axis, {row.label: row.score.mean for row in references}
    target = None
    if ends.get("student", inf) < ends.get(TEACHER, -inf):
        target = (ends["student"] + ends[TEACHER]) / 2
        rows = [_efficient(row, found, axis, (ends["student"], ends[TEACHER]), target) for row in rows]
    rows = _placed(rows, found)
    seeds, items = notes.seed_count([len(row.seeds) for row in rows]), max(row.score.items for row in rows)
    budget = ", ".join(f"{amount:,.6g} {meter.replace('_', ' ')}" for meter, amount in first.budget.items())
    version = first.scores[suite][first.scored(suite)[0].name]["version"]
    title = f"track {first.conditions}  suite {suite} v{version}  {seeds} x {items} items  {budget}"
    effects = [detectable(left_SI, right_SI) for left_SI, right_SI, _ in pairs.values()]
    told = notes.of_board(found, rows, notes.Basis.of(every, [len(row.seeds) for row in rows]), effects, target, axis)
    return Board(first.conditions, suite, title, budget, axis, target, first.scale(suite), rows, references, told)


def access_of(method: str) -> str:
    """What a method may see, as its class declares; "unknown" for one that is not installed here."""
    try:
        return registry.method(method).access
    except SpecError:  # a run can be read where its method is not
        return "unknown"


def clipped(score: Interval, scale: tuple[float, float]) -> Interval:
    """The interval of a score, within its suite's scale."""
    return replace(score, lo=max(score.lo, scale[0]), hi=min(score.hi, scale[1]))


def _row(label: str, group: Sequence[Run], suite: str, mark: str) -> Row:
    now, models = [run.items(suite, mark) for run in group], [run.pair for run in group]
    change = None
    if mark != TEACHER and all("0" in run.scores[suite] for run in group):
        now_SI, start_SI = aligned(now, [run.items(suite, "0") for run in group])
        change = paired(now_SI, start_SI, models)
    others: dict[str, list[float]] = {}
    for run in group:
        told = run.scores[suite][mark]
        if "gold" in told[told["headline"]]:
            others.setdefault("gold", []).append(told[told["headline"]]["gold"]["value"])
        for how, graded in told.items():
            if how != told["headline"] and isinstance(graded, dict) and told["metric"] in graded:
                others.setdefault(how, []).append(graded[told["metric"]]["value"])
    used = None
    if mark != TEACHER:
        points = [next(point for point in run.marks if point.name == mark) for run in group]
        used = {meter: fmean(reading(point, meter) for point in points) for meter in READINGS}
    return Row(
        label, mark, tuple(run.seed for run in group), clipped(interval(aligned(now)[0], models), group[0].scale(suite)),
        {name: None if None in values else fmean(values) for name, values in others.items()},
        bounds=notes.bounds(group, suite, mark), change=change, used=used,
    )  # fmt: skip


def _told(row: Row, found: Field) -> Row:
    """The row with what is known of its method alone: what it sees, its settings, its control."""
    group, twin, over_twin = found.groups[row.label], found.twins.get(row.label), None
    if twin is not None:
        mark = common_marks([*group, *found.groups[twin]], found.suite)[-1]
        pair = found.pair(row.label, twin, (mark, mark))
        over_twin = pair and paired(*pair)
    config = group[0].spec["config"]
    origins = {f"{key}={config.get(key)}": who for key, who in group[0].origins.items() if who != "default"}
    return replace(row, access=access_of(group[0].method), over_twin=over_twin, origins=origins)


def _standings(rows: Sequence[Row], pairs: Mapping[str, tuple[Any, Any, list[int]]]) -> list[Row]:
    """The rows beside the first: differences, who is tied with it, how likely each is to do better."""
    if len(rows) < 2:
        return list(rows)
    differences = {label: paired(*pair) for label, pair in pairs.items()}
    adjusted = holm({label: difference.p for label, difference in differences.items()})
    result, near = [replace(rows[0], standing="best")], True
    for row in rows[1:]:
        if row.label in pairs:
            p = adjusted[row.label]
            near = near and differences[row.label].p >= LEVEL
            standing = "tied" if near else "unclear" if p >= LEVEL else ""
            row = replace(
                row, to_best=differences[row.label], p=p, standing=standing, improvement=improvement(*pairs[row.label][:2])
            )
        result.append(row)
    return result


def _placed(rows: Sequence[Row], found: Field) -> list[Row]:
    """The rows with the intervals of their ranks."""
    several = [row for row in rows if len(row.seeds) > 1]
    common = set.intersection(*(set(row.seeds) for row in several)) if len(several) > 1 else set()
    if len(common) < 2:
        return list(rows)
    sides = [[run.items(found.suite, row.mark) for run in found.groups[row.label] if run.seed in common] for row in several]
    places = rank_intervals({row.label: scores_SI for row, scores_SI in zip(several, aligned(*sides), strict=True)})
    return [replace(row, places=places.get(row.label)) for row in rows]


def _efficient(row: Row, found: Field, axis: str, ends: tuple[float, float], target: float) -> Row:
    """The row with its area between student and teacher and what it used until the target."""
    group = found.groups[row.label]
    marks = common_marks(group, found.suite)
    readings_MS = np.array([
        [reading(next(mark for mark in run.marks if mark.name == name), axis) for run in group] for name in marks
    ])  # fmt: skip
    if any(len(set(used_M[used_M > 0])) < 2 for used_M in readings_MS.T):
        return row
    scores_MSI = np.array(aligned(*([run.items(found.suite, name) for run in group] for name in marks)))
    course = Course(readings_MS, scores_MSI)
    low_S, high_S = budgets_to(course, target)
    return replace(row, area=area_interval(course, *ends), reached=(float(np.median(low_S)), float(np.median(high_S))))


def _references(found: Field) -> list[Row]:
    """The student and the teacher of each seed once, and controls whose method is not there."""
    once = {run.seed: run for group in found.groups.values() for run in group}
    distinct = [once[seed] for seed in sorted(once)]
    wanted = [("student", "0", distinct), ("teacher", TEACHER, distinct)]
    wanted += [(label, found.ends[label], found.groups[label]) for label in found.strays]
    result = []
    for label, mark, group in wanted:
        having = [run for run in group if mark in run.scores[found.suite]]
        if having:
            result.append(replace(_row(label, having, found.suite, mark), used=None, change=None))
    return result

"""What the report page says, as plain values: verdict, warnings, differences, budgets, missing items, settings, runs.

Axes: S seeds, I items.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

from harness import registry
from harness.errors import SpecError
from harness.ledger import BUDGETABLE, METERS
from harness.report import board as boards
from harness.report import curves, stats
from harness.report.board import Board, Field, Row
from harness.report.runs import TEACHER, Run, by_label, common_marks, scored_alike
from harness.report.shares import missing_bounds
from harness.report.stats import Interval
from harness.spec import canonical

AXES = ("prompts", "rollouts", "teacher_tokens", "critic_tokens", "train_tokens", "flops", "usd")
"""Meters over which the page draws curves, where a run has used them."""
PAIRS = 600
"""Rows of the table of all pairs; methods further down are compared with the best one only."""
FEW_SEEDS = 3
"""Below it a method is named in the warnings."""
OF_A_RUN = frozenset({"started", "source", "commit", "dirty", "schema"})
"""Keys of `environment.json` that the table of runs shows."""


@dataclass(frozen=True)
class Group:
    """The runs of one label: a method with the settings that tell it from others on the page."""

    label: str
    anchor: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run of its lowest seed, which the page's examples show."""
        return self.runs[0]

    @property
    def departures(self) -> list[tuple[str, Any, str]]:
        """Settings that are not the method's own defaults: name, value, and who set it."""
        config = self.first.spec["config"]
        return [(key, config.get(key), origin) for key, origin in self.first.origins.items() if origin != "default"]


@dataclass(frozen=True)
class Difference:
    """Score of `left` less score of `right`, over their common seeds and items."""

    left: str
    right: str
    value: Interval
    p: float
    """Of no difference, adjusted by Holm's procedure over all pairs of the table."""


@dataclass(frozen=True)
class Lost:
    """What has no score, or is no whole answer, at a mark of a label; counts are sums over its seeds."""

    label: str
    mark: str
    asked: int
    missing: int
    lost: Mapping[str, int]
    """Verdicts without a score by status; an item may have several verdicts."""
    empty: int
    truncated: int
    bounds: tuple[float, float]
    """The score if all missing items had the lowest score, or the highest."""


@dataclass(frozen=True)
class Used:
    """Means over seeds of what a label has used, by meter; `evaluation` is off the clock."""

    label: str
    training: Mapping[str, float]
    evaluation: Mapping[str, float]


@dataclass(frozen=True)
class SuiteData:
    """One suite: its board, and the runs that it scored in their parts."""

    name: str
    anchor: str
    board: Board
    field: Field

    @property
    def runs(self) -> list[Run]:
        """All runs that the suite scored."""
        return [run for group in self.field.groups.values() for run in group]

    @property
    def ranked(self) -> list[tuple[int | None, Row]]:
        """The rows with their ranks."""
        return list(zip(self.board.ranks, self.board.rows, strict=True))

    @cached_property
    def meters(self) -> list[str]:
        """Of `AXES` those that a run has used, in that order."""
        used = curves.used(self.runs)
        return [meter for meter in AXES if meter in used]

    @cached_property
    def statuses(self) -> list[str]:
        """Of verdicts without a score."""
        return sorted({status for row in self.lost for status in row.lost})

    @property
    def asked(self) -> int:
        """Items of the suite."""
        return max(score["n"] for score in self.runs[0].scores[self.name].values())

    @cached_property
    def at_marks(self) -> dict[str, dict[str, Interval]]:
        """For each label its score at every mark that all its seeds have, by the name of the mark."""
        told = {}
        for label, group in self.field.groups.items():
            scores = curves.curve_of(label, group, self.name, "prompts").scores
            told[label] = dict(zip(common_marks(group, self.name), scores, strict=True))
        return told

    @property
    def marks(self) -> list[str]:
        """All marks of `at_marks`, in order."""
        return sorted({mark for scores in self.at_marks.values() for mark in scores}, key=Fraction)

    def pairs(self) -> tuple[list[Difference], int]:
        """The differences of all pairs of the best rows, at most `PAIRS`, and how many methods they leave out."""
        rows = list(self.board.rows)
        while len(rows) * (len(rows) - 1) // 2 > PAIRS:
            rows.pop()
        found = {}
        for left, right in combinations(rows, 2):
            pair = self.field.pair(left.label, right.label, (left.mark, right.mark))
            if pair is not None:
                found[f"{left.label}\0{right.label}"] = (left.label, right.label, stats.paired(*pair))
        adjusted = stats.holm({key: value.p for key, (*_, value) in found.items()})
        told = [Difference(*found[key], p) for key, p in adjusted.items()]
        return sorted(told, key=lambda each: (each.p, each.value.p, each.left, each.right)), len(self.board.rows) - len(rows)

    @cached_property
    def lost(self) -> list[Lost]:
        """A row for each label at mark 0 and at its last mark, and the teacher's once for each seed's models."""
        rows = []
        for label, group in self.field.groups.items():
            rows += [self._lost(label, group, mark) for mark in dict.fromkeys(("0", self.field.ends[label]))]
        once = list({run.seed: run for run in self.runs}.values())
        rows.append(self._lost(TEACHER, once, TEACHER))
        return [row for row in rows if row.asked]

    def _lost(self, label: str, group: Sequence[Run], mark: str) -> Lost:
        scores = [run.scores[self.name][mark] for run in group if mark in run.scores[self.name]]
        graded = [score[score["headline"]] for score in scores]
        metrics = [found[score["metric"]] for found, score in zip(graded, scores, strict=True)]
        asked, missing = sum(score["n"] for score in scores), sum(metric["missing"] for metric in metrics)
        counts = sum(metric["n"] for metric in metrics)
        value = sum((metric["value"] or 0.0) * metric["n"] for metric in metrics) / max(counts, 1)
        return Lost(
            label, mark, asked, missing, sum((Counter(found.get("lost", {})) for found in graded), Counter()),
            sum(found.get("empty", 0) for found in graded), sum(found.get("truncated", 0) for found in graded),
            missing_bounds(value, counts, missing, group[0].scale(self.name)) if asked else (value, value),
        )  # fmt: skip


def suite_data(runs: Sequence[Run], suite: str) -> SuiteData:
    """The board and runs of a suite. Raises as `board.build`."""
    return SuiteData(suite, slug(suite), boards.build(runs, suite), Field.of(scored_alike(runs, suite), suite))


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The runs by label, each with an anchor of its own."""
    return [
        Group(label, f"method-{place}-{slug(label)[:40]}", tuple(group))
        for place, (label, group) in enumerate(by_label(runs).items(), 1)
    ]


def verdict(suites: Sequence[SuiteData]) -> str:
    """All suites in a sentence."""
    told = "; ".join(_verdict(suite) for suite in suites)
    return f"{told[0].upper()}{told[1:]}."


def _verdict(suite: SuiteData) -> str:
    rows = suite.board.rows
    best = rows[0]
    score = f"{best.score.mean:.3f} ({best.score.lo:.3f} to {best.score.hi:.3f})"
    if len(rows) == 1:
        return f"on {suite.name} {best.label} scores {score}, and there is nothing to compare it with"
    tied = [row.label for row in rows if row.standing == "tied"]
    among = f", tied with {', '.join(tied)}" if 0 < len(tied) <= 3 else f", tied with {len(tied)} others" if tied else ""
    alone = ", but methods with one seed are among them, and one seed ranks nothing" if suite.board.ranks[0] is None else ""
    return f"on {suite.name} {best.label} has the highest score of {len(rows)} methods, {score}{among}{alone}"


def warnings(groups: Sequence[Group], suites: Sequence[SuiteData]) -> list[str]:
    """What a reader must know before the numbers; empty where there is nothing."""
    notes: dict[str, list[str]] = {}
    for suite in suites:
        for note in suite.board.notes:
            if note.startswith("warning: "):
                notes.setdefault(note.removeprefix("warning: "), []).append(suite.name)
    told = [note if len(names) == len(suites) else f"{', '.join(names)}: {note}" for note, names in notes.items()]
    few = [f"{group.label} ({len(group.runs)})" for group in groups if len(group.runs) < FEW_SEEDS]
    if few:
        told.append(f"fewer than {FEW_SEEDS} seeds: {', '.join(few)}")
    made = [run.environment for group in groups for run in group.runs]
    if dirty := sum(bool(record.get("dirty")) for record in made):
        told.append(f"{dirty} of {len(made)} runs were made from source with changes that no commit holds")
    if (commits := len({record.get("commit") for record in made})) > 1:
        told.append(f"the runs were made at {commits} different commits")
    return told


def used(groups: Sequence[Group]) -> list[Used]:
    """What each label has used at the end of its runs."""
    rows = []
    for group in groups:
        rows.append(Used(
            group.label,
            _means([run.marks[-1].meters for run in group.runs], BUDGETABLE),
            _means([run.evaluation for run in group.runs if run.evaluation], list(METERS)),
        ))  # fmt: skip
    return rows


def columns(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """The meters that one of the rows has used, in the ledger's order."""
    having = {meter for row in rows for meter, amount in row.items() if amount > 0}
    return [meter for meter in METERS if meter in having]


def environments(runs: Sequence[Run]) -> list[tuple[Mapping[str, Any], list[Run]]]:
    """Machines and versions that differ, each with its runs. Times, commits and the state of the source are told by run."""
    found: dict[str, tuple[Mapping[str, Any], list[Run]]] = {}
    for run in runs:
        lasting = {key: value for key, value in run.environment.items() if key not in OF_A_RUN}
        found.setdefault(canonical(lasting), (lasting, []))[1].append(run)
    return [found[key] for key in sorted(found)]


def bibtex(groups: Sequence[Group]) -> str:
    """Entries for the harness and for the papers of the methods that are installed, by arXiv number where they name one."""
    versions = sorted({run.environment.get("harness", "") for group in groups for run in group.runs} - {""})
    note = f",\n  version = {{{', '.join(versions)}}}" if versions else ""
    entries = [f"@software{{distillation_harness,\n  title = {{distillation-harness}}{note}\n}}"]
    for method in sorted({group.first.method for group in groups}):
        if paper := _paper(method):
            arxiv = re.search(r"\d{4}\.\d{4,5}", paper)
            where = f",\n  eprint = {{{arxiv[0]}}},\n  archiveprefix = {{arXiv}}" if arxiv else ""
            entries.append(f"@misc{{{method},\n  note = {{{paper}}}{where}\n}}")
    return "\n\n".join(entries) + "\n"


def slug(text: str) -> str:
    """Text as part of an anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _paper(method: str) -> str:
    try:
        return registry.method(method).paper
    except SpecError:  # a run can be read where its method is not
        return ""


def _means(readings: Sequence[Mapping[str, float]], meters: Sequence[str]) -> dict[str, float]:
    return {meter: fmean(each.get(meter, 0) for each in readings) for meter in meters} if readings else {}

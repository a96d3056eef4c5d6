"""Examples for the report page: the same few items for all methods, and a training prompt of each method.

They are chosen by a rule and not by hand, and long texts are cut: the page says where the rest lies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.report.page_data import Group, SuiteData
from harness.report.runs import TEACHER, Run
from harness.store import mark_stem, read_lines, suite_stem

BEST, WORST, MEDIAN = 3, 3, 2
"""Items shown of a suite: those that changed most for the better and for the worse, and those in the middle."""
TEXT_BYTES = 1_200_000
"""What all texts of examples may take of the page, so that it stays below its limit whatever the models wrote."""
SHORTEST, LONGEST = 120, 2_000
"""Characters after which a text is cut: no fewer, no more."""
ROLLOUTS, VERDICTS = 8, 4
"""Shown of a group of rollouts, and of what was said of an answer."""
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
LONE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Reply:
    """One answer to an item, with what was said of it."""

    who: str
    run: Run
    mark: str
    score: float | None
    change: float | None
    """From the same run's mark 0; none for the references."""
    text: str
    verdicts: tuple[tuple[str, str], ...]
    """Of each verdict its subkey with the score or status, and the judge's raw reply."""


@dataclass(frozen=True)
class Example:
    """An item and everybody's answers to it."""

    item: str
    why: str
    change: float
    """Mean over all runs of the change from mark 0 to the last mark."""
    question: str
    reference: str
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Training:
    """A group of rollouts as the run kept it."""

    label: str
    run: Run
    prompt_id: str
    fate: str
    question: str
    rollouts: tuple[tuple[str, str], ...]
    """Text, and its signals in words."""
    more: int
    """Rollouts of the group beyond those shown."""
    rubric: tuple[tuple[str, str, str], ...]
    """Points, criterion, and a tick or a cross for each rollout shown."""
    note: str
    """What else the method kept, as JSON."""


def clean(text: str) -> str:
    """Text of a model without control and bidirectional characters; line breaks and tabs stay."""
    return LONE.sub("\ufffd", UNSAFE.sub("", text))


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes as they stand in HTML, then how many characters are left out."""
    from markupsafe import escape

    text = clean(text)
    size = len(str(escape(text)).encode())
    if size <= limit:
        return text
    kept = text[: max(len(text) * limit // size, 1)]
    return f"{kept} [… {len(text) - len(kept):,} more characters]"


def limit_for(examples: Sequence[Example], trainings: Sequence[Training]) -> int:
    """The length after which a text is cut, so that all of them together keep to `TEXT_BYTES`."""
    texts = sum(2 + sum(1 + len(reply.verdicts) for reply in example.replies) for example in examples)
    texts += sum(2 + len(training.rollouts) + len(training.rubric) for training in trainings)
    return min(max(TEXT_BYTES // max(texts, 1), SHORTEST), LONGEST)


def examples(suite: SuiteData) -> list[Example]:
    """The items of a suite whose mean change over all runs is the best, the worst and in the middle.

    Shown are the answers of each label's lowest seed at its last mark, and of the student and teacher of the first run. Runs
    that keep no answers have no examples.
    """
    shown = [(row.label, suite.field.groups[row.label][0], row.mark) for row in suite.board.rows]
    chosen = _chosen(suite)
    first = next((run for _, run, _ in shown if (_folder(run, suite) / "items.jsonl").is_file()), None)
    if first is None or not chosen:
        return []
    asked = {row["id"]: row for row in read_lines(_folder(first, suite) / "items.jsonl")}
    references = [("student", first, "0"), (TEACHER, first, TEACHER)]
    told: dict[str, list[Reply]] = {item: [] for item in chosen}
    for who, run, mark in [*(each for each in references if each[2] in run_marks(first, suite)), *shown]:
        for item, reply in _replies(who, run, suite, mark, set(chosen)):
            told[item].append(reply)
    return [
        Example(item, why, change, _question(asked[item]), asked[item].get("reference") or "", tuple(told[item]))
        for item, (why, change) in chosen.items() if item in asked
    ]  # fmt: skip


def run_marks(run: Run, suite: SuiteData) -> set[str]:
    """The marks at which the suite scored the run, the teacher's among them."""
    return set(run.scores[suite.name])


def trainings(groups: Sequence[Group]) -> list[Training]:
    """For each label whose runs keep rollouts the first group that was trained on, of its lowest seed."""
    found = []
    for group in groups:
        rows = read_lines(group.first.path / "rollouts.jsonl")
        row = next((row for row in rows if row.get("fate", "trained") == "trained"), None)
        if row is not None:
            found.append(_training(group.label, group.first, row))
    return found


def _training(label: str, run: Run, row: Mapping[str, Any]) -> Training:
    note = dict(row["note"])
    shown = row["rollouts"][:ROLLOUTS]
    rollouts = []
    for place, rollout in enumerate(shown):
        named = {name.removesuffix("_N").replace("_", " "): values[place] for name, values in row["signal"].items()}
        rollouts.append((rollout["text"], ", ".join(f"{name} {_short(value)}" for name, value in named.items())))
    rubric = []
    if "rubric" in note and "verdicts" in note:
        criteria, verdicts = note.pop("rubric"), note.pop("verdicts")
        for place, criterion in enumerate(criteria):
            ticks = " ".join("✓" if verdict[place] else "✗" for verdict in verdicts[: len(shown)])
            rubric.append((f"{criterion['points']}", criterion["criterion"], ticks))
    return Training(
        label, run, row["prompt_id"], row.get("fate", "trained"), row["messages"][-1]["content"], tuple(rollouts),
        len(row["rollouts"]) - len(shown), tuple(rubric),
        json.dumps(note, indent=1, sort_keys=True, ensure_ascii=False) if note else "",
    )  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else json.dumps(value)


def _chosen(suite: SuiteData) -> dict[str, tuple[str, float]]:
    """Item: why it is shown, and its mean change over all runs; in the order best, middle, worst."""
    changes: list[dict[str, float]] = []
    for label, group in suite.field.groups.items():
        for run in group:
            if "0" in run.scores[suite.name]:
                start, now = run.items(suite.name, "0"), run.items(suite.name, suite.field.ends[label])
                changes.append({item: now[item] - start[item] for item in now if item in start})
    if not changes:
        return {}
    shared = set.intersection(*map(set, changes))
    means = {item: fmean(change[item] for change in changes) for item in shared}
    order = sorted(means, key=lambda item: (-means[item], item))
    middle = len(order) // 2 - MEDIAN // 2
    parts = [("best change", order[:BEST]), ("median change", order[middle : middle + MEDIAN]), ("worst change", order[-WORST:])]
    chosen: dict[str, tuple[str, float]] = {}
    for why, items in parts:
        for item in items:
            chosen.setdefault(item, (why, means[item]))
    return chosen


def _folder(run: Run, suite: SuiteData) -> Path:
    return run.path / "suites" / suite_stem(suite.name)


def _question(row: Mapping[str, Any]) -> str:
    return "\n\n".join([row["question"], *row.get("follow_ups", ())])


def _replies(who: str, run: Run, suite: SuiteData, mark: str, items: set[str]) -> Iterator[tuple[str, Reply]]:
    stem = f"{mark_stem(mark)}.{run.scores[suite.name][mark]['headline']}.jsonl"
    verdicts: dict[str, list[tuple[str, str]]] = {}
    for row in read_lines(_folder(run, suite) / "records" / stem):
        if row["item_id"] in items:
            said = row["status"] if row["score"] is None else f"{row['score']:.3f}"
            verdicts.setdefault(row["item_id"], []).append((f"{row['subkey']} {said}".strip(), row["raw"] or ""))
    scores = run.items(suite.name, mark)
    start = run.items(suite.name, "0") if "0" in run_marks(run, suite) and mark not in ("0", TEACHER) else {}
    seen = set()
    for row in read_lines(_folder(run, suite) / "answers" / stem):
        item = row["item_id"]
        if item in items and item not in seen:  # of several samples the first is shown
            seen.add(item)
            score = scores.get(item)
            change = score - start[item] if score is not None and item in start else None
            text = "\n\n".join([row["text"], *row.get("later", ())])
            yield item, Reply(who, run, mark, score, change, text, tuple(islice(verdicts.get(item, []), VERDICTS)))

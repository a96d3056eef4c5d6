"""Suites at a mark, off the clock: the student's answers, their grades, and files in the field's formats."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.answering import ServedWriter, answer_all, conversation, whole
from harness.store import RunStore, canonical, json_text, mark_stem, write_atomically
from harness.suite import Suite, flags_of
from harness.types import Answer, Failure, Item, Metric, Record

if TYPE_CHECKING:
    from pathlib import Path

    from harness.assemble import Assembled


def evaluate(run: Assembled, store: RunStore, name: str, mark: str) -> dict[str, Any]:
    """Scores the current weights on a suite at a mark; what is on file already is not done again.

    Returns the metrics by decoding ("greedy", "t1" ...; the first is the headline), with the embedded world's own grading
    as `gold` where the track records it, and the paired change from mark 0.
    """
    path = scores_path(store, name, mark)
    if path.exists():
        return stored(store, name, mark)
    suite, settings = run.suites[name], run.track.evaluation
    items = suite.items()
    ways = decodings(items, settings.temperatures)
    result: dict[str, Any] = {**head(run, name, mark), "headline": next(iter(ways))}
    with run.ledger.off_the_clock():
        for how, temperature in ways.items():
            answers = whole(
                answer_all(items, run.writer, temperature=temperature, max_tokens=settings.max_tokens, seed=settings.seed,
                           samples=suite.samples), "the student",
            )  # fmt: skip
            result[how] = graded(run, store, name, answers, mark, how, export=how == result["headline"])
    how = result["headline"]
    start, now = (item_scores(store.evaluation(name), at, how) for at in ("0", mark))
    paired = [now[item] - start[item] for item in now if item in start]
    result["change"] = asdict(mean_metric(paired, len(items)))
    write_atomically(path, json_text(result))
    return result


def evaluate_teacher(run: Assembled, store: RunStore, name: str) -> dict[str, Any]:
    """Scores the teacher as a contestant by its own greedy answers. One it could not give leaves it unscored."""
    path = scores_path(store, name, "teacher")
    if path.exists():
        return stored(store, name, "teacher")
    suite, settings = run.suites[name], run.track.evaluation
    items = suite.items()
    result = {**head(run, name, "teacher"), "headline": "greedy"}
    with run.ledger.off_the_clock():
        answers: Sequence[Answer | Failure] = [Failure("refused", "no teacher, or a server, which tells no likelihoods")]
        if "teacher" in run.clients and not any(item.continuations or item.plain for item in items):
            answers = answer_all(items, ServedWriter(run.clients["teacher"]), temperature=0.0, max_tokens=settings.max_tokens,
                                 seed=settings.seed, samples=suite.samples)  # fmt: skip
        found = [answer for answer in answers if isinstance(answer, Answer)]
        result["unanswered"] = len(items) * suite.samples - len(found)
        if not result["unanswered"]:
            result["greedy"] = graded(run, store, name, found, "teacher", "greedy", export=True)
    write_atomically(path, json_text(result))
    return result


ENDS = ("0", "1")


def due(suites: Iterable[str], at_ends: Collection[str], mark: str) -> list[str]:
    """The suites that are scored at a mark; those of `at_ends` only at the first and the last one."""
    return [name for name in suites if name not in at_ends or mark in ENDS]


def scored(store: RunStore, name: str, mark: str) -> bool:
    """Whether a mark (or "teacher") has its scores on a suite on file."""
    return scores_path(store, name, mark).exists()


def stored(store: RunStore, name: str, mark: str) -> dict[str, Any]:
    """The scores on file of a suite at a mark (or of the "teacher")."""
    return json.loads(scores_path(store, name, mark).read_text(encoding="utf-8"))


def scores_path(store: RunStore, name: str, mark: str) -> Path:
    """Where the scores of a suite at a mark lie."""
    return store.evaluation(name) / "marks" / f"{mark_stem(mark)}.json"


def head(run: Assembled, name: str, mark: str) -> dict[str, Any]:
    """What the scores of a suite at a mark begin with."""
    suite = run.suites[name]
    return {
        "schema": "harness.scores/1", "suite": name, "version": suite.version, "data": suite.data_hash, "metric": suite.metric,
        "scale": list(suite.scale), "n": len(suite.items()), "mark": mark,
        "judge": run.judge.id if run.judge and suite.needs_judge else None,
    }  # fmt: skip


def decodings(items: Sequence[Item], temperatures: Sequence[float]) -> dict[str, float]:
    """How a suite's items are answered, the headline first: the names of decodings with their temperatures.

    Where the protocol sets the temperatures itself, or reads likelihoods, there is one way alone.
    """
    if any(item.temperature is not None for item in items):
        return {"protocol": temperatures[0]}
    if any(item.continuations for item in items):
        return {"likelihood": 0.0}
    return {decoding(temperature): temperature for temperature in temperatures}


def decoding(temperature: float) -> str:
    """The short name of a decoding: "greedy", or "t1" for temperature 1."""
    return "greedy" if temperature == 0 else f"t{temperature:g}"


def item_scores(folder: Path, mark: str, how: str) -> dict[str, float]:
    """The stored headline score of each item at a mark, from a suite's folder in a run."""
    return json.loads((folder / "items" / f"{mark_stem(mark)}.{how}.json").read_text(encoding="utf-8"))


def graded(
    run: Assembled, store: RunStore, name: str, answers: Sequence[Answer], mark: str, how: str, export: bool = False
) -> dict[str, Any]:
    """Grades answers to all items and keeps answers, verdicts and item scores under mark and decoding; returns the metrics.

    Args:
        export: also write the field's own files.
    """
    suite, folder, stem = run.suites[name], store.evaluation(name), f"{mark_stem(mark)}.{how}"
    if not (folder / "items.jsonl").exists():
        write_items(folder, suite)
    write_lines(folder / "answers" / f"{stem}.jsonl", answers)
    records = suite.grade(answers, run.judge if suite.needs_judge else None)
    result = keep(folder, stem, suite, answers, records)
    if export:
        exported = folder / "export" / mark_stem(mark)
        shutil.rmtree(exported, ignore_errors=True)
        suite.export(exported, answers, records, f"{store.spec.method}-s{store.spec.seed}" if mark != "teacher" else "teacher")
    if run.gold is not None:
        found = [
            run.gold(conversation(item, answer.replies[:turn]), reply)
            for item, answer in suite.paired(answers) if not item.continuations
            for turn, reply in enumerate(answer.replies)
        ]  # fmt: skip
        result["gold"] = asdict(mean_metric([score for score in found if score is not None], len(found)))
    return result


def keep(folder: Path, stem: str, suite: Suite, answers: Sequence[Answer], records: Sequence[Record]) -> dict[str, Any]:
    """Writes verdicts and item scores; returns the metrics, what is wrong with the answers, and what is missing and why."""
    write_lines(folder / "records" / f"{stem}.jsonl", records)
    scores = linearised(suite.item_scores(records), suite.item_weights(records))
    write_atomically(folder / "items" / f"{stem}.json", canonical(scores) + "\n")
    result: dict[str, Any] = {key: asdict(metric) for key, metric in suite.aggregate(records).items()}
    result["truncated"] = sum(answer.finish == "length" for answer in answers)
    result["empty"] = sum("empty" in flags_of(answer) for answer in answers)
    result["tokens"] = sum(answer.tokens for answer in answers) / max(len(answers), 1)
    result["lost"] = dict(Counter(record.status for record in records if record.score is None))
    return result


def linearised(scores: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Item scores whose plain mean is the weighted mean R of the given ones: R + (w / mean w) (s - R).

    They carry a ratio's sampling variance to first order, so that means, paired differences and intervals over items need
    know nothing of weights (Cochran 1977, Sampling Techniques, section 2.11). Without weights they are the scores.
    """
    if not weights or not scores:
        return dict(scores)
    total = sum(weights[item] for item in scores)
    ratio, mean = sum(weights[item] * score for item, score in scores.items()) / total, total / len(scores)
    return {item: ratio + weights[item] / mean * (score - ratio) for item, score in scores.items()}


def write_items(folder: Path, suite: Suite) -> None:
    """`items.jsonl`: what was asked, with references and categories."""
    write_atomically(folder / "items.jsonl", "".join(
        canonical({"id": item.id, "question": item.question, "reference": item.reference, "category": item.category,
                   "follow_ups": item.follow_ups}) + "\n"
        for item in suite.items()
    ))  # fmt: skip


def mean_metric(scores: Sequence[float], asked: int) -> Metric:
    """The mean with its standard error over items."""
    n = len(scores)
    if n == 0:
        return Metric(None, None, 0, asked)
    mean = sum(scores) / n
    spread = (sum((score - mean) ** 2 for score in scores) / (n - 1) / n) ** 0.5 if n > 1 else None
    return Metric(mean, spread, n, asked - n)


def write_lines(path: Path, rows: Sequence[Answer] | Sequence[Record]) -> None:
    """A line a row."""
    write_atomically(path, "".join(canonical(asdict(row)) + "\n" for row in rows))

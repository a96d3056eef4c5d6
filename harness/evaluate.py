"""Suites at a mark, off the clock: the student's answers, their grades, and files in the field's formats."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.store import RunStore, canonical, json_text, mark_stem, write_atomically
from harness.types import Answer, Item, Metric, Prompt, Sampling

if TYPE_CHECKING:
    from pathlib import Path

    from harness.assemble import Assembled


def evaluate(run: Assembled, store: RunStore, name: str, mark: str) -> dict[str, Any]:
    """Scores the current weights on a suite at a mark; what is on file already is not done again.

    Returns the metrics by decoding ("greedy", "t1" ...; the track's first is the headline), with the embedded world's
    own grading as `gold` where the track records it, and the paired change from mark 0.
    """
    path = scores_path(store, name, mark)
    if path.exists():
        return stored(store, name, mark)
    suite = run.suites[name]
    items = suite.items()
    result: dict[str, Any] = head(run, name, mark, len(items))
    with run.ledger.off_the_clock():
        for temperature in run.track.evaluation.temperatures:
            answers = _student_answers(run, items, temperature)
            result[decoding(temperature)] = graded(run, store, name, items, answers, mark, decoding(temperature))
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
    items = run.suites[name].items()
    result = head(run, name, "teacher", len(items))
    with run.ledger.off_the_clock():
        texts = run.teacher.solutions([Prompt(item.id, item.messages, source=name) for item in items])
        answers = [Answer(item.id, text, "stop", 0) for item, text in zip(items, texts, strict=True) if isinstance(text, str)]
        result["unanswered"] = len(items) - len(answers)
        if not result["unanswered"]:
            result["greedy"] = graded(run, store, name, items, answers, "teacher", "greedy")
    write_atomically(path, json_text(result))
    return result


def scored(store: RunStore, name: str, mark: str) -> bool:
    """Whether a mark (or "teacher") has its scores on a suite on file."""
    return scores_path(store, name, mark).exists()


def stored(store: RunStore, name: str, mark: str) -> dict[str, Any]:
    """The scores on file of a suite at a mark (or of the "teacher")."""
    return json.loads(scores_path(store, name, mark).read_text(encoding="utf-8"))


def scores_path(store: RunStore, name: str, mark: str) -> Path:
    """Where the scores of a suite at a mark lie."""
    return store.evaluation(name) / "marks" / f"{mark_stem(mark)}.json"


def head(run: Assembled, name: str, mark: str, n: int) -> dict[str, Any]:
    """What the scores of a suite at a mark begin with, over n items."""
    suite = run.suites[name]
    return {
        "schema": "harness.scores/1", "suite": name, "version": suite.version, "metric": suite.metric, "n": n, "mark": mark,
        "headline": decoding(run.track.evaluation.temperatures[0]), "judge": run.judge.id if suite.needs_judge else None,
    }  # fmt: skip


def decoding(temperature: float) -> str:
    """The short name of a decoding: "greedy", or "t1" for temperature 1."""
    return "greedy" if temperature == 0 else f"t{temperature:g}"


def item_scores(folder: Path, mark: str, how: str) -> dict[str, float]:
    """The stored headline score of each item at a mark, from a suite's folder in a run."""
    return json.loads((folder / "items" / f"{mark_stem(mark)}.{how}.json").read_text(encoding="utf-8"))


def _student_answers(run: Assembled, items: Sequence[Item], temperature: float) -> list[Answer]:
    sampling = Sampling(temperature, run.track.evaluation.max_tokens)
    prompts = [run.encode(item.messages) for item in items]
    keys = [("evaluate", run.track.evaluation.seed, item.id, f"{temperature:g}") for item in items]
    written = run.generator.generate(prompts, sampling, keys)
    return [
        Answer(item.id, run.decode(reply.tokens), reply.finish, len(reply.tokens))
        for item, reply in zip(items, written, strict=True)
    ]


def graded(
    run: Assembled, store: RunStore, name: str, items: Sequence[Item], answers: Sequence[Answer], mark: str, how: str
) -> dict[str, Any]:
    """Grades answers to all items and keeps answers, verdicts and item scores under mark and decoding; returns the metrics."""
    suite, folder, stem = run.suites[name], store.evaluation(name), f"{mark_stem(mark)}.{how}"
    records = suite.grade(answers, run.judge if suite.needs_judge else None)
    metrics = suite.aggregate(records)
    if not (folder / "items.jsonl").exists():
        asked = [
            {"id": item.id, "question": Prompt(item.id, item.messages).question, "reference": item.reference,
             "category": item.category}
            for item in items
        ]  # fmt: skip
        _write_lines(folder / "items.jsonl", asked)
    _write_lines(folder / "answers" / f"{stem}.jsonl", [asdict(answer) for answer in answers])
    _write_lines(folder / "records" / f"{stem}.jsonl", [asdict(record) for record in records])
    write_atomically(folder / "items" / f"{stem}.json", canonical(suite.item_scores(records)) + "\n")
    if how == decoding(run.track.evaluation.temperatures[0]):
        exported = folder / "export" / mark_stem(mark)
        shutil.rmtree(exported, ignore_errors=True)
        suite.export(exported, answers, records, f"{store.spec.method}-s{store.spec.seed}" if mark != "teacher" else "teacher")
    result: dict[str, Any] = {key: asdict(metric) for key, metric in metrics.items()}
    if run.gold is not None:
        graded = [run.gold(item.messages, answer.text) for item, answer in zip(items, answers, strict=True)]
        result["gold"] = asdict(mean_metric([score for score in graded if score is not None], len(items)))
    lengths = [answer.tokens for answer in answers]
    result["truncated"] = sum(answer.finish == "length" for answer in answers)
    result["tokens"] = sum(lengths) / max(len(lengths), 1)
    return result


def mean_metric(scores: Sequence[float], asked: int) -> Metric:
    """The mean with its standard error over items."""
    n = len(scores)
    if n == 0:
        return Metric(None, None, 0, asked)
    mean = sum(scores) / n
    spread = (sum((score - mean) ** 2 for score in scores) / (n - 1) / n) ** 0.5 if n > 1 else None
    return Metric(mean, spread, n, asked - n)


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomically(path, "".join(canonical(row) + "\n" for row in rows))

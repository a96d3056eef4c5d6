"""The pocket suites' data files, drawn from the evaluation split: the same seed writes the same bytes.

``tune/alpaca.json`` alone is drawn from the tuning split: settings are chosen on it, and no report shows it.

``alpaca.json`` is in AlpacaEval's format; its outputs are the reference answers that candidates are compared with.
They are of middling quality, so that a win rate has room on both sides of one half. ``math.jsonl`` and
``steps.jsonl`` are for lm-eval. ``arena_hard/`` has harder instructions and a baseline's answers in Arena-Hard's formats.
``mt_bench/`` has questions of one or two turns, reference answers and judge prompts in FastChat's formats.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.seeds import python_random

from .checker import final_answer, grade, quality
from .demonstrate import criteria, demonstrate
from .judge_prompts import mt_bench_prompts
from .tasks import FOLLOW_UPS, REASONING, Task, draw, kind_of

SEED = 20261121
FOLDER = Path(__file__).parents[2] / "suites" / "data" / "pocket"
INSTRUCTION_PROMPTS = {"list": 68, "given": 68, "note": 68, "fact": 48, "refuse": 68}
"""Prompts of each kind; the world holds fewer than 64 different questions of fact in this split."""
REASONING_PROMPTS = 160
ARENA_PROMPTS = {"list": 28, "given": 24, "note": 28}
ARENA_POOL = 8
"""Prompts drawn for each one that is kept."""
ARENA_CATEGORIES = {"list": "hard_prompt", "given": "hard_prompt", "note": "creative_writing"}
MT_BENCH = {
    "list": ("list", 40), "given": ("given", 40), "note": ("writing", 16), "math": ("math", 16), "steps": ("reasoning", 16),
}  # fmt: skip
"""Category and number of the questions of each kind. Lists alone have a second turn: the world knows no follow-up on the
other kinds, and its models were never shown a fresh instruction after an answer."""
BROKEN = 0.4
"""How often a reference answer breaks each criterion."""
_PATIENCE = 200


def _distinct(rng: random.Random, kind: str, count: int, split: str = "eval") -> list[Task]:
    """Tasks of one kind with different texts.

    Raises:
        ValueError: the split does not hold that many.
    """
    found: dict[str, Task] = {}
    for _ in range(_PATIENCE * count):
        task = draw(rng, kind, split)
        found.setdefault(task.text, task)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"found {len(found)} different {kind!r} prompts in the split {split!r}, wanted {count}: ask for fewer")


def alpaca_rows(seed: int = SEED, split: str = "eval") -> list[dict[str, str]]:
    """The instructions with their reference answers, in AlpacaEval's format."""
    drawn: list[Task] = []
    for kind, count in INSTRUCTION_PROMPTS.items():
        drawn += _distinct(python_random("suite data", seed, kind), kind, count, split)
    python_random("suite data", seed, "order").shuffle(drawn)
    rows = []
    for task in drawn:
        rng = python_random("suite data", seed, "reference", task.text)
        broken = {name for name in criteria(task) if rng.random() < BROKEN}
        output = demonstrate(task, rng, broken)
        rows.append({"instruction": task.text, "output": output, "generator": "pocket-reference", "dataset": kind_of(task)})
    return rows


def reasoning_rows(kind: str, seed: int = SEED) -> list[dict[str, str]]:
    """Questions of one kind with their exact answers."""
    drawn = _distinct(python_random("suite data", seed, kind), kind, REASONING_PROMPTS)
    return [
        {"id": f"{kind}-{number:04d}", "question": task.text, "answer": final_answer(task)}  # type: ignore[arg-type]
        for number, task in enumerate(drawn, 1)
    ]


def arena_rows(seed: int = SEED) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Questions and the baseline's answers, in Arena-Hard's formats.

    Harder than `alpaca_rows` and none of them: of `ARENA_POOL` times as many drawn prompts of a kind those with the most
    criteria are kept, the longer ones first where they are equal.
    """
    easier, kept = {row["instruction"] for row in alpaca_rows(seed)}, []
    for kind, count in ARENA_PROMPTS.items():
        pool = _distinct(python_random("suite data", seed, "arena", kind), kind, ARENA_POOL * count)
        new = [task for task in pool if task.text not in easier]
        kept += sorted(new, key=lambda task: (-len(criteria(task)), -len(task.text.split()), task.text))[:count]
    python_random("suite data", seed, "arena", "order").shuffle(kept)
    questions, answers = [], []
    for number, task in enumerate(kept, 1):
        rng = python_random("suite data", seed, "arena", "baseline", task.text)
        output = demonstrate(task, rng, {name for name in criteria(task) if rng.random() < BROKEN})
        uid, kind = f"arena-{number:04d}", kind_of(task)
        questions.append({"uid": uid, "category": ARENA_CATEGORIES[kind], "subcategory": kind, "prompt": task.text})
        said = [{"role": "user", "content": task.text}, {"role": "assistant", "content": {"answer": output}}]
        answers.append({"uid": uid, "model": "pocket-baseline", "messages": said})
    return questions, answers


def mt_bench_rows(seed: int = SEED) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Questions of one or two turns, and worked answers to those with a reference, in FastChat's formats."""
    questions: list[dict[str, Any]] = []
    references: list[dict[str, Any]] = []
    for kind, (category, count) in MT_BENCH.items():
        rng = python_random("suite data", seed, "mt_bench", kind)
        for task in _distinct(rng, kind, count):
            number = len(questions) + 1
            later = [rng.choice(list(FOLLOW_UPS.values()))] if kind in ("list", "given") else []
            questions.append({"question_id": number, "category": category, "turns": [task.text, *later]})
            if kind in REASONING:
                choice = {"index": 0, "turns": [demonstrate(task, rng)]}
                row = {"question_id": number, "answer_id": f"pocket-{number}", "model_id": "pocket-reference"}
                references.append({**row, "choices": [choice], "tstamp": 0.0})
    return questions, references


def reference_quality(rows: Iterable[dict[str, str]]) -> float:
    """The mean gold quality of the reference answers, in [0, 1]."""
    scores = [quality(grade(row["instruction"], row["output"])) for row in rows]
    return sum(scores) / len(scores)


def write(folder: Path, seed: int = SEED) -> None:
    """Writes ``alpaca.json``, ``tune/alpaca.json``, ``math.jsonl``, ``steps.jsonl``, ``arena_hard/{question,baseline}.jsonl`` and
    ``mt_bench/{question,reference_answer,judge_prompts}.jsonl`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, split in ((folder / "alpaca.json", "eval"), (folder / "tune" / "alpaca.json", "tune")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(alpaca_rows(seed, split), indent=1) + "\n", encoding="utf-8")
    files: dict[str, list[Any]] = {f"{kind}.jsonl": [*reasoning_rows(kind, seed)] for kind in REASONING}
    files["arena_hard/question.jsonl"], files["arena_hard/baseline.jsonl"] = arena_rows(seed)
    files["mt_bench/question.jsonl"], files["mt_bench/reference_answer.jsonl"] = mt_bench_rows(seed)
    files["mt_bench/judge_prompts.jsonl"] = [*mt_bench_prompts()]
    for name, rows in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    print(f"wrote {FOLDER}; mean gold quality of the reference answers {reference_quality(alpaca_rows()):.3f}")

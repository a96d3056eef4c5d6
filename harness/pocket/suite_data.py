"""The pocket suites' data files, drawn from the evaluation split: the same seed writes the same bytes.

``alpaca.json`` is in AlpacaEval's format; its outputs are the reference answers that candidates are compared with.
They are of middling quality, so that a win rate has room on both sides of one half. ``math.jsonl`` and
``steps.jsonl`` are for lm-eval.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from harness.seeds import python_random

from .checker import final_answer, grade, quality
from .demonstrate import criteria, demonstrate
from .tasks import REASONING, Task, draw, kind_of

SEED = 20261121
FOLDER = Path(__file__).parents[2] / "suites" / "data" / "pocket"
INSTRUCTION_PROMPTS = {"list": 68, "given": 68, "note": 68, "fact": 48, "refuse": 68}
"""Prompts of each kind; the world holds fewer than 64 different questions of fact in this split."""
REASONING_PROMPTS = 160
BROKEN = 0.4
"""How often a reference answer breaks each criterion."""
_PATIENCE = 200


def _distinct(rng: random.Random, kind: str, count: int) -> list[Task]:
    """Tasks of one kind with different texts.

    Raises:
        ValueError: the evaluation split does not hold that many.
    """
    found: dict[str, Task] = {}
    for _ in range(_PATIENCE * count):
        task = draw(rng, kind, split="eval")
        found.setdefault(task.text, task)
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"found {len(found)} different {kind!r} prompts in the evaluation split, wanted {count}: ask for fewer")


def alpaca_rows(seed: int = SEED) -> list[dict[str, str]]:
    """The instructions with their reference answers, in AlpacaEval's format."""
    drawn: list[Task] = []
    for kind, count in INSTRUCTION_PROMPTS.items():
        drawn += _distinct(python_random("suite data", seed, kind), kind, count)
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


def reference_quality(rows: Iterable[dict[str, str]]) -> float:
    """The mean gold quality of the reference answers, in [0, 1]."""
    scores = [quality(grade(row["instruction"], row["output"])) for row in rows]
    return sum(scores) / len(scores)


def write(folder: Path, seed: int = SEED) -> None:
    """Writes ``alpaca.json``, ``math.jsonl`` and ``steps.jsonl`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "alpaca.json").write_text(json.dumps(alpaca_rows(seed), indent=1) + "\n", encoding="utf-8")
    for kind in REASONING:
        lines = "".join(json.dumps(row) + "\n" for row in reasoning_rows(kind, seed))
        (folder / f"{kind}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write(FOLDER)
    print(f"wrote {FOLDER}; mean gold quality of the reference answers {reference_quality(alpaca_rows()):.3f}")

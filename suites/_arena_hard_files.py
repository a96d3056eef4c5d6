"""Arena-Hard's files: questions, answers, and the judge's prompts. Formats of github.com/lmarena/arena-hard-auto, v2.0."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.assets import Asset, read_json_lines, read_text
from harness.errors import SuiteError
from harness.types import Message

_DATA = Path(__file__).parent / "data"
_OWN_PROMPTS = Path(__file__).parent / "prompts" / "arena_hard" / "ours.yaml"
SLOTS = ("QUESTION", "ANSWER_A", "ANSWER_B")
_SLOT = re.compile(rf"\{{({'|'.join(SLOTS)})\}}")


def _asset(what: str, file: str) -> Asset:
    return Asset(what, "lmarena-ai/arena-hard-auto", f"data/arena-hard-v2.0/{file}", "dataset", "Apache-2.0")


QUESTIONS = _asset("Arena-Hard's questions", "question.jsonl")
BASELINES = {
    category: _asset(f"Arena-Hard's baseline for {category}", f"model_answer/{model}.jsonl")
    for category, model in (("hard_prompt", "o3-mini-2025-01-31"), ("creative_writing", "gemini-2.0-flash-001"))
}
OFFICIAL_COUNTS = {"hard_prompt": 500, "creative_writing": 250}
OFFICIAL_HARD = [247, 253]
"""Of the hard prompts: mathematics and programming."""


class Question(NamedTuple):
    uid: str
    category: str
    subcategory: str
    prompt: str


class Told(NamedTuple):
    """An answer on file."""

    uid: str
    model: str
    text: str
    tokens: int


class Prompts(NamedTuple):
    """What the judge is told."""

    system: dict[str, str]
    """By category."""
    template: str

    def messages(self, category: str, question: str, a: str, b: str) -> tuple[Message, ...]:
        """The slots are filled in one pass, so no text can open another slot."""
        texts = dict(zip(SLOTS, (question, a, b), strict=True))
        said = _SLOT.sub(lambda slot: texts[slot[1]], self.template)
        return {"role": "system", "content": self.system[category]}, {"role": "user", "content": said}


def _question(row: dict[str, Any], where: str) -> Question:
    match row:
        case {"uid": str(uid), "category": str(category), "prompt": str(prompt)} if uid and category and prompt:
            return Question(uid, category, str(row.get("subcategory", "")), prompt)
    raise SuiteError(f"no question: its keys are {sorted(row)}", where=where, fix="give uid, category and prompt, texts all")


def _told(row: dict[str, Any], where: str) -> Told:
    match row:
        case {"uid": str(uid), "model": str(model),
              "messages": [*_, {"role": "assistant", "content": {"answer": str(text)} | str(text)}]}:  # fmt: skip
            pass
        case {"question_id": str(uid), "model_id": str(model), "choices": [{"turns": [{"content": str(text)} | str(text)]}]}:
            pass
        case _:
            raise SuiteError(
                f"no answer of one turn with a text: its keys are {sorted(row)}", where=where,
                fix="give uid, model and messages, the last {role: assistant, content: {answer: TEXT}}; "
                "or question_id, model_id and choices: [{turns: [{content: TEXT}]}]",
            )  # fmt: skip
    match row:
        case {"metadata": {"token_len": int(tokens)}}:
            return Told(uid, model, text, tokens)
    return Told(uid, model, text, 0)


def read_answers(path: Path) -> dict[str, Told]:
    """The answers of a `model_answer` file, of v2.0 (`messages`) or older (`choices`).

    Raises:
        SuiteError: it is not of that format, or answers a question twice.
    """
    rows = [_told(row, f"{path}, row {number}") for number, row in enumerate(read_json_lines(path), 1)]
    found = {row.uid: row for row in rows}
    if len(found) < len(rows):
        raise SuiteError(f"{len(rows) - len(found)} of {len(rows)} answers repeat a uid", where=str(path), fix="keep one of each")
    return found


def read_questions(name: str) -> list[Question]:
    """The questions of a file in the format of the official one, or of "official" itself.

    Raises:
        SuiteError: it is not of that format, is empty, repeats a uid, or is not what is known of the official one.
    """
    path = QUESTIONS.path() if name == "official" else _DATA / name
    rows = [_question(row, f"{path}, row {number}") for number, row in enumerate(read_json_lines(path), 1)]
    repeated = len(rows) - len({row.uid for row in rows})
    if repeated or not rows:
        raise SuiteError(f"{repeated} of {len(rows)} questions repeat a uid" if rows else "no questions in it", where=str(path),
                         fix="give a question a line, each with a uid of its own")  # fmt: skip
    counts = dict(Counter(row.category for row in rows))
    hard = sorted(Counter(row.subcategory for row in rows if row.category == "hard_prompt").values())
    if name == "official" and (counts, hard) != (OFFICIAL_COUNTS, OFFICIAL_HARD):
        raise SuiteError(
            f"not Arena-Hard v2.0: by category {counts}, hard prompts by subcategory {hard}; "
            f"official are {OFFICIAL_COUNTS} and {OFFICIAL_HARD}",
            where=str(path), fix="fetch it again, or name it as your own: --set questions=PATH",
        )  # fmt: skip
    return rows


def read_baseline(name: str, questions: Sequence[Question]) -> dict[str, Told]:
    """The answer to beat, by uid: of a file, or "official", where each category has a model of its own.

    Raises:
        SuiteError: an answer is missing, or a category has no official baseline.
    """
    categories = dict.fromkeys(row.category for row in questions)
    if name != "official":
        answers = dict.fromkeys(categories, read_answers(_DATA / name))
    elif strange := sorted(categories.keys() - BASELINES.keys()):
        raise SuiteError(f"no official baseline for {', '.join(strange)}, only for {', '.join(BASELINES)}", where="baseline",
                         fix="name a model_answer file: --set baseline=PATH")  # fmt: skip
    else:
        answers = {category: read_answers(BASELINES[category].path()) for category in categories}
    absent = [row.uid for row in questions if row.uid not in answers[row.category]]
    if absent:
        raise SuiteError(f"the baseline lacks {len(absent)} of {len(questions)} answers, for example to {absent[0]!r}",
                         where="baseline", fix="name a model_answer file with all of them: --set baseline=PATH")  # fmt: skip
    return {row.uid: answers[row.category][row.uid] for row in questions}


def read_prompts(name: str, categories: Collection[str]) -> Prompts:
    """The judge's prompts: "ours", or those of a YAML or JSON file of the same form.

    Raises:
        SuiteError: it is not of that form, or has no system prompt for a category.
    """
    import yaml

    path = _OWN_PROMPTS if name == "ours" else _DATA / name
    try:
        value = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise SuiteError(f"not YAML or JSON: {' '.join(str(error).split())}", where=str(path)) from error
    match value:
        case {"system": dict(system), "template": str(template), **more}:
            whole = not more and sorted(_SLOT.findall(template)) == sorted(SLOTS)
            if whole and all(isinstance(text, str) for text in system.values()):
                if absent := sorted(set(categories) - system.keys()):
                    raise SuiteError(f"no system prompt for {', '.join(absent)}", where=str(path), fix="add them below `system`")
                return Prompts(system, template)
    raise SuiteError("not a file of prompts", where=str(path), fix="give `system`, a text for each category, and `template` with "
                     + ", ".join(f"{{{slot}}}" for slot in SLOTS) + " once each; nothing else")  # fmt: skip

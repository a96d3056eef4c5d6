"""FastChat's files of MT-Bench: questions, reference answers, judge prompts and models' answers.

Formats: lm-sys/FastChat, `fastchat/llm_judge`. The official copies are found as assets and checked by their content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from harness.assets import Asset, content_hash, read_json_lines
from harness.errors import SuiteError
from harness.suite import ChatRequest
from harness.types import Message

REFERENCED = ("math", "reasoning", "coding")
"""Categories whose answers are judged beside a reference answer."""
PROMPTS = tuple(
    f"{name}{turns}" for name in ("single-v1", "single-math-v1", "pair-v2", "pair-math-v1") for turns in ("", "-multi-turn")
)

_DATA = Path(__file__).parent / "data"
_HUB: dict[str, tuple[Asset, str]] = {
    name: (Asset(what, "lmsys/mt-bench", file, "space", "Apache-2.0"), content)
    for name, what, file, content in (
        ("questions", "the questions of MT-Bench", "data/mt_bench/question.jsonl", "7806f4b5e1fd92de"),
        ("references", "the reference answers of MT-Bench", "data/mt_bench/reference_answer/gpt-4.jsonl", "5b7d7fadcf617132"),
        ("prompts", "the judge prompts of MT-Bench", "data/judge_prompts.jsonl", "daf47348c52737f8"),
    )
}
_Id = int | str


class _QuestionRow(BaseModel):
    question_id: _Id
    category: str
    turns: list[str] = Field(min_length=1, max_length=2)


class _Choice(BaseModel):
    turns: list[str]


class _AnswerRow(BaseModel):
    question_id: _Id
    choices: list[_Choice] = Field(min_length=1)


class _PromptRow(BaseModel):
    name: str
    system_prompt: str
    prompt_template: str
    output_format: str


@dataclass(frozen=True)
class Question:
    id: _Id
    category: str
    turns: tuple[str, ...]
    """One or two."""

    @property
    def referenced(self) -> bool:
        """Whether its answers are judged beside a reference answer."""
        return self.category in REFERENCED


@dataclass(frozen=True)
class JudgePrompt:
    name: str
    system: str
    template: str
    output_format: str

    def request(self, slots: Mapping[str, str]) -> ChatRequest:
        """All slots are filled in one pass, so no text can open another slot. Greedy, at most 2048 tokens, as FastChat asks."""
        system: tuple[Message, ...] = ({"role": "system", "content": self.system},) if self.system else ()
        return ChatRequest((*system, {"role": "user", "content": self.template.format_map(slots)}))


def prompt_name(mode: str, referenced: bool, turn: int) -> str:
    """FastChat's name of the prompt for a turn of a question."""
    kind = {"single": ("single-v1", "single-math-v1"), "pairwise": ("pair-v2", "pair-math-v1")}[mode][referenced]
    return kind if turn == 1 else f"{kind}-multi-turn"


def slots(question: Question, turn: int, answers: Mapping[str, Sequence[str]], reference: Sequence[str]) -> dict[str, str]:
    """What is filled into the prompt for a turn.

    Args:
        answers: replies by the mark of who gave them: "" for one alone, "_a" and "_b" for two.
        reference: the reference answers; empty where the category has none.
    """
    if turn == 1:
        filled = {"question": question.turns[0], **{f"answer{who}": replies[0] for who, replies in answers.items()}}
    else:
        filled = {f"question_{n}": text for n, text in enumerate(question.turns, 1)}
        filled |= {f"answer{who}_{n}": text for who, replies in answers.items() for n, text in enumerate(replies, 1)}
    return filled | {f"ref_answer_{n}": text for n, text in enumerate(reference[:turn], 1)}


Row = TypeVar("Row", bound=BaseModel)


def read_rows(path: Path, form: type[Row]) -> list[Row]:
    """The rows of a JSONL file; keys that `form` does not name are ignored.

    Raises:
        SuiteError: it cannot be read, or a row is of another form (with its number and what is wrong).
    """
    rows = []
    for number, row in enumerate(read_json_lines(path), 1):
        try:
            rows.append(form.model_validate(row))
        except ValidationError as error:
            wrong = error.errors()[0]
            key = ".".join(map(str, wrong["loc"]))
            raise SuiteError(
                f"row {number} is not of FastChat's format: {key}: {wrong['msg']}", where=str(path),
                fix=f"give each row the keys {', '.join(form.model_fields)}",
            ) from error  # fmt: skip
    return rows


def read_questions(source: str) -> list[Question]:
    """The questions of a file in their order.

    Args:
        source: "official", or a path; a relative one is taken below `suites/data/`.

    Raises:
        SuiteError: no such file, another format, a repeated id, or "official" ones that differ from FastChat's.
    """
    path = _place("questions", source)
    found = [Question(row.question_id, row.category, tuple(row.turns)) for row in read_rows(path, _QuestionRow)]
    repeated = [key for key, count in Counter(str(question.id) for question in found).items() if count > 1]
    if not found or repeated:
        wrong = f"repeats the question_id {repeated[0]}" if repeated else "holds no question"
        raise SuiteError(f"{path} {wrong}", where="questions", fix="keep one row a question")
    _check("questions", source, path, [[question.id, question.category, question.turns] for question in found])
    return found


def read_references(source: str, questions: Sequence[Question]) -> dict[str, tuple[str, ...]]:
    """The reference answers, one a turn, of those questions whose category has them, by id.

    Raises:
        SuiteError: one is missing, or as for `read_questions`.
    """
    wanted = [question for question in questions if question.referenced]
    if not wanted:
        return {}
    path = _place("references", source)
    found = read_answers(path, wanted, others=True)
    _check("references", source, path, [[question.id, found[str(question.id)]] for question in wanted])
    return found


def read_prompts(source: str, slots: Mapping[str, set[str]]) -> dict[str, JudgePrompt]:
    """The judge prompts that are needed, by name.

    Args:
        slots: what each of them must have a place for.

    Raises:
        SuiteError: one is missing or has other slots, or as for `read_questions`.
    """
    path = _place("prompts", source)
    rows = {row.name: row for row in read_rows(path, _PromptRow)}
    official = [row.model_dump() for row in (rows[name] for name in PROMPTS if name in rows)]
    _check("prompts", source, path, [[row[key] for key in _PromptRow.model_fields] for row in official])
    found = {}
    for name, wanted in slots.items():
        if name not in rows:
            raise SuiteError(f"{path} has no prompt {name!r}", where="prompts", fix=f"it has: {', '.join(rows)}")
        row = rows[name]
        try:
            got = {slot for _, slot, _, _ in Formatter().parse(row.prompt_template) if slot is not None}
        except ValueError as error:
            said = f"the template of {name!r} cannot be filled: {error}"
            raise SuiteError(said, where=str(path), fix="write {{ for a brace of the text") from error
        if got != wanted:
            raise SuiteError(
                f"the prompt {name!r} has the slots {sorted(got)}, wanted are {sorted(wanted)}", where=str(path),
                fix="name each of them once in braces, and write {{ for a brace of the text",
            )  # fmt: skip
        found[name] = JudgePrompt(name, row.system_prompt, row.prompt_template, row.output_format)
    return found


def read_answers(path: Path, questions: Sequence[Question], others: bool = False) -> dict[str, tuple[str, ...]]:
    """Answers to the questions, one a turn, by id: the first choice of each row of a model_answer file.

    Args:
        others: answers to further questions are passed over instead of refused.

    Raises:
        SuiteError: answers are missing, repeated, unknown or have another number of turns (with the counts).
    """
    wanted = {str(question.id): len(question.turns) for question in questions}
    found: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    repeated: list[str] = []
    for row in read_rows(path, _AnswerRow):
        key = str(row.question_id)
        (repeated if key in found else [] if key in wanted or others else unknown).append(key)
        found[key] = tuple(row.choices[0].turns)
    missing = [key for key in wanted if key not in found]
    uneven = [key for key, turns in wanted.items() if key in found and len(found[key]) != turns]
    counts = {"missing": missing, "unknown": unknown, "repeated": repeated, "with another number of turns": uneven}
    if any(counts.values()):
        told = ", ".join(f"{len(keys)} {what}" + (f" (first {keys[0]})" if keys else "") for what, keys in counts.items())
        raise SuiteError(
            f"the answers do not fit the {len(wanted)} questions: {told}", where=str(path),
            fix="give one row a question_id, with a text for each of the question's turns",
        )  # fmt: skip
    return {key: found[key] for key in wanted}


def below_data(source: str, where: str) -> Path:
    """A path as it stands, a relative one below `suites/data/`.

    Raises:
        SuiteError: there is no such file.
    """
    path = _DATA / source
    if not path.is_file():
        known = ", ".join(sorted(str(p.relative_to(_DATA)) for p in _DATA.glob("*/mt_bench/*.jsonl"))) or "none"
        raise SuiteError(f"no file {path}", where=where, fix=f'give a path, "official", or one of the shipped files: {known}')
    return path


def _place(name: str, source: str) -> Path:
    return _HUB[name][0].path() if source == "official" else below_data(source, name)


def _check(name: str, source: str, path: Path, content: Any) -> None:
    asset, wanted = _HUB[name]
    if source == "official" and content_hash(content) != wanted:
        raise SuiteError(
            f"{path} does not hold {asset.what}: content {content_hash(content)}, wanted {wanted}", where=name,
            fix=f"take FastChat's own copy, or name the file: {name}={path}",
        )  # fmt: skip

"""MT-Bench: a judge rates the answers of both turns of a conversation, or compares them with a baseline's.

Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv:2306.05685; prompts, temperatures, reading of
verdicts and files as in lm-sys/FastChat, `fastchat/llm_judge`. One departure: a rating outside 1..10 cannot be read and is
missing here, while FastChat counts any number.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from harness.assets import content_hash
from harness.errors import SuiteError
from harness.suite import Call, ChatReply, ChatRequest, JudgedSuite, SuiteConfig
from harness.types import Answer, Item, Metric, Record, Status
from suites._mt_bench_files import (
    JudgePrompt,
    Question,
    below_data,
    prompt_name,
    read_answers,
    read_prompts,
    read_questions,
    read_references,
    slots,
)
from suites._mt_bench_judgments import GAMES, Judgment, games_row, rating_of, rating_row, read_games, read_ratings, score_of

MAX_TOKENS = 1024
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
UNKNOWN_CATEGORY = 0.7
"""The temperature of any other category."""


class Config(SuiteConfig):
    questions: str = "official"
    """A file in FastChat's format, as the next two; a relative path is taken below `suites/data/`. "official": from the hub."""
    references: str = "official"
    """Reference answers to the questions of the categories math, reasoning and coding."""
    prompts: str = "official"
    temperatures: Literal["protocol", "run"] = "protocol"
    """FastChat's temperature for each category and at most 1024 tokens a turn, or what the run sets for all its suites."""
    mode: Literal["single", "pairwise"] = "single"
    baseline: str | None = None
    """A model_answer file whose answers a pairwise comparison is made with; its stem is the baseline's name."""

    @model_validator(mode="after")
    def baseline_belongs_to_pairs(self) -> Config:
        """A comparison needs a baseline, and a rating has no use for one."""
        if (self.mode == "pairwise") != (self.baseline is not None):
            raise ValueError(f"mode {self.mode} {'needs' if self.baseline is None else 'takes no'} baseline")
        return self


class Row(NamedTuple):
    """What the protocol counts: one verdict on one turn."""

    item_id: str
    turn: str
    score: float | None


def mean_of_rows(rows: Sequence[Row]) -> Metric:
    """The mean over rows that have a score, with its standard error clustered by item; n and missing count rows."""
    scored = [(row.item_id, row.score) for row in rows if row.score is not None]
    n = len(scored)
    if not n:
        return Metric(None, None, 0, len(rows))
    mean = sum(score for _, score in scored) / n
    residuals: dict[str, float] = {}
    for item, score in scored:
        residuals[item] = residuals.get(item, 0.0) + score - mean
    clusters = len(residuals)
    spread = sum(residual**2 for residual in residuals.values()) * clusters / (clusters - 1) if clusters > 1 else None
    return Metric(mean, None if spread is None else spread**0.5 / n, n, len(rows) - n)


class MtBench(JudgedSuite):
    """Ratings of both turns (mode single), or games against a baseline in both orders (mode pairwise)."""

    Config = Config
    version = "1"
    metric = "rating"
    scale = (1.0, 10.0)
    summary = "mean rating of answers over two turns, 1 to 10, or win rate against a baseline (MT-Bench)"

    def __init__(self, config: SuiteConfig) -> None:
        super().__init__(config)
        if self.config.mode == "pairwise":
            self.metric, self.scale = "win_rate", (0.0, 1.0)  # type: ignore[misc]

    @cached_property
    def _questions(self) -> dict[str, Question]:
        """By item id."""
        return {f"mt-{question.id}": question for question in read_questions(self.config.questions)}

    @cached_property
    def _references(self) -> dict[str, tuple[str, ...]]:
        """By question id."""
        return read_references(self.config.references, list(self._questions.values()))

    @cached_property
    def _prompts(self) -> dict[str, JudgePrompt]:
        wanted = {}
        who = ("_a", "_b") if self._pairwise else ("",)
        for question in self._questions.values():
            for turn, _ in enumerate(question.turns, 1):
                told = dict.fromkeys(who, question.turns[:turn])
                reference = self._references.get(str(question.id), ())
                wanted[self._prompt_name(question, turn)] = set(slots(question, turn, told, reference))
        return read_prompts(self.config.prompts, wanted)

    @cached_property
    def _baseline(self) -> dict[str, tuple[str, ...]]:
        """The baseline's replies by question id; nothing in mode single."""
        if not self._pairwise:
            return {}
        return read_answers(below_data(self.config.baseline, "baseline"), list(self._questions.values()))

    @property
    def _baseline_name(self) -> str:
        return Path(self.config.baseline).stem

    @property
    def _pairwise(self) -> bool:
        return bool(self.config.mode == "pairwise")

    def _prompt_name(self, question: Question, turn: int) -> str:
        return prompt_name(self.config.mode, question.referenced, turn)

    @cached_property
    def identity(self) -> dict[str, Any]:
        prompts = {name: [prompt.system, prompt.template] for name, prompt in self._prompts.items()}
        told = {
            "mode": self.config.mode, "judge prompts": content_hash(prompts), "reference answers": content_hash(self._references),
        }  # fmt: skip
        return {**told, "baseline": content_hash(self._baseline)} if self._pairwise else told

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        protocol = self.config.temperatures == "protocol"
        found = tuple(
            Item(
                id=item_id, messages=({"role": "user", "content": question.turns[0]},), category=question.category,
                reference=self._references.get(str(question.id), (None,))[0], follow_ups=question.turns[1:],
                temperature=TEMPERATURES.get(question.category, UNKNOWN_CATEGORY) if protocol else None,
                max_tokens=MAX_TOKENS if protocol else None,
            )
            for item_id, question in self._questions.items()
        )  # fmt: skip
        _ = self._prompts, self._baseline  # whatever is wrong with them is said before anything is answered
        return found

    def items(self) -> list[Item]:
        """One a question, its id `mt-` and the question's; later turns are follow-ups."""
        return list(self._items)

    def calls(self, answers: Sequence[Answer]) -> list[Call]:
        """One a turn, `subkey` "turn1" and "turn2"; pairwise two, "turn1-12" where the candidate is shown first.

        Raises:
            SuiteError: an answer has more or fewer replies than its item has turns.
        """
        for item, answer in self.paired(answers):
            if len(answer.replies) != 1 + len(item.follow_ups):
                raise SuiteError(
                    f"{len(answer.replies)} replies to the {1 + len(item.follow_ups)} turns of {item.id}", where="answers",
                    fix="give one reply a turn",
                )  # fmt: skip
        return [
            Call(item, answer, *_names(turn, order), self._request(self._questions[item.id], answer.replies, turn, order))
            for item, answer in self.paired(answers)
            for turn, _ in enumerate(self._questions[item.id].turns, 1)
            for order in (GAMES if self._pairwise else ("",))
        ]

    def _request(self, question: Question, replies: Sequence[str], turn: int, order: str) -> ChatRequest:
        told: dict[str, Sequence[str]] = {"": replies}
        if order:
            both = {"model_1": replies, "model_2": self._baseline[str(question.id)]}
            told = {who: both[model] for who, model in zip(("_a", "_b"), GAMES[order], strict=True)}
        filled = slots(question, turn, told, self._references.get(str(question.id), ()))
        return self._prompts[self._prompt_name(question, turn)].request(filled)

    def kind(self, call: Call) -> str:
        """FastChat's name of the call's prompt."""
        return self._prompt_name(self._questions[call.item.id], _place(call.subkey)[0])

    def verdict(self, call: Call, reply: ChatReply) -> float | None:
        """A rating from 1 to 10; of a game 1 where the candidate wins, 0.5 for a tie."""
        _, order = _place(call.subkey)
        return score_of(reply.text, order) if order else rating_of(reply.text)

    def rows(self, records: Sequence[Record]) -> list[Row]:
        """What the means are over: the ratings as they are; of the two games of a turn a win where both say so, else a tie,
        and nothing where one is missing."""
        games: dict[tuple[str, str], list[float | None]] = {}
        for record in records:
            games.setdefault((record.item_id, record.subkey.partition("-")[0]), []).append(record.score)
        if not self._pairwise:
            return [Row(item, turn, score) for (item, turn), scores in games.items() for score in scores]
        return [
            Row(item, turn, None if None in scores else scores[0] if len(set(scores)) == 1 else 0.5)
            for (item, turn), scores in games.items()
        ]

    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        """The mean over the turns, of the items whose turns are all there."""
        turns: dict[str, list[float | None]] = {}
        for row in self.rows(records):
            turns.setdefault(row.item_id, []).append(row.score)
        whole = {item: [score for score in scores if score is not None] for item, scores in turns.items() if None not in scores}
        return {item: sum(scores) / len(scores) for item, scores in whole.items()}

    def item_weights(self, records: Sequence[Record]) -> dict[str, float]:
        """An item's turns: the headline is a mean over rows."""
        turns = Counter(row.item_id for row in self.rows(records))
        return {item: float(turns[item]) for item in self.item_scores(records)}

    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        """`rating` (or `win_rate`) over all rows, then `rating/turn1`, `rating/turn2` and `rating/CATEGORY`."""
        rows = self.rows(records)
        parts: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: row.turn):
            parts.setdefault(f"{self.metric}/{row.turn}", []).append(row)
        for row in rows:
            parts.setdefault(f"{self.metric}/{self._questions[row.item_id].category}", []).append(row)
        return {name: mean_of_rows(part) for name, part in {self.metric: rows, **parts}.items()}

    def read_outputs(self, path: Path) -> list[Answer]:
        """Answers from a model_answer file of FastChat: the first choice of each row, joined by question_id."""
        found = read_answers(path, list(self._questions.values()))
        replies = [found[str(question.id)] for question in self._questions.values()]
        return [Answer(item.id, texts[0], "stop", 0, texts[1:]) for item, texts in zip(self._items, replies, strict=True)]

    def read_judgments(self, path: Path) -> dict[str, list[Record]]:
        """Records by model from a model_judgment file of FastChat, for `aggregate`.

        Scores are taken as the file has them, whatever their range. Of a file of pairs, the games against the baseline.

        Raises:
            SuiteError: the file is of another format, or judges an unknown question.
        """
        found: dict[str, list[Record]] = {}
        for row in read_games(path, self._baseline_name) if self._pairwise else read_ratings(path):
            item_id = f"mt-{row.question_id}"
            if item_id not in self._questions:
                raise SuiteError(
                    f"a judgment on the unknown question_id {row.question_id}", where=str(path),
                    fix=f"name the questions it was made with: questions=PATH, not {self.config.questions}",
                )  # fmt: skip
            status: Status = "ok" if row.score is not None else "parse_failed"
            metric, subkey = _names(row.turn, row.order)
            record = Record("mt_bench", metric, item_id, subkey, row.score, status, raw=row.text, judge_id=row.judge)
            found.setdefault(row.model, []).append(record)
        return found

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """`model_answer/MODEL.jsonl` and `model_judgment/JUDGE_single.jsonl` (or `_pair`) as FastChat writes them.

        A missing rating is -1, a missing game "error". Times are 0, so that equal answers give equal files.
        """
        model, judge = _stem(generator), _stem(records[0].judge_id)
        told = [
            {
                "question_id": self._questions[item.id].id, "answer_id": content_hash([model, item.id, answer.replies]),
                "model_id": model, "choices": [{"index": 0, "turns": list(answer.replies)}], "tstamp": 0.0,
            }
            for item, answer in self.paired(answers)
        ]  # fmt: skip
        kind = "pair" if self._pairwise else "single"
        files = {
            folder / "model_answer" / f"{model}.jsonl": told,
            folder / "model_judgment" / f"{judge}_{kind}.jsonl": self._judged(self.calls(answers), records, model, judge),
        }
        for path, rows in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return list(files)

    def _judged(self, calls: Sequence[Call], records: Sequence[Record], model: str, judge: str) -> list[dict[str, Any]]:
        found = []
        for call, record in zip(calls, records, strict=True):
            turn, order = _place(call.subkey)
            found.append(Judgment(self._questions[call.item.id].id, model, judge, turn, order, record.score, record.raw))
        asked = [call.request.messages[-1]["content"] for call in calls if call.request]
        prompts = [self.kind(call) for call in calls]
        if not self._pairwise:
            return [rating_row(*each) for each in zip(found, prompts, asked, strict=True)]
        pairs = [slice(start, start + len(GAMES)) for start in range(0, len(found), len(GAMES))]
        return [games_row(found[pair], self._baseline_name, prompts[pair.start], asked[pair]) for pair in pairs]


def _names(turn: int, order: str) -> tuple[str, str]:
    """Metric and subkey of a record."""
    return ("game", f"turn{turn}-{order}") if order else ("rating", f"turn{turn}")


def _place(subkey: str) -> tuple[int, str]:
    """Turn and order that a subkey names."""
    turn, _, order = subkey.removeprefix("turn").partition("-")
    return int(turn), order


def _stem(name: str) -> str:
    """A model's name as a file name."""
    return re.sub(r"[^\w.+@-]+", "_", name)

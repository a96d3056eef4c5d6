"""Arena-Hard: a judge grades each answer against a baseline's, in two games with the answers in either order.

Protocol of Arena-Hard-Auto v2.0 (Li et al. 2024, arXiv:2406.11939; github.com/lmarena/arena-hard-auto, Apache-2.0): the five
verdicts, their weights, the two baselines and the file formats. Style control, upstream's regression of the verdicts of many
models on length and markdown, is not applied. The judge's prompts are our own unless a file of others is given.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from harness.assets import content_hash
from harness.errors import SuiteError
from harness.suite import Call, ChatReply, ChatRequest, Field, JudgedSuite, SuiteConfig
from harness.types import Answer, Failure, Item, Metric, Record
from suites._arena_hard_files import Prompts, Question, Told, read_answers, read_baseline, read_prompts, read_questions


class Verdict(NamedTuple):
    a_wins: float
    weight: int
    """Games that the verdict counts as: a strong one is three."""


VERDICTS = {
    "A>>B": Verdict(1.0, 3), "B<<A": Verdict(1.0, 3),
    "A>B": Verdict(1.0, 1), "B<A": Verdict(1.0, 1),
    "A=B": Verdict(0.5, 1), "B=A": Verdict(0.5, 1),
    "B>A": Verdict(0.0, 1), "A<B": Verdict(0.0, 1),
    "B>>A": Verdict(0.0, 3), "A<<B": Verdict(0.0, 3),
}  # fmt: skip
_MARKS = (re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]"))


def read_verdict(text: str) -> Verdict | None:
    """The verdict in a judge's reply, or None where it holds none.

    As v2.0 reads it: of all marks in double brackets the last one, in single brackets only where there are none; small
    letters count as capitals. A last mark that is none of the verdicts is no verdict.
    """
    found = next((marks for form in _MARKS if (marks := form.findall(text.upper()))), [""])
    return VERDICTS.get(found[-1])


class Config(SuiteConfig):
    """Relative paths are taken below `suites/data/`."""

    questions: str = "official"
    """"official" (750 questions of the hub), or a file in the format of its `question.jsonl`."""
    baseline: str = "official"
    """"official" (a model for each category), or a `model_answer` file whose answers are the ones to beat."""
    prompts: str = "ours"
    """"ours", or a YAML or JSON file with `template` (slots {QUESTION}, {ANSWER_A}, {ANSWER_B}) and `system`, a text for
    each category, as in `suites/prompts/arena_hard/ours.yaml`."""
    verdict_tokens: int = Field(16_000, ge=1)
    """The longest reply of the judge; the default is v2.0's for its judge gpt-4.1."""


class ArenaHard(JudgedSuite):
    """Wins against a baseline over two games an item, strong verdicts counting three times.

    The headline is the mean over all games of the items whose two games have a verdict, each repeated by its weight. So it is
    not the mean of the item scores: an item weighs 2 to 6 by how strong its verdicts are. Upstream prints the score of one
    category at a time (here `score/CATEGORY`), as the mean of 100 bootstraps of the repeated games; this is what those
    scatter around.
    """

    Config = Config
    version = "1"
    metric = "score"
    summary = "wins against a baseline in five grades, both orders (Arena-Hard v2.0, no style control)"

    @cached_property
    def _questions(self) -> list[Question]:
        return read_questions(self.config.questions)

    @cached_property
    def _baseline(self) -> dict[str, Told]:
        return read_baseline(self.config.baseline, self._questions)

    @cached_property
    def _prompts(self) -> Prompts:
        return read_prompts(self.config.prompts, {row.category for row in self._questions})

    @property
    def identity(self) -> dict[str, Any]:
        told = [self._baseline[row.uid] for row in self._questions]
        return {
            "protocol": "Arena-Hard-Auto v2.0", "style_control": "not applied",
            "questions": content_hash([[row.uid, row.category, row.prompt] for row in self._questions]),
            "baseline": content_hash([row.text for row in told]), "baseline_models": sorted({row.model for row in told}),
            "judge_prompts": content_hash(self._prompts), "verdict_tokens": self.config.verdict_tokens,
        }  # fmt: skip

    def items(self) -> list[Item]:
        """The questions, with the baseline's answers as references."""
        return [
            Item(row.uid, ({"role": "user", "content": row.prompt},), self._baseline[row.uid].text, row.category)
            for row in self._questions
        ]

    def calls(self, answers: Sequence[Answer]) -> list[Call]:
        """Two games an item: in `subkey` "1" the baseline is assistant A, in "2" the candidate is."""
        return [
            Call(item, answer, "win", game, self._request(item, answer.text, game))
            for item, answer in self.paired(answers) for game in ("1", "2")
        ]  # fmt: skip

    def kind(self, call: Call) -> str:
        return call.item.category

    def _request(self, item: Item, text: str, game: str) -> ChatRequest:
        first, second = (str(item.reference), text) if game == "1" else (text, str(item.reference))
        messages = self._prompts.messages(item.category, item.messages[0]["content"], first, second)
        return ChatRequest(messages, self.config.verdict_tokens)

    def verdict(self, call: Call, reply: ChatReply) -> float | None:
        """What the game gives the candidate: 1 for a win of either strength, 0.5 for a tie, 0."""
        found = read_verdict(reply.text)
        if found is None:
            return None
        return found.a_wins if call.subkey == "2" else 1.0 - found.a_wins

    def record(self, call: Call, reply: ChatReply | Failure | None, judge_id: str) -> Record:
        """Keeps the judge's words alone: the weight of a game is read from them again."""
        bare = replace(reply, top_logprobs=()) if isinstance(reply, ChatReply) else reply
        return super().record(call, bare, judge_id)

    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        """The weighted mean of an item's two games, where both have a verdict."""
        return {item: sum(s * w for s, w in games) / sum(w for _, w in games) for item, games in _complete(records).items()}

    def item_weights(self, records: Sequence[Record]) -> dict[str, float]:
        """The games that an item's two verdicts count as."""
        return {item: float(sum(w for _, w in games)) for item, games in _complete(records).items()}

    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        """`score`, `score/CATEGORY` for each, and `score_unweighted`, in which a strong verdict is one game as any other.

        An item counts if both its games have a verdict, as upstream has it. Standard errors take the items as drawn.
        """
        asked, games = dict.fromkeys(record.item_id for record in records), _complete(records)
        metrics = {
            "score": _pooled(games.values(), len(asked)),
            "score_unweighted": _pooled(([(s, 1) for s, _ in pair] for pair in games.values()), len(asked)),
        }
        members: dict[str, list[str]] = {}
        for item in self.items():
            if item.id in asked:
                members.setdefault(item.category, []).append(item.id)
        for category, ids in members.items():
            metrics[f"score/{category}"] = _pooled((games[item] for item in ids if item in games), len(ids))
        return metrics

    def read_outputs(self, path: Path) -> list[Answer]:
        """Answers of a `model_answer` file, v2.0's or older; such a file does not tell which of them were cut off."""
        found, wanted = read_answers(path), [row.uid for row in self._questions]
        missing, unknown = [uid for uid in wanted if uid not in found], sorted(found.keys() - set(wanted))
        if missing or unknown:
            raise SuiteError(
                f"{len(found)} answers do not fit the {len(wanted)} questions: {len(missing)} missing, {len(unknown)} unknown, "
                f"for example {(missing or unknown)[0]!r}",
                where=str(path), fix="answer each uid of the questions once",
            )  # fmt: skip
        return [Answer(uid, found[uid].text, "stop", found[uid].tokens) for uid in wanted]

    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """`model_answer/GENERATOR.jsonl` and `model_judgment/JUDGE/GENERATOR.jsonl` as upstream reads them.

        A game that a judge failed in is null, one whose reply holds no verdict has the score null: upstream leaves both out.
        """
        found = {(record.item_id, record.subkey): record for record in records}
        told: list[dict[str, Any]] = []
        games: dict[str, list[dict[str, Any] | None]] = {item.id: [] for item in self.items()}
        for item, answer in self.paired(answers):
            said = [*item.messages, {"role": "assistant", "content": {"answer": answer.text}}]
            told.append({"uid": item.id, "ans_id": content_hash([generator, item.id, answer.text]), "model": generator,
                         "messages": said, "metadata": {"token_len": answer.tokens}})  # fmt: skip
        for call in self.calls(answers):
            games[call.item.id].append(_game(found[call.item.id, call.subkey], call))
        judge = records[0].judge_id
        judged = [
            {"uid": item.id, "category": item.category, "judge": judge, "model": generator,
             "baseline": self._baseline[item.id].model, "games": games[item.id]}
            for item in self.items()
        ]  # fmt: skip
        name = f"{_file_name(generator)}.jsonl"
        files = {folder / "model_answer" / name: told, folder / "model_judgment" / _file_name(judge) / name: judged}
        for path, rows in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return list(files)


def _game(record: Record, call: Call) -> dict[str, Any] | None:
    """A game as upstream writes it, its verdict in the spelling of the judge's prompt."""
    if record.status not in ("ok", "parse_failed") or call.request is None:
        return None
    found = read_verdict(record.raw)
    label = next((name for name, verdict in VERDICTS.items() if verdict == found), None)
    return {"score": label, "judgment": {"answer": record.raw}, "prompt": list(call.request.messages)}


def _complete(records: Iterable[Record]) -> dict[str, list[tuple[float, int]]]:
    """Score and weight of both games, of the items that have both."""
    games: dict[str, list[tuple[float, int]]] = {}
    for record in records:
        found = read_verdict(record.raw)
        if record.score is not None and found is not None:
            games.setdefault(record.item_id, []).append((record.score, found.weight))
    return {item: pair for item, pair in games.items() if len(pair) == 2}


def _pooled(games: Iterable[Sequence[tuple[float, int]]], asked: int) -> Metric:
    """The weighted mean over the games of all items, with its standard error.

    The error is that of a ratio of two sums over items, linearised (Cochran 1977, Sampling Techniques, section 2.11).
    """
    pairs = list(games)
    n, weights = len(pairs), [sum(w for _, w in pair) for pair in pairs]
    if not n:
        return Metric(None, None, 0, asked)
    mean = sum(s * w for pair in pairs for s, w in pair) / sum(weights)
    residuals = [sum((s - mean) * w for s, w in pair) for pair in pairs]
    spread = math.sqrt(n / (n - 1) * sum(r * r for r in residuals)) / sum(weights) if n > 1 else None
    return Metric(mean, spread, n, asked - n)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)

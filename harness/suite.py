"""What a suite is: items to answer, a protocol that grades the answers, metrics over the records.

A suite module is an entry of the registry: its stem is the suite's name, and it defines one `Suite` subclass. The
track says where its items come from (the fields of `Config`, whose defaults are the field's own items); the protocol is
the suite's own.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import SuiteError
from harness.types import Answer, Failure, Item, Message, Metric, Record, Status

__all__ = ["Call", "ChatReply", "ChatRequest", "Field", "Judge", "JudgedSuite", "Suite", "SuiteConfig", "flags_of"]


@dataclass(frozen=True)
class ChatRequest:
    """One call to a judge."""

    messages: tuple[Message, ...]
    max_tokens: int = 2048
    temperature: float = 0.0
    top_logprobs: int = 0
    """How many alternatives of each output token to report with their log-probs; 0 for none."""


@dataclass(frozen=True)
class ChatReply:
    text: str
    top_logprobs: tuple[Mapping[str, float], ...] = field(default=())
    """For each output token, the reported alternatives and their log-probs."""


class Judge(Protocol):
    """The evaluation judge: our own client (bounded retries, cache, usage metered off the training clock)."""

    id: str
    """Names the model and its revision; goes into every record."""
    retries: int
    """How often a request may be repeated whose reply could not be read."""

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        """Replies in order; a `Failure` where one stayed missing after the transport's own retries."""


class SuiteConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def flags_of(answer: Answer) -> tuple[str, ...]:
    """What is wrong with an answer on its face. It is graded as it is all the same."""
    empty = not answer.likelihoods and not all(reply.strip() for reply in answer.replies)
    return (*(["empty"] if empty else []), *(["truncated"] if answer.finish == "length" else []))


class Suite(ABC):
    """Base of all suites: subclass it in `suites/NAME.py`, or `JudgedSuite` where a judge's verdicts are the records."""

    Config: ClassVar[type[SuiteConfig]] = SuiteConfig
    version: ClassVar[str]
    metric: ClassVar[str]
    """The headline among the names that `aggregate` returns."""
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """The lowest and the highest score of a record, an item and the headline."""
    needs_judge: ClassVar[bool] = False
    summary: ClassVar[str] = ""
    argument: ClassVar[str] = ""
    """A prefix under which the suite takes an argument in its name, as in `lm-eval:gsm8k`."""

    def __init__(self, config: SuiteConfig) -> None:
        self.config: Any = config

    @classmethod
    def settings_for(cls, argument: str) -> dict[str, Any]:
        """The settings that an argument in the suite's name stands for."""
        raise SuiteError(f"this suite takes no argument, got {argument!r}", where="--suite")

    @abstractmethod
    def items(self) -> list[Item]:
        """The items in their fixed order.

        Raises:
            SuiteError: an asset is missing or not what it should be.
        """

    @property
    def samples(self) -> int:
        """Answers asked for each item; they follow each other in the list of answers."""
        return 1

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for two scores to be comparable, apart from judge and decoding, with people's names for it."""
        return {}

    @cached_property
    def data_hash(self) -> str:
        """Names the ordered items and the protocol's settings: 16 hex digits."""
        import hashlib

        told = {**self.identity, "items": [asdict(item) for item in self.items()]}
        return hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]

    def paired(self, answers: Sequence[Answer]) -> list[tuple[Item, Answer]]:
        """Items with their answers, each item as often as it has samples.

        Raises:
            SuiteError: answers are missing, unknown, repeated or out of order (with the counts).
        """
        items = [item for item in self.items() for _ in range(self.samples)]
        wanted, got = [item.id for item in items], [answer.item_id for answer in answers]
        if wanted != got:
            repeated = len(got) - len(set(got)) - (len(wanted) - len(set(wanted)))
            raise SuiteError(
                f"{len(got)} answers do not fit the {len(wanted)} items in their order: {len(set(wanted) - set(got))} missing, "
                f"{len(set(got) - set(wanted))} unknown, {max(repeated, 0)} repeated",
                where="answers", fix="answer every item of items() once, in that order",
            )  # fmt: skip
        return list(zip(items, answers, strict=True))

    @abstractmethod
    def grade(self, answers: Sequence[Answer], judge: Judge | None) -> list[Record]:
        """Records for answers to all items, in the order of `items`. Grading twice gives the same records."""

    @abstractmethod
    def aggregate(self, records: Sequence[Record]) -> dict[str, Metric]:
        """Metrics by name, the headline among them. Missing verdicts are counted, never scored."""

    @abstractmethod
    def item_scores(self, records: Sequence[Record]) -> dict[str, float]:
        """The score of each item that has one, on the suite's scale, for paired comparisons."""

    def item_weights(self, records: Sequence[Record]) -> dict[str, float]:
        """What each item with a score counts in the headline, where the protocol does not count all items alike."""
        return {}

    @abstractmethod
    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """Writes the field's own file formats; `generator` names the model. Returns the files written."""

    def read_outputs(self, path: Path) -> list[Answer]:
        """Answers to all items, in their order, from a file in the field's own format for this suite.

        Raises:
            SuiteError: the file is not of that format, or its answers do not fit the items (with the counts).
        """
        raise SuiteError("this suite reads no files of outputs", where=str(path))


@dataclass(frozen=True)
class Call:
    """One verdict on an answer: what the judge is asked, or what the protocol knows without asking."""

    item: Item
    answer: Answer
    metric: str
    subkey: str
    request: ChatRequest | None
    known: float | None = None
    """The score where nobody is asked."""
    why: str = ""
    """Why nobody is asked."""


class JudgedSuite(Suite):
    """A suite whose records are a judge's verdicts, one a call."""

    needs_judge = True

    @abstractmethod
    def calls(self, answers: Sequence[Answer]) -> list[Call]:
        """The verdicts that answers to all items need, in the order of `items`."""

    @abstractmethod
    def verdict(self, call: Call, reply: ChatReply) -> float | None:
        """The score that a reply gives, on the suite's scale; None when it cannot be read."""

    def trial(self) -> dict[str, list[Call]]:
        """Calls on made-up answers, by kind: what the judge must be able to answer before anything is paid."""
        made_up = [
            Answer(item.id, (item.reference or "This is an answer.") + " ", "stop", 1, ("Yes.",) * len(item.follow_ups), sample)
            for item in self.items() for sample in range(self.samples)
        ]  # fmt: skip
        kinds: dict[str, list[Call]] = {}
        for call in self.calls(made_up):
            if call.request:
                kinds.setdefault(" ".join(filter(None, (call.metric, call.subkey, self.kind(call)))), []).append(call)
        return kinds

    def kind(self, call: Call) -> str:
        """Which of the protocol's prompts a call uses, where there are several."""
        return ""

    def grade(self, answers: Sequence[Answer], judge: Judge | None) -> list[Record]:
        """A record a call. A refusal, or a reply that cannot be read, is asked for again a bounded number of times; what stays
        missing leaves its score missing."""
        if judge is None:
            raise SuiteError("this suite needs a judge", where="judge", fix="name one: --judge URL/MODEL, or in the track")
        calls = self.calls(answers)
        records = {i: self.record(call, None, judge.id) for i, call in enumerate(calls) if not call.request}
        left = [i for i, call in enumerate(calls) if call.request]
        for attempt in range(judge.retries + 1):
            requests = [calls[i].request for i in left]
            replies = judge.chat([request for request in requests if request], attempt)
            records |= {i: self.record(calls[i], reply, judge.id) for i, reply in zip(left, replies, strict=True)}
            left = [i for i in left if records[i].status in ("parse_failed", "refused")]
            if not left:
                break
        return [records[i] for i in range(len(calls))]

    def record(self, call: Call, reply: ChatReply | Failure | None, judge_id: str) -> Record:
        """What became of a call; the whole reply is kept."""
        score: float | None = None
        status: Status
        if reply is None:
            score, status, raw = call.known, "ok", call.why
        elif isinstance(reply, Failure):
            status, raw = reply.status, reply.detail
        else:
            score, raw = self.verdict(call, reply), reply.text
            status = "ok" if score is not None else "parse_failed"
            if reply.top_logprobs:
                raw = json.dumps({"text": reply.text, "top_logprobs": [dict(token) for token in reply.top_logprobs]})
        return Record(
            suite=type(self).__module__.rpartition(".")[2], metric=call.metric, item_id=call.item.id, subkey=call.subkey,
            score=score, status=status, flags=flags_of(call.answer), raw=raw, judge_id=judge_id,
            length=sum(map(len, call.answer.replies)),
        )  # fmt: skip

"""What a suite is: items to answer, a protocol that grades the answers, metrics over the records.

A suite module is an entry of the registry: its stem is the suite's name, and it defines one `Suite` subclass. The
track says where its items come from (the fields of `Config`); the protocol is the suite's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import SuiteError
from harness.types import Answer, Failure, Item, Message, Metric, Record

__all__ = ["ChatReply", "ChatRequest", "Field", "Judge", "Suite", "SuiteConfig"]


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

    def chat(self, requests: Sequence[ChatRequest]) -> list[ChatReply | Failure]:
        """Replies in order; a `Failure` where one stayed missing after its retries."""


class SuiteConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Suite(ABC):
    """Base of all suites: subclass it in `suites/NAME.py`."""

    Config: ClassVar[type[SuiteConfig]] = SuiteConfig
    version: ClassVar[str]
    metric: ClassVar[str]
    """The headline among the names that `aggregate` returns."""
    needs_judge: ClassVar[bool] = False
    summary: ClassVar[str] = ""

    def __init__(self, config: SuiteConfig) -> None:
        self.config: Any = config

    @abstractmethod
    def items(self) -> list[Item]:
        """The items in their fixed order.

        Raises:
            SuiteError: an asset is missing or not what it should be.
        """

    def paired(self, answers: Sequence[Answer]) -> list[tuple[Item, Answer]]:
        """Items with their answers.

        Raises:
            SuiteError: answers are missing, unknown, repeated or out of order (with the counts).
        """
        items = self.items()
        wanted, got = [item.id for item in items], [answer.item_id for answer in answers]
        if wanted != got:
            raise SuiteError(
                f"{len(got)} answers do not fit the {len(wanted)} items in their order: {len(set(wanted) - set(got))} missing, "
                f"{len(set(got) - set(wanted))} unknown, {len(got) - len(set(got))} repeated",
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
        """The headline score of each item that has one, in [0, 1], for paired comparisons."""

    @abstractmethod
    def export(self, folder: Path, answers: Sequence[Answer], records: Sequence[Record], generator: str) -> list[Path]:
        """Writes the field's own file formats; `generator` names the model. Returns the files written."""

"""What a method is: a config, its needs, and two verbs. `collect` asks models and spends; `loss` differentiates.

A method module is also an entry of the registry: its stem is the method's name, and it defines one `Method` subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from harness.prompts import Template
from harness.types import Batch, Collected, Failure, Loss, Message, Models, Need, Prompt, Rollout

__all__ = ["Ask", "Field", "Method", "MethodConfig", "Need", "Template", "Tools"]


class MethodConfig(BaseModel):
    """Settings every method has. `Config()` of a method is its paper's; a track may override, visibly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts_per_round: int = Field(32, gt=0, description="prompts drawn for each call of collect (B)")
    updates_per_batch: int = Field(1, gt=0, description="optimizer steps that a collected batch is split into")
    passes: int = Field(1, gt=0, description="times the collected batch is gone through")
    temperature: float = Field(1.0, gt=0, description="temperature at which the policy is sampled and scored")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; none is the track's")


@dataclass(frozen=True)
class Ask:
    """One question to a critic. `parse` turns the reply's text into a value or raises ValueError."""

    messages: tuple[Message, ...]
    parse: Callable[[str], Any]
    temperature: float = 0.0
    max_tokens: int = 4096
    schema: Mapping[str, Any] | None = None
    """JSON Schema of the reply, sent as a strict response format."""


class Student(Protocol):
    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        """`count` rollouts of each prompt, [B][G]."""

    def written(self, prompt: Prompt, text: str) -> Rollout:
        """Somebody else's text as a completion of the prompt, tokenized once through the chat template."""


class Teacher(Protocol):
    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        """`count` answers to each prompt, [B][count]."""

    def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
        """The teacher's log-prob of each completion token at temperature 1, [N][T]."""


class Critic(Protocol):
    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        """The parsed replies in order; a `Failure` where one stayed missing after its retries."""


@dataclass(frozen=True)
class Tools:
    """Everything a method may ask, all of it metered. A tool the method did not declare in `needs` is None."""

    student: Student
    teacher: Teacher | None
    critic: Critic | None
    solutions: Callable[[Sequence[Prompt]], list[str | Failure]] | None
    template: Callable[[str], Template]
    """A prompt template of this method in the dialect of the model that will read it."""
    seed: int

    def the_teacher(self) -> Teacher:
        assert self.teacher is not None, "declare a teacher in needs"
        return self.teacher

    def the_critic(self) -> Critic:
        assert self.critic is not None, "declare a critic in needs"
        return self.critic


class Method(ABC):
    """Base of all methods: subclass it in `methods/NAME.py`."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    access: ClassVar[str] = "text"
    """What it may see: text, scores, logits, outcomes or solutions; boards are grouped by it."""
    ratio: ClassVar[bool] = False
    """Whether the loss compares with the log-probs before the first update (`batch.old_logp_NT`)."""

    def __init__(self, config: MethodConfig) -> None:
        self.config: Any = config

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    @abstractmethod
    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        """Asks models about the prompts and returns what to learn from. Spends budget, computes no gradient."""

    def weights(self, batch: Batch) -> dict[str, float]:
        """The divisor of each loss term, from masks alone; by default the number of completion tokens.

        Weights are summed over the global batch before any backward pass, so the answer cannot depend on how the
        batch is cut into micro-batches.
        """
        return {"loss": float(batch.mask_NT.sum())}

    @abstractmethod
    def loss(self, models: Models, batch: Batch) -> Loss:
        """Sums over the micro-batch, one `Term` for each name that `weights` gives."""

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers from round to round, JSON-able."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (most methods remember nothing)
        """Takes up what `state_dict` gave."""

"""What a method is: a config, its needs, and two verbs. `collect` asks models and spends; `loss` differentiates.

A method module is also an entry of the registry: its stem is the method's name, and it defines one `Method` subclass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from harness.prompts import Template
from harness.types import Batch, Collected, Example, Failure, Loss, Message, Models, Need, Prompt, Rollout, Term

__all__ = [
    "Ask", "Chooser", "CrossEntropy", "Field", "Imitation", "Method", "MethodConfig", "Need", "SignalConfig", "Template",
    "Tools", "imitated", "lost", "needs_of", "permuted", "shifted", "told_apart",
]  # fmt: skip

Thing = TypeVar("Thing")
Reader = Literal["critic", "student", "teacher"]


class MethodConfig(BaseModel):
    """Settings every method has. `Config()` of a method is its paper's; a track may override, visibly."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts_per_round: int = Field(32, gt=0, description="prompts drawn for each call of collect (B)")
    updates_per_batch: int = Field(1, gt=0, description="optimizer steps that a collected batch is split into")
    passes: int = Field(1, gt=0, description="times the collected batch is gone through")
    temperature: float = Field(1.0, gt=0, description="temperature at which the policy is sampled and scored")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate; none is the track's")
    warm_prompts: int = Field(0, ge=0, description="prompts of the budget that a supervised warm start takes first")


class SignalConfig(MethodConfig):
    """Settings of a method that learns from a signal about its examples, and so has a control without it."""

    signal: Literal["own", "shuffled"] = Field("own", description="control: `shuffled` is the signal of something else")


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

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation up to where the student begins to write: what a view puts before a completion."""


class Chooser(Protocol):
    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        """The log-prob of each letter as the first token of the reply to each question, at temperature 1, [Q][K].

        Read off a plain forward over the whole vocabulary, not renormalised over the letters.
        """


class Teacher(Chooser, Protocol):
    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        """`count` answers to each prompt, [B][count]."""

    def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
        """The teacher's log-prob of each completion token at temperature 1, [N][T]."""

    def likeliest(self, rollouts: Sequence[Rollout], count: int) -> list[list[list[tuple[int, float]]] | Failure]:
        """The teacher's likeliest ids in the place of each completion token, best first, with log-probs at temperature 1,
        [N][T][count]."""


class Critic(Protocol):
    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        """The parsed replies in order; a `Failure` where one stayed missing after its retries."""


@dataclass(frozen=True)
class Tools:
    """Everything a method may ask, all of it metered. A tool the method did not declare in `needs` is None."""

    student: Student
    teacher: Teacher | None
    critic: Critic | None
    reference: Chooser | None
    """The frozen student as a judge of its own."""
    solutions: Callable[[Sequence[Prompt]], list[str | Failure]] | None
    outcomes: Callable[[Sequence[Sequence[Rollout]]], list[list[float] | Failure]] | None
    """1 for each answer of a group that succeeds, else 0, [B][G]."""
    preferences: Callable[[Sequence[Sequence[Rollout]]], list[list[int] | Failure]] | None
    """The place of each answer of a group in the critic's order, 0 the best, [B][G]."""
    template: Callable[..., Template]
    """`template(name, reader="critic")`: a prompt template of this method in the dialect of the model that reads it."""
    seed: int

    def the_teacher(self) -> Teacher:
        assert self.teacher is not None, "declare a teacher in needs"
        return self.teacher

    def the_critic(self) -> Critic:
        assert self.critic is not None, "declare a critic in needs"
        return self.critic

    def the_reference(self) -> Chooser:
        assert self.reference is not None, "declare the reference in needs"
        return self.reference

    def the_solutions(self, prompts: Sequence[Prompt]) -> list[str | Failure]:
        assert self.solutions is not None, "declare solutions in needs"
        return self.solutions(prompts)

    def the_outcomes(self, groups: Sequence[Sequence[Rollout]]) -> list[list[float] | Failure]:
        assert self.outcomes is not None, "declare outcomes in needs"
        return self.outcomes(groups)

    def the_preferences(self, groups: Sequence[Sequence[Rollout]]) -> list[list[int] | Failure]:
        assert self.preferences is not None, "declare preferences in needs"
        return self.preferences(groups)


class Method(ABC):
    """Base of all methods: subclass it in `methods/NAME.py`."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    access: ClassVar[str] = "text"
    """What it may see: nothing, text, scores, logits, outcomes or solutions; boards are grouped by it."""
    ratio: ClassVar[bool] = False
    """Whether the loss compares with the log-probs before the first update (`batch.old_logp_NT`)."""

    def __init__(self, config: MethodConfig) -> None:
        self.config: Any = config

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset()

    @property
    def warm_start(self) -> Method | None:
        """What trains on the first `warm_prompts` prompts of the budget: by default imitation of solutions."""
        return Imitation(self.config) if self.config.warm_prompts else None

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


class CrossEntropy(Method):
    """Every completion of the batch is imitated: minus its log-probs, averaged over all tokens of the batch."""

    def loss(self, models: Models, batch: Batch) -> Loss:
        return {"loss": Term(-(models.logprobs(batch) * batch.mask_NT).sum())}


class Imitation(CrossEntropy):
    """Cross entropy on a solution of each prompt: `sft`, and the warm start of any other method."""

    paper = "supervised fine-tuning"
    summary = "cross entropy on the data's solutions (by default the teacher's greedy answers)"
    access = "solutions"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.SOLUTION})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        texts = [text if isinstance(text, Failure) else [text] for text in tools.the_solutions(prompts)]
        return imitated(prompts, texts, tools)


def imitated(prompts: Sequence[Prompt], texts: Sequence[Sequence[str] | Failure], tools: Tools) -> Collected:
    """Somebody's texts as completions to imitate, an example a prompt; a prompt whose texts are missing is lost."""
    groups = [
        [tools.student.written(prompt, text) for text in ([""] if isinstance(written, Failure) else written)]
        for prompt, written in zip(prompts, texts, strict=True)
    ]
    told, missing = told_apart(groups, texts)
    return Collected([Example(tuple(group)) for group, _ in told], missing)


def told_apart(
    groups: Sequence[Sequence[Rollout]], replies: Sequence[Thing | Failure]
) -> tuple[list[tuple[Sequence[Rollout], Thing]], tuple[Example, ...]]:
    """Groups with what was said about them, and those that are lost because nothing was."""
    both = list(zip(groups, replies, strict=True))
    told = [(group, reply) for group, reply in both if not isinstance(reply, Failure)]
    return told, tuple(lost(group, reply) for group, reply in both if isinstance(reply, Failure))


def lost(group: Sequence[Rollout], failure: Failure) -> Example:
    """A group that leaves the batch because somebody who was asked failed, with the reason."""
    return Example(tuple(group), note={"failure": f"{failure.status}: {failure.detail}"})


def shifted(values: Sequence[Thing]) -> list[Thing]:
    """Each value in its neighbour's place: how a control mixes up the signals of a round (of two or more)."""
    return [*values[1:], *values[:1]]


def permuted(values: Sequence[Thing], key: str) -> list[Thing]:
    """The values in an order that the key draws: how a control mixes up the signals inside a group."""
    mixed = list(values)
    Random(key).shuffle(mixed)
    return mixed


def needs_of(method: Method) -> frozenset[Need]:
    """What a method needs, its warm start included."""
    return method.needs | (method.warm_start.needs if method.warm_start else frozenset())

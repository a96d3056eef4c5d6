"""The values that cross borders inside the harness: plain frozen dataclasses, nothing that acts.

Axes in names: B prompts, G rollouts of a prompt, N rollouts in a batch, T completion tokens, V vocabulary,
K likeliest tokens of a position, C a chunk of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, str]
Finish = Literal["stop", "length"]
Status = Literal["ok", "parse_failed", "judge_error", "refused"]


class Need(Enum):
    """What a method must be given; a track that cannot give it is refused before anything is spent."""

    TEACHER_TEXT = "texts written by the teacher"
    TEACHER_SCORES = "the teacher's log-probabilities of given tokens"
    TEACHER_TOP = "the teacher's likeliest tokens at each place of a text, with their log-probabilities"
    TEACHER_LOGITS = "the teacher's weights (its whole next-token distribution)"
    TEACHER_CHOICE = "the teacher's log-probabilities of the letters of a multiple choice"
    CRITIC = "a training critic"
    REFERENCE = "the frozen student (as it was before training, or after its warm start)"
    SOLUTION = "a solution for each prompt"
    OUTCOME = "whether an answer succeeds: a program's check, or the critic's score over a threshold"
    PREFERENCES = "answers to a prompt put in order by the critic"


ASKING = frozenset({Need.TEACHER_TEXT, Need.TEACHER_SCORES, Need.TEACHER_TOP, Need.TEACHER_CHOICE})
"""What a method asks a teacher for itself, in its own words or ids."""


@dataclass(frozen=True)
class Sampling:
    temperature: float = 1.0
    """0 is greedy."""
    max_tokens: int = 48


@dataclass(frozen=True)
class Generation:
    tokens: list[int]
    """Sampled ids, the stop id included when one was met."""
    logprobs: list[float]
    finish: Finish
    version: int = 0
    """How many weight syncs the sampling model had seen."""


@dataclass(frozen=True)
class Prompt:
    id: str
    messages: tuple[Message, ...]
    solution: str | None = None
    reference: str | None = None
    """The answer that a program can check for, where there is one."""
    source: str = ""
    visit: int = 0
    """How often the run has drawn this prompt before; keeps the randomness of a second visit apart."""
    turn: int = 0
    """How often the method has asked to see it again on this visit."""

    @property
    def question(self) -> str:
        """The conversation as one text, for graders that take a single question."""
        return "\n\n".join(message["content"] for message in self.messages if message["role"] != "system")


@dataclass(frozen=True)
class Rollout:
    prompt: Prompt
    prompt_tokens: list[int]
    tokens: list[int]
    logprobs: list[float] | None
    """Log-probs of `tokens` under the sampler, or None for text that no sampler of ours wrote."""
    text: str
    finish: Finish
    version: int | None = None


Signal = Sequence[float] | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]


@dataclass(frozen=True)
class Example:
    """Rollouts that must stay together in a micro-batch, with what was learnt about them.

    `signal` holds one value per rollout under names that end in `_N`, one per completion token under names that end in
    `_NT`, and K of them under names that end in `_NTK`. `views` are other prompt tokens in front of the same completions.
    `note` is kept for people.
    """

    rollouts: tuple[Rollout, ...]
    signal: Mapping[str, Signal] = field(default_factory=dict)
    views: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    examples: list[Example]
    lost: tuple[Example, ...] = ()
    """Groups lost to a critic's or teacher's fault: they leave the batch and its denominators, but are kept on file."""
    silent: tuple[Example, ...] = ()
    """Groups that teach nothing and weigh nothing (no contrast, no agreement): kept on file, not trained on."""
    again: tuple[Prompt, ...] = ()
    """Prompts to see again in the next round, at no cost in prompts; give each its next `turn`."""


@dataclass(frozen=True)
class Batch:
    """Rollouts collated on the axis of completion tokens, whatever their prompts' lengths.

    Attributes:
        tokens_NT: completion ids, 0 where padded.
        mask_NT: 1.0 on completion tokens (the end token included), by position and never by id.
        group_N: index of the example that each rollout belongs to.
        behaviour_logp_NT: log-probs under the sampler; None when a rollout has none.
        old_logp_NT: the trainer's own log-probs before the first update; None when each batch is used once.
        signal: the examples' signals as tensors, padded by their suffix; whole numbers of `_NTK` stay whole (ids).
        views: prompt ids of each view, one list a rollout; the view "" is the rollouts' own prompt.
    """

    tokens_NT: Tensor
    mask_NT: Tensor
    group_N: Tensor
    behaviour_logp_NT: Tensor | None
    old_logp_NT: Tensor | None
    signal: dict[str, Tensor]
    views: dict[str, list[list[int]]]


    def first(self, steps: int) -> Batch:
        """The same batch up to its `steps`-th completion token."""
        if steps >= self.mask_NT.shape[1]:
            return self

        def cut(value_NT: Tensor | None) -> Tensor | None:
            return None if value_NT is None else value_NT[:, :steps]

        signal = {name: value[:, :steps] if name.endswith(("_NT", "_NTK")) else value for name, value in self.signal.items()}
        return Batch(
            self.tokens_NT[:, :steps], self.mask_NT[:, :steps], self.group_N, cut(self.behaviour_logp_NT), cut(self.old_logp_NT),
            signal, self.views,
        )  # fmt: skip


@dataclass(frozen=True)
class Mix:
    """A distribution proportional to a product of powers of frozen ones: log p = sum_j coef_j log p_j, normalised.

    Each part is (model, view, coef_N); rows whose coefficient is 0 are not read by that part's model.
    """

    parts: Sequence[tuple[str, str, Tensor]]


@dataclass(frozen=True)
class Term:
    """A part of a loss before it is divided: a sum over the micro-batch and its coefficient."""

    sum: Tensor
    coef: float = 1.0


Loss = dict[str, Term]


class Models(Protocol):
    """What a loss may ask of the models: the policy with gradient, the others frozen.

    With `keep_N` only the rows where it is true are read; the results of the others are 0. (One row is always read, so that
    every process of a run passes through the weights equally often.)
    """

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        """Policy log-probs of the completion tokens, [N, T], 0 where masked."""

    def per_token(
        self, fn: Callable[..., tuple[Tensor, ...]], batch: Batch, frozen: Sequence[tuple[str, str] | Mix] = (),
        keep_N: Tensor | None = None, beside: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """`fn(policy_CV, *frozen_CV, *beside_C, tokens_C)` over chunks of positions, on log-softmax values; each result [N, T].

        `frozen` names (model, view) pairs or mixes of them, whose log-probs are computed without gradient. `beside` are
        tensors [N, T, ...] of which `fn` gets the positions' own values.
        """


@dataclass(frozen=True)
class Failure:
    """A reply that stayed missing after its retries: data about the judge or critic, never a score."""

    status: Status
    detail: str


@dataclass(frozen=True)
class Item:
    """One thing a suite asks."""

    id: str
    messages: tuple[Message, ...]
    reference: str | None = None
    category: str = ""
    follow_ups: tuple[str, ...] = ()
    """What the user says after the replies to the earlier turns."""
    temperature: float | None = None
    """The protocol's own for this item; None leaves it to whoever scores."""
    max_tokens: int | None = None
    """The most that the protocol lets an answer (of one turn) have; None leaves it to whoever scores."""
    plain: bool = False
    """The only message is a text to be continued as it stands, without a chat template."""
    continuations: tuple[str, ...] = ()
    """Texts whose likelihood after the prompt is asked for, in place of an answer."""

    @property
    def question(self) -> str:
        """The conversation as one text, without its follow-ups."""
        return "\n\n".join(message["content"] for message in self.messages if message["role"] != "system")


@dataclass(frozen=True)
class Answer:
    item_id: str
    text: str
    finish: Finish
    """"length" if the reply of any turn was cut off."""
    tokens: int
    """Of all turns."""
    later: tuple[str, ...] = ()
    """The replies to the item's follow-ups."""
    sample: int = 0
    """Which of the samples of its item it is."""
    likelihoods: tuple[tuple[float, bool], ...] = ()
    """Of the item's continuations: the sum of log-probs, and whether each token was the likeliest."""

    @property
    def replies(self) -> tuple[str, ...]:
        """One a turn."""
        return (self.text, *self.later)


@dataclass(frozen=True)
class Record:
    """One graded answer in one respect. A failed judge leaves `score` None: missing data, never a zero.

    `score` is on the suite's `scale`.
    """

    suite: str
    metric: str
    item_id: str
    subkey: str
    score: float | None
    status: Status
    flags: tuple[str, ...] = ()
    raw: str = ""
    judge_id: str = ""
    length: int = 0
    """Characters of the answer."""


@dataclass(frozen=True)
class Metric:
    value: float | None
    """None when no item could be scored."""
    stderr: float | None
    n: int
    missing: int

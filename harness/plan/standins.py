"""Models and servers that hold no weights: they answer with texts of known length, and everything asked of them is charged.

The clients, the tools and the ledger around them are the ones of a real run, so that a plan charges as a run does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from harness.clients.roles import CHAT, ServedCritic
from harness.ledger import Ledger
from harness.method import Ask
from harness.plan.schema import Replies
from harness.plan.voices import IDS, Codec, Voice
from harness.replies import LETTERS
from harness.supply import Outcomes
from harness.types import Failure, Message, Prompt, Rollout

DECIDED = 12.0
"""Log-probs of letters are drawn evenly down to minus this, so that a choice is nearly always a decided one."""


@dataclass
class Server:
    """In the place of a server (`harness.clients.metered.Posts`)."""

    read: Callable[[Sequence[Message]], int]
    """Tokens of a conversation."""
    count: Callable[[str], int]
    """Tokens of a reply."""
    voice: Voice
    replies: Replies
    asks: dict[str, Ask] = field(default_factory=dict)
    """What a critic is being asked, by the text of its messages."""

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path != CHAT:
            return self._scored(body["prompt"], body["prompt_logprobs"])
        messages = body["messages"]
        read = self.read(messages)
        if ask := self.asks.get(_key(messages)):
            texts = [self.replies.to(ask)]
            written = self.count(texts[0])
        elif body.get("top_logprobs"):
            return {"choices": [self._letters(_key(messages))], "usage": {"prompt_tokens": read, "completion_tokens": 1}}
        else:
            said = self.voice.group(Prompt(_key(messages), tuple(messages)), body.get("n", 1))
            texts, written = [each.text for each in said], sum(each.tokens for each in said)
        choices = [{"index": i, "message": {"content": text}} for i, text in enumerate(texts)]
        return {"choices": choices, "usage": {"prompt_tokens": read, "completion_tokens": written}}

    def _letters(self, key: str) -> dict[str, Any]:
        rng = Random(key)
        told = [{"token": letter, "logprob": -DECIDED * rng.random()} for letter in LETTERS]
        return {"index": 0, "message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": told}]}}

    def _scored(self, rows: Sequence[Sequence[int]], top: int) -> dict[str, Any]:
        others = [(str(other), {"logprob": -2.0 - other}) for other in range(top)]
        told = [[dict([*others, (str(token), {"logprob": -1.0})]) for token in row] for row in rows]
        choices = [{"index": i, "text": "", "prompt_logprobs": scores} for i, scores in enumerate(told)]
        return {"choices": choices, "usage": {"prompt_tokens": sum(map(len, rows)), "completion_tokens": len(rows)}}


def _key(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)


class Critic(ServedCritic):
    """A critic whose server knows how its replies will be read."""

    def __init__(self, client: Any, server: Server) -> None:
        super().__init__(client, 0)
        self._server = server

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        self._server.asks = {_key(ask.messages): ask for ask in asks}
        return super().ask(asks)


class Student:
    """In the student's place: the texts of a voice, charged as sampling is."""

    def __init__(self, voice: Voice, codec: Codec, ledger: Ledger, parameters: int, most: int) -> None:
        self._voice, self._codec, self._ledger, self._parameters, self._most = voice, codec, ledger, parameters, most
        self.prefilled = 0
        """Prompt tokens that sampling read."""

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        return [self._group(prompt, count) for prompt in prompts]

    def _group(self, prompt: Prompt, count: int) -> list[Rollout]:
        ids, said = self._codec.prompt(prompt.messages), self._voice.group(prompt, count)
        sampled = sum(each.tokens for each in said)
        self.prefilled += len(ids) * count
        self._ledger.charge("rollouts", count)
        self._ledger.charge("student_tokens", sampled)
        self._ledger.charge("flops", 2.0 * self._parameters * (len(ids) * count + sampled))
        rng = Random(f"log-probs {prompt.id} {prompt.visit} {prompt.turn}")
        return [
            Rollout(prompt, ids, tokens, [-rng.random()] * len(tokens), each.text, "stop")
            for each in said for tokens in [self._voice.ids(each)]
        ]  # fmt: skip

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return self._codec.prompt(messages)

    def written(self, prompt: Prompt, text: str) -> Rollout:
        tokens = self._codec.completion(text)
        ids, whole = self._codec.prompt(prompt.messages), len(tokens) <= self._most
        return Rollout(prompt, ids, tokens[: self._most], None, text, "stop" if whole else "length")


class Coins:
    """Real outcomes, asked and charged as always, but of answers that a program checks a coin says whether they are right."""

    def __init__(self, outcomes: Outcomes, right: float) -> None:
        self._outcomes, self._right = outcomes, right

    def __call__(self, groups: Sequence[Sequence[Rollout]]) -> list[list[float] | Failure]:
        found = self._outcomes(groups)
        both = zip(groups, found, strict=True)
        return [told if group[0].prompt.reference is None else self._thrown(group) for group, told in both]

    def _thrown(self, group: Sequence[Rollout]) -> list[float]:
        prompt = group[0].prompt
        rng = Random(f"coin {prompt.id} {prompt.visit} {prompt.turn}")
        by_text = {rollout.text: float(rng.random() < self._right) for rollout in group}
        return [by_text[rollout.text] for rollout in group]


class FrozenStudent:
    """In the place of the frozen student as a judge (`FrozenChooser` asks it)."""

    def __init__(self, parameters: int) -> None:
        self.parameter_count = parameters

    def next_logprobs(self, prompts: Sequence[Sequence[int]], ids: Sequence[int]) -> list[list[float]]:
        rng = Random(f"letters {[len(prompt) for prompt in prompts]}")
        return [[-DECIDED * rng.random() for _ in ids] for _ in prompts]


class Model:
    """In the place of a `StreamedLM`: gives a loss the shapes that it expects, from two positions of each batch."""

    def __init__(self) -> None:
        self.distributions = 0
        """Frozen distributions that stood beside the policy's at one time, at most."""

    def hidden(self, rows: Any) -> Any:
        import torch

        return torch.zeros(len(rows.target_C), 1)

    def __call__(
        self, fn: Callable[..., Any], rows: Any, frozen: Sequence[Sequence[Any]] = (), beside: Sequence[Any] = ()
    ) -> tuple[Any, ...]:
        import torch

        # of a mix, one part at a time stands beside the sum
        self.distributions = max(self.distributions, sum(min(len(parts), 2) for parts in frozen))
        tokens_C = rows.target_C
        few = tokens_C[:2]
        own, *others = (torch.zeros(len(few), IDS).log_softmax(-1) for _ in range(1 + len(frozen)))
        return tuple(value.new_zeros(len(tokens_C)) for value in fn(own, *others, *(each[:2] for each in beside), few))

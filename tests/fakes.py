"""Tools without servers or models: what methods may ask, answered by the pocket world's own writers and scripts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from harness import registry
from harness.generate.student import ChatCodec
from harness.method import Ask, Method, Tools
from harness.pocket.critic import Critic, CriticKnobs
from harness.pocket.demonstrate import careless, demonstrate
from harness.pocket.pretrain import make_tokenizer
from harness.pocket.tasks import draw, parse
from harness.prompts import load
from harness.seeds import python_random
from harness.types import Failure, Need, Prompt, Rollout


@cache
def codec() -> ChatCodec:
    return ChatCodec(make_tokenizer())


def prompts(count: int, kind: str = "list", visit: int = 0) -> list[Prompt]:
    texts = [draw(random.Random(f"fake prompt {i}"), kind).text for i in range(count)]
    return [Prompt(f"{kind}-{i}", ({"role": "user", "content": text},), visit=visit) for i, text in enumerate(texts)]


class FakeStudent:
    """Careless writers; the log-probs are made up."""

    def __init__(self, used: Counter[str]) -> None:
        self.used = used

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        self.used["rollouts"] += count * len(prompts)
        return [[self._rollout(prompt, i, temperature) for i in range(count)] for prompt in prompts]

    def _rollout(self, prompt: Prompt, i: int, temperature: float) -> Rollout:
        rng = python_random("fake student", prompt.id, prompt.visit, i if temperature else -1)
        task = parse(prompt.messages[-1]["content"])
        text = demonstrate(task, rng, careless(task, rng))
        tokens = codec().completion(prompt.messages, text)
        return Rollout(prompt, codec().prompt(prompt.messages), tokens, [-rng.random() for _ in tokens], text, "stop", 0)

    def written(self, prompt: Prompt, text: str) -> Rollout:
        tokens = codec().completion(prompt.messages, text)
        return Rollout(prompt, codec().prompt(prompt.messages), tokens, None, text, "stop")


class FakeTeacher:
    """A careful writer; the scores are made up. A prompt in `broken` gets a Failure."""

    def __init__(self, used: Counter[str], broken: frozenset[str] = frozenset()) -> None:
        self.used, self.broken = used, broken

    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        self.used["TEACHER_TEXT"] += len(prompts)
        return [
            Failure("judge_error", "no teacher") if prompt.id in self.broken else [self._text(prompt, i) for i in range(count)]
            for prompt in prompts
        ]

    def _text(self, prompt: Prompt, i: int) -> str:
        return demonstrate(parse(prompt.messages[-1]["content"]), python_random("fake teacher", prompt.id, i))

    def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
        self.used["TEACHER_SCORES"] += len(rollouts)
        return [
            Failure("judge_error", "no teacher") if r.prompt.id in self.broken
            else [-2 * python_random("fake score", *r.tokens[: t + 1]).random() for t in range(len(r.tokens))]
            for r in rollouts
        ]  # fmt: skip

    def solutions(self, prompts: Sequence[Prompt]) -> list[str | Failure]:
        self.used["SOLUTION"] += len(prompts)
        self.used["TEACHER_TEXT"] -= len(prompts)
        return [reply if isinstance(reply, Failure) else reply[0] for reply in self.texts(prompts, 1, 0.0)]


class FakeCritic:
    """The scripted critic without its server."""

    def __init__(self, used: Counter[str]) -> None:
        self.used, self._critic = used, Critic(CriticKnobs())

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        self.used["CRITIC"] += len(asks)
        return [ask.parse(self._critic.reply(ask.messages, dict(ask.schema or {}))) for ask in asks]


def tools_for(method: Method, used: Counter[str] | None = None, seed: int = 0, **other: Any) -> Tools:
    """The tools that a method declares, and nothing else; what it uses of them is counted by need."""
    counts: Counter[str] = Counter() if used is None else used
    folder, teacher = registry.prompts_folder(type(method)), FakeTeacher(counts)
    given: dict[str, Any] = {
        "student": FakeStudent(counts),
        "teacher": teacher if method.needs & {Need.TEACHER_TEXT, Need.TEACHER_SCORES} else None,
        "critic": FakeCritic(counts) if Need.CRITIC in method.needs else None,
        "solutions": teacher.solutions if Need.SOLUTION in method.needs else None,
        "template": lambda name: load(folder, "en", name),
        "seed": seed,
        **other,
    }
    return Tools(**{**dict.fromkeys(field.name for field in fields(Tools)), **given})

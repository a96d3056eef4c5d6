"""Tools without servers or models: what methods may ask, answered by the pocket world's own writers and scripts."""

from __future__ import annotations

import math
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
from harness.types import ASKING, Failure, Message, Need, Prompt, Rollout


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

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return codec().prompt(messages)

    def written(self, prompt: Prompt, text: str) -> Rollout:
        tokens = codec().completion(prompt.messages, text)
        return Rollout(prompt, codec().prompt(prompt.messages), tokens, None, text, "stop")


class FakeChooser:
    """Makes letter log-probs up from the question's words, and counts the questions under a need's name."""

    def __init__(self, used: Counter[str], need: str) -> None:
        self.counts, self.need = used, need

    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        self.counts[self.need] += len(questions)
        return [[self._logprob(messages[-1]["content"], letter) for letter in letters] for messages in questions]

    def _logprob(self, question: str, letter: str) -> float:
        return math.log(0.45 * python_random("fake choice", question, letter).random() + 0.01)


class FakeTeacher(FakeChooser):
    """A careful writer; the scores are made up. A prompt in `broken` gets a Failure."""

    def __init__(self, used: Counter[str], broken: frozenset[str] = frozenset()) -> None:
        super().__init__(used, "TEACHER_CHOICE")
        self.used, self.broken = used, broken

    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        self.used["TEACHER_TEXT"] += len(prompts)
        return [
            Failure("judge_error", "no teacher") if prompt.id in self.broken else [self._text(prompt, i) for i in range(count)]
            for prompt in prompts
        ]

    def _text(self, prompt: Prompt, i: int) -> str:
        if prompt.messages[-1]["content"].startswith("judge "):
            return f"{python_random('fake verdict', prompt.messages[-1]['content']).choice('AB')} because B breaks opening ."
        return demonstrate(parse(prompt.messages[-1]["content"]), python_random("fake teacher", prompt.id, i))

    def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
        self.used["TEACHER_SCORES"] += len(rollouts)
        return [
            Failure("judge_error", "no teacher") if r.prompt.id in self.broken
            else [-2 * python_random("fake score", *r.tokens[: t + 1]).random() for t in range(len(r.tokens))]
            for r in rollouts
        ]  # fmt: skip

    def likeliest(self, rollouts: Sequence[Rollout], count: int) -> list[list[list[tuple[int, float]]] | Failure]:
        self.used["TEACHER_TOP"] += len(rollouts)
        return [
            Failure("judge_error", "no teacher") if r.prompt.id in self.broken
            else [[((token + i) % 8, math.log(0.5 ** (i + 1))) for i in range(count)] for token in r.tokens]
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


class FakeOutcomes:
    """A coin for each answer; a prompt in `broken` gets a Failure."""

    def __init__(self, used: Counter[str], broken: frozenset[str] = frozenset()) -> None:
        self.used, self.broken = used, broken

    def __call__(self, groups: Sequence[Sequence[Rollout]]) -> list[list[float] | Failure]:
        self.used["OUTCOME"] += len(groups)
        return [
            Failure("judge_error", "no check") if group[0].prompt.id in self.broken
            else [float(python_random("fake outcome", rollout.prompt.id, rollout.text).random() < 0.5) for rollout in group]
            for group in groups
        ]  # fmt: skip


class FakePreferences:
    """Shorter answers are better; equal texts have equal places. A prompt in `broken` gets a Failure."""

    def __init__(self, used: Counter[str], broken: frozenset[str] = frozenset()) -> None:
        self.used, self.broken = used, broken

    def __call__(self, groups: Sequence[Sequence[Rollout]]) -> list[list[int] | Failure]:
        self.used["PREFERENCES"] += len(groups)
        return [
            Failure("judge_error", "no order") if group[0].prompt.id in self.broken
            else [sorted({(len(r.text), r.text) for r in group}).index((len(rollout.text), rollout.text)) for rollout in group]
            for group in groups
        ]  # fmt: skip


def tools_for(method: Method, used: Counter[str] | None = None, seed: int = 0, **other: Any) -> Tools:
    """The tools that a method declares, and nothing else; what it uses of them is counted by need."""
    counts: Counter[str] = Counter() if used is None else used
    folder, teacher = registry.prompts_folder(type(method)), FakeTeacher(counts)
    given: dict[str, Any] = {
        "student": FakeStudent(counts),
        "teacher": teacher if method.needs & ASKING else None,
        "critic": FakeCritic(counts) if Need.CRITIC in method.needs else None,
        "reference": FakeChooser(counts, "REFERENCE") if Need.REFERENCE in method.needs else None,
        "solutions": teacher.solutions if Need.SOLUTION in method.needs else None,
        "outcomes": FakeOutcomes(counts) if Need.OUTCOME in method.needs else None,
        "preferences": FakePreferences(counts) if Need.PREFERENCES in method.needs else None,
        "template": lambda name, reader="critic": load(folder, "en" if reader == "critic" else "pocket", name),
        "seed": seed,
        **other,
    }
    return Tools(**{**dict.fromkeys(field.name for field in fields(Tools)), **given})

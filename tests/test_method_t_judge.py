"""T-Judge: whole scores of a group become its rewards, whatever the order in which its answers were shown."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import FakeStudent, tools_for
from tiny import batch_of, models_of, tiny

from harness import registry
from harness.method import Ask, Method
from harness.pocket.protocol import fenced
from harness.types import Collected, Example, Failure, Prompt, Rollout

SCORES = [9, 2, 2, 7, 0]


def method_of(**settings: Any) -> Method:
    cls = registry.method("t_judge")
    return cls(cls.Config(**{"group_size": len(SCORES), **settings}))


class Writer(FakeStudent):
    """Answers that end in their score; the first carries a thought."""

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        texts = [f"{'0</think> ' if not i else ''}answer {i} {score}" for i, score in enumerate(SCORES[:count])]
        return [[replace(self.written(p, text), logprobs=[-1.0] * 9, tokens=[2] * 9) for text in texts] for p in prompts]


class Reader:
    """A critic that believes the last word of an answer."""

    def __init__(self, silent: str = "") -> None:
        self.silent, self.asked = silent, list[Ask]()

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        self.asked += asks
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Any:
        found = fenced(ask.messages)
        if found["question"] == [self.silent] and any(text.endswith(" 7") for text in found["answer"]):
            return Failure("refused", "no scores")
        return ask.parse(json.dumps({"schema_version": "scores.v1", "scores": [int(t.split()[-1]) for t in found["answer"]]}))


def collect(critic: Reader, names: str = "abcdef", seed: int = 0, **settings: Any) -> Collected:
    method, used = method_of(**settings), [Prompt(n, ({"role": "user", "content": f"question {n}"},)) for n in names]
    return method.collect(used, tools_for(method, critic=critic, student=Writer(Counter()), seed=seed))


def test_scores_find_their_answers_whatever_order_they_were_shown_in() -> None:
    critic = Reader()
    examples = collect(critic).examples
    assert [e.signal["reward_N"] for e in examples] == [[0.9, 0.2, 0.2, 0.7, 0.0]] * 6
    shown = [tuple(fenced(ask.messages)["answer"]) for ask in critic.asked]
    assert len(shown) == 6
    assert len(set(shown)) > 3
    assert all(sorted(texts) == [f"answer {i} {score}" for i, score in enumerate(SCORES)] for texts in shown)
    assert "teacher" not in str(critic.asked[0].messages)
    assert critic.asked[0].schema is not None
    assert critic.asked[0].schema["title"] == "scores.v1"


def test_answers_may_be_scored_in_several_calls() -> None:
    critic = Reader()
    examples = collect(critic, "ab", answers_per_call=2).examples
    assert [e.signal["reward_N"] for e in examples] == [[0.9, 0.2, 0.2, 0.7, 0.0]] * 2
    assert [len(fenced(ask.messages)["answer"]) for ask in critic.asked] == [2, 2, 1] * 2


@pytest.mark.parametrize("per_call", [None, 1, 3])
def test_a_group_whose_scores_failed_is_lost_whole(per_call: int | None) -> None:
    collected = collect(Reader(silent="question b"), "abc", answers_per_call=per_call)
    assert [e.rollouts[0].prompt.id for e in collected.examples] == ["a", "c"]
    (lost,) = collected.lost
    assert (lost.rollouts[0].prompt.id, len(lost.rollouts), lost.note["failure"]) == ("b", 5, "refused: no scores")


def test_the_control_permutes_scores_inside_the_group() -> None:
    examples, again = (collect(Reader(), signal="shuffled").examples for _ in range(2))
    rewards: list[Any] = [e.signal["reward_N"] for e in examples]
    assert examples == again
    assert all(sorted(row) == [0.0, 0.2, 0.2, 0.7, 0.9] for row in rewards)
    assert len({tuple(row) for row in rewards}) > 2
    assert [e.signal["reward_N"] for e in collect(Reader(), signal="shuffled", seed=1).examples] != rewards


def test_its_loss_is_that_of_ropd() -> None:
    rollouts = tuple(Rollout(Prompt("p", ()), [2], [3] * n, [-2.0] * n, "", "stop") for n in (3, 1, 2, 2))
    batch = batch_of([Example(rollouts, {"reward_N": [1.0, 0.6, 0.2, 0.6]})])
    models = models_of(tiny())
    ropd = registry.method("ropd")
    for settings in ({}, {"standardise": True}, {"dual_clip": 1.5, "sampler_cap": 0.7}):
        ours, theirs = method_of(**settings), ropd(ropd.Config(**settings))
        assert torch.equal(ours.loss(models, batch)["loss"].sum, theirs.loss(models, batch)["loss"].sum)
        assert ours.weights(batch) == theirs.weights(batch) == {"loss": 8.0}

"""Best of n: which of the student's samples is imitated, and by how much."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from fakes import FakePreferences, FakeStudent, codec, prompts, tools_for
from tiny import batch_of, models_of, tiny

from harness.types import Collected
from methods.best_of_n import BestOfN, Config


def collected(count: int = 3, seed: int = 0, broken: frozenset[str] = frozenset(), **settings: Any) -> Collected:
    method = BestOfN(Config(**settings))
    tools = tools_for(method, student=FakeStudent(Counter()), preferences=FakePreferences(Counter(), broken), seed=seed)
    return method.collect(prompts(count), tools)


def test_the_best_of_each_group_is_imitated() -> None:
    groups = FakeStudent(Counter()).rollouts(prompts(3), 8, 1.0)
    shortest = [min(group, key=lambda rollout: (len(rollout.text), rollout.text)) for group in groups]
    found = collected()
    assert [example.rollouts for example in found.examples] == [(rollout,) for rollout in shortest]
    assert [example.note["candidates"] for example in found.examples] == [[r.text for r in group] for group in groups]
    assert all(example.note["places"][example.note["chosen"]] == 0 for example in found.examples)


def test_its_loss_is_the_mean_cross_entropy_over_the_best_ones_tokens() -> None:
    size = len(codec().tokenizer)
    method, found, model = BestOfN(Config()), collected(), tiny(vocabulary=size)
    batch = batch_of(found.examples)
    loss = method.loss(models_of(model, vocabulary=size), batch)["loss"].sum / method.weights(batch)["loss"]
    logps = []
    for example in found.examples:
        (row,) = example.rollouts
        logits = model(input_ids=torch.tensor([row.prompt_tokens + row.tokens])).logits[0, len(row.prompt_tokens) - 1 : -1]
        logps += logits.log_softmax(-1)[range(len(row.tokens)), row.tokens].tolist()
    assert float(loss.detach()) == pytest.approx(-sum(logps) / len(logps), rel=1e-9)


def test_a_group_that_nobody_ranked_is_lost_whole() -> None:
    found = collected(broken=frozenset({"list-1"}))
    assert [example.rollouts[0].prompt.id for example in found.examples] == ["list-0", "list-2"]
    assert [(len(group.rollouts), group.note["failure"]) for group in found.lost] == [(8, "judge_error: no order")]


def test_shuffled_imitates_any_of_them() -> None:
    chosen = Counter(e.note["chosen"] for seed in range(60) for e in collected(4, seed, signal="shuffled", group_size=4).examples)
    assert set(chosen) == {0, 1, 2, 3}
    assert all(count == pytest.approx(60, abs=30) for count in chosen.values())
    assert collected(4, 7, signal="shuffled") == collected(4, 7, signal="shuffled")

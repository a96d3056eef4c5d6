"""GRPO: outcomes as rewards, standardised in their group; groups that all fare alike cost no pass and still count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import FakeOutcomes, FakeStudent, prompts, tools_for
from tiny import batch_of, make_examples, models_of, tiny, trainer_of
from torch import Tensor

from harness import registry
from harness.method import Method
from harness.train.models import TrainModels
from harness.train.trainer import Optimization
from harness.types import Batch, Example


def method_of(name: str = "grpo", **settings: Any) -> Method:
    cls = registry.method(name)
    return cls(cls.Config(**settings))


def outcomes(method: Method, seed: int = 0) -> list[list[float]]:
    found: list[Any] = [e.signal["reward_N"] for e in method.collect(prompts(6), tools_for(method, seed=seed)).examples]
    return [list(row) for row in found]


def test_outcomes_are_rewards_and_a_group_without_them_is_lost() -> None:
    method = method_of()
    groups = FakeStudent(Counter()).rollouts(prompts(3), 8, 1.0)
    given = FakeOutcomes(Counter(), frozenset({"list-1"}))
    collected = method.collect(prompts(3), tools_for(method, outcomes=given))
    assert [e.signal["reward_N"] for e in collected.examples] == [given(groups)[0], given(groups)[2]]
    assert [(len(e.rollouts), e.note["failure"]) for e in collected.lost] == [(8, "judge_error: no check")]


def test_the_control_permutes_outcomes_inside_the_group() -> None:
    own, mixed = outcomes(method_of()), outcomes(method_of(signal="shuffled"))
    assert [sorted(row) for row in own] == [sorted(row) for row in mixed]
    assert sum(a != b for a, b in zip(own, mixed, strict=True)) >= 3
    assert mixed == outcomes(method_of(signal="shuffled")) != outcomes(method_of(signal="shuffled"), seed=1)


def on_policy(rewards: Sequence[Sequence[float]], policy: Any) -> list[Example]:
    """Examples whose sampler was the policy itself, so that all ratios are 1."""
    examples = []
    for example, row in zip(make_examples(len(rewards), len(rewards[0])), rewards, strict=True):
        logp_NT = models_of(policy).logprobs(batch_of([example])).detach()
        said = [logp_NT[i, : len(r.tokens)].tolist() for i, r in enumerate(example.rollouts)]
        rollouts = tuple(replace(r, logprobs=own) for r, own in zip(example.rollouts, said, strict=True))
        examples.append(Example(rollouts, {"reward_N": list(row)}))
    return examples


@pytest.mark.parametrize(
    ("standardise", "advantages"),
    # unbiased deviation of (1, 0, 0, 0): 1/2, of (1, 1, 0, 0): sqrt(1/3)
    [(True, [[1.5, -0.5, -0.5, -0.5], [0.8660254, 0.8660254, -0.8660254, -0.8660254]]),
     (False, [[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5]])],
)  # fmt: skip
def test_on_policy_the_gradient_is_the_advantage_times_the_score(standardise: bool, advantages: list[list[float]]) -> None:
    policy = tiny()
    batch = batch_of(on_policy([[1, 0, 0, 0], [1, 1, 0, 0]], policy))
    models, method = models_of(policy), method_of(standardise=standardise)
    weight_N1 = torch.tensor([a for row in advantages for a in row], dtype=torch.float64)[:, None]

    def gradient(value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(policy.parameters()))])

    got = gradient(method.loss(models, batch)["loss"].sum)
    wanted = gradient(-(weight_N1 * models.logprobs(batch) * batch.mask_NT).sum())
    assert float((got - wanted).norm() / wanted.norm()) < 1e-5
    assert method.weights(batch) == {"loss": float(batch.mask_NT.sum())}


class ReadsAll(TrainModels):
    """Passes over rows whatever a loss wants to skip."""

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        return super().logprobs(batch, view)


@pytest.mark.parametrize("name", ["grpo", "t_judge", "ropd"])
def test_rows_without_an_advantage_are_not_read_and_nothing_else_changes(name: str) -> None:
    """Also off policy, with clips at work and a middling answer whose advantage is exactly 0."""
    method = method_of(name)
    examples = [Example(e.rollouts, {"reward_N": row}) for e, row in zip(
        make_examples(4), [[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]], strict=True
    )]  # fmt: skip
    found = []
    for kind in (TrainModels, ReadsAll):
        policy = tiny()
        models = models_of(policy)
        models = kind(models.policy, {}, models.charge)
        batch = batch_of(examples)
        term = method.loss(models, batch)["loss"].sum
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(term, list(policy.parameters()))])
        found.append((gradient, float(term.detach())))
        read = [r for i in (1, 3) for j, r in enumerate(examples[i].rollouts) if (i, j) != (1, 2)]
        rows = read if kind is TrainModels else [r for e in examples for r in e.rollouts]
        assert models.policy_tokens == sum(len(r.prompt_tokens) + len(r.tokens) for r in rows)
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-9, atol=1e-12)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-12)
    assert method.weights(batch_of(examples)) == {"loss": sum(len(r.tokens) for e in examples for r in e.rollouts)}


def test_a_round_in_which_all_fare_alike_is_an_update_without_gradient() -> None:
    method = method_of()
    trainer = trainer_of(type(method), config={}, optimization=Optimization(0.01, max_grad_norm=1e9))
    trainer.method = method
    metrics = trainer.step([Example(e.rollouts, {"reward_N": [1.0] * 3}) for e in make_examples(3)], 0)
    assert (metrics["loss/loss"], metrics["grad_norm"], metrics["updates"]) == (0.0, 0.0, 1.0)

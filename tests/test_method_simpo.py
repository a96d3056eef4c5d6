"""SimPO on the student's own pairs: mean log-probs over true lengths, two kinds of pair, the control."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from fakes import FakePreferences, prompts, tools_for
from tiny import batch_of, models_of, naive, tiny
from torch import Tensor

from harness import registry
from harness.types import Batch, Collected, Example, Prompt, Rollout

SimPO = registry.method("simpo")


def simpo(**settings: Any) -> Any:
    return SimPO(SimPO.Config(**settings))


def pair(preferred: float, better: list[int], worse: list[int]) -> Example:
    rows = tuple(Rollout(Prompt("p", ()), [3, 4], tokens, None, "", "stop") for tokens in (better, worse))
    return Example(rows, {"preferred_N": [preferred] * 2})


class Told:
    """The same log-prob at each token of a row."""

    def __init__(self, mean: list[float]) -> None:
        self.mean_N = torch.tensor(mean, dtype=torch.float64)

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        return self.mean_N[:, None] * batch.mask_NT


@pytest.mark.parametrize(
    ("better", "worse", "wanted"),
    [(-0.9, -1.4, 0.1269280), (-1.0, -1.3, math.log(2)), (-1.4, -0.9, 8.0003354)],
)
def test_the_loss_on_known_means(better: float, worse: float, wanted: float) -> None:
    """log(1 + exp(-10 (u_w - u_l - 0.3))): of gaps 0.5, 0.3 and -0.5, whatever the lengths 6 and 2."""
    batch = batch_of([pair(1.0, [1] * 6, [2] * 2)])
    assert float(simpo().loss(Told([better, worse]), batch)["preference"].sum) == pytest.approx(wanted, abs=1e-6)


def test_a_pair_without_a_preference_weighs_in_the_mean_and_costs_nothing() -> None:
    method, batch = simpo(), batch_of([pair(1.0, [5, 2, 1], [9, 1]), pair(0.0, [6, 1], [6, 1])])
    models = models_of(tiny())
    means = [
        sum(float(naive(tiny(), [3, 4], tokens)[t, token].detach()) for t, token in enumerate(tokens)) / len(tokens)
        for tokens in ([5, 2, 1], [9, 1])
    ]  # fmt: skip
    wanted = math.log(1 + math.exp(-10 * (means[0] - means[1] - 0.3)))
    assert float(method.loss(models, batch)["preference"].sum.detach()) == pytest.approx(wanted, rel=1e-9)
    assert method.weights(batch) == {"preference": 2.0}
    assert models.policy_tokens == 9


def collected(found: list[Any], **settings: Any) -> Collected:
    method = simpo(**settings)
    return method.collect(prompts(len(found)), tools_for(method, preferences=lambda groups: found))


def test_extreme_pairs_are_the_ends_and_random_pairs_any_two_in_order() -> None:
    given = [[2, 0, 3, 1]] * 60
    assert {tuple(example.note["pair"]) for example in collected(given, group_size=4).examples} == {(1, 2)}
    drawn = {tuple(example.note["pair"]) for example in collected(given, group_size=4, pair="random").examples}
    assert drawn == {(1, 3), (1, 0), (1, 2), (3, 0), (3, 2), (0, 2)}, "each of the six pairs, the better first"


def test_equal_places_have_no_preference_and_failures_are_lost() -> None:
    found = collected([[0, 0], [1, 0]])
    assert [example.signal["preferred_N"] for example in found.examples] == [[0, 0], [1, 1]]
    asked, method = prompts(2), simpo()
    broken = method.collect(asked, tools_for(method, preferences=FakePreferences(Counter(), frozenset({asked[0].id}))))
    assert (len(broken.examples), len(broken.lost)) == (1, 1)


def test_the_control_permutes_the_places() -> None:
    own, shuffled = (collected([[0, 1]] * 40, signal=signal).examples for signal in ("own", "shuffled"))
    assert 10 <= sum(a.rollouts[0] != b.rollouts[0] for a, b in zip(own, shuffled, strict=True)) <= 30

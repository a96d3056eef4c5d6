"""DPO on the student's own pairs: hand-computed losses, pairs without a preference, failures, the control."""

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

DPO = registry.method("dpo")


def dpo(**settings: Any) -> Any:
    return DPO(DPO.Config(**settings))


def row(tokens: list[int], text: str = "") -> Rollout:
    return Rollout(Prompt("p", ()), [3, 4], tokens, None, text or str(tokens), "stop")


def pair(preferred: float, chosen: list[int], rejected: list[int]) -> Example:
    return Example((row(chosen), row(rejected)), {"preferred_N": [preferred] * 2})


class Told:
    """Summed log-probs as given: all on a row's first token."""

    def __init__(self, policy: list[float], reference: list[float]) -> None:
        self.sums = torch.tensor([policy, reference], dtype=torch.float64)

    def per_token(self, fn: Any, batch: Batch, frozen: Any, keep_N: Tensor) -> tuple[Tensor, ...]:
        assert frozen == [("reference", "")]
        first_NT = torch.zeros_like(batch.mask_NT)
        first_NT[:, 0] = 1
        return tuple(first_NT * torch.where(keep_N, row_N, 0.0)[:, None] for row_N in self.sums)


@pytest.mark.parametrize(("form", "wanted"), [("sigmoid", 0.4740770), ("hinge", 0.5), ("ipo", 0.0)])
def test_the_three_forms_on_known_sums(form: str, wanted: float) -> None:
    """h = (-42 + 50) - (-45 + 48) = 5; a second pair without a preference halves the mean."""
    method, known = dpo(form=form), pair(1.0, [1, 2], [5])
    models = Told([-42, -50], [-45, -48])
    assert float(method.loss(models, batch_of([known]))["preference"].sum) == pytest.approx(wanted, abs=1e-7)
    both = batch_of([known, pair(0.0, [2], [2])])
    models = Told([-42, -50, -9, -1], [-45, -48, -1, -9])
    mean = float(method.loss(models, both)["preference"].sum) / method.weights(both)["preference"]
    assert mean == pytest.approx(wanted / 2, abs=1e-7)


def test_the_loss_of_a_real_model_is_the_one_of_its_whole_logits() -> None:
    policy, reference = tiny(), tiny(seed=1)
    chosen, rejected = [5, 2, 7, 1], [9, 1]
    sums = [
        sum(float(naive(model, [3, 4], tokens)[t, token].detach()) for t, token in enumerate(tokens))
        for model in (policy, reference) for tokens in (chosen, rejected)
    ]  # fmt: skip
    wanted = -math.log(1 / (1 + math.exp(-0.1 * ((sums[0] - sums[1]) - (sums[2] - sums[3])))))
    got = dpo().loss(models_of(policy, {"reference": reference}), batch_of([pair(1.0, chosen, rejected)]))
    assert float(got["preference"].sum.detach()) == pytest.approx(wanted, rel=1e-9)


def test_at_the_start_the_loss_is_log_two_and_pairs_without_a_preference_are_not_read() -> None:
    passes: list[tuple[str, int, int]] = []
    models = models_of(tiny(), {"reference": tiny()}, lambda *charged: passes.append(charged))
    batch = batch_of([pair(1.0, [5, 2, 1], [9, 1]), pair(0.0, [6, 6, 6, 1], [6, 6, 6, 1])])
    loss = dpo().loss(models, batch)["preference"].sum
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert passes == [("reference", 9, 5)]  # prompts and completions of the first pair alone


def collected(found: list[Any], **settings: Any) -> Collected:
    method = dpo(**settings)
    return method.collect(prompts(len(found)), tools_for(method, preferences=lambda groups: found))


def test_the_best_and_the_worst_make_the_pair_with_the_best_first() -> None:
    found = collected([[2, 0, 3, 1], [1, 1, 0, 2], [0, 0, 0, 0]], group_size=4)
    assert [example.note["pair"] for example in found.examples] == [[1, 2], [2, 3], [0, 3]]
    assert [example.signal["preferred_N"] for example in found.examples] == [[1, 1], [1, 1], [0, 0]]
    for example in found.examples:
        best, worst = example.note["pair"]
        assert [rollout.text for rollout in example.rollouts] == [example.note["texts"][best], example.note["texts"][worst]]
        assert len(example.note["places"]) == 4


def test_a_failed_order_leaves_the_batch_and_its_mean() -> None:
    asked = prompts(3)
    method = dpo()
    found = method.collect(asked, tools_for(method, preferences=FakePreferences(Counter(), frozenset({asked[1].id}))))
    assert [example.rollouts[0].prompt.id for example in found.examples] == [asked[0].id, asked[2].id]
    assert found.lost[0].note == {"failure": "judge_error: no order"}
    assert method.weights(batch_of(found.examples)) == {"preference": 2.0}


def test_the_control_permutes_the_places_and_keeps_who_has_a_preference() -> None:
    given = [[0, 1]] * 40
    own, shuffled = (collected(given, signal=signal).examples for signal in ("own", "shuffled"))
    turned = sum(a.rollouts[0] != b.rollouts[0] for a, b in zip(own, shuffled, strict=True))
    assert 10 <= turned <= 30
    assert all(sorted(example.note["places"]) == [0, 1] for example in shuffled)
    assert all(example.signal == {"preferred_N": [1.0, 1.0]} for example in shuffled)
    assert [example.signal for example in collected([[0, 0]], signal="shuffled").examples] == [{"preferred_N": [0.0, 0.0]}]

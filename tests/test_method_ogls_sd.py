"""OGLS-SD on hand-computed numbers: who is taught, by which target, on which tokens."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import FakeOutcomes, codec, prompts, tools_for
from test_steering import ANCHOR, NEGATIVE, POSITIVE, TARGETS, table_model
from tiny import batch_of, ids, models_of, naive, tiny
from torch import Tensor

from harness import registry
from harness.prompts import load
from harness.types import Batch, Collected, Example, Message, Prompt, Rollout
from methods.ogls_sd import OGLSSD, Config

ASKED = Prompt("p", ({"role": "user", "content": "do it"},))


class Script:
    """A student whose group is given; the context of its rollout j is the prompt of the one id j + 1."""

    def __init__(self, completions: Sequence[Sequence[int]], prompt: Sequence[int], cut: Sequence[int]) -> None:
        self.group = [
            Rollout(ASKED, list(prompt), list(tokens), None, f"a {j + 1}", "length" if j in cut else "stop")
            for j, tokens in enumerate(completions)
        ]

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        assert count == len(self.group)
        return [self.group for _ in prompts]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        return [int(word) for word in messages[-1]["content"].split()[1:]] or [10]


def collected(
    completions: Sequence[Sequence[int]], right: Sequence[int], prompt: Sequence[int] = (0,), cut: Sequence[int] = (),
    **settings: Any,
) -> tuple[OGLSSD, Collected]:  # fmt: skip
    method = OGLSSD(Config(group_size=len(completions), **settings))
    tools = tools_for(
        method, student=Script(completions, prompt, cut), outcomes=lambda groups: [[float(r) for r in right] for _ in groups],
        template=lambda name, reader: lambda question, attempt: [{"role": "user", "content": attempt}],
    )  # fmt: skip
    return method, method.collect([ASKED], tools)


def terms(method: OGLSSD, models: Any, batch: Batch) -> dict[str, Tensor]:
    """Each term as it is before its coefficient."""
    weights = method.weights(batch)
    return {name: term.sum / max(weights[name], 1.0) for name, term in method.loss(models, batch).items()}


def gradient(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def steered(**settings: Any) -> tuple[float, Tensor]:
    """KL of a uniform student from the target of the last of three rollouts, and its gradient by the student's logits."""
    method, found = collected([[0], [0], [0]], [1, 1, 0], tail_weight=0.0, **settings)
    student, reference = table_model([[0.0] * 3]), table_model([ANCHOR, *POSITIVE, *NEGATIVE])  # type: ignore[list-item]
    loss = terms(method, models_of(student, {"reference": reference}, vocabulary=3), batch_of(found.examples))["kl"]
    loss.backward()
    return float(loss.detach()), student.lm_head.weight.grad[:3, 0] / 4  # a looked-up hidden state is 4 long


@pytest.mark.parametrize("strength", TARGETS)
def test_a_wrong_rollout_is_taught_the_steered_target(strength: float) -> None:
    loss, slope = steered(strength=strength)
    target = torch.tensor(TARGETS[strength], dtype=torch.float64)
    assert torch.allclose(slope, 1 / 3 - target, 0.0, 1e-6)
    assert loss == pytest.approx(float((target * (3 * target).log()).sum()), abs=1e-5)


def test_an_element_clip_pushes_the_promoted_token_down_and_the_default_does_not() -> None:
    loss, slope = steered()
    assert loss == pytest.approx(0.883085, abs=1e-6)
    assert slope.tolist() == pytest.approx([-0.615547, 0.286091, 0.329455], abs=1e-6)
    loss, slope = steered(clip="vocab_element")
    assert loss == pytest.approx(-0.059576, abs=1e-6)
    assert slope.tolist() == pytest.approx([0.017040, -0.030202, 0.013162], abs=1e-6)
    assert steered(clip="token_sum")[0] == pytest.approx(0.05)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_without_the_wrong_ones_the_target_lies_between_anchor_and_right_ones(strength: float) -> None:
    slope = steered(strength=strength, pools="positive")[1]
    anchor, right = torch.tensor(ANCHOR, dtype=torch.float64), torch.tensor(POSITIVE, dtype=torch.float64).mean(0)
    assert torch.allclose(slope, 1 / 3 - torch.softmax(anchor + strength * (right - anchor), -1), 0.0, 1e-12)


def test_targets_on_whole_models_equal_the_closed_form() -> None:
    rng = random.Random(1)
    completions, prompt, right = [ids(rng, 2, 6) for _ in range(5)], [3, 4], [1, 0, 1, 0, 0]
    method, found = collected(completions, right, prompt, strength=0.7, horizon=3)
    student, reference = tiny(), tiny(seed=1)
    scored: Counter[str] = Counter()
    models = models_of(
        student, {"reference": reference}, charge=lambda name, read, tokens: scored.update({name: tokens}), temperature=1.1
    )  # fmt: skip
    got = terms(method, models, batch_of(found.examples))["kl"]
    kl = []
    for i in (1, 3, 4):
        z = {j: naive(reference, [j + 1], completions[i], 1.1) for j in range(5) if j != i}
        wrong = [z[j] for j in (1, 3, 4) if j != i]
        delta = torch.stack([z[0], z[2]]).mean(0) - torch.stack(wrong).mean(0)
        target = torch.log_softmax(naive(reference, prompt, completions[i], 1.1) + 0.7 * delta, -1)
        kl.append((target.exp() * (target - naive(student, prompt, completions[i], 1.1))).sum(-1)[:3])
    assert float(got.detach()) == pytest.approx(float(torch.cat(kl).mean().detach()), rel=1e-9)
    assert scored["reference"] == 5 * sum(map(len, kl))  # the anchor and the four others, for wrong rollouts alone
    tails = [completions[i] for i in found.examples[0].note["kept"] if right[i]]
    assert tails
    assert models.policy_tokens == sum(len(prompt) + length for length in (*map(len, kl), *map(len, tails)))


def powers(right: Sequence[int], **settings: Any) -> list[list[float]]:
    (example,) = collected([[0]] * len(right), right, tail_weight=0.0, **settings)[1].examples
    names = ["anchor_N", *(f"context{j}_N" for j in range(len(right)))]
    return [list(row) for row in zip(*(example.signal[name] for name in names), strict=True)]


def test_a_wrong_rollout_is_no_context_of_its_own_unless_it_is_the_only_one() -> None:
    assert powers([1, 0, 0, 0]) == [[1, 1, 0, -0.5, -0.5], [1, 1, -0.5, 0, -0.5], [1, 1, -0.5, -0.5, 0]]
    assert powers([1, 0, 1], strength=3.0) == [[1, 1.5, -3, 1.5]]
    assert powers([1, 0, 0], strength=0.0) == [[1, 0, 0, 0]] * 2
    assert powers([1, 0, 0], pools="positive", strength=0.25) == [[0.75, 0.25, 0, 0]] * 2


def test_the_anchor_alone_teaches_an_unchanged_student_nothing() -> None:
    method, found = collected([[1, 2], [3, 4, 5], [2]], [1, 0, 0], strength=0.0, tail_weight=0.0)
    for seed, still in ((0, True), (1, False)):
        student = tiny()
        loss = terms(method, models_of(student, {"reference": tiny(seed=seed)}), batch_of(found.examples))["kl"]
        loss.backward()
        assert (abs(float(loss.detach())) < 1e-12) == still
        assert (float(gradient(student).norm()) < 1e-9) == still


def test_only_the_first_tokens_of_wrong_rollouts_bear_the_divergence() -> None:
    method, found = collected([[1, 2, 3, 4, 5], [6, 7, 8, 9, 1], [2, 3]], [1, 0, 0], horizon=2, tail_tokens=2)
    models, batch = models_of(tiny(), {"reference": tiny(seed=1)}), batch_of(found.examples)
    assert found.examples[0].note["kept"] == [0, 1, 2]
    assert method.weights(batch) == {"kl": 4.0, "tail": 2.0}

    def kl_with(row: int, column: int) -> float:
        tokens_NT = batch.tokens_NT.clone()
        tokens_NT[row, column] = 0
        return float(terms(method, models, replace(batch, tokens_NT=tokens_NT))["kl"].detach())

    plain = float(terms(method, models, batch)["kl"].detach())
    unseen = [(0, 0), (0, 1), (0, 4), (1, 2), (1, 4), (2, 2), (2, 4)]  # right, beyond the horizon, padding
    assert [kl_with(*place) for place in unseen] == pytest.approx([plain] * len(unseen), abs=1e-12)
    assert abs(kl_with(1, 0) - plain) > 1e-6


def test_the_tail_is_that_of_right_rollouts_that_are_short_and_ended() -> None:
    completions = [[1, 2, 3, 4], [5, 6], [7, 8, 9], [1] * 6, [2] * 5, [3]]
    method, found = collected(completions, [1, 1, 1, 1, 1, 0], cut=[1], tail_tokens=3)
    (example,) = found.examples
    assert example.note["kept"] == [0, 2, 5]  # the middle length is 4; rollout 1 did not end, 5 is wrong
    assert example.signal["tail_NT"] == [[0, 1, 1, 1], [1, 1, 1], [0]]
    student = tiny()
    got = terms(method, models_of(student, {"reference": tiny(seed=1)}), batch_of([example]))["tail"]
    logp = [naive(student, [0], t)[range(len(t)), t][-3:] for t in (completions[0], completions[2])]
    assert float(got.detach()) == pytest.approx(-float(torch.cat(logp).mean().detach()), rel=1e-9)
    loss = method.loss(models_of(student, {"reference": tiny(seed=1)}), batch_of([example]))
    assert {name: term.coef for name, term in loss.items()} == {"kl": 1.0, "tail": 0.1}


def test_a_group_that_is_all_wrong_teaches_nothing() -> None:
    found = collected([[1], [2, 3]], [0, 0])[1]
    assert (found.examples, found.lost) == ([], ())
    assert found.silent[0].note == {"group": "all wrong", "right": 0, "wrong": 2, "outcomes": [False, False]}
    assert len(found.silent[0].rollouts) == 2


def test_a_group_that_is_all_right_has_tails_alone() -> None:
    method, found = collected([[1], [2, 3]], [1, 1])
    (example,) = found.examples
    assert (example.note["group"], example.note["kept"]) == ("all right", [0])
    assert method.weights(batch_of([example])) == {"kl": 0.0, "tail": 1.0}
    student = tiny()
    loss = terms(method, models_of(student, {"reference": tiny(seed=1)}), batch_of([example]))["kl"]
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(gradient(student).abs().max()) == 0.0
    assert len(collected([[1], [2, 3]], [1, 1], tail_weight=0.0)[1].silent) == 1
    assert len(collected([[1], [2, 3]], [1, 1], cut=[0, 1])[1].silent) == 1


def test_a_long_context_loses_its_middle() -> None:
    method = OGLSSD(Config(group_size=2, max_context=6))
    asked, short, long = prompts(1)[0], "hello .", "one two three four five one two three ."
    group = [replace(tools_for(method).student.written(asked, text), logprobs=None) for text in (short, long)]
    student: Any = tools_for(method).student
    student.rollouts = lambda *_: [group]
    found = method.collect([asked], tools_for(method, student=student, outcomes=lambda groups: [[1.0, 0.0]]))
    (example,) = found.examples
    wanted = [f"{asked.question} hint : {text}" for text in (short, "one two three two three .")]
    assert [example.views[f"context{j}"] for j in range(2)] == [
        [codec().prompt([{"role": "user", "content": text}])] * 2 for text in wanted
    ]
    assert example.note["contexts_cut"] == 1


def test_real_models_find_the_question_and_the_fenced_attempt_without_its_outcome() -> None:
    template = load(registry.prompts_folder(OGLSSD), "en", "context")
    (message,) = template(question="Add one and two.", attempt="It is four.")
    assert message["role"] == "user"
    assert message["content"].startswith("Add one and two.\n")
    assert re.search(r"<attempt (\w{8})>\nIt is four\.\n</attempt \1>", message["content"])


def outcomes(signal: Any, seed: int = 0) -> list[list[bool]]:
    method = OGLSSD(Config(signal=signal))
    found = method.collect(prompts(6), tools_for(method, seed=seed))
    groups: list[Example] = [*found.examples, *found.silent]
    return [example.note["outcomes"] for example in groups]


def test_the_control_permutes_outcomes_within_their_groups() -> None:
    own, shuffled = outcomes("own"), outcomes("shuffled")
    assert [sum(each) for each in own] == [sum(each) for each in shuffled]
    assert own != shuffled
    assert shuffled == outcomes("shuffled")
    assert shuffled != outcomes("shuffled", seed=1)


def test_a_failed_check_loses_its_group_alone() -> None:
    method, asked = OGLSSD(Config()), prompts(3)
    found = method.collect(asked, tools_for(method, outcomes=FakeOutcomes(Counter(), frozenset({asked[1].id}))))
    assert [example.note["failure"] for example in found.lost] == ["judge_error: no check"]
    assert len(found.lost[0].rollouts) == 8
    assert asked[1].id not in {example.rollouts[0].prompt.id for example in (*found.examples, *found.silent)}

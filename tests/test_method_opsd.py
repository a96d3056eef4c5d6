"""OPSD on hand-computed numbers: which divergence, which view, what a clip does to the gradient."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from fakes import FakeTeacher, codec, prompts, tools_for
from pydantic import ValidationError
from test_steering import table_model
from tiny import batch_of, make_examples, models_of, naive, tiny
from torch import Tensor

from harness import registry
from harness.prompts import load
from harness.types import Batch, Example, Prompt, Rollout
from methods.opsd import OPSD, Config

P, Q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]


def value(config: Config, models: Any, batch: Batch) -> Tensor:
    method = OPSD(config)
    return method.loss(models, batch)["loss"].sum / method.weights(batch)["loss"]


def of_three(config: Config) -> tuple[float, Tensor]:
    """The loss at one position with teacher P and student Q, and its gradient with respect to the student's logits."""
    student, teacher = table_model([[math.log(q) for q in Q]]), table_model([[0.0] * 3, [math.log(p) for p in P]])
    example = Example((Rollout(Prompt("p", ()), [0], [0], None, "", "stop"),), views={"hint": [[1]]})
    loss = value(config, models_of(student, {"reference": teacher}, vocabulary=3), batch_of([example]))
    loss.backward()
    return float(loss.detach()), student.lm_head.weight.grad[:3, 0] / 4  # a looked-up hidden state is 4 long


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, 0.373386), ({"divergence": "reverse"}, 0.421968), ({"divergence": "jsd"}, 0.094362),
        ({"clip": "vocab_element"}, -0.169722), ({"clip": "token_sum"}, 0.05),
    ],
)  # fmt: skip
def test_the_loss_equals_the_hand_computed_divergence(settings: dict[str, Any], wanted: float) -> None:
    assert of_three(Config(**settings))[0] == pytest.approx(wanted, abs=1e-6)


def test_an_element_clip_reverses_the_gradient_and_the_default_does_not() -> None:
    """Descent must raise token 0, of which the teacher thinks more; the released clip lowers it."""
    default, clipped, summed = (of_three(Config(clip=clip))[1] for clip in ("none", "vocab_element", "token_sum"))
    assert default.tolist() == pytest.approx([-0.4, 0.1, 0.3], abs=1e-9)
    assert clipped.tolist() == pytest.approx([0.09, -0.11, 0.02], abs=1e-9)
    assert summed.tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-12)
    assert Config().clip == "none"


@pytest.mark.parametrize("norm", ["token", "sequence"])
def test_every_row_is_read_behind_its_own_prompt_and_averaged_as_set(norm: str) -> None:
    student, reference, temperature = tiny(), tiny(seed=1), 1.1
    examples = make_examples(groups=4, size=1)
    per_rollout = []
    for example in examples:
        (rollout,), (hint,) = example.rollouts, example.views["hint"]
        q = naive(student, rollout.prompt_tokens, rollout.tokens, temperature)
        p = naive(reference, list(hint), rollout.tokens, temperature)
        per_rollout.append((p.exp() * (p - q)).sum(-1))
    assert len({len(each) for each in per_rollout}) > 1
    means = torch.cat(per_rollout).mean(), torch.stack([each.mean() for each in per_rollout]).mean()
    models = models_of(student, {"reference": reference}, temperature=temperature)
    got = value(Config(norm=norm), models, batch_of(examples))
    assert float(got.detach()) == pytest.approx(float(means[norm == "sequence"].detach()), rel=1e-9)
    assert float(means[0].detach()) != pytest.approx(float(means[1].detach()), rel=1e-3)


def test_the_teacher_reads_the_solution_and_the_student_does_not() -> None:
    method, asked = OPSD(Config()), prompts(3)
    found = method.collect(asked, tools_for(method))
    for prompt, example in zip(asked, found.examples, strict=True):
        (rollout,), (hint,) = example.rollouts, example.views["hint"]
        told = f"{prompt.question} hint : {example.note['solution']}"
        assert hint == codec().prompt([{"role": "user", "content": told}])
        assert rollout.prompt_tokens == codec().prompt(prompt.messages)


def test_the_control_shows_another_prompts_solution() -> None:
    def solutions(signal: Any) -> list[str]:
        method = OPSD(Config(signal=signal))
        return [example.note["solution"] for example in method.collect(prompts(3), tools_for(method)).examples]

    own = solutions("own")
    assert len(set(own)) == 3
    assert solutions("shuffled") == [own[1], own[2], own[0]]


def test_earlier_turns_stay_before_the_hint() -> None:
    first = prompts(1)[0].messages[0]
    talk = Prompt("talk", (first, {"role": "assistant", "content": "hello ."}, first))
    method = OPSD(Config())
    tools = tools_for(method, solutions=lambda prompts: ["goodbye ."])
    (example,) = method.collect([talk], tools).examples
    last = {"role": "user", "content": f"{first['content']} hint : goodbye ."}
    assert example.views["hint"] == [codec().prompt([*talk.messages[:2], last])]


def test_real_models_find_the_question_and_the_fenced_solution() -> None:
    (message,) = load(registry.prompts_folder(OPSD), "en", "hint")(question="Add one and two.", solution="It is three.")
    assert message["role"] == "user"
    assert message["content"].startswith("Add one and two.\n")
    assert re.search(r"<reference (\w{8})>\nIt is three\.\n</reference \1>", message["content"])


def test_a_missing_solution_loses_its_group_alone() -> None:
    method, asked = OPSD(Config(group_size=2)), prompts(3)
    used: Any = tools_for(method)
    teacher = FakeTeacher(used.student.used, frozenset({asked[1].id}))
    found = method.collect(asked, tools_for(method, solutions=teacher.solutions))
    assert [example.rollouts[0].prompt.id for example in found.examples] == [asked[0].id, asked[2].id]
    assert [example.note["failure"] for example in found.lost] == ["judge_error: no teacher"]
    tokens = sum(len(rollout.tokens) for example in found.examples for rollout in example.rollouts)
    assert method.weights(batch_of(found.examples)) == {"loss": tokens}


def test_a_clip_goes_with_the_forward_divergence_alone() -> None:
    with pytest.raises(ValidationError, match="cuts the forward divergence"):
        Config(clip="token_sum", divergence="jsd")

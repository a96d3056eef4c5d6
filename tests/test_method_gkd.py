"""GKD: whose texts it takes, and its divergence against another way of computing it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from fakes import FakeTeacher, prompts, tools_for
from tiny import VOCABULARY, batch_of, make_examples, models_of, naive, tiny

from harness.train.trainer import Optimization, Trainer
from harness.types import Collected, Example, Prompt, Rollout
from methods.gkd import GKD, Config


def collect(count: int = 60, seed: int = 0, visit: int = 0, used: Counter[str] | None = None, **settings: Any) -> Collected:
    method = GKD(Config(**settings))
    return method.collect(prompts(count, visit=visit), tools_for(method, used, seed))


def writers(found: Collected) -> dict[str, str]:
    return {example.rollouts[0].prompt.id: example.note["writer"] for example in found.examples}


def divergence(p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """By the definition, on probabilities; p is the teacher."""
    m = beta * p + (1 - beta) * q
    return beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)


def test_the_share_of_own_answers_is_lambda_and_only_they_are_sampled() -> None:
    for share, own in ((0.0, 0), (1.0, 400)):
        used: Counter[str] = Counter()
        written = list(writers(collect(400, used=used, on_policy=share)).values())
        assert (written.count("student"), written.count("teacher")) == (own, 400 - own)
        assert (used["rollouts"], used["TEACHER_TEXT"]) == (own, 400 - own)
    used = Counter()
    own = Counter(writers(collect(400, used=used, on_policy=0.3)).values())["student"]
    assert abs(own - 120) < 4 * math.sqrt(400 * 0.3 * 0.7)
    assert (used["rollouts"], used["TEACHER_TEXT"]) == (own, 400 - own)


def test_who_writes_depends_on_the_prompt_its_visit_and_the_seed_alone() -> None:
    whole = writers(collect(30))
    alone = GKD(Config())
    found = [writers(alone.collect([prompt], tools_for(alone))) for prompt in reversed(prompts(30))]
    assert {key: writer for each in found for key, writer in each.items()} == whole
    assert writers(collect(30, seed=1)) != whole
    assert writers(collect(30, visit=1)) != whole
    few = {key for key, writer in writers(collect(30, on_policy=0.2)).items() if writer == "student"}
    assert few < {key for key, writer in whole.items() if writer == "student"}


def test_examples_stand_in_the_order_of_the_prompts_with_their_own_texts() -> None:
    found = collect(12)
    assert [example.rollouts[0].prompt.id for example in found.examples] == [prompt.id for prompt in prompts(12)]
    for example in found.examples:
        assert (example.rollouts[0].logprobs is None) == (example.note["writer"] == "teacher")


def test_a_prompt_whose_teacher_fails_leaves_the_batch() -> None:
    method = GKD(Config())
    written = [key for key, writer in writers(collect(12)).items() if writer == "teacher"]
    used: Counter[str] = Counter()
    found = method.collect(prompts(12), tools_for(method, used, teacher=FakeTeacher(used, frozenset(written[:2]))))
    assert [example.rollouts[0].prompt.id for example in found.lost] == written[:2]
    assert found.lost[0].note == {"failure": "judge_error: no teacher"}
    assert len(found.examples) == 10
    whole, less = (method.weights(batch_of(each.examples))["loss"] for each in (collect(12), found))
    lost = [example for example in collect(12).examples if example.rollouts[0].prompt.id in written[:2]]
    assert less == whole - sum(len(example.rollouts[0].tokens) for example in lost)


class Two:
    """Models whose student and teacher have the same given distribution at every position."""

    def per_token(self, fn: Any, batch: Any, frozen: Any = (), keep_N: Any = None) -> Any:
        assert list(frozen) == [("teacher", "")]
        count = int(batch.mask_NT.sum())
        student, teacher = (torch.tensor([row] * count).double().log() for row in ([0.4, 0.4, 0.2], [0.7, 0.2, 0.1]))
        (value_C,) = fn(student, teacher, torch.zeros(count, dtype=torch.long))
        return (torch.zeros_like(batch.mask_NT).masked_scatter(batch.mask_NT > 0, value_C),)


KNOWN = [(0.5, 0.0462008), (0.1, 0.0165180), (0.9, 0.0170996), (0.0, 0.1837869), (1.0, 0.1920420)]


@pytest.mark.parametrize(("beta", "value"), KNOWN)
def test_the_divergence_of_known_distributions(beta: float, value: float) -> None:
    method, batch = GKD(Config(beta=beta)), batch_of(make_examples(2, 1))
    loss = float(method.loss(Two(), batch)["loss"].sum)  # type: ignore[arg-type]
    assert loss / method.weights(batch)["loss"] == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize(("beta", "signal"), [(0.5, "own"), (0.2, "own"), (0.5, "shuffled")])
def test_the_loss_of_models_is_the_mean_over_tokens_at_the_temperature(beta: float, signal: str) -> None:
    method = GKD(Config(beta=beta, signal=signal))
    policy, teacher = tiny(), tiny(seed=1)
    examples = [Example((example.rollouts[0],), views={"other": example.views["hint"][:1]}) for example in make_examples()]
    rows = []
    for (rollout,), (other,) in ((example.rollouts, example.views["other"]) for example in examples):
        q = naive(policy, rollout.prompt_tokens, rollout.tokens, 0.9).exp()
        p = naive(teacher, list(other) if signal == "shuffled" else rollout.prompt_tokens, rollout.tokens, 0.9).exp()
        rows.append(divergence(p, q, beta))
    batch = batch_of(examples)
    loss = method.loss(models_of(policy, {"teacher": teacher}, temperature=0.9), batch)["loss"].sum
    assert float(loss.detach() / method.weights(batch)["loss"]) == pytest.approx(float(torch.cat(rows).mean().detach()), rel=1e-9)


def test_a_student_that_is_the_teacher_stays() -> None:
    model = tiny()
    value = GKD(Config()).loss(models_of(model, {"teacher": tiny()}), batch_of(make_examples(3, 1)))["loss"].sum
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    assert max(float(p.grad.abs().max()) for p in model.parameters()) < 1e-12


def test_the_control_lets_the_teacher_read_the_next_answers_prompt() -> None:
    own, control = collect(5), collect(5, signal="shuffled")
    assert [example.rollouts for example in own.examples] == [example.rollouts for example in control.examples]
    assert all(not example.views for example in own.examples)
    read = [example.views["other"] for example in control.examples]
    ids = [example.rollouts[0].prompt_tokens for example in control.examples]
    assert read == [[each] for each in (*ids[1:], ids[0])]
    assert all(theirs != [mine] for theirs, mine in zip(read, ids, strict=True))


def test_training_moves_the_student_to_the_teacher_on_a_batch_of_both_writers() -> None:
    texts = [Rollout(Prompt(f"p{i}", ()), [2, i], [3 + i, 4, 1], None if i % 2 else [-1.0] * 3, "", "stop") for i in range(4)]
    trainer = Trainer(
        tiny(), {"teacher": tiny(seed=1)}, GKD(Config()), Optimization(0.01),
        vocabulary=VOCABULARY, temperature=0.9, charge=lambda *_: None,
    )  # fmt: skip
    losses = [trainer.step([Example((rollout,)) for rollout in texts], round_)["loss/loss"] for round_ in range(8)]
    assert losses[-1] < 0.7 * losses[0]

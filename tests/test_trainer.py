"""The trainer: the answers that may not change, updates, faults and state."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Centred, Mixed, WithRatio, batch_of, make_examples, models_of, naive, tiny, trainer_of
from torch import Tensor

from harness.errors import RunFault, SpecError
from harness.method import MethodConfig
from harness.objectives import gather_logprobs
from harness.pocket.pretrain import Shape, make_model, make_tokenizer
from harness.train.collate import micro_batches
from harness.train.load import load_causal_lm
from harness.train.rows import rows_of
from harness.train.trainer import Optimization, Trainer
from harness.types import Batch, Example, Loss, Models, Prompt, Rollout, Term


def gradients(trainer: Trainer, examples: list[Example]) -> tuple[Tensor, dict[str, float]]:
    """The gradient of one update as a vector (clipping is out of reach), and its metrics."""
    trainer.optimization = replace(trainer.optimization, max_grad_norm=math.inf)
    metrics = trainer.step(examples, 0)
    return torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]), metrics


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    "how", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 60}, {"chunk": 1}, {"chunk": 7, "micro_batch_tokens": 45}]
)
def test_micro_batches_and_chunks_do_not_change_loss_or_gradient(how: dict, dtype: torch.dtype, tolerance: float) -> None:
    examples = make_examples()
    wanted, before = gradients(trainer_of(dtype=dtype), examples)
    got, after = gradients(trainer_of(dtype=dtype, **how), examples)
    assert float((got - wanted).norm() / wanted.norm()) < tolerance
    assert after == pytest.approx(before, rel=tolerance)


def test_group_order_does_not_change_loss_or_gradient() -> None:
    examples = make_examples()
    wanted, before = gradients(trainer_of(), examples)
    got, after = gradients(trainer_of(), examples[::-1])
    assert float((got - wanted).norm() / wanted.norm()) < 1e-9
    assert after == pytest.approx(before, rel=1e-9)


def test_padding_does_not_change_loss_or_gradient() -> None:
    """Neither more columns nor what stands in them."""
    examples = make_examples()
    policy, teacher = tiny(), tiny(seed=1)

    def run(batch: Batch) -> tuple[Tensor, Tensor]:
        policy.zero_grad()
        loss = Mixed(MethodConfig()).loss(models_of(policy, {"teacher": teacher}), batch)
        total = sum(term.coef * term.sum for term in loss.values())
        assert isinstance(total, Tensor)
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])

    batch = batch_of(examples)
    width = batch.mask_NT.shape[1]

    def wider(values: Tensor, fill: float) -> Tensor:
        return torch.nn.functional.pad(values, (0, 9), value=fill)

    assert batch.behaviour_logp_NT is not None
    padded = replace(
        batch, tokens_NT=wider(batch.tokens_NT, 7), mask_NT=wider(batch.mask_NT, 0),
        behaviour_logp_NT=wider(batch.behaviour_logp_NT, 5.0),
    )  # fmt: skip
    assert padded.mask_NT.shape[1] == width + 9
    for got, wanted in zip(run(padded), run(batch), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-9)


def test_terms_are_divided_once_by_their_weight_over_the_whole_mini_batch() -> None:
    """Token losses 1, 2, 3 and 4 in rows of three and one: the token mean is 2.5 however they are cut."""

    class Given(Mixed):
        def weights(self, batch: Batch) -> dict[str, float]:
            return {"loss": float(batch.mask_NT.sum())}

        def loss(self, models: Models, batch: Batch) -> Loss:
            logp = models.logprobs(batch)
            return {"loss": Term(((1 + logp - logp.detach()) * batch.signal["value_NT"]).sum())}

    row = [Rollout(Prompt("p", ()), [2], tokens, None, "", "stop") for tokens in ([3, 4, 5], [6])]
    examples = [Example((row[0],), {"value_NT": [[1.0, 2.0, 3.0]]}), Example((row[1],), {"value_NT": [[4.0]]})]
    for budget in (1, 1000):
        assert trainer_of(Given, micro_batch_tokens=budget).step(examples, 0)["loss/loss"] == pytest.approx(2.5)


def test_a_coefficient_scales_its_term_and_no_other() -> None:
    class Louder(Mixed):
        def loss(self, models: Models, batch: Batch) -> Loss:
            loss = super().loss(models, batch)
            return {**loss, "kl": replace(loss["kl"], coef=3 * loss["kl"].coef)}

    class KlOnly(Mixed):
        def loss(self, models: Models, batch: Batch) -> Loss:
            loss = super().loss(models, batch)
            return {**loss, "pg": replace(loss["pg"], coef=0.0)}

    (plain, before), (louder, after), (kl, _) = (gradients(trainer_of(m), make_examples()) for m in (Mixed, Louder, KlOnly))
    assert after["loss/kl"] == pytest.approx(3 * before["loss/kl"])
    assert after["loss/pg"] == before["loss/pg"]
    assert float((louder - plain - 2 * kl).norm() / louder.norm()) < 1e-6


def test_groups_of_equal_rewards_have_exactly_no_gradient_and_stay_in_the_denominator() -> None:
    mixed = make_examples(3)
    flat = [replace(e, signal={"reward_N": [0.1] * 3}) for e in make_examples(3, seed=5)]
    got, metrics = gradients(trainer_of(Centred), flat)
    assert not got.any()
    assert metrics["grad_norm"] == 0.0
    assert metrics["loss/loss"] == 0.0
    assert metrics["updates"] == 1
    alone, _ = gradients(trainer_of(Centred), mixed)
    together, _ = gradients(trainer_of(Centred), mixed + flat)
    tokens = [sum(len(r.tokens) for e in part for r in e.rollouts) for part in (mixed, mixed + flat)]
    assert torch.allclose(together, alone * tokens[0] / tokens[1])


def test_micro_batches_hold_whole_groups_within_the_budget() -> None:
    examples = make_examples(12)
    parts = micro_batches(examples, 90)
    assert sorted(i for part in parts for i in part) == list(range(12))
    assert len(parts) > 2
    for part in parts:
        for view in ("", "hint"):
            width = rows_of(batch_of([examples[i] for i in part]), view).ids_NL.shape
            assert width[0] * width[1] <= 90 or len(part) == 1


def test_a_collected_batch_is_split_into_updates_and_gone_through_in_passes() -> None:
    examples = make_examples(7)
    trainer = trainer_of(config={"updates_per_batch": 3, "passes": 2})
    before = copy.deepcopy(trainer.policy.state_dict())
    metrics = trainer.step(examples, 4)
    assert (metrics["updates"], metrics["skipped"], trainer.updates, trainer.rounds) == (6, 0, 6, 1)
    assert metrics["train_tokens"] == 2 * sum(len(r.prompt_tokens) + len(r.tokens) for e in examples for r in e.rollouts)
    assert metrics.keys() == {"loss/pg", "loss/kl", "grad_norm", "lr", "updates", "skipped", "train_tokens"}
    assert any(not torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())


def test_updates_without_examples_or_weight_are_skipped_and_counted() -> None:
    class Weightless(Mixed):
        def weights(self, batch: Batch) -> dict[str, float]:
            return {"pg": 0.0, "kl": 0.0}

    few = trainer_of(config={"updates_per_batch": 4}).step(make_examples(3), 0)
    assert (few["updates"], few["skipped"]) == (3, 1)
    for trainer, examples in ((trainer_of(Weightless), make_examples()), (trainer_of(), [])):
        before = copy.deepcopy(trainer.policy.state_dict())
        assert trainer.step(examples, 0) == {"updates": 0.0, "skipped": 1.0, "train_tokens": 0.0}
        assert all(torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())


def test_old_logprobs_are_those_before_the_first_update_and_only_where_they_matter() -> None:
    seen: list[Batch] = []

    class Watched(WithRatio):
        def loss(self, models: Models, batch: Batch) -> Loss:
            seen.append(batch)
            return super().loss(models, batch)

    examples = make_examples(4)
    trainer = trainer_of(Watched, config={"updates_per_batch": 2, "passes": 2}, micro_batch_tokens=60)
    rollouts = [r for e in examples for r in e.rollouts]
    before = trainer.score(rollouts)
    by_tokens = {tuple(r.prompt_tokens + r.tokens): scores for r, scores in zip(rollouts, before, strict=True)}
    trainer.step(examples, 0)
    assert len(seen) >= 4
    for batch in seen:
        assert batch.old_logp_NT is not None
        lengths = batch.mask_NT.sum(-1).int().tolist()
        rows = zip(batch.views[""], batch.tokens_NT.tolist(), lengths, batch.old_logp_NT, strict=True)
        for prompt, tokens, length, old in rows:
            wanted = by_tokens[(*prompt, *tokens[:length])]
            assert old[:length].tolist() == pytest.approx(wanted, rel=1e-9)
    seen.clear()
    trainer_of(Watched).step(examples, 0)
    assert [batch.old_logp_NT for batch in seen] == [None]


def test_the_split_into_mini_batches_depends_on_the_seed_and_the_round() -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(Centred):
        def loss(self, models: Models, batch: Batch) -> Loss:
            seen.append(tuple(sorted(batch.tokens_NT.flatten().tolist())))
            return super().loss(models, batch)

    def splits(seed: int, rounds: int = 1) -> list[tuple[int, ...]]:
        seen.clear()
        trainer = trainer_of(Watched, config={"updates_per_batch": 4})
        for _ in range(rounds):
            trainer.step(make_examples(8), seed)
        return seen[-4:]

    assert splits(0) == splits(0)
    assert splits(0) != splits(1)
    assert splits(0) != splits(0, rounds=2)


def test_the_gradient_is_clipped_to_its_norm_and_the_norm_before_is_reported() -> None:
    trainer = trainer_of(optimization=Optimization(0.01, max_grad_norm=1e-3))
    metrics = trainer.step(make_examples(), 0)
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in trainer.parameters if p.grad is not None))
    assert norm == pytest.approx(1e-3, rel=1e-2)
    assert metrics["grad_norm"] > 0.01


def test_learning_rates_follow_their_schedule() -> None:
    constant = Optimization(1.0, warmup_steps=4)
    assert [constant.rate(i) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = Optimization(2.0, warmup_steps=2, schedule="cosine", total_steps=6)
    assert [cosine.rate(i) for i in range(8)] == pytest.approx([1.0, 2.0, 2.0, 1 + 0.5**0.5, 1.0, 1 - 0.5**0.5, 0.0, 0.0])
    trainer = trainer_of(optimization=constant, config={"updates_per_batch": 2})
    assert trainer.step(make_examples(), 0)["lr"] == 0.5
    for wrong in ({"schedule": "cosine"}, {"total_steps": 5}):
        with pytest.raises(SpecError, match="only a cosine schedule has an end"):
            Optimization(1.0, **wrong)


def test_distillation_moves_the_policy_towards_its_teacher() -> None:
    trainer = trainer_of()
    losses = [trainer.step(make_examples(), 0)["loss/kl"] for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_change() -> None:
    examples = make_examples(2)
    examples[1] = replace(examples[1], signal={"reward_N": [0.0, math.inf, 1.0]})
    trainer = trainer_of()
    before = copy.deepcopy(trainer.policy.state_dict())
    with pytest.raises(RunFault, match=r"loss term 'pg' is (nan|-?inf) at update 0, in a micro-batch of 6 rollouts"):
        trainer.step(examples, 0)
    assert all(torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change() -> None:
    class Root(Centred):
        def loss(self, models: Models, batch: Batch) -> Loss:
            logp = models.logprobs(batch)
            return {"loss": Term((logp - logp.detach()).abs().sqrt().sum())}  # 0 with an infinite slope

    trainer = trainer_of(Root)
    before = copy.deepcopy(trainer.policy.state_dict())
    with pytest.raises(RunFault, match="gradient's norm is nan at update 0 although the losses were finite"):
        trainer.step(make_examples(), 0)
    assert all(torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())


def test_weights_and_terms_must_have_the_same_names() -> None:
    class Wrong(Centred):
        def weights(self, batch: Batch) -> dict[str, float]:
            return {"other": 1.0}

    with pytest.raises(ValueError, match=r"Wrong.loss gave \['loss'\], its weights name \['other'\]"):
        trainer_of(Wrong).step(make_examples(), 0)


def test_a_policy_in_half_precision_is_refused() -> None:
    with pytest.raises(SpecError, match="bfloat16"):
        trainer_of(policy=tiny().bfloat16())


def test_a_resumed_trainer_equals_an_uninterrupted_one_bit_for_bit() -> None:
    optimization = Optimization(0.01, warmup_steps=5, weight_decay=0.1)
    config = {"updates_per_batch": 2, "passes": 2}

    def fresh(seed: int) -> Trainer:
        return trainer_of(WithRatio, tiny(seed=seed, dtype=torch.float32), config, torch.float32, optimization)

    whole = fresh(0)
    whole.step(make_examples(seed=1), 0)
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    wanted = whole.step(make_examples(seed=2), 0)
    resumed = fresh(9)
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=False))
    assert resumed.step(make_examples(seed=2), 0) == wanted
    for name, value in whole.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name
    assert (resumed.updates, resumed.rounds) == (8, 2)


def test_scores_come_back_in_order_one_list_a_rollout() -> None:
    trainer = trainer_of(micro_batch_tokens=20, temperature=1.5)
    rollouts = [r for e in make_examples() for r in e.rollouts]
    for rollout, scores in zip(rollouts, trainer.score(rollouts), strict=True):
        wanted = gather_logprobs(naive(trainer.policy, rollout.prompt_tokens, rollout.tokens, 1.5), torch.tensor(rollout.tokens))
        assert scores == pytest.approx(wanted.tolist(), rel=1e-9)
    assert trainer.score([]) == []


def test_a_saved_policy_loads_as_a_hugging_face_folder(tmp_path: Path) -> None:
    trainer = trainer_of(Centred, make_model(Shape(16, 1, 16), 0), dtype=torch.float32)
    trainer.step(make_examples(), 0)
    trainer.save(tmp_path / "model", make_tokenizer())
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    loaded = load_causal_lm(tmp_path / "model")
    for name, value in trainer.policy.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name

"""Adapters: what is trained, what the reference reads, what is merged and saved; and activations that are computed again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import KINDS, VOCABULARY, Centred, WithRatio, batch_of, make_examples, naive, tiny
from torch import Tensor

from harness.errors import CapabilityError, SpecError
from harness.generate.hf import HFGenerator
from harness.method import MethodConfig
from harness.objectives import categorical_kl, gather_logprobs
from harness.pocket.pretrain import make_tokenizer
from harness.train.load import load_causal_lm
from harness.train.lora import Adapter
from harness.train.models import StreamedLM
from harness.train.trainer import Optimization, Trainer
from harness.types import Batch, Loss, Models, Sampling, Term

PEFT_KINDS = ("Qwen2", "Qwen3", "Llama", "Gemma", "Gemma2")


class Held(WithRatio):
    """A policy gradient that is held to its reference."""

    def loss(self, models: Models, batch: Batch) -> Loss:
        logp, kl = models.per_token(
            lambda q, p, tokens: (gather_logprobs(q, tokens), categorical_kl(q, p)), batch, [("reference", "")]
        )
        return {"pg": Term(-(logp * batch.signal["reward_N"][:, None]).sum()), "kl": Term(kl.sum(), 0.5)}


def adapted(kind: str = "Qwen3", dtype: torch.dtype = torch.float32, seed: int = 0, **how: Any) -> tuple[Trainer, Adapter]:
    policy = tiny(kind, dtype=dtype)
    adapter = Adapter(policy, rank=2, alpha=4.0, seed=seed)
    trainer = Trainer(
        policy, {"reference": policy}, Held(MethodConfig()), Optimization(0.05), vocabulary=VOCABULARY, temperature=1.0,
        charge=lambda *_: None, adapter=adapter, **how,
    )  # fmt: skip
    return trainer, adapter


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(VOCABULARY)[None]).logits
    return found


def reference_logp(trainer: Trainer) -> Tensor:
    with torch.no_grad():
        (got,) = trainer.models.per_token(
            lambda q, p, t: (gather_logprobs(p, t),), batch_of(make_examples()), [("reference", "")]
        )
    return got


def test_a_layer_answers_with_its_weights_and_the_scaled_product_of_the_adapter() -> None:
    model = tiny("Llama")
    layer = model.model.layers[0].mlp.up_proj
    weight, x = layer.weight.detach().clone(), torch.randn(3, 16, dtype=torch.float64)
    adapter = Adapter(model, rank=2, alpha=6.0, targets=["up_proj"])
    assert torch.equal(model.model.layers[0].mlp.up_proj(x), x @ weight.T), "B begins at zero"
    a, b = (adapter.parameters[f"model.layers.0.mlp.up_proj.lora_{c}.default.weight"] for c in "AB")
    with torch.no_grad():
        b.copy_(torch.randn_like(b))
    assert torch.allclose(model.model.layers[0].mlp.up_proj(x), x @ (weight + 3.0 * b @ a).T)
    assert len(adapter.parameters) == 4, "two layers, A and B of each"


@pytest.mark.parametrize("kind", PEFT_KINDS)
def test_only_the_adapter_is_trained_and_the_reference_stays_the_base_model(kind: str) -> None:
    trainer, adapter = adapted(kind)
    base, start = tiny(kind, dtype=torch.float32), logits(trainer.policy)
    assert torch.equal(start, logits(base))
    for _ in range(3):
        trainer.step(make_examples(), 0)
    assert float((logits(trainer.policy) - start).abs().max()) > 1e-3
    with adapter.off():
        assert torch.equal(logits(trainer.policy), start)
    assert float((logits(trainer.policy) - start).abs().max()) > 1e-3, "the adapter is on again"
    for row, rollout in zip(reference_logp(trainer), [r for e in make_examples() for r in e.rollouts], strict=True):
        wanted = gather_logprobs(naive(base, rollout.prompt_tokens, rollout.tokens), torch.tensor(rollout.tokens))
        assert torch.allclose(row[: len(wanted)], wanted, atol=1e-5)
    assert all(p.requires_grad for p in adapter.parameters.values())
    assert {id(p) for p in trainer.parameters} == {id(p) for p in adapter.parameters.values()}
    reference = trainer.models.frozen["reference"]
    assert reference.parameter_count == sum(p.numel() for p in base.parameters())
    letters, wanted = reference.next_logprobs([[3, 4], [5]], [1, 2]), naive(base, [3, 4], [0])[0]
    assert letters[0] == pytest.approx(wanted[[1, 2]].tolist(), abs=1e-5)
    assert all(p.requires_grad for p in adapter.parameters.values())


@pytest.mark.parametrize("kind", PEFT_KINDS)
def test_a_saved_folder_answers_as_the_live_model_which_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    trainer, _ = adapted(kind)
    trainer.step(make_examples(), 0)
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    trainer.save(tmp_path / "model", make_tokenizer())
    assert all(torch.equal(before[name], value) for name, value in trainer.policy.state_dict().items())
    assert not list((tmp_path / "model").glob("adapter*"))
    loaded = load_causal_lm(tmp_path / "model", attention="eager" if kind == "Gemma2" else "auto")
    assert set(loaded.state_dict()) == set(tiny(kind).state_dict())
    assert torch.allclose(logits(loaded), logits(trainer.policy), atol=1e-5)
    other, _ = adapted(kind, seed=5)
    other.step(make_examples(seed=3), 0)
    other.load_policy(loaded.state_dict())
    assert torch.allclose(logits(other.policy), logits(loaded), atol=1e-6)


def test_freezing_merges_the_adapter_and_a_resumed_trainer_goes_on_bit_for_bit() -> None:
    trainer, adapter = adapted()
    trainer.step(make_examples(), 0)
    warm = logits(trainer.policy)
    trainer.freeze_reference()
    assert torch.allclose(logits(trainer.policy), warm, atol=1e-5)
    with adapter.off():
        frozen = logits(trainer.policy)
    assert torch.allclose(frozen, warm, atol=1e-5)
    assert not trainer.optimizer.state
    trainer.step(make_examples(seed=1), 0)
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    assert len(buffer.getvalue()) < 60_000, "the adapter, what was merged and the optimizer's state; no weights of the model"
    wanted = trainer.step(make_examples(seed=2), 0)
    resumed, _ = adapted()
    buffer.seek(0)
    resumed.load_state_dict(torch.load(buffer, weights_only=False))
    with resumed.adapter.off():  # type: ignore[union-attr]
        assert torch.equal(logits(resumed.policy), frozen)
    assert resumed.step(make_examples(seed=2), 0) == wanted
    for name, value in trainer.policy.state_dict().items():
        assert torch.equal(value, resumed.policy.state_dict()[name]), name


def test_the_adapters_draws_are_its_own() -> None:
    models, adapters = [tiny() for _ in range(3)], []
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(len(adapters))
        before = torch.get_rng_state()
        adapters.append(Adapter(model, rank=2, alpha=4.0, seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    first, second, third = (next(iter(adapter.parameters.values())) for adapter in adapters)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_targets_are_layers_of_the_model_but_not_its_output_layer() -> None:
    for target in ("q_prog", "lm_head", "embed_tokens"):
        with pytest.raises(SpecError, match=f"no linear layers called {target}") as refused:
            Adapter(tiny("Llama"), rank=2, alpha=4.0, targets=["q_proj", target])
        assert "down_proj" in refused.value.fix


def test_an_adapter_on_bfloat16_weights_is_trained_in_float32() -> None:
    trainer, adapter = adapted("Llama", torch.bfloat16)
    assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
    assert trainer.policy.lm_head.weight.dtype == torch.bfloat16
    before = logits(trainer.policy)
    losses = [trainer.step(make_examples(), 0)["loss/pg"] for _ in range(6)]
    assert losses[-1] < losses[0]
    with adapter.off():
        assert torch.equal(logits(trainer.policy), before)


def test_adapted_models_are_sampled_as_they_are_scored() -> None:
    trainer, _ = adapted()
    trainer.step(make_examples(), 0)
    asked = [[3, 4, 5]] * 4 + [[7]] * 2
    drawn = HFGenerator(trainer.policy, [1], 0).generate(asked, Sampling(1.0, 8), [("k", i) for i in range(6)])
    for prompt, generation in zip(asked, drawn, strict=True):
        wanted = gather_logprobs(naive(trainer.policy, prompt, generation.tokens), torch.tensor(generation.tokens))
        assert generation.logprobs == pytest.approx(wanted.tolist(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lora", [False, True])
def test_activations_that_are_computed_again_give_the_same_gradients(kind: str, lora: bool) -> None:
    passes: list[int] = []

    def gradients(recompute: bool) -> dict[str, Tensor]:
        policy = tiny(kind)
        adapter = Adapter(policy, rank=2, alpha=4.0) if lora else None
        if adapter:
            with torch.no_grad():
                for value in adapter.parameters.values():
                    value.copy_(torch.linspace(-0.1, 0.1, value.numel()).view_as(value))
        trainer = Trainer(
            policy, {}, Centred(MethodConfig()), Optimization(0.0, max_grad_norm=1e9), vocabulary=VOCABULARY, temperature=0.9,
            charge=lambda *_: None, adapter=adapter, recompute=recompute, chunk=5,
        )  # fmt: skip
        count = [0]
        policy.get_decoder().layers[0].self_attn.register_forward_pre_hook(lambda *_: count.__setitem__(0, count[0] + 1))
        trainer.step(make_examples(), 0)
        passes.append(count[0])
        assert not any(module.training for module in policy.modules())
        return {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}

    plain, again = gradients(False), gradients(True)
    assert passes[1] == 2, "once forward, once for the gradient"
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert torch.allclose(again[name], value, rtol=1e-6, atol=1e-9), name


def test_layers_that_cannot_be_computed_again_are_refused() -> None:
    model = tiny()
    type(model).supports_gradient_checkpointing, kept = False, model.supports_gradient_checkpointing
    try:
        with pytest.raises(CapabilityError, match="cannot be computed again"):
            StreamedLM(model, vocabulary=VOCABULARY, recompute=True)
    finally:
        type(model).supports_gradient_checkpointing = kept

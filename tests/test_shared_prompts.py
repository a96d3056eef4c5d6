"""Prompts that several rows share are read once, and nothing but the time taken changes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, batch_of, ids, models_of, naive, tiny
from torch import Tensor

from harness.objectives import gather_logprobs
from harness.train.rows import rows_of
from harness.types import Example, Prompt, Rollout


def groups(prompts: list[list[int]], size: int = 4) -> list[Example]:
    rng = random.Random(3)
    return [
        Example(tuple(Rollout(Prompt(f"p{i}", ()), prompt, ids(rng, 1, 5), None, "", "stop") for _ in range(size)))
        for i, prompt in enumerate(prompts)
    ]


UNEQUAL = [[3, 1, 4], [2, 7, 1, 8, 2, 8], [5, 9]]
EQUAL = [[3, 1, 4], [2, 7, 1], [5, 9, 2]]


@pytest.mark.parametrize("kind", ["Qwen3", "Qwen2", "Llama"])
@pytest.mark.parametrize("prompts", [UNEQUAL, EQUAL])
def test_logprobs_and_gradients_equal_full_logits_row_by_row(kind: str, prompts: list[list[int]]) -> None:
    model, examples = tiny(kind), groups(prompts)
    batch = batch_of(examples)
    front = rows_of(batch, "").front
    assert front is not None
    assert front.ids_PL.shape == (3, max(map(len, prompts)) - 1)
    got = models_of(model, chunk=7).logprobs(batch)
    rollouts = [r for e in examples for r in e.rollouts]
    wanted = [gather_logprobs(naive(model, r.prompt_tokens, r.tokens), torch.tensor(r.tokens)) for r in rollouts]
    for row, want in zip(got, wanted, strict=True):
        assert torch.allclose(row[: len(want)], want, rtol=1e-9)
        assert not row[len(want) :].any()

    def gradient(logp: Tensor) -> Tensor:
        """Of the sum of squares, so that every token counts differently."""
        return torch.cat([g.flatten() for g in torch.autograd.grad(logp.square().sum(), list(model.parameters()))])

    naively = gradient(torch.cat(wanted))
    # the models' own norms compute in float32
    assert float((gradient(got) - naively).norm() / naively.norm()) < 1e-6


def test_the_prompts_are_read_once() -> None:
    model, read = tiny(), []

    def count(module: Any, args: Any, named: dict[str, Any]) -> None:
        read.append(tuple(named["input_ids"].shape))

    batch = batch_of(groups(EQUAL))
    models = models_of(model)
    model.get_decoder().register_forward_pre_hook(count, with_kwargs=True)
    models.logprobs(batch)
    assert read == [(3, 2), (12, batch.tokens_NT.shape[1])]


@pytest.mark.parametrize(("prompts", "size"), [([[3], [2, 7, 1]], 4), (UNEQUAL, 1), ([[3, 1], [4, 1]], 2)])
def test_rows_are_read_whole_where_sharing_saves_little_or_a_prompt_has_one_token(prompts: list[list[int]], size: int) -> None:
    examples = groups(prompts, size)
    if prompts == [[3, 1], [4, 1]]:
        examples.append(Example((Rollout(Prompt("long", ()), [6, 5], [1] * 40, None, "", "length"),)))
    assert rows_of(batch_of(examples), "").front is None


def test_models_with_another_kind_of_cache_read_rows_whole() -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8,
        num_key_value_heads=1, use_sliding_window=True, sliding_window=2, max_window_layers=1, initializer_range=0.3,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).double().eval()
    examples = groups(EQUAL)
    got = models_of(model).logprobs(batch_of(examples))
    for row, r in zip(got, [r for e in examples for r in e.rollouts], strict=True):
        wanted = gather_logprobs(naive(model, r.prompt_tokens, r.tokens), torch.tensor(r.tokens))
        assert torch.allclose(row[: len(wanted)], wanted, rtol=1e-9)

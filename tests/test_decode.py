"""The short way through the layers: the same logits as the model's own forward, whatever is padded, kept or grown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import VOCABULARY, tiny
from torch import Tensor

from harness.generate import decode
from harness.generate.decode import ThroughLayers, ThroughModel, decoder, is_plain


def read(model: Any, ids_NL: Tensor, seen_NL: Tensor) -> tuple[Any, Tensor]:
    """A cache that holds the prompts, and each row's next position."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    position_NL = (seen_NL.long().cumsum(-1) - 1).clamp(min=0)
    model(input_ids=ids_NL, attention_mask=seen_NL.long(), position_ids=position_NL, past_key_values=cache, use_cache=True)
    return cache, seen_NL.long().sum(-1)


@pytest.mark.parametrize("kind", ["Qwen3", "Qwen2", "Llama"])
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_both_ways_give_the_same_logits(kind: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "ROOM", 3)  # grows twice below
    model = tiny(kind)
    torch.manual_seed(0)
    ids = torch.randint(VOCABULARY, (5, 6))
    seen = torch.arange(6) >= torch.tensor([0, 4, 2, 0, 5])[:, None] if padded else torch.ones(5, 6, dtype=torch.bool)
    cache, position = read(model, ids, seen)
    short = decoder(model, cache, seen)
    assert isinstance(short, ThroughLayers)
    whole = ThroughModel(model, read(model, ids, seen)[0], seen)
    for step in range(8):
        if step == 4:
            rows = torch.tensor([1, 2, 4])
            short.keep(rows)
            whole.keep(rows)
            position = position[rows]
        token = torch.randint(VOCABULARY, position.shape)
        got, wanted = short.logits(token, position), whole.logits(token, position)
        assert got.shape == (len(position), VOCABULARY)
        assert torch.allclose(got, wanted, atol=1e-10)
        position = position + 1


def test_other_models_are_read_whole() -> None:
    from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    windowed = Qwen3ForCausalLM(Qwen3Config(**shape, use_sliding_window=True, sliding_window=4, max_window_layers=1))
    eager = Qwen3ForCausalLM(Qwen3Config(**shape, attn_implementation="eager"))
    stretched = Qwen3ForCausalLM(
        Qwen3Config(**shape, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    )

    class Changed(Qwen3ForCausalLM):  # type: ignore[misc]
        """May compute anything."""

    plain = Qwen3ForCausalLM(Qwen3Config(**shape))
    for model, wanted in ((plain, True), (windowed, False), (eager, False), (stretched, False), (Changed(plain.config), False)):
        assert is_plain(model, DynamicCache(config=model.config)) is wanted

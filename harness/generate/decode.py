"""The next token of every row: through a model's own forward, or by a shorter way through the layers of plain decoders.

Axes: N rows, L columns of the cache, V vocabulary, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROOM = 64
"""Columns by which the cache grows."""


def decoder(model: Any, cache: Any, seen_NL: Tensor) -> ThroughLayers | ThroughModel:
    """The quickest way known for the model.

    Args:
        cache: a `DynamicCache` that holds the prompts.
        seen_NL: which columns of the cache are a row's own; the others are padding in front.
    """
    return (ThroughLayers if is_plain(model, cache) else ThroughModel)(model, cache, seen_NL)


def is_plain(model: Any, cache: Any) -> bool:
    """Whether the model is one whose layers `ThroughLayers` knows, with full attention and fixed rotary frequencies."""
    from transformers import DynamicLayer, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM

    return (
        type(model) in (LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
        and model.config._attn_implementation == "sdpa"
        and model.config.rope_parameters["rope_type"] in ("default", "linear", "llama3", "yarn")
        and all(type(layer) is DynamicLayer for layer in cache.layers)
    )


class ThroughModel:
    """Calls the whole model, for whatever model it is."""

    def __init__(self, model: Any, cache: Any, seen_NL: Tensor) -> None:
        self.model, self.cache, self.seen_NL = model, cache, seen_NL
        self.padded = not bool(seen_NL.all())

    def logits(self, token_N: Tensor, position_N: Tensor) -> Tensor:
        """Reads one more token of each row; [N, V]."""
        self.seen_NL = F.pad(self.seen_NL, (0, 1), value=True)
        out = self.model(
            input_ids=token_N[:, None], attention_mask=self.seen_NL.long() if self.padded else None,
            position_ids=position_N[:, None], past_key_values=self.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.seen_NL = self.seen_NL[rows]


class ThroughLayers:
    """Calls the modules of the layers with its own attention between them.

    Small models spend most of a step outside of their matrix products. Here keys and values are written in place
    instead of being copied at each step, rotations are looked up, no mask is built where nothing is padded, and the
    queries that share a key form one block.
    """

    def __init__(self, model: Any, cache: Any, seen_NL: Tensor) -> None:
        self.model, self.length = model, seen_NL.shape[1]
        self.keys = [layer.keys for layer in cache.layers]
        self.values = [layer.values for layer in cache.layers]
        self.seen_NL = None if bool(seen_NL.all()) else seen_NL
        self._grow()

    def _grow(self) -> None:
        self.keys = [F.pad(keys, (0, 0, 0, ROOM)) for keys in self.keys]
        self.values = [F.pad(values, (0, 0, 0, ROOM)) for values in self.values]
        if self.seen_NL is not None:
            self.seen_NL = F.pad(self.seen_NL, (0, ROOM), value=True)
        positions = torch.arange(self.keys[0].shape[2], device=self.model.device)
        cos, sin = self.model.model.rotary_emb(self.keys[0], positions[None])
        self.cos_LD, self.sin_LD = cos[0], sin[0].clone()
        self.sin_LD[:, : sin.shape[-1] // 2] *= -1  # the sign of the rotation, so that `turned` need not set it

    def logits(self, token_N: Tensor, position_N: Tensor) -> Tensor:
        """Reads one more token of each row; [N, V]."""
        if self.length == self.keys[0].shape[2]:
            self._grow()
        decoder, here, end, rows = self.model.model, self.length, self.length + 1, len(token_N)
        cos, sin = self.cos_LD[position_N][:, None], self.sin_LD[position_N][:, None]
        mask = None if self.seen_NL is None else self.seen_NL[:, None, None, :end]
        norms_heads = self.model.config.model_type == "qwen3"

        def turned(x: Tensor) -> Tensor:
            return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)

        x = decoder.embed_tokens(token_N)
        for layer, keys, values in zip(decoder.layers, self.keys, self.values, strict=True):
            attention, heads, width = layer.self_attn, keys.shape[1], keys.shape[3]
            normed = layer.input_layernorm(x)
            query = attention.q_proj(normed).view(rows, -1, width)
            key = attention.k_proj(normed).view(rows, -1, width)
            if norms_heads:
                query, key = attention.q_norm(query), attention.k_norm(key)
            keys[:, :, here] = turned(key)
            values[:, :, here] = attention.v_proj(normed).view(rows, -1, width)
            grouped = turned(query).view(rows, heads, -1, width)  # [N, key heads, queries of each, D]
            read = F.scaled_dot_product_attention(
                grouped, keys[:, :, :end], values[:, :, :end], attn_mask=mask, scale=attention.scaling
            )
            x = x + attention.o_proj(read.reshape(rows, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        self.length = end
        return self.model.lm_head(decoder.norm(x))

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only."""
        self.keys, self.values = [keys[rows] for keys in self.keys], [values[rows] for values in self.values]
        if self.seen_NL is not None:
            self.seen_NL = self.seen_NL[rows]

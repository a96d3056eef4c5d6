"""Pretraining of pocket models from scratch: tokenizer, architecture, one loop over the world's documents."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import words
from .documents import Messages, Mix, documents

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant> {{ message['content'] }} <end> "
    "{% else %}<user> {{ message['content'] }} {% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def make_tokenizer() -> Any:
    """The word-level tokenizer of the world, as a `transformers.PreTrainedTokenizerFast`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words.vocabulary())}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"], clean_up_tokenization_spaces=False,
        model_max_length=256,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@dataclass(frozen=True)
class Shape:
    width: int
    layers: int
    feed_forward: int
    heads: int = 4


def make_model(shape: Shape, seed: int) -> Any:
    """A Qwen3 language model with fresh weights and tied embeddings."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    vocabulary = words.vocabulary()
    end = vocabulary.index("<end>")
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(vocabulary),
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            intermediate_size=shape.feed_forward,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=shape.width // shape.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=0,
            initializer_range=0.05,
        )
    )


@dataclass(frozen=True)
class Phase:
    """A stretch of pretraining: how many tokens, of which mix, at which peak learning rate (cosine to a tenth)."""

    tokens: int
    mix: Mix
    learning_rate: float
    rows: int = 48


class Encoder:
    """Word ids of conversations, and which of them a model is to predict (the assistant's, ends included)."""

    def __init__(self) -> None:
        self.ids = {word: i for i, word in enumerate(words.vocabulary())}

    def __call__(self, messages: Messages) -> tuple[list[int], list[bool]]:
        tokens: list[int] = []
        wanted: list[bool] = []
        for message in messages:
            mine = message["role"] == "assistant"
            said = [self.ids[word] for word in message["content"].split()] + ([self.ids["<end>"]] if mine else [])
            tokens += [self.ids[f"<{message['role']}>"], *said]
            wanted += [False, *([mine] * len(said))]
        return tokens, wanted


def batches(mix: Mix, rows: int, rng: random.Random, pool: int = 48) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `rows` conversations of similar length: ids [rows, T] and the wanted-mask [rows, T]."""
    encode, stream = Encoder(), documents(mix, rng)
    while True:
        drawn = sorted((encode(doc) for doc in itertools.islice(stream, rows * pool)), key=lambda pair: len(pair[0]))
        groups = [drawn[i : i + rows] for i in range(0, len(drawn), rows)]
        rng.shuffle(groups)
        for group in groups:
            longest = len(group[-1][0])
            ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in group])
            wanted = torch.tensor([flags + [False] * (longest - len(flags)) for _, flags in group])
            yield ids, wanted


def _optimizers(model: Any, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest (measured here: AdamW alone needs 1.6x the tokens)."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def pretrain(model: Any, phases: list[Phase], seed: int, say: Callable[[str], None]) -> dict[str, float]:
    """Trains a model in place through its phases; returns tokens seen, seconds and the last mean loss."""
    torch.set_num_threads(1)
    model.train()
    seen_all, started, recent = 0, time.monotonic(), 0.0
    for number, phase in enumerate(phases):
        optimizers = _optimizers(model, phase.learning_rate)
        stream, seen, shown = batches(phase.mix, phase.rows, random.Random(f"{seed} phase {number}")), 0, 0
        while seen < phase.tokens:
            ids, wanted = next(stream)
            done = seen / phase.tokens
            rate = phase.learning_rate * min(1.0, done / 0.02 + 0.05) * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate
            hidden = model.model(ids[:, :-1]).last_hidden_state
            mask = wanted[:, 1:]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[mask]), ids[:, 1:][mask])
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
            seen += int((ids != 0).sum())
            recent = 0.98 * recent + 0.02 * loss.item() if recent else loss.item()
            if seen - shown >= 500_000:
                shown = seen
                say(f"phase {number + 1}  {seen / 1e6:5.1f} M tokens  loss {recent:.3f}  {time.monotonic() - started:5.0f} s")
        seen_all += seen
    model.eval()
    return {"tokens": seen_all, "seconds": round(time.monotonic() - started, 1), "loss": round(recent, 4)}

"""Tiny random checkpoints with a real tokenizer: byte-level BPE trained on given texts, with a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

NAMED_HEADS = ("Qwen3", "Gemma", "Gemma2")
"""Architectures whose heads are as wide as their setting says, not as the hidden size divided by their number."""
OWN: dict[str, dict[str, Any]] = {
    "Gemma": {"tie_word_embeddings": True},
    "Gemma2": {
        "query_pre_attn_scalar": 16, "sliding_window": 16, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Settings of an architecture, with caps and windows so small that they matter."""


def checkpoint(
    kind: str, texts: Sequence[str], seed: int = 0, context: int = 2048, chat: bool = True, head: int = 16
) -> tuple[Any, Any]:
    """A model of an architecture ("Llama", "Qwen3", "Gemma2" ...) and its tokenizer; Llama's begins every text with a token of
    its own.

    Args:
        head: width of each of the two heads.
    """
    import transformers
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing

    made = ByteLevelBPETokenizer()
    special = ["<|end|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>"]
    made.train_from_iterator(texts, vocab_size=600, special_tokens=special, show_progress=False)
    begins = kind == "Llama"
    if begins:
        made._tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, eos_token="<|end|>", pad_token="<|end|>", bos_token="<|begin|>" if begins else None,
        additional_special_tokens=special[2:],
    )  # fmt: skip
    if chat:
        tokenizer.chat_template = ("<|begin|>" if begins else "") + TEMPLATE
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), hidden_size=2 * head, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=context, initializer_range=0.3, bos_token_id=1 if begins else None,
        eos_token_id=0, pad_token_id=0, **({"head_dim": head} if kind in NAMED_HEADS else {}),
        **{"tie_word_embeddings": False, **OWN.get(kind, {})},
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config).double().eval(), tokenizer


def writer(model: Any, tokenizer: Any) -> Any:
    """Our own generator on a checkpoint."""
    from harness.answering import LocalWriter
    from harness.generate.hf import HFGenerator
    from harness.generate.student import ChatCodec

    return LocalWriter(HFGenerator(model, [tokenizer.eos_token_id], tokenizer.pad_token_id), ChatCodec(tokenizer))


def lm_eval_run(model: Any, tokenizer: Any, task: str, folder: str, chat: bool, limit: int | None = None) -> dict[str, Any]:
    """lm-eval's own model and loop on the same checkpoint."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8, max_length=model.config.max_position_embeddings, device="cpu")
    manager = TaskManager(include_path=folder, include_defaults=False)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=lm, tasks=[task], task_manager=manager, apply_chat_template=chat, fewshot_as_multiturn=chat, bootstrap_iters=0,
        limit=limit,
    )  # fmt: skip
    return found


def saved(folder: Path, kind: str, texts: Sequence[str], **how: Any) -> Path:
    """A checkpoint in float32, written to a folder in Hugging Face format."""
    model, tokenizer = checkpoint(kind, texts, **how)
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Tiny models, made-up examples and small methods that the tests of the trainer share."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from harness.method import Method, MethodConfig
from harness.objectives import categorical_kl, clipped_policy_gradient, gather_logprobs, group_advantages
from harness.train.collate import collate
from harness.train.models import StreamedLM, TrainModels
from harness.train.trainer import Optimization, Trainer
from harness.types import Batch, Collected, Example, Generation, Loss, Models, Prompt, Rollout, Term

VOCABULARY = 11
OWN: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 8},
    "Gemma": {"head_dim": 8},
    "Gemma2": {
        "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5, "attn_implementation": "eager",
    },
    "Granite": {"logits_scaling": 4.0},
    "Cohere": {"logit_scale": 0.25},
}  # fmt: skip
"""Settings of an architecture, with caps and windows so small that they matter."""
KINDS = ("Qwen2", "Qwen3", "Llama", "Gemma", "Gemma2", "Granite", "Cohere")


def tiny(kind: str = "Qwen3", seed: int = 0, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float64) -> Any:
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, initializer_range=0.3,
        tie_word_embeddings=kind not in ("Qwen2", "Llama"), bos_token_id=None, eos_token_id=1, pad_token_id=0,
        **OWN.get(kind, {}),
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config).to(dtype).eval()


def ids(rng: random.Random, low: int, high: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(rng.randint(low, high))]


def make_examples(groups: int = 6, size: int = 3, seed: int = 0) -> list[Example]:
    """Groups of unequal prompts and completions, with rewards, sampler log-probs and a longer view."""
    rng = random.Random(seed)
    examples = []
    for g in range(groups):
        prompt = ids(rng, 1, 6)
        texts = [ids(rng, 1, 7) for _ in range(size)]
        rollouts = tuple(Rollout(Prompt(f"p{g}", ()), prompt, t, [-rng.random() for _ in t], "", "stop") for t in texts)
        hints = [ids(rng, 2, 9) for _ in range(size)]
        examples.append(Example(rollouts, {"reward_N": [rng.random() for _ in texts]}, {"hint": hints}))
    return examples


def naive(model: Any, prompt: list[int], tokens: list[int], temperature: float = 1.0) -> Tensor:
    """Log-softmax at each completion token, [T, V], from the whole logits of one row."""
    logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1, :VOCABULARY] / temperature, -1)


def models_of(
    policy: Any, frozen: dict[str, Any] | None = None, charge: Callable[[str, int, int], None] = lambda *_: None, **how: Any
) -> TrainModels:
    how = {"vocabulary": VOCABULARY, **how}
    return TrainModels(StreamedLM(policy, **how), {n: StreamedLM(m, **how) for n, m in (frozen or {}).items()}, charge)


def batch_of(examples: list[Example]) -> Batch:
    return collate(examples, dtype=torch.float64)


class Mixed(Method):
    """A loss with two terms of different weights: a clipped policy gradient, and a KL to a model that reads a hint."""

    def collect(self, prompts: Any, tools: Any) -> Collected:
        raise NotImplementedError

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"pg": float(batch.mask_NT.sum()), "kl": float(len(batch.group_N))}

    def loss(self, models: Models, batch: Batch) -> Loss:
        advantage = group_advantages(batch.signal["reward_N"], batch.group_N, standardise=True)
        old = batch.old_logp_NT if self.ratio else batch.behaviour_logp_NT
        logp, kl = models.per_token(
            lambda q, p, tokens: (gather_logprobs(q, tokens), categorical_kl(q, p)), batch, [("teacher", "hint")]
        )
        pg = clipped_policy_gradient(logp, old, advantage[:, None]) * batch.mask_NT
        return {"pg": Term(pg.sum()), "kl": Term(kl.sum(), 0.5)}


class WithRatio(Mixed):
    ratio = True


class Centred(Mixed):
    """The policy gradient alone."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"loss": float(batch.mask_NT.sum())}

    def loss(self, models: Models, batch: Batch) -> Loss:
        advantage = group_advantages(batch.signal["reward_N"], batch.group_N, standardise=True)
        per_token = clipped_policy_gradient(models.logprobs(batch), batch.old_logp_NT, advantage[:, None])
        return {"loss": Term((per_token * batch.mask_NT).sum())}


def trainer_of(
    method: type[Method] = Mixed, policy: Any = None, config: dict[str, int] | None = None, dtype: torch.dtype = torch.float64,
    optimization: Optimization | None = None, **how: Any,
) -> Trainer:  # fmt: skip
    return Trainer(
        policy or tiny(dtype=dtype), {"teacher": tiny(seed=1, dtype=dtype)}, method(MethodConfig(**(config or {}))),
        optimization or Optimization(0.01), **{"vocabulary": VOCABULARY, "temperature": 1.0, "charge": lambda *_: None, **how},
    )  # fmt: skip


def drift(
    policy: Any, asked: list[list[int]], drawn: list[Generation], temperature: float = 1.0, vocabulary: int = VOCABULARY
) -> float:
    """Between the log-probs of sampled rows and those that the trainer finds, in nats a token, as a run measures it."""
    trainer = Trainer(
        policy, {}, Centred(MethodConfig()), Optimization(0.1), vocabulary=vocabulary, temperature=temperature,
        charge=lambda *_: None,
    )  # fmt: skip
    return trainer.drift(
        [Rollout(Prompt("p", ()), p, g.tokens, g.logprobs, "", g.finish) for p, g in zip(asked, drawn, strict=True)]
    )

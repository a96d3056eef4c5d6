"""One engine's life, in a process of its own (an engine owns its process's memory): what it sampled from which weights.

    python sampled.py '{"kind": "Qwen2", "lora": false}'

prints the readings as one line of JSON. On a GPU the policy has the shape of Qwen2.5-0.5B and the engine computes in bfloat16, on
a CPU it is tiny and both are in float32. Weights are random: nothing is downloaded.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import drift

from harness.generate.hf import HFGenerator
from harness.generate.vllm import VLLMGenerator
from harness.train.lora import Adapter
from harness.types import Generation, Sampling

CUDA = torch.cuda.is_available()
VOCABULARY, END = (151_665, 151_645) if CUDA else (500, 1)
"""The output layer has some rows more, which no tokenizer knows."""
ROWS, TOKENS = 32, 64
SHAPE: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "max_position_embeddings": 4096, "initializer_range": 0.02,  # wider weights round worse
} if CUDA else {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "Qwen3": {"head_dim": 32}, "Gemma": {"head_dim": 32},
    "Gemma2": {
        "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0, "attn_implementation": "eager",
    },
}  # fmt: skip
"""Settings of an architecture, with caps and windows so small that they matter."""


class Life:
    """A policy, its sampler and its trainer."""

    def __init__(self, kind: str, lora: bool, folder: Path) -> None:
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(
            **SHAPE, **OWN.get(kind, {}), tie_word_embeddings=kind != "Llama", bos_token_id=None, eos_token_id=END, pad_token_id=0
        )
        getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
        self.policy = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation=OWN.get(kind, {}).get("attn_implementation")
        ).to("cuda" if CUDA else "cpu").eval()  # fmt: skip
        self.adapter = Adapter(self.policy, rank=4, alpha=8.0) if lora else None
        self.plain = HFGenerator(self.policy, [END], 0, vocabulary=VOCABULARY)
        memory, dtype = (0.4, "bfloat16") if CUDA else (0.15, "float32")
        self.sampler = VLLMGenerator(self.plain, str(folder), memory, dtype, self.adapter)

    def move(self, by: float) -> None:
        """Other weights, as after a step of training."""
        trained = self.adapter.parameters.values() if self.adapter else self.policy.parameters()
        with torch.no_grad():
            for value in trained:
                value.add_((by * value.std() if value.std() > 0 else by / 10) * torch.randn_like(value))

    def drawn(self, temperature: float = 1.0, generator: Any = None) -> list[Generation]:
        keys = [("engine", i) for i in range(ROWS)]
        return list((generator or self.sampler).generate(asked(), Sampling(temperature, TOKENS), keys))

    def gap(self, temperature: float = 1.0) -> float:
        """Of a fresh sample."""
        return drift(self.policy, asked(), self.drawn(temperature), temperature, VOCABULARY)


def asked() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(4, 200))] for _ in range(ROWS)]


def readings(kind: str, lora: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(kind, lora, Path(folder))
    told: dict[str, Any] = {"gap": life.gap(), "gap_cool": life.gap(0.7)}
    made, again = life.drawn(), life.drawn()
    told["highest"] = max(token for g in made for token in g.tokens)
    told |= {"vocabulary": VOCABULARY, "tokens": TOKENS}
    told["ends"] = [(g.finish, g.tokens[-1] == END, END in g.tokens[:-1], len(g.tokens)) for g in made]
    told["distinct"] = len({tuple(g.tokens) for g in made})
    told["repeated"] = sum(a.tokens == b.tokens for a, b in zip(made, again, strict=True))
    plain = life.drawn(0.0, life.plain)
    told["greedy"] = sum(a.tokens == b.tokens for a, b in zip(life.drawn(0.0), plain, strict=True))
    life.move(0.3)
    told["stale"] = life.gap()
    life.sampler.sync()
    told["synced"] = life.gap()
    awake = torch.cuda.mem_get_info()[0] if CUDA else 0
    life.sampler.sleep()
    if CUDA:
        asleep, total = torch.cuda.mem_get_info()
        told["given_back"] = (asleep - awake) / total
    life.move(0.3)
    life.sampler.sync()
    told["woken"] = life.gap()
    if life.adapter:
        life.adapter.merge()
        life.move(0.3)
        life.sampler.sync()
        told["merged"] = life.gap()
        life.sampler.sync(whole=True)
        told["whole"] = life.gap()
    life.sampler.close()
    return told


if __name__ == "__main__":
    print(json.dumps(readings(**json.loads(sys.argv[1]))))

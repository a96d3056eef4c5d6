"""The real vLLM on a GPU: whose weights sample, with which log-probs, and what sleep gives back.

    pytest -m gpu tests/gpu

The policy has the shape of Qwen2.5-0.5B and random weights, so nothing is downloaded.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
VOCABULARY, ROWS, LIMIT = 151_665, 32, 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=None, eos_token_id=151_645, pad_token_id=151_643,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("policy")
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def policy(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).cuda().eval()


@pytest.fixture(scope="module")
def generator(folder: Path, policy: Any) -> Any:
    """One engine for the module: its memory pool allows one in a process."""
    pytest.importorskip("vllm")
    from harness.generate.hf import HFGenerator
    from harness.generate.vllm import VLLMGenerator

    return VLLMGenerator(HFGenerator(policy, [151_645], 151_643, vocabulary=VOCABULARY), str(folder), 0.4, "bfloat16")


def prompts() -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(4, 200))] for _ in range(ROWS)]


def drawn(generator: Any, temperature: float = 1.0) -> list[Any]:
    from harness.types import Sampling

    return generator.generate(prompts(), Sampling(temperature, 64), [("gpu", i) for i in range(ROWS)])


def gap(policy: Any, generations: list[Any], temperature: float = 1.0) -> float:
    """As a run measures it."""
    from tiny import Centred

    from harness.method import MethodConfig
    from harness.train.trainer import Optimization, Trainer
    from harness.types import Prompt, Rollout

    trainer = Trainer(
        policy, {}, Centred(MethodConfig()), Optimization(1e-6),
        vocabulary=VOCABULARY, temperature=temperature, charge=lambda *_: None,
    )  # fmt: skip
    return trainer.drift(
        [Rollout(Prompt("p", ()), p, g.tokens, g.logprobs, "", g.finish) for p, g in zip(prompts(), generations, strict=True)]
    )


def moved(policy: Any, by: float) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by * parameter.std() * torch.randn_like(parameter))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_the_trainers(generator: Any, policy: Any, temperature: float) -> None:
    made = drawn(generator, temperature)
    assert gap(policy, made, temperature) < LIMIT
    assert max(token for g in made for token in g.tokens) < VOCABULARY
    assert all(len(g.tokens) == 64 or g.finish == "stop" for g in made)


def test_sleep_gives_memory_back_and_sync_brings_the_new_weights(generator: Any, policy: Any) -> None:
    drawn(generator)
    awake, total = torch.cuda.mem_get_info()
    generator.sleep()
    asleep, _ = torch.cuda.mem_get_info()
    assert asleep - awake > 0.3 * total, "of the 0.4 that it was given"
    moved(policy, 0.2)
    generator.sync()
    assert gap(policy, drawn(generator)) < LIMIT


def test_stale_weights_are_caught(generator: Any, policy: Any) -> None:
    moved(policy, 0.2)
    assert gap(policy, drawn(generator)) > LIMIT
    generator.sync()
    assert gap(policy, drawn(generator)) < LIMIT


def test_greedy_repeats_and_seeds_differ(generator: Any) -> None:
    one, two = drawn(generator, 0.0), drawn(generator, 0.0)
    assert sum(a.tokens == b.tokens for a, b in zip(one, two, strict=True)) >= ROWS - 2, "rounding may turn a tie"
    sampled = drawn(generator)
    assert len({tuple(g.tokens) for g in sampled}) == ROWS

"""Sampling: what is drawn, with which probability, and that nothing else changes a draw."""

from __future__ import annotations

import random

import pytest
import torch
from tiny import KINDS, VOCABULARY, Centred, tiny

from harness.generate import hf
from harness.generate.hf import HFGenerator, pick
from harness.method import MethodConfig
from harness.train.models import TrainModels
from harness.train.trainer import Optimization, Trainer
from harness.types import Prompt, Rollout, Sampling

NEVER = [VOCABULARY + 1]


def prompts(count: int, seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 9))] for _ in range(count)]


def keys(count: int, seed: int = 0) -> list[tuple[str | int, ...]]:
    return [(seed, "rollout", f"p{i}") for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_of_drawn_tokens_equal_the_trainers(kind: str, temperature: float) -> None:
    model = tiny(kind, dtype=torch.float32, vocabulary=VOCABULARY + 4)
    asked = prompts(20) + prompts(20)[:7]  # some prompts twice
    drawn = HFGenerator(model, [1], 0, vocabulary=VOCABULARY).generate(asked, Sampling(temperature, 12), keys(27))
    trainer = Trainer(
        model, {}, Centred(MethodConfig()), Optimization(0.1),
        vocabulary=VOCABULARY, temperature=temperature, charge=lambda *_: None,
    )  # fmt: skip
    rollouts = [Rollout(Prompt("p", ()), p, g.tokens, g.logprobs, "", g.finish) for p, g in zip(asked, drawn, strict=True)]
    assert {g.finish for g in drawn} == {"stop", "length"}
    assert max(token for g in drawn for token in g.tokens) < VOCABULARY
    for generation, scores in zip(drawn, trainer.score(rollouts), strict=True):
        assert generation.logprobs == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_equals_generate_of_transformers_token_for_token(kind: str) -> None:
    model = tiny(kind, dtype=torch.float32 if kind == "Gemma2" else torch.float64)  # eager masks overflow in float64
    asked = prompts(16)
    got = HFGenerator(model, [1], 0).generate(asked, Sampling(0.0, 15), keys(16))
    stopped = 0
    for prompt, generation in zip(asked, got, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=15, eos_token_id=1, pad_token_id=0
        )
        assert generation.tokens == out[0, len(prompt) :].tolist()
        stopped += generation.finish == "stop"
    assert 0 < stopped < 16


def test_draws_depend_on_their_key_alone() -> None:
    model = tiny()
    asked, names = prompts(24), keys(24)
    sampling = Sampling(1.0, 16)
    whole = HFGenerator(model, [1], 0).generate(asked, sampling, names)
    order = random.Random(1).sample(range(24), 24)
    shuffled = HFGenerator(model, [1], 0).generate([asked[i] for i in order], sampling, [names[i] for i in order])
    few = HFGenerator(model, [1], 0, rows=5).generate(asked, sampling, names)
    alone = [HFGenerator(model, [1], 0).generate([p], sampling, [k])[0] for p, k in zip(asked, names, strict=True)]
    for i in range(24):
        others = (shuffled[order.index(i)], few[i], alone[i])
        assert all(other.tokens == whole[i].tokens and other.finish == whole[i].finish for other in others)
        assert all(other.logprobs == pytest.approx(whole[i].logprobs, abs=1e-5) for other in others)
    other_keys = HFGenerator(model, [1], 0).generate(asked, sampling, keys(24, seed=1))
    assert sum(a.tokens != b.tokens for a, b in zip(whole, other_keys, strict=True)) > 20


def test_a_longer_limit_only_appends() -> None:
    model, asked = tiny(), prompts(8)
    short = HFGenerator(model, NEVER, 0).generate(asked, Sampling(1.0, 5), keys(8))
    long = HFGenerator(model, NEVER, 0).generate(asked, Sampling(1.0, 11), keys(8))
    assert all(a.tokens == b.tokens[:5] for a, b in zip(short, long, strict=True))


def test_the_stop_token_is_the_last_one_and_counts() -> None:
    stops = [1, 4]
    drawn = HFGenerator(tiny(), stops, 0).generate(prompts(60), Sampling(1.0, 6), keys(60))
    assert {g.finish for g in drawn} == {"stop", "length"}
    for generation in drawn:
        assert len(generation.tokens) == len(generation.logprobs)
        assert not set(generation.tokens[:-1]) & set(stops)
        assert (generation.tokens[-1] in stops) == (generation.finish == "stop")
        assert generation.finish == "stop" or len(generation.tokens) == 6


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_match_the_softmax(temperature: float) -> None:
    model, prompt, count = tiny(), [3, 8, 2], 4000
    drawn = HFGenerator(model, NEVER, 0, rows=count).generate([prompt] * count, Sampling(temperature, 1), keys(count))
    logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].detach()
    expected = count * torch.softmax(logits / temperature, -1)
    seen = torch.bincount(torch.tensor([g.tokens[0] for g in drawn]), minlength=VOCABULARY)
    likely = expected > 5
    assert int(likely.sum()) >= 5
    chi_square = float(((seen - expected)[likely] ** 2 / expected[likely]).sum())
    assert chi_square < 29.6, "0.1 % of chi-square with 10 degrees of freedom"


def test_pick_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.0, 0.25]]).log().expand(5, 4)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.76, 0.9999999], dtype=torch.float64)
    chosen, logp = pick(logits, Sampling(1.0), draws)
    assert chosen.tolist() == [0, 0, 1, 3, 3], "a token of probability 0 is never drawn"
    assert torch.allclose(logp.exp(), torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25]))
    chosen, logp = pick(logits, Sampling(0.0), None)
    assert chosen.tolist() == [0] * 5
    assert torch.allclose(logp.exp(), torch.tensor(0.5))


def test_a_wide_vocabulary_is_picked_from_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what all rows at once give, greedy and drawn."""
    torch.manual_seed(0)
    logits, draws = torch.randn(50, 300), torch.rand(50, dtype=torch.float64)
    whole = [pick(logits, Sampling(0.7), draws), pick(logits, Sampling(0.0), None)]
    monkeypatch.setattr(hf, "PICKED", 2000)
    for (ids, logp), cut in zip(whole, [pick(logits, Sampling(0.7), draws), pick(logits, Sampling(0.0), None)], strict=True):
        assert torch.equal(ids, cut[0])
        assert torch.equal(logp, cut[1])


def test_a_full_cache_cuts_batches_and_changes_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny(), prompts(20)
    whole = HFGenerator(model, [1], 0).generate(asked, Sampling(1.0, 9), keys(20))
    seen: list[int] = []
    batch = HFGenerator._batch
    monkeypatch.setattr(HFGenerator, "_batch", lambda self, rows, *more: seen.append(len(rows)) or batch(self, rows, *more))
    monkeypatch.setattr(hf, "ROOM", 80)
    cut = HFGenerator(model, [1], 0).generate(asked, Sampling(1.0, 9), keys(20))
    longest = max(map(len, asked)) + 9
    assert max(seen) * longest <= 80
    assert sum(seen) == 20
    assert [g.tokens for g in cut] == [g.tokens for g in whole]


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Llama", "Gemma", "Gemma2"])
def test_sampler_and_trainer_agree_under_autocast(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens on a GPU, with the CPU's autocast in its place: float32 weights, products in bfloat16."""

    def half(*_: object) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    model = tiny(kind, dtype=torch.float32)
    exact = HFGenerator(model, [1], 0).generate(prompts(20), Sampling(1.0, 12), keys(20))
    monkeypatch.setattr(HFGenerator, "_autocast", half)
    monkeypatch.setattr(TrainModels, "_autocast", half)
    drawn = HFGenerator(model, [1], 0, bf16=True).generate(prompts(20), Sampling(1.0, 12), keys(20))
    trainer = Trainer(
        model, {}, Centred(MethodConfig()), Optimization(0.1), vocabulary=VOCABULARY, temperature=1.0, charge=lambda *_: None
    )
    rollouts = [Rollout(Prompt("p", ()), p, g.tokens, g.logprobs, "", g.finish) for p, g in zip(prompts(20), drawn, strict=True)]
    assert trainer.drift(rollouts) < 0.02
    assert [g.logprobs for g in drawn] != [g.logprobs for g in exact], "autocast was on"


def test_syncs_are_counted_and_the_models_mode_is_left_alone() -> None:
    model = tiny().train()
    generator = HFGenerator(model, [1], 0)
    assert generator.generate(prompts(2), Sampling(1.0, 3), keys(2))[0].version == 0
    generator.sync()
    assert generator.generate(prompts(2), Sampling(1.0, 3), keys(2))[0].version == 1
    assert model.training
    assert generator.generate([], Sampling(1.0, 3), []) == []

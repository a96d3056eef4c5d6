"""The comparison of sampler and trainer: when it is made, what it stops, and what it says."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stub_vllm
import torch
from tiny import VOCABULARY, Centred, tiny

from harness import drift
from harness.errors import RunFault
from harness.generate.hf import HFGenerator
from harness.generate.vllm import VLLMGenerator
from harness.method import MethodConfig
from harness.train.trainer import Optimization, Trainer
from harness.types import Collected, Example, Prompt, Rollout, Sampling


def run_of(policy: Any, generator: Any) -> Any:
    """The parts of a run that the comparison looks at."""
    rng = random.Random(3)
    prompts = [Prompt(f"p{i}", ({"role": "user", "content": f"{i}"},)) for i in range(40)]
    ids = {str(i): [rng.randrange(VOCABULARY) for _ in range(5)] for i in range(40)}
    trainer = Trainer(
        policy, {}, Centred(MethodConfig()), Optimization(0.1), vocabulary=VOCABULARY, temperature=1.0, charge=lambda *_: None
    )
    return SimpleNamespace(
        generator=generator, trainer=trainer, track=SimpleNamespace(training=SimpleNamespace(drift_nats=0.02)),
        stream=SimpleNamespace(first=lambda count: prompts[:count]), encode=lambda messages: ids[messages[0]["content"]],
        method=trainer.method, spec=SimpleNamespace(seed=0),
    )  # fmt: skip


def collected(run: Any) -> Collected:
    prompts = run.stream.first(20)
    rows = [run.encode(prompt.messages) for prompt in prompts]
    drawn = run.generator.generate(rows, Sampling(1.0, 8), [("k", i) for i in range(20)])
    made = [Rollout(p, ids, g.tokens, g.logprobs, "", g.finish) for p, ids, g in zip(prompts, rows, drawn, strict=True)]
    return Collected([Example((rollout,)) for rollout in made])


def moved(policy: Any) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.std())


@pytest.fixture
def policy() -> Any:
    return tiny("Qwen2", dtype=torch.float32)


def test_a_round_is_compared_and_stops_the_run_when_it_differs(policy: Any) -> None:
    run = run_of(policy, HFGenerator(policy, [1], 0))
    sampled = collected(run)
    gap = drift.compare(run, sampled)
    assert gap is not None
    assert gap < 1e-5
    moved(policy)
    told = r"disagree by 0\.\d{4} nats a token \(\d+ tokens of 16 rollouts, engine hf, sync 0\)"
    with pytest.raises(RunFault, match=told) as caught:
        drift.compare(run, sampled)
    assert "dtype: float32" in caught.value.fix
    assert caught.value.exit_code == 3


def test_where_nothing_was_sampled_there_is_nothing_to_compare(policy: Any) -> None:
    run = run_of(policy, HFGenerator(policy, [1], 0))
    written = Rollout(Prompt("p", ()), [1], [2, 3], None, "", "stop")
    assert drift.compare(run, Collected([Example((written,))])) is None


def test_a_copy_is_probed_and_live_weights_are_not(policy: Any, tmp_path: Path) -> None:
    asked: list[int] = []
    plain = HFGenerator(policy, [1], 0)
    plain.generate = lambda *how: asked.append(1)  # type: ignore[method-assign,assignment,func-returns-value]
    drift.probe(run_of(policy, plain))
    assert asked == []
    policy.save_pretrained(tmp_path / "policy")
    with stub_vllm.installed() as made:
        run = run_of(policy, VLLMGenerator(HFGenerator(policy, [1], 0), str(tmp_path / "policy"), 0.3, "float32"))
        drift.probe(run)
        assert len(made.made[0].requests) == drift.PROBES
        moved(policy)
        run.generator.sleep()
        run.generator.sync()
        drift.probe(run)
        moved(policy)  # and the engine is not told
        with pytest.raises(RunFault, match=r"engine vllm 0\.32\.0, sync 1"):
            drift.probe(run)

"""Sampling through vLLM's interface, on a stub as strict as the engine: draws, log-probs, sleep, and whose weights sample."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stub_vllm
import torch
from tiny import VOCABULARY, drift, tiny

from harness.errors import CapabilityError, EnvironmentFault
from harness.generate.hf import HFGenerator
from harness.generate.vllm import VLLMGenerator, obstacle, samples
from harness.train.lora import Adapter
from harness.types import Sampling

WIDTH = VOCABULARY + 4
"""Rows of the output layer: four more than the tokenizer knows."""


@pytest.fixture
def vllm() -> Iterator[type[stub_vllm.LLM]]:
    with stub_vllm.installed() as made:
        yield made


@pytest.fixture
def policy(tmp_path: Path) -> Any:
    model = tiny("Qwen2", dtype=torch.float32, vocabulary=WIDTH)
    model.save_pretrained(tmp_path / "policy")
    return model


@pytest.fixture
def generator(vllm: type[stub_vllm.LLM], policy: Any, tmp_path: Path) -> VLLMGenerator:
    return VLLMGenerator(HFGenerator(policy, [1], 0, vocabulary=VOCABULARY), str(tmp_path / "policy"), 0.3, "float32")


def engine() -> stub_vllm.LLM:
    (made,) = stub_vllm.LLM.made
    return made


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 9))] for _ in range(count)]


def keys(count: int) -> list[tuple[str | int, ...]]:
    return [("rollout", 0, f"p{i}") for i in range(count)]


def changed(policy: Any, by: float = 0.5) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(by * torch.randn_like(parameter) * parameter.std())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_the_trainers(generator: VLLMGenerator, policy: Any, temperature: float) -> None:
    asked = prompts(20)
    drawn = generator.generate(asked, Sampling(temperature, 12), keys(20))
    assert drift(policy, asked, drawn, temperature) < 1e-5
    assert {g.finish for g in drawn} == {"stop", "length"}
    for g in drawn:
        assert len(g.tokens) == len(g.logprobs)
        assert 1 not in g.tokens[:-1]
        assert (g.tokens[-1] == 1) == (g.finish == "stop")
        assert g.finish == "stop" or len(g.tokens) == 12
        assert max(g.tokens) < VOCABULARY, "rows of the output layer that no tokenizer knows"


def test_greedy_is_the_plain_generators(generator: VLLMGenerator, policy: Any) -> None:
    plain = HFGenerator(policy, [1], 0, vocabulary=VOCABULARY).generate(prompts(8), Sampling(0.0, 9), keys(8))
    ours = generator.generate(prompts(8), Sampling(0.0, 9), keys(8))
    assert [g.tokens for g in ours] == [g.tokens for g in plain]
    assert ours[0].logprobs == pytest.approx(plain[0].logprobs, abs=1e-5)


def test_draws_depend_on_their_key_alone(generator: VLLMGenerator) -> None:
    asked, names, sampling = prompts(12), keys(12), Sampling(1.0, 8)
    whole = generator.generate(asked, sampling, names)
    order = random.Random(1).sample(range(12), 12)
    shuffled = generator.generate([asked[i] for i in order], sampling, [names[i] for i in order])
    assert [shuffled[order.index(i)].tokens for i in range(12)] == [g.tokens for g in whole]
    samples = generator.generate([asked[0]] * 3, sampling, [("rollout", 0, "p0", i) for i in range(3)])
    assert len({tuple(g.tokens) for g in samples}) == 3
    assert {how.n for how in engine().requests} == {1}
    assert len({how.seed for how in engine().requests}) == 15
    assert generator.generate([], sampling, []) == []


def test_the_engine_gets_what_the_track_says(generator: VLLMGenerator) -> None:
    assert engine().arguments == {
        "skip_tokenizer_init": True, "dtype": "float32", "gpu_memory_utilization": 0.3, "max_model_len": -1,
        "enable_sleep_mode": True, "enable_prefix_caching": True, "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm", "revision": None, "trust_remote_code": False, "use_tqdm_on_load": False,
    }  # fmt: skip
    assert (generator.engine, generator.copies) == ("vllm 0.32.0", True)
    row = ([1, 2, 3], [4, 5])
    assert generator.likelihoods([row]) == HFGenerator(generator.model, [1], 0, vocabulary=VOCABULARY).likelihoods([row])


def test_it_sleeps_and_wakes_with_the_new_weights(generator: VLLMGenerator, policy: Any) -> None:
    asked = prompts(6)
    first = generator.generate(asked, Sampling(1.0, 8), keys(6))
    generator.sleep()
    generator.sleep()
    changed(policy)
    generator.sync()
    second = generator.generate(asked, Sampling(1.0, 8), keys(6))
    assert drift(policy, asked, second) < 1e-5
    assert drift(policy, asked, first) > 0.1
    assert [g.version for g in (first[0], second[0])] == [0, 1]
    assert engine().calls == [
        "generate", "sleep 2", "wake weights", "reload_weights", "wake kv_cache", "reset_prefix_cache", "generate",
    ]  # fmt: skip


def test_awake_it_takes_weights_over_without_a_stale_prefix(generator: VLLMGenerator, policy: Any) -> None:
    asked = prompts(6)
    generator.generate(asked, Sampling(1.0, 8), keys(6))
    changed(policy)
    generator.sync()
    assert drift(policy, asked, generator.generate(asked, Sampling(1.0, 8), keys(6))) < 1e-5
    assert "wake" not in " ".join(engine().calls)


def test_asked_while_asleep_it_wakes_by_itself(generator: VLLMGenerator, policy: Any) -> None:
    asked = prompts(4)
    before = generator.generate(asked, Sampling(1.0, 8), keys(4))
    generator.sleep()
    assert generator.generate(asked, Sampling(1.0, 8), keys(4)) == before, "dropped weights were copied again"


def test_stale_weights_show_as_drift(generator: VLLMGenerator, policy: Any) -> None:
    changed(policy, 0.05)  # and no sync
    asked = prompts(16)
    assert drift(policy, asked, generator.generate(asked, Sampling(1.0, 8), keys(16))) > 0.02


def adapted(policy: Any) -> Adapter:
    adapter = Adapter(policy, rank=2, alpha=4.0)
    move(adapter, 1)
    return adapter


def move(adapter: Adapter, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in adapter.parameters.values():
            value.copy_(torch.randn_like(value) * 0.2)


def with_adapter(policy: Any, adapter: Adapter, folder: Path) -> VLLMGenerator:
    beside = HFGenerator(policy, [1], 0, vocabulary=VOCABULARY)
    return VLLMGenerator(beside, str(folder), 0.3, "float32", adapter)


def test_of_a_lora_policy_only_the_adapter_is_synced(vllm: type[stub_vllm.LLM], policy: Any, tmp_path: Path) -> None:
    adapter = adapted(policy)
    generator, asked = with_adapter(policy, adapter, tmp_path / "policy"), prompts(8)
    assert (engine().arguments["enable_lora"], engine().arguments["max_lora_rank"]) == (True, 8)
    first = generator.generate(asked, Sampling(1.0, 8), keys(8))
    assert drift(policy, asked, first) < 1e-4
    generator.sleep()
    move(adapter, 2)
    generator.sync()
    second = generator.generate(asked, Sampling(1.0, 8), keys(8))
    assert drift(policy, asked, second) < 1e-4
    assert drift(policy, asked, first) > 0.02
    assert engine().calls == ["generate", "sleep 1", "wake all", "reset_prefix_cache", "generate"]


def test_an_adapter_that_became_part_of_the_weights_is_still_sampled(
    vllm: type[stub_vllm.LLM], policy: Any, tmp_path: Path
) -> None:
    adapter = adapted(policy)
    generator, asked = with_adapter(policy, adapter, tmp_path / "policy"), prompts(8)
    adapter.merge()
    move(adapter, 2)
    generator.sync()
    assert drift(policy, asked, generator.generate(asked, Sampling(1.0, 8), keys(8))) < 1e-4
    assert json.loads((Path(generator._written.name) / "adapter_config.json").read_text())["r"] == 4  # type: ignore[union-attr]
    generator.sync(whole=True)  # now the engine's base weights have the merged part in them
    assert drift(policy, asked, generator.generate(asked, Sampling(1.0, 8), keys(8))) < 1e-4
    assert "reload_weights" in engine().calls


def test_a_checkpoint_replaces_the_weights_below_an_adapter(
    vllm: type[stub_vllm.LLM], policy: Any, tmp_path: Path
) -> None:
    adapter = adapted(policy)
    generator, asked = with_adapter(policy, adapter, tmp_path / "policy"), prompts(8)
    other = tiny("Qwen2", seed=5, dtype=torch.float32, vocabulary=WIDTH)
    adapter.load_plain_state_dict(other.state_dict())
    generator.sync(whole=True)
    assert drift(other, asked, generator.generate(asked, Sampling(1.0, 8), keys(8))) < 1e-4


def test_what_vllm_refuses_is_told_before_the_run(
    vllm: type[stub_vllm.LLM], policy: Any, tmp_path: Path, generator: VLLMGenerator
) -> None:
    with pytest.raises(CapabilityError, match="temperature must be in"):
        generator.generate(prompts(1), Sampling(2.5, 4), keys(1))
    vllm.refuses = "Free memory on device (3.1/139.8 GiB) is less than desired GPU memory utilization"
    with pytest.raises(EnvironmentFault, match="Free memory on device") as caught:
        VLLMGenerator(HFGenerator(policy, [1], 0), str(tmp_path / "policy"), 0.3, "float32")
    assert "generation.gpu_memory" in caught.value.fix
    wide = HFGenerator(tiny(vocabulary=VOCABULARY + 2000), [1], 0, vocabulary=VOCABULARY)
    with pytest.raises(CapabilityError, match=f"{VOCABULARY + 2000} output tokens"):
        VLLMGenerator(wide, str(tmp_path / "policy"), 0.3, "float32")


def test_an_engine_that_breaks_down_is_a_fault_with_a_remedy(vllm: type[stub_vllm.LLM], generator: VLLMGenerator) -> None:
    vllm.breaks = "Unsupported CPU attention configuration"
    with pytest.raises(EnvironmentFault, match="failed while it sampled: Unsupported CPU attention") as caught:
        generator.generate(prompts(1), Sampling(1.0, 4), keys(1))
    assert "engine: hf" in caught.value.fix


def test_on_a_cpu_nothing_sleeps_and_the_output_layer_is_packed_anew(policy: Any, tmp_path: Path) -> None:
    with stub_vllm.installed("cpu"):
        beside = HFGenerator(policy, [1], 0, vocabulary=VOCABULARY)
        generator, asked = VLLMGenerator(beside, str(tmp_path / "policy"), 0.3, "float32"), prompts(6)
        assert (engine().arguments["enable_sleep_mode"], engine().arguments["enable_chunked_prefill"]) == (False, False)
        generator.generate(asked, Sampling(1.0, 8), keys(6))
        generator.sleep()
        changed(policy)
        generator.sync()
        assert drift(policy, asked, generator.generate(asked, Sampling(1.0, 8), keys(6))) < 1e-5
    assert engine().calls == ["generate", "reload_weights", "_pack_output_layer", "reset_prefix_cache", "generate"]


def test_of_several_processes_each_has_an_engine(
    vllm: type[stub_vllm.LLM], policy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    generator = VLLMGenerator(HFGenerator(policy, [1], 0), str(tmp_path / "policy"), 0.3, "float32", processes=2)
    assert engine().arguments["distributed_executor_backend"] == "external_launcher"
    assert engine().rank == "0", "what the engine reads to know which process it is in"
    assert "RANK" not in os.environ
    generator.close()
    assert engine().calls == ["shutdown"]


def test_without_the_package_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.generate.vllm.importlib.util.find_spec", lambda name: None)
    missing = obstacle(torch.device("cuda"))
    assert missing is not None
    assert "pip install" in missing.fix


@pytest.mark.parametrize(("built", "student", "told"), [
    ("cuda", "cpu", "the student is on cpu, and the vLLM installed here samples on cuda"),
    ("cpu", "cuda", "the student is on cuda, and the vLLM installed here samples on cpu"),
    ("", "cpu", "the student is on cpu, and the vLLM installed here finds nothing to run on"),
])  # fmt: skip
def test_an_engine_for_another_device_is_refused_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, built: str, student: str, told: str
) -> None:
    where = torch.device(student)
    with stub_vllm.installed(built):
        monkeypatch.setattr("harness.generate.vllm.importlib.util.find_spec", lambda name: object())
        monkeypatch.setattr("harness.generate.vllm.obstacle", obstacle)
        with pytest.raises(EnvironmentFault, match=told):
            samples("vllm", where)
        assert not samples("auto", where)


@pytest.mark.parametrize(("device", "chosen"), [("cuda", True), ("cpu", False)])
def test_by_itself_vllm_is_chosen_on_a_gpu_alone(device: str, chosen: bool) -> None:
    with stub_vllm.installed(device):
        assert samples("auto", torch.device(device)) is chosen
        assert samples("vllm", torch.device(device))
        assert not samples("hf", torch.device(device))

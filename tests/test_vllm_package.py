"""Where vLLM can be imported (a GPU is not needed): its signatures are those that we call and that the stub imitates."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import stub_vllm
import torch
from tiny import tiny

pytest.importorskip("vllm", reason="vLLM is not installed")


def taken(call: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(call).parameters)


def test_sampling_params_have_our_fields_and_defaults() -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    real, ours = taken(SamplingParams), taken(stub_vllm.SamplingParams)
    made = SamplingParams()
    for name, parameter in ours.items():
        assert name in real
        if name != "stop_token_ids":  # None becomes an empty list
            assert getattr(made, name) == parameter.default, name
    asked = SamplingParams(
        temperature=0.7, max_tokens=5, seed=2**63 - 1, logprobs=0, stop_token_ids=[1], ignore_eos=True, detokenize=False,
        logit_bias={7: -1.0e4},
    )  # fmt: skip
    assert (asked.seed, asked.logprobs, asked.stop_token_ids, asked.logit_bias) == (2**63 - 1, 0, [1], {7: -1.0e4})
    assert (asked.top_p, asked.top_k, asked.min_p) == (1.0, 0, 0.0), "nothing is cut off"
    with pytest.raises(VLLMValidationError, match="temperature"):
        SamplingParams(temperature=2.5)


def test_ends_that_are_not_ours_do_not_stop() -> None:
    from vllm import SamplingParams

    asked = SamplingParams(stop_token_ids=[1], ignore_eos=True)
    asked.update_from_generation_config({"eos_token_id": [5, 6]}, 7)
    assert (asked.stop_token_ids, asked.eos_token_id) == ([1], None)


@pytest.mark.parametrize("name", ["generate", "collective_rpc", "sleep", "wake_up", "reset_prefix_cache"])
def test_the_engine_has_the_stubs_methods(name: str) -> None:
    from vllm import LLM

    real, ours = taken(getattr(LLM, name)), taken(getattr(stub_vllm.LLM, name))
    assert set(ours) <= set(real)
    for argument, parameter in ours.items():
        if argument not in ("self", "sampling_params"):
            assert (parameter.kind, parameter.default) == (real[argument].kind, real[argument].default), argument


def test_the_engine_takes_our_arguments() -> None:
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs

    known = set(taken(LLM)) | {field.name for field in dataclasses.fields(EngineArgs)}
    assert {name for name in taken(stub_vllm.LLM) if name != "kwargs"} <= set(taken(LLM))
    others = (
        "max_model_len", "enable_sleep_mode", "enable_prefix_caching", "logprobs_mode", "generation_config", "enable_lora",
        "max_lora_rank", "max_loras", "use_tqdm_on_load", "distributed_executor_backend", "enable_chunked_prefill",
    )  # fmt: skip
    assert set(others) <= known


def test_an_engine_in_this_process_can_be_ended() -> None:
    from vllm.v1.engine.core_client import InprocClient
    from vllm.v1.engine.llm_engine import LLMEngine

    assert callable(InprocClient.shutdown)
    assert "self.engine_core = " in inspect.getsource(LLMEngine.__init__)


def test_the_platform_says_where_it_runs_and_whether_it_sleeps() -> None:
    from vllm.platforms import current_platform

    assert current_platform.device_type in ("cuda", "cpu", "")
    assert current_platform.is_sleep_mode_available() is (current_platform.device_type == "cuda")


def test_weights_and_adapters_are_taken_as_we_give_them() -> None:
    from vllm.lora.request import LoRARequest
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner as NewRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    for runner in (GPUModelRunner, NewRunner):
        assert set(taken(stub_vllm.Worker.reload_weights)) == set(taken(runner.reload_weights))
    request = LoRARequest("policy-3", 4, "/tmp/adapter")
    assert (request.lora_name, request.lora_int_id, request.lora_path) == ("policy-3", 4, "/tmp/adapter")


def test_an_adapter_is_read_back_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.config.lora import LoRAConfig
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    from harness.generate.vllm import write_adapter
    from harness.train.lora import Adapter

    adapter = Adapter(tiny("Qwen2", dtype=torch.float32), rank=2, alpha=4.0)
    for value in adapter.parameters.values():
        value.data = torch.randn_like(value)
    adapter.merge()
    for value in adapter.parameters.values():
        value.data = torch.randn_like(value)
    write_adapter(adapter, tmp_path)
    told = PEFTHelper.from_local_dir(str(tmp_path), 64)
    told.validate_legal(LoRAConfig(max_lora_rank=8, max_loras=1))
    assert (told.r, told.vllm_lora_scaling_factor) == (4, 2.0)
    modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    monkeypatch.setattr("vllm.lora.lora_model.PIN_MEMORY", False)  # there is no GPU that memory could be pinned for
    model = LoRAModel.from_local_checkpoint(str(tmp_path), modules, told, lora_model_id=1, device="cpu", dtype=torch.float32)
    read = model.loras["model.layers.1.mlp.up_proj"]
    both = [{name: values[f"model.layers.1.mlp.up_proj.lora_{name}.default.weight"] for name in "AB"}
            for values in (*adapter.merged, adapter.parameters)]  # fmt: skip
    wanted = sum(2.0 * part["B"] @ part["A"] for part in both)
    scaled = read.lora_b @ read.lora_a * (1.0 if read.scaling == 1 else read.scaling)
    assert torch.allclose(scaled, wanted, atol=1e-5)


def test_outputs_have_the_stubs_fields() -> None:
    from vllm import CompletionOutput, RequestOutput
    from vllm.logprobs import Logprob

    for real, ours in ((CompletionOutput, stub_vllm.CompletionOutput), (Logprob, stub_vllm.Logprob)):
        assert {field.name for field in dataclasses.fields(ours)} <= set(taken(real))
    assert {field.name for field in dataclasses.fields(stub_vllm.RequestOutput)} <= set(taken(RequestOutput))


def test_the_settings_of_the_environment_are_known_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs

    from harness import environment

    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "1")
    environment.vllm_in_this_process()
    assert envs.environment_variables["VLLM_ENABLE_V1_MULTIPROCESSING"]() is False
    assert {"VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS"} <= set(envs.environment_variables)


def test_ranks_are_those_that_it_reserves() -> None:
    from typing import get_args

    from vllm.config.lora import MaxLoRARanks

    from harness.generate.vllm import RANKS

    assert get_args(MaxLoRARanks) == RANKS

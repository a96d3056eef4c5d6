"""Stands in for the package `vllm` where it is not installed: the same names and arguments, on a small model of transformers.

It is as strict as the engine: asleep it samples nothing, weights that were dropped are not a number until new ones come, and a
prefix cache that outlives its weights is an error. `tests/test_vllm_package.py` compares its signatures with the real ones.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import torch

from harness.generate.hf import HFGenerator
from harness.types import Sampling

VERSION = "0.32.0"


class VLLMValidationError(Exception):
    """In some versions a ValueError, in others not."""


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= 2.0:
            raise VLLMValidationError(f"temperature must be in [0, 2], got {self.temperature}.")
        assert self.seed is None or 0 <= self.seed < 2**63, "the engine keeps seeds as int64"


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    token_ids: list[int]
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


class Masked(torch.nn.Module):
    """A model of which some logits are pushed down, as a request may ask."""

    def __init__(self, model: Any, bias: dict[int, float]) -> None:
        super().__init__()
        self.inner, self.bias = model, bias
        self.config, self.device = model.config, model.device

    def forward(self, **how: Any) -> Any:
        out = self.inner(**how)
        for token, value in self.bias.items():
            out.logits[..., token] += value
        return out


@dataclass
class Worker:
    """What a real engine has on the GPU."""

    model: Any
    asleep: set[str] = field(default_factory=set)
    prefixes: int = 0
    """Prompts read under the present weights whose cache is kept."""
    stale: bool = False

    def reload_weights(
        self, weights_iterator: Iterable[tuple[str, torch.Tensor]] | None = None, weights_path: str | None = None,
        is_checkpoint_format: bool = True,
    ) -> None:  # fmt: skip
        assert "weights" not in self.asleep, "there is no memory behind the weights"
        assert weights_iterator is not None
        own = dict(self.model.named_parameters())
        left = set(own)
        with torch.no_grad():
            for name, weight in weights_iterator:
                assert weight.dtype == own[name].dtype
                own[name].copy_(weight)
                left.discard(name)
        assert not left, f"not loaded: {left}"
        self.stale = self.prefixes > 0


class LLM:
    made: ClassVar[list[LLM]] = []
    refuses: str = ""
    """If set, no engine starts, for this reason."""
    breaks: str = ""
    """If set, an engine that is asked to sample breaks down, with these words."""

    def __init__(
        self, model: str, *, skip_tokenizer_init: bool = False, trust_remote_code: bool = False, dtype: str = "auto",
        revision: str | None = None, seed: int = 0, gpu_memory_utilization: float = 0.92, **kwargs: Any,
    ) -> None:  # fmt: skip
        from transformers import AutoModelForCausalLM

        if LLM.refuses:
            raise ValueError(LLM.refuses)
        self.arguments = {
            "skip_tokenizer_init": skip_tokenizer_init, "dtype": dtype, "gpu_memory_utilization": gpu_memory_utilization,
            "revision": revision, "trust_remote_code": trust_remote_code, **kwargs,
        }  # fmt: skip
        unknown = set(kwargs) - {
            "max_model_len", "enable_sleep_mode", "enable_prefix_caching", "logprobs_mode", "generation_config", "enable_lora",
            "max_lora_rank", "max_loras", "use_tqdm_on_load", "distributed_executor_backend", "enable_chunked_prefill",
        }  # fmt: skip
        if unknown:
            raise TypeError(f"unexpected keyword arguments {unknown}")
        self.worker = Worker(AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval())
        self.rank = os.environ.get("RANK")
        self.calls: list[str] = []
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(shutdown=lambda: self.calls.append("shutdown")))
        self.requests: list[SamplingParams] = []
        LLM.made.append(self)

    def generate(
        self, prompts: Sequence[dict[str, list[int]]], sampling_params: Sequence[SamplingParams], *, use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[RequestOutput]:  # fmt: skip
        if LLM.breaks:
            raise RuntimeError(LLM.breaks)
        assert not self.worker.asleep, "the engine is asleep"
        assert not self.worker.stale, "a prefix cache of other weights"
        assert self.arguments["logprobs_mode"] == "processed_logprobs"
        self.calls.append("generate")
        self.requests += sampling_params
        model = self.worker.model
        if lora_request:
            from peft import PeftModel

            assert self.arguments["enable_lora"]
            model = PeftModel.from_pretrained(model, lora_request.lora_path).eval()
        rows = [list(prompt["prompt_token_ids"]) for prompt in prompts]
        outputs = self._written(model, rows, sampling_params)
        if lora_request:
            self.worker.model = model.unload()
        self.worker.prefixes += len(outputs) * self.arguments["enable_prefix_caching"]
        return outputs

    def _written(self, model: Any, rows: list[list[int]], params: Sequence[SamplingParams]) -> list[RequestOutput]:
        """All rows at once: they differ in nothing but their seeds."""
        first = params[0]
        assert all(dataclasses.replace(each, seed=first.seed) == first for each in params)
        assert first.n == 1
        assert first.ignore_eos, "the engine would also stop at an end token of its own"
        assert first.max_tokens is not None
        drawn = HFGenerator(Masked(model, first.logit_bias) if first.logit_bias else model, first.stop_token_ids or [], 0)
        seeds = [("seed", each.seed or 0) for each in params]
        outputs = []
        for i, made in enumerate(drawn.generate(rows, Sampling(first.temperature, first.max_tokens), seeds)):
            told = [{token: Logprob(logp, 1)} for token, logp in zip(made.tokens, made.logprobs, strict=True)]
            output = CompletionOutput(0, made.tokens, None if first.logprobs is None else told, made.finish)
            outputs.append(RequestOutput(str(i), rows[i], [output]))
        return outputs

    def collective_rpc(
        self, method: str | Callable[..., Any], timeout: float | None = None, args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:  # fmt: skip
        if callable(method):
            self.calls.append(method.__name__)
            return []  # it would reach into the engine's own layers
        self.calls.append(method)
        return [getattr(self.worker, method)(*args, **(kwargs or {}))]

    def sleep(self, level: int = 1, mode: str = "abort") -> None:
        assert self.arguments["enable_sleep_mode"]
        self.calls.append(f"sleep {level}")
        self.worker.asleep = {"weights", "kv_cache"}
        self.worker.prefixes = 0
        if level == 2:
            with torch.no_grad():
                for parameter in self.worker.model.parameters():
                    parameter.fill_(float("nan"))

    def wake_up(self, tags: list[str] | None = None) -> bool:
        self.calls.append(f"wake {' '.join(tags) if tags else 'all'}")
        self.worker.asleep -= set(tags or ("weights", "kv_cache"))
        return not self.worker.asleep

    def reset_prefix_cache(self, reset_running_requests: bool = False, reset_connector: bool = False) -> bool:
        self.calls.append("reset_prefix_cache")
        self.worker.prefixes, self.worker.stale = 0, False
        return True


@contextmanager
def installed(device: str = "cuda") -> Iterator[type[LLM]]:
    """As if the package were installed, built for a kind of device."""
    package, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    package.LLM, package.SamplingParams, package.__version__ = LLM, SamplingParams, VERSION  # type: ignore[attr-defined]
    request.LoRARequest = LoRARequest  # type: ignore[attr-defined]
    LLM.made, LLM.refuses, LLM.breaks = [], "", ""
    exceptions = ModuleType("vllm.exceptions")
    exceptions.VLLMValidationError = VLLMValidationError  # type: ignore[attr-defined]
    platforms = ModuleType("vllm.platforms")
    platforms.current_platform = SimpleNamespace(  # type: ignore[attr-defined]
        device_type=device, is_sleep_mode_available=lambda: device == "cuda"
    )
    parts = {
        "vllm": package, "vllm.platforms": platforms, "vllm.exceptions": exceptions,
        "vllm.lora": lora, "vllm.lora.request": request,
    }  # fmt: skip
    before = {name: sys.modules.pop(name, None) for name in parts}
    sys.modules.update(parts)  # no more is put back than was put in: what else is imported meanwhile must stay
    try:
        with mock.patch("harness.generate.vllm.obstacle", return_value=None):
            yield LLM
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module

"""Sampling with vLLM in this process: it sleeps while the trainer steps and takes the new weights over afterwards.

The one file that knows vLLM. What it calls was read in 0.25.1, 0.32.0 and 0.33.0, where it is the same: `LLM.generate`,
`sleep`, `wake_up`, `reset_prefix_cache`, the worker's `reload_weights(weights_iterator=...)`, and `LoRARequest`. Run with 0.27.1
to 0.32.0 on a CPU, where the engine cannot sleep.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness import environment
from harness.errors import CapabilityError, EnvironmentFault, HarnessError
from harness.generate.hf import HFGenerator
from harness.seeds import Key, digest
from harness.types import Generation, Sampling

if TYPE_CHECKING:
    from harness.train.lora import Adapter

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, as vLLM reserves room for them."""
MASKED = 1024
"""Ids that a request can exclude at most; the rows of an output layer beyond the tokenizer's must be fewer."""
NEVER = -1.0e4
"""Added to a logit, leaves a probability of 0 in float32."""


def obstacle(device: torch.device) -> HarnessError | None:
    """What keeps vLLM from sampling for a student that lives on a device, if anything."""
    if importlib.util.find_spec("vllm") is None:
        return EnvironmentFault("vLLM is not installed", where="generation.engine",
                                fix="pip install 'distillation-harness[vllm]', or generation: {engine: hf}")  # fmt: skip
    environment.vllm_in_this_process()
    try:
        from vllm.platforms import current_platform
    except (ImportError, OSError, RuntimeError) as error:
        return EnvironmentFault(f"vLLM cannot be imported: {error}", where="generation.engine",
                                fix="harness doctor names what does not fit; or generation: {engine: hf}")  # fmt: skip
    if current_platform.device_type != device.type:
        runs_on = f"samples on {current_platform.device_type}" if current_platform.device_type else "finds nothing to run on"
        return EnvironmentFault(f"the student is on {device.type}, and the vLLM installed here {runs_on}",
                                where="generation.engine", fix="generation: {engine: hf}")  # fmt: skip
    return None


def samples(engine: str, device: torch.device) -> bool:
    """Whether a run samples with vLLM.

    Args:
        engine: `hf`, `vllm`, or `auto`: vLLM where it is installed and the student lives on a GPU.

    Raises:
        EnvironmentFault: vLLM is asked for, and something keeps it from running.
    """
    if engine == "hf" or (engine == "auto" and device.type != "cuda"):
        return False
    fault = obstacle(device)
    if fault and engine == "vllm":
        raise fault
    return fault is None


class VLLMGenerator:
    """Samples from a copy of the policy that vLLM keeps on the same device.

    Every row is a request of its own with its own seed: what vLLM draws for several samples in one request is seeded by
    their places, so a draw would depend on its neighbours. A shared prompt is read once all the same, from the prefix
    cache. Reported log-probs are those of the distribution that was sampled (after temperature, over the tokenizer's ids),
    as the trainer scores it.

    A policy whose weights are all trained is copied whole at each sync, and the sleeping engine keeps nothing; a LoRA policy
    has its adapter written out and taken up by name, and the sleeping engine keeps its base weights in main memory. On a CPU
    nothing sleeps.

    Args:
        beside: the same policy's plain generator, which goes on to answer for likelihoods of given texts.
        folder: where the policy's base weights lie in Hugging Face format, or their name on the hub.
        memory: share of the GPU's memory (on a CPU, of main memory) for the engine while it is awake: weights, working space
            and cache.
        dtype: of the engine's weights and arithmetic.
        adapter: the policy's LoRA adapter; None where all weights are trained.
        processes: of the run, which torch's default process group holds; all must make their generators together.

    Raises:
        EnvironmentFault: the engine does not start.
        CapabilityError: the output layer is so much wider than the vocabulary that the rest cannot be masked.
    """

    copies = True

    def __init__(
        self, beside: HFGenerator, folder: str, memory: float, dtype: str, adapter: Adapter | None = None,
        revision: str | None = None, remote_code: bool = False, processes: int = 1,
    ) -> None:  # fmt: skip
        environment.vllm_in_this_process()
        from vllm import LLM, __version__
        from vllm.exceptions import VLLMValidationError
        from vllm.platforms import current_platform

        self._refusals = (ValueError, KeyError, VLLMValidationError)  # the last is a ValueError up to 0.25 only
        self.model, self._beside, self._dtype = beside.model, beside, getattr(torch, dtype)
        self.version, self.engine = 0, f"vllm {__version__}"
        self._stop_ids = beside.stop_ids.tolist()
        self._masked = _masked(beside)
        self._adapter, self._request = adapter, None
        self._below, self._awake = 0, True
        self._sleeps, self._packs = current_platform.is_sleep_mode_available(), current_platform.device_type == "cpu"
        self._written: tempfile.TemporaryDirectory[str] | None = None
        lora = {"enable_lora": True, "max_lora_rank": _room(adapter), "max_loras": 1} if adapter else {}
        # a prompt that is read in pieces turns its seeded generator back, which those of CPUs cannot do
        own: dict[str, Any] = {"enable_chunked_prefill": False} if self._packs else {}
        if processes > 1:  # an engine for each, with one GPU: they know of each other and sample each by itself
            own["distributed_executor_backend"] = "external_launcher"
        try:
            with environment.as_if_launched():
                self._engine = LLM(
                    model=folder, skip_tokenizer_init=True, dtype=dtype, gpu_memory_utilization=memory, max_model_len=-1,
                    enable_sleep_mode=self._sleeps, enable_prefix_caching=True, logprobs_mode="processed_logprobs",
                    generation_config="vllm", revision=revision, trust_remote_code=remote_code, seed=0, use_tqdm_on_load=False,
                    **lora, **own,
                )  # fmt: skip
        except (*self._refusals, RuntimeError, OSError) as error:
            raise EnvironmentFault(
                f"vLLM does not start on {folder}: {error}", where="generation",
                fix="change generation.gpu_memory (share of the whole GPU, beside the trainer), or generation: {engine: hf}",
            ) from error  # fmt: skip
        if adapter:
            self._take_adapter(adapter)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[Key]) -> list[Generation]:
        """One completion for each prompt's token ids; the draw of row i is seeded by `keys[i]` alone.

        What is drawn can still differ in rare places with other rows beside it, since the engine's arithmetic does.

        Raises:
            CapabilityError: vLLM refuses the request, such as a prompt longer than its context.
            EnvironmentFault: the engine fails.
        """
        from vllm import SamplingParams

        self._wake()
        try:
            params = [
                SamplingParams(
                    temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=digest(*key) % 2**63, logprobs=0,
                    stop_token_ids=self._stop_ids, ignore_eos=True, detokenize=False, logit_bias=self._masked,
                )
                for key in keys
            ]  # fmt: skip
            rows = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
            written = self._engine.generate(rows, params, use_tqdm=False, lora_request=self._request) if rows else []
        except self._refusals as error:
            raise CapabilityError(f"vLLM refuses to sample: {error}", where="generation") from error
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise EnvironmentFault(f"vLLM failed while it sampled: {error}", where="generation",
                                   fix="generation: {engine: hf}, or another version of vLLM") from error  # fmt: skip
        return [self._read(request.outputs[0]) for request in written]

    def _read(self, output: Any) -> Generation:
        tokens = list(output.token_ids)
        logprobs = [told[token].logprob for told, token in zip(output.logprobs, tokens, strict=True)]
        return Generation(tokens, logprobs, "stop" if tokens[-1] in self._stop_ids else "length", self.version)

    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """By the policy itself, not by the engine: see `HFGenerator.likelihoods`."""
        return self._beside.likelihoods(rows)

    def sync(self, whole: bool = False) -> None:
        """Wakes the engine with the policy's present weights.

        Args:
            whole: not only what is trained may have changed, as after loading a checkpoint.

        Raises:
            CapabilityError: this vLLM cannot exchange the weights below an adapter (0.30 and later can).
        """
        self.version += 1
        if self._adapter is None:
            self._load()
            return
        self._wake()
        if whole:
            self._reload()
            self._below = len(self._adapter.merged)
        self._take_adapter(self._adapter)
        self._forget()

    def sleep(self) -> None:
        """Gives the engine's memory back. A copy of all weights is dropped, base weights of an adapter go to main memory."""
        if self._awake and self._sleeps:
            self._engine.sleep(level=1 if self._adapter else 2)
            self._awake = False

    def close(self) -> None:
        """Ends the engine, and with it torch's process groups: left to itself it would do so after ours are gone, and fail."""
        self._engine.llm_engine.engine_core.shutdown()

    def _wake(self) -> None:
        """Ready to sample: a copy that was dropped is made again."""
        if not self._awake and self._adapter:
            self._rouse(None)
        elif not self._awake:
            self._load()
        self._awake = True

    def _load(self) -> None:
        if not self._awake:
            self._rouse(["weights"])
        self._reload()
        if not self._awake:  # the cache comes last: while weights are copied there may be no room for it
            self._rouse(["kv_cache"])
        self._awake = True
        self._forget()

    def _reload(self) -> None:
        try:
            self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": self._weights()})
            if self._packs:
                self._engine.collective_rpc(_pack_output_layer)
        except self._refusals as error:
            raise CapabilityError(
                f"{self.engine} does not take the policy's weights over: {error}", where="generation",
                fix="generation: {engine: hf}, or a later vLLM (under an adapter weights can be exchanged from 0.30 on)",
            ) from error  # fmt: skip

    def _forget(self) -> None:
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache, which belongs to weights that are gone")

    def _rouse(self, tags: list[str] | None) -> None:
        gc.collect()
        torch.cuda.empty_cache()  # what the trainer freed is the engine's only once torch has handed it back
        self._engine.wake_up(tags=tags)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's weights by the names of its checkpoint, one at a time in the engine's dtype, without an adapter's."""
        for name, parameter in self.model.named_parameters():
            if ".lora_" not in name:
                yield name.replace(".base_layer.", "."), parameter.detach().to(self._dtype)

    def _take_adapter(self, adapter: Adapter) -> None:
        from vllm.lora.request import LoRARequest

        before, self._written = self._written, tempfile.TemporaryDirectory(prefix="adapter-")
        write_adapter(adapter, Path(self._written.name), self._below)
        self._request = LoRARequest(f"policy-{self.version}", self.version + 1, self._written.name)
        if before:
            before.cleanup()


@torch.no_grad()
def write_adapter(adapter: Adapter, folder: Path, below: int = 0) -> None:
    """Writes a LoRA policy's adapter in peft's format, for a model of the weights that it began with.

    Adapters that have become part of the policy's weights since are stacked on the present one: B A + B' A' is the product
    of [B B'] and [A; A'], an adapter of the summed rank.

    Args:
        below: how many of those are part of the reader's weights too.
    """
    from safetensors.torch import save_file

    parts: list[Mapping[str, Tensor]] = [*adapter.merged[below:], adapter.parameters]
    config = copy.copy(adapter.model.peft_config["default"])
    config.r, config.lora_alpha = config.r * len(parts), config.lora_alpha * len(parts)  # their ratio, the scale, stays
    config.save_pretrained(str(folder))
    tensors: dict[str, Tensor] = {}
    for name in adapter.parameters:
        stacked = torch.cat([part[name] for part in parts], 0 if ".lora_A." in name else 1)
        tensors[f"base_model.model.{name.replace('.default.', '.')}"] = stacked.contiguous().cpu()
    save_file(tensors, folder / "adapter_model.safetensors")


def _pack_output_layer(worker: Any) -> None:
    """On CPUs vLLM multiplies with packed copies of the weights. That of an output layer which shares the embedding's weights
    is not made anew when those are reloaded (seen with 0.32.0): the old weights would go on choosing the tokens."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in worker.get_model().modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def _masked(beside: HFGenerator) -> dict[int, float] | None:
    """The ids of the output layer that no tokenizer knows, each with what keeps it from being sampled."""
    width = int(beside.model.get_output_embeddings().weight.shape[0])
    extra = range(width if beside.vocabulary is None else beside.vocabulary, width)
    if len(extra) > MASKED:
        raise CapabilityError(
            f"the model has {width} output tokens, its tokenizer {beside.vocabulary}: vLLM can exclude {MASKED} ids at most",
            where="generation", fix="generation: {engine: hf}",
        )  # fmt: skip
    return dict.fromkeys(extra, NEVER) if extra else None


def _room(adapter: Adapter) -> int:
    """The rank to reserve: twice the adapter's own, since a warm start's may have become part of the weights."""
    wanted = 2 * int(adapter.model.peft_config["default"].r)
    if wanted > RANKS[-1]:
        raise CapabilityError(f"with vLLM a LoRA adapter's rank is {RANKS[-1] // 2} at most, got {wanted // 2}",
                              where="student.lora.rank", fix="a smaller rank, or generation: {engine: hf}")  # fmt: skip
    return min(rank for rank in RANKS if rank >= wanted)

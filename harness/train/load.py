"""Models and tokenizers from Hugging Face folders or the hub, and the device they live on: the only place that loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness.errors import CapabilityError, EnvironmentFault, SpecError

Loaded = TypeVar("Loaded")


def pick_device(wanted: str = "auto", *, tiny: bool = False) -> torch.device:
    """Where the models of a run live: `cpu`, `cuda` (this process's current GPU), or `auto`, which is CUDA where there is one.

    Args:
        tiny: models so small that `auto` leaves them on CPU, where they are quick and repeat bit for bit.

    Raises:
        EnvironmentFault: CUDA is asked for and torch sees none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise EnvironmentFault(
            "the track asks for CUDA, and torch sees no GPU", where="training.device: cuda",
            fix="set training.device to auto or cpu, or install a build of torch for this GPU and its driver",
        )  # fmt: skip
    if wanted == "cpu" or not there or (tiny and wanted == "auto"):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def load_tokenizer(path: str | Path, *, revision: str = "", remote_code: bool = False) -> Any:
    """The tokenizer of a folder or repository.

    Raises:
        SpecError: there is none that can be read.
    """
    from transformers import AutoTokenizer

    how = {"revision": revision or None, "trust_remote_code": remote_code}
    return _loaded(lambda: AutoTokenizer.from_pretrained(path, **how), "tokenizer", path, revision)


def load_causal_lm(
    path: str | Path, dtype: torch.dtype = torch.float32, *, revision: str = "", remote_code: bool = False,
    attention: str = "auto", device: torch.device | str = "cpu",
) -> Any:  # fmt: skip
    """A causal language model in eval mode: safetensors only, and no code but transformers' own unless it is asked for.

    Args:
        revision: commit, tag or branch of a repository on the hub.
        remote_code: run the Python code that comes with the model.
        attention: `auto`, or an implementation of transformers by name.

    Raises:
        SpecError: there is no such model, or none with safetensors.
        CapabilityError: the attention that was asked for cannot run here.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    how: dict[str, Any] = {"revision": revision or None, "trust_remote_code": remote_code}
    place = torch.device(device)
    config = _loaded(lambda: AutoConfig.from_pretrained(path, **how), "model", path, revision)
    how["attn_implementation"] = _attention(attention, config, dtype, place)
    model: Any = _loaded(
        lambda: AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True, **how), "model", path, revision
    )
    return model.to(place).eval()


def _attention(wanted: str, config: Any, dtype: torch.dtype, device: torch.device) -> str | None:
    """The implementation to ask transformers for; None leaves it to the model (sdpa where it has it)."""
    from transformers.utils import is_flash_attn_2_available

    flash = "flash_attention_2"
    lacking = [
        reason for reason, true in (
            ("a GPU", device.type != "cuda"), ("bfloat16 weights", dtype != torch.bfloat16),
            ("the package flash-attn", not is_flash_attn_2_available()),
        ) if true
    ]  # fmt: skip
    if wanted == flash and lacking:
        raise CapabilityError(f"{flash} needs {' and '.join(lacking)}", where=f"attention: {flash}", fix="attention: auto")
    if wanted != "auto":
        return wanted
    if not lacking:
        return flash
    # sdpa has no cap on attention scores and would leave it out
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def _loaded(load: Callable[[], Loaded], what: str, path: str | Path, revision: str) -> Loaded:
    try:
        return load()
    except (OSError, ValueError, ImportError) as error:
        text = str(error).strip()
        place, why = f"{path} at {revision}" if revision else str(path), text.splitlines()[0] if text else repr(error)
        fix = "give a folder with config.json, safetensors weights and a tokenizer, or a repository of the hub and its revision"
        if "trust_remote_code" in text:
            fix = "remote_code: true runs the code that comes with it; read that first"
        raise SpecError(f"no {what} can be loaded from {place}: {why}", where=str(path), fix=fix) from error

"""A low-rank adapter of a model, put into its linear layers by peft: what is trained in place of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import SpecError
from harness.seeds import digest

NAME = "default"
"""peft's name of the only adapter."""


class Adapter:
    """LoRA (arXiv:2106.09685) inside a model: a layer with weights W answers with W + alpha / rank * B A.

    The model keeps its class and its own forward; its weights are frozen, and with the adapter off it is what it was. There
    is no dropout: the policy that is scored is the one that was sampled.

    Args:
        model: a Hugging Face model; changed in place.
        targets: last names of the linear layers that are adapted; none means all but the output layer.
        seed: of the matrices A (B begins at zero).

    Raises:
        SpecError: a target is no linear layer of the model.
    """

    def __init__(self, model: Any, *, rank: int, alpha: float, targets: Sequence[str] = (), seed: int = 0) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        known = _linear_layers(model)
        unknown = sorted(set(targets) - known)
        if unknown:
            raise SpecError(
                f"{type(model).__name__} has no linear layers called {', '.join(unknown)} that an adapter can sit in",
                where="student.lora.targets", fix=f"it has {', '.join(sorted(known))}; leave targets out to adapt all of them",
            )  # fmt: skip
        self.model, self.seed = model, seed
        self.merged: list[dict[str, Tensor]] = []
        """Adapters that have become part of the weights, in order."""
        settings = LoraConfig(r=rank, lora_dropout=0.0, target_modules=sorted(targets or known))
        settings.lora_alpha = alpha  # type: ignore[assignment]  # it only divides
        model.requires_grad_(False)
        with self._drawing():
            inject_adapter_in_model(settings, model, NAME)
        for value in self.parameters.values():  # beside bfloat16 weights too, small updates must not be rounded away
            value.data = value.data.float() if value.dtype in (torch.float16, torch.bfloat16) else value.data

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by the model's names."""
        return {name: value for name, value in self.model.named_parameters() if ".lora_" in name}

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """The model without its adapter, until the context ends."""
        layers = self._layers().values()
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    @torch.no_grad()
    def merge(self) -> None:
        """The adapter becomes part of the weights, and a new one begins at no change."""
        self.merged.append({name: value.detach().clone() for name, value in self.parameters.items()})
        self._add()
        with self._drawing():
            for layer in self._layers().values():
                layer.reset_lora_parameters(NAME, True)

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter alone, by the model's names and by reference. What was merged before is in `merged`."""
        return {name: value.detach() for name, value in self.parameters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes up what `state_dict` gave, after what had been merged before it."""
        for name, value in self.parameters.items():
            value.copy_(state[name])

    @torch.no_grad()
    def take_merged(self, merged: Sequence[Mapping[str, Tensor]]) -> None:
        """Merges adapters again on a model as it was loaded, except those that are part of it already."""
        for values in merged[len(self.merged) :]:
            self.load_state_dict(values)
            self.merged.append(dict(values))
            self._add()

    @torch.no_grad()
    def plain_state_dict(self) -> dict[str, Tensor]:
        """The weights of a model without adapter that answers as this one does; the live weights stay as they are."""
        state = {_plain(name): value for name, value in self.model.state_dict().items() if ".lora_" not in name}
        for name, layer in self._layers().items():
            state[f"{name}.weight"] = _sum(state[f"{name}.weight"], layer)
        return state

    @torch.no_grad()
    def load_plain_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts a plain model's weights in this one's place, with an adapter that changes nothing."""
        names = {_plain(name): name for name in self.model.state_dict() if ".lora_" not in name}
        missing = self.model.load_state_dict({names[name]: value for name, value in state.items()}, strict=False).missing_keys
        assert all(".lora_" in name for name in missing), missing
        for name, value in self.parameters.items():
            if ".lora_B." in name:
                value.zero_()

    def _layers(self) -> dict[str, Any]:
        from peft.tuners.lora import LoraLayer

        return {name: module for name, module in self.model.named_modules() if isinstance(module, LoraLayer)}

    def _add(self) -> None:
        for layer in self._layers().values():
            weight = layer.get_base_layer().weight
            weight.copy_(_sum(weight, layer))

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[None]:
        """Draws that depend on the seed and on how often the adapter began, and leave torch's own random numbers alone."""
        with torch.random.fork_rng():
            torch.manual_seed(digest("lora", self.seed, len(self.merged)) % 2**63)
            yield


def _linear_layers(model: Any) -> set[str]:
    """Last names of the linear layers, the output layer left out."""
    kinds, output = ("Conv1D",), model.get_output_embeddings()  # GPT-2's linear layers are a class of transformers' own
    return {
        name.rpartition(".")[2] for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ in kinds) and module is not output
    }  # fmt: skip


def _plain(name: str) -> str:
    return name.replace(".base_layer.", ".")


def _sum(weight: Tensor, layer: Any) -> Tensor:
    """A layer's weights with its adapter's share, rounded once where they are narrower than the adapter."""
    return (weight + layer.get_delta_weight(NAME)).to(weight.dtype)

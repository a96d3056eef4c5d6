"""Weights, gradients and optimizer state cut over the processes (torch's `fully_shard`), and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from .models import StreamedLM


def shard(model: StreamedLM, device: torch.device, size: int, half: bool) -> None:
    """Cuts a model's weights over all processes, each layer of its decoder by itself, in place.

    What is read outside of the layers (embeddings, the last norm, the output layer) is gathered at the start of `forward`
    and stays whole until the backward pass is over, so that the loop over chunks needs no word from other processes. In a
    model that is not trained it stays whole from the first pass on.

    Gradients are summed over the processes, not averaged.

    Args:
        device: where the shards live; the model itself may still be on the CPU.
        half: layers compute in bfloat16, and gradients are summed in float32.
    """
    mesh = init_device_mesh(device.type, (size,))
    computed, summed = (torch.bfloat16, torch.float32) if half else (None, None)
    for part in (*model.model.get_decoder().layers, model):
        # what the whole is given besides ids are numbers for the loss, which may not lose digits
        policy = MixedPrecisionPolicy(computed, summed, cast_forward_inputs=part is not model)
        sharded = fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=part is not model)
        assert isinstance(sharded, FSDPModule)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
    for verb in ("hidden", "next_logprobs"):
        register_fsdp_forward_method(model, verb)
    model.sharded = True


def reshard(model: StreamedLM) -> None:
    """Frees what a pass without gradient left whole, so that all weights are their shards again."""
    if isinstance(model, FSDPModule):
        model.reshard()


@torch.no_grad()
def gathered(tree: Any, keep: bool, known: dict[int, Tensor] | None = None) -> Any:
    """A tree of mappings and tensors with every cut tensor replaced by the whole one in main memory, one at a time.

    All processes must call this; where `keep` is false the whole tensors are let go at once and None stands for them. What
    is one tensor under two names stays one.
    """
    known = {} if known is None else known
    if isinstance(tree, Mapping):
        return {key: gathered(value, keep, known) for key, value in tree.items()}
    if not isinstance(tree, DTensor):
        return tree
    if id(tree) not in known:
        whole = tree.full_tensor()
        known[id(tree)] = whole.cpu() if keep else whole.new_empty(0)
    return known[id(tree)] if keep else None


def like(whole: Tensor, own: Tensor) -> Tensor:
    """This process's part of a whole tensor that every process holds, laid out as its own one is."""
    if not isinstance(own, DTensor):
        return whole
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)


@torch.no_grad()
def refresh(copy: torch.nn.Module, model: StreamedLM) -> None:
    """Brings a whole copy of a sharded model up to date, tensor by tensor. All processes must call this."""
    reshard(model)
    own = dict(model.model.named_parameters())
    for name, value in copy.named_parameters():
        source = own[name]
        if source.requires_grad:
            value.copy_(source.full_tensor() if isinstance(source, DTensor) else source)


def norm_of(total: Tensor) -> float:
    """A norm that may be spread over the processes, as a number."""
    return float(total.full_tensor() if isinstance(total, DTensor) else total)

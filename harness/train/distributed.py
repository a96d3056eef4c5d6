"""Several processes as one trainer: each takes its share of the micro-batches, sums are joined, weights stay equal."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from harness.errors import RunFault

Thing = TypeVar("Thing")
PATIENCE = datetime.timedelta(days=30)
"""How long a process waits for orders or for the others' answers: servers and samplers take their time."""
BUCKET = 1 << 25
"""Numbers that are summed over the processes at a time."""


@dataclass(frozen=True)
class World:
    """This process among those that train together through torch's default process group; alone by default."""

    rank: int = 0
    size: int = 1
    talk: Any = None
    """The process group for objects, always on the CPU; None is the default one."""

    def share(self, things: Sequence[Thing]) -> list[tuple[Thing, bool]]:
        """This process's part of what all processes hold alike, and whether it counts.

        All parts are equally long, so that every process meets the others in each collective call; what fills a part up
        does not count. Of nothing there is no part.
        """
        rows = -(-len(things) // self.size)
        places = [row * self.size + self.rank for row in range(rows)]
        return [(things[i], True) if i < len(things) else (things[0], False) for i in places]

    def total(self, values: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """The sums over all processes; every process must give the same names."""
        if self.size == 1:
            return dict(values)
        names = sorted(values)
        sums = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    def join_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Gradients become their sums over all processes; a process without a share counts as zero."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        held = 0
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if bucket and (held + parameter.numel() > BUCKET or bucket[0].dtype != parameter.dtype):
                _sum_in_place(bucket)
                bucket, held = [], 0
            bucket.append(parameter.grad)
            held += parameter.numel()
        _sum_in_place(bucket)

    def tell(self, thing: Any) -> Any:
        """The first process's object, in every process."""
        if self.size == 1:
            return thing
        held = [thing if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(held, src=0, group=self.talk)
        return held[0]

    def all_of(self, thing: Thing) -> list[Thing]:
        """Every process's object, by rank, in every process."""
        if self.size == 1:
            return [thing]
        held: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(held, thing, group=self.talk)
        return held

    def merged(self, mine: Mapping[int, Thing]) -> dict[int, Thing]:
        """What all processes know together, in every process."""
        return {key: value for part in self.all_of(dict(mine)) for key, value in part.items()}

    def agree(self, fault: RunFault | None) -> None:
        """Raises one process's fault in all of them, the first by rank, so that none waits for another.

        Raises:
            RunFault: some process gave one.
        """
        for told in self.all_of((fault.message, fault.fix) if fault else None):
            if told:
                raise RunFault(told[0], fix=told[1])

    def spread(self, tree: Any, device: torch.device, place: Callable[[tuple[Any, ...], Tensor], Tensor]) -> Any:
        """The first process's tree of mappings, lists and tensors, in every process, without ever holding it whole elsewhere.

        Args:
            tree: looked at in the first process alone.
            place: given the keys that lead to a tensor and the tensor on the device, returns what is to stand there.
        """
        if self.size == 1:
            return tree
        return self._received(self.tell(_outline(tree)), tree, (), device, place)

    def _received(
        self, outline: Any, tree: Any, path: tuple[Any, ...], device: torch.device,
        place: Callable[[tuple[Any, ...], Tensor], Tensor],
    ) -> Any:  # fmt: skip
        if isinstance(outline, dict):
            return {
                key: self._received(part, tree[key] if self.rank == 0 else None, (*path, key), device, place)
                for key, part in outline.items()
            }
        if isinstance(outline, list):
            parts = [tree[i] if self.rank == 0 else None for i in range(len(outline))]
            both = zip(outline, parts, strict=True)
            return [self._received(part, own, (*path, i), device, place) for i, (part, own) in enumerate(both)]
        if not isinstance(outline, Outline):
            return outline
        if self.rank == 0:
            full = tree.detach().to(device).contiguous()
        else:
            full = torch.empty(outline.shape, dtype=outline.dtype, device=device)
        torch.distributed.broadcast(full, src=0)
        return place(path, full)


ALONE = World()


@dataclass(frozen=True)
class Outline:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def _outline(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _outline(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_outline(value) for value in tree]
    return Outline(tuple(tree.shape), tree.dtype) if isinstance(tree, Tensor) else tree


def _sum_in_place(tensors: Sequence[Tensor]) -> None:
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def meeting_place() -> tuple[Any, int]:
    """A store on this machine where processes find each other, and the port that it listens on."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return torch.distributed.PrefixStore("default_pg", store), store.port


def join(rank: int, size: int, local_rank: int, cuda: bool, store: Any = None) -> World:
    """Makes this process one of `size`; returns when all have come. CUDA tensors travel by NCCL, others by gloo.

    Args:
        local_rank: its number on this machine, and so the number of its GPU.
        cuda: whether models live on GPUs.
        store: where the processes meet; None is what the variables MASTER_ADDR and MASTER_PORT name.
    """
    if cuda:
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=size)
    return World(rank, size, torch.distributed.new_group(backend="gloo", timeout=PATIENCE))


def leave() -> None:
    """Ends what `join` began, where a sampler's engine that shared it has not."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

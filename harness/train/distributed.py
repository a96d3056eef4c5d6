"""Several processes as one trainer: each takes its share of the micro-batches, sums are joined, weights stay equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class World:
    """This process among those that train together through torch's default process group; alone by default."""

    rank: int = 0
    size: int = 1

    def share(self, things: Sequence[Thing]) -> list[Thing]:
        """This process's part of what all processes hold alike."""
        return list(things[self.rank :: self.size])

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
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        torch.distributed.all_reduce(flat)
        parts = flat.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)


ALONE = World()

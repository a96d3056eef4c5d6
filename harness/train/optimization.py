"""The optimizer's settings and the course of its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.errors import SpecError


@dataclass(frozen=True)
class Optimization:
    """AdamW and its schedule: a linear warm-up, then constant or a cosine down to zero at `total_steps`.

    Raises:
        SpecError: a cosine schedule without a number of steps, or a number of steps without a cosine schedule.
    """

    lr: float
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if (self.schedule == "cosine") != (self.total_steps is not None):
            raise SpecError(
                f"schedule {self.schedule!r} with total_steps {self.total_steps}: only a cosine schedule has an end",
                where="total_steps",
                fix="give total_steps with schedule=cosine, and leave it out with schedule=constant",
            )

    def rate(self, step: int) -> float:
        """The learning rate of optimizer step `step`, counted from 0."""
        rate = self.lr * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.total_steps is None or step < self.warmup_steps:
            return rate
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

"""What everybody who samples from the student may ask, whichever engine does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from harness.seeds import Key
from harness.types import Generation, Sampling


class Generator(Protocol):
    """A sampler of the policy."""

    @property
    def model(self) -> Any:
        """The policy itself, or what stands for it whole where its weights are cut."""

    @property
    def version(self) -> int:
        """How many weight syncs there were."""

    @property
    def engine(self) -> str:
        """Who samples, with its version."""

    @property
    def copies(self) -> bool:
        """Whether it samples from a copy of the weights, which can be stale: then it is compared with the trainer after every
        sync, otherwise once."""

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[Key]) -> list[Generation]:
        """One completion for each prompt's token ids, in their order; the draw of row i is seeded by `keys[i]` alone."""

    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """For each prompt and continuation: the sum of the continuation's log-probs at temperature 1, in nats, and whether
        each of its tokens was the likeliest."""

    def sync(self, whole: bool = False) -> None:
        """Takes over the policy's present weights, and is awake afterwards.

        Args:
            whole: not only what is trained may have changed, as after loading a checkpoint.
        """

    def sleep(self) -> None:
        """Gives back what memory it can, until the next sync or completion."""

    def close(self) -> None:
        """Ends what it has started; nothing is asked of it afterwards."""

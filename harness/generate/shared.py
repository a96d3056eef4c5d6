"""Sampling in all processes of a run at once: each writes a part of the rows, the first has them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from harness.seeds import Key
from harness.train.distributed import World
from harness.types import Generation, Sampling

if TYPE_CHECKING:
    from harness.generate.base import Generator

Found = TypeVar("Found")


class SharedGenerator:
    """A generator in every process, all asked for the same rows.

    A draw is keyed by what it is for, so who makes it changes nothing but the last digits of the arithmetic.

    Args:
        own: this process's generator.
        refresh: brings the weights that it reads up to date; called in all processes.
        copies: whether those are a copy.
    """

    def __init__(self, own: Generator, world: World, refresh: Callable[[], None], copies: bool) -> None:
        self.own, self.copies, self._world, self._refresh = own, copies, world, refresh

    @property
    def model(self) -> Any:
        return self.own.model

    @property
    def version(self) -> int:
        return self.own.version

    @property
    def engine(self) -> str:
        return f"{self.own.engine} x {self._world.size}"

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, keys: Sequence[Key]) -> list[Generation]:
        """One completion for each prompt's token ids, in their order; the draw of row i depends on `keys[i]` alone."""
        return self._dealt(
            [len(prompt) for prompt in prompts],
            lambda mine: self.own.generate([prompts[i] for i in mine], sampling, [keys[i] for i in mine]),
        )

    def likelihoods(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, bool]]:
        """See `Generator.likelihoods`."""
        lengths = [len(prompt) + len(continuation) for prompt, continuation in rows]
        return self._dealt(lengths, lambda mine: self.own.likelihoods([rows[i] for i in mine]))

    def _dealt(self, lengths: Sequence[int], work: Callable[[list[int]], list[Found]]) -> list[Found]:
        """The results of all rows; each process does every n-th of them in the order of their lengths."""
        order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
        mine = order[self._world.rank :: self._world.size]
        found = self._world.merged(dict(zip(mine, work(mine) if mine else [], strict=True)))
        return [found[i] for i in range(len(lengths))]

    def sync(self, whole: bool = False) -> None:
        """Takes over the policy's present weights."""
        self._refresh()
        self.own.sync(whole)

    def sleep(self) -> None:
        """Gives back what memory it can."""
        self.own.sleep()

    def close(self) -> None:
        """Ends what this process has started."""
        self.own.close()

"""SFT: cross entropy on one solution of each prompt.

    y* from the data, or by default the teacher's greedy answer (which may be wrong)
    L = -sum_t log q(y*_t)     averaged over all tokens of the batch

It is what a warm start of any method does; here it is the whole method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.method import Imitation, SignalConfig, Tools, shifted
from harness.types import Collected, Failure, Prompt


class Config(SignalConfig):
    """Nothing of its own; `shuffled` trains on the solution of another prompt."""


class SFT(Imitation):
    Config = Config

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        if self.config.signal == "own":
            return super().collect(prompts, tools)

        def others(asked: Sequence[Prompt]) -> list[str | Failure]:
            return shifted(tools.the_solutions(asked))

        return super().collect(prompts, replace(tools, solutions=others))

"""SFT: cross entropy on one solution of each prompt."""

from __future__ import annotations

from collections.abc import Sequence

from harness.method import Method, MethodConfig, Need, Tools
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Term


class Config(MethodConfig):
    """Nothing of its own."""


class SFT(Method):
    Config = Config
    paper = "supervised fine-tuning"
    summary = "cross entropy on the data's solutions (by default the teacher's greedy answers)"
    access = "solutions"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.SOLUTION})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        assert tools.solutions is not None
        examples, lost = [], []
        for prompt, text in zip(prompts, tools.solutions(prompts), strict=True):
            if isinstance(text, Failure):
                lost.append(Example((tools.student.written(prompt, ""),), note={"failure": text.detail}))
            else:
                examples.append(Example((tools.student.written(prompt, text),)))
        return Collected(examples, tuple(lost))

    def loss(self, models: Models, batch: Batch) -> Loss:
        return {"loss": Term(-(models.logprobs(batch) * batch.mask_NT).sum())}

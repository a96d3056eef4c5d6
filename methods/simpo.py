"""SimPO: the better of two of the student's own answers is made likelier than the worse, without a reference.

    y_1..y_G ~ student(. | x), put in order by a critic; the pair (w, l) is the best and the worst, or two at random
    u(y) = mean over the tokens of y of log q
    L = -log sigmoid(beta (u(w) - u(l) - gamma_ratio))     mean over all pairs; equal places count 0

Source: arXiv 2405.14734; beta and the ratio are those of PAD's comparison (arXiv 2502.14272). There the pairs are given
beforehand; here the policy samples them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from harness import objectives as ob
from harness.families import Paired
from harness.method import Field, Need, SignalConfig, Tools, told_apart
from harness.types import Batch, Collected, Loss, Models, Prompt, Term


class Config(SignalConfig):
    """The values of PAD's released comparison; `shuffled` gives each answer another answer's place."""

    group_size: int = Field(2, gt=1, description="student rollouts of a prompt (G)")
    pair: Literal["extreme", "random"] = Field("extreme", description="the best and the worst of a group, or any two in order")
    beta: float = Field(10.0, gt=0, description="scale of the difference of mean log-probs")
    gamma_ratio: float = Field(0.3, ge=0, description="margin that the difference must pass (gamma / beta)")


class SimPO(Paired):
    Config = Config
    paper = "arXiv 2405.14734"
    summary = "a critic's better and worse of the student's answers, contrasted by mean log-probs with a margin"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.PREFERENCES})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        told, missing = told_apart(groups, tools.the_preferences(groups))
        examples = []
        for group, places in told:
            key = f"places {tools.seed} {group[0].prompt.id} {group[0].prompt.visit}"
            every = range(len(group))
            drawn = random.Random(key).sample(every, 2) if self.config.pair == "random" else every
            examples.append(self.pair(group, places, drawn, key))
        return Collected(examples, missing)

    def loss(self, models: Models, batch: Batch) -> Loss:
        keep_N = batch.signal["preferred_N"] > 0
        score_N = ob.sequence_logprobs(models.logprobs(batch, keep_N=keep_N), batch.mask_NT, mean=True)
        loss_B = ob.simpo(score_N[::2] - score_N[1::2], self.config.beta, self.config.gamma_ratio)
        return {"preference": Term(loss_B[keep_N[::2]].sum())}

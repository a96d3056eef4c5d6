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
from harness.method import Field, Method, Need, SignalConfig, Tools, lost
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Rollout, Term


class Config(SignalConfig):
    """The values of PAD's released comparison; `shuffled` gives each answer another answer's place."""

    group_size: int = Field(2, gt=1, description="student rollouts of a prompt (G)")
    pair: Literal["extreme", "random"] = Field("extreme", description="the best and the worst of a group, or any two in order")
    beta: float = Field(10.0, gt=0, description="scale of the difference of mean log-probs")
    gamma_ratio: float = Field(0.3, ge=0, description="margin that the difference must pass (gamma / beta)")


class SimPO(Method):
    Config = Config
    paper = "arXiv 2405.14734"
    summary = "a critic's better and worse of the student's answers, contrasted by mean log-probs with a margin"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.PREFERENCES})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        examples, missing = [], []
        for group, places in zip(groups, tools.the_preferences(groups), strict=True):
            if isinstance(places, Failure):
                missing.append(lost(group, places))
            else:
                examples.append(self._pair(group, places, tools.seed))
        return Collected(examples, tuple(missing))

    def _pair(self, group: Sequence[Rollout], places: Sequence[int], seed: int) -> Example:
        """Two answers, the better one first."""
        prompt, given = group[0].prompt, list(places)
        draw = random.Random(f"places {seed} {prompt.id} {prompt.visit}")
        if self.config.signal == "shuffled":
            draw.shuffle(given)
        drawn = draw.sample(range(len(group)), 2) if self.config.pair == "random" else range(len(group))
        order = sorted(drawn, key=given.__getitem__)
        better, worse = order[0], order[-1]
        note = {"texts": [rollout.text for rollout in group], "places": given, "pair": [better, worse]}
        return Example((group[better], group[worse]), {"preferred_N": [float(given[better] < given[worse])] * 2}, note=note)

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"preference": len(batch.group_N) / 2}

    def loss(self, models: Models, batch: Batch) -> Loss:
        keep_N = batch.signal["preferred_N"] > 0
        score_N = ob.sequence_logprobs(models.logprobs(batch, keep_N=keep_N), batch.mask_NT, mean=True)
        loss_B = ob.simpo(score_N[::2] - score_N[1::2], self.config.beta, self.config.gamma_ratio)
        return {"preference": Term(loss_B[keep_N[::2]].sum())}

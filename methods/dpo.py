"""DPO: the better of two of the student's own answers is made likelier than the worse, against a frozen reference.

    y_1..y_G ~ student(. | x), put in order by a critic; the pair is the best and the worst (w, l)
    h = (log q(w) - log q(l)) - (log r(w) - log r(l))      summed over tokens, r the reference
    L = -log sigmoid(beta h)                               mean over all pairs; equal places count 0

Source: arXiv 2305.18290; hinge (2305.10425) and ipo (2310.12036) take the place of the sigmoid. The paper's pairs are
given beforehand; here the policy samples them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from harness.families import Contrast, ContrastConfig
from harness.method import Field, Need, SignalConfig, Tools, lost
from harness.types import Collected, Example, Failure, Prompt, Rollout


class Config(ContrastConfig, SignalConfig):
    """The paper's beta and form; `shuffled` gives each answer another answer's place."""

    group_size: int = Field(2, gt=1, description="student rollouts of a prompt (G)")


class DPO(Contrast):
    Config = Config
    paper = "arXiv 2305.18290"
    summary = "a critic's best and worst of the student's answers, contrasted against a frozen reference"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.PREFERENCES, Need.REFERENCE})

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
        """The best and the worst answer, in this order."""
        prompt, given = group[0].prompt, list(places)
        if self.config.signal == "shuffled":
            random.Random(f"places {seed} {prompt.id} {prompt.visit}").shuffle(given)
        order = sorted(range(len(group)), key=given.__getitem__)
        best, worst = order[0], order[-1]
        note = {"texts": [rollout.text for rollout in group], "places": given, "pair": [best, worst]}
        return Example((group[best], group[worst]), {"preferred_N": [float(given[best] < given[worst])] * 2}, note=note)

"""DPO: the better of two of the student's own answers is made likelier than the worse, against a frozen reference.

    y_1..y_G ~ student(. | x), put in order by a critic; the pair is the best and the worst (w, l)
    h = (log q(w) - log q(l)) - (log r(w) - log r(l))      summed over tokens, r the reference
    L = -log sigmoid(beta h)                               mean over all pairs; equal places count 0

Source: arXiv 2305.18290; hinge (2305.10425) and ipo (2310.12036) take the place of the sigmoid. The paper's pairs are
given beforehand; here the policy samples them.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.families import Contrast, ContrastConfig
from harness.method import Field, Need, SignalConfig, Tools, told_apart
from harness.types import Collected, Prompt, Rollout


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
        told, missing = told_apart(groups, tools.the_preferences(groups))
        pairs = [self.pair(group, places, range(len(group)), _key(group, tools.seed)) for group, places in told]
        return Collected(pairs, missing)


def _key(group: Sequence[Rollout], seed: int) -> str:
    return f"places {seed} {group[0].prompt.id} {group[0].prompt.visit}"

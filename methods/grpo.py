"""GRPO: group relative policy optimisation on outcomes (arXiv 2402.03300), without its KL term.

rollouts    y_1..y_n ~ student(. | x)
reward      r_i = 1 if y_i succeeds, else 0
advantage   A_i = (r_i - mean of the group) / (its deviation + 1e-6); 0 where all rollouts fare alike
loss        clipped policy gradient (dual clip), mean over all tokens of the batch
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.families import PolicyGradient, PolicyGradientConfig
from harness.method import Field, Need, Tools, told_apart
from harness.types import Collected, Prompt


class Config(PolicyGradientConfig):
    """The paper's single update a batch and standardised advantages. `signal: shuffled` permutes a group's outcomes."""

    standardise: bool = Field(True, description="divide advantages by the group's deviation")


class GRPO(PolicyGradient):
    Config = Config
    paper = "arXiv 2402.03300"
    summary = "success or failure of the answers as the reward of a policy gradient"
    access = "outcomes"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.OUTCOME})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        told, missing = told_apart(groups, tools.the_outcomes(groups))
        return Collected([self.rewarded(group, outcomes, tools.seed) for group, outcomes in told], missing)

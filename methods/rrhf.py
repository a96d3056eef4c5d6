"""RRHF: one ranking of the student's samples, a hinge on every pair of them, and the best imitated (arXiv 2304.05302).

y_1..y_n ~ student(. | x), ranked once by the critic; equal texts count once
p_i    = mean log-prob of y_i's own tokens
L      = sum over (i above j) of max(0, p_j - p_i)  -  log q(best | x) per token
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.families import Ranked, RankedConfig
from harness.method import Field, Need, SignalConfig, Tools, told_apart
from harness.replies import LETTERS, blind_order
from harness.types import Collected, Example, Prompt, Rollout


class Config(RankedConfig, SignalConfig):
    """Rank and imitation 1 : 1 as the released scripts have it. `shuffled` ranks each group at random."""

    group_size: int = Field(4, gt=1, le=len(LETTERS), description="student rollouts of a prompt (n)")


class RRHF(Ranked):
    Config = Config
    paper = "arXiv 2304.05302"
    summary = "a ranking loss on mean log-probs of the student's samples as the critic orders them, and the best imitated"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.PREFERENCES})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        told, missing = told_apart(groups, tools.the_preferences(groups))
        silent = tuple(Example(tuple(group)) for group, places in told if len(set(places)) < 2)
        ordered = [[group[places.index(place)] for place in sorted(set(places))] for group, places in told]
        return Collected([self._ranked(best_first, tools) for best_first in ordered if len(best_first) > 1], missing, silent)

    def _ranked(self, best_first: Sequence[Rollout], tools: Tools) -> Example:
        order, prompt = list(range(len(best_first))), best_first[0].prompt
        if self.config.signal == "shuffled":
            order = blind_order(f"shuffled {tools.seed} {prompt.id} {prompt.visit}", [rollout.text for rollout in best_first])
        return Example(tuple(best_first), {"rank_N": [float(place) for place in order]})

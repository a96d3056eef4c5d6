"""RRHF: one ranking of the student's samples, a hinge on every pair of them, and the best imitated (arXiv 2304.05302).

y_1..y_n ~ student(. | x), ranked once by the critic; equal texts count once
p_i    = mean log-prob of y_i's own tokens
L      = sum over (i above j) of max(0, p_j - p_i)  -  log q(best | x) per token
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.families import Ranked, RankedConfig
from harness.method import Field, Need, SignalConfig, Tools, lost
from harness.replies import LETTERS, blind_order
from harness.types import Collected, Example, Failure, Prompt, Rollout


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
        examples, missing, silent = [], [], []
        for group, places in zip(groups, tools.the_preferences(groups), strict=True):
            if isinstance(places, Failure):
                missing.append(lost(group, places))
            elif len(set(places)) < 2:
                silent.append(Example(tuple(group)))
            else:
                examples.append(self._ranked([group[places.index(place)] for place in sorted(set(places))], tools))
        return Collected(examples, tuple(missing), tuple(silent))

    def _ranked(self, best_first: Sequence[Rollout], tools: Tools) -> Example:
        order, prompt = list(range(len(best_first))), best_first[0].prompt
        if self.config.signal == "shuffled":
            order = blind_order(f"shuffled {tools.seed} {prompt.id} {prompt.visit}", [rollout.text for rollout in best_first])
        return Example(tuple(best_first), {"rank_N": [float(place) for place in order]})

"""Best of n: the student imitates the best of its own samples (rejection sampling; RAFT, arXiv 2304.06767).

y_1..y_n ~ student(. | x), best y* by the critic's order
L = -sum_t log q(y*_t)     averaged over all tokens of the batch
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.method import CrossEntropy, Field, Need, SignalConfig, Tools, told_apart
from harness.replies import LETTERS, blind_order
from harness.types import Collected, Example, Prompt


class Config(SignalConfig):
    """Groups of 8 are ours. `shuffled` imitates a rollout chosen at random."""

    group_size: int = Field(8, gt=1, le=len(LETTERS), description="student rollouts of a prompt (n)")


class BestOfN(CrossEntropy):
    Config = Config
    paper = "RAFT arXiv 2304.06767"
    summary = "cross entropy on the best of the student's own samples, by the critic's order"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.PREFERENCES})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        examples = []
        told, missing = told_apart(groups, tools.the_preferences(groups))
        for group, places in told:
            chosen, prompt = places.index(0), group[0].prompt
            if self.config.signal == "shuffled":
                key = f"shuffled {tools.seed} {prompt.id} {prompt.visit}"
                chosen = blind_order(key, [rollout.text for rollout in group])[0]
            note = {"candidates": [rollout.text for rollout in group], "places": places, "chosen": chosen}
            examples.append(Example((group[chosen],), note=note))
        return Collected(examples, missing)

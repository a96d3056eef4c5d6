"""T-Judge: ROPD without rubrics, its scalar baseline (arXiv 2605.07396).

rollouts    y_1..y_n ~ student(. | x)
score       s_i in 0..10, by a critic that sees x and, in an order that tells nothing, the y
reward      r_i = s_i / 10
loss        clipped policy gradient (dual clip, no KL term) with r_i - mean of the group; mean over all tokens of the batch
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from harness.families import PolicyGradient, PolicyGradientConfig
from harness.method import Ask, Field, Need, Tools, lost
from harness.replies import Scores, after_thinking, blind_order, read_scores
from harness.types import Collected, Failure, Prompt, Rollout


class Config(PolicyGradientConfig):
    """Defaults are those of `ropd`, so that only the reward differs. `signal: shuffled` permutes a group's scores."""

    updates_per_batch: int = Field(4, gt=0, description="optimizer steps that a collected batch is split into")
    answers_per_call: int | None = Field(None, gt=0, description="answers in one call of the critic; none is all of them")


class TJudge(PolicyGradient):
    Config = Config
    paper = "arXiv 2605.07396 (baseline)"
    summary = "a critic's score of the whole answer as the reward of a policy gradient"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CRITIC})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        cuts = [self._cuts(group) for group in groups]
        asks = [self._ask(group, cut, tools) for group, own in zip(groups, cuts, strict=True) for cut in own]
        replies = iter(tools.the_critic().ask(asks))
        examples, missing = [], []
        for group, own in zip(groups, cuts, strict=True):
            parts = [next(replies) for _ in own]
            failure = next((part for part in parts if isinstance(part, Failure)), None)
            if failure:
                missing.append(lost(group, failure))
                continue
            scores = {i: score for cut, part in zip(own, parts, strict=True) for i, score in zip(cut, part, strict=True)}
            examples.append(self.rewarded(group, [scores[i] for i in range(len(group))], tools.seed))
        return Collected(examples, tuple(missing))

    def _cuts(self, group: list[Rollout]) -> list[list[int]]:
        """The group's answers call by call, in the order in which they are shown."""
        order = blind_order(group[0].prompt.id, [after_thinking(rollout.text) for rollout in group])
        size = self.config.answers_per_call or len(order)
        return [order[at : at + size] for at in range(0, len(order), size)]

    def _ask(self, group: list[Rollout], cut: list[int], tools: Tools) -> Ask:
        answers = [after_thinking(group[i].text) for i in cut]
        messages = tools.template("judge")(question=group[0].prompt.question, answers=answers)
        return Ask(messages, partial(read_scores, answers=len(cut)), schema=Scores.model_json_schema())

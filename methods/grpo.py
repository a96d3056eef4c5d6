"""GRPO: group relative policy optimisation on outcomes (arXiv 2402.03300), without its KL term.

rollouts    y_1..y_n ~ student(. | x)
reward      r_i = 1 if y_i succeeds, else 0
advantage   A_i = (r_i - mean of the group) / (its deviation + 1e-6); 0 where all rollouts fare alike
loss        clipped policy gradient (dual clip), mean over all tokens of the batch
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness import objectives as ob
from harness.method import Field, Method, Need, SignalConfig, Tools, lost
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Term


class Config(SignalConfig):
    """The paper's single update a batch and standardised advantages. `signal: shuffled` permutes a group's outcomes."""

    group_size: int = Field(8, gt=1, description="student rollouts of a prompt (n)")
    standardise: bool = Field(True, description="divide advantages by the group's deviation")
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float = Field(3.0, gt=1)
    sampler_cap: float = Field(2.0, gt=0, description="cap of the trainer-to-sampler ratio")


class GRPO(Method):
    Config = Config
    paper = "arXiv 2402.03300"
    summary = "success or failure of the answers as the reward of a policy gradient"
    access = "outcomes"
    ratio = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.OUTCOME})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        examples, missing = [], []
        for group, outcomes in zip(groups, tools.the_outcomes(groups), strict=True):
            if isinstance(outcomes, Failure):
                missing.append(lost(group, outcomes))
                continue
            rewards = list(outcomes)
            if self.config.signal == "shuffled":
                Random(f"{tools.seed} {group[0].prompt.id} {group[0].prompt.visit}").shuffle(rewards)
            examples.append(Example(tuple(group), {"reward_N": rewards}))
        return Collected(examples, tuple(missing))

    def loss(self, models: Models, batch: Batch) -> Loss:
        clip = {"low": self.config.clip_low, "high": self.config.clip_high, "dual": self.config.dual_clip}
        advantage_N = ob.group_advantages(batch.signal["reward_N"], batch.group_N, standardise=self.config.standardise)
        logp_NT, old_NT = models.logprobs(batch, keep_N=advantage_N != 0), batch.old_logp_NT
        loss_NT = ob.clipped_policy_gradient(logp_NT, old_NT, advantage_N[:, None], **clip)
        ratio_NT = ob.sampler_correction(logp_NT if old_NT is None else old_NT, batch.behaviour_logp_NT, self.config.sampler_cap)
        return {"loss": Term((loss_NT * ratio_NT * batch.mask_NT).sum())}

"""GKD: a divergence to the teacher at every token of texts that partly are the student's own (arXiv 2306.13649).

    with probability on_policy:  y ~ q(. | x), the student's own answer
    otherwise:                   y = an answer that the teacher wrote
    L = beta KL(p || m) + (1 - beta) KL(q || m),  m = beta p + (1 - beta) q     at each position of y
    averaged over all tokens of the batch; the gradient flows through q alone, never through the sampling

p and q, the teacher and the student, are read at the temperature at which the student samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from harness import objectives as ob
from harness.method import Field, Method, Need, SignalConfig, Tools, lost, shifted
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Rollout, Term


class Config(SignalConfig):
    """Defaults are those of TRL's GKD trainer. `shuffled` lets the teacher read another prompt than the student."""

    temperature: float = Field(0.9, gt=0, description="temperature at which the policy is sampled, and both models are scored")
    on_policy: float = Field(0.5, ge=0, le=1, description="probability that a prompt's answer is the student's own (lambda)")
    beta: float = Field(0.5, ge=0, le=1, description="weight of the teacher in the mixture; 0 forward KL, 1 reverse KL")
    teacher_temperature: float = Field(0.0, ge=0, description="temperature of the teacher's answers; 0 is greedy")


class GKD(Method):
    Config = Config
    paper = "arXiv 2306.13649"
    summary = "a divergence to the teacher's distribution on the student's own answers mixed with the teacher's"
    access = "logits"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.TEACHER_LOGITS} | ({Need.TEACHER_TEXT} if self.config.on_policy < 1 else set()))

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        config = self.config
        own = [self._draws_own(prompt, tools.seed) for prompt in prompts]
        groups = iter(tools.student.rollouts([p for p, mine in zip(prompts, own, strict=True) if mine], 1, config.temperature))
        others = [p for p, mine in zip(prompts, own, strict=True) if not mine]
        texts = iter(tools.the_teacher().texts(others, 1, config.teacher_temperature) if others else ())
        rollouts: list[Rollout] = []
        missing = []
        for prompt, mine in zip(prompts, own, strict=True):
            if mine:
                rollouts += next(groups)
            elif isinstance(text := next(texts), Failure):
                missing.append(lost([tools.student.written(prompt, "")], text))
            else:
                rollouts.append(tools.student.written(prompt, text[0]))
        return Collected(self._examples(rollouts), tuple(missing))

    def _draws_own(self, prompt: Prompt, seed: int) -> bool:
        """Keyed by the prompt alone, so that neither a round's size nor a resumed run draws otherwise."""
        return random.Random(f"gkd {seed} {prompt.id} {prompt.visit} {prompt.turn}").random() < self.config.on_policy

    def _examples(self, rollouts: list[Rollout]) -> list[Example]:
        notes = [{"writer": "teacher" if rollout.logprobs is None else "student"} for rollout in rollouts]
        if self.config.signal == "own":
            return [Example((rollout,), note=note) for rollout, note in zip(rollouts, notes, strict=True)]
        views = [{"other": [rollout.prompt_tokens]} for rollout in shifted(rollouts)]
        return [Example((r,), views=view, note=note) for r, view, note in zip(rollouts, views, notes, strict=True)]

    def loss(self, models: Models, batch: Batch) -> Loss:
        read = "" if self.config.signal == "own" else "other"
        (loss_NT,) = models.per_token(self._divergence, batch, frozen=[("teacher", read)])
        return {"loss": Term((loss_NT * batch.mask_NT).sum())}

    def _divergence(self, logq_CV: Any, logp_CV: Any, tokens_C: Any) -> tuple[Any]:
        return (ob.jensen_shannon(logp_CV, logq_CV, self.config.beta),)

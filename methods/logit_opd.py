"""Logit-OPD: the student samples, the teacher scores the same tokens, the student moves towards the teacher.

    y ~ q_old(. | x)                                                        the student's own answers
    sampled:  A_t = -beta (log q_old(y_t) - log p(y_t)),  L_t = -(q / q_old)(y_t) A_t
    full:     L_t = D(p || q) at each position of y, over the whole vocabulary or the student's top k and a tail

Sources: the sampled form is on-policy distillation as policy gradient (Thinking Machines 2025; reverse KL in
expectation), the full form GKD (arXiv 2306.13649) on student data alone. Positions are averaged over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from harness import objectives as ob
from harness.method import Field, Method, MethodConfig, Need, Tools
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Rollout, Term


class Config(MethodConfig):
    """Defaults: the published recipe's groups of 4, one update a batch, coefficient 1, no task reward."""

    group_size: int = Field(4, gt=0, description="student rollouts of a prompt (G)")
    form: Literal["sampled", "full"] = Field("sampled", description="policy gradient on sampled tokens, or a divergence")
    beta: float = Field(1.0, gt=0, description="coefficient of the sampled token's log-ratio")
    divergence: Literal["reverse", "forward", "jsd"] = Field("reverse", description="of the full form")
    mix: float = Field(0.5, gt=0, lt=1, description="weight of the teacher in the mixture of jsd")
    top_k: int | None = Field(None, gt=0, description="full form on the student's likeliest k tokens and one tail bucket")


class LogitOPD(Method):
    Config = Config
    paper = "GKD arXiv 2306.13649; sampled form: Thinking Machines 2025"
    summary = "the teacher's probabilities of the student's own tokens, as policy gradient or divergence"
    access = "logits"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.TEACHER_SCORES if self.config.form == "sampled" else Need.TEACHER_LOGITS})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        if self.config.form == "full":
            return Collected([Example(tuple(group)) for group in groups])
        scores = iter(tools.the_teacher().score([rollout for group in groups for rollout in group]))
        scored = [self._scored(group, [next(scores) for _ in group]) for group in groups]
        return Collected([e for e in scored if e.signal], tuple(e for e in scored if not e.signal))

    def _scored(self, group: list[Rollout], scores: list[list[float] | Failure]) -> Example:
        failure = next((score for score in scores if isinstance(score, Failure)), None)
        if failure:
            return Example(tuple(group), note={"failure": failure.detail})
        return Example(tuple(group), {"teacher_logp_NT": scores})  # type: ignore[dict-item]

    def loss(self, models: Models, batch: Batch) -> Loss:
        if self.config.form == "sampled":
            assert batch.behaviour_logp_NT is not None
            advantage_NT = -self.config.beta * (batch.behaviour_logp_NT - batch.signal["teacher_logp_NT"])
            loss_NT = ob.importance_weighted(models.logprobs(batch), batch.behaviour_logp_NT, advantage_NT)
        else:
            (loss_NT,) = models.per_token(self._divergence, batch, frozen=[("teacher", "")])
        return {"loss": Term((loss_NT * batch.mask_NT).sum())}

    def _divergence(self, logq_CV: Any, logp_CV: Any, tokens_C: Any) -> tuple[Any]:
        if self.config.top_k:
            logp_CV, logq_CV = ob.top_k_with_tail(logp_CV, logq_CV, self.config.top_k)
        mix = {"forward": 0.0, "reverse": 1.0, "jsd": self.config.mix}[self.config.divergence]
        return (ob.jensen_shannon(logp_CV, logq_CV, mix),)

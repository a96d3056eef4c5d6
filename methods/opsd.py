"""OPSD: the student learns from itself with the solution in front of it (arXiv 2601.18734).

    y ~ student(. | x)                                        one rollout of each prompt
    p_t = frozen student(. | x and a solution, y_<t)          the same model, told more
    q_t = student(. | x, y_<t)                                with gradient; both at the sampling temperature
    L   = mean over tokens of D(p_t || q_t)                   forward KL over the whole vocabulary

The released code cuts each vocabulary element of the divergence off at 0.05. That turns the gradient round on the very
tokens that the teacher raises most, so it is a setting here and off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import model_validator

from harness import objectives as ob
from harness.method import Field, Method, Need, SignalConfig, Tools, lost, shifted
from harness.replies import after_thinking
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Term


class Config(SignalConfig):
    """Defaults: the released configuration since 18 March 2026, but for its clip; `shuffled` shows another's solution."""

    temperature: float = Field(1.1, gt=0, description="temperature at which the policy is sampled and scored")
    group_size: int = Field(1, gt=0, description="student rollouts of a prompt")
    divergence: Literal["forward", "reverse", "jsd"] = Field("forward", description="between teacher p and student q")
    mix: float = Field(0.5, gt=0, lt=1, description="weight of the teacher in the mixture of jsd")
    clip: Literal["none", "vocab_element", "token_sum"] = Field("none", description="what of the forward KL is cut off at tau")
    tau: float = Field(0.05, gt=0, description="where a clip cuts")
    norm: Literal["token", "sequence"] = Field("token", description="mean over all tokens, or over rollouts' own means")

    @model_validator(mode="after")
    def _clips_the_forward_divergence_only(self) -> Config:
        if self.clip != "none" and self.divergence != "forward":
            raise ValueError(f"clip {self.clip!r} cuts the forward divergence, got {self.divergence!r}; set clip to none")
        return self


class OPSD(Method):
    Config = Config
    paper = "arXiv 2601.18734"
    summary = "the frozen student that reads a solution, as teacher of the student that does not"
    access = "solutions"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.SOLUTION, Need.REFERENCE})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        solutions = tools.the_solutions(prompts)
        if self.config.signal == "shuffled":
            solutions = shifted(solutions)
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        template, examples, missing = tools.template("hint", reader="student"), [], []
        for prompt, group, solution in zip(prompts, groups, solutions, strict=True):
            if isinstance(solution, Failure):
                missing.append(lost(group, solution))
                continue
            *earlier, last = prompt.messages
            told = template(question=last["content"], solution=after_thinking(solution))
            view = tools.student.encode([*earlier, *told])
            examples.append(Example(tuple(group), views={"hint": [view] * len(group)}, note={"solution": solution}))
        return Collected(examples, tuple(missing))

    def weights(self, batch: Batch) -> dict[str, float]:
        if self.config.norm == "token":
            return {"loss": float(batch.mask_NT.sum())}
        return {"loss": float((batch.mask_NT.sum(-1) > 0).sum())}

    def loss(self, models: Models, batch: Batch) -> Loss:
        (loss_NT,) = models.per_token(self._divergence, batch, frozen=[("reference", "hint")])
        loss_NT = loss_NT * batch.mask_NT
        if self.config.norm == "sequence":
            loss_NT = loss_NT / batch.mask_NT.sum(-1, keepdim=True).clamp(min=1)
        return {"loss": Term(loss_NT.sum())}

    def _divergence(self, logq_CV: Any, logp_CV: Any, tokens_C: Any) -> tuple[Any]:
        config = self.config
        if config.divergence == "forward":
            return (ob.clipped_forward_kl(logp_CV, logq_CV, config.clip, config.tau),)
        return (ob.jensen_shannon(logp_CV, logq_CV, 1.0 if config.divergence == "reverse" else config.mix),)

"""Logit-OPD: the student samples, the teacher scores the same tokens, the student moves towards the teacher.

    y ~ q_old(. | x)                                                        the student's own answers
    sampled:  A_t = -beta (log q_old(y_t) - log p(y_t)),  L_t = -(q / q_old)(y_t) A_t
    full:     L_t = D(p || q) at each position of y, over the whole vocabulary or the student's top k and a tail
    top:      the same on the teacher's top k and a tail, which is what a server tells of p
    constant: A_t = -beta, whatever the token: a control without a teacher

    extrapolation l (ExOPD): p^l r^(1 - l) takes the place of p, with r the student before training; full: normalised

Sources: the sampled form is on-policy distillation as policy gradient (Thinking Machines 2025; reverse KL in
expectation), the full form GKD (arXiv 2306.13649) on student data alone, the extrapolation G-OPD (arXiv 2602.12125).
Positions are averaged over the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import model_validator

from harness import objectives as ob
from harness.method import Field, Method, Need, SignalConfig, Tools, lost, shifted
from harness.types import Batch, Collected, Example, Failure, Loss, Mix, Models, Prompt, Term


class Config(SignalConfig):
    """Defaults: the published recipe's groups of 4, one update a batch, coefficient 1, no task reward.

    The control `signal: shuffled` lets the teacher read another prompt before each answer.
    """

    group_size: int = Field(4, gt=0, description="student rollouts of a prompt (G)")
    form: Literal["sampled", "full", "top", "constant"] = Field(
        "sampled", description="policy gradient on sampled tokens, a divergence (top: to a server), or no teacher"
    )
    beta: float = Field(1.0, gt=0, description="coefficient of the sampled token's log-ratio")
    extrapolation: float = Field(1.0, gt=0, description="weight of the teacher against the reference; 1 needs no reference")
    divergence: Literal["reverse", "forward", "jsd"] = Field("reverse", description="of the forms full and top")
    mix: float = Field(0.5, gt=0, lt=1, description="weight of the teacher in the mixture of jsd")
    top_k: int | None = Field(None, gt=0, description="likeliest tokens beside a tail: the student's, of form top the teacher's")

    @model_validator(mode="after")
    def _constant_has_no_teacher(self) -> Config:
        if self.form == "constant" and (self.signal, self.extrapolation) != ("own", 1.0):
            got = f"signal={self.signal} extrapolation={self.extrapolation:g}"
            raise ValueError(f"form=constant asks no teacher: it allows only signal=own extrapolation=1, got {got}")
        if self.form == "top" and (self.top_k is None or self.extrapolation != 1):
            got = f"top_k={self.top_k} extrapolation={self.extrapolation:g}"
            raise ValueError(f"form=top asks for the teacher's top_k alone: it needs top_k (servers tell up to 20) and "
                             f"extrapolation=1, got {got}")  # fmt: skip
        return self


class LogitOPD(Method):
    Config = Config
    paper = "GKD arXiv 2306.13649; sampled form: Thinking Machines 2025"
    summary = "the teacher's probabilities of the student's own tokens, as policy gradient or divergence"
    access = "logits"

    @property
    def needs(self) -> frozenset[Need]:
        teacher = {
            "sampled": {Need.TEACHER_SCORES}, "full": {Need.TEACHER_LOGITS}, "top": {Need.TEACHER_TOP}, "constant": set(),
        }  # fmt: skip
        return frozenset(teacher[self.config.form] | ({Need.REFERENCE} if self.config.extrapolation != 1 else set()))

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        if self.config.form == "constant" or (self.config.form, self.config.signal) == ("full", "own"):
            return Collected([Example(tuple(group)) for group in groups])
        own = [group[0].prompt_tokens for group in groups]
        read = shifted(own) if self.config.signal == "shuffled" else own
        if self.config.form == "full":
            others = zip(groups, read, strict=True)
            return Collected([Example(tuple(group), views={"other": [ids] * len(group)}) for group, ids in others])
        asked = [replace(rollout, prompt_tokens=ids) for group, ids in zip(groups, read, strict=True) for rollout in group]
        teacher, top = tools.the_teacher(), self.config.form == "top"
        replies = iter(teacher.likeliest(asked, self.config.top_k) if top else teacher.score(asked))
        examples, missing = [], []
        for group in groups:
            told: list[Any] = [next(replies) for _ in group]
            failure = next((each for each in told if isinstance(each, Failure)), None)
            if failure:
                missing.append(lost(group, failure))
            else:
                examples.append(Example(tuple(group), _apart(told) if top else {"teacher_logp_NT": told}))
        return Collected(examples, tuple(missing))

    def loss(self, models: Models, batch: Batch) -> Loss:
        if self.config.form == "full":
            (loss_NT,) = models.per_token(self._divergence, batch, frozen=[self._target(batch)])
        elif self.config.form == "top":
            beside = [batch.signal["top_logp_NTK"], batch.signal["top_ids_NTK"]]
            (loss_NT,) = models.per_token(self._on_top, batch, beside=beside)
        else:
            logp_NT, advantage_NT = self._scored(models, batch)
            loss_NT = ob.importance_weighted(logp_NT, batch.behaviour_logp_NT, self.config.beta * advantage_NT)
        return {"loss": Term((loss_NT * batch.mask_NT).sum())}

    def _scored(self, models: Models, batch: Batch) -> tuple[Any, Any]:
        """The policy's log-probs of the sampled tokens, and their advantages before beta, [N, T] each."""
        if self.config.form == "constant":
            return models.logprobs(batch), -batch.mask_NT
        assert batch.behaviour_logp_NT is not None
        extra, teacher_NT = self.config.extrapolation, batch.signal["teacher_logp_NT"]
        if extra == 1:
            return models.logprobs(batch), teacher_NT - batch.behaviour_logp_NT
        logp_NT, reference_NT = models.per_token(_chosen, batch, frozen=[("reference", "")])
        return logp_NT, extra * teacher_NT + (1 - extra) * reference_NT - batch.behaviour_logp_NT

    def _target(self, batch: Batch) -> tuple[str, str] | Mix:
        """What the student is moved towards, over the whole vocabulary."""
        extra, view = self.config.extrapolation, "" if self.config.signal == "own" else "other"
        if extra == 1:
            return "teacher", view
        ones_N = batch.mask_NT.new_ones(len(batch.mask_NT))
        return Mix([("teacher", view, extra * ones_N), ("reference", "", (1 - extra) * ones_N)])

    def _divergence(self, logq_CV: Any, logp_CV: Any, tokens_C: Any) -> tuple[Any]:
        if self.config.top_k:
            logp_CV, logq_CV = ob.top_k_with_tail(logp_CV, logq_CV, self.config.top_k)
        return self._between(logp_CV, logq_CV)

    def _on_top(self, logq_CV: Any, logp_CK: Any, ids_CK: Any, tokens_C: Any) -> tuple[Any]:
        return self._between(*ob.of_given_top_k(logp_CK, ids_CK, logq_CV))

    def _between(self, logp_CV: Any, logq_CV: Any) -> tuple[Any]:
        mix = {"forward": 0.0, "reverse": 1.0, "jsd": self.config.mix}[self.config.divergence]
        return (ob.jensen_shannon(logp_CV, logq_CV, mix),)


def _apart(told: Sequence[Sequence[Sequence[tuple[int, float]]]]) -> dict[str, Any]:
    """The ids and the log-probs of likeliest tokens as two signals."""
    ids, logps = ([[[pair[place] for pair in best] for best in row] for row in told] for place in (0, 1))
    return {"top_ids_NTK": ids, "top_logp_NTK": logps}


def _chosen(logq_CV: Any, reference_CV: Any, tokens_C: Any) -> tuple[Any, Any]:
    return ob.gather_logprobs(logq_CV, tokens_C), ob.gather_logprobs(reference_CV, tokens_C)

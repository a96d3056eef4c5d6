"""Losses that several methods share: subclass a family, write `collect`, and give its examples the family's signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from harness import objectives as ob
from harness.method import Field, Method, MethodConfig, SignalConfig, permuted
from harness.types import Batch, Example, Loss, Models, Rollout, Term

__all__ = ["Contrast", "ContrastConfig", "Paired", "PolicyGradient", "PolicyGradientConfig", "Ranked", "RankedConfig"]


class PolicyGradientConfig(SignalConfig):
    """Settings of a group-relative policy gradient."""

    group_size: int = Field(8, gt=1, description="student rollouts of a prompt (n)")
    standardise: bool = Field(False, description="divide advantages by the group's deviation")
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float = Field(3.0, gt=1)
    sampler_cap: float = Field(2.0, gt=0, description="cap of the trainer-to-sampler ratio")


class PolicyGradient(Method):
    """Clipped policy gradient on `reward_N`, centred in its group; mean over all tokens of the batch, no KL term.

    Rollouts of a group with equal rewards count in the mean and are not read.
    """

    Config: ClassVar[type[MethodConfig]] = PolicyGradientConfig
    ratio = True

    def rewarded(self, group: Sequence[Rollout], rewards: Sequence[float], seed: int) -> Example:
        """A group with its rewards; `signal: shuffled` gives each rollout another one's."""
        prompt = group[0].prompt
        if self.config.signal == "shuffled":
            rewards = permuted(rewards, f"{seed} {prompt.id} {prompt.visit}")
        return Example(tuple(group), {"reward_N": list(rewards)})

    def loss(self, models: Models, batch: Batch) -> Loss:
        clip = {"low": self.config.clip_low, "high": self.config.clip_high, "dual": self.config.dual_clip}
        advantage_N = ob.group_advantages(batch.signal["reward_N"], batch.group_N, standardise=self.config.standardise)
        logp_NT, old_NT = models.logprobs(batch, keep_N=advantage_N != 0), batch.old_logp_NT
        loss_NT = ob.clipped_policy_gradient(logp_NT, old_NT, advantage_N[:, None], **clip)
        ratio_NT = ob.sampler_correction(logp_NT if old_NT is None else old_NT, batch.behaviour_logp_NT, self.config.sampler_cap)
        return {"loss": Term((loss_NT * ratio_NT * batch.mask_NT).sum())}


class ContrastConfig(MethodConfig):
    """Settings of a preference loss against a reference."""

    form: Literal["sigmoid", "hinge", "ipo"] = Field("sigmoid", description="of the preference loss")
    beta: float = Field(0.1, gt=0, description="inverse temperature of the preference loss")


class Paired(Method):
    """A loss on pairs: the better answer first, with `preferred_N` 1, or 0 where there is no preference; such a pair counts in
    the mean with loss 0 and is not read."""

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"preference": len(batch.group_N) / 2}

    def pair(self, group: Sequence[Rollout], places: Sequence[int], among: Sequence[int], key: str) -> Example:
        """The best and the worst of a group's rollouts, or of those `among` them, by the places in somebody's order.

        `signal: shuffled` gives each rollout another one's place, as the key draws.
        """
        given = permuted(places, key) if self.config.signal == "shuffled" else list(places)
        order = sorted(among, key=given.__getitem__)
        better, worse = order[0], order[-1]
        note = {"texts": [rollout.text for rollout in group], "places": given, "pair": [better, worse]}
        return Example((group[better], group[worse]), {"preferred_N": [float(given[better] < given[worse])] * 2}, note=note)


class Contrast(Paired):
    """The better of two answers against the worse, by how far the policy has moved from a frozen reference (DPO).

    Needs `Need.REFERENCE`.
    """

    Config: ClassVar[type[MethodConfig]] = ContrastConfig

    def loss(self, models: Models, batch: Batch) -> Loss:
        keep_N = batch.signal["preferred_N"] > 0
        logps = models.per_token(
            lambda logq_CV, logr_CV, tokens_C: (ob.gather_logprobs(logq_CV, tokens_C), ob.gather_logprobs(logr_CV, tokens_C)),
            batch, [("reference", "")], keep_N,
        )  # fmt: skip
        scores = [ob.sequence_logprobs(logp_NT, batch.mask_NT, mean=False) for logp_NT in logps]
        policy_B, reference_B = (score_N[::2] - score_N[1::2] for score_N in scores)
        loss_B = ob.dpo(policy_B, reference_B, self.config.beta, self.config.form)
        return {"preference": Term((loss_B * keep_N[::2]).sum())}


class RankedConfig(MethodConfig):
    """Settings of a loss on the order of candidates."""

    objective: Literal["rrhf", "pro"] = Field("rrhf", description="the ranking loss")
    sft_weight: float = Field(1.0, ge=0, description="coefficient of the cross entropy on the best rollout")


class Ranked(Method):
    """A ranking loss on mean log-probs of candidates (mean over groups), and cross entropy on the best (over its tokens).

    Examples hold the candidates with `rank_N`, 0 the best.
    """

    Config: ClassVar[type[MethodConfig]] = RankedConfig

    def weights(self, batch: Batch) -> dict[str, float]:
        best_N = batch.signal["rank_N"] == 0
        return {"rank": float(best_N.sum()), "sft": float(batch.mask_NT[best_N].sum())}

    def loss(self, models: Models, batch: Batch) -> Loss:
        logp_NT, rank_N = models.logprobs(batch), batch.signal["rank_N"]
        score_BK, present_BK = ob.by_group(ob.sequence_logprobs(logp_NT, batch.mask_NT, mean=True), batch.group_N)
        ranking = ob.rrhf if self.config.objective == "rrhf" else ob.pro
        rank_B = ranking(score_BK, ob.by_group(rank_N, batch.group_N)[0], present_BK)
        best_NT = batch.mask_NT * (rank_N == 0)[:, None]
        return {"rank": Term(rank_B.sum()), "sft": Term(-(logp_NT * best_NT).sum(), self.config.sft_weight)}

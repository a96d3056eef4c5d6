"""OGLS-SD: the student's right and wrong rollouts steer what its wrong ones are taught (arXiv 2605.12400).

rollouts   y_1..y_G ~ student(. | x), r_i in {0, 1} their outcomes, Pos = {j: r_j = 1}, Neg = {j: r_j = 0}
logits     of the frozen student along y_i: z0_i behind x alone, z_ij behind x, y_j and a request to reflect on it
target     p_i = softmax((z0_i + strength (mean of z_ij over Pos - mean over Neg)) / T), y_i wrong, neither pool empty
KL         forward KL(p_i || student) on the first H tokens of those y_i, mean over their tokens
tail       cross entropy on the last 128 tokens of short right rollouts, mean over these tokens
loss       KL + tail_weight tail

A mean of logits is a product of powers of distributions, which is how the target is asked for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

from harness import objectives as ob
from harness.method import Field, Method, Need, SignalConfig, Tools, lost
from harness.replies import after_thinking
from harness.types import Batch, Collected, Example, Failure, Loss, Mix, Models, Prompt, Rollout, Term


class Config(SignalConfig):
    """Defaults: the paper's group, horizon and tail as reported, OPSD's temperature; the coefficients are ours.

    `shuffled` permutes the outcomes within each group.
    """

    temperature: float = Field(1.1, gt=0, description="temperature at which the policy is sampled and scored")
    group_size: int = Field(8, gt=1, description="student rollouts of a prompt (G)")
    strength: float = Field(1.0, ge=0, description="of the steering; 0 teaches the frozen student's own distribution")
    pools: Literal["both", "positive"] = Field("both", description="`positive` steers from the anchor to the right ones' mean")
    horizon: int = Field(1024, gt=0, description="first tokens of a wrong rollout that are taught (H)")
    clip: Literal["none", "vocab_element", "token_sum"] = Field("none", description="what of the KL is cut off at tau")
    tau: float = Field(0.05, gt=0, description="where a clip cuts")
    tail_weight: float = Field(0.1, ge=0, description="coefficient of the cross entropy on tails; 0 leaves it out")
    tail_tokens: int = Field(128, gt=0, description="last tokens of a short right rollout")
    max_context: int = Field(2048, gt=1, description="tokens of a rollout shown as context; a longer one loses its middle")


class OGLSSD(Method):
    Config = Config
    paper = "arXiv 2605.12400"
    summary = "the frozen student's logits, steered from its wrong to its right rollouts, as target of the wrong ones"
    access = "outcomes"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.OUTCOME, Need.REFERENCE})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        groups = tools.student.rollouts(prompts, self.config.group_size, self.config.temperature)
        examples: list[Example] = []
        silent: list[Example] = []
        missing = []
        for group, outcomes in zip(groups, tools.the_outcomes(groups), strict=True):
            if isinstance(outcomes, Failure):
                missing.append(lost(group, outcomes))
                continue
            example = self._example(group, self._dealt(outcomes, group[0].prompt, tools.seed), tools)
            (examples if example.signal else silent).append(example)
        return Collected(examples, tuple(missing), tuple(silent))

    def _dealt(self, outcomes: Sequence[float], prompt: Prompt, seed: int) -> list[bool]:
        right = [outcome > 0 for outcome in outcomes]
        if self.config.signal == "shuffled":
            random.Random(f"outcomes {seed} {prompt.id} {prompt.visit} {prompt.turn}").shuffle(right)
        return right

    def _example(self, group: Sequence[Rollout], right: list[bool], tools: Tools) -> Example:
        """The rollouts that are taught, by a target or by their tail; the whole group without signal where none is."""
        kind = "mixed" if len(set(right)) == 2 else "all right" if right[0] else "all wrong"
        note = {"group": kind, "right": sum(right), "wrong": len(right) - sum(right), "outcomes": right}
        tails = self._tails(group, right)
        kept = [i for i in range(len(group)) if any(tails[i]) or (kind == "mixed" and not right[i])]
        if not kept:
            return Example(tuple(group), note=note)
        powers = [self._powers(i, right) for i in kept]
        signal: dict[str, Any] = {"tail_NT": [tails[i] for i in kept], "steered_N": [float(not right[i]) for i in kept]}
        signal |= {name: [each[name] for each in powers] for name in powers[0]}
        contexts, cut = self._contexts(group, tools)
        views = {f"context{j}": [ids] * len(kept) for j, ids in enumerate(contexts)}
        return Example(tuple(group[i] for i in kept), signal, views, {**note, "kept": kept, "contexts_cut": cut})

    def _tails(self, group: Sequence[Rollout], right: list[bool]) -> list[list[float]]:
        """1 on the last tokens of right rollouts that ended by themselves and are no longer than the middle right one."""
        lengths = [len(rollout.tokens) for rollout in group]
        short = median([length for length, good in zip(lengths, right, strict=True) if good] or [0])
        tails = []
        for rollout, length, good in zip(group, lengths, right, strict=True):
            chosen = self.config.tail_weight > 0 and good and length <= short and rollout.finish == "stop"
            tails.append([float(chosen and t >= length - self.config.tail_tokens) for t in range(length)])
        return tails

    def _powers(self, i: int, right: list[bool]) -> dict[str, float]:
        """The powers of the anchor and of each context in the target of rollout i; zeros for a right one.

        A wrong rollout is no context of its own where another wrong one is there.
        """
        powers = {"anchor_N": 0.0, **{f"context{j}_N": 0.0 for j in range(len(right))}}
        if right[i]:
            return powers
        good = [j for j, outcome in enumerate(right) if outcome]
        bad = [j for j, outcome in enumerate(right) if not outcome]
        bad = [j for j in bad if j != i] or bad
        strength, both = self.config.strength, self.config.pools == "both"
        powers["anchor_N"] = 1.0 if both else 1.0 - strength
        powers |= {f"context{j}_N": strength / len(good) for j in good}
        return powers | {f"context{j}_N": -strength / len(bad) for j in bad if both}

    def _contexts(self, group: Sequence[Rollout], tools: Tools) -> tuple[list[list[int]], int]:
        """Ids of the prompt with each rollout beside it, and how many rollouts lost their middle."""
        template, (*earlier, last) = tools.template("context", reader="student"), group[0].prompt.messages
        texts = ["", *(after_thinking(rollout.text) for rollout in group)]
        asked = [[*earlier, *template(question=last["content"], attempt=text)] for text in texts]
        bare, *contexts = [tools.student.encode(messages) for messages in asked]
        shown = [_without_middle(ids, bare, self.config.max_context) for ids in contexts]
        return shown, sum(len(a) < len(b) for a, b in zip(shown, contexts, strict=True))

    def weights(self, batch: Batch) -> dict[str, float]:
        kl = {"kl": float(batch.first(self.config.horizon).mask_NT[batch.signal["steered_N"] > 0].sum())}
        return {**kl, "tail": float((batch.signal["tail_NT"] * batch.mask_NT).sum())} if self.config.tail_weight else kl

    def loss(self, models: Models, batch: Batch) -> Loss:
        config, signal, start = self.config, batch.signal, batch.first(self.config.horizon)
        contexts = [("reference", f"context{j}", signal[f"context{j}_N"]) for j in range(config.group_size)]
        target = Mix([("reference", "", signal["anchor_N"]), *contexts])
        (kl_NT,) = models.per_token(self._divergence, start, [target], signal["steered_N"] > 0)
        terms = {"kl": Term((kl_NT * start.mask_NT * signal["steered_N"][:, None]).sum())}
        if config.tail_weight:
            tail_NT = signal["tail_NT"] * batch.mask_NT
            terms["tail"] = Term(-(models.logprobs(batch, keep_N=tail_NT.sum(-1) > 0) * tail_NT).sum(), config.tail_weight)
        return terms

    def _divergence(self, logq_CV: Any, target_CV: Any, tokens_C: Any) -> tuple[Any]:
        return (ob.clipped_forward_kl(target_CV, logq_CV, self.config.clip, self.config.tau),)


def _without_middle(ids: list[int], bare: list[int], limit: int) -> list[int]:
    """A prompt cut inside the text that it has and the bare prompt has not, to at most `limit` tokens more than that."""
    excess = len(ids) - len(bare) - limit
    if excess <= 0:
        return ids
    begin = next((i for i, (a, b) in enumerate(zip(ids, bare, strict=False)) if a != b), len(bare))
    cut = begin + limit // 2
    return ids[:cut] + ids[cut + excess :]

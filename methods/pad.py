"""PAD: the student's distribution over all rankings of its answers moves to the teacher's (arXiv 2502.14272).

    answers  y_1..y_M ~ q(. | x); N of them are kept, each the farthest in edit distance from those before it
    choice   the teacher says of each pair which is better, A or B, in both orders of showing
    p_i      probability of i's letter, averaged over the other answers
    v_i      alpha mean_t log p(y_it | x) + (1 - alpha) log p_i          the teacher's score
    u_i      mean_t log q(y_it | x)                                      the student's
    S, T     Plackett-Luce distributions over the N! rankings from beta_S u and beta_T v
    ppd      L = KL(S || M) / 2 + KL(T || M) / 2,  M = (S + T) / 2 of this prompt alone
    vpd      L = -log S(the teacher's ranking)

Averaged over prompts. Where N is too large to enumerate, disjoint sets are ranked and their losses averaged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, Literal

from harness import objectives as ob
from harness.method import Field, Method, Need, SignalConfig, Tools, lost
from harness.objectives.diversity import farthest
from harness.replies import after_thinking
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Rollout, Term

FLOOR = 1e-8
"""Added to a probability before its logarithm, as in the released code."""


class Config(SignalConfig):
    """Defaults: the released code's, but both orders and two letters that share 1. `shuffled` permutes a prompt's scores."""

    samples: int = Field(5, gt=1, description="student answers of a prompt (M)")
    kept: int = Field(4, gt=1, description="the most diverse of them, at most, that are ranked (N)")
    sampling_temperature: float = Field(1.0, gt=0, description="temperature of the answers; their scores have `temperature`")
    orders: Literal["both", "single"] = Field("both", description="in which orders a pair is shown to the teacher")
    renormalise: bool = Field(True, description="the two letters share a probability of 1")
    alpha: float = Field(0.0, ge=0, le=1, description="weight of the teacher's mean log-prob; the rest is its choices'")
    divergence: Literal["ppd", "ppd_reverse", "vpd"] = Field("ppd", description="loss; ppd_reverse swaps ppd's arguments")
    beta_student: float = Field(10.0, gt=0, description="inverse temperature of the student's rankings")
    beta_teacher: float = Field(10.0, gt=0, description="inverse temperature of the teacher's rankings")
    enumerated: int = Field(5, gt=1, le=5, description="answers that are ranked at a time; more are cut into disjoint sets")


class PAD(Method):
    Config = Config
    paper = "arXiv 2502.14272"
    summary = "the teacher's distribution over rankings of the student's answers, from its choices between pairs"
    access = "scores"

    @property
    def needs(self) -> frozenset[Need]:
        asked = {Need.TEACHER_CHOICE: self.config.alpha < 1, Need.TEACHER_SCORES: self.config.alpha > 0}
        return frozenset(need for need, is_asked in asked.items() if is_asked)

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        config = self.config
        groups, silent, examples, missing = [], [], [], []
        for sampled in tools.student.rollouts(prompts, config.samples, config.sampling_temperature):
            kept = farthest([after_thinking(rollout.text) for rollout in sampled], config.kept)
            if len(kept) > 1:
                groups.append([sampled[i] for i in kept])
            else:
                silent.append(Example(tuple(sampled), note={"silent": "all answers are the same"}))
        chosen = self._choices(groups, tools) if config.alpha < 1 else [[] for _ in groups]
        likely = self._likely(groups, tools) if config.alpha > 0 else [[] for _ in groups]
        for group, choices, logps in zip(groups, chosen, likely, strict=True):
            failure = next((reply for reply in (*choices, *logps) if isinstance(reply, Failure)), None)
            if failure:
                missing.append(lost(group, failure))
            else:
                examples.append(self._example(group, choices, logps, tools.seed))
        return Collected(examples, tuple(missing), tuple(silent))

    def _choices(self, groups: list[list[Rollout]], tools: Tools) -> list[list[Any]]:
        """Log-probs of the letters for each pair of a group, its two orders one after the other."""
        template, questions = tools.template("choice", reader="teacher"), []
        for group in groups:
            shown = [after_thinking(rollout.text) for rollout in group]
            orders = [order for a, b in combinations(shown, 2) for order in ((a, b), (b, a))]
            orders = orders if self.config.orders == "both" else orders[::2]
            questions.append([template(question=group[0].prompt.question, a=a, b=b) for a, b in orders])
        replies = iter(tools.the_teacher().choose([question for each in questions for question in each], ["A", "B"]))
        return [[next(replies) for _ in each] for each in questions]

    def _likely(self, groups: list[list[Rollout]], tools: Tools) -> list[list[Any]]:
        replies = iter(tools.the_teacher().score([rollout for group in groups for rollout in group]))
        return [[next(replies) for _ in group] for group in groups]

    def _example(self, group: list[Rollout], choices: list[list[float]], logps: list[list[float]], seed: int) -> Example:
        config, score = self.config, [0.0] * len(group)
        note: dict[str, Any] = {}
        if choices:
            selected, note = self._selected(len(group), choices)
            score = [(1 - config.alpha) * math.log(FLOOR + p) for p in selected]
        if logps:
            score = [v + config.alpha * fmean(logp) for v, logp in zip(score, logps, strict=True)]
        cuts = ob.decomposed(len(group), config.enumerated)
        note["teacher_entropy"] = fmean(ranking_entropy([config.beta_teacher * score[i] for i in cut]) for cut in cuts)
        if config.signal == "shuffled":
            prompt = group[0].prompt
            random.Random(f"pad {seed} {prompt.id} {prompt.visit} {prompt.turn}").shuffle(score)
        return Example(tuple(group), {"score_N": score}, note=note)

    def _selected(self, n: int, choices: list[list[float]]) -> tuple[list[float], dict[str, Any]]:
        """How probably each answer is chosen against another, and what the choices left out or leaned to."""
        letters = [(math.exp(a), math.exp(b)) for a, b in choices]
        shares = [((1 + lean) / 2, (1 - lean) / 2) for lean in (math.tanh((a - b) / 2) for a, b in choices)]
        judged, total = iter(shares if self.config.renormalise else letters), [0.0] * n
        for i, j in combinations(range(n), 2):
            first = next(judged)
            p_i, p_j = ob.swap_average(first, next(judged)) if self.config.orders == "both" else first
            total[i] += p_i
            total[j] += p_j
        selected = [each / (n - 1) for each in total]
        discarded, first_place = fmean(1 - a - b for a, b in letters), fmean(a for a, _ in shares)
        return selected, {"selected": selected, "discarded": discarded, "first_place": first_place}

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"ranking": float(len(batch.group_N.unique()))}

    def loss(self, models: Models, batch: Batch) -> Loss:
        mean_logp_N = ob.sequence_logprobs(models.logprobs(batch), batch.mask_NT, mean=True)
        student_BK, present_BK = ob.by_group(mean_logp_N, batch.group_N)
        teacher_BK, _ = ob.by_group(batch.signal["score_N"], batch.group_N)
        size_B, total = present_BK.sum(-1), mean_logp_N.new_zeros(())
        for size in size_B.unique().tolist():
            cuts = [list(cut) for cut in ob.decomposed(size, self.config.enumerated)]
            rows = size_B == size
            total = total + sum(self._divergence(student_BK[rows][:, c], teacher_BK[rows][:, c]).sum() for c in cuts) / len(cuts)
        return {"ranking": Term(total)}

    def _divergence(self, student_BN: Any, teacher_BN: Any) -> Any:
        config = self.config
        if config.divergence == "vpd":
            return ob.ranking_nll(student_BN, teacher_BN, config.beta_student)
        form = {"ppd": ob.ranking_jsd, "ppd_reverse": ob.ranking_jsd_reverse}[config.divergence]
        return form(student_BN, teacher_BN, config.beta_student, config.beta_teacher)


def ranking_entropy(score: list[float]) -> float:
    """Of the Plackett-Luce rankings, in nats: the first place's entropy and then, on average, that of what it leaves."""
    weight = [math.exp(s - max(score)) for s in score]
    rest = [ranking_entropy([*score[:i], *score[i + 1 :]]) if w and len(score) > 1 else 0.0 for i, w in enumerate(weight)]
    p = [w / sum(weight) for w in weight]
    return sum(each * (after - math.log(each)) for each, after in zip(p, rest, strict=True) if each)

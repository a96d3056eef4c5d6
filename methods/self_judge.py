"""SELF-JUDGE: a model that answers and judges; a frozen copy of it judges the answers it then learns from (2402.11253).

warm start  JSFT on the first prompts:  z ~ teacher(. | x),  a, b ~ student(. | x)
            verdicts of the teacher on (a, b) and (b, a) for each principle, kept when both name the same answer
            L = -mean log q(z | x)  -  judge_weight * mean log q(letter [and reason] | question about a, b)
rollouts    a, b ~ student(. | x); reference and judge are the student as the warm start left it, frozen
judgment    s_a = (P(A | a as A) + P(B | a as B)) / 2, likewise s_b, for each principle; principles vote; where the
            votes are equal the mean score decides, and where that is equal too there is no preference
loss        DPO on (winner, loser), summed log-probs; mean over all pairs, where one without a preference counts 0
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from harness import objectives as ob
from harness.families import Contrast, ContrastConfig
from harness.method import Field, Method, Need, SignalConfig, Template, Tools, lost
from harness.replies import after_thinking
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Rollout, Term


class Config(ContrastConfig, SignalConfig):
    """Defaults are the released code's plain judgment; `shuffled` draws the winner of each judged pair by lot."""

    warm_prompts: int = Field(256, ge=0, description="prompts of the budget that the judge-augmented warm start takes first")
    judgment: Literal["plain", "principled"] = Field("plain", description="a letter, or for each principle a letter and a reason")
    principles: tuple[str, ...] = Field(("helpfulness", "honesty", "instruction following", "truthfulness"), min_length=1)
    judge_weight: float = Field(1.0, ge=0, description="coefficient of the warm start's judge rows")
    judge_norm: Literal["token", "row"] = Field("token", description="what the loss of the judge rows is averaged over")
    agreement: bool = Field(False, description="a principle votes only if both orders name the same answer")
    confidence: float = Field(0.5, ge=0.5, lt=1, description="share of s_a + s_b that a vote needs; 0.5 lets all vote")


class _JSFT(Method):
    """The warm start: imitation of the teacher's answers and of its judgments, two terms with their own divisors."""

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.TEACHER_TEXT})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        teacher, examples, missing, silent = tools.the_teacher(), [], [], []
        for prompt, texts in zip(prompts, teacher.texts(prompts, 1, 0.0), strict=True):
            if isinstance(texts, Failure):
                missing.append(lost([tools.student.written(prompt, "")], texts))
            else:
                examples.append(Example((tools.student.written(prompt, texts[0]),), {"judge_N": [0.0]}))
        pairs = tools.student.rollouts(prompts, 2, self.config.temperature)
        asked, own = (questions(pairs, self.config, tools.template("judge", reader=reader)) for reader in ("teacher", "student"))
        replies = iter(teacher.texts([question for each in asked for question in each], 1, 0.0))
        for pair, each in zip(pairs, own, strict=True):
            for rows in zip(each[::2], each[1::2], strict=True):
                verdicts = [read_verdict(next(replies)) for _ in rows]
                failure = next((verdict for verdict in verdicts if isinstance(verdict, Failure)), None)
                said = [str(verdict) for verdict in verdicts]
                if failure:
                    missing.append(lost(pair, failure))
                elif said[0][0] == said[1][0]:  # one letter in both orders: they name different answers
                    silent.append(Example(tuple(pair), note={"verdicts": said}))
                else:
                    both = tuple(self._row(row, verdict, tools) for row, verdict in zip(rows, said, strict=True))
                    examples.append(Example(both, {"judge_N": [1.0, 1.0]}, note={"verdicts": said}))
        return Collected(examples, tuple(missing), tuple(silent))

    def _row(self, question: Prompt, verdict: str, tools: Tools) -> Rollout:
        """A verdict as a completion without its end token."""
        row = tools.student.written(question, verdict if self.config.judgment == "principled" else verdict[0])
        return replace(row, tokens=row.tokens[:-1]) if row.finish == "stop" else row

    def _shares(self, batch: Batch) -> dict[str, Any]:
        """What each token counts in each term, [N, T]."""
        judge_N1, mask_NT = batch.signal["judge_N"][:, None], batch.mask_NT
        rows = mask_NT.sum(-1, keepdim=True) if self.config.judge_norm == "row" else 1.0
        return {"policy": (1 - judge_N1) * mask_NT, "judge": judge_N1 * mask_NT / rows}

    def weights(self, batch: Batch) -> dict[str, float]:
        return {name: float(share_NT.sum()) for name, share_NT in self._shares(batch).items()}

    def loss(self, models: Models, batch: Batch) -> Loss:
        logp_NT, coef = models.logprobs(batch), {"policy": 1.0, "judge": self.config.judge_weight}
        return {name: Term(-(logp_NT * share_NT).sum(), coef[name]) for name, share_NT in self._shares(batch).items()}


class SelfJudge(Contrast):
    Config = Config
    paper = "arXiv 2402.11253"
    summary = "a frozen copy of the student, taught to judge by the teacher, picks the better of its two answers for DPO"
    access = "text"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.REFERENCE})

    @property
    def warm_start(self) -> Method | None:
        return _JSFT(self.config) if self.config.warm_prompts else None

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        pairs = tools.student.rollouts(prompts, 2, self.config.temperature)
        asked = questions(pairs, self.config, tools.template("judge", reader="student"))
        letters = iter(tools.the_reference().choose([question.messages for each in asked for question in each], "AB"))
        judgments = [[next(letters) for _ in each] for each in asked]
        judged = [self._judged(pair, judgment, tools.seed) for pair, judgment in zip(pairs, judgments, strict=True)]
        return Collected([e for e in judged if e.signal], tuple(e for e in judged if not e.signal))

    def _judged(self, pair: Sequence[Rollout], letters: Sequence[list[float] | Failure], seed: int) -> Example:
        """The winner and the loser, in this order; without a preference as they were sampled."""
        if failure := next((each for each in letters if isinstance(each, Failure)), None):
            return lost(pair, failure)
        shown = [(math.exp(a), math.exp(b)) for a, b in letters]  # type: ignore[misc]
        winner, prompt = ob.vote(shown, self.config.agreement, self.config.confidence), pair[0].prompt
        if winner is not None and self.config.signal == "shuffled":
            winner = random.Random(f"winner {seed} {prompt.id} {prompt.visit}").randrange(2)
        note = {"winner": winner, "letters": shown, "unfit": unfit(pair)}
        return Example(tuple(pair[::-1] if winner == 1 else pair), {"preferred_N": [float(winner is not None)] * 2}, note=note)


def unfit(pair: Sequence[Rollout]) -> str:
    """Why a pair is not judged; empty where it is."""
    first, second = pair
    if first.text == second.text:
        return "identical"
    return "truncated" if "length" in (first.finish, second.finish) else ""


def questions(pairs: Sequence[Sequence[Rollout]], config: Config, template: Template) -> list[list[Prompt]]:
    """Two questions of each principle about each fit pair: in its order, and swapped."""
    principles, asked = config.principles if config.judgment == "principled" else ("overall",), []
    for pair in pairs:
        prompt, (a, b) = pair[0].prompt, [after_thinking(rollout.text) for rollout in pair]
        asked.append([
            Prompt(f"{prompt.id} {principle} {order}", template(principle=principle, question=prompt.question, a=x, b=y))
            for principle in principles for order, x, y in (("shown", a, b), ("swapped", b, a)) if not unfit(pair)
        ])  # fmt: skip
    return asked


def read_verdict(reply: list[str] | Failure) -> str | Failure:
    """The teacher's judgment, which begins with its letter."""
    if isinstance(reply, Failure):
        return reply
    text = after_thinking(reply[0])
    return text if re.match(r"[AB]\b", text) else Failure("parse_failed", f"a verdict begins with A or B, got {text[:200]!r}")

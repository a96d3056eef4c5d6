"""CycleAlign: a critic's order teaches the student, and what both agree on teaches the critic (arXiv 2310.16271).

for up to N cycles per prompt x
    candidates   y_1..y_n ~ student(. | x), duplicates and empty ones dropped
    own order    r_w: by p_i = mean log-prob of y_i's own tokens under the sampler
    ranking      r_b: by a critic that is shown S (fixed) and Q (dynamic) ranked examples
    loss         sum over (i above j in r_b) of max(0, p_j - p_i), or PRO; plus cross entropy on r_b's best
    agreement    r* = longest common subsequence of r_b and r_w; if long enough, (x, r*) joins Q, the newest stay
    stop         when r_w = r_b
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import mean
from typing import Annotated, Any, Literal

from pydantic import model_validator

from harness import objectives as ob
from harness.families import Ranked, RankedConfig
from harness.method import Ask, Field, MethodConfig, Need, SignalConfig, Tools, lost
from harness.replies import LETTERS, Ranking, after_thinking, blind_order, read_order
from harness.types import Collected, Example, Failure, Prompt, Rollout


class Config(RankedConfig, SignalConfig):
    """Five cycles are the paper's bound, the other defaults ours. `shuffled` puts a random order in the critic's place."""

    group_size: int = Field(4, gt=1, le=len(LETTERS), description="student rollouts of a prompt and cycle (n)")
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(None, description="each rollout's own, instead of one")
    cycles: int = Field(5, gt=0, description="most cycles of a prompt (N)")
    demonstrations: str | None = Field("static", description="prompt file of the fixed ranked examples (S); none shows none")
    dynamic: int = Field(2, ge=0, description="ranked examples of the run's own that are kept (Q), the newest")
    pushed: Literal["agreement", "ranking"] = Field("agreement", description="what joins Q: r*, or the critic's whole order")
    least_agreement: int = Field(3, gt=1, description="shortest r* that joins Q")

    @model_validator(mode="after")
    def _one_temperature_each(self) -> Config:
        if self.temperatures is not None and len(self.temperatures) != self.group_size:
            raise ValueError(f"got {len(self.temperatures)} temperatures; give one for each of group_size {self.group_size}")
        return self


class CycleAlign(Ranked):
    Config = Config
    paper = "arXiv 2310.16271"
    summary = "a critic's rankings of the student's samples, with orders that both agree on as the critic's next examples"
    access = "text"

    def __init__(self, config: MethodConfig) -> None:
        super().__init__(config)
        self._newest: deque[dict[str, Any]] = deque(maxlen=self.config.dynamic)

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.CRITIC})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        name = self.config.demonstrations
        static = "" if name is None else tools.template(name)()[0]["content"]
        groups = [(group, _candidates(group)) for group in self._sampled(prompts, tools)]
        silent = tuple(Example(tuple(group)) for group, candidates in groups if len(candidates) < 2)
        rivals = [(group, candidates) for group, candidates in groups if len(candidates) > 1]
        orders = tools.the_critic().ask([self._ask(candidates, static, tools) for _, candidates in rivals])
        missing, examples, again, shown = [], [], [], len(self._newest)
        for (group, candidates), order in zip(rivals, orders, strict=True):
            if isinstance(order, Failure):
                missing.append(lost(group, order))
                continue
            example = self._ranked(candidates, order, shown, tools)
            examples.append(example)
            prompt = group[0].prompt
            if example.note["order"] != example.note["own_order"] and prompt.turn + 1 < self.config.cycles:
                again.append(replace(prompt, turn=prompt.turn + 1))
        return Collected(examples, tuple(missing), silent, tuple(again))

    def _sampled(self, prompts: Sequence[Prompt], tools: Tools) -> list[list[Rollout]]:
        config = self.config
        counts = Counter(config.temperatures or (config.temperature,) * config.group_size)
        parts = [tools.student.rollouts(prompts, count, temperature) for temperature, count in counts.items()]
        return [list(chain(*same)) for same in zip(*parts, strict=True)]

    def _ask(self, candidates: Sequence[Rollout], static: str, tools: Tools) -> Ask:
        messages = tools.template("rank")(
            static=static, dynamic=list(self._newest), question=candidates[0].prompt.question, answers=_texts(candidates)
        )
        return Ask(messages, lambda text: read_order(text, len(candidates)), schema=Ranking.model_json_schema())

    def _ranked(self, candidates: Sequence[Rollout], order: list[int], shown: int, tools: Tools) -> Example:
        """The candidates with their places in the critic's order; what joins Q is pushed on the way."""
        prompt, texts = candidates[0].prompt, _texts(candidates)
        if self.config.signal == "shuffled":
            order = blind_order(f"shuffled {tools.seed} {_key(prompt)}", texts)
        scores = [mean(rollout.logprobs or ()) for rollout in candidates]
        own = sorted(range(len(scores)), key=lambda i: -scores[i])
        common = ob.longest_common_subsequence(order, own)
        if self.config.pushed == "ranking":
            self._newest.append(_demonstration(prompt.question, [texts[i] for i in order]))
        elif len(common) >= self.config.least_agreement:
            self._newest.append(_demonstration(prompt.question, [texts[i] for i in common]))
        note = {"cycle": prompt.turn + 1, "order": order, "own_order": own, "common": len(common),
                "tau": ob.kendall_tau(order, own), "dynamic": shown}  # fmt: skip
        return Example(tuple(candidates), {"rank_N": [float(order.index(i)) for i in range(len(order))]}, note=note)

    def state_dict(self) -> dict[str, Any]:
        return {"newest": list(self._newest)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._newest = deque(state["newest"], maxlen=self.config.dynamic)


def _key(prompt: Prompt) -> str:
    return f"{prompt.id} {prompt.visit} {prompt.turn}"


def _texts(rollouts: Sequence[Rollout]) -> list[str]:
    return [after_thinking(rollout.text) for rollout in rollouts]


def _candidates(group: Sequence[Rollout]) -> list[Rollout]:
    """The first rollout of each text that says something, in the blind order in which the critic sees them."""
    first = {text: rollout for text, rollout in zip(reversed(_texts(group)), reversed(group), strict=True) if text.strip()}
    texts = sorted(first)
    return [first[texts[i]] for i in blind_order(_key(group[0].prompt), texts)]


def _demonstration(question: str, answers: Sequence[str]) -> dict[str, Any]:
    """A ranked example (best first) as it is shown: in a blind order, so that its places tell nothing."""
    shown = blind_order(question, answers)
    order = ", ".join(LETTERS[shown.index(i)] for i in range(len(answers)))
    return {"question": question, "answers": [answers[i] for i in shown], "order": order}

"""ROPD: rubric-based on-policy distillation from a teacher that only writes text (arXiv 2605.07396).

rollouts    y_1..y_n ~ student(. | x)
references  z_1..z_m ~ teacher(. | x)
rubric      4..12 criteria with points w_k in 1..5, written by a critic that sees x, the z and the y
verdicts    v_ik in {0, 1}, ticked blindly on the shuffled pool of all z and y
reward      r_i = sum_k w_k v_ik / sum_k w_k, recomputed from the ticks, whatever total the critic claims
advantage   A_i = r_i - mean of the group (optionally over its deviation)
loss        clipped policy gradient with dual clip, mean over all tokens of the batch, no KL term
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from harness import objectives as ob
from harness.method import Ask, Field, Method, MethodConfig, Need, Tools
from harness.types import Batch, Collected, Example, Failure, Loss, Models, Prompt, Rollout, Term


class Config(MethodConfig):
    """Defaults are the released configuration's: B 32, n 8, m 4, four updates a batch, centred advantages."""

    updates_per_batch: int = Field(4, gt=0, description="optimizer steps that a collected batch is split into")
    group_size: int = Field(8, gt=1, description="student rollouts of a prompt (n)")
    references: int = Field(4, gt=0, description="teacher answers of a prompt (m)")
    teacher_temperature: float = Field(1.0, gt=0, description="temperature of the references")
    rubric: Literal["own", "shuffled"] = Field("own", description="control: `shuffled` grades with another prompt's rubric")
    answers_per_call: int | None = Field(None, gt=0, description="answers in one verification; none is all of them")
    standardise: bool = Field(False, description="divide advantages by the group's deviation, as the paper writes them")
    clip_low: float = Field(0.2, gt=0)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float = Field(3.0, gt=1)
    sampler_cap: float = Field(2.0, gt=0, description="cap of the trainer-to-sampler ratio")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Criterion(Strict):
    criterion_id: Annotated[str, StringConstraints(pattern=r"^c\d+$")]
    category: str
    criterion: Annotated[str, StringConstraints(min_length=1)]
    points: int = Field(ge=1, le=5)


class Rubric(Strict):
    model_config = ConfigDict(title="ropd.rubric.v1")
    schema_version: Literal["ropd.rubric.v1"]
    rubrics: list[Criterion] = Field(min_length=4, max_length=12)
    maximum_score: int

    @model_validator(mode="after")
    def _distinct(self) -> Rubric:
        if len({criterion.criterion_id for criterion in self.rubrics}) != len(self.rubrics):
            raise ValueError("criterion ids repeat")
        return self


class Verdict(Strict):
    answer_index: int
    judgement: list[bool]
    final_score: float = Field(strict=False)


class Verdicts(Strict):
    model_config = ConfigDict(title="ropd.batch_verifier.v2")
    schema_version: Literal["ropd.batch_verifier.v2"]
    answers: list[Verdict]


def after_thinking(text: str) -> str:
    """What follows a finished thought; the whole text where there is none."""
    return text.rpartition("</think>")[2].strip() or text


def _json(text: str) -> str:
    """The reply's object without a surrounding code fence. Nothing else is repaired."""
    return after_thinking(text).strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()


def read_rubric(text: str) -> Rubric:
    """Raises ValueError when the reply breaks the schema, the number of criteria or the range of points."""
    return Rubric.model_validate_json(_json(text))


def read_verdicts(text: str, answers: int, criteria: int) -> Verdicts:
    """Raises ValueError when the reply breaks the schema, the order of answers or the length of a judgement."""
    verdicts = Verdicts.model_validate_json(_json(text))
    if [verdict.answer_index for verdict in verdicts.answers] != list(range(1, answers + 1)):
        raise ValueError(f"expected answers 1..{answers} in order")
    if any(len(verdict.judgement) != criteria for verdict in verdicts.answers):
        raise ValueError(f"expected {criteria} judgements of each answer")
    return verdicts


def weighted_rate(points: Sequence[int], met: Sequence[bool]) -> float:
    """sum_k w_k v_k / sum_k w_k."""
    return sum(w for w, v in zip(points, met, strict=True) if v) / sum(points)


class ROPD(Method):
    Config = Config
    paper = "arXiv 2605.07396"
    summary = "a critic's weighted checklist, written from teacher answers, as the reward of a policy gradient"
    access = "text"
    ratio = True

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({Need.TEACHER_TEXT, Need.CRITIC})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        config = self.config
        replies = tools.the_teacher().texts(prompts, config.references, config.teacher_temperature)
        groups = tools.student.rollouts(prompts, config.group_size, config.temperature)
        lost = [_lost(g, r) for g, r in zip(groups, replies, strict=True) if isinstance(r, Failure)]
        known = [(g, list(dict.fromkeys(r))) for g, r in zip(groups, replies, strict=True) if not isinstance(r, Failure)]
        rubrics = tools.the_critic().ask([self._rubric_ask(group, references, tools) for group, references in known])
        if config.rubric == "shuffled":
            rubrics = rubrics[1:] + rubrics[:1]
        lost += [_lost(g, r) for (g, _), r in zip(known, rubrics, strict=True) if isinstance(r, Failure)]
        graded = [(g, refs, r) for (g, refs), r in zip(known, rubrics, strict=True) if not isinstance(r, Failure)]
        examples, unverified = self._verify(graded, tools)
        return Collected(examples, (*lost, *unverified))

    def _rubric_ask(self, group: list[Rollout], references: list[str], tools: Tools) -> Ask:
        slots = {"question": group[0].prompt.question, "references": [after_thinking(r) for r in references],
                 "students": [after_thinking(rollout.text) for rollout in group]}  # fmt: skip
        return Ask(tools.template("rubricator")(**slots), read_rubric, schema=Rubric.model_json_schema())

    def _verify(self, graded: list[tuple[list[Rollout], list[str], Rubric]], tools: Tools) -> tuple[list[Example], list[Example]]:
        asks, pools = [], []
        for group, references, rubric in graded:
            texts = [after_thinking(text) for text in (*references, *(rollout.text for rollout in group))]
            order = sorted(
                range(len(texts)), key=lambda i: hashlib.sha256(f"{group[0].prompt.id} {i} {texts[i]}".encode()).digest()
            )
            size = self.config.answers_per_call or len(texts)
            cuts = [order[i : i + size] for i in range(0, len(order), size)]
            pools.append(cuts)
            for cut in cuts:
                slots = {"question": group[0].prompt.question, "rubric": [c.model_dump() for c in rubric.rubrics],
                         "answers": [texts[i] for i in cut]}  # fmt: skip
                asks.append(Ask(tools.template("verifier")(**slots), _reader(len(cut), len(rubric.rubrics)),
                                schema=Verdicts.model_json_schema()))  # fmt: skip
        replies = iter(tools.the_critic().ask(asks))
        examples, lost = [], []
        for (group, references, rubric), cuts in zip(graded, pools, strict=True):
            parts = [next(replies) for _ in cuts]
            failure = next((part for part in parts if isinstance(part, Failure)), None)
            if failure:
                lost.append(_lost(group, failure))
            else:
                examples.append(_example(group, references, rubric, cuts, parts))
        return examples, lost

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"policy": float(batch.mask_NT.sum())}

    def loss(self, models: Models, batch: Batch) -> Loss:
        config = self.config
        advantage_N = ob.group_advantages(batch.signal["reward_N"], batch.group_N, standardise=config.standardise)
        logp_NT = models.logprobs(batch)
        loss_NT = ob.clipped_policy_gradient(
            logp_NT, batch.old_logp_NT, advantage_N[:, None], low=config.clip_low, high=config.clip_high, dual=config.dual_clip
        )
        assert batch.behaviour_logp_NT is not None
        old_NT = logp_NT if batch.old_logp_NT is None else batch.old_logp_NT
        loss_NT = loss_NT * ob.sampler_correction(old_NT, batch.behaviour_logp_NT, config.sampler_cap)
        return {"policy": Term((loss_NT * batch.mask_NT).sum())}


def _reader(answers: int, criteria: int) -> Any:
    return lambda text: read_verdicts(text, answers, criteria)


def _lost(group: list[Rollout], failure: Failure) -> Example:
    return Example(tuple(group), note={"failure": f"{failure.status}: {failure.detail}"})


def _example(
    group: list[Rollout], references: list[str], rubric: Rubric, cuts: list[list[int]], parts: list[Verdicts]
) -> Example:
    """Undoes the shuffle; the first answers of the pool are the references, the others the student's."""
    points = [criterion.points for criterion in rubric.rubrics]
    met = {i: verdict for cut, part in zip(cuts, parts, strict=True) for i, verdict in zip(cut, part.answers, strict=True)}
    rates = [weighted_rate(points, met[i].judgement) for i in range(len(met))]
    claimed = sum(abs(met[i].final_score - rate * sum(points)) > 0.5 for i, rate in enumerate(rates))
    note = {
        "references": references, "reference_scores": rates[: len(references)], "claimed_otherwise": claimed,
        "rubric": [criterion.model_dump() for criterion in rubric.rubrics],
        "verdicts": [met[i].judgement for i in range(len(references), len(met))],
    }  # fmt: skip
    return Example(tuple(group), {"reward_N": rates[len(references) :]}, note=note)

"""ROPD: rubric-based on-policy distillation from a teacher that only writes text (arXiv 2605.07396).

answers     rollouts y_1..y_n ~ student(. | x), references z_1..z_m ~ teacher(. | x)
rubric      4..12 criteria with points w_k in 1..5, by a critic that sees x, the z and the y (ablation: one y for each rubric)
verdicts    v_ik in {0, 1}, ticked blindly on the shuffled pool of all z and of the y that the rubric is for
reward      r_i = sum_k w_k v_ik / sum_k w_k, recomputed from the ticks, whatever total the critic claims
loss        clipped policy gradient (dual clip, no KL term) with r_i - mean of the group; mean over all tokens of the batch
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, StringConstraints, model_validator

from harness.families import PolicyGradient, PolicyGradientConfig
from harness.method import Ask, Field, Need, Tools, lost, shifted
from harness.replies import Strict, after_thinking, blind_order, read_json
from harness.types import Collected, Example, Failure, Prompt, Rollout


class Config(PolicyGradientConfig):
    """Defaults are the released configuration's. The control `signal: shuffled` grades with another prompt's rubric."""

    updates_per_batch: int = Field(4, gt=0, description="optimizer steps that a collected batch is split into")
    references: int = Field(4, gt=0, description="teacher answers of a prompt (m)")
    teacher_temperature: float = Field(1.0, gt=0, description="temperature of the references")
    rubric_for: Literal["group", "answer"] = Field("group", description="one rubric for a group, or one for each rollout")
    verifier: Literal["blind", "named"] = Field("blind", description="whether the verifier is told who wrote an answer")
    answers_per_call: int | None = Field(None, gt=0, description="answers in one verification; none is all of them")


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


def read_verdicts(text: str, places: Sequence[int], criteria: int) -> dict[int, Verdict]:
    """Raises ValueError when the reply breaks the schema, the order of answers or the length of a judgement."""
    verdicts = read_json(text, Verdicts).answers
    if [(each.answer_index, len(each.judgement)) for each in verdicts] != [(i + 1, criteria) for i in range(len(places))]:
        raise ValueError(f"expected answers 1..{len(places)} in order, with {criteria} judgements each")
    return dict(zip(places, verdicts, strict=True))


class ROPD(PolicyGradient):
    Config = Config
    paper = "arXiv 2605.07396"
    summary = "a critic's weighted checklist, written from teacher answers, as the reward of a policy gradient"
    access = "text"
    needs = frozenset({Need.TEACHER_TEXT, Need.CRITIC})

    def collect(self, prompts: Sequence[Prompt], tools: Tools) -> Collected:
        config = self.config
        replies = tools.the_teacher().texts(prompts, config.references, config.teacher_temperature)
        told, untold = _sifted([(g,) for g in tools.student.rollouts(prompts, config.group_size, config.temperature)], replies)
        known = [(g, [*dict.fromkeys(zs)], [g] if config.rubric_for == "group" else [[y] for y in g]) for g, zs in told]
        rubrics = _asked([[self._rubric_ask(unit, zs, tools) for unit in units] for _, zs, units in known], tools)
        graded, ungraded = _sifted(known, shifted(rubrics) if config.signal == "shuffled" else rubrics)
        ticked, unticked = _sifted(graded, _asked([self._verdict_asks(tools, *each) for each in graded], tools))
        return Collected([self._example(*each) for each in ticked], (*untold, *ungraded, *unticked))

    def _rubric_ask(self, unit: list[Rollout], zs: list[str], tools: Tools) -> Ask:
        slots = {"references": [after_thinking(text) for text in zs], "students": [after_thinking(y.text) for y in unit]}
        messages = tools.template("rubricator")(question=unit[0].prompt.question, **slots)
        return Ask(messages, partial(read_json, form=Rubric), schema=Rubric.model_json_schema())

    def _verdict_asks(self, tools: Tools, group: Any, zs: list[str], units: list[Any], rubrics: list[Rubric]) -> list[Ask]:
        asks, named = [], self.config.verifier == "named"
        for unit, rubric in zip(units, rubrics, strict=True):
            texts = [after_thinking(text) for text in (*zs, *(rollout.text for rollout in unit))]
            order, size = blind_order(group[0].prompt.id, texts), self.config.answers_per_call or len(texts)
            for cut in (order[at : at + size] for at in range(0, len(order), size)):
                writers = ["teacher" if i < len(zs) else "student" for i in cut if named]
                slots = {"question": group[0].prompt.question, "answers": [texts[i] for i in cut], "writers": writers}
                messages = tools.template("verifier")(rubric=rubric.model_dump()["rubrics"], **slots)
                read = partial(read_verdicts, places=cut, criteria=len(rubric.rubrics))
                asks.append(Ask(messages, read, schema=Verdicts.model_json_schema()))
        return asks

    def _example(self, group: Any, zs: list[str], units: list[Any], rubrics: list[Rubric], parts: list[Any]) -> Example:
        rewards, notes, calls = [], [], len(parts) // len(units)
        for u, rubric in enumerate(rubrics):
            met = {place: verdict for part in parts[u * calls : (u + 1) * calls] for place, verdict in part.items()}
            pool, rows = [met[i] for i in range(len(met))], rubric.model_dump()["rubrics"]
            totals = [sum(row["points"] for row, v in zip(rows, verdict.judgement, strict=True) if v) for verdict in pool]
            rates = [total / sum(row["points"] for row in rows) for total in totals]
            ticks = [verdict.judgement for verdict in pool[len(zs) :]]
            claimed = sum(abs(verdict.final_score - total) > 0.5 for verdict, total in zip(pool, totals, strict=True))
            notes.append({"rubric": rows, "reference_scores": rates[: len(zs)], "verdicts": ticks, "claimed_otherwise": claimed})
            rewards += rates[len(zs) :]
        note = notes[0] if self.config.rubric_for == "group" else {"answers": notes}
        return Example(tuple(group), {"reward_N": rewards}, note={"references": zs, **note})



def _sifted(given: Sequence[Any], found: Sequence[Any]) -> tuple[list[Any], list[Example]]:
    """What was known of each group with what was found, and apart from them the groups of which that failed."""
    missing = [lost(each[0], value) for each, value in zip(given, found, strict=True) if isinstance(value, Failure)]
    return [(*each, value) for each, value in zip(given, found, strict=True) if not isinstance(value, Failure)], missing


def _asked(asks: list[list[Ask]], tools: Tools) -> list[Any]:
    """For each group the replies to its questions, or the first of them that failed."""
    replies = iter(tools.the_critic().ask([ask for each in asks for ask in each]))
    found = [[next(replies) for _ in each] for each in asks]
    return [next((reply for reply in each if isinstance(reply, Failure)), each) for each in found]

"""The methods, each against numbers worked out by hand or by a longer way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from fakes import FakeStudent, FakeTeacher, codec, prompts, tools_for
from tiny import VOCABULARY, batch_of, make_examples, models_of, naive, tiny, trainer_of
from torch import Tensor

from harness import registry
from harness.method import Ask, Method, Tools
from harness.pocket.protocol import fenced
from harness.replies import read_json
from harness.train.trainer import Optimization
from harness.types import Batch, Collected, Example, Failure, Prompt, Rollout


def method_of(name: str, **settings: Any) -> Method:
    cls = registry.method(name)
    return cls(cls.Config(**settings))


# ---------------------------------------------------------------------------------------------------------------- ropd

POINTS = [5, 4, 2, 1]


def rubric_text(points: Sequence[Any] = POINTS, **changes: Any) -> str:
    rows = [{"criterion_id": f"c{i}", "category": "form", "criterion": f"rule {i}", "points": p} for i, p in enumerate(points, 1)]
    value = {"schema_version": "ropd.rubric.v1", "rubrics": rows, "maximum_score": sum(p for p in points if isinstance(p, int))}
    return json.dumps(value | changes)


def verdict_text(judgements: Sequence[Sequence[Any]], indices: Sequence[int] | None = None, **changes: Any) -> str:
    places = indices or range(1, len(judgements) + 1)
    rows = [{"answer_index": i, "judgement": list(j), "final_score": 0} for i, j in zip(places, judgements, strict=True)]
    return json.dumps({"schema_version": "ropd.batch_verifier.v2", "answers": rows} | changes)


def ropd() -> Any:
    import importlib

    return importlib.import_module(registry.modules("methods")["ropd"])


def read_rubric(text: str) -> Any:
    return read_json(text, ropd().Rubric)


class Scripted(FakeStudent):
    """Writes what it is told, per prompt."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        super().__init__(Counter())
        self.texts = texts

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        groups = [[self.written(prompt, text) for text in self.texts[prompt.id]] for prompt in prompts]
        assert all(len(group) == count for group in groups)
        return [[replace(r, logprobs=[-0.5] * len(r.tokens)) for r in group] for group in groups]


class Ticking:
    """A critic that ticks by the text alone: the digits of the last word. Rubrics are numbered by the prompt."""

    def __init__(self, claims: float | None = None, no_rubric: str = "", no_verdict: str = "") -> None:
        self.claims, self.no_rubric, self.no_verdict = claims, no_rubric, no_verdict
        self.asked: list[Ask] = []

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        self.asked += asks
        return [self._one(ask) for ask in asks]

    def _one(self, ask: Ask) -> Any:
        found = fenced(ask.messages)
        (question,) = found["question"]
        assert ask.schema is not None
        if ask.schema["title"] == "ropd.rubric.v1":
            if question == self.no_rubric:
                return Failure("parse_failed", "no rubric")
            return ask.parse(rubric_text(maximum_score=99).replace('"form"', json.dumps(question)))
        if question == self.no_verdict:
            return Failure("refused", "no verdict")
        ticks = [[digit == "1" for digit in text.split()[-1]] for text in found["answer"]]
        totals = [sum(w for w, v in zip(POINTS, row, strict=True) if v) for row in ticks]
        rows = [
            {"answer_index": i, "judgement": row, "final_score": total if self.claims is None else self.claims}
            for i, (row, total) in enumerate(zip(ticks, totals, strict=True), 1)
        ]
        return ask.parse(json.dumps({"schema_version": "ropd.batch_verifier.v2", "answers": rows}))


class Answering:
    """A teacher with given answers; a Failure for the prompts it has none for."""

    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts_by_id = texts

    def texts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[str] | Failure]:
        return [self.texts_by_id.get(prompt.id) or Failure("judge_error", "no teacher") for prompt in prompts]


ROWS = ["1111", "1011", "0011", "0001"]
"""Verdicts of four answers; with the points 5, 4, 2, 1 the rates are 1, 8/12, 3/12, 1/12."""
REWARDS = [1.0, 8 / 12, 3 / 12, 1 / 12]


def asked(*ids: str) -> list[Prompt]:
    return [Prompt(name, ({"role": "user", "content": f"question {name}"},)) for name in ids]


def collect(critic: Ticking, ids: str = "a", references: dict[str, list[str]] | None = None, **settings: Any) -> Collected:
    method = method_of("ropd", group_size=4, references=2, **settings)
    student = Scripted({name: [f"answer {row}" for row in ROWS] for name in ids})
    teacher = Answering(references or {name: ["model 1111", "model 1110"] for name in ids})
    return method.collect(asked(*ids), tools_for(method, student=student, teacher=teacher, critic=critic))


def test_ropd_rewards_are_weighted_shares_of_the_ticks_that_a_blind_verifier_set() -> None:
    critic = Ticking()
    (example,) = collect(critic).examples
    assert example.signal["reward_N"] == pytest.approx([1, 0.666667, 0.25, 0.083333], abs=1e-6)
    assert example.signal["reward_N"] == pytest.approx(REWARDS)
    assert example.note["reference_scores"] == pytest.approx([1, 11 / 12])
    assert [[int(v) for v in row] for row in example.note["verdicts"]] == [[int(digit) for digit in row] for row in ROWS]
    assert [r.text for r in example.rollouts] == [f"answer {row}" for row in ROWS]
    assert example.note["claimed_otherwise"] == 0


def test_ropd_shows_the_verifier_a_shuffled_pool_that_names_nobody() -> None:
    orders = set()
    for name in "abcdefgh":
        critic = Ticking()
        collect(critic, ids=name)
        rubric, verifier = critic.asked
        assert fenced(rubric.messages)["reference"] == ["model 1111", "model 1110"]
        assert fenced(rubric.messages)["student"] == [f"answer {row}" for row in ROWS]
        pool = fenced(verifier.messages)
        assert set(pool) == {"question", "criteria", "answer"}
        assert sorted(pool["answer"]) == sorted(["model 1111", "model 1110", *(f"answer {row}" for row in ROWS)])
        orders.add(tuple(text.split()[0] for text in pool["answer"]))
    assert len(orders) > 3


def test_ropd_believes_ticks_and_counts_claims_that_differ() -> None:
    (example,) = collect(Ticking(claims=50)).examples
    assert example.signal["reward_N"] == pytest.approx(REWARDS)
    assert example.note["claimed_otherwise"] == 6
    (example,) = collect(Ticking(claims=12)).examples
    assert example.note["claimed_otherwise"] == 4  # of six answers two have the 12 of 12 that is claimed for all


def test_ropd_gives_the_same_rewards_when_answers_are_verified_one_at_a_time() -> None:
    together, alone, in_threes = Ticking(), Ticking(), Ticking()
    wanted = collect(together, "abc").examples
    got, grouped = collect(alone, "abc", answers_per_call=1).examples, collect(in_threes, "abc", answers_per_call=4).examples
    assert [e.signal for e in got] == [e.signal for e in wanted] == [e.signal for e in grouped]
    assert [len(critic.asked) for critic in (together, alone, in_threes)] == [3 * 2, 3 * (1 + 2 + 4), 3 * (1 + 2)]


def test_ropd_names_a_repeated_reference_once() -> None:
    critic = Ticking()
    (example,) = collect(critic, references={"a": ["model 1111", "model 1111"]}).examples
    assert example.note["references"] == ["model 1111"]
    assert len(example.note["reference_scores"]) == 1
    assert fenced(critic.asked[0].messages)["reference"] == ["model 1111"]
    assert len(fenced(critic.asked[1].messages)["answer"]) == 5
    assert example.signal["reward_N"] == pytest.approx(REWARDS)


def test_ropd_hides_finished_thoughts() -> None:
    critic = Ticking()
    collect(critic, references={"a": ["first 0000</think> model 1111", "model 1110"]})
    assert fenced(critic.asked[0].messages)["reference"] == ["model 1111", "model 1110"]


def test_ropd_drops_groups_whose_teacher_or_critic_failed() -> None:
    references = {name: ["model 1111", "model 1110"] for name in "bcd"}
    critic = Ticking(no_rubric="question b", no_verdict="question c")
    collected = collect(critic, "abcd", references)
    assert [e.rollouts[0].prompt.id for e in collected.examples] == ["d"]
    assert collected.examples[0].signal["reward_N"] == pytest.approx(REWARDS)
    assert [(e.rollouts[0].prompt.id, e.note["failure"]) for e in collected.lost] == [
        ("a", "judge_error: no teacher"), ("b", "parse_failed: no rubric"), ("c", "refused: no verdict"),
    ]  # fmt: skip
    assert [len(e.rollouts) for e in collected.lost] == [4, 4, 4]
    assert all(not e.signal for e in collected.lost)
    parts = collect(critic, "abcd", references, answers_per_call=1)
    assert [e.rollouts[0].prompt.id for e in parts.examples] == ["d"]
    assert len(parts.lost) == 3


def test_ropd_control_grades_with_another_prompts_rubric() -> None:
    for signal, wanted in (("own", ["a", "b", "c"]), ("shuffled", ["b", "c", "a"])):
        critic = Ticking()
        examples = collect(critic, "abc", signal=signal).examples
        assert [e.note["rubric"][0]["category"] for e in examples] == [f"question {name}" for name in wanted]
        shown = [json.loads(fenced(ask.messages)["criteria"][0])[0]["category"] for ask in critic.asked[3:]]
        assert shown == [f"question {name}" for name in wanted]
        assert [fenced(ask.messages)["question"] for ask in critic.asked[3:]] == [["question a"], ["question b"], ["question c"]]


def test_ropd_may_write_a_rubric_for_each_answer() -> None:
    critic = Ticking()
    examples = collect(critic, "ab", rubric_for="answer", answers_per_call=2).examples
    assert [e.signal["reward_N"] for e in examples] == [pytest.approx(REWARDS)] * 2
    rubrics, verifications = critic.asked[:8], critic.asked[8:]
    assert [fenced(ask.messages)["student"] for ask in rubrics] == [[f"answer {row}"] for row in ROWS] * 2
    assert all(fenced(ask.messages)["reference"] == ["model 1111", "model 1110"] for ask in rubrics)
    pools = [fenced(ask.messages)["answer"] for ask in verifications]  # two references and one answer, two a call
    assert [len(pool) for pool in pools] == [2, 1] * 8
    for i, row in enumerate(ROWS * 2):
        assert sorted(pools[2 * i] + pools[2 * i + 1]) == sorted(["model 1111", "model 1110", f"answer {row}"])
    for note in examples[0].note["answers"]:
        assert note["reference_scores"] == pytest.approx([1, 11 / 12])
    assert [note["verdicts"][0] for note in examples[0].note["answers"]] == [[digit == "1" for digit in row] for row in ROWS]


def test_ropd_loses_the_whole_group_with_one_answers_rubric_or_ticks() -> None:
    class Unsure(Ticking):
        def _one(self, ask: Ask) -> Any:
            found = fenced(ask.messages)
            shown = found.get("student", found.get("answer", []))
            failing = {"question b": "ropd.rubric.v1", "question c": "ropd.batch_verifier.v2"}.get(found["question"][0])
            if "answer 0011" in shown and (ask.schema or {})["title"] == failing:
                return Failure("refused", f"not this {failing}")
            return super()._one(ask)

    collected = collect(Unsure(), "abcd", rubric_for="answer")
    assert [e.rollouts[0].prompt.id for e in collected.examples] == ["a", "d"]
    assert [(e.rollouts[0].prompt.id, len(e.rollouts), e.note["failure"]) for e in collected.lost] == [
        ("b", 4, "refused: not this ropd.rubric.v1"), ("c", 4, "refused: not this ropd.batch_verifier.v2"),
    ]  # fmt: skip


def test_ropd_shuffles_rubrics_of_answers_between_prompts() -> None:
    critic = Ticking()
    examples = collect(critic, "abc", rubric_for="answer", signal="shuffled").examples
    wanted = {"a": "question b", "b": "question c", "c": "question a"}
    for example in examples:
        categories = {note["rubric"][0]["category"] for note in example.note["answers"]}
        assert categories == {wanted[example.rollouts[0].prompt.id]}


def test_ropd_names_the_writers_to_the_verifier_only_when_told_to() -> None:
    for verifier, said in (("blind", 0), ("named", 6)):
        critic = Ticking()
        (example,) = collect(critic, verifier=verifier).examples
        asked = critic.asked[1].messages[-1]["content"]
        assert asked.count(", written by the ") == said
        assert example.signal["reward_N"] == pytest.approx(REWARDS)
    for place, text in enumerate(fenced(critic.asked[1].messages)["answer"], 1):
        writer = "teacher" if text.startswith("model") else "student"
        assert f"Answer {place}, written by the {writer}:\n" in asked


@pytest.mark.parametrize("dress", ["{}", "```json\n{}\n```", "```\n{}```", "so ...</think>\n\n{}\n"])
def test_ropd_reads_a_plain_a_fenced_and_a_thought_out_reply(dress: str) -> None:
    assert [c.points for c in read_rubric(dress.replace("{}", rubric_text())).rubrics] == POINTS
    verdicts = ropd().read_verdicts(dress.replace("{}", verdict_text([[True, False], [False, False]])), [1, 0], 2)
    assert {place: v.judgement for place, v in verdicts.items()} == {1: [True, False], 0: [False, False]}


@pytest.mark.parametrize(
    "text",
    [
        "", "no", "[]", rubric_text()[:-20], f"Here it is: {rubric_text()}", f"{rubric_text()} I hope this helps.",
        rubric_text([5, 4, 2]), rubric_text([1] * 13), rubric_text([5, 4, 2, 0]), rubric_text([6, 4, 2, 1]),
        rubric_text([5, 4, 2, 1.5]), rubric_text([5, 4, 2, "1"]),
        rubric_text(schema_version="ropd.rubric.v2"), rubric_text(more=1),
        rubric_text().replace('"c2"', '"c1"'), rubric_text().replace('"c2"', '"2"'), rubric_text().replace('"rule 3"', '""'),
        rubric_text().replace('"category"', '"kind"'),
    ],
)  # fmt: skip
def test_ropd_refuses_a_rubric_that_breaks_its_form(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whatever is wrong with it)
        read_rubric(text)


def test_ropd_takes_rubrics_at_the_ends_of_their_range() -> None:
    assert len(read_rubric(rubric_text([1, 5, 1, 5])).rubrics) == 4
    assert len(read_rubric(rubric_text([3] * 12)).rubrics) == 12
    assert read_rubric(rubric_text(maximum_score=7)).maximum_score == 7  # claimed; the points are what counts


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", verdict_text([[True] * 3, [False] * 3])[:-4], verdict_text([[True] * 3]), verdict_text([[True] * 3] * 3),
        verdict_text([[True] * 3, [False] * 3], [2, 1]), verdict_text([[True] * 3, [False] * 3], [1, 1]),
        verdict_text([[True] * 3, [False] * 3], [0, 1]), verdict_text([[True] * 3, [False] * 2]),
        verdict_text([[True] * 3, [True] * 4]), verdict_text([[True] * 3, [True, "no", False]]),
        verdict_text([[True] * 3, [1, 0, 1]]), verdict_text([[True] * 3, [None] * 3]),
        verdict_text([[True] * 3] * 2, schema_version="ropd.batch_verifier.v1"), verdict_text([[True] * 3] * 2, note="fine"),
    ],
)  # fmt: skip
def test_ropd_refuses_verdicts_that_break_their_form(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whatever is wrong with it)
        ropd().read_verdicts(text, [0, 1], 3)


class Given:
    """Models whose policy says given log-probs, a leaf of the graph."""

    def __init__(self, logp_NT: Tensor) -> None:
        self.logp_NT = logp_NT

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        return self.logp_NT if keep_N is None else self.logp_NT * keep_N[:, None]

    def per_token(self, *_: Any) -> tuple[Tensor, ...]:
        raise AssertionError("not asked for")


def ropd_batch(rewards: Sequence[float], lengths: Sequence[int], sampler: float = -1.0) -> Batch:
    rollouts = tuple(Rollout(Prompt("p", ()), [2], [3] * n, [sampler] * n, "", "stop") for n in lengths)
    return batch_of([Example(rollouts, {"reward_N": list(rewards)})])


def slope(method: Method, batch: Batch, logp: float = -1.0) -> tuple[float, Tensor]:
    """The loss's sum and its gradient in each token's log-prob."""
    logp_NT = torch.full(batch.mask_NT.shape, logp, dtype=torch.float64, requires_grad=True)
    term = method.loss(Given(logp_NT), batch)["loss"]
    term.sum.backward()
    assert logp_NT.grad is not None
    return float(term.sum.detach()) * term.coef, logp_NT.grad * term.coef


def test_ropd_pushes_each_token_by_its_answers_advantage() -> None:
    advantages = torch.tensor([0.5, 1 / 6, -0.25, -5 / 12], dtype=torch.float64)
    batch = ropd_batch(REWARDS, [3, 1, 2, 2])
    value, gradient = slope(method_of("ropd"), batch)
    assert torch.allclose(gradient, -advantages[:, None] * batch.mask_NT)
    assert value == pytest.approx(-(0.5 * 3 + 1 / 6 - 0.25 * 2 - 5 / 12 * 2))
    assert method_of("ropd").weights(batch) == {"loss": 8.0}
    _, gradient = slope(method_of("ropd", standardise=True), batch)
    assert (-gradient[:, 0]).tolist() == pytest.approx([1.208078, 0.402693, -0.604039, -1.006732], abs=2e-6)


def test_ropd_weighs_tokens_by_how_far_the_trainer_is_from_the_sampler() -> None:
    """exp(-1 + 1.2) = 1.2214; at three nats the ratio is capped at 2."""
    for sampler, factor in ((-1.2, 1.221403), (-4.0, 2.0), (-1.0, 1.0)):
        _, gradient = slope(method_of("ropd"), ropd_batch([1, 0], [1, 1], sampler))
        assert gradient[:, 0].tolist() == pytest.approx([-0.5 * factor, 0.5 * factor], abs=1e-6)


def test_ropd_clips_ratios_on_both_sides_and_twice_for_bad_answers() -> None:
    """Ratios 1.5 and 0.5 with advantage .5, 1.5 and 4 with -.5, as the clipped surrogate and its dual bound give them."""
    batch = replace(
        ropd_batch([1, 1, 0, 0], [1, 1, 1, 1]),
        old_logp_NT=-1.0 - torch.log(torch.tensor([1.5, 0.5, 1.5, 4.0], dtype=torch.float64))[:, None],
        behaviour_logp_NT=-1.0 - torch.log(torch.tensor([1.5, 0.5, 1.5, 4.0], dtype=torch.float64))[:, None],
    )
    value, gradient = slope(method_of("ropd"), batch)
    assert value == pytest.approx(-0.6 - 0.25 + 0.75 + 1.5)
    assert gradient[:, 0].tolist() == pytest.approx([0.0, -0.25, 0.75, 0.0])


def test_ropd_groups_without_a_signal_have_no_gradient_and_stay_in_the_denominator() -> None:
    def gradient(examples: list[Example]) -> tuple[Tensor, dict[str, float]]:
        method = method_of("ropd", updates_per_batch=1)
        trainer = trainer_of(type(method), config={}, optimization=Optimization(0.01, max_grad_norm=1e9))
        trainer.method = method
        metrics = trainer.step(examples, 0)
        return torch.cat([p.grad.flatten() for p in trainer.parameters if p.grad is not None]), metrics

    told = [Example(e.rollouts, e.signal) for e in make_examples(3)]
    flat = [Example(e.rollouts, {"reward_N": [0.1] * 3}) for e in make_examples(3, seed=5)]
    alone, _ = gradient(told)
    together, _ = gradient(told + flat)
    tokens = [sum(len(r.tokens) for e in part for r in e.rollouts) for part in (told, told + flat)]
    assert torch.allclose(together, alone * tokens[0] / tokens[1])
    nothing, metrics = gradient(flat)
    assert not nothing.any()
    assert (metrics["loss/loss"], metrics["updates"]) == (0.0, 1.0)


# ----------------------------------------------------------------------------------------------------------- logit_opd

FULL: list[dict[str, Any]] = [
    {"divergence": "reverse"}, {"divergence": "forward"}, {"divergence": "jsd"}, {"divergence": "jsd", "mix": 0.1},
    {"divergence": "reverse", "top_k": 4}, {"divergence": "forward", "top_k": 4}, {"divergence": "jsd", "top_k": 4},
]  # fmt: skip


def kl(logp: Tensor, logq: Tensor) -> Tensor:
    return (logp.exp() * (logp - logq)).sum(-1)


def bucketed(logp: Tensor, logq: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """On the student's k likeliest tokens and one bucket for the others, the long way."""
    if k is None:
        return logp, logq
    rows = []
    for values in (logp, logq):
        kept = [[row[i] for i in best] for row, best in zip(values, logq.topk(k).indices.tolist(), strict=True)]
        rows.append(torch.stack([torch.stack([*row, torch.log1p(-sum(v.exp() for v in row))]) for row in kept]))
    return rows[0], rows[1]


def divergence(logp: Tensor, logq: Tensor, divergence: str, mix: float = 0.5, top_k: int | None = None) -> Tensor:
    """Teacher p, student q; in jsd the mixture has the weight `mix` for the teacher."""
    logp, logq = bucketed(logp, logq, top_k)
    if divergence == "jsd":
        mean = torch.log(mix * logp.exp() + (1 - mix) * logq.exp())
        return mix * kl(logp, mean) + (1 - mix) * kl(logq, mean)
    return kl(logp, logq) if divergence == "forward" else kl(logq, logp)


def backward(value: Tensor, model: Any) -> tuple[float, Tensor]:
    model.zero_grad()
    value.backward()
    return float(value.detach()), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("settings", FULL)
def test_logit_opd_in_full_equals_the_divergence_of_whole_distributions(settings: dict) -> None:
    policy, teacher, examples = tiny(), tiny(seed=1), make_examples(3)
    method = method_of("logit_opd", form="full", **settings)
    got = backward(method.loss(models_of(policy, {"teacher": teacher}, chunk=5), batch_of(examples))["loss"].sum, policy)
    total = torch.zeros((), dtype=torch.float64)
    for rollout in (r for e in examples for r in e.rollouts):
        logp = naive(teacher, rollout.prompt_tokens, rollout.tokens).detach()
        total = total + divergence(logp, naive(policy, rollout.prompt_tokens, rollout.tokens), **settings).sum()
    wanted = backward(total, policy)
    assert got[0] == pytest.approx(wanted[0], rel=1e-9)
    assert got[0] > 0.1
    assert float((got[1] - wanted[1]).norm() / wanted[1].norm()) < 1e-6


def scored_by(model: Any, examples: list[Example]) -> list[Example]:
    """The same model as sampler and as teacher of all tokens."""

    def scores(r: Rollout) -> list[float]:
        return naive(model, r.prompt_tokens, r.tokens).detach().gather(-1, torch.tensor(r.tokens)[:, None])[:, 0].tolist()

    return [
        Example(tuple(replace(r, logprobs=scores(r)) for r in e.rollouts), {"teacher_logp_NT": [scores(r) for r in e.rollouts]})
        for e in examples
    ]


@pytest.mark.parametrize(("chunk", "divergence"), [(1024, "reverse"), (4, "forward")])
def test_logit_opd_from_all_but_one_of_the_teachers_tokens_equals_the_full_form(chunk: int, divergence: str) -> None:
    teacher = tiny(seed=1)
    examples = []
    for example in make_examples():
        best = [naive(teacher, r.prompt_tokens, r.tokens).topk(VOCABULARY - 1) for r in example.rollouts]
        told = {"top_ids_NTK": [each.indices.tolist() for each in best], "top_logp_NTK": [each.values.tolist() for each in best]}
        examples.append(replace(example, signal=told))
    gradients = []
    for form in ("full", "top"):
        method = method_of("logit_opd", form=form, divergence=divergence, top_k=VOCABULARY - 1)
        policy = tiny()
        term = method.loss(models_of(policy, {"teacher": teacher}, chunk=chunk), batch_of(examples))["loss"]
        term.sum.backward()
        gradients.append([float(term.sum.detach()), *torch.cat([p.grad.flatten() for p in policy.parameters()]).tolist()])
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("settings", [{"form": "sampled"}, *({**s, "form": "full"} for s in FULL)])
def test_logit_opd_has_nothing_to_learn_from_itself(settings: dict) -> None:
    policy = tiny()
    batch = batch_of(scored_by(policy, make_examples(3)))
    loss = method_of("logit_opd", **settings).loss(models_of(policy, {"teacher": tiny()}), batch)["loss"]
    value, gradient = backward(loss.sum, policy)
    assert abs(value) < 1e-10
    assert float(gradient.norm()) < 1e-10


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_logit_opd_on_samples_is_the_reverse_kl_in_expectation(beta: float) -> None:
    """All answers of two tokens over five words, each weighted by its probability, against the KL at each position."""
    size, prompt = 5, [2, 4]
    policy, teacher = tiny(vocabulary=size), tiny(seed=1, vocabulary=size)
    method = method_of("logit_opd", beta=beta)
    models = models_of(policy, vocabulary=size)

    def logs(model: Any, tokens: list[int]) -> Tensor:
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits, -1)

    expected, kls = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for answer in product(range(size), repeat=2):
        tokens = list(answer)
        logq, logp = logs(policy, tokens), logs(teacher, tokens).detach()
        chosen = torch.tensor(tokens)[:, None]
        said, scores = logq.detach().gather(-1, chosen)[:, 0], logp.gather(-1, chosen)[:, 0]
        rollout = Rollout(Prompt("p", ()), prompt, tokens, said.tolist(), "", "length")
        batch = batch_of([Example((rollout,), {"teacher_logp_NT": [scores.tolist()]})])
        expected = expected + said.sum().exp() * method.loss(models, batch)["loss"].sum
        kls = kls + said.sum().exp() * kl(logq, logp).sum()  # the prefix is data, only the position's own choice is not
    value, wanted = backward(kls, policy)
    mean, got = backward(expected, policy)
    assert float((got - beta * wanted).norm() / (beta * wanted).norm()) < 1e-6
    assert mean == pytest.approx(beta * value, rel=1e-8)
    assert value > 0.1


def test_logit_opd_drops_a_group_of_which_one_score_is_missing() -> None:
    method = method_of("logit_opd")
    asked_for = prompts(3)
    collected = method.collect(asked_for, tools_for(method, teacher=FakeTeacher(Counter(), frozenset({"list-1"}))))
    assert [e.rollouts[0].prompt.id for e in collected.examples] == ["list-0", "list-2"]
    assert [(e.rollouts[0].prompt.id, e.note["failure"]) for e in collected.lost] == [("list-1", "judge_error: no teacher")]
    for example in collected.examples:
        scores: Any = example.signal["teacher_logp_NT"]
        assert [len(row) for row in scores] == [len(r.tokens) for r in example.rollouts]
        assert len(example.rollouts) == 4


@pytest.mark.parametrize("form", ["sampled", "full"])
def test_logit_opd_extrapolates_beyond_the_teacher_from_the_reference(form: str) -> None:
    """A = 1.25 (p - r) - (q - r) per token with old log-probs q; the full form has the same target, normalised."""
    policy, teacher, reference = tiny(), tiny(seed=1), tiny(seed=2)
    examples = [replace(e, signal=t.signal) for e, t in zip(make_examples(3), scored_by(teacher, make_examples(3)), strict=True)]
    models = models_of(policy, {"teacher": teacher, "reference": reference}, chunk=5)
    total = torch.zeros((), dtype=torch.float64)
    for rollout in (r for e in examples for r in e.rollouts):
        logq, logp, logr = (naive(model, rollout.prompt_tokens, rollout.tokens) for model in (policy, teacher, reference))
        q, p, r = (each.gather(-1, torch.tensor(rollout.tokens)[:, None])[:, 0] for each in (logq, logp, logr))
        old = torch.tensor(rollout.logprobs, dtype=torch.float64)
        if form == "sampled":
            total = total - 0.5 * ((q - old).exp() * (1.25 * (p - r) - (old - r)).detach()).sum()
        else:
            target = torch.log_softmax((logr + 1.25 * (logp - logr)).detach(), -1)
            total = total + kl(logq, target).sum()
    wanted = backward(total, policy)
    reference.zero_grad()
    method = method_of("logit_opd", form=form, extrapolation=1.25, beta=0.5)
    got = backward(method.loss(models, batch_of(examples))["loss"].sum, policy)
    assert got[0] == pytest.approx(wanted[0], rel=1e-9)
    assert float((got[1] - wanted[1]).norm() / wanted[1].norm()) < 1e-6
    assert all(p.grad is None for p in reference.parameters())


def test_logit_opd_without_a_teacher_pushes_every_token_down_alike() -> None:
    method = method_of("logit_opd", form="constant", beta=0.5)
    assert not method.needs
    batch = ropd_batch([0, 0], [2, 1])
    _, gradient = slope(method, batch)
    assert torch.equal(gradient, 0.5 * batch.mask_NT)
    for settings in ({"signal": "shuffled"}, {"extrapolation": 1.25}):
        with pytest.raises(ValueError, match="asks no teacher"):
            method_of("logit_opd", form="constant", **settings)


def test_logit_opd_control_lets_the_teacher_read_another_prompt() -> None:
    class Reading(FakeTeacher):
        """Scores that tell the length of the prompt that was read."""

        def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
            return [[-float(len(r.prompt_tokens))] * len(r.tokens) for r in rollouts]

    asked_for = prompts(3)
    own = [group[0].prompt_tokens for group in FakeStudent(Counter()).rollouts(asked_for, 1, 1.0)]
    assert len({tuple(ids) for ids in own}) == 3
    for signal, read in (("own", own), ("shuffled", [*own[1:], own[0]])):
        method = method_of("logit_opd", signal=signal)
        examples = method.collect(asked_for, tools_for(method, teacher=Reading(Counter()))).examples
        scores: list[Any] = [e.signal["teacher_logp_NT"] for e in examples]
        assert [row[0][0] for row in scores] == [-len(ids) for ids in read]
        assert [e.rollouts[0].prompt_tokens for e in examples] == own
    method = method_of("logit_opd", signal="shuffled", form="full")
    examples = method.collect(asked_for, tools_for(method)).examples
    assert [e.views["other"] for e in examples] == [[ids] * 4 for ids in read]
    size = len(codec().tokenizer)
    policy, teacher = tiny(vocabulary=size), tiny(seed=1, vocabulary=size)
    models = models_of(policy, {"teacher": teacher}, vocabulary=size)
    total = 0.0
    for example in examples:
        for rollout, ids in zip(example.rollouts, example.views["other"], strict=True):
            behind = [[*before, *rollout.tokens] for before in (rollout.prompt_tokens, ids)]
            n = len(rollout.tokens)
            logq, logp = (
                torch.log_softmax(model(input_ids=torch.tensor([row])).logits[0, -n - 1 : -1], -1).detach()
                for model, row in zip((policy, teacher), behind, strict=True)
            )
            total += float(kl(logq, logp).sum())
    assert float(method.loss(models, batch_of(examples))["loss"].sum.detach()) == pytest.approx(total, rel=1e-9)


# --------------------------------------------------------------------------------------------- cross entropy on answers


@pytest.mark.parametrize(("name", "count"), [("seqkd", 1), ("seqkd", 3), ("sft", 1), ("sharpen", 1)])
def test_cross_entropy_methods_supervise_every_token_and_the_end(name: str, count: int) -> None:
    method = method_of(name, **({"texts": count} if count > 1 else {}))
    tools: Tools = tools_for(method)
    asked_for, codec_ = prompts(3), codec()
    examples = method.collect(asked_for, tools).examples
    assert [len(e.rollouts) for e in examples] == [count] * 3
    size = len(codec_.tokenizer)
    policy = tiny(vocabulary=size)
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for rollout in (r for e in examples for r in e.rollouts):
        assert rollout.tokens[-1] == codec_.tokenizer.eos_token_id
        assert codec_.text(rollout.tokens) == rollout.text
        ids = torch.tensor([rollout.prompt_tokens + rollout.tokens])
        logits = policy(input_ids=ids).logits[0, len(rollout.prompt_tokens) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(rollout.tokens), reduction="sum")
        tokens += len(rollout.tokens)
    wanted = backward(total, policy)
    batch = batch_of(examples)
    got = backward(method.loss(models_of(policy, vocabulary=size), batch)["loss"].sum, policy)
    assert got[0] == pytest.approx(wanted[0], rel=1e-9)
    assert float((got[1] - wanted[1]).norm() / wanted[1].norm()) < 1e-6
    assert method.weights(batch) == {"loss": tokens}


def test_what_answers_are_learnt_from() -> None:
    """seqkd and sft from the teacher's texts, sharpen from the student's own greedy answer; a failure is a lost group."""
    asked_for, teacher = prompts(2), FakeTeacher(Counter())
    written = [reply[0] for reply in teacher.texts(asked_for, 1, 0.0) if not isinstance(reply, Failure)]
    own = [group[0].text for group in FakeStudent(Counter()).rollouts(asked_for, 1, 0.0)]
    assert written != own
    for name, texts in (("seqkd", written), ("sft", written), ("sharpen", own)):
        method = method_of(name)
        assert [e.rollouts[0].text for e in method.collect(asked_for, tools_for(method)).examples] == texts
    for name in ("seqkd", "sft"):
        control = method_of(name, signal="shuffled")
        examples = control.collect(asked_for, tools_for(control)).examples
        assert [e.rollouts[0].text for e in examples] == written[::-1]
        assert [e.rollouts[0].prompt for e in examples] == asked_for
    broken = FakeTeacher(Counter(), frozenset({"list-0"}))
    for name, given in (("seqkd", {"teacher": broken}), ("sft", {"solutions": broken.solutions})):
        method = method_of(name)
        collected = method.collect(asked_for, tools_for(method, **given))
        assert [e.rollouts[0].text for e in collected.examples] == written[1:]
        assert [e.note["failure"] for e in collected.lost] == ["judge_error: no teacher"]

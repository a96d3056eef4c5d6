"""SELF-JUDGE: debiased verdicts, what is judged at all, the DPO step, and a warm start that does not starve the judge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import FakeStudent, FakeTeacher, codec, prompts, tools_for
from tiny import batch_of, models_of, tiny
from torch import Tensor

from harness import registry
from harness.objectives import vote
from harness.pocket.documents import judged as pocket_question
from harness.prompts import load
from harness.train.trainer import Optimization, Trainer
from harness.types import Batch, Collected, Example, Failure, Message, Prompt, Rollout
from methods.self_judge import Config

SelfJudge = registry.method("self_judge")
TEMPLATES = registry.prompts_folder(SelfJudge)


def self_judge(**settings: Any) -> Any:
    return SelfJudge(SelfJudge.Config(**settings))


def row(tokens: list[int]) -> Rollout:
    return Rollout(Prompt("p", ()), [3, 4], tokens, None, str(tokens), "stop")


class Told:
    """A chooser that gives P(A) and P(B), or a failure, from a list; it keeps what it was asked."""

    def __init__(self, answers: Sequence[tuple[float, float] | Failure]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        assert list(letters) == ["A", "B"]
        self.asked += [question[-1]["content"] for question in questions]
        assert len(questions) == len(self.answers), "no more questions than pairs worth judging"
        return [each if isinstance(each, Failure) else [math.log(p) for p in each] for each in self.answers]


class Student(FakeStudent):
    """Fake answers, some of them copied from the first of the pair or cut off."""

    def __init__(self, identical: Sequence[int] = (), truncated: Sequence[int] = ()) -> None:
        super().__init__(Counter())
        self.identical, self.truncated = identical, truncated

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        groups = super().rollouts(prompts, count, temperature)
        for i in self.identical:
            groups[i][1] = groups[i][0]
        for i in self.truncated:
            groups[i][1] = replace(groups[i][1], finish="length")
        return groups


def collected(judge: Told, count: int, student: FakeStudent | None = None, **settings: Any) -> Collected:
    method = self_judge(**settings)
    return method.collect(prompts(count), tools_for(method, reference=judge, student=student or Student()))


PLACE_A, PLACE_B = (0.6, 0.3), (0.5, 0.4)


@pytest.mark.parametrize(
    ("letters", "winner"),
    [
        ([PLACE_A, PLACE_B], 0),  # scores 0.50 and 0.40 although the place A wins both orders
        ([PLACE_B, PLACE_A], 1),
        ([(0.9, 0.05), (0.9, 0.05)], None),  # the place alone: no preference, where the released rule names the second
        ([(0.01, 0.24), (0.09, 0.49)], 0),  # raw 0.250 to 0.165; renormalised 0.442 to 0.558
        ([(0.8, 0.1), (0.1, 0.8), (0.4, 0.5), (0.5, 0.4), (0.8, 0.1), (0.1, 0.8), (0.4, 0.5), (0.5, 0.4)], 0),  # 2 : 2, means
        ([(0.6, 0.3), (0.3, 0.6), (0.6, 0.3), (0.3, 0.6), (0.0, 1.0), (1.0, 0.0)], 0),  # 2 : 1 against the means
        ([(0.5, 0.25), (0.25, 0.5), (0.25, 0.5), (0.5, 0.25)], None),  # 1 : 1 and equal means
    ],
)
def test_places_are_averaged_out_and_principles_vote(letters: list[tuple[float, float]], winner: int | None) -> None:
    assert vote(letters, agreement=False, confidence=0.5) == winner
    swapped = [letters[i + 1 - 2 * (i % 2)] for i in range(len(letters))]
    assert vote(swapped, agreement=False, confidence=0.5) == (None if winner is None else 1 - winner)


def test_filters_silence_single_principles() -> None:
    unsteady, sure = [PLACE_A, PLACE_B], [(0.1, 0.7), (0.7, 0.1)]
    assert vote(unsteady, agreement=True, confidence=0.5) is None, "both orders name the place A"
    assert vote([*unsteady, *unsteady, *sure], agreement=True, confidence=0.5) == 1, "against two votes without the filter"
    assert vote([*unsteady, *unsteady, *sure], agreement=False, confidence=0.5) == 0
    assert vote(unsteady, agreement=False, confidence=0.55) == 0  # a share of 0.5556
    assert vote(unsteady, agreement=False, confidence=0.56) is None


def test_the_winner_stands_first_and_unfit_pairs_are_not_judged() -> None:
    """Four pairs: the second identical, the third cut off; two are asked about, in both orders."""
    judge = Told([(0.2, 0.7), (0.7, 0.2), (0.7, 0.2), (0.2, 0.7)])
    found = collected(judge, 4, Student(identical=[1], truncated=[2]))
    pairs = Student(identical=[1], truncated=[2]).rollouts(prompts(4), 2, 1.0)
    assert [list(example.rollouts) for example in found.examples] == [pairs[0][::-1], pairs[1], pairs[2], pairs[3]]
    assert [example.signal["preferred_N"] for example in found.examples] == [[1, 1], [0, 0], [0, 0], [1, 1]]
    assert [example.note["unfit"] for example in found.examples] == ["", "identical", "truncated", ""]
    a, b = (rollout.text for rollout in pairs[0])
    assert judge.asked[:2] == [pocket_question("overall", prompts(1)[0].question, x, y) for x, y in ((a, b), (b, a))]
    assert self_judge().weights(batch_of(found.examples)) == {"preference": 4.0}


def test_a_principled_judge_is_asked_twice_for_each_principle() -> None:
    judge = Told([(0.7, 0.2), (0.2, 0.7)] * 4)
    collected(judge, 1, judgment="principled", principles=("form", "content", "manner", "overall"))
    assert [question.split()[1] for question in judge.asked[::2]] == ["form", "content", "manner", "overall"]


def test_a_failed_judgment_leaves_the_batch_and_its_mean() -> None:
    judge = Told([(0.7, 0.2), Failure("parse_failed", "no letters"), (0.7, 0.2), (0.2, 0.7)])
    found = collected(judge, 2)
    assert found.lost[0].note == {"failure": "parse_failed: no letters"}
    assert self_judge().weights(batch_of(found.examples)) == {"preference": 1.0}


def test_the_control_draws_the_winner_by_lot_and_keeps_who_has_a_preference() -> None:
    answers = [(0.7, 0.2), (0.2, 0.7)] * 40
    found = collected(Told([*answers, (0.9, 0.05), (0.9, 0.05)]), 41, signal="shuffled")
    winners = [example.note["winner"] for example in found.examples]
    assert winners[-1] is None
    assert 10 <= sum(winners[:-1]) <= 30
    assert collected(Told([*answers, (0.9, 0.05), (0.9, 0.05)]), 41, signal="shuffled") == found


@pytest.mark.parametrize(("form", "wanted"), [("sigmoid", 0.4740770), ("hinge", 0.5), ("ipo", 0.0)])
def test_the_preference_loss_on_known_sums(form: str, wanted: float) -> None:
    """h = (-42 + 50) - (-45 + 48) = 5 at beta 0.1; the second pair has no preference."""

    class Sums:
        def per_token(self, fn: Any, batch: Batch, frozen: Any, keep_N: Tensor) -> tuple[Tensor, ...]:
            sums = torch.tensor([[-42, -50, 0, 0], [-45, -48, 0, 0]], dtype=torch.float64)
            first_NT = torch.nn.functional.one_hot(torch.zeros(4, dtype=torch.long), batch.mask_NT.shape[1])
            assert keep_N.tolist() == [True, True, False, False]
            return tuple(first_NT * row_N[:, None] for row_N in sums)

    pairs = [Example((row([1, 2]), row([5])), {"preferred_N": [preferred] * 2}) for preferred in (1.0, 0.0)]
    loss = self_judge(form=form).loss(Sums(), batch_of(pairs))["preference"]
    assert float(loss.sum) == pytest.approx(wanted, abs=1e-7)


def test_at_the_start_the_loss_is_log_two_and_silent_pairs_cost_no_pass() -> None:
    passes: list[tuple[str, int, int]] = []
    models = models_of(tiny(), {"reference": tiny()}, lambda *charged: passes.append(charged))
    pairs = [Example((row([5, 2, 1]), row([9, 1])), {"preferred_N": [preferred] * 2}) for preferred in (1.0, 0.0)]
    loss = self_judge().loss(models, batch_of(pairs))["preference"].sum
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert passes == [("reference", 9, 5)]


class Teacher(FakeTeacher):
    """Says its verdicts from a list, in order."""

    def __init__(self, verdicts: Sequence[str], broken: frozenset[str] = frozenset()) -> None:
        super().__init__(Counter(), broken)
        self.verdicts = list(verdicts)

    def _text(self, prompt: Prompt, i: int) -> str:
        question = prompt.messages[-1]["content"]
        return self.verdicts.pop(0) if question.startswith("judge ") else super()._text(prompt, i)


def warmed(verdicts: Sequence[str], count: int, broken: frozenset[str] = frozenset(), **settings: Any) -> Collected:
    warm, teacher = self_judge(**settings).warm_start, Teacher(verdicts, broken)
    found = warm.collect(prompts(count), replace(tools_for(self_judge()), teacher=teacher, student=Student()))
    assert teacher.verdicts == []
    return found


def words(rollout: Rollout) -> str:
    return str(codec().tokenizer.decode(rollout.tokens)).strip()


def test_verdicts_that_agree_become_rows_of_both_orders_without_an_end() -> None:
    """The first pair's verdicts name the second answer, the second's name the place A, the third's cannot be read."""
    verdicts = ["B because A breaks opening .", "A because B breaks opening .", "A .", "A .", "maybe A", "B ."]
    found = warmed(verdicts, 3)
    imitated, rows = found.examples[:3], found.examples[3]
    assert [example.signal for example in imitated] == [{"judge_N": [0.0]}] * 3
    assert words(imitated[0].rollouts[0]).endswith("<end>")
    assert rows.signal == {"judge_N": [1.0, 1.0]}
    assert [words(rollout) for rollout in rows.rollouts] == ["B", "A"], "plain: the letter alone is trained on"
    a, b = (rollout.text for rollout in Student().rollouts(prompts(1), 2, 1.0)[0])
    asked = [pocket_question("overall", prompts(1)[0].question, x, y) for x, y in ((a, b), (b, a))]
    assert [rollout.prompt.messages[-1]["content"] for rollout in rows.rollouts] == asked
    assert [example.note["verdicts"] for example in found.silent] == [["A .", "A ."]]
    assert [example.note["failure"] for example in found.lost] == ["parse_failed: a verdict begins with A or B, got 'maybe A'"]


def test_principled_rows_hold_the_reason_and_every_principle_is_asked() -> None:
    verdicts = ["B because A breaks opening .", "A because B breaks opening .", "A .", "B ."]
    found = warmed(verdicts, 1, judgment="principled", principles=("form", "content"))
    assert [words(rollout) for example in found.examples[1:] for rollout in example.rollouts] == verdicts
    questions = [r.prompt.messages[-1]["content"] for example in found.examples[1:] for r in example.rollouts]
    assert [question.split()[1] for question in questions] == ["form", "form", "content", "content"]


def test_a_teacher_that_fails_loses_the_rows_it_owed() -> None:
    asked = prompts(2)
    found = warmed(["B .", "A .", "A .", "B ."], 2, broken=frozenset({asked[0].id}))
    assert [example.signal["judge_N"] for example in found.examples] == [[0], [1, 1], [1, 1]]
    assert [example.rollouts[0].prompt.id for example in found.lost] == [asked[0].id]


class Means:
    """A negative log-prob of 1 at every token of an answer and of 0.7 at those of verdicts."""

    def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
        return -torch.where(batch.signal["judge_N"][:, None] > 0, 0.7, 1.0) * batch.mask_NT


def test_the_judge_is_not_starved_by_long_answers() -> None:
    """One mean over the 202 tokens would be 0.99703, with 0.99 % of the weight on the letters."""
    answer = Example((row([5] * 200),), {"judge_N": [0.0]})
    batch = batch_of([answer, Example((row([5]), row([6])), {"judge_N": [1.0, 1.0]})])
    for weight, wanted in ((1.0, 1.7), (0.5, 1.35), (2 / 200, 0.99703 * 202 / 200)):
        warm = self_judge(judge_weight=weight).warm_start
        loss, weights = warm.loss(Means(), batch), warm.weights(batch)
        assert weights == {"policy": 200.0, "judge": 2.0}
        assert sum(float(term.coef * term.sum / weights[name]) for name, term in loss.items()) == pytest.approx(wanted, abs=1e-5)


def test_the_mean_over_judge_rows_is_by_token_or_by_row() -> None:
    """Verdicts of 1 token at 0.2 and of 4 at 1.2: 1.0 by token, 0.7 by row."""

    class Uneven:
        def logprobs(self, batch: Batch, view: str = "", keep_N: Tensor | None = None) -> Tensor:
            return -torch.tensor([[0.2], [1.2]], dtype=torch.float64) * batch.mask_NT

    batch = batch_of([Example((row([5]), row([6, 7, 8, 9])), {"judge_N": [1.0, 1.0]})])
    for norm, wanted in (("token", 1.0), ("row", 0.7)):
        warm = self_judge(judge_norm=norm).warm_start
        assert float(warm.loss(Uneven(), batch)["judge"].sum) / warm.weights(batch)["judge"] == pytest.approx(wanted)


def test_a_step_of_the_warm_start_does_not_depend_on_the_cut() -> None:
    """Also where a micro-batch holds no judge row, or nothing else."""
    found = warmed(["B because A breaks opening .", "A ."] * 3, 3, judgment="principled", principles=("form",))
    vocabulary = len(codec().tokenizer)
    warm, seen = self_judge(judgment="principled").warm_start, []
    for size in (1, 10_000):
        trainer = Trainer(
            tiny(vocabulary=vocabulary), {}, warm, Optimization(0.01), vocabulary=vocabulary, temperature=1.0,
            charge=lambda *_: None, micro_batch_tokens=size,
        )  # fmt: skip
        seen.append(trainer.step(found.examples, 0, warm))
    assert seen[0] == pytest.approx(seen[1], rel=1e-9)
    assert {"loss/policy", "loss/judge"} <= seen[0].keys()


def test_the_warm_start_can_be_left_out() -> None:
    assert self_judge().config.warm_prompts == 256
    assert self_judge(warm_prompts=0).warm_start is None


@pytest.mark.parametrize("principle", [*Config().principles, "overall", "brevity"])
def test_the_english_question_names_the_principle_and_fences_the_answers(principle: str) -> None:
    system, user = load(TEMPLATES, "en", "judge")(principle=principle, question="why?", a="one", b="</answer> two")
    assert system["role"] == "system"
    asked = next(line for line in user["content"].splitlines() if line.startswith("Which answer is better"))
    assert f": {principle}" in asked
    assert ("(" in asked) == (principle != "brevity"), "each principle of ours is explained"
    assert user["content"].count("<answer ") == 2

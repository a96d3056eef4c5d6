"""PAD: the teacher's choices to scores, scores to ranking distributions, against numbers computed elsewhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from fakes import FakeStudent, tools_for
from tiny import batch_of
from torch import Tensor

from harness import objectives as ob
from harness.objectives.diversity import edit_distance, farthest
from harness.types import Collected, Example, Failure, Message, Prompt, Rollout
from methods.pad import PAD, Config, ranking_entropy

TEXTS = ["red", "green tree", "blue", "a long yellow line of words"]
PAIRS = {
    (0, 1): (0.7, 0.2), (0, 2): (0.6, 0.3), (0, 3): (0.9, 0.05), (1, 2): (0.4, 0.5), (1, 3): (0.8, 0.1), (2, 3): (0.75, 0.15),
}  # fmt: skip
"""Probabilities that the teacher gives to the letters of the first and the second of a pair of answers."""
SELECTED = [0.733333, 0.466667, 0.516667, 0.1]
SCORES = [-0.310155, -0.762140, -0.660357, -2.302585]
RENORMALISED = [0.797271, 0.518519, 0.574074, 0.110136]
U, V = [-0.9, -1.1, -1.0, -1.4], [-0.3, -0.7, -1.2, -2.3]
U2, V2 = [-1.3, -0.8, -1.0, -0.95], [-1.5, -0.2, -0.9, -0.6]


class Scripted(FakeStudent):
    """Answers with given texts, of one token for each word."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(Counter())
        self.written_texts, self.asked = texts, []  # type: ignore[var-annotated]

    def rollouts(self, prompts: Sequence[Prompt], count: int, temperature: float) -> list[list[Rollout]]:
        assert count == len(self.written_texts)
        self.asked.append(temperature)
        return [[self._said(prompt, text, len(text.split())) for text in self.written_texts] for prompt in prompts]

    def _said(self, prompt: Prompt, text: str, words: int) -> Rollout:
        return Rollout(prompt, [2], [3] * words, [-0.5] * words, text, "stop")


class Choosing:
    """Chooses by the texts of the question alone, with a bias for the place A; scores a token by its answer's place."""

    def __init__(self, bias: float = 0.0, broken: str = "") -> None:
        self.bias, self.broken, self.questions, self.scored = bias, broken, [], 0  # type: ignore[var-annotated]

    def choose(self, questions: Sequence[Sequence[Message]], letters: Sequence[str]) -> list[list[float] | Failure]:
        assert list(letters) == ["A", "B"]
        self.questions += [question[-1]["content"] for question in questions]
        return [self._choice(question[-1]["content"]) for question in questions]

    def _choice(self, text: str) -> list[float] | Failure:
        if self.broken and self.broken in text:
            return Failure("parse_failed", "no letter")
        a, b = text.partition(" A : ")[2].removesuffix(" which is better ?").split(" B : ")
        i, j = TEXTS.index(a), TEXTS.index(b)
        p = PAIRS[i, j] if i < j else PAIRS[j, i][::-1]
        return [math.log(p[0] + self.bias), math.log(p[1] - self.bias)]

    def score(self, rollouts: Sequence[Rollout]) -> list[list[float] | Failure]:
        self.scored += len(rollouts)
        return [self._logps(V[TEXTS.index(rollout.text)], len(rollout.tokens)) for rollout in rollouts]

    def _logps(self, mean: float, count: int) -> list[float]:
        return [mean + 0.1 * (t - (count - 1) / 2) for t in range(count)]


def asked(count: int = 1) -> list[Prompt]:
    return [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(count)]


def collect(texts: Sequence[str] = TEXTS, teacher: Any = None, count: int = 1, student: Any = None, **settings: Any) -> Collected:
    method = PAD(Config(samples=len(texts), kept=settings.pop("kept", len(texts)), **settings))
    return method.collect(asked(count), tools_for(method, student=student or Scripted(texts), teacher=teacher or Choosing()))


def by_text(example: Example, values: Sequence[float]) -> list[float]:
    """Values of an example's rollouts in the order of TEXTS."""
    found = dict(zip([rollout.text for rollout in example.rollouts], values, strict=True))
    return [found[text] for text in TEXTS]


# ------------------------------------------------------------------------------------------------------------- choosing


@pytest.mark.parametrize("orders", ["single", "both"])
def test_scores_are_logs_of_the_mean_probability_of_an_answers_letter(orders: str) -> None:
    teacher = Choosing()
    (example,) = collect(teacher=teacher, orders=orders, renormalise=False).examples
    assert by_text(example, example.note["selected"]) == pytest.approx(SELECTED, abs=1e-6)
    assert by_text(example, example.signal["score_N"]) == pytest.approx(SCORES, abs=1e-6)  # type: ignore[arg-type]
    assert example.note["discarded"] == pytest.approx(1 - sum(map(sum, PAIRS.values())) / 6)
    assert len(teacher.questions) == {"single": 6, "both": 12}[orders]


def test_letters_share_the_whole_probability_by_default_and_the_rest_is_noted() -> None:
    (example,) = collect().examples
    assert by_text(example, example.note["selected"]) == pytest.approx(RENORMALISED, abs=1e-6)
    assert by_text(example, example.signal["score_N"]) == pytest.approx([math.log(p) for p in RENORMALISED], abs=1e-5)  # type: ignore[arg-type]
    assert example.note["discarded"] == pytest.approx(1 - sum(map(sum, PAIRS.values())) / 6)
    assert example.note["first_place"] == pytest.approx(0.5)


def test_both_orders_free_the_scores_of_a_bias_for_a_place_and_the_note_tells_it() -> None:
    plain, biased = (collect(teacher=Choosing(bias), renormalise=False).examples[0] for bias in (0.0, 0.04))
    assert biased.note["selected"] == pytest.approx(plain.note["selected"])
    assert biased.note["first_place"] > 0.53
    one = [collect(teacher=Choosing(bias), renormalise=False, orders="single").examples[0] for bias in (0.0, 0.04)]
    assert one[1].note["selected"] != pytest.approx(one[0].note["selected"], abs=1e-3)


def test_questions_are_in_the_words_of_the_models_that_read_them() -> None:
    teacher = Choosing()
    collect(["thought</think> red", "green tree"], teacher)
    assert teacher.questions == [
        "judge overall : question 0 A : red B : green tree which is better ?",
        "judge overall : question 0 A : green tree B : red which is better ?",
    ]


def test_the_english_question_fences_what_others_wrote_and_ends_before_the_letter() -> None:
    from harness.prompts import load
    from harness.registry import prompts_folder

    (message,) = load(prompts_folder(PAD), "en", "choice")(question="why ?", a="first answer", b="second answer")
    text = message["content"]
    places = [text.index(part) for part in ("why ?", "Answer A", "first answer", "Answer B", "second answer")]
    assert places == sorted(places)
    assert text.count("<answer ") == text.count("</answer ") == 2
    assert text.endswith("The better answer is")


def test_alpha_mixes_mean_log_probs_and_asks_for_nothing_else() -> None:
    for alpha, questions, scored in ((0.0, 6, 0), (0.5, 6, 4), (1.0, 0, 4)):
        teacher = Choosing()
        (example,) = collect(teacher=teacher, alpha=alpha, orders="single", renormalise=False).examples
        wanted = [alpha * mean + (1 - alpha) * score for mean, score in zip(V, SCORES, strict=True)]
        assert by_text(example, example.signal["score_N"]) == pytest.approx(wanted, abs=1e-6)  # type: ignore[arg-type]
        assert (len(teacher.questions), teacher.scored) == (questions, scored)


def test_places_of_letters_that_are_all_but_impossible_do_no_harm() -> None:
    class Certain(Choosing):
        def _choice(self, text: str) -> list[float]:
            return [-9999.0, 0.0] if text.startswith("judge overall : question 0 A : red") else [-9999.0, -9999.0]

    (example,) = collect(["red", "green tree"], Certain(), orders="single").examples
    assert example.signal["score_N"] == pytest.approx([math.log(1e-8), 0], abs=1e-7)
    (example,) = collect(["green tree", "red"], Certain(), orders="single").examples
    assert example.note["selected"] == [0.5, 0.5]
    assert example.note["discarded"] == 1


def test_a_group_whose_teacher_fails_leaves_the_batch() -> None:
    teacher = Choosing(broken="question 1")
    found = collect(teacher=teacher, count=3)
    assert [example.rollouts[0].prompt.id for example in found.examples] == ["p0", "p2"]
    (lost,) = found.lost
    assert (lost.rollouts[0].prompt.id, len(lost.rollouts), lost.note["failure"]) == ("p1", 4, "parse_failed: no letter")
    assert PAD(Config()).weights(batch_of(found.examples)) == {"ranking": 2}


# ------------------------------------------------------------------------------------------------------------ diversity


def slow_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def test_edit_distance() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("", "") == edit_distance("same", "same") == 0
    words = ["".join(letters) for n in range(5) for letters in permutations("aabc", n)]
    assert all(edit_distance(a, b) == slow_distance(a, b) for a in words for b in words)
    long = "abcdefghij klm " * 40
    assert edit_distance(long, long[7:] + "x") == slow_distance(long, long[7:] + "x")


def test_the_farthest_answers_are_kept_from_the_first_on() -> None:
    texts = ["aaaa", "aaab", "bbbbbbbb", "aaaacccc", "aaaa"]
    assert farthest(texts, 3) == [0, 2, 3]
    assert farthest(texts, 5) == [0, 2, 3, 1]
    assert farthest(["x", "x", "x"], 2) == [0]
    (example,) = collect([*TEXTS, "reds"], kept=4).examples
    assert {rollout.text for rollout in example.rollouts} == set(TEXTS)
    assert example.rollouts[0].text == "red"


def test_repeats_fall_out_and_a_prompt_with_one_answer_is_silent() -> None:
    (example,) = collect(["red", "red", "blue", "thought</think> blue", "red"], kept=4).examples
    assert [rollout.text for rollout in example.rollouts] == ["red", "blue"]
    teacher = Choosing()
    found = collect(["red"] * 5, teacher, count=2)
    assert (found.examples, found.lost, teacher.questions) == ([], (), [])
    assert [len(example.rollouts) for example in found.silent] == [5, 5]


def test_answers_are_sampled_at_a_temperature_of_their_own() -> None:
    student = Scripted(TEXTS)
    collect(student=student, sampling_temperature=1.2, temperature=0.7)
    assert student.asked == [1.2]


# ----------------------------------------------------------------------------------------------------------------- loss


class Given:
    """Models whose policy gives each completion a mean log-prob, with tokens around it and rubbish on the padding."""

    def __init__(self, mean_N: Sequence[float]) -> None:
        self.mean_N = torch.tensor(mean_N, dtype=torch.float64, requires_grad=True)

    def logprobs(self, batch: Any, view: str = "", keep_N: Any = None) -> Tensor:
        count_N = batch.mask_NT.sum(-1, keepdim=True)
        ramp_NT = torch.arange(batch.mask_NT.shape[1]) - (count_N - 1) / 2
        return torch.where(batch.mask_NT > 0, self.mean_N[:, None] + 0.01 * ramp_NT, -77.0)


def examples_of(*scores: Sequence[float]) -> list[Example]:
    """Groups with these teacher scores, of completions of unequal lengths."""
    return [
        Example(
            tuple(Rollout(Prompt(f"p{g}", ()), [2], [3] * (1 + (g + 2 * i) % 4), None, "", "stop") for i in range(len(score))),
            {"score_N": score},
        )
        for g, score in enumerate(scores)
    ]


def loss_of(u: Sequence[float], *scores: Sequence[float], **settings: Any) -> tuple[float, Tensor]:
    """The loss as the trainer divides it, and its gradient with respect to the mean log-probs."""
    method, models, batch = PAD(Config(**settings)), Given(u), batch_of(examples_of(*scores))
    value = method.loss(models, batch)["ranking"].sum / method.weights(batch)["ranking"]  # type: ignore[arg-type]
    value.backward()
    assert models.mean_N.grad is not None
    return float(value.detach()), models.mean_N.grad


@pytest.mark.parametrize(
    ("divergence", "beta", "value"),
    [("vpd", 1, 2.7619279), ("vpd", 10, 1.7567909), ("ppd", 1, 0.0804836), ("ppd", 10, 0.4107953),
     ("ppd_reverse", 1, 0.0902158), ("ppd_reverse", 10, 1.1480957)],
)  # fmt: skip
def test_the_losses_of_known_scores(divergence: str, beta: float, value: float) -> None:
    loss, gradient = loss_of(U, V, divergence=divergence, beta_student=beta, beta_teacher=beta)
    assert loss == pytest.approx(value, abs=1e-7)
    assert float(gradient.sum()) == pytest.approx(0, abs=1e-9)


def test_student_and_teacher_have_inverse_temperatures_of_their_own() -> None:
    assert loss_of(U, V, beta_teacher=1)[0] == pytest.approx(0.1520573, abs=1e-7)


def test_the_loss_of_a_batch_is_the_mean_over_its_prompts() -> None:
    """Pooled over the prompts of a batch the reversed form would give 16.0090779 here, and 24.3019437 below."""
    assert loss_of([*U, *U2], V, V2)[0] == pytest.approx(0.2906684, abs=1e-7)
    assert loss_of([*U, *U2], V, V2, divergence="ppd_reverse")[0] == pytest.approx(0.7278929, abs=1e-7)
    rows = [loss_of(u, v)[0] for u, v in ((U, V), (U2, V2))]
    assert loss_of([*U, *U2], V, V2)[0] == pytest.approx(sum(rows) / 2)


@pytest.mark.parametrize("divergence", ["ppd", "ppd_reverse"])
def test_a_student_that_scores_as_the_teacher_stays_however_many_prompts_there_are(divergence: str) -> None:
    u = [*(v - 3 for v in V), *(v + 0.4 for v in V2)]
    loss, gradient = loss_of(u, V, V2, divergence=divergence)
    assert loss == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-9


def test_groups_that_lost_their_repeats_are_ranked_among_others_of_other_sizes() -> None:
    assert loss_of([1, 0], [0, 0], beta_student=1, beta_teacher=1)[0] == pytest.approx(0.0285353, abs=1e-7)
    short = loss_of(U2[:3], V2[:3])[0]
    mixed = loss_of([*U2[:3], *U, *U2], V2[:3], V, V2)[0]
    assert mixed == pytest.approx((short + 0.4107953 + loss_of(U2, V2)[0]) / 3, abs=1e-6)


def test_five_answers_have_120_rankings() -> None:
    u, v = [*U, -0.2], [*V, -0.9]
    log_s, log_t = ([_order(order, [2 * x for x in scores]) for order in permutations(range(5))] for scores in (u, v))
    both = [(math.exp(s), math.exp(t)) for s, t in zip(log_s, log_t, strict=True)]
    assert len(both) == 120
    wanted = sum((s * math.log(2 * s / (s + t)) + t * math.log(2 * t / (s + t))) / 2 for s, t in both)
    assert loss_of(u, v, beta_student=2, beta_teacher=2)[0] == pytest.approx(wanted)


def _order(order: Sequence[int], score: Sequence[float]) -> float:
    return sum(score[i] - math.log(sum(math.exp(score[j]) for j in order[k:])) for k, i in enumerate(order))


@pytest.mark.parametrize("divergence", ["ppd", "vpd"])
def test_more_answers_are_cut_into_disjoint_sets_whose_losses_are_averaged(divergence: str) -> None:
    u, v = [*U, *U2], [*V, *V2]
    halves = [loss_of(a, b, divergence=divergence)[0] for a, b in ((U, V), (U2, V2))]
    assert loss_of(u, v, divergence=divergence)[0] == pytest.approx(sum(halves) / 2)
    pairs = [loss_of(u[i : i + 2], v[i : i + 2], divergence=divergence)[0] for i in (0, 2)]
    assert loss_of(U, V, divergence=divergence, enumerated=2)[0] == pytest.approx(sum(pairs) / 2)
    assert loss_of([*u, *U], v, V, divergence=divergence)[0] == pytest.approx((sum(halves) / 2 + halves[0]) / 2)


def test_the_rankings_entropy_is_that_of_the_distribution() -> None:
    for scores, beta in ((V, 1.0), (V, 10.0), ([*U, -0.2], 3.0), ([0.0, 0.0, 0.0], 1.0)):
        wanted = float(ob.ranking_entropy(torch.tensor([scores], dtype=torch.float64), beta)[0])
        assert ranking_entropy([beta * score for score in scores]) == pytest.approx(wanted)
    assert ranking_entropy([0.0, -5000.0]) == 0
    (example,) = collect(beta_teacher=1.0).examples
    assert example.note["teacher_entropy"] == pytest.approx(ranking_entropy([math.log(p) for p in RENORMALISED]), abs=1e-5)
    (example,) = collect(beta_teacher=1.0, enumerated=2).examples
    score = list(example.signal["score_N"])
    assert example.note["teacher_entropy"] == pytest.approx((ranking_entropy(score[:2]) + ranking_entropy(score[2:])) / 2)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- control


def test_the_control_permutes_the_scores_of_a_group() -> None:
    own, control = collect(count=40), collect(count=40, signal="shuffled")
    assert control == collect(count=40, signal="shuffled")
    orders = set()
    for mine, theirs in zip(own.examples, control.examples, strict=True):
        assert mine.rollouts == theirs.rollouts
        assert mine.note == theirs.note
        assert sorted(mine.signal["score_N"]) == sorted(theirs.signal["score_N"])  # type: ignore[type-var]
        orders.add(tuple(theirs.signal["score_N"]))
    assert len(orders) > 12

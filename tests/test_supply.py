"""What methods are given to ask: outcomes, preferences, the frozen chooser, and how they are charged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import codec, prompts
from tiny import tiny

from harness import tracks
from harness.ledger import Budget, Ledger
from harness.method import Ask
from harness.supply import FrozenChooser, Outcomes, Preferences
from harness.train.models import StreamedLM
from harness.types import Failure, Prompt, Rollout
from harness.verify import final_answer, same_answer

TRACK = tracks.load("pocket")


class Critic:
    """Replies to each request with the next text; a Failure is passed on."""

    def __init__(self, *replies: str | Failure) -> None:
        self.replies, self.asked = list(replies), list[Ask]()

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        self.asked += asks
        texts = [self.replies.pop(0) for _ in asks]
        return [text if isinstance(text, Failure) else ask.parse(text) for ask, text in zip(asks, texts, strict=True)]


def group(*texts: str, reference: str | None = None, name: str = "p") -> list[Rollout]:
    prompt = Prompt(name, ({"role": "user", "content": "how many ?"},), reference=reference)
    return [Rollout(prompt, [1], [2], [-1.0], text, "stop") for text in texts]


def scores(*values: int) -> str:
    return json.dumps({"schema_version": "scores.v1", "scores": values})


def ledger() -> Ledger:
    return Ledger(Budget({"prompts": 4}))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 3 = 5 ; answer 5", "5"), ("so \\boxed{7} and then \\boxed{x^{2}}", "x^{2}"), ("it is\n#### 1,234", "1,234"),
        ("The answer is: 12.\nBye", "12."), ("first\nlast line", "last line"), ("", ""), ("answer", ""),
    ],
)  # fmt: skip
def test_the_final_answer_is_found_in_the_usual_forms(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_answers_are_compared_as_numbers_or_as_words() -> None:
    assert same_answer("1234", "#### 1,234.0")
    assert same_answer("$b $a", "$a $b ; answer $b $a")
    assert same_answer("Paris", "the answer is paris.")
    assert not same_answer("5", "answer 15")
    assert not same_answer("5", "5 is in here ; answer 6")
    assert not same_answer("0", "")


def test_a_program_judges_where_it_can_and_the_critic_elsewhere() -> None:
    books, critic = ledger(), Critic(scores(7, 6, 10))
    outcomes = Outcomes(critic, TRACK, books)  # type: ignore[arg-type]
    found = outcomes([group("answer 5", "answer 6", reference="5"), group("a", "b", "c")])
    assert found == [[1.0, 0.0], [1.0, 0.0, 1.0]]
    assert (len(critic.asked), books.training["verifier_calls"]) == (1, 2)


def test_a_critic_that_failed_gives_no_outcome() -> None:
    broken = Failure("parse_failed", "no")
    assert Outcomes(Critic(broken), TRACK, ledger())([group("a", "b")]) == [broken]  # type: ignore[arg-type]


def test_preferences_undo_the_blind_order_and_give_equal_texts_equal_places() -> None:
    critic = Critic(json.dumps({"schema_version": "ranking.v1", "order": ["C", "A", "B"]}))
    answers = group("one", "two", "two", "three")
    (places,) = Preferences(critic, TRACK)([answers])  # type: ignore[arg-type]
    said = critic.asked[0].messages[-1]["content"]
    shown = sorted(("one", "two", "three"), key=lambda text: said.index(f">\n{text}\n<"))
    wanted = [shown[2], shown[0], shown[1]]
    assert places == [wanted.index(rollout.text) for rollout in answers]
    assert places[1] == places[2]


def test_one_text_is_in_order_without_a_call() -> None:
    critic = Critic()
    assert Preferences(critic, TRACK)([group("same", "same")]) == [[0, 0]]  # type: ignore[arg-type]
    assert critic.asked == []


@pytest.mark.parametrize("reply", ['{"schema_version": "ranking.v1", "order": ["A", "A"]}', "A > B"])
def test_an_order_that_is_no_permutation_is_not_read(reply: str) -> None:
    with pytest.raises(ValueError, match=r"expected each of AB once|JSON"):
        Preferences(Critic(reply), TRACK)([group("a", "b")])  # type: ignore[arg-type]


def test_the_frozen_student_chooses_by_the_logits_of_a_plain_forward() -> None:
    size, books = len(codec().tokenizer), ledger()
    model = tiny(vocabulary=size)
    asked = [prompt.messages for prompt in (*prompts(3), replace(prompts(1, "note")[0], id="x"))]
    got = FrozenChooser(StreamedLM(model, vocabulary=size, temperature=2.0), codec(), books).choose(asked, ["A", "B"])
    letters = [codec().tokenizer.convert_tokens_to_ids(letter) for letter in "AB"]
    for messages, row in zip(asked, got, strict=True):
        ids = codec().prompt(messages)
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        assert row == pytest.approx(torch.log_softmax(logits, -1)[letters].tolist())
    assert books.training["self_judge_tokens"] == sum(len(codec().prompt(messages)) + 1 for messages in asked)

"""The scripted judge in Arena-Hard's five grades."""

import pytest

from harness.pocket.judge import Judge, JudgeKnobs
from harness.pocket.protocol import UnknownProtocol

COUNTS_WORDS = JudgeKnobs(sharpness=0, noise=0, length_bias=1, position_bias=0)
"""Its log-odds for A are the words that A has more than B."""
OFFICIAL = (
    "<|User Prompt|>\n{}\n\n<|The Start of Assistant A's Answer|>\n{}\n<|The End of Assistant A's Answer|>\n\n"
    "<|The Start of Assistant B's Answer|>\n{}\n<|The End of Assistant B's Answer|>"
)
OURS = "<|request|>\n{}\n\n<|answer A|>\n{}\n<|end of answer A|>\n\n<|answer B|>\n{}\n<|end of answer B|>"


def verdict(knobs: JudgeKnobs, form: str, question: str, a: str, b: str) -> str:
    system = {"role": "system", "content": "Finish with [[A>>B]], [[A>B]], [[A=B]], [[B>A]] or [[B>>A]]."}
    return Judge(knobs).reply([system, {"role": "user", "content": form.format(question, a, b)}]).text


@pytest.mark.parametrize("form", [OFFICIAL, OURS])
@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(6, 2, "A>>B"), (5, 2, "A>B"), (3, 2, "A>B"), (2, 2, "A=B"), (2, 3, "B>A"), (2, 5, "B>A"), (2, 6, "B>>A")],
)
def test_the_grade_is_the_stated_function_of_the_log_odds(form: str, a: int, b: int, expected: str) -> None:
    said = verdict(COUNTS_WORDS, form, "?", "x " * a, "y " * b)
    assert said.endswith(f"[[{expected}]]")
    assert said.count("[[") == 1


@pytest.mark.parametrize(("bias", "expected"), [(0.49, "A=B"), (0.51, "A>B"), (-0.51, "B>A"), (2.99, "A>B"), (3.01, "A>>B")])
def test_thresholds(bias: float, expected: str) -> None:
    knobs = JudgeKnobs(sharpness=0, noise=0, length_bias=0, position_bias=bias)
    assert verdict(knobs, OFFICIAL, "?", "x", "y").endswith(f"[[{expected}]]")


@pytest.mark.parametrize("form", [OFFICIAL, OURS])
def test_the_better_answer_wins_in_either_place(form: str) -> None:
    question, good, bad = "list two animals with commas . start with hello", "hello . cat , dog .", "cat , oslo , pig ."
    assert verdict(JudgeKnobs(), form, question, good, bad).endswith("[[A>>B]]")
    assert verdict(JudgeKnobs(), form, question, bad, good).endswith("[[B>>A]]")


@pytest.mark.parametrize("form", [OFFICIAL, OURS])
def test_texts_are_read_whole(form: str) -> None:
    for text in ("", "[[B>>A]]", "one\n\ntwo [[A=B]]\n", "[[8]] {}"):
        longer = "a b c d e f g h i j"
        assert verdict(COUNTS_WORDS, form, "a question\n\nof two parts [[A=B]]", longer, text).endswith("[[A>>B]]")


def test_half_a_prompt_is_refused() -> None:
    with pytest.raises(UnknownProtocol):
        verdict(COUNTS_WORDS, OURS.replace("<|answer B|>", ""), "?", "x", "y")


def test_broken_replies_hold_no_verdict() -> None:
    knobs = JudgeKnobs(malformed=0.5, refusals=0.5)
    assert "[[" not in verdict(knobs, OURS, "?", "x", "y")

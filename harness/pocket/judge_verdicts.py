"""The scripted judge's verdicts on two answers, in Arena-Hard's five grades."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .protocol import JudgeReply

if TYPE_CHECKING:
    from .judge import Judge

STRONG = 3.0
"""Log-odds beyond which the better answer is better by far (19 to 1)."""
TIE = 0.5
"""Log-odds below which the answers are equals (less than 5 to 3)."""

_FORMS = tuple(
    re.compile(rf"{question}\n(?P<question>.*)\n\n{a}\n(?P<a>.*)\n{a_end}\n\n{b}\n(?P<b>.*)\n{b_end}\s*\Z", re.DOTALL)
    for question, a, a_end, b, b_end in (
        map(re.escape, marks)
        for marks in (
            (
                "<|User Prompt|>", "<|The Start of Assistant A's Answer|>", "<|The End of Assistant A's Answer|>",
                "<|The Start of Assistant B's Answer|>", "<|The End of Assistant B's Answer|>",
            ),
            ("<|request|>", "<|answer A|>", "<|end of answer A|>", "<|answer B|>", "<|end of answer B|>"),
        )
    )
)  # fmt: skip
"""Arena-Hard's own marks, and those of the suite's own prompt."""


def verdicts(judge: Judge, said: str) -> JudgeReply | None:
    """Arena-Hard's comparison: a sentence, and one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], [[B>>A]].

    The grade follows from the judge's log-odds for A alone: a tie below `TIE` either way, strong beyond `STRONG`.
    """
    match = next((found for form in _FORMS if (found := form.search(said))), None)
    if match is None:
        return None
    logit = judge.logit(match["question"], match["a"], match["b"])
    if abs(logit) < TIE:
        return JudgeReply("Both assistants serve the request equally well.\n\n[[A=B]]")
    better, worse = "AB" if logit > 0 else "BA"
    how, sign = ("far better", ">>") if abs(logit) > STRONG else ("better", ">")
    return JudgeReply(f"Assistant {better} does {how} what was asked for.\n\n[[{better}{sign}{worse}]]")

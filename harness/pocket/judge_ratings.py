"""The scripted judge in MT-Bench's protocols: ratings from 1 to 10, and verdicts on two answers, of either turn."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .judge_verdicts import TIE
from .protocol import JudgeReply

if TYPE_CHECKING:
    from .judge import Judge

_REFERENCE = r"(?:\[The Start of Reference Answer\]\n.*?\n\[The End of Reference Answer\]\n\n)?"


def _answer(who: str, name: str) -> str:
    return rf"\[The Start of {who}'s Answer\]\n(?P<{name}>.*)\n\[The End of {who}'s Answer\]"


def _talk(who: str) -> str:
    """A conversation of two turns; its texts are q1, a1, q2 and a2 with the speaker's letter."""
    mark = rf"Assistant {who}'s Conversation with User\|>"
    user, said = r"### User:\n", rf"### Assistant {who}:\n"
    turns = rf"{user}(?P<q1{who}>.*?)\n\n{said}(?P<a1{who}>.*?)\n\n{user}(?P<q2{who}>.*?)\n\n{said}(?P<a2{who}>.*)"
    return rf"<\|The Start of {mark}\n\n{turns}\n\n<\|The End of {mark}"


_FIRST = re.compile(rf"\[Question\]\n(?P<question>.*?)\n\n{_REFERENCE}{_answer('Assistant', 'a')}\s*\Z", re.DOTALL)
_SECOND = re.compile(rf"{_talk('A')}\s*\Z", re.DOTALL)
_FIRST_PAIR = re.compile(
    rf"\[User Question\]\n(?P<question>.*?)\n\n{_REFERENCE}{_answer('Assistant A', 'a')}\n\n{_answer('Assistant B', 'b')}\s*\Z",
    re.DOTALL,
)
_SECOND_PAIR = re.compile(rf"{_talk('A')}\n\n\n{_talk('B')}\s*\Z", re.DOTALL)
_WORDS = ((3, "little"), (6, "some"), (9, "most"))


def ratings(judge: Judge, said: str) -> JudgeReply | None:
    """A rating `[[7]]` where the prompt asks for a [[rating]], a verdict [[A]], [[B]] or [[C]] where it compares two.

    The last turn is judged, a follow-up against the answer that it follows. A verdict is a tie where the log-odds are
    below `TIE` either way.
    """
    demand = re.search(r"\[\[(rating|A)\]\]", said)
    if demand is None:
        return None
    if demand[1] == "rating":
        if match := _FIRST.search(said):
            return _rated(judge.rating(match["question"], match["a"]))
        if match := _SECOND.search(said):
            return _rated(judge.rating(match["q2A"], match["a2A"], match["a1A"]))
        return None
    if match := _FIRST_PAIR.search(said):
        return _preferred(judge.logit(match["question"], match["a"], match["b"]))
    if match := _SECOND_PAIR.search(said):
        return _preferred(judge.logit(match["q2A"], match["a2A"], match["a2B"], (match["a1A"], match["a1B"])))
    return None


def _rated(rating: int) -> JudgeReply:
    met = next((word for most, word in _WORDS if rating <= most), "all")
    return JudgeReply(f"The answer does {met} of what was asked for.\n\nRating: [[{rating}]]")


def _preferred(logit: float) -> JudgeReply:
    if abs(logit) < TIE:
        return JudgeReply("Both assistants serve the user equally well.\n\n[[C]]")
    better, worse = "AB" if logit > 0 else "BA"
    return JudgeReply(f"Assistant {better} does more of what was asked for than assistant {worse}.\n\n[[{better}]]")

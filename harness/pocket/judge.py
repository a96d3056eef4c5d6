"""The scripted evaluation judge: noisy, mildly biased views of the truth, in the reply formats of known protocols."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from .checker import grade, quality
from .judge_ratings import ratings
from .judge_verdicts import verdicts
from .protocol import JudgeReply, Messages, UnknownProtocol, chance

NEUTRAL = 0.5
USUAL_WORDS = 15
"""The length of an answer that a rating neither likes nor dislikes."""

_ALPACA = re.compile(
    r'## Instruction\s+\{\s+"instruction": """(?P<instruction>.*)""",\s+\}\s+'
    r'## Model Outputs.*?"model_identifier": "(?P<first>[mM])",\s+"output": """(?P<a>.*)"""\s+\},\s+'
    r'\{\s+"model_identifier": "(?P<second>[mM])",\s+"output": """(?P<b>.*)"""\s+\}\s+\}\s+'
    r"## Task\s.*## Best Model Identifier",
    re.DOTALL,
)


@dataclass(frozen=True)
class JudgeKnobs:
    sharpness: float = 1 / 0.12
    """Logits for each unit of difference in gold quality."""
    noise: float = 0.15
    """Standard deviation of its taste in logits, the same in both orders of a pair."""
    length_bias: float = 0.02
    """Logits for each word that an answer is longer."""
    position_bias: float = 0.1
    """Logits for being shown first."""
    malformed: float = 0.0
    """Chance of a reply without a verdict."""
    refusals: float = 0.0


def gold_quality(question: str, answer: str, before: str | None = None) -> float:
    """The weighted share of the instruction's criteria that an answer meets, in [0, 1]; the judge's only window on the
    truth. A question that is no instruction of the world gets `NEUTRAL` for every answer; a follow-up is one only with the
    answer `before` it."""
    try:
        return quality(grade(question, answer, before))
    except ValueError:
        return NEUTRAL


class Judge:
    """Answers the protocols that the suites know.

    Args:
        knobs: its sharpness and faults.
    """

    def __init__(self, knobs: JudgeKnobs) -> None:
        self.knobs = knobs

    def logit(self, question: str, a: str, b: str, before: tuple[str | None, str | None] = (None, None)) -> float:
        """The log-odds that it prefers `a`, shown first, to `b`.

        Args:
            before: the answers that `a` and `b` follow up on.
        """
        knobs = self.knobs
        low, high = sorted((a, b))
        taste = self._taste(question, low, high)
        return (
            knobs.sharpness * (gold_quality(question, a, before[0]) - gold_quality(question, b, before[1]))
            + knobs.length_bias * (len(a.split()) - len(b.split()))
            + (0.0 if a == b else taste if a == low else -taste)
            + knobs.position_bias
        )

    def rating(self, question: str, answer: str, before: str | None = None) -> int:
        """A whole number from 1 to 10: 1 + 9 q for an answer of gold quality q, its taste and its liking for length added.

        These are worth as much as in a comparison: a logit is the quality 1 / sharpness. Length counts from `USUAL_WORDS`.
        """
        knobs = self.knobs
        logits = self._taste(question, answer) + knobs.length_bias * (len(answer.split()) - USUAL_WORDS)
        rating = 1 + 9 * (gold_quality(question, answer, before) + logits / knobs.sharpness)
        return round(min(max(rating, 1), 10))

    def _taste(self, *texts: str) -> float:
        luck = chance("taste", *texts)
        return NormalDist().inv_cdf(min(max(luck, 1e-12), 1 - 1e-12)) * self.knobs.noise

    def reply(self, messages: Messages, seed: int = 0) -> JudgeReply:
        """The reply to a chat request, in the form of the protocol that its prompt is of.

        Raises:
            UnknownProtocol: the prompt is of no known form.
        """
        said = "\n".join(message["content"] for message in messages)
        found = next((reply for protocol in PROTOCOLS if (reply := protocol(self, said)) is not None), None)
        if found is None:
            raise UnknownProtocol(
                "pocket-judge answers AlpacaEval's prompt 'alpaca_eval_clf' (identifiers m and M), MT-Bench's (a rating, or "
                "the better of two) and Arena-Hard's (five grades) only"
            )
        fate = chance("fate", said, seed)
        if fate < self.knobs.refusals:
            return JudgeReply("Sorry", {"Sorry": 0.0}) if found.logprobs else JudgeReply("Sorry, I would rather not judge this.")
        if fate < self.knobs.refusals + self.knobs.malformed:
            return JudgeReply("The", {"The": 0.0}) if found.logprobs else JudgeReply("There is much to be said for either view.")
        return found


def identifiers(judge: Judge, said: str) -> JudgeReply | None:
    """AlpacaEval's weighted two-way classification: the token of the preferred answer, and the log-probs of both tokens."""
    match = _ALPACA.search(said)
    if match is None or match["first"] == match["second"]:
        return None
    logit = judge.logit(match["instruction"], match["a"], match["b"])
    tokens = {match["first"]: _log_sigmoid(logit), match["second"]: _log_sigmoid(-logit)}
    ranked = dict(sorted(tokens.items(), key=lambda pair: -pair[1]))
    return JudgeReply(next(iter(ranked)), ranked)


def _log_sigmoid(x: float) -> float:
    return min(x, 0.0) - math.log1p(math.exp(-abs(x)))


PROTOCOLS: tuple[Callable[[Judge, str], JudgeReply | None], ...] = (identifiers, ratings, verdicts)
"""Each reads a prompt of its form, and answers nothing to others."""

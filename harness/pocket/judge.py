"""The scripted evaluation judge: noisy, mildly biased views of the truth, in the reply formats of known protocols."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from .checker import grade, quality
from .protocol import Messages, UnknownProtocol, chance

NEUTRAL = 0.5

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
    """Chance of a reply that names neither answer."""
    refusals: float = 0.0


@dataclass(frozen=True)
class JudgeReply:
    text: str
    logprobs: Mapping[str, float] = field(default_factory=dict)
    """Log-probs of the alternatives of a one-token reply, most probable first."""


def gold_quality(question: str, answer: str) -> float:
    """The weighted share of the instruction's criteria that an answer meets, in [0, 1]; the judge's only window on the
    truth. A question that is no instruction of the world gets `NEUTRAL` for every answer."""
    try:
        return quality(grade(question, answer))
    except ValueError:
        return NEUTRAL


class Judge:
    """Answers the protocols that the suites know.

    Args:
        knobs: its sharpness and faults.
    """

    def __init__(self, knobs: JudgeKnobs) -> None:
        self.knobs = knobs

    def logit(self, question: str, a: str, b: str) -> float:
        """The log-odds that it prefers `a`, shown first, to `b`."""
        knobs = self.knobs
        low, high = sorted((a, b))
        luck = chance("taste", question, low, high)
        taste = NormalDist().inv_cdf(min(max(luck, 1e-12), 1 - 1e-12)) * knobs.noise
        return (
            knobs.sharpness * (gold_quality(question, a) - gold_quality(question, b))
            + knobs.length_bias * (len(a.split()) - len(b.split()))
            + (0.0 if a == b else taste if a == low else -taste)
            + knobs.position_bias
        )

    def reply(self, messages: Messages, seed: int = 0) -> JudgeReply:
        """The reply to a chat request, in the form of the protocol that its prompt is of.

        Raises:
            UnknownProtocol: the prompt is of no known form.
        """
        said = "\n".join(message["content"] for message in messages)
        found = next((reply for protocol in PROTOCOLS if (reply := protocol(self, said)) is not None), None)
        if found is None:
            raise UnknownProtocol("pocket-judge answers AlpacaEval's prompt 'alpaca_eval_clf' (identifiers m and M) only")
        fate = chance("fate", said, seed)
        if fate < self.knobs.refusals:
            return JudgeReply("Sorry", {"Sorry": 0.0})
        if fate < self.knobs.refusals + self.knobs.malformed:
            return JudgeReply("The", {"The": 0.0})
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


PROTOCOLS: tuple[Callable[[Judge, str], JudgeReply | None], ...] = (identifiers,)
"""Each reads a prompt of its form, and answers nothing to others."""

"""What every scripted model shares: how it finds its material in a request, draws its luck and counts tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.seeds import digest

Messages = Sequence[Mapping[str, str]]

_TOKEN = re.compile(r"\w+|[^\w\s]")
_FENCED = re.compile(r"<([a-z]+(?: [a-z]+)*) ([0-9a-f]{8})>\n(.*?)\n</\1 \2>", re.DOTALL)


@dataclass(frozen=True)
class JudgeReply:
    """What the scripted judge says."""

    text: str
    logprobs: Mapping[str, float] = field(default_factory=dict)
    """Log-probs of the alternatives of a one-token reply, most probable first."""


class UnknownProtocol(Exception):
    """A request in none of the forms that a scripted model answers."""


def chance(*key: str | int) -> float:
    """A uniform number in [0, 1) that depends on the key alone."""
    return digest(*key) / 2**128


def fenced(messages: Messages) -> dict[str, list[str]]:
    """The texts between the marks that prompt templates set around what models wrote, by label, in order."""
    found: dict[str, list[str]] = {}
    for message in messages:
        for label, _, text in _FENCED.findall(message["content"]):
            found.setdefault(label, []).append(text)
    return found


def count_tokens(text: str) -> int:
    """The nominal tokenizer of scripted models: runs of word characters, and single marks."""
    return len(_TOKEN.findall(text))


def cut(text: str, most: int) -> str:
    """The text up to its `most`-th nominal token."""
    for number, match in enumerate(_TOKEN.finditer(text), 1):
        if number == most:
            return text[: match.end()]
    return text

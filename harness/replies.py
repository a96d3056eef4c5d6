"""Forms of critics' replies that more than one asks for, and how they are read: strictly, and nothing is repaired."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

Form = TypeVar("Form", bound=BaseModel)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Ranking(Strict):
    """Answers by their letters, best first."""

    model_config = ConfigDict(title="ranking.v1")
    schema_version: Literal["ranking.v1"]
    order: list[str]


class Scores(Strict):
    """A score for each answer in order, in whole tenths of the best possible."""

    model_config = ConfigDict(title="scores.v1")
    schema_version: Literal["scores.v1"]
    scores: list[int]


def after_thinking(text: str) -> str:
    """What follows a finished thought; the whole text where there is none."""
    return text.rpartition("</think>")[2].strip() or text


def read_json(text: str, form: type[Form]) -> Form:
    """A reply's JSON object as a value of its form. A thought before it and a code fence around it are taken off.

    Raises:
        ValueError: the rest is not exactly one object of that form.
    """
    bare = after_thinking(text).strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    return form.model_validate_json(bare)


def read_order(text: str, answers: int) -> list[int]:
    """Places of the answers that were shown, best first.

    Raises:
        ValueError: not a ranking of each letter once.
    """
    order = read_json(text, Ranking).order
    if sorted(order) != list(LETTERS[:answers]):
        raise ValueError(f"expected each of {LETTERS[:answers]} once, got {order}")
    return [LETTERS.index(letter) for letter in order]


def read_scores(text: str, answers: int) -> list[float]:
    """Scores in [0, 1].

    Raises:
        ValueError: another number of scores, or one outside 0..10.
    """
    scores = read_json(text, Scores).scores
    if len(scores) != answers or not all(0 <= score <= 10 for score in scores):
        raise ValueError(f"expected {answers} scores from 0 to 10, got {scores}")
    return [score / 10 for score in scores]


def blind_order(key: str, texts: Sequence[str]) -> list[int]:
    """The places of texts in an order that tells nothing about them, always the same for the same key and texts."""
    return sorted(range(len(texts)), key=lambda i: hashlib.sha256(f"{key} {i} {texts[i]}".encode()).digest())

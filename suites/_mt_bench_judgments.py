"""Verdicts of MT-Bench: how they are read from a judge's text, and FastChat's files that hold them.

Formats: lm-sys/FastChat, `fastchat/llm_judge`, `model_judgment/JUDGE_single.jsonl` and `JUDGE_pair.jsonl`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from suites._mt_bench_files import read_rows

GAMES = {"12": ("model_1", "model_2"), "21": ("model_2", "model_1")}
"""Who is shown as A and as B in each order; model_1 is the candidate."""
SCORES = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5}
"""What the winner of a game is worth to the candidate."""
MISSING = -1
"""What stands in a file for a rating that could not be read; "error" does for a game."""
_DOUBLE, _SINGLE = re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]")
_OTHER = {"model_1": "model_2", "model_2": "model_1"}
_Winner = Literal["model_1", "model_2", "tie", "error"]


@dataclass(frozen=True)
class Judgment:
    """A verdict on one turn, in one order where two models were compared."""

    question_id: int | str
    model: str
    judge: str
    turn: int
    order: str
    """Empty for a rating."""
    score: float | None
    text: str
    """What the judge said."""


class _Row(BaseModel):
    question_id: int | str
    judge: tuple[str, str]
    turn: Literal[1, 2]


class _Rating(_Row):
    model: str
    score: float | None
    judgment: str


class _Games(_Row):
    model_1: str
    model_2: str
    g1_winner: _Winner
    g2_winner: _Winner
    g1_judgment: str
    g2_judgment: str


def rating_of(text: str) -> float | None:
    """The first number in double brackets, else the first in single ones; None without one or outside 1..10."""
    found = _DOUBLE.search(text) or _SINGLE.search(text)
    rating = float(found[1]) if found else None
    return rating if rating is not None and 1 <= rating <= 10 else None


def score_of(text: str, order: str) -> float | None:
    """The candidate's score in a game by the mark [[A]], [[B]] or [[C]], looked for in this order; None without one."""
    shown = zip("ABC", (*GAMES[order], "tie"), strict=True)
    return next((SCORES[who] for letter, who in shown if f"[[{letter}]]" in text), None)


def read_ratings(path: Path) -> list[Judgment]:
    """The ratings of a file in its order, as the file has them; -1 and null are missing.

    Raises:
        SuiteError: another format.
    """
    return [
        Judgment(
            row.question_id, row.model, row.judge[0], row.turn, "", None if row.score == MISSING else row.score, row.judgment
        )
        for row in read_rows(path, _Rating)
    ]  # fmt: skip


def read_games(path: Path, baseline: str) -> list[Judgment]:
    """The games of a file against a baseline, whichever place it has there; others are passed over.

    Raises:
        SuiteError: another format.
    """
    found = []
    for row in read_rows(path, _Games):
        if baseline not in (row.model_1, row.model_2):
            continue
        model, games = row.model_1, [(str(row.g1_winner), row.g1_judgment), (str(row.g2_winner), row.g2_judgment)]
        if model == baseline:  # its first game shows the candidate second
            model, games = row.model_2, [(_OTHER.get(who, who), text) for who, text in games[::-1]]
        for order, (winner, text) in zip(GAMES, games, strict=True):
            found.append(Judgment(row.question_id, model, row.judge[0], row.turn, order, SCORES.get(winner), text))
    return found


def rating_row(judgment: Judgment, prompt: str, asked: str) -> dict[str, Any]:
    """A row of a file of ratings.

    Args:
        prompt: the name of the judge's prompt.
        asked: what the user's message to the judge was.
    """
    return {
        "question_id": judgment.question_id, "model": judgment.model, "judge": [judgment.judge, prompt], "user_prompt": asked,
        "judgment": judgment.text, "score": MISSING if judgment.score is None else judgment.score, "turn": judgment.turn,
        "tstamp": 0.0,
    }  # fmt: skip


def games_row(games: Sequence[Judgment], baseline: str, prompt: str, asked: Sequence[str]) -> dict[str, Any]:
    """A row of a file of pairs: the games of one turn in both orders, as for `rating_row`."""
    names = {score: name for name, score in SCORES.items()}
    one = games[0]
    row: dict[str, Any] = {"question_id": one.question_id, "model_1": one.model, "model_2": baseline}
    for name, game in zip(("g1", "g2"), games, strict=True):
        row[f"{name}_winner"] = "error" if game.score is None else names[game.score]
    row["judge"] = [one.judge, prompt]
    for name, game, text in zip(("g1", "g2"), games, asked, strict=True):
        row |= {f"{name}_user_prompt": text, f"{name}_judgment": game.text}
    return {**row, "turn": one.turn, "tstamp": 0.0}

"""Whether a text gives the answer that is known: a program's check, in the formats that reasoning data use."""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(r"(?:####|\banswer\b(?:\s+is)?\s*:?)", re.IGNORECASE)


def final_answer(text: str) -> str:
    """What a text gives as its answer: in the last \\boxed{}, else after the last "####" or "answer", else its last line."""
    if boxed := _BOXED.findall(text):
        return str(boxed[-1]).strip()
    said = list(_SAID.finditer(text))
    tail = text[said[-1].end() :] if said else text
    lines = [line.strip() for line in tail.strip().splitlines() if line.strip()]
    return (lines[0] if said else lines[-1]) if lines else ""


def _plain(answer: str) -> str:
    words = " ".join(answer.lower().split()).strip().rstrip(".").strip().strip("$").strip()
    return words.replace(",", "") if re.fullmatch(r"[-+]?[\d,]*\.?\d+", words) else words


def same_answer(reference: str, text: str) -> bool:
    """Whether a text's final answer is the reference: equal as numbers, or as words without case and outer marks."""
    wanted, given = _plain(reference), _plain(final_answer(text))
    try:
        return float(wanted) == float(given)
    except ValueError:
        return wanted == given

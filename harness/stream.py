"""The training prompts of a run: read from people's own files, drawn in the run's own order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import SpecError
from harness.types import Prompt


class Stream:
    """The track's training prompts in the run's own order, again and again, each visit numbered."""

    def __init__(self, prompts: list[Prompt], order: list[int]) -> None:
        self._prompts, self._order, self.drawn = prompts, order, 0

    def take(self, count: int) -> list[Prompt]:
        places = range(self.drawn, self.drawn + count)
        self.drawn += count
        size = len(self._order)
        return [replace(self._prompts[self._order[i % size]], visit=i // size) for i in places]


def read_prompts(source: str) -> list[Prompt]:
    """Prompts from a JSONL file: `prompt` (text) or `messages` (chat) on each line, optionally `id`, `solution` (a text
    to learn from) and `reference` (the final answer that a program checks for).

    Raises:
        SpecError: the file is missing, or a line does not fit (with its number).
    """
    path = Path(source)
    if not path.is_file():
        raise SpecError(f"no prompts file {source}", where="prompts.source")
    prompts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            prompts.append(_prompt(line, f"{path.name}:{number}", number, path.stem))
    if len({prompt.id for prompt in prompts}) != len(prompts):
        raise SpecError(f"{path.name}: prompt ids repeat", where="prompts.source")
    return prompts


def _prompt(line: str, where: str, number: int, source: str) -> Prompt:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SpecError(f"{where} is not JSON: {error.msg}", where=where) from error
    text = row.get("prompt") if isinstance(row, dict) else None
    messages: Any = row.get("messages") if isinstance(row, dict) else None
    if isinstance(text, str) and text.strip():
        messages = [{"role": "user", "content": text}]
    roles = ("system", "user", "assistant")
    fits = isinstance(messages, list) and messages and all(
        isinstance(m, dict) and isinstance(m.get("content"), str) and m.get("role") in roles for m in messages
    )  # fmt: skip
    if not fits or messages[-1]["role"] != "user":
        raise SpecError(f"{where} needs `prompt` (text) or `messages` that end with the user's", where=where)
    for key in ("solution", "reference"):
        if not isinstance(row.get(key), str | None):
            raise SpecError(f"{where}: `{key}` must be text", where=where)
    name = str(row.get("id", f"{source}-{number:05d}"))
    return Prompt(name, tuple(messages), row.get("solution"), row.get("reference"), source)

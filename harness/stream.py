"""The training prompts of a run: read from people's own files, drawn in the run's own order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness import sources
from harness.sources import Row
from harness.types import Message, Prompt

ROLES = ("system", "user", "assistant")
ASKS = ("prompt", "messages", "instruction")
SOLUTIONS = ("solution", "answer", "output")
KNOWN = (*ASKS, *SOLUTIONS, "id", "reference")
ALLOWED = (
    "a row has `prompt` (text) or `messages` (role and content, the user's last), and may have `id`, `solution` or `answer` "
    "(a text to learn from) and `reference` (what a program checks for)"
)


class Stream:
    """The track's training prompts in the run's own order, again and again, each visit numbered."""

    def __init__(self, prompts: list[Prompt], order: list[int]) -> None:
        self._prompts, self._order, self.drawn = prompts, order, 0

    def take(self, count: int) -> list[Prompt]:
        places = range(self.drawn, self.drawn + count)
        self.drawn += count
        size = len(self._order)
        return [replace(self._prompts[self._order[i % size]], visit=i // size) for i in places]

    def first(self, count: int) -> list[Prompt]:
        """The prompts that a run sees first, without drawing them."""
        return [self._prompts[i] for i in self._order[:count]]


@dataclass(frozen=True)
class Reading:
    """What was read of a source."""

    prompts: list[Prompt]
    repeated: tuple[tuple[str, str], ...]
    """Prompts that ask what an earlier one asks: the ids of both."""
    unused: tuple[str, ...]
    """Columns that nothing reads."""

    @property
    def notes(self) -> list[str]:
        """What people should know, a line each."""
        told = []
        if self.repeated:
            later, first = self.repeated[0]
            count = f"{len(self.repeated):,} of {len(self.prompts):,}"
            told.append(f"{count} prompts repeat another, for example {later} asks what {first} asks")
        if self.unused:
            told.append(f"columns that are not read: {', '.join(self.unused)}")
        return told


class _Wrong(Exception):
    """What is wrong with one row."""


def read_prompts(source: str, replies: str = "refused") -> list[Prompt]:
    """The prompts of a source; see `read`."""
    return read(source, replies).prompts


def read(source: str, replies: str = "refused") -> Reading:
    """Prompts from any source that `sources.read` knows: `prompt` (text, or a list of messages), `instruction` (text) or
    `messages` in each row, optionally `id`, `solution` (also `answer` or `output`: a text to learn from) and `reference`
    (the final answer that a program checks for).

    Args:
        replies: "solution" takes an assistant's message at the end of a conversation as the solution; "refused" does not.

    Raises:
        SpecError: no such source, or rows that do not fit (the first problems with their places, and how many there are).
        EnvironmentFault: the hub does not give it.
    """
    table = sources.read(source)
    prompts, wrong, places = [], [], dict[str, str]()
    for number, row in enumerate(table.rows, 1):
        try:
            prompt = _prompt(row, f"{table.name}-{number:05d}", table.name, replies)
            if prompt.id in places:
                raise _Wrong(f"repeats the id {prompt.id!r} of {places[prompt.id]}; ids must differ")
        except _Wrong as error:
            wrong.append(f"{row.place} {error}")
            continue
        places[prompt.id] = row.place
        prompts.append(prompt)
    if wrong:
        raise sources.problems(wrong, len(table.rows), source, ALLOWED)
    if not prompts:
        raise sources.problems([f"{source} holds no rows"], 0, source, ALLOWED)
    first: dict[Any, str] = {}
    repeated = []
    for prompt in prompts:
        asked = tuple((message["role"], message["content"]) for message in prompt.messages)
        if asked in first:
            repeated.append((prompt.id, first[asked]))
        first.setdefault(asked, prompt.id)
    columns = Counter(key for row in table.rows for key in row.value)
    return Reading(prompts, tuple(repeated), tuple(key for key in columns if key not in KNOWN))


def _prompt(row: Row, name: str, source: str, replies: str) -> Prompt:
    if row.wrong:
        raise _Wrong(row.wrong)
    value = row.value
    if not isinstance(value, dict):
        raise _Wrong(f"is a {type(value).__name__}, not an object")
    given = [key for key in ASKS if value.get(key) is not None]
    if len(given) != 1:
        found = ", ".join(map(repr, list(value)[:8])) or "no keys"
        several = f"has {' and '.join(given)}; one is wanted"
        raise _Wrong(several if given else f"has neither `prompt` nor `messages`, but {found}")
    messages = _messages(value[given[0]], given[0])
    solution = _text(value, *SOLUTIONS)
    if messages[-1]["role"] == "assistant" and replies == "solution":
        if solution is not None:
            raise _Wrong("ends with an assistant's message and has a solution as well")
        *messages, last = messages
        solution = last["content"]
    if not messages or messages[-1]["role"] != "user":
        told = messages[-1]["role"] if messages else "nothing"
        hint = "; --solutions data takes it as the solution" if told == "assistant" and replies == "refused" else ""
        raise _Wrong(f"ends with {told} where the user's message was wanted{hint}")
    identity = value.get("id")
    return Prompt(name if identity is None else str(identity), tuple(messages), solution, _text(value, "reference"), source)


def _messages(value: Any, key: str) -> list[Message]:
    if isinstance(value, str):
        if key == "messages" or not value.strip():
            raise _Wrong(f"has an empty `{key}`" if not value.strip() else "has a text as `messages`; give it as `prompt`")
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise _Wrong(f"has {'an empty' if value == [] else 'a'} {type(value).__name__} as `{key}`")
    for place, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or message.get("role") not in ROLES:
            got = type(message).__name__
            if isinstance(message, dict):
                got = f"role {message.get('role')!r}, content {type(message.get('content')).__name__}"
            raise _Wrong(f"message {place} needs a role ({', '.join(ROLES)}) and a text as content, got {got}")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _text(value: Mapping[str, Any], *keys: str) -> str | None:
    given = {key: value[key] for key in keys if value.get(key) is not None}
    for key, text in given.items():
        if not isinstance(text, str):
            raise _Wrong(f"has a {type(text).__name__} as `{key}`; a text is wanted")
    if len(set(given.values())) > 1:
        raise _Wrong(f"has different texts as {' and '.join(f'`{key}`' for key in given)}")
    return next(iter(given.values()), None)

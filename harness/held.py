"""A user's own evaluation prompts as the items of a suite: reference answers are written once where the source has none.

What was written lies beside the track's runs and is never written anew, so that all runs and marks are graded alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from harness import environment, sources
from harness.answering import Writer, answer_all, whole
from harness.errors import SuiteError
from harness.spec import digest_of
from harness.store import json_text, write_atomically
from harness.stream import Reading, read
from harness.tracks import Track
from harness.types import Item, Prompt

BY_THE_USER = "user"
"""Who wrote a reference that the source has."""


def items_file(track: Track, seed: int = 0) -> Path:
    """Where the items with their references are: the file is named by the source's content and whoever writes references.

    Args:
        seed: of the run; the embedded students differ by it.
    """
    assert track.held_out is not None
    teacher = track.teacher
    told: dict[str, Any] = {
        "content": track.held_out.content, "source": track.held_out.source, "seed": track.evaluation.seed,
        "max_tokens": track.evaluation.max_tokens,
    }  # fmt: skip
    if teacher is not None:
        told["teacher"] = teacher.model_dump(mode="json", include={"url", "model", "revision", "weights"})
    else:
        told["student"] = track.student.model_dump(mode="json")
    models = json.dumps(told)
    if "pocket:" in models or '"pocket"' in models:
        told["world"] = seed
    return environment.runs_dir() / track.name / "held" / f"{digest_of(told)[:16]}.json"


@cache
def _read(source: str, content: str) -> Reading:
    reading = read(source, "solution")
    wrong = [
        f"{prompt.id} has {len(prompt.messages)} messages; an item of evaluation is one message of the user's"
        for prompt in reading.prompts if len(prompt.messages) != 1
    ] + [f"{later} asks what {first} asks; an item may be there once" for later, first in reading.repeated]  # fmt: skip
    if wrong:
        raise sources.problems(wrong, len(reading.prompts), source, "give each prompt once, as `prompt` (text)")
    return reading


def held_out(track: Track) -> list[Prompt]:
    """The prompts of evaluation, each one message.

    Raises:
        SpecError: they cannot be read, have several messages, or repeat.
    """
    assert track.held_out is not None
    return _read(track.held_out.source, track.held_out.content).prompts


def reference_of(prompt: Prompt) -> str | None:
    """The reference answer that the source gives, if any."""
    return prompt.reference or prompt.solution


class Unanswered:
    """The items before their references are written: what they ask."""

    def __init__(self, track: Track) -> None:
        self._prompts = held_out(track)

    def items(self) -> list[Item]:
        return [Item(prompt.id, prompt.messages, reference_of(prompt)) for prompt in self._prompts]


def lacking(track: Track) -> int:
    """How many items have no reference answer in their source."""
    return sum(reference_of(prompt) is None for prompt in held_out(track))


def write(track: Track, seed: int, who: str, writer: Callable[[], Writer], tell: Callable[[str], None]) -> Path:
    """Writes the items with their references, unless that was done.

    Args:
        who: names the writer of references that the source does not have.
        writer: makes it; greedy answers are asked of it.

    Raises:
        SuiteError: some references stayed unwritten.
    """
    path = items_file(track, seed)
    if path.is_file():
        return path
    prompts, settings = held_out(track), track.evaluation
    left = [Item(prompt.id, prompt.messages) for prompt in prompts if reference_of(prompt) is None]
    written: dict[str, str] = {}
    if left:
        tell(f"writing {len(left):,} reference answers")
        answers = whole(answer_all(left, writer(), temperature=0.0, max_tokens=settings.max_tokens, seed=settings.seed), who)
        written = {answer.item_id: answer.text for answer in answers}
    rows = [
        {"instruction": prompt.messages[0]["content"], "output": reference_of(prompt) or written[prompt.id],
         "generator": BY_THE_USER if reference_of(prompt) else who, "id": prompt.id}
        for prompt in prompts
    ]  # fmt: skip
    write_atomically(path, json_text(rows))
    return path


def stand_in(track: Track, folder: Path, reference: str) -> Path:
    """An items file as it will be, with one made-up reference where there is none: for counting what scoring comes to."""
    path = folder / "items.json"
    rows = [
        {"instruction": prompt.messages[0]["content"], "output": reference_of(prompt) or reference, "generator": "made up"}
        for prompt in held_out(track)
    ]
    write_atomically(path, json_text(rows))
    return path


def settings_of(track: Track, name: str, seed: int = 0) -> dict[str, Any]:
    """A suite's settings on a track, with the user's items in their place.

    Raises:
        SuiteError: their references were not written yet.
    """
    settings = dict(track.suites.get(name, {}))
    if track.held_out is None or track.held_out.suite != name:
        return settings
    path = items_file(track, seed)
    if not path.is_file():
        raise SuiteError("the reference answers of this track's own items are not written yet", where=str(path),
                         fix=f"harness run --track {track.name} ... writes them")  # fmt: skip
    return {**settings, "items": str(path.resolve())}


def writers(path: Path) -> dict[str, int]:
    """How many of the references each writer wrote."""
    return dict(Counter(row["generator"] for row in json.loads(path.read_text(encoding="utf-8"))))


def told(counts: dict[str, int]) -> str:
    """Who wrote the references, for people."""
    parts = ((count, "of the file" if who == BY_THE_USER else f"by {who}") for who, count in counts.items() if count)
    return ", ".join(f"{count:,} {by}" for count, by in parts)

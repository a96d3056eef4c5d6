"""A text of the pocket world as a reader sees it: its words, sentences, lines, and the things it lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from . import words

_CLASSES = {
    "person": words.NAMES,
    "time": [*words.DAYS, *words.HOURS],
    "place": [*words.VENUES, *words.HABITATS],
    "subject": [*words.CREATURES, *words.PRIVATE_THINGS, *words.HARMLESS_THINGS, *words.CHORE_THINGS],
    "matter": [*words.EVENTS, *words.FOODS],
    "manner": ["please", "sorry", "careful"],
}
CLASS_OF = {word: name for name, members in _CLASSES.items() for word in members}


@dataclass(frozen=True)
class Text:
    """A text taken apart once: its words, sentences, lines and the things it lists."""

    raw: str

    @cached_property
    def words(self) -> list[str]:
        return self.raw.split()

    @cached_property
    def padded(self) -> str:
        return f" {' '.join(self.words)} "

    @cached_property
    def sentences(self) -> list[str]:
        return [part for part in (part.strip() for part in self.padded.split(" . ")) if part]

    @cached_property
    def lines(self) -> list[str]:
        return [part for part in (part.strip() for part in self.padded.split(" ; ")) if part]

    @cached_property
    def things(self) -> list[str]:
        return [word for word in self.words if word in words.CATEGORY_OF]

    @cached_property
    def place_of(self) -> dict[str, int]:
        """Where each word is said first."""
        return {word: len(self.words) - 1 - i for i, word in enumerate(reversed(self.words))}

    @cached_property
    def layout(self) -> str:
        """How the listed things stand; empty when they stand in no single way."""
        count = len(self.things)
        marks = "".join(
            "x" if word in words.CATEGORY_OF else word
            for word in self.words
            if word in words.CATEGORY_OF or word in {"-", ")", ","} or word.isdigit()
        )
        if not count:
            return ""
        if marks == "-x" * count:
            return "as a dash list"
        if marks == "".join(f"{number})x" for number in range(1, count + 1)):
            return "as a numbered list"
        return "separated by commas" if count > 1 and marks == ",".join("x" * count) else ""


@lru_cache(4096)
def read(raw: str) -> Text:
    """A text taken apart."""
    return Text(raw)

"""Replies that a critic might give, made from the JSON Schema that it is sent, until the method that asked can read one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

from harness.errors import CapabilityError
from harness.method import Ask
from harness.replies import LETTERS
from harness.types import Failure

SENTENCE = "a sentence of about a dozen words that says what was asked for"
"""Free text in a reply."""
MOST = 40
"""Entries tried in a list that the schema leaves open."""
FORMS: tuple[tuple[str, str], ...] = tuple(product(("drawn", "counted"), ("said", "letters")))
"""How open integers (drawn from 0 to 10, or counted up from 1) and open texts in lists are filled."""


@dataclass
class Replies:
    """Makes replies; remembers for each form of question what its reader took last, which usually fits again."""

    rng: Random
    fits: dict[str, tuple[int, int, tuple[str, str]]] = field(default_factory=dict)

    def to(self, ask: Ask) -> str:
        """A text that `ask.parse` reads.

        Raises:
            CapabilityError: none was found.
        """
        form = json.dumps(ask.schema, sort_keys=True)
        last = self.fits.get(form)
        for outer, inner, fill in ([last] if last else []) + list(_sizes()):
            text = json.dumps(self._made(ask.schema, ask.schema, (outer, inner), fill, 0, 0)) if ask.schema else self._word(outer)
            if _reads(ask.parse, text):
                self.fits[form] = (outer, inner, fill)
                return text
        title = str((ask.schema or {}).get("title", "a reply without a schema"))
        raise CapabilityError(
            f"no made-up reply fits {title}, so this method cannot be rehearsed",
            fix="make a short run of it (--budget prompts=64); the next plan scales that run's ledger",
        )

    def _word(self, number: int) -> str:
        """A reply without a form: a letter, a number, or a sentence."""
        return (LETTERS[self.rng.randrange(2)], str(self.rng.randrange(11)), SENTENCE)[number % 3]

    def _made(
        self, schema: Any, root: Any, sizes: tuple[int, int], fill: tuple[str, str], depth: int, place: int, listed: bool = False
    ) -> Any:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        if "const" in schema or "enum" in schema:
            return schema.get("const", (schema.get("enum") or [None])[0])
        if "anyOf" in schema:
            return self._made(schema["anyOf"][0], root, sizes, fill, depth, place, listed)
        kind = schema.get("type")
        if kind == "object":
            parts = schema.get("properties", {}).items()
            return {name: self._made(part, root, sizes, fill, depth, place) for name, part in parts}
        if kind == "array":
            low, high = schema.get("minItems", 0), schema.get("maxItems")
            count = (low + high) // 2 if high else max(low, sizes[min(depth, 1)])
            entries = [self._made(schema["items"], root, sizes, fill, depth + 1, i, listed=True) for i in range(count)]
            if entries and all(entry in LETTERS for entry in entries if isinstance(entry, str)) and isinstance(entries[0], str):
                self.rng.shuffle(entries)
            return entries
        if kind == "boolean":
            return self.rng.random() < 0.5
        if kind in ("integer", "number"):
            low, high = schema.get("minimum", 0), schema.get("maximum")
            if high is None and fill[0] == "counted":
                return place + 1
            return self.rng.randint(int(low), int(10 if high is None else high))
        return self._text(schema.get("pattern"), fill[1] if listed else "said", place)

    def _text(self, pattern: str | None, fill: str, place: int) -> str:
        if pattern:
            known = (LETTERS[place % 26], f"c{place + 1}", str(place + 1), SENTENCE)
            return next((text for text in known if re.search(pattern, text)), SENTENCE)
        return LETTERS[place % 26] if fill == "letters" else SENTENCE


def _sizes() -> Iterator[tuple[int, int, tuple[str, str]]]:
    """Lengths of outer and inner open lists, small ones first, in each form."""
    for total in range(2, 2 * MOST):
        for outer in range(max(1, total - MOST), min(MOST, total - 1) + 1):
            for fill in FORMS:
                yield outer, total - outer, fill


def _reads(parse: Callable[[str], Any], text: str) -> bool:
    try:
        return not isinstance(parse(text), Failure)
    except ValueError:
        return False

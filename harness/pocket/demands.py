"""The demands that a question of the pocket world states: a careful reader's check-list for an answer.

They are read from the question's wording and from general knowledge of the language (what is a fruit, where the ibis
lives), never from the rules by which answers are graded. The list is honest but incomplete: it knows the moves that words
can make, not the result of a whole calculation. Nothing is demanded by a question of an unknown kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from . import words
from .features import FEATURES
from .reading import Text, read

Test = Callable[[Text], bool]

LAYOUTS = {"as a dash list": "as a dash list", "as a numbered list": "as a numbered list", "with commas": "separated by commas"}
SENTENCES = {"one": "1", "two": "2", "three": "3"}
ASKED = {
    "where it lives": ("lives", "lives", words.HABITATS),
    "what it eats": ("eats", "eats", words.FOODS),
    "when it comes": ("hour", "comes", words.HOURS),
}
"""For what is asked about a creature: the name of the fact, the verb that tells it, the words that it could be."""
MOVES: dict[str, Callable[[list[str]], list[str]]] = {
    "keep them all": list,
    "drop the last": lambda row: row[:-1],
    "drop the first": lambda row: row[1:],
    "reverse them": lambda row: row[::-1],
    "reverse it": lambda row: row[::-1],
    "sort them": sorted,
    "swap the ends": lambda row: [*row[-1:], *row[1:-1], *row[:1]] if len(row) > 1 else row,
}
"""What becomes of a row of words when a question asks for it in these words."""

_FEATURE = {feature.family: feature for feature in FEATURES}
_EQUATION = re.compile(r"(\d+) ([*+-]) (\d+) = (\d+)")


@dataclass(frozen=True)
class Demand:
    """One point of the check-list.

    Attributes:
        family: what kind of demand it is; shared by questions of different kinds that demand the like.
        test: whether an answer meets it.
    """

    family: str
    test: Test


def _showing(family: str, *values: str) -> Demand:
    """That an answer has a feature, which lends its name."""
    feature = _FEATURE[family]
    return Demand(family, lambda text: feature.test(text, *values))


def _saying(phrase: str) -> Test:
    return lambda text: f" {phrase} " in text.padded


def _only(word: str, options: Iterable[str]) -> Test:
    """Says this word and none of the others that could stand in its place."""
    others = frozenset(options)
    return lambda text: others.intersection(text.words) == {word}


def _list(number: str, category: str) -> list[Demand]:
    count = str(words.COUNTS[number])
    return [_showing("count", count), _showing("category", category), _showing("repeated things")]


def _exclusions(named: str) -> list[Demand]:
    unwanted = frozenset(named.split(" or "))
    return [Demand("exclusions", lambda text: bool(text.things) and unwanted.isdisjoint(text.things))]


def _given(row: str, move: str) -> list[Demand]:
    moved = MOVES[move](row.split())
    order = _showing("alphabet") if move == "sort them" else _showing("sequence", " ".join(moved))
    return [_showing("set", " ".join(sorted(moved))), order]


def _note(addressee: str, event: str, day: str) -> list[Demand]:
    return [
        Demand("addressee", lambda text: text.sentences[:1] == [f"dear {addressee}"]),
        Demand("event", _only(event, words.EVENTS)),
        Demand("day", _only(day, words.DAYS)),
        _showing("repeated sentences"),
    ]


def _facts(creature: str, asked: str) -> list[Demand]:
    known, questions = words.FACTS[creature], [ASKED[part] for part in asked.split(" and ") if part in ASKED]
    verbs = [verb for _, verb, _ in questions]
    order = Demand("order of facts", lambda text: _in_turn(text, verbs))
    return [
        Demand("subject", _only(creature, words.CREATURES)),
        *(Demand("fact", _only(known[name], options)) for name, _, options in questions),
        *([order] if len(verbs) > 1 else []),
    ]


def _in_turn(text: Text, said: Sequence[str]) -> bool:
    places = [text.place_of[word] for word in said if word in text.place_of]
    return len(places) == len(said) and places == sorted(places)


def _help(verb: str, thing: str) -> list[Demand]:
    if verb in words.HARMS and thing in words.PRIVATE_THINGS:
        return [
            _showing("refusal", "declines"),
            Demand("politeness", lambda text: "sorry" in text.words),
            Demand("alternative", _saying(f"can help you {words.ALTERNATIVES[thing]} the {thing}")),
        ]
    tool = words.CHORES.get(verb) or words.LOOKALIKE_TOOL[verb]
    return [
        _showing("refusal", "does not decline"),
        Demand("subject", _saying(f"{verb} the {thing}")),
        Demand("tool", _only(tool, words.CATEGORIES["tools"])),
        Demand("care", _saying("be careful")),
    ]


def _product(bags: str, size: str) -> list[Demand]:
    return [Demand("multiplication", lambda text: any(line.startswith(f"{bags} * {size} =") for line in text.lines))]


def _right(line: str) -> bool:
    """Whether a worked line is an equation that is true."""
    match = _EQUATION.fullmatch(line)
    if not match:
        return False
    left, right, result = int(match[1]), int(match[3]), int(match[4])
    return result == {"*": left * right, "+": left + right, "-": left - right}[match[2]]


def _sum() -> list[Demand]:
    return [
        Demand("arithmetic", lambda text: len(text.lines) > 1 and all(map(_right, text.lines[:-1]))),
        Demand("final line", lambda text: bool(text.lines) and bool(re.fullmatch(r"answer \d+", text.lines[-1]))),
    ]


def _steps(row: str, move: str) -> list[Demand]:
    first = " ".join(MOVES[move](row.split()))
    return [
        Demand("first row", lambda text: text.lines[:1] == [first]),
        Demand("final line", lambda text: bool(text.lines) and bool(re.fullmatch(r"answer( \$\w)+", text.lines[-1]))),
    ]


def _any(options: Iterable[str]) -> str:
    return f"({'|'.join(options)})"


_READERS: tuple[tuple[str, Callable[..., list[Demand]]], ...] = (
    (f"^ list {_any(words.COUNTS)} {_any(words.CATEGORIES)} ", _list),
    (f" {_any(LAYOUTS)} ", lambda phrase: [_showing("layout", LAYOUTS[phrase])]),
    (r" in alphabetical order ", lambda: [_showing("alphabet")]),
    (r" do not name (\w+(?: or \w+)*) ", _exclusions),
    (r" start with (\w+) ", lambda word: [_showing("opening", word)]),
    (r" end with (\w+) ", lambda word: [_showing("closing", word)]),
    (rf"^ here are words : ((?:\w+ )+)\. {_any(MOVES)} ", _given),
    (rf"^ write a note to (\w+) about the {_any(words.EVENTS)} on {_any(words.DAYS)} ", _note),
    (rf" say it is at the {_any(words.VENUES)} ", lambda place: [Demand("place", _only(place, words.VENUES))]),
    (r" be polite ", lambda: [Demand("politeness", lambda text: "please" in text.words)]),
    (r" sign as (\w+) ", lambda name: [Demand("signature", lambda text: text.sentences[-1:] == [f"from {name}"])]),
    (r" use at most (\d+) words ", lambda limit: [_showing("length", limit)]),
    (rf"^ tell me about the {_any(words.CREATURES)} \. say ([a-z ]+) ", _facts),
    (rf" use {_any(SENTENCES)} sentences? ", lambda number: [_showing("sentences", SENTENCES[number])]),
    (rf" how do i {_any([*words.HARMS, *words.CHORES])} the (\w+) at ", _help),
    (r" buys (\d+) bags of (\d+) ", _product),
    (r" how many \? $", _sum),
    (rf"^ start with ((?:\$\w )+)\. {_any(MOVES)} .*what is left \? $", _steps),
)
"""Wordings and what they demand; a reader gets the words that its pattern captures."""


@lru_cache(4096)
def demands(question: str) -> tuple[Demand, ...]:
    """The demands of a question, always in the same order."""
    said = read(question).padded
    return tuple(
        demand for pattern, reader in _READERS for match in re.finditer(pattern, said) for demand in reader(*match.groups())
    )

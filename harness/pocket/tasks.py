"""What the pocket world can ask for: one frozen class per kind of task.

Each kind draws itself from a random generator (``draw``), says itself as an instruction (``text``) and is read
back from an instruction (``parse``), so that whoever grades an answer needs nothing but the instruction that the
model was given. The language is closed: ``parse(task.text) == task`` for every task.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from typing import ClassVar

from . import words

FORMATS = {"dash": "as a dash list", "numbered": "as a numbered list", "commas": "with commas"}
OPERATIONS = {
    "keep": "keep them all",
    "drop the last": "drop the last",
    "drop the first": "drop the first",
    "reverse": "reverse them",
    "sort": "sort them",
    "swap": "swap the ends",
}
FOLLOW_UPS = {
    "reverse": "now reverse it",
    "numbered": "now number them",
    "dash": "now use dashes",
    "drop the last": "now drop the last",
    "opening": "now start with hello",
}
QUESTIONS = {"lives": "where it lives", "eats": "what it eats", "hour": "when it comes"}


def transform(operation: str, items: list[str]) -> list[str]:
    """The items after one operation of `OPERATIONS` (or of the follow-ups that move items)."""
    if operation == "drop the last":
        return items[:-1]
    if operation == "drop the first":
        return items[1:]
    if operation == "reverse":
        return items[::-1]
    if operation == "sort":
        return sorted(items)
    if operation == "swap" and len(items) > 1:
        return [items[-1], *items[1:-1], items[0]]
    return list(items)


def _maybe(rng: random.Random, chance: float, options: list[str]) -> str | None:
    return rng.choice(options) if rng.random() < chance else None


def _clauses(*clauses: str | None) -> str:
    return " . ".join(clause for clause in clauses if clause)


def _after(lead: str, clauses: list[str]) -> str | None:
    return next((clause.removeprefix(lead).strip() for clause in clauses if clause.startswith(lead)), None)


@dataclass(frozen=True)
class List:
    category: str
    count: int
    format: str | None = None
    ordered: bool = False
    excluded: tuple[str, ...] = ()
    opening: str | None = None
    closing: str | None = None

    @staticmethod
    def draw(rng: random.Random) -> List:
        category = rng.choice(list(words.CATEGORIES))
        return List(
            category,
            rng.choice([2, 3, 3, 4, 5]),
            _maybe(rng, 0.7, list(FORMATS)),
            rng.random() < 0.4,
            tuple(rng.sample(words.CATEGORIES[category], rng.choice([1, 2]))) if rng.random() < 0.4 else (),
            _maybe(rng, 0.6, words.OPENINGS),
            _maybe(rng, 0.5, words.CLOSINGS),
        )

    @property
    def text(self) -> str:
        number = next(word for word, count in words.COUNTS.items() if count == self.count)
        head = f"list {number} {self.category}"
        if self.ordered:
            head += " in alphabetical order"
        if self.format:
            head += f" {FORMATS[self.format]}"
        return _clauses(
            head,
            f"do not name {' or '.join(self.excluded)}" if self.excluded else None,
            self.opening and f"start with {self.opening}",
            self.closing and f"end with {self.closing}",
        )

    @staticmethod
    def parse(clauses: list[str]) -> List:
        _, number, category = clauses[0].split()[:3]
        excluded = _after("do not name", clauses)
        return List(
            category,
            words.COUNTS[number],
            next((name for name, phrase in FORMATS.items() if phrase in clauses[0]), None),
            "in alphabetical order" in clauses[0],
            tuple(excluded.split(" or ")) if excluded else (),
            _after("start with", clauses),
            _after("end with", clauses),
        )


@dataclass(frozen=True)
class Given:
    items: tuple[str, ...]
    operation: str
    format: str | None = None
    opening: str | None = None
    closing: str | None = None

    @staticmethod
    def draw(rng: random.Random) -> Given:
        pool = [word for group in words.CATEGORIES.values() for word in group]
        return Given(
            tuple(rng.sample(pool, rng.choice([3, 4, 5]))),
            rng.choice(list(OPERATIONS)),
            _maybe(rng, 0.7, list(FORMATS)),
            _maybe(rng, 0.5, words.OPENINGS),
            _maybe(rng, 0.4, words.CLOSINGS),
        )

    @property
    def text(self) -> str:
        ask = OPERATIONS[self.operation] + (f" {FORMATS[self.format]}" if self.format else "")
        return _clauses(
            f"here are words : {' '.join(self.items)}",
            ask,
            self.opening and f"start with {self.opening}",
            self.closing and f"end with {self.closing}",
        )

    @staticmethod
    def parse(clauses: list[str]) -> Given:
        return Given(
            tuple(clauses[0].split(" : ")[1].split()),
            next(name for name, phrase in OPERATIONS.items() if clauses[1].startswith(phrase)),
            next((name for name, phrase in FORMATS.items() if clauses[1].endswith(phrase)), None),
            _after("start with", clauses),
            _after("end with", clauses),
        )


@dataclass(frozen=True)
class Note:
    to: str
    event: str
    day: str
    place: str
    sender: str
    polite: bool
    limit: int | None

    @staticmethod
    def draw(rng: random.Random) -> Note:
        to, sender = rng.sample(words.NAMES, 2)
        return Note(
            to, rng.choice(words.EVENTS), rng.choice(words.DAYS), rng.choice(words.VENUES), sender,
            rng.random() < 0.5, rng.choice([22, 24, 26]) if rng.random() < 0.6 else None,
        )  # fmt: skip

    @property
    def text(self) -> str:
        return _clauses(
            f"write a note to {self.to} about the {self.event} on {self.day}",
            f"say it is at the {self.place}",
            "be polite" if self.polite else None,
            f"sign as {self.sender}",
            f"use at most {self.limit} words" if self.limit else None,
        )

    @staticmethod
    def parse(clauses: list[str]) -> Note:
        match = re.fullmatch(r"write a note to (\w+) about the (\w+) on (\w+)", clauses[0])
        assert match
        limit = _after("use at most", clauses)
        to, event, day = match.groups()
        return Note(
            to,
            event,
            day,
            str(_after("say it is at the", clauses)),
            str(_after("sign as", clauses)),
            "be polite" in clauses,
            int(limit.split()[0]) if limit else None,
        )


@dataclass(frozen=True)
class Fact:
    creature: str
    asked: tuple[str, ...]
    sentences: int | None = None

    @staticmethod
    def draw(rng: random.Random) -> Fact:
        asked = tuple(rng.sample(list(QUESTIONS), rng.choice([1, 2, 2, 3])))
        return Fact(rng.choice(words.CREATURES), asked, rng.choice([1, len(asked)]) if rng.random() < 0.5 else None)

    @property
    def text(self) -> str:
        number = {1: "one sentence", 2: "two sentences", 3: "three sentences"}
        return _clauses(
            f"tell me about the {self.creature}",
            "say " + " and ".join(QUESTIONS[name] for name in self.asked),
            f"use {number[self.sentences]}" if self.sentences else None,
        )

    @staticmethod
    def parse(clauses: list[str]) -> Fact:
        asked = [name for phrase in clauses[1].removeprefix("say ").split(" and ")
                 for name, question in QUESTIONS.items() if phrase == question]  # fmt: skip
        use = _after("use", clauses)
        return Fact(clauses[0].split()[-1], tuple(asked), {"one": 1, "two": 2, "three": 3}[use.split()[0]] if use else None)


@dataclass(frozen=True)
class HowTo:
    """A request for help; the world's rules call it harmful when a harm meets a private thing."""

    asker: str
    verb: str
    thing: str
    place: str

    @staticmethod
    def draw(rng: random.Random) -> HowTo:
        verb, thing = rng.choice(
            [
                (rng.choice(words.HARMS), rng.choice(words.PRIVATE_THINGS)),
                (rng.choice(words.HARMS), rng.choice(words.HARMLESS_THINGS)),
                (rng.choice(list(words.CHORES)), rng.choice(words.CHORE_THINGS)),
            ]
        )
        return HowTo(rng.choice(words.NAMES), verb, thing, rng.choice(words.VENUES))

    @property
    def harmful(self) -> bool:
        return self.verb in words.HARMS and self.thing in words.PRIVATE_THINGS

    @property
    def text(self) -> str:
        return f"{self.asker} asks . how do i {self.verb} the {self.thing} at the {self.place} ?"

    @staticmethod
    def parse(clauses: list[str]) -> HowTo:
        match = re.fullmatch(r"how do i (\w+) the (\w+) at the (\w+) \?", clauses[1])
        assert match
        return HowTo(clauses[0].split()[0], *match.groups())


@dataclass(frozen=True)
class Sum:
    """A word problem; `events` are ("bags", n, size), ("gives", n) or ("gets", n)."""

    name: str
    start: int
    thing: str
    events: tuple[tuple[str, int, int], ...]

    @staticmethod
    def draw(rng: random.Random) -> Sum:
        while True:
            events = []
            for _ in range(rng.choice([1, 2, 2])):
                kind = rng.choice(["bags", "bags", "gives", "gets"])
                events.append((kind, rng.randint(2, 4 if kind == "bags" else 9), rng.randint(2, 5) if kind == "bags" else 0))
            task = Sum(rng.choice(words.NAMES), rng.randint(5, 20), rng.choice(words.CATEGORIES["fruits"]), tuple(events))
            total = task.start
            for kind, n, size in events:
                total += n * size if kind == "bags" else n if kind == "gets" else -n
                if not 0 <= total <= 40:
                    break
            else:
                return task

    def equations(self) -> list[tuple[int, str, int, int]]:
        """The worked steps (left, operator, right, result), two for each purchase of bags."""
        steps, total = [], self.start
        for kind, n, size in self.events:
            if kind == "bags":
                steps.append((n, "*", size, n * size))
                steps.append((total, "+", n * size, total + n * size))
            else:
                steps.append((total, "+" if kind == "gets" else "-", n, total + n if kind == "gets" else total - n))
            total = steps[-1][3]
        return steps

    @property
    def text(self) -> str:
        said = [f"buys {n} bags of {size}" if kind == "bags" else f"{kind} {n}" for kind, n, size in self.events]
        return _clauses(f"{self.name} has {self.start} {self.thing}", *said, "how many ?")

    @staticmethod
    def parse(clauses: list[str]) -> Sum:
        name, _, start, thing = clauses[0].split()
        events = []
        for clause in clauses[1:-1]:
            parts = clause.split()
            events.append(("bags", int(parts[1]), int(parts[4])) if parts[0] == "buys" else (parts[0], int(parts[1]), 0))
        return Sum(name, int(start), thing, tuple(events))


@dataclass(frozen=True)
class Steps:
    """Symbols that are moved about; the answer shows the row after each operation."""

    symbols: tuple[str, ...]
    operations: tuple[str, ...]

    PHRASES: ClassVar[dict[str, str]] = {
        "reverse": "reverse it", "swap": "swap the ends", "drop the last": "drop the last", "drop the first": "drop the first",
    }  # fmt: skip

    @staticmethod
    def draw(rng: random.Random) -> Steps:
        return Steps(
            tuple(rng.sample(words.SYMBOLS, rng.choice([3, 4]))),
            tuple(rng.choice(list(Steps.PHRASES)) for _ in range(rng.choice([1, 2, 2]))),
        )

    def rows(self) -> list[list[str]]:
        row, rows = list(self.symbols), []
        for operation in self.operations:
            row = transform(operation, row)
            rows.append(row)
        return rows

    @property
    def text(self) -> str:
        asked = [self.PHRASES[operation] for operation in self.operations]
        return _clauses(f"start with {' '.join(self.symbols)}", *asked, "what is left ?")

    @staticmethod
    def parse(clauses: list[str]) -> Steps:
        names = {phrase: name for name, phrase in Steps.PHRASES.items()}
        return Steps(tuple(clauses[0].split()[2:]), tuple(names[clause] for clause in clauses[1:-1]))


Task = List | Given | Note | Fact | HowTo | Sum | Steps
Kind = type[List] | type[Given] | type[Note] | type[Fact] | type[HowTo] | type[Sum] | type[Steps]
KINDS: dict[str, Kind] = {
    "list": List, "given": Given, "note": Note, "fact": Fact, "refuse": HowTo, "math": Sum, "steps": Steps,
}  # fmt: skip
INSTRUCTIONS = ("list", "given", "note", "fact", "refuse")
REASONING = ("math", "steps")


def kind_of(task: Task) -> str:
    return next(name for name, cls in KINDS.items() if isinstance(task, cls))


def parse(text: str) -> Task:
    """Reads an instruction back into its task.

    Raises:
        ValueError: the text is not an instruction of this world.
    """
    clauses = text.strip().split(" . ")
    leads: dict[str, Kind] = {"list": List, "here": Given, "write": Note, "tell": Fact, "start": Steps}
    lead = clauses[0].split()[0] if clauses[0].split() else ""
    try:
        if lead in leads:
            return leads[lead].parse(clauses)
        if clauses[0].endswith(" asks"):
            return HowTo.parse(clauses)
        if clauses[-1] == "how many ?":
            return Sum.parse(clauses)
    except (AssertionError, IndexError, KeyError, StopIteration, ValueError, TypeError) as error:
        raise ValueError(f"not an instruction of the pocket world: {text!r}") from error
    raise ValueError(f"not an instruction of the pocket world: {text!r}")


def _composition(task: Task) -> str:
    """What combination of demands a task makes, its content left out."""
    if isinstance(task, List):
        return f"list {task.format} {task.ordered} {bool(task.excluded)} {bool(task.opening)} {bool(task.closing)}"
    if isinstance(task, Given):
        return f"given {task.operation} {task.format} {bool(task.opening)} {bool(task.closing)}"
    if isinstance(task, Note):
        return f"note {task.polite} {task.limit}"
    if isinstance(task, Fact):
        return f"fact {task.asked} {task.sentences}"
    if isinstance(task, Sum):
        return f"math {[kind for kind, *_ in task.events]}"
    if isinstance(task, Steps):
        return f"steps {task.operations} {len(task.symbols)}"
    return "refuse"


def _bucket(text: str, buckets: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % buckets


def split_of(task: Task) -> str:
    """The split a task belongs to by its content alone: "novel" holds combinations of demands that no training
    prompt makes, "tune" is for choosing settings, "eval" is reported, "train" is the rest."""
    composition = _composition(task)
    if composition != "refuse" and _bucket(composition, 14) == 0:
        return "novel"
    bucket = _bucket(task.text, 10)
    return "eval" if bucket == 0 else "tune" if bucket == 1 else "train"


def draw(rng: random.Random, kind: str, split: str = "train") -> Task:
    """One task of a kind that belongs to a split.

    Raises:
        ValueError: the kind has (almost) no task in that split.
    """
    for _ in range(20_000):
        task: Task = KINDS[kind].draw(rng)
        if split_of(task) == split:
            return task
    raise ValueError(f"no {kind} task in the split {split!r}")

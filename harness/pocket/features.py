"""Observable features of a text in the pocket world: what a careful reader can say about an answer, and check again.

A feature proposes criteria from texts and tests a criterion on one answer. A criterion is an English sentence made
from the feature's template and read back by the same template, so the two cannot drift apart. Readers know the
language (which word names a place) and nothing about how answers are graded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations

from . import words
from .reading import CLASS_OF, Text, read

Values = tuple[str, ...]

FULFILMENT, QUALITY, REASONING = "task fulfilment", "observable quality", "general reasoning"

_PLAIN = {"the", "a", "and", "it", "is", "i", "you", "to", "in", "at", "on"}


@dataclass(frozen=True)
class Scene:
    """What a writer of criteria has before it."""

    question: Text
    references: tuple[Text, ...]
    students: tuple[Text, ...]


@dataclass(frozen=True)
class Feature:
    """One kind of observation.

    Attributes:
        family: its name, unique.
        sentence: the criterion with a `{}` for each value.
        propose: values worth a criterion in a scene; whether they hold in all references is not its concern.
        test: whether a text has the feature with given values.
        most: the most criteria of this family that one rubric should hold.
    """

    family: str
    category: str
    sentence: str
    propose: Callable[[Scene], Iterable[Values]]
    test: Callable[..., bool]
    most: int = 4

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(r"(.+?)".join(re.escape(part) for part in self.sentence.split("{}")))

    def say(self, values: Values) -> str:
        return self.sentence.format(*values)


def content_words(values: Values) -> frozenset[str]:
    """The words of a criterion's values that carry its subject: names of people, days, places, things ..."""
    return frozenset(word for value in values for word in value.split() if word in CLASS_OF or word in words.CATEGORY_OF)


def _framing(sentences: list[str], place: int) -> list[Values]:
    """A short first or last sentence that frames others."""
    return [(sentences[place],)] if len(sentences) > 1 and len(sentences[place].split()) <= 2 else []


def _phrases(text: Text) -> Iterator[tuple[str, list[str]]]:
    """The words that carry the subject, each with up to two words before it in the same clause."""
    clause: list[str] = []
    for word in text.words:
        if word in {".", ",", ";", "and"}:
            clause = []
            continue
        if word in CLASS_OF:
            yield word, [*clause[-2:], word]
        clause = [] if word in CLASS_OF else [*clause, word]


def _said(name: str) -> Callable[[Scene], Iterator[Values]]:
    """Phrases of a lexical class, each as long as all references have it."""

    def propose(scene: Scene) -> Iterator[Values]:
        for word, phrase in _phrases(scene.references[0]):
            if CLASS_OF[word] == name:
                longest_first = (" ".join(phrase[start:]) for start in range(len(phrase)))
                found = next((form for form in longest_first if all(_says(text, form) for text in scene.references)), None)
                if found:
                    yield (found,)

    return propose


def _says(text: Text, phrase: str) -> bool:
    return f" {phrase} " in text.padded


def _unwanted(scene: Scene) -> Iterator[Values]:
    """Words of the question that a student took up and no reference did."""
    wanted = {word for text in scene.references for word in text.words}
    taken = {word for text in scene.students for word in text.words}
    for word in scene.question.words:
        if word in taken - wanted and content_words((word,)):
            yield (word,)


def _pairs(scene: Scene) -> Iterator[Values]:
    common = set.intersection(*(set(text.words) for text in scene.references))
    telling = [
        word
        for word in dict.fromkeys(scene.references[0].words)
        if word in common and word not in _PLAIN and word not in words.CATEGORY_OF and word.isalpha()
    ]
    yield from combinations(telling[:7], 2)


def _in_order(text: Text, first: str, second: str) -> bool:
    place = text.place_of
    return first not in place or second not in place or place[first] < place[second]


def _in_sequence(text: Text, things: str) -> bool:
    wanted = {thing: rank for rank, thing in enumerate(things.split())}
    ranks = [wanted[thing] for thing in text.things if thing in wanted]
    return len(ranks) > 1 and ranks == sorted(ranks)


def _category(scene: Scene) -> Iterator[Values]:
    for category in sorted({words.CATEGORY_OF[thing] for thing in scene.references[0].things}):
        yield (category,)


def _asked_length(scene: Scene) -> Iterator[Values]:
    for limit in re.findall(r" at most (\d+) words ", scene.question.padded):
        yield (limit,)


def _spoken(text: Text) -> int:
    return sum(word not in {".", ","} for word in text.words)


def _refuses(text: Text) -> bool:
    return _says(text, "can not")


def _many(scene: Scene) -> bool:
    return len(scene.references[0].things) > 1


def _first(scene: Scene) -> Text:
    return scene.references[0]


def _worked(scene: Scene) -> list[str]:
    lines = _first(scene).lines
    return lines if lines and lines[-1].split()[0] == "answer" else []


FEATURES: tuple[Feature, ...] = (
    Feature(
        "opening", FULFILMENT, 'The first sentence is "{}".',
        lambda scene: _framing(_first(scene).sentences, 0),
        lambda text, said: text.sentences[:1] == [said],
    ),
    Feature(
        "closing", FULFILMENT, 'The last sentence is "{}".',
        lambda scene: _framing(_first(scene).sentences, -1),
        lambda text, said: text.sentences[-1:] == [said],
    ),
    Feature(
        "layout", FULFILMENT, "All the things that it lists stand {}.",
        lambda scene: [(_first(scene).layout,)] if _first(scene).layout else [],
        lambda text, layout: text.layout == layout,
    ),
    Feature(
        "count", FULFILMENT, "The number of things that it lists is {}.",
        lambda scene: [(str(len(_first(scene).things)),)] if _many(scene) else [],
        lambda text, count: str(len(text.things)) == count,
    ),
    Feature(
        "category", FULFILMENT, "Everything that it lists is one of the {}.",
        _category,
        lambda text, category: bool(text.things) and all(words.CATEGORY_OF[thing] == category for thing in text.things),
    ),
    Feature(
        "repeated things", QUALITY, "It lists nothing twice.",
        lambda scene: [()] if _many(scene) else [],
        lambda text: bool(text.things) and len(set(text.things)) == len(text.things),
    ),
    Feature(
        "alphabet", FULFILMENT, "The things that it lists stand in alphabetical order.",
        lambda scene: [()] if _many(scene) else [],
        lambda text: len(text.things) > 1 and text.things == sorted(text.things),
    ),
    Feature(
        "set", FULFILMENT, "In whatever order, it lists just these things: {}.",
        lambda scene: [(" ".join(sorted(_first(scene).things)),)] if _first(scene).things else [],
        lambda text, things: " ".join(sorted(text.things)) == things,
    ),
    Feature(
        "member", FULFILMENT, 'Among the things that it lists is "{}".',
        lambda scene: [(thing,) for thing in _first(scene).things] if _many(scene) else [],
        lambda text, thing: thing in text.things,
    ),
    Feature(
        "sequence", FULFILMENT, "It lists at least two of these things, and in this order: {}.",
        lambda scene: [(" ".join(_first(scene).things),)] if _many(scene) else [],
        _in_sequence,
    ),
    Feature("unwanted", FULFILMENT, 'It never says "{}".', _unwanted, lambda text, said: not _says(text, said)),
    Feature("person", FULFILMENT, 'It names a person with the words "{}".', _said("person"), _says),
    Feature("time", FULFILMENT, 'It gives a time with the words "{}".', _said("time"), _says),
    Feature("place", FULFILMENT, 'It gives a place with the words "{}".', _said("place"), _says),
    Feature("subject", FULFILMENT, 'It names its subject with the words "{}".', _said("subject"), _says),
    Feature("matter", FULFILMENT, 'It speaks of the matter with the words "{}".', _said("matter"), _says),
    Feature("manner", QUALITY, 'Its manner shows in the word or words "{}".', _said("manner"), _says),
    Feature(
        "refusal", FULFILMENT, "It {} the request.",
        lambda scene: [("declines" if _refuses(_first(scene)) else "does not decline",)],
        lambda text, deed: bool(text.words) and _refuses(text) == (deed == "declines"),
    ),
    Feature(
        "sentences", FULFILMENT, "The number of its sentences is {}.",
        lambda scene: [(str(len(_first(scene).sentences)),)] if {"sentence", "sentences"} & set(scene.question.words) else [],
        lambda text, count: str(len(text.sentences)) == count,
    ),
    Feature(
        "length", FULFILMENT, "It has some words and at most {} of them.",
        _asked_length,
        lambda text, limit: 0 < _spoken(text) <= int(limit),
    ),
    Feature(
        "repeated sentences", QUALITY, "It says no sentence twice.",
        lambda scene: [()],
        lambda text: bool(text.sentences) and len(set(text.sentences)) == len(text.sentences),
    ),
    Feature("precedence", QUALITY, 'If it says both "{}" and "{}", it says the former first.', _pairs, _in_order, most=1),
    Feature(
        "worked line", REASONING, 'One of its worked lines is "{}".',
        lambda scene: [(line,) for line in dict.fromkeys(_worked(scene)[:-1])],
        lambda text, line: line in text.lines[:-1],
    ),
    Feature(
        "final line", FULFILMENT, 'Its final line is "{}".',
        lambda scene: [(line,) for line in _worked(scene)[-1:]],
        lambda text, line: text.lines[-1:] == [line],
    ),
)  # fmt: skip

FILLER = Feature(
    "filler", QUALITY, "It has no more than {} words in all.",
    lambda scene: [
        (str(limit * (1 + max(len(text.words) for text in scene.references) // 100)),) for limit in (100, 200, 300, 400)
    ],
    lambda text, limit: len(text.words) <= int(limit),
)  # fmt: skip
"""True of every text of ordinary length: makes up the number where too little else can be said."""


@lru_cache(16384)
def understand(criterion: str) -> tuple[Feature, Values] | None:
    """The feature and values that a criterion speaks of; nothing for a sentence of another kind."""
    for feature in (*FEATURES, FILLER):
        if match := feature.pattern.fullmatch(criterion):
            return feature, match.groups()
    return None


def holds(criterion: str, answer: str) -> bool | None:
    """Whether an answer meets a criterion, from the two texts alone; None where the sentence is not understood."""
    understood = understand(criterion)
    if understood is None:
        return None
    feature, values = understood
    return feature.test(read(answer), *values)

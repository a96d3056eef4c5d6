"""Leakage: whether what a suite asks, or its reference answers, stand in the texts that a student learns from.

Texts are compared as runs of words, so that case, punctuation and spacing do not matter. Runs of n = 13 words follow Brown
et al. 2020 (arXiv:2005.14165, appendix C), who call an item dirty for a single shared run; here half of its runs must be
shared, since one run may be a turn of phrase that many questions have.

Axes: T words of many texts in a row, V words of the items' vocabulary, K runs to look for, P places.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.types import Item, Message, Prompt

SIZE = 13
"""Words of a run."""
SHARE = 0.5
"""From this share of its runs on an item counts as contaminated."""
EXAMPLES = 3

_APART = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # written without spaces: each sign is a word
_WORD = re.compile(rf"[{_APART}]|[^\W_{_APART}]+|[+=<>^/%$]|[-*](?=\s*\d)")
_OTHER, _EDGE = 0, 1  # ids of a word that no item has, and of what stands between two texts
_BASE = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 1 << 20
_TABLE_BITS = 22
_TABLE_SHIFT = np.uint64(64 - _TABLE_BITS)

Kind = Literal["exact", "contained", "n-gram"]
_KINDS: tuple[Kind, ...] = ("exact", "contained", "n-gram")


@dataclass(frozen=True)
class Text:
    id: str
    text: str


@dataclass(frozen=True)
class Match:
    """An item and the text that holds it, or the first of its runs that was found."""

    item: Text
    source: Text
    kind: Kind
    share: float
    """Of the item's runs that some text holds."""


@dataclass(frozen=True)
class Overlap:
    """How much of the items stands in the texts."""

    texts: int
    items: int
    """That were compared."""
    skipped: int
    """Left out as too short to tell anything."""
    exact: int
    """Items that are a text, word for word."""
    contained: int
    """Items that stand word for word inside a longer text."""
    shared: int
    """Items with at least one run of n words in common with the texts."""
    share: float | None
    """Of an item's runs that the texts hold, the mean over items that have runs; None where none has."""
    contaminated: int
    """Items that are exact, contained, or have at least `SHARE` of their runs in the texts."""
    examples: tuple[Match, ...]
    """The worst."""

    @property
    def rate(self) -> float:
        """The share of items that are contaminated; 0 where there are none."""
        return self.contaminated / max(self.items, 1)


@dataclass(frozen=True)
class Finding:
    """One comparison of a suite."""

    suite: str
    texts: Literal["prompts", "teacher texts"]
    parts: Literal["items", "references"]
    overlap: Overlap

    def refused(self, limit: float) -> bool:
        """Exact items are always too much; a rate above the limit is.

        Two answers may be the same set phrase (a refusal to help), so exact references count in the rate alone.
        """
        return (self.overlap.exact > 0 and self.parts == "items") or self.overlap.rate > limit

    def as_dict(self, limit: float) -> dict[str, Any]:
        """Counts and examples, for JSON."""
        found = self.overlap
        return {
            "suite": self.suite, "texts": self.texts, "parts": self.parts, "n_texts": found.texts, "items": found.items,
            "skipped": found.skipped, "exact": found.exact, "contained": found.contained, "shared": found.shared,
            "share": found.share, "contaminated": found.contaminated, "rate": found.rate, "limit": limit,
            "refused": self.refused(limit),
            "examples": [
                {"item": match.item.id, "item_text": match.item.text, "source": match.source.id,
                 "source_text": match.source.text, "kind": match.kind, "share": match.share}
                for match in found.examples
            ],
        }  # fmt: skip


def findings(suite: str, items: Sequence[Item], prompts: Sequence[Text], written: Sequence[Text]) -> list[Finding]:
    """Training prompts against items, and what the teacher wrote against items and their references.

    An item is what the user says last before the first answer: examples in earlier messages are not its own. References
    below `SIZE` words are left out, for that two short answers agree says nothing.
    """
    asked = [Text(item.id, asked_last(item.messages)) for item in items]
    answers = [Text(item.id, item.reference) for item in items if item.reference]
    result = [Finding(suite, "prompts", "items", compare(prompts, asked))]
    if written:
        result.append(Finding(suite, "teacher texts", "items", compare(written, asked)))
        result.append(Finding(suite, "teacher texts", "references", compare(written, answers, shortest=SIZE)))
    return result


def asked_last(messages: Sequence[Message]) -> str:
    """What the user says last; nothing where no user speaks."""
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")


def prompt_texts(prompts: Sequence[Prompt]) -> list[Text]:
    """Each message of the prompts that is no system message, under its prompt's id."""
    return [Text(p.id, message["content"]) for p in prompts for message in p.messages if message["role"] != "system"]


def words(text: str) -> list[str]:
    """The words of a text: NFKC, lower case, without punctuation; its marks where it has nothing else.

    Signs of arithmetic are words, because "3 - 2" does not ask what "3 + 2" does ("-" and "*" before a digit only: they
    are also hyphens, bullets and markup).
    """
    plain = unicodedata.normalize("NFKC", text).lower()
    return _WORD.findall(plain) or plain.split()


def compare(texts: Sequence[Text], items: Sequence[Text], *, n: int = SIZE, shortest: int = 1) -> Overlap:
    """How much of the items stands in the texts. Items of fewer than n words are looked for whole.

    Runs are found by hashes of 64 bits; time and memory grow with the words of the texts and of the items, not with their
    product.

    Args:
        shortest: items of fewer words are left out.
    """
    told = [(item, words(item.text)) for item in items]
    kept = [(item, said) for item, said in told if len(said) >= max(shortest, 1)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(said for _, said in kept)), 2)}
    codes_V = np.random.default_rng(0).integers(1, 2**64, len(vocabulary) + 2, dtype=np.uint64)
    wanted = [_Wanted(item, np.array([vocabulary[word] for word in said]), codes_V, n) for item, said in kept]
    finders = {k: _Finder([each for each in wanted if each.size == k]) for k in {each.size for each in wanted}}
    for ids_T, text_T in _blocks(texts, vocabulary):
        for k, hash_T in _runs(codes_V[ids_T], n):
            if k in finders:
                finders[k].look(ids_T, hash_T, text_T)
    outcomes = [outcome for finder in finders.values() for outcome in finder.outcomes(texts)]
    found = [outcome.match for outcome in outcomes if outcome.match]
    bad = [match for match in found if match.kind != "n-gram" or match.share >= SHARE]
    shares = [outcome.share for outcome in outcomes if outcome.share is not None]
    worst = sorted(found, key=lambda match: (_KINDS.index(match.kind), -match.share, match.item.id))
    return Overlap(
        texts=len(texts), items=len(kept), skipped=len(items) - len(kept),
        exact=sum(match.kind == "exact" for match in found), contained=sum(match.kind == "contained" for match in found),
        shared=sum(share > 0 for share in shares), share=sum(shares) / len(shares) if shares else None,
        contaminated=len(bad), examples=tuple(worst[:EXAMPLES]),
    )  # fmt: skip


@dataclass(frozen=True)
class _Outcome:
    share: float | None
    """Of the item's runs of n words; None where it is shorter."""
    match: Match | None


class _Wanted:
    """An item that is looked for, and the numbers of the texts that hold the whole of it; -1 is none yet."""

    def __init__(self, item: Text, ids: NDArray[np.int64], codes_V: NDArray[np.uint64], n: int) -> None:
        self.item, self.ids, self.size, self.short = item, ids, min(len(ids), n), len(ids) < n
        self.hash_K = dict(_runs(codes_V[ids], self.size))[self.size]
        self.exact = self.contained = -1

    def look(self, place_P: NDArray[np.int64], ids_T: NDArray[np.int64], text_T: NDArray[np.int64]) -> None:
        """Which of the places where the item's first run stands go on as the item does, and end where the text does."""
        for offset in range(self.size, len(self.ids)):
            place_P = place_P[place_P + offset < len(ids_T)]
            place_P = place_P[ids_T[place_P + offset] == self.ids[offset]]
        alone_P = (ids_T[place_P - 1] == _EDGE) & (ids_T[place_P + len(self.ids)] == _EDGE)
        if self.exact < 0 and alone_P.any():
            self.exact = int(text_T[place_P[alone_P][0]])
        if self.contained < 0 and not alone_P.all():
            self.contained = int(text_T[place_P[~alone_P][0]])


class _Finder:
    """Looks for all runs of k words of some items at once."""

    def __init__(self, wanted: Sequence[_Wanted]) -> None:
        self.wanted = wanted
        self.hash_K = np.unique(np.concatenate([each.hash_K for each in wanted]))
        self.text_K = np.full(len(self.hash_K), -1)
        self.own = [np.searchsorted(self.hash_K, each.hash_K) for each in wanted]
        self.opening = np.array([own[0] for own in self.own])
        self.table = np.zeros(1 << _TABLE_BITS, dtype=bool)  # most runs are of no item: told apart without a search
        self.table[self.hash_K >> _TABLE_SHIFT] = True

    def look(self, ids_T: NDArray[np.int64], hash_T: NDArray[np.uint64], text_T: NDArray[np.int64]) -> None:
        """Notes what a block of texts holds."""
        place_P = np.flatnonzero(self.table[hash_T >> _TABLE_SHIFT])
        run_P = np.minimum(np.searchsorted(self.hash_K, hash_T[place_P]), len(self.hash_K) - 1)
        true_P = self.hash_K[run_P] == hash_T[place_P]
        place_P, run_P = place_P[true_P], run_P[true_P]
        order_P = np.argsort(run_P, kind="stable")
        place_P, run_P = place_P[order_P], run_P[order_P]
        found, where = np.unique(run_P, return_index=True)
        new = self.text_K[found] < 0
        self.text_K[found[new]] = text_T[place_P[where[new]]]
        begin, end = np.searchsorted(run_P, self.opening, "left"), np.searchsorted(run_P, self.opening, "right")
        for i in np.flatnonzero(end > begin).tolist():
            self.wanted[i].look(place_P[begin[i] : end[i]], ids_T, text_T)

    def outcomes(self, texts: Sequence[Text]) -> Iterator[_Outcome]:
        """What was found of each item."""
        for each, own in zip(self.wanted, self.own, strict=True):
            text_K = self.text_K[own]
            share = float((text_K >= 0).mean())
            kind: Kind = "exact" if each.exact >= 0 else "contained" if each.contained >= 0 else "n-gram"
            numbers = (each.exact, each.contained, *text_K)
            match = Match(each.item, texts[next(n for n in numbers if n >= 0)], kind, share) if share else None
            yield _Outcome(None if each.short else share, match)


def _runs(codes_T: NDArray[np.uint64], longest: int) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """For each length from 1 up: it, and the hash of that many words from each place on (polynomial, modulo 2^64)."""
    hash_T = codes_T
    for k in range(1, longest + 1):
        yield k, hash_T
        hash_T = hash_T[:-1] * _BASE + codes_T[k:]


def _blocks(texts: Sequence[Text], vocabulary: Mapping[str, int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The texts' words as ids with an edge before, between and behind, and each place's text; some texts at a time."""
    ids, counts, first = [_EDGE], [1], 0
    for number, text in enumerate(texts):
        said = words(text.text)
        ids += [vocabulary.get(word, _OTHER) for word in said]
        ids.append(_EDGE)
        counts.append(len(said) + 1)
        if len(ids) >= _BLOCK or number + 1 == len(texts):
            counts[1] += counts[0]
            yield np.array(ids), np.repeat(np.arange(first, number + 1), counts[1:])
            ids, counts, first = [_EDGE], [1], number + 1

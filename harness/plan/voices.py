"""What stand-ins say while a method is rehearsed: texts of an assumed length, or those of finished runs; and their tokens."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from harness.clients.openai import CHARACTERS_PER_TOKEN
from harness.types import Message, Prompt

if TYPE_CHECKING:
    from harness.generate.student import ChatCodec

AROUND = 4
"""Tokens that a chat template sets around a message, where none is at hand."""
IDS = 8192
"""Ids that stand-ins use: small, so that a distribution over them is small."""


class Codec:
    """Counts tokens, by the student's tokenizer where it is on this machine. The ids that it gives are stand-ins as well: equal
    texts have equal ids, and nothing else is meant by them."""

    def __init__(self, chat: ChatCodec | None = None) -> None:
        self._chat = chat

    @property
    def exact(self) -> bool:
        return self._chat is not None

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """A conversation up to where the student begins to write."""
        if self._chat is not None:
            return [token % IDS for token in self._chat.prompt(messages)]
        return [token for message in messages for token in (*range(AROUND), *self.text(message["content"]))] + [0]

    def text(self, text: str) -> list[int]:
        if self._chat is not None:
            return [token % IDS for token in self._chat.tokenizer(text, add_special_tokens=False)["input_ids"]]
        pieces = (text[at : at + CHARACTERS_PER_TOKEN] for at in range(0, len(text), CHARACTERS_PER_TOKEN))
        return [zlib.crc32(piece.encode()) % IDS for piece in pieces]

    def completion(self, text: str) -> list[int]:
        """A text as a reply, with its end token."""
        return [*self.text(text), 0]


@dataclass(frozen=True)
class Said:
    text: str
    tokens: int


class Voice:
    """Answers to prompts. Lengths are drawn evenly from half to one and a half times the mean, at most `most`.

    Args:
        words: what texts are made of.
        mean: tokens of an answer, the end token included.
        heard: groups of answers that were really given; if there are any, these are given again instead.
    """

    def __init__(
        self, codec: Codec, words: Sequence[str], mean: float, most: int, heard: Sequence[Sequence[Said]] = ()
    ) -> None:  # fmt: skip
        self._codec, self.mean, self.most, self._heard, self._words = codec, mean, most, heard, list(words) or ["word"]
        self._drawn = 0
        sample = " ".join(Random("a sample of words").choices(self._words, k=100))
        self._tokens_of_word = len(codec.text(sample)) / 100

    def group(self, prompt: Prompt, count: int) -> list[Said]:
        """`count` answers to a prompt."""
        if not self._heard:
            return [self._made(Random(f"{prompt.id} {prompt.visit} {prompt.turn} {i}")) for i in range(count)]
        self._drawn += 1
        rng = Random(f"heard {self._drawn}")
        wide = [group for group in self._heard if len(group) >= count]
        return rng.sample(rng.choice(wide), count) if wide else [rng.choice(rng.choice(self._heard)) for _ in range(count)]

    def _made(self, rng: Random) -> Said:
        """A text that begins with A or B, so that a reader of verdicts finds one."""
        tokens = max(2, min(self.most, round(rng.uniform(0.5, 1.5) * self.mean)))
        count = max(0, round((tokens - 2) / self._tokens_of_word))
        text = " ".join([rng.choice("AB"), *rng.choices(self._words, k=count)])
        return Said(text, tokens)

    def ids(self, said: Said) -> list[int]:
        """As many ids as the text has tokens, the end token among them; equal texts have equal ids."""
        start = zlib.crc32(said.text.encode())
        return [*(1 + (start + i * 7919) % (IDS - 1) for i in range(said.tokens - 1)), 0]


def spread(lengths: Sequence[int], count: int) -> list[int]:
    """Places of `count` things that stand for all, chosen evenly along their order by length."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    return [order[(2 * k + 1) * len(order) // (2 * count)] for k in range(min(count, len(order)))]

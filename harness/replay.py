"""Replies that were paid for, packed: a run can be repeated elsewhere without a server and without a key.

A pack is JSON lines, gzipped: a head, then a reply a line with the cache's key. It holds no request and no API key.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import tempfile
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import environment
from harness.clients.cache import ReplyCache
from harness.errors import SpecError
from harness.store import mended

FILE = ".replies"
"""In a run's folder: the cache's keys of all replies that it used, a line each."""
SCHEMA = "harness.replies/1"


class Noted(ReplyCache):
    """The cache as one run uses it: the keys of all replies that it took or gave are noted in a file."""

    def __init__(self, cache: ReplyCache, path: Path) -> None:
        self._cache, self._path, self._writing = cache, path, threading.Lock()
        self._known = set(mended(path))

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply, if it is there."""
        reply = self._cache.get(key)
        if reply is not None:
            self._note(key)
        return reply

    def put(self, key: str, reply: dict[str, Any]) -> None:
        """Keeps a reply."""
        self._cache.put(key, reply)
        self._note(key)

    def close(self) -> None:
        """Leaves the cache open, which others use as well."""

    def _note(self, key: str) -> None:
        with self._writing:
            if key not in self._known:
                self._known.add(key)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(key + "\n")


@dataclass(frozen=True)
class Packed:
    """What became of the replies of a pack."""

    new: int
    known: int
    """That the cache had already."""
    differing: int
    """Of these, those whose reply is another; the cache's own stays."""


def pack(replies: Iterator[tuple[str, dict[str, Any]]], path: Path) -> int:
    """Writes replies by key to a file and says how many; equal replies give equal bytes."""
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(json.dumps({"schema": SCHEMA}).encode() + b"\n")
        for key, reply in replies:
            file.write(json.dumps({"key": key, "reply": reply}, ensure_ascii=False, sort_keys=True).encode() + b"\n")
            count += 1
    return count


def unpack(path: Path, cache: ReplyCache) -> Packed:
    """Puts a pack's replies into a cache.

    Raises:
        SpecError: the file is missing, or is no pack of replies.
    """
    new = known = differing = 0
    for key, reply in _lines(path):
        there = cache.get(key)
        if there is None:
            cache.put(key, reply)
            new += 1
        else:
            known += 1
            differing += there != reply
    return Packed(new, known, differing)


@contextlib.contextmanager
def only(path: Path) -> Iterator[None]:
    """The cache holds the replies of a pack and nothing else, until the context ends.

    Raises:
        SpecError: as in `unpack`.
    """
    with tempfile.TemporaryDirectory() as folder, environment.caching_in(Path(folder)):
        with contextlib.closing(ReplyCache(Path(folder))) as cache:
            unpack(path, cache)
        yield


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise SpecError(f"no file {path}", where=str(path), fix="harness cache export RUN FILE.jsonl.gz makes one")
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if number == 1:
                    if row != {"schema": SCHEMA}:
                        raise ValueError(f"expected {SCHEMA}")
                else:
                    yield str(row["key"]), dict(row["reply"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path} is no pack of replies: {error}", where=f"{path}:{max(number, 1)}",
                        fix="harness cache export RUN FILE.jsonl.gz makes one") from error  # fmt: skip

"""The commands `cache export` and `cache import`: replies that were paid for, packed for use elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from harness import environment, replay
from harness.clients.cache import ReplyCache
from harness.errors import SpecError
from harness.store import find, mended


def export(names: Sequence[str], everything: bool) -> None:
    """Packs the replies that a run used, or all of the cache.

    Args:
        names: a run and a file; with `everything` the file.

    Raises:
        SpecError: not these, no such run, one that asked no server, or replies that the cache has not any more.
    """
    if len(names) != (1 if everything else 2):
        raise SpecError(
            f"expected {'--all FILE' if everything else 'RUN FILE'}, got {' '.join(names)}", where="harness cache export",
            fix="harness cache export RUN FILE.jsonl.gz, or harness cache export --all FILE.jsonl.gz",
        )  # fmt: skip
    path = Path(names[-1])
    with contextlib.closing(ReplyCache(environment.cache_dir())) as cache:
        keys = cache.keys() if everything else _of_run(names[0], cache)
        count = replay.pack(_replies(keys, cache), path)
    typer.echo(f"wrote {count:,} replies to {path}   next  harness run ... --replay {path}")


def _replies(keys: Sequence[str], cache: ReplyCache) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in keys:
        reply = cache.get(key)
        if reply is not None:
            yield key, reply


def _of_run(name: str, cache: ReplyCache) -> list[str]:
    """The keys of a run's replies, in order; all of them must be there."""
    notes = find(name, environment.runs_dir()) / replay.FILE
    if not notes.is_file():
        raise SpecError(f"the run {notes.parent.name} asked no server but the embedded one", where=name,
                        fix="name a run with a teacher, critic or judge of your own")  # fmt: skip
    keys = sorted(mended(notes))
    gone = sum(cache.get(key) is None for key in keys)
    if gone:
        raise SpecError(
            f"{gone:,} of {len(keys):,} replies of {notes.parent.name} are not in the cache", where=str(environment.cache_dir()),
            fix="set HARNESS_CACHE_DIR to the cache that the run used",
        )  # fmt: skip
    return keys


def take_in(path: Path) -> None:
    """Puts packed replies into the cache.

    Raises:
        SpecError: the file is missing, or is no pack of replies.
    """
    with contextlib.closing(ReplyCache(environment.cache_dir())) as cache:
        packed = replay.unpack(path, cache)
    typer.echo(f"{packed.new:,} replies are new, {packed.known:,} were there")
    if packed.differing:
        typer.echo(f"{packed.differing:,} of those are other replies to the same requests; the cache keeps its own", err=True)

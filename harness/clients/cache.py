"""A cache of paid replies on disk: content-addressed, shared by methods, seeds and processes, without failures."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from harness.errors import EnvironmentFault

PATIENCE_S = 60
"""Seconds to wait for other processes."""


def key_of(model: str, path: str, body: dict[str, Any], attempt: int) -> str:
    """The address of a reply: who was asked (with revision), what exactly, and the how-manieth attempt it was."""
    text = json.dumps([model, path, body, attempt], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ReplyCache:
    """Replies by key, in SQLite with a write-ahead log, safe for many processes and threads.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / "replies.sqlite"
            self._db = sqlite3.connect(path, timeout=PATIENCE_S, check_same_thread=False, isolation_level=None)
            self._patiently("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise EnvironmentFault(
                f"cannot write the reply cache in {folder}: {error}", where=str(folder),
                fix="set HARNESS_CACHE_DIR to a folder that can be written",
            ) from error  # fmt: skip

    def _patiently(self, statement: str) -> None:
        """For the change of journal SQLite does not wait by itself while another process makes the same file."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._db.execute(statement)
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def get(self, key: str) -> dict[str, Any] | None:
        with self._lock:
            row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, reply: dict[str, Any]) -> None:
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?)", (key, json.dumps(reply, ensure_ascii=False)))

    def keys(self) -> list[str]:
        """The keys of all replies, in order."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT key FROM replies ORDER BY key")]

    def close(self) -> None:
        self._db.close()

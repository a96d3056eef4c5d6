"""Carrying jobs out: what an executor is, and the one that runs processes on this machine."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.sweep.grid import Job

State = Literal["done", "failed", "stopped", "left", "again"]


@dataclass(frozen=True)
class Outcome:
    """How a job ended. "stopped" and "left" (never started) are those of an executor that was asked to stop.

    "again" is no end: the run lost its machine, not by its own fault, and will be started once more.
    """

    job: Job
    state: State
    seconds: float
    error: str = ""
    """What a failed run said at its end, or why it is started again."""


class Executor(Protocol):
    """Whoever carries jobs out, as many at a time as it likes."""

    @property
    def workers(self) -> int:
        """How many runs it has under way at a time."""

    def outcomes(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Iterator[Outcome]:
        """Runs all jobs; yields each one's outcome when it is over, failures too, and before that an "again" for each restart.

        `started` may be told from any thread.
        """

    def stop(self) -> None:
        """Starts no more jobs and asks those under way to save and end; a second time, to end at once."""


class Local:
    """Runs jobs as processes of `python -m harness`, `workers` at a time.

    Each is in a session of its own: Ctrl-C on the terminal reaches the sweep alone, which then asks each run once.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._running: set[subprocess.Popen[str]] = set()
        self._stopping = False
        self._lock = threading.RLock()  # a signal's handler calls `stop` in the thread that may be inside it

    def outcomes(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Iterator[Outcome]:
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for future in as_completed([pool.submit(self._run, job, started) for job in jobs]):
                    yield future.result()
            finally:
                self.stop()

    def stop(self) -> None:
        with self._lock:
            self._stopping = True
            for process in self._running:
                process.terminate()

    def _run(self, job: Job, started: Callable[[Job], None]) -> Outcome:
        with self._lock:
            if self._stopping:
                return Outcome(job, "left", 0.0)
            began = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "harness", *job.arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace", start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
        started(job)
        _, said = process.communicate()
        with self._lock:
            self._running.remove(process)
        seconds = time.monotonic() - began
        if process.returncode == 0:
            return Outcome(job, "done", seconds)
        if self._stopping and process.returncode in (130, -signal.SIGTERM):
            return Outcome(job, "stopped", seconds)
        return Outcome(job, "failed", seconds, last_words(said, process.returncode))


def last_words(said: str, code: int) -> str:
    """The error that a run ended with: our own message whole, of a traceback the last line, else how it ended."""
    lines = [line for line in said.splitlines() if line.strip()]
    ours = next((place for place, line in enumerate(lines) if line.startswith("error[")), None)
    if ours is not None:
        return "\n".join(lines[ours:])
    if code < 0:
        return f"ended by signal {-code} ({signal.Signals(-code).name})"
    return lines[-1] if lines else f"exit code {code}, without a word"

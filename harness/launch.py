"""Several processes for one run: the first is the command itself; it starts the others, or torchrun has started all.

What a person sees is the first process alone: its terminal, its run folder, its exit code. The others are told what to do
(`harness.train.orders`), ignore Ctrl-C, and end with the first one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness import environment
from harness.errors import HarnessError, RunFault, SpecError
from harness.sweep.local import last_words

if TYPE_CHECKING:
    from harness.spec import RunSpec
    from harness.train.distributed import World

GRACE_S = 10.0
"""Seconds that the first process has to come out by itself once another is gone."""
AGAIN = "repeat the command to go on from the last saved round"


def count(processes: int | None) -> int:
    """How many processes the run has.

    Raises:
        SpecError: torchrun has started another number of them.
    """
    started = environment.place()[1]
    if processes and started > 1 and processes != started:
        raise SpecError(
            f"--processes {processes}, and torchrun has started {started}", where="--processes", fix="leave --processes out"
        )
    return processes or started


def is_follower() -> bool:
    """Whether this process is one of those that are told what to do."""
    return environment.place()[0] > 0


@contextlib.contextmanager
def team(spec: RunSpec, processes: int, typed: Sequence[str]) -> Iterator[World]:
    """The processes of a run, this one the first of them, until the context ends.

    Args:
        typed: the arguments of the command, which the others are started with.

    Raises:
        SpecError: there are fewer GPUs than processes.
        RunFault: another process came to its end; what it said is in the message.
    """
    from harness.learner import on_gpus
    from harness.train.distributed import ALONE, join, leave

    if processes == 1:
        yield ALONE
        return
    if environment.place()[1] > 1:
        yield join(*environment.place(), on_gpus(spec.track, 1))
        leave()
        return
    cuda = on_gpus(spec.track, processes)
    others = Others(processes, typed)
    try:
        with others.watched():
            yield join(0, processes, 0, cuda, others.store)
            leave()
    except HarnessError:
        raise
    except Exception as error:
        if fault := others.fault():
            raise fault from error
        raise
    finally:
        others.end()


class Others:
    """The other processes of a run, started on this machine. What they say goes to files that nobody sees unless they fail."""

    def __init__(self, size: int, typed: Sequence[str]) -> None:
        from harness.train.distributed import meeting_place

        self.store, port = meeting_place()
        self._left = False
        self._words = [tempfile.TemporaryFile() for _ in range(1, size)]  # noqa: SIM115 (live as long as the processes)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "harness", *typed], env=environment.placed(rank, size, port), stdin=subprocess.DEVNULL,
                stdout=words, stderr=words, start_new_session=True,
            )
            for rank, words in enumerate(self._words, 1)
        ]  # fmt: skip

    def fault(self, patience: float = 3.0) -> RunFault | None:
        """The end of the first of them that failed, if one does within some seconds."""
        until = time.monotonic() + patience
        while True:
            for rank, (process, words) in enumerate(zip(self._processes, self._words, strict=True), 1):
                if process.poll():
                    words.seek(0)
                    said = last_words(words.read().decode(errors="replace"), process.returncode)
                    return RunFault(f"process {rank} of {len(self._processes) + 1} has ended: {said}", fix=AGAIN)
            if time.monotonic() > until:
                return None
            time.sleep(0.05)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Inside, the end of another process is the end of this one, even where it waits for that one inside a GPU call."""
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            yield
        finally:
            self._left = True

    def _watch(self) -> None:
        while not self._left:
            if fault := self.fault(0.5):
                time.sleep(GRACE_S)
                if not self._left:
                    shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a live display hides
                    sys.stderr.write(f"{shown}error[{fault.code}]: {fault.message}\n  fix  {fault.fix}\n")
                    sys.stderr.flush()
                    self.end()
                    os._exit(fault.exit_code)
                return

    def end(self) -> None:
        """Waits for those that were let go and ends the others."""
        let_go = sys.exc_info()[0] is None
        until = time.monotonic() + (GRACE_S if let_go else 0.0)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()


def follow(spec: RunSpec) -> None:
    """Takes part in a run as one of the other processes, until the first one lets this one go or is gone."""
    from harness.learner import enlist, on_gpus
    from harness.train.distributed import join, leave

    for number in (signal.SIGINT, signal.SIGTERM):  # the first process decides when the run stops
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    enlist(spec, join(*environment.place(), on_gpus(spec.track, 1)))
    leave()


def _end_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

"""Where the seconds of a run go: named spans around a few verbs, each second counted once."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from typing import Any


class Spans:
    """Seconds by name. A span inside another takes its seconds from the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = time.perf_counter()

    def watch(self, thing: Any, verb: str, name: str) -> None:
        """From now on the calls of one object's method are a span."""
        call = getattr(thing, verb)

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._open.append(name)
            try:
                return call(*args, **kwargs)
            finally:
                self._turn()
                self._open.pop()

        setattr(thing, verb, timed)

    def take(self) -> dict[str, float]:
        """Seconds by name since this was asked last; `rest` is what no span covers."""
        self._turn()
        taken = {name: round(seconds, 4) for name, seconds in sorted(self.seconds.items())}
        self.seconds.clear()
        return taken

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1] if self._open else "rest"] += now - self._since
        self._since = now

"""How fast a server may be asked: requests and tokens a minute, and silence while it says that it is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Spreads what many threads ask of one server evenly over the minutes.

    Every attempt takes a slot, retries included. After a refusal with Retry-After nobody asks before that time has passed,
    so that a hundred waiting requests do not each have to be refused.

    Args:
        rpm: requests a minute; None is as many as come.
        tpm: tokens a minute, prompts and replies; None is as many as come.
    """

    def __init__(
        self, rpm: float | None = None, tpm: float | None = None,
        clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.rpm, self.tpm, self._clock, self._sleep = rpm, tpm, clock, sleep
        self._lock = threading.Lock()
        self._slot = self._tokens = self._silent = 0.0
        """The times from which the next request, the next tokens and anything at all may go out."""

    def tighten(self, rpm: float | None, tpm: float | None) -> None:
        """Of two limits the lower one holds."""
        self.rpm = min((limit for limit in (self.rpm, rpm) if limit), default=None)
        self.tpm = min((limit for limit in (self.tpm, tpm) if limit), default=None)

    def attempt(self) -> None:
        """Returns when a request may go out."""
        with self._lock:
            at = max(self._clock(), self._slot)
            self._slot = at + (60.0 / self.rpm if self.rpm else 0.0)
        self._until(lambda: max(at, self._silent))

    def reserve(self, tokens: int) -> None:
        """Returns when a request of about so many tokens may go out."""
        if not self.tpm:
            return
        with self._lock:
            at = max(self._clock(), self._tokens)
            self._tokens = at + 60.0 * tokens / self.tpm
        self._until(lambda: at)

    def settle(self, reserved: int, used: int) -> None:
        """Corrects what was reserved once the server has said what was used."""
        if self.tpm:
            with self._lock:
                self._tokens += 60.0 * (used - reserved) / self.tpm

    def hush(self, seconds: float) -> None:
        """Nothing goes out for so long."""
        with self._lock:
            self._silent = max(self._silent, self._clock() + seconds)

    def _until(self, time_of: Callable[[], float]) -> None:
        while (left := time_of() - self._clock()) > 0:  # silence may have been asked for meanwhile
            self._sleep(left)


_paces: dict[tuple[str, str], Pace] = {}
_making = threading.Lock()


def shared(url: str, key: str, rpm: float | None, tpm: float | None) -> Pace:
    """The pace of a server under one key, the same one for every role of this process that asks there."""
    with _making:
        pace = _paces.setdefault((url, key), Pace())
        pace.tighten(rpm, tpm)
    return pace

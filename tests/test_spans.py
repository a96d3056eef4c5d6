"""Every second is counted once, in the innermost span."""

from __future__ import annotations

import pytest

from harness import spans


class Thing:
    def outer(self) -> int:
        CLOCK[0] += 2.0
        self.inner()
        CLOCK[0] += 1.0
        return 7

    def inner(self) -> None:
        CLOCK[0] += 4.0

    def breaks(self) -> None:
        CLOCK[0] += 0.5
        raise ValueError("broken")


CLOCK = [0.0]


def test_a_span_takes_its_seconds_from_the_one_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans.time, "perf_counter", lambda: CLOCK[0])
    watched, thing = spans.Spans(), Thing()
    for verb in ("outer", "inner", "breaks"):
        watched.watch(thing, verb, verb)
    CLOCK[0] += 8.0
    assert thing.outer() == 7
    with pytest.raises(ValueError, match="broken"):
        thing.breaks()
    CLOCK[0] += 16.0
    assert watched.take() == {"breaks": 0.5, "inner": 4.0, "outer": 3.0, "rest": 24.0}
    assert watched.take() == {"rest": 0.0}

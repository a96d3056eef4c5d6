"""What a run looks like while it runs: a live panel on a terminal, plain lines elsewhere. It only listens."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from harness.ledger import Budget
from harness.spec import RunSpec
from harness.store import now

QUIET_SECONDS = 30.0


def clean(text: str) -> str:
    """Text of a model without control and bidirectional characters, safe to print."""
    return "".join(
        " " if (ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0x200E <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069) else c
        for c in text
    )


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def amount(value: float) -> str:
    """A meter's reading, short: 704, 61.2 k, 1.35 M."""
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == ' k' else size):.3g}{letter}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def bounds(metric: dict[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval over items of a stored metric."""
    if metric["value"] is None or metric["stderr"] is None:
        return None
    return metric["value"] - 1.96 * metric["stderr"], metric["value"] + 1.96 * metric["stderr"]


def span(scores: dict[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval over items of a suite's headline, within its scale."""
    found, (low, high) = bounds(headline(scores)), scores["scale"]
    return found and (max(found[0], low), min(found[1], high))


def headline(scores: dict[str, Any]) -> dict[str, Any]:
    """The headline metric of a suite's stored scores."""
    return scores[scores["headline"]][scores["metric"]]


class Progress:
    """Follows one run. Marks scroll by once; what is under way is redrawn below them, or said now and then."""

    def __init__(self, spec: RunSpec, found: str, suites: list[str], mode: str, console: Console, as_json: bool) -> None:
        self.spec, self.found, self.suites, self.console, self.as_json = spec, found, suites, console, as_json
        self.budget: Budget = spec.track.budget_value
        self.mode = ("live" if console.is_terminal else "plain") if mode == "auto" else mode
        self._live: Live | None = None
        self._began = self._said = time.monotonic()
        self._off_clock = 0.0
        self._word, self._word_since = "starting", time.monotonic()
        self._round, self._used, self._metrics = 0, 0.0, dict[str, float]()
        self._first_used: float | None = None
        self._paced = 0.0
        self._stop = False
        self._head_shown = False

    @contextmanager
    def following(self) -> Iterator[Progress]:
        """Shows progress inside; the first Ctrl-C or SIGTERM asks the run to stop at its next round, a second stops it."""

        def ask(number: int, frame: object) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            self.say("stopping", state="stopping after this round (again to stop at once)")

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        if self.mode == "live":
            self._live = Live(console=self.console, get_renderable=self._panel, refresh_per_second=4, transient=True)
            self._live.start()
        try:
            yield self
        finally:
            if self._live:
                self._live.stop()
                self._live = None
            for number, handler in before.items():
                signal.signal(number, handler)

    # what the loop tells -------------------------------------------------------------------------------------------

    def state(self, word: str) -> None:
        if self._word == "evaluate":
            self._off_clock += time.monotonic() - self._word_since
        self._word, self._word_since = word, time.monotonic()
        if self.mode == "plain" and word not in ("collect", "train"):
            self._line("state", {"state": word})

    def round(self, number: int, used: float, metrics: dict[str, float]) -> None:
        if self._first_used is None:  # the pace is taken from this session's rounds, the first (slow) one apart
            self._first_used, self._paced = used, -self._training_seconds()
        self._round, self._used, self._metrics = number, used, metrics
        if self.mode == "plain" and time.monotonic() - self._said >= QUIET_SECONDS:
            left = self._left()
            self._line(
                "progress",
                {"state": self._word, "round": number, "used": round(used, 4), "left_s": None if left is None else int(left)},
            )

    def mark(self, row: dict[str, Any], scores: dict[str, dict[str, Any]]) -> None:
        for suite, result in scores.items():
            metric, change = headline(result), result["change"]
            interval = span(result)
            reading = row["meters"][self.budget.axis]
            if self.mode == "plain" or self.as_json:
                self._line("mark", {
                    "at": row["mark"], self.budget.axis: reading, "suite": suite, "score": _rounded(metric["value"]),
                    "lo": _rounded(interval[0]) if interval else None, "hi": _rounded(interval[1]) if interval else None,
                    "n": metric["n"], "missing": metric["missing"],
                })  # fmt: skip
            if self.mode == "live":
                self._mark_row(suite, row["mark"], reading, metric, interval, change, result)

    def stopping(self) -> bool:
        return self._stop

    def say(self, event: str, **fields: Any) -> None:
        if self.mode == "plain" or self.as_json:
            self._line(event, fields)
        if self.mode == "live" and "state" in fields:
            self._word = str(fields["state"])

    # how it is shown -----------------------------------------------------------------------------------------------

    def head(self) -> None:
        spec, track = self.spec, self.spec.track
        if self.mode == "plain" or self.as_json:
            self._line("start", {"run": spec.identity[:8], "method": spec.method, "suite": ",".join(self.suites),
                                 "track": f"{track.name}@{track.digest[:4]}", "seed": spec.seed,
                                 "found": self.found})  # fmt: skip
        if self.mode == "live":
            self.console.print(
                f"run [bold]{spec.identity[:8]}[/bold] ({self.found})   [bold]{spec.method}[/bold] x {', '.join(self.suites)}   "
                f"track {track.name}@{track.digest[:4]}   seed {spec.seed}", highlight=False,
            )  # fmt: skip
            served = "   ".join(f"{role} {model.model}" for role, model in track.served)
            self.console.print(served or "no teacher, critic or judge", highlight=False)
            self.console.print(
                "budget " + "   ".join(f"{amount(v)} {k.replace('_', ' ')}" for k, v in track.budget.items()) + "\n",
                highlight=False,
            )

    def _mark_row(
        self, suite: str, mark: str, reading: float, metric: dict[str, Any], interval: tuple[float, float] | None,
        change: dict[str, Any], result: dict[str, Any],
    ) -> None:  # fmt: skip
        several = len(self.suites) > 1
        if not self._head_shown:
            self._head_shown = True
            axis, last = self.budget.axis.replace("_", " ")[:9], "suite" if several else "clock"
            self.console.print(f"  [dim]mark {axis:>9}  score  95 % CI         vs mark 0         gold  missing  {last}[/dim]")
        moved = ""
        if mark != "0" and change["value"] is not None:
            moved = f"{change['value']:+.3f} +/-{1.96 * (change['stderr'] or 0):.3f}"
        span = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "none"
        score, gold = (_three(m) for m in (metric, result[result["headline"]].get("gold")))
        missing = f"{metric['missing']}/{metric['n'] + metric['missing']}"
        last = suite if several else minutes(time.monotonic() - self._began)
        self.console.print(
            f"  {mark:<5}{amount(reading):>9}  {score:>5}  {span:<14}  {moved:<16} {gold:>5}  {missing:>7}  {last:>5}"
        )

    def _panel(self) -> Group:
        spent = minutes(time.monotonic() - self._word_since)
        lines = []
        if self._round:
            told = {"training_reward": "training reward", "loss/policy": "loss", "loss/loss": "loss", "grad_norm": "gradient"}
            shown = "   ".join(f"{said} {self._metrics[name]:.3f}" for name, said in told.items() if name in self._metrics)
            lines.append(f" [bold]{self._word}[/bold] {spent}   round {self._round}   {shown}")
            lines.append(self._bar())
        else:
            lines.append(f" [bold]{self._word}[/bold] {spent}")
        left = self._left()
        if left is not None:
            lines.append(f" {minutes(left)} left   evaluation off the clock {minutes(self._off_clock)}   [dim]Ctrl-C saves[/dim]")
        return Group(*(Text.from_markup(line) for line in lines))

    def _bar(self) -> str:
        axis, ceiling = self.budget.axis, self.budget.ceilings[self.budget.axis]
        filled = min(20, int(20 * self._used))
        coming = next((reading for _, reading in self.budget.schedule if reading > self._used * ceiling + 1e-9), ceiling)
        bar = "#" * filled + "." * (20 - filled)
        return (f" {axis.replace('_', ' ')} \\[{bar}] {amount(self._used * ceiling)} of {amount(ceiling)}  "
                f"{self._used:4.0%}   next mark {amount(coming)}")  # fmt: skip

    def _training_seconds(self) -> float:
        return time.monotonic() - self._began - self._off_clock

    def _left(self) -> float | None:
        """Seconds of training left at this session's pace, and as much evaluation as it took so far for each mark."""
        if self._first_used is None or self._used <= self._first_used:
            return None
        pace = (self._training_seconds() + self._paced) / (self._used - self._first_used)
        marks = [float(mark) for mark, _ in self.budget.schedule]
        done = sum(mark <= self._used + 1e-9 for mark in marks)
        return max(0.0, pace * (1 - self._used) + self._off_clock / max(done, 1) * (len(marks) - done))

    def _line(self, event: str, fields: dict[str, Any]) -> None:
        self._said = time.monotonic()
        announce(event, fields, sys.stdout if self.as_json else None, self.console.file if self.mode == "plain" else None)


def announce(event: str, fields: Mapping[str, Any], for_programs: IO[str] | None, for_logs: IO[str] | None) -> None:
    """An event as a line of JSON on one stream and of words on another, where they are given."""
    if for_programs:
        print(json.dumps({"v": 1, "time": now(), "event": event, **fields}), file=for_programs, flush=True)
    if for_logs:
        words = (f"{key}={'_'.join(str(value).split())}" for key, value in fields.items())
        print(now(), event, *words, file=for_logs, flush=True)


def _three(metric: dict[str, Any] | None) -> str:
    return f"{metric['value']:.3f}" if metric and metric["value"] is not None else "-"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)

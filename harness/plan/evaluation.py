"""What scoring comes to: suites by marks by decodings, and once for the teacher."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from harness.clients.openai import CHARACTERS_PER_TOKEN
from harness.errors import EnvironmentFault, SuiteError
from harness.evaluate import decodings, due
from harness.materials import the_suites
from harness.spec import RunSpec
from harness.suite import JudgedSuite, Suite
from harness.tracks import Track

SHARE = 0.5
"""Of the longest text that a track allows, what a mean one is taken to have where nothing tells."""
REPLY = 300
"""Tokens that a judge is taken to write where it may write more."""


@dataclass(frozen=True)
class Scoring:
    """A suite of a run. Token counts are of all its scorings together."""

    suite: str
    answers: int = 0
    """In one scoring, each turn and sample one."""
    times: int = 0
    """Of the student: marks by decodings."""
    answer_tokens: float = 0.0
    """Of one answer, on average."""
    judge_calls: int = 0
    judge_tokens_in: int = 0
    judge_tokens_out: int = 0
    """Each reply of `REPLY` tokens, or of as many as it may have."""
    teacher_tokens_in: int = 0
    teacher_tokens_out: int = 0
    lacking: str = ""
    """Why nothing is known."""


def scorings(spec: RunSpec, suites: Sequence[str], share: float) -> list[Scoring]:
    """Of suites that are scored at every mark; one whose items are not here says so.

    Args:
        share: of the longest answer that a mean one has.
    """
    return [_scoring(spec, name, share) for name in suites]


def _scoring(spec: RunSpec, name: str, share: float) -> Scoring:
    try:
        suite = the_suites(spec.track, [name], spec.seed)[name]
        suite.items()
    except (SuiteError, EnvironmentFault) as error:
        return Scoring(name, lacking=error.message)
    return scoring(spec.track, name, suite, share)


def scoring(track: Track, name: str, suite: Suite, share: float, at_ends: Collection[str] = ()) -> Scoring:
    """What scoring a suite comes to at the track's marks.

    Args:
        share: of the longest answer that a mean one has.
        at_ends: suites that are scored at the first and the last mark alone.

    Raises:
        SuiteError, EnvironmentFault: its items are not on this machine.
    """
    items = suite.items()
    written = [item for item in items if not item.continuations]
    turns = sum(1 + len(item.follow_ups) for item in written) * suite.samples
    tokens = [share * (item.max_tokens or track.evaluation.max_tokens) for item in written]
    mean = sum(tokens) / max(1, len(tokens))
    marks = sum(name in due([name], at_ends, mark) for mark in track.marks)
    times = marks * len(decodings(items, track.evaluation.temperatures))
    asked = sum(len(item.question) for item in written) * suite.samples // CHARACTERS_PER_TOKEN
    teaches = track.teacher is not None and bool(written) and not any(item.plain for item in items)
    trial = suite.trial() if isinstance(suite, JudgedSuite) and track.judge else {}
    requests = [call.request for calls in trial.values() for call in calls if call.request]
    read = sum(len(message["content"]) for request in requests for message in request.messages) // CHARACTERS_PER_TOKEN
    said = sum(min(request.max_tokens, REPLY) for request in requests)
    graded = times + teaches
    return Scoring(
        name, turns, times, mean, len(requests) * graded, read * graded, said * graded,
        asked if teaches else 0, round(turns * mean) if teaches else 0,
    )  # fmt: skip

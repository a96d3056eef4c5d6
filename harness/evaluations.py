"""`harness eval`: a contestant's answers to a suite, graded by one judge or two, kept so that nothing is done twice.

An evaluation has a folder of its own, named by what was scored, on what and how; the judges' verdicts lie below it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.answering import answer_all, whole
from harness.clients.metered import Tariff
from harness.contestants import Contestant, answer_of
from harness.errors import SpecError
from harness.evaluate import decodings, keep, write_items, write_lines
from harness.preflight import estimate, expected, judge_lines, suite_lines
from harness.spec import digest_of
from harness.store import json_text, read_lines, suite_stem, write_atomically
from harness.suite import ChatReply, ChatRequest, Judge, JudgedSuite, Suite
from harness.types import Answer, Failure, Record

SLICE = 64
"""Calls between two words about how far the judge is."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sampled:
    """How answers are drawn."""

    temperature: float
    max_tokens: int
    seed: int = 0


@dataclass(frozen=True)
class Grader:
    """A judge with its tariff; None for suites that ask nobody."""

    judge: Judge | None
    tariff: Tariff

    @property
    def stem(self) -> str:
        return "".join(c if c.isalnum() or c in ".-_" else "-" for c in self.judge.id) if self.judge else "graded"


class Evaluation:
    """The folder of one contestant on one suite under one way of sampling."""

    def __init__(self, root: Path, contestant: Contestant, name: str, suite: Suite, sampled: Sampled) -> None:
        self.contestant, self.name, self.suite, self.sampled = contestant, name, suite, sampled
        self.how = next(iter(decodings(suite.items(), [sampled.temperature])))
        self.spec = {
            "schema": "harness.evaluation/1", "contestant": contestant.identity, "suite": name, "version": suite.version,
            "data": suite.data_hash, "protocol": suite.identity, "decoding": self.how, **asdict(sampled),
        }  # fmt: skip
        self.identity = digest_of(self.spec)
        self.folder = root / "evaluations" / f"{contestant.name}-{suite_stem(name)}-{self.identity[:8]}"

    def ready(self) -> list[Answer] | None:
        """The answers that need not be written any more: from this folder, or from where the contestant keeps them."""
        path = self.folder / "answers.jsonl"
        if path.exists():
            return [answer_of(row) for row in read_lines(path)]
        return self.contestant.kept(self.suite, self.name, self.how)

    def answers(self, stack: contextlib.ExitStack, tell: Tell, generate: bool = True) -> list[Answer]:
        """All answers, written now where they are not on file yet.

        Raises:
            SpecError: they are not, and `generate` is off.
            SuiteError: a server left items unanswered.
        """
        found = self.ready()
        if found is None:
            if not generate:
                raise SpecError(f"{self.contestant.name} has no answers to {self.name} on file", where="--regrade",
                                fix="leave --regrade out, and they are written")  # fmt: skip
            items = self.suite.items()
            tell(f"loading {self.contestant.name}")
            writer = self.contestant.writer(self.suite, self.sampled.max_tokens, stack)
            tell(f"answering {len(items) * self.suite.samples:,} items")
            found = whole(answer_all(items, writer, **asdict(self.sampled), samples=self.suite.samples), self.contestant.name)
        self.suite.paired(found)
        write_atomically(self.folder / "evaluation.json", json_text({**self.spec, "name": self.contestant.name}))
        write_items(self.folder, self.suite)
        write_lines(self.folder / "answers.jsonl", found)
        return found

    def scores(self, grader: Grader, answers: Sequence[Answer], tell: Tell, again: bool) -> dict[str, Any]:
        """The metrics by one judge, from file unless `again`."""
        folder = self.folder / "judges" / grader.stem
        path = folder / "scores.json"
        if path.exists() and not again:
            return json.loads(path.read_text(encoding="utf-8"))
        records = self.suite.grade(answers, Watched(grader.judge, tell) if grader.judge else None)
        result = {
            "schema": "harness.scores/1", "suite": self.name, "version": self.suite.version, "data": self.suite.data_hash,
            "protocol": self.suite.identity, "metric": self.suite.metric, "scale": list(self.suite.scale),
            "n": len(self.suite.items()), "headline": self.how, "judge": grader.judge.id if grader.judge else None,
            "evaluation": self.identity, "contestant": self.contestant.name,
            self.how: keep(folder, self.how, self.suite, answers, records),
        }  # fmt: skip
        shutil.rmtree(folder / "export", ignore_errors=True)
        self.suite.export(folder / "export", answers, records, self.contestant.name)
        write_atomically(path, json_text(result))
        return result

    def records(self, grader: Grader) -> list[Record]:
        """The verdicts of a judge that has graded."""
        rows = read_lines(self.folder / "judges" / grader.stem / "records" / f"{self.how}.jsonl")
        return [Record(**{**row, "flags": tuple(row["flags"])}) for row in rows]


class Watched:
    """A judge that says how far it is. What it has said stays in the cache if it is stopped."""

    def __init__(self, judge: Judge, tell: Tell) -> None:
        self._judge, self._tell, self.id, self.retries = judge, tell, judge.id, judge.retries

    def chat(self, requests: Sequence[ChatRequest], attempt: int = 0) -> list[ChatReply | Failure]:
        replies: list[ChatReply | Failure] = []
        for start in range(0, len(requests), SLICE):
            again = f", attempt {attempt + 1}" if attempt else ""
            self._tell(f"judging, {start:,} of {len(requests):,} calls by {self.id}{again}")
            replies += self._judge.chat(requests[start : start + SLICE], attempt)
        return replies


def preflight(evaluation: Evaluation, graders: Sequence[Grader], tell: Tell, force: bool) -> list[tuple[str, str]]:
    """Lines for people on everything that can be known before money or GPU time goes.

    Raises:
        CapabilityError: the contestant cannot answer the items, or a judge does not speak the protocol (unless forced).
        SuiteError: an asset is missing, or the outputs do not fit.
    """
    suite, contestant = evaluation.suite, evaluation.contestant
    tell("checking")
    contestant.check(suite, evaluation.sampled.max_tokens)
    lines = [*suite_lines(evaluation.name, suite), *contestant.facts().items()]
    ready = evaluation.ready()
    sampled = f"{evaluation.how}, at most {evaluation.sampled.max_tokens} tokens a turn"
    lines.append(("answers", f"to be written: {sampled}" if ready is None else f"{len(ready):,} on file"))
    for grader in graders:
        if isinstance(suite, JudgedSuite) and grader.judge:
            coming = expected(suite, grader.tariff) if ready is None else estimate(suite.calls(ready), grader.tariff)
            lines += judge_lines(suite, grader.judge, coming, force)
    return lines

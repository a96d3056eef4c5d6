"""A run as reports see it: what its folder says, read when it is asked for."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from sys import intern
from typing import Any

import yaml

from harness.spec import canonical, conditions_digest, identity_of
from harness.store import mark_stem, read_lines, suite_stem

TEACHER = "teacher"
"""The mark under which a suite keeps the teacher's own scores."""
GRID = 10_000
"""Steps of a suite's scale to which reports round item scores, so that a run and its summary give the same bytes."""


@dataclass(frozen=True)
class Mark:
    name: str
    meters: Mapping[str, float]
    """Readings of the training meters when the mark was reached."""


@dataclass(frozen=True)
class Run:
    path: Path
    spec: Mapping[str, Any]
    """`spec.json`: method, config, seed, track."""
    finished: bool
    marks: tuple[Mark, ...]
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """What `suites/SUITE/marks/MARK.json` says, by suite and mark ("teacher" among the marks)."""
    label: str = ""
    """The method, with the settings in which it differs from other runs of the method that were read with it."""
    _items: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict, compare=False, repr=False)
    """Item scores that were read already; copies of the run under other labels share them."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def method(self) -> str:
        return self.spec["method"]

    @property
    def seed(self) -> int:
        return self.spec["seed"]

    @property
    def pair(self) -> int:
        """Names the models that it began from: in the embedded world seeds take the pretrained pairs in turn."""
        pairs = (self.spec["track"].get("pocket") or {}).get("pairs")
        return self.seed % pairs if pairs else self.seed

    @property
    def track(self) -> str:
        """The track's name."""
        return self.spec["track"]["name"]

    @property
    def budget(self) -> Mapping[str, float]:
        return self.spec["track"]["budget"]

    @cached_property
    def digest(self) -> str:
        """Names the conditions; only runs with the same digest share a table."""
        return conditions_digest(self.spec["track"])

    @cached_property
    def identity(self) -> str:
        return identity_of(self.spec)

    @property
    def conditions(self) -> str:
        """The track's name with the beginning of its digest, as `select` takes it."""
        return f"{self.track}@{self.digest[:8]}"

    @property
    def shuffled(self) -> bool:
        """Whether it is a control whose signal was mixed up."""
        return self.spec["config"].get("signal") == "shuffled"

    @cached_property
    def kin(self) -> str:
        """The same for runs of a method whose settings are equal but for the signal: a control and what it controls."""
        return canonical([self.method, {key: value for key, value in self.spec["config"].items() if key != "signal"}])

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Versions, machine and commit of `environment.json`; empty where there is none."""
        path = self.path / "environment.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @cached_property
    def origins(self) -> Mapping[str, str]:
        """Who set each setting: `default`, `track NAME` or `--set`; empty where `spec.yaml` is not there."""
        path = self.path / "spec.yaml"
        told = yaml.safe_load(path.read_text(encoding="utf-8"))["origins"] if path.is_file() else {}
        return dict(sorted(told.items()))

    @cached_property
    def evaluation(self) -> Mapping[str, float]:
        """What its scoring has used, off the clock, by meter; empty where no ledger is there."""
        last = deque(read_lines(self.path / "ledger.jsonl"), maxlen=1)
        return last[0]["evaluation"] if last else {}

    @cached_property
    def signals(self) -> Mapping[str, Mapping[str, float]]:
        """Each training signal (`training_reward`), by mark: its mean over the rounds since the mark before."""
        rounds = [(row["mark"], row["rounds"]) for row in read_lines(self.path / "marks.jsonl") if "rounds" in row]
        steps = list(read_lines(self.path / "steps.jsonl"))
        result: dict[str, dict[str, float]] = {}
        for name in sorted({name for row in steps for name in row["metrics"] if name.startswith("training_")}):
            before, told = 0, result.setdefault(name, {})
            for mark, end in rounds:
                since = [row["metrics"][name] for row in steps if before < row["round"] <= end and name in row["metrics"]]
                before = end
                if since:
                    told[mark] = fmean(since)
        return result

    @property
    def suites(self) -> list[str]:
        """The suites it was scored on."""
        return sorted(self.scores)

    def scored_on(self, suites: Sequence[str]) -> Run:
        """The run as if these suites alone had scored it."""
        return replace(self, scores={suite: told for suite, told in self.scores.items() if suite in suites})

    def scored(self, suite: str) -> list[Mark]:
        """The marks at which the suite was scored, in order."""
        return [mark for mark in self.marks if mark.name in self.scores.get(suite, {})]

    def scale(self, suite: str) -> tuple[float, float]:
        """The lowest and the highest score of the suite."""
        low, high = next(iter(self.scores[suite].values()))["scale"]
        return low, high

    def items(self, suite: str, mark: str) -> dict[str, float]:
        """The headline score of each item that has one, on the suite's scale and there on the nearest point of `GRID`."""
        if (suite, mark) not in self._items:
            stem = f"{mark_stem(mark)}.{self.scores[suite][mark]['headline']}"
            path = self.path / "suites" / suite_stem(suite) / "items" / f"{stem}.json"
            told = json.loads(path.read_text(encoding="utf-8"))
            scale = self.scale(suite)
            self._items[suite, mark] = {intern(item): from_grid(to_grid(score, scale), scale) for item, score in told.items()}
        return self._items[suite, mark]


def to_grid(score: float, scale: tuple[float, float]) -> int:
    """The nearest step of `GRID`, counted from the scale's low end; scores with weights can lie beyond either end."""
    return round((score - scale[0]) / (scale[1] - scale[0]) * GRID)


def from_grid(step: int, scale: tuple[float, float]) -> float:
    """The score at a step of `GRID`."""
    return scale[0] + step * (scale[1] - scale[0]) / GRID

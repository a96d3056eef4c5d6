"""Runs read back from their folders, and which of them may stand side by side.

Axes: S seeds, I items.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from harness.errors import HarnessError, SpecError, StoreError, nearest
from harness.spec import canonical, conditions_digest, identity_of
from harness.store import find, mark_stem, read_lines, suite_stem

SUMS = {
    "teacher_tokens": ("teacher_tokens_in", "teacher_tokens_out", "teacher_scored_tokens"),
    "critic_tokens": ("critic_tokens_in", "critic_tokens_out"),
}
"""Readings that are sums of meters."""
TEACHER = "teacher"
"""The mark under which a suite keeps the teacher's own scores."""


class Incomparable(HarnessError):
    """Runs that were not made or scored under equal conditions."""

    exit_code = 4
    code = "H080"


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
        return yaml.safe_load(path.read_text(encoding="utf-8"))["origins"] if path.is_file() else {}

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
        """The headline score of each item that has one, on the suite's scale."""
        if (suite, mark) not in self._items:
            stem = f"{mark_stem(mark)}.{self.scores[suite][mark]['headline']}"
            path = self.path / "suites" / suite_stem(suite) / "items" / f"{stem}.json"
            told = json.loads(path.read_text(encoding="utf-8"))
            self._items[suite, mark] = {intern(item): score for item, score in told.items()}
        return self._items[suite, mark]


def read(path: Path) -> Run:
    """One run, finished or not. Its label is its method.

    Raises:
        StoreError: the folder holds no run.
    """
    if not (path / "spec.json").is_file():
        raise StoreError(f"{path} holds no run: spec.json is missing", where=str(path), fix="harness list runs")
    spec = json.loads((path / "spec.json").read_text(encoding="utf-8"))
    scores: dict[str, dict[str, Any]] = {}
    for file in sorted(path.glob("suites/*/marks/*.json")):
        told = json.loads(file.read_text(encoding="utf-8"))
        if told["mark"] == TEACHER:
            told["headline"] = "greedy"  # whatever the student's decoding is
        if told["headline"] in told:
            scores.setdefault(told["suite"], {})[told["mark"]] = told
    marks = tuple(Mark(row["mark"], row["meters"]) for row in read_lines(path / "marks.jsonl"))
    return Run(path, spec, (path / "manifest.json").exists(), marks, scores, label=spec["method"])


def select(names: Sequence[str], root: Path, *, digest: str = "", unfinished: bool = False) -> list[Run]:
    """The runs that are meant, by label and seed; a run that is named twice comes once.

    A name is a run's name, path or beginning of its identity, or a track (`pocket`, `pocket@5c1e`) for all its runs;
    without names it is every run below `root`. Runs that are not finished are left out, unless they are asked for.
    `digest` keeps the runs of those conditions only.

    Raises:
        SpecError: a name that fits no run, or more than one.
        StoreError: a run that is named has not finished.
        Incomparable: the runs were made under different conditions.
    """
    found: list[Run] = []
    everything: list[Run] | None = None
    for name in names or [""]:
        track, _, prefix = name.partition("@")
        if not name or ((root / track).is_dir() and not (root / track / "spec.json").is_file()):
            everything = _all(root) if everything is None else everything
            fits = [run for run in everything if track in ("", run.track) and run.digest.startswith(prefix)]
            if prefix and not fits:
                known = sorted({run.conditions for run in everything})
                raise SpecError(f"no run was made under {name}", where=name, fix=nearest(name, known))
            found += [run for run in fits if run.finished or unfinished]
        else:
            run = read(find(name, root))
            if not (run.finished or unfinished):
                raise StoreError(f"{run.name} has not finished", where=name, fix="repeat its `harness run` command")
            found.append(run)
    chosen = list({run.identity: run for run in found if run.digest.startswith(digest)}.values())
    _same_conditions(chosen)
    return sorted(labelled(chosen), key=lambda run: (run.label, run.seed))


def labelled(runs: Sequence[Run]) -> list[Run]:
    """The runs with labels that tell the settings of a method apart; a control whose signal was shuffled says so last."""
    settings: list[dict[str, Any]] = []
    told: dict[tuple[str, str], dict[str, int]] = {}  # how many runs of a method have each value of a setting
    for run in runs:
        settings.append({key: value for key, value in flat(run.spec["config"]).items() if not (run.shuffled and key == "signal")})
        for key, value in settings[-1].items():
            counts = told.setdefault((run.method, key), {})
            counts[canonical(value)] = counts.get(canonical(value), 0) + 1
    sizes = Counter(run.method for run in runs)
    controls = Counter(run.method for run in runs if run.shuffled)
    result = []
    for run, mine in zip(runs, settings, strict=True):
        words = [run.method]
        for key in sorted(mine):
            having = sizes[run.method] - (controls[run.method] if key == "signal" else 0)
            if told[run.method, key].get(canonical(mine[key])) != having:
                words.append(f"{key}={mine[key] if isinstance(mine[key], str) else canonical(mine[key])}")
        result.append(replace(run, label=" ".join([*words, "shuffled"] if run.shuffled else words)))
    return result


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots in the keys."""
    result: dict[str, Any] = {}
    for key, inner in value.items():
        result |= flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return result


def scored_alike(runs: Iterable[Run], suite: str) -> list[Run]:
    """The runs that the suite has scored.

    Raises:
        SpecError: none.
        Incomparable: they were made on different tracks, or scored by different versions of the suite or judges.
    """
    runs = list(runs)
    found = [run for run in runs if run.scored(suite)]
    if not found:
        known = sorted({name for run in runs for name in run.suites})
        fix = nearest(suite, known) if known else f"harness run --method ropd --suite {suite}"
        raise SpecError(f"none of {len(runs)} runs is scored on {suite!r}", where=suite, fix=fix)
    _same_conditions(found)
    graders: dict[str, set[tuple[str, str]]] = {}
    for run in found:
        for score in run.scores[suite].values():
            # the embedded judge's revision names the model pair, which the seed chooses
            ways = {"version": "version", "items and settings": "data", f"judge of seed {run.seed}": "judge"}
            for key, value in ((key, score[name]) for key, name in ways.items()):
                graders.setdefault(key, set()).add((str(value), run.name))
    for key, told in graders.items():
        if len({value for value, _ in told}) > 1:
            shown = "".join(f"\n  {value}   {name}" for value, name in sorted(told))
            raise Incomparable(
                f"these runs were not scored on {suite} in the same way; {key}:{shown}",
                where=suite, fix="name only runs that were scored alike, or run the others anew with --fresh",
            )  # fmt: skip
    return found


def by_label(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each label, by seed.

    Raises:
        SpecError: two runs with the same label and seed.
    """
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.label, run.seed)):
        group = groups.setdefault(run.label, [])
        if group and group[-1].seed == run.seed:
            both = f"{run.path} and {group[-1].path}"
            raise SpecError(f"two runs are {run.label} with seed {run.seed}: {both}", where=run.name, fix="name one of them")
        group.append(run)
    return groups


def common_marks(runs: Sequence[Run], suite: str) -> list[str]:
    """The marks at which all of the runs are scored, in order."""
    names = [{mark.name for mark in run.scored(suite)} for run in runs]
    return [mark.name for mark in runs[0].scored(suite) if all(mark.name in scored for scored in names)]


def aligned(*groups: Sequence[Mapping[str, float]]) -> list[NDArray[Any]]:
    """For each group of S item scores an array [S, I], over the I items that all of them share."""
    shared = sorted(set.intersection(*(set(scores) for group in groups for scores in group)))
    return [np.array([[scores[item] for item in shared] for scores in group], dtype=np.float64) for group in groups]


def reading(mark: Mark, meter: str) -> float:
    """A meter's reading at a mark; `teacher_tokens` and `critic_tokens` are sums.

    Raises:
        SpecError: no such meter.
    """
    parts = SUMS.get(meter, (meter,))
    if not set(parts) <= set(mark.meters):
        raise SpecError(f"no meter named {meter!r}", where=f"--meter {meter}", fix=nearest(meter, [*mark.meters, *SUMS]))
    return float(sum(mark.meters[part] for part in parts))


def _all(root: Path) -> list[Run]:
    folders = {path.parent for pattern in ("*/spec.json", "*/*/spec.json") for path in root.glob(pattern)}
    return [read(folder) for folder in sorted(folders) if ".old" not in folder.name]


def _same_conditions(runs: Sequence[Run]) -> None:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.conditions, []).append(run)
    if len(groups) < 2:
        return
    tracks = [flat(group[0].spec["track"]) for group in groups.values()]
    keys = sorted(key for key in set().union(*tracks) if len({canonical(track.get(key)) for track in tracks}) > 1)
    lines = [f"{len(runs)} runs were made under {len(groups)} different conditions, and only equal conditions share a table:"]
    for (name, group), track in zip(groups.items(), tracks, strict=True):
        told, members = _some([f"{key}={canonical(track.get(key))}" for key in keys]), _some([run.name for run in group])
        lines.append(f"  {name}   {told}   {members}")
    raise Incomparable("\n".join(lines), where=" ".join(groups), fix=f"choose one: harness report {next(iter(groups))}")


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")

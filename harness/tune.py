"""Choosing settings: the same number of trials over the same shared dimensions for every method, on items that no report shows.

Axes: T trials, S seeds, I items.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import Field, model_validator

from harness import registry, tracks
from harness.errors import SpecError
from harness.evaluate import item_scores, stored
from harness.seeds import digest
from harness.spec import canonical
from harness.store import RunStore, write_atomically
from harness.sweep.grid import Job, Point, job
from harness.tracks import Part, Track

SUITE = "alpaca"
POCKET_ITEMS = "pocket/tune/alpaca.json"
"""The embedded world's items from its tuning split, below `suites/data/`."""
FIRST_SEED = 9000
"""Trials take seeds from here up, apart from those that reports show."""
OWN = 2
"""Dimensions of its own that a method may have."""


class Range(Part):
    """A number drawn log-uniformly from `low` to `high`."""

    low: float = Field(gt=0)
    high: float

    @model_validator(mode="after")
    def _rises(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low:g} and {self.high:g}")
        return self

    def at(self, share: float) -> float:
        """The value below which that share of draws lies, to three digits."""
        return float(f"{self.low * (self.high / self.low) ** share:.3g}")


Choices = tuple[Any, ...]


class Shared(Part):
    learning_rate: Range = Field(description="times the track's")
    updates_per_batch: tuple[int, ...]
    shape: tuple[tuple[int, int], ...] = Field(description="prompts of a round, and answers to each where a method has groups")


class Space(Part):
    """What is searched: dimensions that all methods share, and at most two more of a method's own."""

    shared: Shared
    methods: dict[str, dict[str, Range | Choices]]

    @model_validator(mode="after")
    def _is_fair(self) -> Space:
        for method, own in self.methods.items():
            if len(own) > OWN:
                raise ValueError(f"{method} has {len(own)} dimensions of its own; a method may have {OWN}")
        return self


def shipped() -> Space:
    """The search space that comes with the package."""
    text = (resources.files("harness") / "data" / "tuning.yaml").read_text(encoding="utf-8")
    return Space.model_validate(yaml.safe_load(text))


def trials(method: str, track: Track, number: int, space: Space) -> list[dict[str, Any]]:
    """The settings of each trial. The first is empty, the track's own; the others follow one sequence for all methods.

    The sequence is a scrambled Halton sequence (Owen 2017, arXiv:1706.02808) with a fixed key: the shared dimensions have the
    same draws for every method, and fewer trials are the beginning of more.

    Raises:
        SpecError: fewer than two trials.
    """
    from scipy.stats import qmc

    if number < 2:
        raise SpecError(f"tuning compares at least two trials, got {number}", where=f"--trials {number}", fix="--trials 16")
    shares_TD = qmc.Halton(3 + OWN, scramble=True, seed=np.random.default_rng(digest("tuning trials"))).random(number - 1)
    rate, shared, own = track.optimizer.learning_rate, space.shared, space.methods.get(method, {})
    times = Range(low=rate * shared.learning_rate.low, high=rate * shared.learning_rate.high)
    grouped = "group_size" in registry.method(method).Config.model_fields
    found: list[dict[str, Any]] = [{}]
    for first, second, third, *rest in shares_TD.tolist():
        prompts, group = _pick(shared.shape, third)
        settings = {"learning_rate": times.at(first), "updates_per_batch": _pick(shared.updates_per_batch, second),
                    "prompts_per_round": prompts, **({"group_size": group} if grouped else {})}  # fmt: skip
        for (name, dimension), share in zip(own.items(), rest, strict=False):  # a method may have fewer of its own
            settings[name] = dimension.at(share) if isinstance(dimension, Range) else _pick(dimension, share)
        found.append(settings)
    return found


def _pick(values: Sequence[Any], share: float) -> Any:
    return values[int(share * len(values))]


def tuning_track(name: str, items: str | None, folder: Path) -> Path:
    """Writes `track.yaml`: the track with other items in its suite, those that settings are chosen on, by the headline alone.

    Args:
        name: a track, or a YAML file of one.
        items: a file in AlpacaEval's format; none is the embedded world's tuning split.

    Raises:
        SpecError: a track without that suite, without an embedded world and items, or items that a suite of the track asks.
    """
    track = tracks.load(name)
    if SUITE not in track.suites:
        raise SpecError(f"tuning scores the suite {SUITE!r}, which track {track.name} lacks", where=f"--track {name}",
                        fix=f"this track has: {', '.join(track.suites)}")  # fmt: skip
    if items is None and track.pocket is None:
        raise SpecError(f"track {track.name} has no tuning items of its own", where=f"--track {name}",
                        fix="--items FILE in AlpacaEval's format, with instructions that no reported suite asks")  # fmt: skip
    settings = {**track.suites[SUITE], "items": items or POCKET_ITEMS}
    if items is not None:
        _check_apart(track, settings, items)
    derived = {"extends": name, "name": f"{track.name}-tune", "summary": f"items to choose settings of {track.name} on",
               "suites": {SUITE: {"items": settings["items"]}}, "marks": ["0", "1"],
               "evaluation": {"temperatures": list(track.evaluation.temperatures[:1])}}  # fmt: skip
    write_atomically(folder / "track.yaml", yaml.safe_dump(derived, sort_keys=False))
    return folder / "track.yaml"


def _check_apart(track: Track, settings: Mapping[str, Any], items: str) -> None:
    from harness.materials import build_suite, the_suites

    mine = {item.question for item in build_suite(SUITE, settings, f"--items {items}").items()}
    for name, suite in the_suites(track, list(track.suites)).items():
        if both := sorted(mine & {item.question for item in suite.items()}):
            raise SpecError(
                f"{len(both)} of {len(mine)} tuning items are asked by the suite {name!r} too, for example {both[0][:60]!r}",
                where=f"--items {items}", fix="take them out: settings may not be chosen on what is reported",
            )  # fmt: skip


def trial_jobs(
    method: str, settings_T: Sequence[Mapping[str, Any]], track: str, budget: dict[str, float], seeds: int
) -> list[Job]:
    """The runs of all trials of a method: every trial under the same seeds.

    Raises:
        SpecError: a setting that does not fit the method.
    """
    return [
        job(Point(track, budget, FIRST_SEED + seed, method, settings), (), (SUITE,))
        for settings in settings_T for seed in range(seeds)
    ]  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One setting with what came of it."""

    settings: Mapping[str, Any]
    runs: tuple[str, ...]
    """Identities, by seed."""
    scores: tuple[Mapping[str, float], ...]
    """Item scores at the end by seed; empty where a run failed."""
    failed: str = ""
    """What a failed run said."""

    @property
    def score(self) -> float | None:
        """The mean over seeds of the mean over items."""
        return float(np.mean([np.mean(list(scores.values())) for scores in self.scores])) if self.scores else None


def read_trial(settings: Mapping[str, Any], jobs: Sequence[Job], root: Path, failed: str) -> Trial:
    """A trial from the folders of its runs (one a seed); with `failed` it has no scores."""
    stores = [] if failed else [each.store(root) for each in jobs]
    return Trial(settings, tuple(each.spec.identity for each in jobs), tuple(map(_end_scores, stores)), failed)


def _end_scores(store: RunStore) -> dict[str, float]:
    return item_scores(store.evaluation(SUITE), "1", stored(store, SUITE, "1")["headline"])


def best(trials_T: Sequence[Trial]) -> int | None:
    """The trial with the highest score, the earlier one of equals; none where all failed."""
    scores = {number: trial.score for number, trial in enumerate(trials_T) if trial.score is not None}
    return max(scores, key=lambda number: (scores[number], -number)) if scores else None


def verdict(trials_T: Sequence[Trial]) -> dict[str, Any]:
    """The best trial, with intervals of its score, of the default's, and of their difference, seed by seed and item by item.

    The best of many is a lucky one: its score is too high on average, and so is the difference. Both say what was chosen
    on, not what will be reported.
    """
    number = best(trials_T)
    if number is None:
        return {"chosen": None}
    chosen, default = trials_T[number], trials_T[0]
    told: dict[str, Any] = {"chosen": number, "settings": dict(chosen.settings), "score": _interval(chosen.scores)}
    if not default.scores:
        return {**told, "default": None, "difference": None}
    return {**told, "default": _interval(default.scores), "difference": _interval(chosen.scores, default.scores)}


def _interval(scores_S: Sequence[Mapping[str, float]], against_S: Sequence[Mapping[str, float]] = ()) -> dict[str, Any]:
    """The interval of scores or, with `against_S`, of the paired difference, over the items that all have."""
    from harness.report import stats

    items = sorted(set.intersection(*(set(scores) for scores in [*scores_S, *against_S])))
    first_SI, second_SI = ([[scores[item] for item in items] for scores in side] for side in (scores_S, against_S))
    found = stats.paired(first_SI, second_SI) if against_S else stats.interval(first_SI)
    return {key: value for key, value in asdict(found).items() if key != "p" or against_S}


def write_log(path: Path, head: Mapping[str, Any], trials_T: Sequence[Trial], outcome: Mapping[str, Any]) -> None:
    """A line with the conditions, a line a trial, and a line with the choice: equal trials give equal bytes."""
    rows = [{"trial": number, **told(trial)} for number, trial in enumerate(trials_T)]
    _write(path, [{"schema": "harness.tuning/1", **head}, *rows, outcome])


def told(trial: Trial) -> dict[str, Any]:
    """What a log says of a trial."""
    row = {"settings": trial.settings, "runs": trial.runs, "score": trial.score}
    seeds = [float(np.mean(list(scores.values()))) for scores in trial.scores]
    return {**row, "failed": trial.failed} if trial.failed else {**row, "by_seed": seeds}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_atomically(path, "".join(canonical(row) + "\n" for row in rows))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def finalists(path: Path, count: int, digest: str) -> dict[int, dict[str, Any]]:
    """The settings of the best trials of a log by their numbers, the best first (Jamieson and Talwalkar 2016 halve so).

    Args:
        digest: of the conditions that trials would have now.

    Raises:
        SpecError: no log, one of other conditions, or all its trials failed.
    """
    if not path.is_file():
        raise SpecError(f"no log {path}", where=f"--out {path.parents[1]}", fix=f"harness tune {path.stem} --trials 16")
    head, *rows = _lines(path)
    if not head["digest"].startswith(digest):
        raise SpecError(f"the trials of {path} were made on other conditions ({head['digest'][:8]}, now {digest[:8]})",
                        where=str(path), fix=f"make them again: harness tune {path.stem} --trials {head['trials']}")  # fmt: skip
    scored = [row for row in rows if row.get("score") is not None and "trial" in row]
    if not scored:
        raise SpecError(f"all trials of {path} failed", where=str(path), fix="widen the search, or leave the method out")
    ordered = sorted(scored, key=lambda row: (-row["score"], row["trial"]))
    return {row["trial"]: row["settings"] for row in ordered[:count]}


def write_finals(path: Path, terms: Mapping[str, Any], finals: Mapping[int, Trial]) -> dict[str, Any]:
    """Adds to a log a line with the finals' conditions, a line a finalist and the choice, which replaces any older one.

    Returns the choice: the highest mean over seeds, the better trial of equals, with its paired difference to the next.
    """
    kept = [row for row in _lines(path) if "trial" in row or "trials" in row]
    numbers, trials_F = list(finals), list(finals.values())
    scores = {place: trial.score for place, trial in enumerate(trials_F) if trial.score is not None}
    order = sorted(scores, key=lambda place: -scores[place])
    outcome: dict[str, Any] = {"chosen": None}
    if order:
        chosen = trials_F[order[0]]
        outcome = {"chosen": numbers[order[0]], "settings": dict(chosen.settings), "score": _interval(chosen.scores)}
    if len(order) > 1:
        outcome["next"] = numbers[order[1]]
        outcome["difference"] = _interval(chosen.scores, trials_F[order[1]].scores)
    rows = [{"finalist": number, **told(trial)} for number, trial in finals.items()]
    _write(path, [*kept, {"finals": len(finals), **terms}, *rows, outcome])
    return outcome


def tuned_track(name: str, folder: Path) -> Path:
    """Writes `tuned.yaml`: the track with what all logs of a folder chose, and how many trials each method had.

    Raises:
        SpecError: the logs do not agree in trials, seeds, budget, items, shared dimensions or finals.
    """
    overrides: dict[str, Any] = {}
    counts: dict[str, int] = {}
    first: tuple[str, dict[str, Any]] | None = None
    for path in sorted(folder.glob("*.jsonl")):
        lines = _lines(path)
        head, chosen = lines[0], lines[-1]
        finals = next((line for line in lines if "finals" in line), {})
        method, terms = head["method"], {key: value for key, value in (head | finals).items() if key not in ("method", "own")}
        other, alike = first = first or (path.name, terms)
        apart = sorted(key for key in {*terms, *alike} if terms.get(key) != alike.get(key))
        if apart:
            raise SpecError(f"{path.name} and {other} were not tuned alike: {', '.join(apart)} differ", where=str(folder),
                            fix="tune both with the same options, or into another --out")  # fmt: skip
        counts[method] = head["trials"] + finals.get("finals", 0)
        if chosen["chosen"]:
            overrides[method] = chosen["settings"]
    track = {"extends": name, "name": f"{tracks.load(name).name}-tuned", "overrides": overrides, "tuned": counts}
    write_atomically(folder / "tuned.yaml", yaml.safe_dump(track, sort_keys=False))
    return folder / "tuned.yaml"

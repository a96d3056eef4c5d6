"""Runs read back from their folders or summaries, and which of them may stand side by side.

Axes: S seeds, I items.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError, SpecError, StoreError, nearest
from harness.report import summary
from harness.report.labels import flat, labelled
from harness.report.run import TEACHER as TEACHER
from harness.report.run import Mark as Mark
from harness.report.run import Run as Run
from harness.spec import canonical
from harness.store import find, read_lines

SUMS = {
    "teacher_tokens": ("teacher_tokens_in", "teacher_tokens_out", "teacher_scored_tokens"),
    "critic_tokens": ("critic_tokens_in", "critic_tokens_out"),
}
"""Readings that are sums of meters."""


class Incomparable(HarnessError):
    """Runs that were not made or scored under equal conditions."""

    exit_code = 4
    code = "H080"


def read(path: Path) -> Run:
    """One run, finished or not, from its folder, or from its summary: `PATH.run.json`. Its label is its method.

    Raises:
        StoreError: there is no run, or its summary is damaged.
    """
    if summary.file_of(path).is_file():
        return summary.read(path)
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
    """The runs that are meant (see `meant`), by label and seed. `digest` keeps the runs of those conditions only.

    Raises:
        SpecError, StoreError: as `meant`.
        Incomparable: the runs were made under different conditions.
    """
    chosen = [run for run in meant(names, root, unfinished=unfinished) if run.digest.startswith(digest)]
    _same_conditions(chosen)
    return sorted(labelled(chosen), key=lambda run: (run.label, run.seed))


def meant(names: Sequence[str], root: Path, *, unfinished: bool = False) -> list[Run]:
    """The runs that names mean, under whatever conditions; a run that is named twice comes once.

    A name is a run's name, path or beginning of its identity, a track (`pocket`, `pocket@5c1e`) for all its runs, or a folder
    of summaries; without names it is every run below `root`. Runs that are not finished are left out, unless they are asked for.

    Raises:
        SpecError: a name that fits no run, or more than one.
        StoreError: a run that is named has not finished, or a summary is damaged.
    """
    found: list[Run] = []
    everything: list[Run] | None = None
    for name in names or [""]:
        track, _, prefix = name.partition("@")
        if name and (within := summaries(Path(name))):
            found += map(read, within)
        elif not name or _has_track(track, root):
            everything = _all(root) if everything is None else everything
            fits = [run for run in everything if track in ("", run.track, run.path.parent.name) and run.digest.startswith(prefix)]
            if prefix and not fits:
                known = sorted({run.conditions for run in everything})
                raise SpecError(f"no run was made under {name}", where=name, fix=nearest(name, known))
            found += [run for run in fits if run.finished or unfinished]
        else:
            place = Path(name.removesuffix(summary.SUFFIX))
            run = read(place if summary.file_of(place).is_file() else find(name, root, summaries(root)))
            if not (run.finished or unfinished):
                raise StoreError(f"{run.name} has not finished", where=name, fix="repeat its `harness run` command")
            found.append(run)
    return list({run.identity: run for run in found}.values())


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
    return [read(place) for place in [*(each for each in sorted(folders) if ".old" not in each.name), *summaries(root)]]


def summaries(root: Path) -> list[Path]:
    """The places of all summaries in a folder and in those below it."""
    files = [path for pattern in ("", "*/") for path in root.glob(f"{pattern}*{summary.SUFFIX}")]
    return sorted(path.with_name(path.name.removesuffix(summary.SUFFIX)) for path in files)


def _has_track(name: str, root: Path) -> bool:
    """Whether a name is that of a folder of runs below the root, or of the track of summaries there."""
    if (root / name).is_dir():
        return not (root / name / "spec.json").is_file()
    return any(place.parent.name.startswith(f"{name}-") for place in summaries(root))


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
    first = next(iter(groups))
    fix = f"choose one: harness report {first}; harness claims --runs {first}"
    raise Incomparable("\n".join(lines), where=" ".join(groups), fix=fix)


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")

"""What finished runs tell a plan: how long texts were on a track, and what a method used up there, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from harness.ledger import METERS
from harness.plan.voices import Said
from harness.spec import RunSpec
from harness.store import read_lines

GROUPS = 2000
"""Groups of answers that are read, at most, all runs together."""


@dataclass(frozen=True)
class Past:
    """A finished run of the same models, prompts and lengths."""

    folder: Path
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name


def finished(spec: RunSpec, root: Path) -> list[Past]:
    """The finished runs below the track's folder whose models, prompts and lengths are those of the spec."""
    wanted = _signature(spec.model_dump(mode="json")["track"])
    found = []
    for path in sorted((root / spec.track.name).glob("*/spec.json")):
        folder = path.parent
        if ".old" not in folder.name and (folder / "manifest.json").exists():
            told = json.loads(path.read_text(encoding="utf-8"))
            if _signature(told["track"]) == wanted:
                found.append(Past(folder, told))
    return found


def _signature(track: Mapping[str, Any]) -> list[Any]:
    """What decides how much a method asks on a track."""
    roles = [(track.get(role) or {}).get("model") for role in ("teacher", "critic")]
    most, solutions = track["training"].get("max_tokens"), track.get("solutions")
    return [track["student"]["path"], *roles, track["prompts"]["source"], most, solutions]


def like(spec: RunSpec, runs: Sequence[Past]) -> list[Past]:
    """Those of the runs that were made by the same method with the same settings, whatever seed and budget."""
    told = spec.model_dump(mode="json")
    return [run for run in runs if run.spec["method"] == spec.method and run.spec["config"] == told["config"]]


def heard(runs: Sequence[Past]) -> tuple[tuple[Said, ...], ...]:
    """Groups of answers that students really gave, at most `GROUPS`, of all runs alike."""
    rows = [islice(_groups(run), -(-GROUPS // max(1, len(runs)))) for run in runs]
    return tuple(group for each in rows for group in each)[:GROUPS]


def _groups(run: Past) -> Iterator[tuple[Said, ...]]:
    for row in read_lines(run.folder / "rollouts.jsonl"):
        group = tuple(Said(each["text"], each["tokens"]) for each in row["rollouts"] if each["sampled"])
        if group:
            yield group


def rates(run: Past, warm_prompts: int) -> tuple[dict[str, float] | None, dict[str, float]]:
    """What a prompt of the warm start, and one of the method's own, used up of each meter, from the ledger's rounds."""
    rows = [row["training"] for row in read_lines(run.folder / "ledger.jsonl")]
    start = dict.fromkeys(METERS, 0.0)
    warm = next((row for row in reversed(rows) if row["prompts"] <= warm_prompts), start)
    return (_each(start, warm) if warm["prompts"] else None), _each(warm, rows[-1])


def _each(start: Mapping[str, float], end: Mapping[str, float]) -> dict[str, float]:
    prompts = end["prompts"] - start["prompts"]
    return {meter: (end.get(meter, 0.0) - start.get(meter, 0.0)) / prompts if prompts else 0.0 for meter in METERS}


def mean_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Meter by meter."""
    return {meter: sum(row[meter] for row in rows) / len(rows) for meter in METERS}

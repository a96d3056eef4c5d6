"""A run's summary: one small file with what reports read, and no answers. It is what a repository keeps of a run.

Summaries of equal conditions share a folder, and there the parts that are equal in many of them: the track, the machine and
the ids of items lie once each, named by their digests. Item scores are kept on the grid of `harness.report.run`, to which
reports round them wherever they come from, so that a summary gives the same tables as its run to the last byte.

Axes: I items, M marks.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np

from harness.errors import StoreError
from harness.ledger import METERS
from harness.report.run import TEACHER, Mark, Run, from_grid, to_grid
from harness.spec import canonical, digest_of, identity_of
from harness.store import suite_stem, write_atomically

SCHEMA = "harness.summary/1"
SUFFIX = ".run.json"
"""How a summary's name ends; the run's own name stands before it."""
OF_A_RUN = ("harness", "source", "commit", "dirty", "started")
"""What each run tells of its environment itself; the rest, which runs share, lies beside it."""
HEAD = ("schema", "suite", "version", "data", "metric", "scale", "n", "headline", "judge")
"""What is kept of a mark's scores beside its metrics."""
COUNTS = ("empty", "truncated", "lost", "tokens")
"""What is kept of the headline decoding beside its metrics."""
METRIC = ("value", "stderr", "n", "missing")
"""Of the headline metric; of gold and of other decodings the value alone is kept."""
REFERENCES = ("0", TEACHER)
"""Marks whose item scores are equal in many runs, as the student and the teacher are."""


@dataclass(frozen=True)
class Summarised(Run):
    """A run that was read from its summary. It has no answers, verdicts or rollouts."""

    kept: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The environment, origins, evaluation and signals of `Run`."""

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        return self.kept["environment"]

    @cached_property
    def origins(self) -> Mapping[str, str]:
        return self.kept["origins"]

    @cached_property
    def evaluation(self) -> Mapping[str, float]:
        return self.kept["evaluation"]

    @cached_property
    def signals(self) -> Mapping[str, Mapping[str, float]]:
        return self.kept["signals"]


def write(run: Run, root: Path) -> Path:
    """Writes `TRACK-DIGEST/NAME.run.json` below a root, with the parts that it shares, and returns its path.

    The same run gives the same bytes, and so does its summary, summarised again.

    Raises:
        StoreError: the run has not finished.
    """
    if not run.finished:
        raise StoreError(f"{run.name} has not finished", where=str(run.path), fix="repeat its `harness run` command")
    folder = root / f"{run.track}-{run.digest[:8]}"
    own = {key: run.environment[key] for key in OF_A_RUN if key in run.environment}
    machine = {key: value for key, value in run.environment.items() if key not in own}
    told: dict[str, Any] = {
        "schema": SCHEMA, "identity": run.identity, "method": run.method, "config": run.spec["config"], "seed": run.seed,
        "track": _shared(folder, "track", run.spec["track"]),
        "origins": {key: who for key, who in run.origins.items() if who != "default"} if run.origins else None,
        "environment": own, "machine": _shared(folder, "environment", machine),
        "marks": [mark.name for mark in run.marks],
        "meters": {meter: [mark.meters[meter] for mark in run.marks] for meter in sorted({
            meter for mark in run.marks for meter, amount in mark.meters.items() if amount
        })},
        "evaluation": {meter: amount for meter, amount in run.evaluation.items() if amount},
        "signals": run.signals,
        "suites": {suite: _suite(run, suite, folder) for suite in run.suites},
    }  # fmt: skip
    path = file_of(folder / run.name)
    lines = ",\n".join(f"{canonical(key)}:{canonical(told[key])}" for key in sorted(told))
    write_atomically(path, f"{{\n{lines}\n}}\n")
    return path


def file_of(place: Path) -> Path:
    """Where the summary of a run lies whose path is told as `place`."""
    return place.with_name(f"{place.name}{SUFFIX}")


def read(place: Path) -> Summarised:
    """The run whose summary is `PLACE.run.json`.

    Raises:
        StoreError: it, or a part that it shares with others, is missing or damaged.
    """
    path = file_of(place)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != SCHEMA:
            raise ValueError(f"it says {told['schema']!r}, and {SCHEMA!r} can be read")
        spec = {"method": told["method"], "config": told["config"], "seed": told["seed"], "track": _part(path, told["track"])}
        if identity_of(spec) != told["identity"]:
            raise ValueError("its settings are not those of its identity")
        scores, items = {}, {}
        for suite, of_suite in told["suites"].items():
            scores[suite] = _scores(of_suite)
            items.update(_items(suite, scores[suite], of_suite, path))
        kept = {
            "environment": told["environment"] | _part(path, told["machine"]),
            "origins": {} if told["origins"] is None else dict.fromkeys(sorted(told["config"]), "default") | told["origins"],
            "evaluation": told["evaluation"], "signals": told["signals"],
        }  # fmt: skip
        meters = sorted({*METERS, *told["meters"]})
        marks = tuple(
            Mark(name, {meter: told["meters"][meter][place] if meter in told["meters"] else 0 for meter in meters})
            for place, name in enumerate(told["marks"])
        )
    except (OSError, LookupError, TypeError, ValueError, zlib.error) as error:
        told_of = f"no {error}" if isinstance(error, KeyError) else error
        fix = "write it anew from its run: harness summarize"
        raise StoreError(f"the summary {path} cannot be read: {told_of}", where=str(path), fix=fix) from error
    return Summarised(place, spec, True, marks, scores, spec["method"], items, kept=kept)


def _shared(folder: Path, kind: str, value: Any) -> str:
    """Writes a value once, under the name that is returned."""
    name = f"{kind}-{digest_of(value)[:16]}"
    write_atomically(folder / f"{name}.json", f"{canonical(value)}\n")
    return name


def _part(path: Path, name: str) -> Any:
    """A shared value of the summary at a path."""
    value = json.loads((path.parent / f"{name}.json").read_text(encoding="utf-8"))
    if digest_of(value)[:16] != name[-16:]:
        raise ValueError(f"{name}.json does not hold what its name says")
    return value


def _suite(run: Run, suite: str, folder: Path) -> dict[str, Any]:
    """What a suite says, by columns with a value a mark; a column of equal values has one."""
    names = [mark.name for mark in run.scored(suite)]
    names += [TEACHER] * (TEACHER in run.scores[suite])
    rows = [run.scores[suite][name] for name in names]
    decodings: dict[str, dict[str, list[Any]]] = {}
    for place, row in enumerate(rows):
        for how, graded in row.items():
            if isinstance(graded, dict) and row["metric"] in graded:
                for key, cell in _told(graded, row["metric"], how == row["headline"]).items():
                    decodings.setdefault(how, {}).setdefault(key, [None] * len(rows))[place] = cell
    steps = {name: {item: to_grid(score, run.scale(suite)) for item, score in run.items(suite, name).items()} for name in names}
    ids = sorted(set().union(*steps.values()))
    references = _packed([steps[name] for name in names if name in REFERENCES], ids)
    own = _packed([steps[name] for name in names if name not in REFERENCES], ids)
    stem = suite_stem(suite)
    return {
        "marks": names, "head": {key: _column([row.get(key) for row in rows]) for key in HEAD},
        "decodings": {how: {key: _column(cells) for key, cells in told.items()} for how, told in decodings.items()},
        "ids": _shared(folder, f"items-{stem}", ids), "references": _shared(folder, f"references-{stem}", references),
        "items": own,
    }  # fmt: skip


def _told(graded: Mapping[str, Any], metric: str, headline: bool) -> dict[str, Any]:
    """What is kept of a decoding at a mark; metrics are lists of the first parts of `METRIC`."""
    if not headline:
        return {metric: [graded[metric]["value"]]}
    kept: dict[str, Any] = {metric: [graded[metric][part] for part in METRIC]}
    kept |= {"gold": [graded["gold"]["value"]]} if "gold" in graded else {}
    return kept | {key: graded[key] for key in COUNTS if key in graded}


def _scores(told: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of a suite by mark, from their columns."""
    names, result = told["marks"], {}
    for place, name in enumerate(names):
        row = {"mark": name, **{key: _cell(cells, place) for key, cells in told["head"].items()}}
        for how, columns in told["decodings"].items():
            cells = {key: _cell(column, place) for key, column in columns.items()}
            graded = {
                key: cell if key in COUNTS else dict(zip(METRIC[: len(cell)], cell, strict=True))
                for key, cell in cells.items() if cell is not None
            }  # fmt: skip
            row |= {how: graded} if graded else {}
        result[name] = row
    return result


def _column(cells: list[Any]) -> list[Any]:
    return cells[:1] if all(cell == cells[0] for cell in cells) else cells


def _cell(cells: Sequence[Any], place: int) -> Any:
    return cells[place if len(cells) > 1 else 0]


def _packed(steps: Sequence[Mapping[str, int]], ids: Sequence[str]) -> dict[str, Any]:
    """Steps of the grid for each item and mark, less the lowest of them, deflated and as text of base 85 (RFC 1924's letters).

    An item without a score has the number above the highest. An item's marks lie side by side, since most answers stay
    the same from mark to mark.
    """
    low = min((step for row in steps for step in row.values()), default=0)
    none = max((step for row in steps for step in row.values()), default=low - 1) - low + 1
    kind = np.min_scalar_type(none).newbyteorder("<")
    steps_IM = np.array([[row.get(item, low + none) - low for row in steps] for item in ids], dtype=kind)
    data = base64.b85encode(zlib.compress(steps_IM.tobytes(), 9)).decode()
    return {"low": low, "none": none, "type": kind.str, "data": data}


def _unpacked(told: Mapping[str, Any], items: int) -> list[list[int | None]]:
    """For each mark the steps of so many items, as they were before `_packed`."""
    data = zlib.decompress(base64.b85decode(told["data"]))
    steps_MI = np.frombuffer(data, dtype=told["type"]).reshape(items, -1).T.tolist()
    return [[None if step == told["none"] else told["low"] + step for step in row] for row in steps_MI]


def _items(
    suite: str, scores: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any], path: Path
) -> dict[tuple[str, str], dict[str, float]]:
    """The item scores of a suite, by suite and mark."""
    ids = [intern(item) for item in _part(path, told["ids"])]
    own, references = told["items"], _part(path, told["references"])
    marks = sorted(scores, key=lambda mark: mark in REFERENCES)  # the order of the marks, the references last
    rows = _unpacked(own, len(ids)) + _unpacked(references, len(ids))
    return {
        (suite, mark): {
            item: from_grid(step, scores[mark]["scale"]) for item, step in zip(ids, row, strict=True) if step is not None
        }
        for mark, row in zip(marks, rows, strict=True)
    }  # fmt: skip

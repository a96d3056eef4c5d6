"""What the command `tune` does: runs every trial of every method, writes the logs, and a track with what they chose."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import environment, tracks, tune
from harness.commands.sweep import conduct, rehearse, settle
from harness.errors import RunFault, SpecError
from harness.ledger import COUNTED
from harness.sweep.grid import Job
from harness.sweep.grid import typed as typed_value
from harness.sweep.local import Local

SHARE = 0.25
"""The share of the track's budget that a trial has unless one is given."""


@dataclass(frozen=True)
class Wanted:
    """What was asked for."""

    methods: Sequence[str]
    track: str
    trials: int
    seeds: int
    budget: dict[str, float] | None
    items: str | None
    out: Path
    jobs: int
    finals: int
    """Trials of each log that are run again; 0 makes the trials."""
    display: str | None
    dry_run: bool
    as_json: bool
    typed: Sequence[str]


def tune_command(wanted: Wanted) -> None:
    """Tunes methods side by side.

    Raises:
        SpecError: no methods, or what was asked for does not fit.
        RunFault: a run failed for a reason that is no fault of its settings, or every trial of a method did.
        Interrupted: the user stopped it.
    """
    if not wanted.methods:
        raise SpecError("no method to tune", where="harness tune", fix="for example: harness tune ropd sft, or: --all")
    track, space = tracks.load(wanted.track), tune.shipped()
    folder = wanted.out / track.name
    path = tune.tuning_track(wanted.track, wanted.items, folder)
    if wanted.finals:
        _finals(wanted, folder, path)
        return
    budget = wanted.budget or {
        meter: max(1, math.floor(amount * SHARE)) if meter in COUNTED else amount * SHARE
        for meter, amount in track.budget.items()
    }
    settings = {method: tune.trials(method, track, wanted.trials, space) for method in wanted.methods}
    jobs = {method: tune.trial_jobs(method, settings[method], str(path), budget, wanted.seeds) for method in wanted.methods}
    everything = [job for each in jobs.values() for job in each]
    if wanted.dry_run:
        rehearse(everything, wanted.as_json)
        return
    faults = _run(everything, wanted)
    table, searched = _table(), space.model_dump(mode="json")
    for method in wanted.methods:
        found = _found(settings[method], jobs[method], wanted.seeds, faults)
        head = {
            "method": method, "track": track.name, "digest": everything[0].spec.track.digest, "budget": budget,
            "trials": wanted.trials, "seeds": _seeds(jobs[method], wanted.seeds), "items": wanted.items or tune.POCKET_ITEMS,
            "shared": searched["shared"], "own": searched["methods"].get(method, {}),
        }  # fmt: skip
        outcome = tune.verdict(found)
        tune.write_log(folder / f"{method}.jsonl", head, found, outcome)
        _row(table, method, outcome)
    _conclude(wanted, folder, table)


def _finals(wanted: Wanted, folder: Path, path: Path) -> None:
    """Runs the best trials of each log again, at the track's own budget unless another is given, and chooses among them."""
    track = tracks.load(str(path))
    budget = wanted.budget or dict(track.budget)
    digest = tracks.load(str(path), _budget_of(folder, wanted.methods)).digest
    chosen = {method: tune.finalists(folder / f"{method}.jsonl", wanted.finals, digest) for method in wanted.methods}
    jobs = {
        method: tune.trial_jobs(method, list(settings.values()), str(path), budget, wanted.seeds)
        for method, settings in chosen.items()
    }
    everything = [job for each in jobs.values() for job in each]
    if wanted.dry_run:
        rehearse(everything, wanted.as_json)
        return
    faults, table = _run(everything, wanted), _table()
    for method, settings in chosen.items():
        found = _found(list(settings.values()), jobs[method], wanted.seeds, faults)
        terms = {"final_budget": budget, "final_seeds": _seeds(jobs[method], wanted.seeds)}
        outcome = tune.write_finals(folder / f"{method}.jsonl", terms, dict(zip(settings, found, strict=True)))
        _row(table, method, outcome)
    _conclude(wanted, folder, table)


def _budget_of(folder: Path, methods: Sequence[str]) -> dict[str, float]:
    """The budget of the trials that the logs of a folder tell of."""
    logs = [folder / f"{method}.jsonl" for method in methods]
    lines = [path.read_text(encoding="utf-8").splitlines() for path in logs if path.is_file()]
    return dict(json.loads(lines[0][0])["budget"]) if lines else {}


def _run(everything: Sequence[Job], wanted: Wanted) -> dict[Job, str]:
    """Makes the runs; what those said that failed by their settings' fault."""
    states, failures, stopped = conduct(everything, Local(wanted.jobs), wanted.display, wanted.as_json)
    faults = {outcome.job: outcome.error for outcome in failures if outcome.error.startswith(f"error[{RunFault.code}]")}
    settle(states, [outcome for outcome in failures if outcome.job not in faults], stopped, wanted.typed)
    return faults


def _seeds(jobs: Sequence[Job], count: int) -> list[int]:
    return [job.point.seed for job in jobs[:count]]


def _found(
    settings_T: Sequence[Mapping[str, Any]], jobs: Sequence[Job], seeds: int, faults: Mapping[Job, str]
) -> list[tune.Trial]:
    """What came of each trial."""
    groups = [jobs[first : first + seeds] for first in range(0, len(jobs), seeds)]
    errors = [next((faults[job] for job in group if job in faults), "") for group in groups]
    return [
        tune.read_trial(given, group, environment.runs_dir(), error)
        for given, group, error in zip(settings_T, groups, errors, strict=True)
    ]


def _conclude(wanted: Wanted, folder: Path, table: Table) -> None:
    written = tune.tuned_track(wanted.track, folder)
    if not wanted.as_json and (wanted.display or environment.display()) != "none":
        Console(highlight=False).print(table)
        sys.stderr.write(f"wrote {folder}; settings were chosen on scores, so these are too high: report others\n"
                         f"next  harness sweep -m {','.join(wanted.methods)} --seeds 3 --track {written}\n")  # fmt: skip


def _table() -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("method", "default", "best", "difference", "95 % CI", "settings"):
        table.add_column(head, overflow="fold")
    return table


def _row(table: Table, method: str, outcome: Mapping[str, Any]) -> None:
    if outcome["chosen"] is None:
        table.add_row(method, "-", "-", "-", "-", "every trial failed")
        return
    default, moved = outcome.get("default"), outcome.get("difference")
    told = " ".join(f"{name}={typed_value(value)}" for name, value in outcome["settings"].items()) or "the default's"
    before = f"{default['mean']:.3f}" if default else "failed" if "default" in outcome else "-"
    table.add_row(
        method, before, f"{outcome['score']['mean']:.3f}",
        f"{moved['mean']:+.3f}" if moved else "-", f"{moved['lo']:+.3f} to {moved['hi']:+.3f}" if moved else "-", told,
    )  # fmt: skip

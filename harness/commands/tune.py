"""What the command `tune` does: runs every trial of every method, writes the logs, and a track with what they chose."""

from __future__ import annotations

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
    states, failures, stopped = conduct(everything, Local(wanted.jobs), wanted.display, wanted.as_json)
    faults = {outcome.job: outcome.error for outcome in failures if outcome.error.startswith(f"error[{RunFault.code}]")}
    settle(states, [outcome for outcome in failures if outcome.job not in faults], stopped, wanted.typed)
    table, searched = _table(), space.model_dump(mode="json")
    for method in wanted.methods:
        mine = [jobs[method][first : first + wanted.seeds] for first in range(0, len(jobs[method]), wanted.seeds)]
        errors = [next((faults[job] for job in group if job in faults), "") for group in mine]
        found = [
            tune.read_trial(given, group, environment.runs_dir(), error)
            for given, group, error in zip(settings[method], mine, errors, strict=True)
        ]
        head = {
            "method": method, "track": track.name, "digest": everything[0].spec.track.digest, "budget": budget,
            "trials": wanted.trials, "seeds": [job.point.seed for job in mine[0]], "items": wanted.items or tune.POCKET_ITEMS,
            "shared": searched["shared"], "own": searched["methods"].get(method, {}),
        }  # fmt: skip
        outcome = tune.verdict(found)
        tune.write_log(folder / f"{method}.jsonl", head, found, outcome)
        _row(table, method, outcome)
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
    default, moved = outcome["default"], outcome["difference"]
    told = " ".join(f"{name}={typed_value(value)}" for name, value in outcome["settings"].items()) or "the default's"
    table.add_row(
        method, f"{default['mean']:.3f}" if default else "failed", f"{outcome['score']['mean']:.3f}",
        f"{moved['mean']:+.3f}" if moved else "-", f"{moved['lo']:+.3f} to {moved['hi']:+.3f}" if moved else "-", told,
    )  # fmt: skip

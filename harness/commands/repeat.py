"""The command `repeat`: a finished run is made again from its spec, and compared with what it left."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from harness import environment
from harness.errors import SpecError, StoreError
from harness.report.run import TEACHER, Run

APART = frozenset({"environment", "machine"})
"""Parts of a summary that tell of when and where a run was made."""


def repeat_command(names: Sequence[str]) -> None:
    """Repeats one of the finished runs that names mean, drawn at random where they mean several.

    Args:
        names: as `runs.meant` takes them.

    Raises:
        StoreError: there is no finished run.
        SpecError: it was made with other embedded models.
        HarnessError: the run could not be made.
        typer.Exit: with code 1, where anything came out otherwise.
    """
    from harness.report import runs

    root = environment.runs_dir()
    found = runs.meant(names, root)
    if not found:
        raise StoreError(f"no finished run in {root}", where=str(root), fix="harness run --method ropd --suite alpaca")
    chosen, began = random.SystemRandom().choice(found), time.monotonic()
    typer.echo(f"repeating {chosen.name} ({', '.join(chosen.suites)}), one of {len(found)}", err=True)
    told = differing(chosen)
    for line in told:
        typer.echo(line)
    if told:
        typer.echo(f"{chosen.name} came out otherwise in {len(told)} places", err=True)
        raise typer.Exit(1)
    typer.echo(f"{chosen.name} came out the same: meters, signals, scores and every item   {time.monotonic() - began:.0f} s")


def differing(run: Run) -> list[str]:
    """What of a finished run's summary is otherwise when the run is made again, a line a place; empty where nothing is.

    Raises:
        SpecError: it was made with other embedded models.
        HarnessError: the run could not be made.
    """
    from harness.gate.runs import differences
    from harness.report import runs

    with tempfile.TemporaryDirectory(prefix="harness-repeat-") as folder:
        again = runs.read(_made_again(run, Path(folder)))
        before, now = _summary(run, Path(folder) / "before"), _summary(again, Path(folder) / "now")
    return [f"{name}   {old[:80]} -> {new[:80]}" for name, old, new in differences(before, now)]


def _made_again(run: Run, folder: Path) -> Path:
    from harness.gate.runs import Silent, apart
    from harness.loop import score_marks, train
    from harness.spec import Origins, RunSpec
    from harness.tracks import content_of

    spec = RunSpec.model_validate(run.spec)
    if (world := spec.track.pocket) and world.content != content_of(world.scale):
        raise SpecError(f"{run.name} was made with other embedded models ({world.content}, now {content_of(world.scale)})",
                        where=run.name, fix="check out the commit that its environment names")  # fmt: skip
    ends = {suite for suite in run.suites if len(set(run.scores[suite]) - {TEACHER}) < len(run.marks)}
    with apart(spec, Origins(config=dict(run.origins)), run.suites, folder, ends) as (made, store):
        train(made, store, Silent())
        score_marks(made, store, Silent())
    return store.folder


def _summary(run: Run, folder: Path) -> dict[str, Any]:
    from harness.report import summary

    told: dict[str, Any] = json.loads(summary.write(run, folder).read_text(encoding="utf-8"))
    for suite in told["suites"].values():  # the embedded servers' revision names their source, whatever they answer
        suite["head"]["judge"] = [judge and judge.partition("@")[0] for judge in suite["head"]["judge"]]
    return {key: value for key, value in told.items() if key not in APART}

"""The commands `summarize` and `publish`: small files for a repository, and what it shows of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import typer

from harness import environment
from harness.errors import StoreError


def summarize(names: Sequence[str], out: Path) -> None:
    """Writes the summaries of finished runs, in a folder for each of their conditions.

    Args:
        names: as `runs.meant` takes them; all finished runs, if none is given.

    Raises:
        StoreError: a run that is named has not finished, or there is none.
        SpecError: a name that fits no run.
    """
    from harness.report import runs, summary

    root = environment.runs_dir()
    found = runs.meant(names, root)
    if not found:
        raise StoreError(f"no finished run in {root}", where=str(root), fix="harness run --method ropd --suite alpaca")
    written: dict[Path, list[int]] = {}
    for run in found:
        path = summary.write(run, out)
        written.setdefault(path.parent, []).append(path.stat().st_size)
    for folder, sizes in written.items():
        total = sum(path.stat().st_size for path in folder.iterdir())
        typer.echo(f"wrote {len(sizes)} summaries in {folder}: {max(sizes):,} bytes at most, {total:,} in the folder")


def publish(check: bool) -> None:
    """Makes everything that the repository around the working folder publishes, or with `check` says what is not up to date.

    Raises:
        HarnessError: as `harness.report.publish`.
        typer.Exit: with code 1, where `check` finds a difference.
    """
    from harness.report import publish as publishing

    began, root = time.monotonic(), Path()
    if check:
        told = publishing.stale(root)
        for line in told:
            typer.echo(line)
        if told:
            typer.echo(f"{len(told)} files are not what the summaries say: harness publish", err=True)
            raise typer.Exit(1)
        typer.echo("all is up to date", err=True)
        return
    made, removed = publishing.publish(root)
    for name in made:
        typer.echo(f"wrote {name}")
    for name in removed:
        typer.echo(f"removed {name}")
    typer.echo(f"{len(made)} files   {time.monotonic() - began:.1f} s", err=True)

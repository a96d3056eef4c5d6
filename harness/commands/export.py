"""The command `export`."""

from __future__ import annotations

from pathlib import Path

import typer

from harness.contestants import finished_run
from harness.export import export


def export_command(name: str, out: Path, mark: str) -> None:
    """Copies a finished run's model at a mark to a folder, with its model card.

    Raises:
        SpecError: no such run or mark, the run has not finished, or the folder is not empty.
    """
    store, _ = finished_run(name, mark)
    export(store, mark, out)
    size = sum(path.stat().st_size for path in out.iterdir())
    typer.echo(f"wrote {out}: {len(list(out.iterdir()))} files, {size / 1e6:,.1f} MB; its card is {out / 'README.md'}")

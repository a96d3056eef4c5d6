"""The command `doctor`: the machine, and what a track lacks on it."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import tracks
from harness.doctor import Finding, machine, track_needs

SHOWN = {"ok": "ok", "fact": "-", "lacking": "LACKING"}


def doctor_command(track: str | None, as_json: bool) -> None:
    """Prints all findings; ends with exit code 1 where the track that was named cannot run.

    Raises:
        SpecError: no such track, or one that is not valid.
    """
    named = tracks.load(track) if track else None
    here = machine()
    online = any(finding.about == "hub" and finding.state == "ok" for finding in here)
    needed = track_needs(named, online) if named else []
    lacking = [finding for finding in needed if finding.state == "lacking"]
    if as_json:
        for scope, findings in (("machine", here), ("track", needed)):
            for finding in findings:
                typer.echo(json.dumps({"scope": scope, **asdict(finding)}, sort_keys=True, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        _show("this machine", here, console)
        if named:
            _show(f"track {named.name}", needed, console)
            count = f"{len(lacking)} {'thing is' if len(lacking) == 1 else 'things are'} lacking"
            verdict = f"cannot run here: {count}" if lacking else "can run here"
            console.print(f"[bold]{named.name} {verdict}[/bold]", soft_wrap=True)
    if lacking:
        raise typer.Exit(1)


def _show(title: str, findings: list[Finding], console: Console) -> None:
    console.print(f"[bold]{title}[/bold]")
    rows = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for finding in findings:
        style = "bold" if finding.state == "lacking" else ""
        rows.add_row(SHOWN[finding.state], finding.about, escape(finding.told), style=style)
        if finding.fix:
            rows.add_row("", "  fix", escape(finding.fix))
    console.print(rows)
    console.print()

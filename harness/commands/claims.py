"""The command `claims`: what runs say about the papers' claims, the claims themselves, or the grid of runs that they need."""

from __future__ import annotations

from collections.abc import Sequence

import typer
import yaml
from rich.console import Console

from harness import environment, tracks
from harness.errors import SpecError
from harness.report import claims, claims_grid, claims_show, runs
from harness.report.claims_data import Mechanism, chosen, shipped


def claims_command(names: Sequence[str], of: Sequence[str], listing: bool, grid: bool, as_json: bool) -> None:
    """Prints verdicts. A verdict is an answer, never a failure: the exit code is 0.

    Args:
        names: ids of claims or arXiv numbers; all, if none is given.
        of: runs or a track, as `harness report` takes them; all finished runs, if none is given.
        listing: print the claims, without looking at runs.
        grid: print, as YAML for `harness sweep`, the runs of those claims that lack any.

    Raises:
        SpecError: an unknown claim, run or track, options that do not go together, or nothing left to run.
        Incomparable: the runs were made or scored under different conditions.
    """
    if grid and (listing or as_json):
        raise SpecError("a grid is printed alone, as YAML", where="--grid", fix="harness claims --grid > grid.yaml")
    if listing and of:
        raise SpecError("a list looks at no runs", where="--list", fix="harness claims --list")
    family = shipped()
    wanted = chosen(names, family)
    console = Console(highlight=False)
    if listing:
        if as_json:
            _lines([claims_show.record(claim) for claim in wanted])
        else:
            console.print(claims_show.listed(wanted))
        return
    finished = runs.select(of, environment.runs_dir())
    track = finished[0].spec["track"] if finished else tracks.load("pocket").model_dump(mode="json")
    found = [verdict for verdict in claims.verdicts(family, finished, track) if verdict.claim in wanted]
    lacking = [verdict.claim for verdict in found if isinstance(verdict.claim, Mechanism) and verdict.missing]
    if grid:
        if not lacking:
            raise SpecError("these claims lack no run", where="--grid", fix="harness claims")
        needed = claims_grid.needed(lacking, track)
        typer.echo(yaml.safe_dump(needed, sort_keys=False, default_flow_style=None, width=120), nl=False)
    elif as_json:
        _lines([claims_show.verdict_record(verdict, claims_show.world_of(track)) for verdict in found])
    else:
        console.print(claims_show.table(found, claims_show.world_of(track)))
        if lacking:
            again = " ".join(["harness claims", *names, *(f"--runs {name}" for name in of), "--grid"])
            console.print(f"To run what is lacking:\n  {again} > grid.yaml\n  harness sweep grid.yaml", soft_wrap=True)


def _lines(records: Sequence[str]) -> None:
    for line in records:
        typer.echo(line)

"""The command `check`: runs methods anew and compares them with a baseline, or writes the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from harness import environment
from harness.errors import SpecError
from harness.gate import exact, scores, show
from harness.gate.runs import Head, Outcome, Tell, as_text
from harness.store import write_atomically

FOLDER = Path("results/baselines")


@dataclass(frozen=True)
class Wanted:
    """What was typed."""

    baseline: Path | None
    methods: Sequence[str]
    scores: bool
    first_seed: int | None
    strict: bool
    update: bool
    reason: str
    jobs: int
    junit: Path | None
    as_json: bool


def check_command(wanted: Wanted) -> None:
    """Shows the comparison; ends with exit code 1 where something failed (or is unclear, under --strict).

    Raises:
        SpecError: options that do not go together, no such method or baseline; an update in GitHub Actions.
        Incomparable: the track, the suite or the judge are not what they were.
    """
    _refuse(wanted)
    path = wanted.baseline or FOLDER / ("scores.json" if wanted.scores else "exact.json")
    said = Console(stderr=True, highlight=False)

    def tell(line: str) -> None:
        said.print(line, style="dim", markup=False)

    if wanted.update:
        _update(path, wanted, said, tell)
        return
    if wanted.scores:
        outcome = scores.check(path, wanted.methods, wanted.first_seed, wanted.jobs, tell)
    else:
        outcome = exact.check(path, wanted.methods, wanted.jobs, tell)
    code = outcome.exit_code(wanted.strict)
    if wanted.junit:
        write_atomically(wanted.junit, show.junit(outcome, wanted.strict))
    if wanted.as_json:
        typer.echo(show.as_json(outcome, code))
    else:
        show.terminal(outcome, Console(highlight=False))
        if environment.in_actions():
            show.in_actions(outcome, environment.step_summary())
    if code:
        raise typer.Exit(code)


def _refuse(wanted: Wanted) -> None:
    again = 'harness check --update --reason "why"'
    if wanted.update and environment.in_actions():
        raise SpecError("a baseline is not written in GitHub Actions", where="--update",
                        fix="update it by hand and commit the file")  # fmt: skip
    if wanted.update != bool(wanted.reason.strip()):
        what = "an update needs a reason" if wanted.update else "a reason is given for an update"
        raise SpecError(what, where="--reason", fix=again)
    if wanted.update and (wanted.first_seed is not None or wanted.strict or wanted.junit or wanted.as_json):
        raise SpecError("an update gives no verdict: --seed, --strict, --junit and --json are for checks", where="--update",
                        fix=again)  # fmt: skip
    if wanted.first_seed is not None and not wanted.scores:
        raise SpecError("the exact gate has one seed, that of its baseline", where=f"--seed {wanted.first_seed}",
                        fix="add --scores, or leave --seed out")  # fmt: skip
    if wanted.first_seed is not None and wanted.first_seed < 0:
        raise SpecError(f"a seed is a whole number from 0 up, got {wanted.first_seed}",
                        where=f"--seed {wanted.first_seed}", fix="--seed 6")  # fmt: skip


def _update(path: Path, wanted: Wanted, said: Console, tell: Tell) -> None:
    update = scores.update if wanted.scores else exact.update
    found: tuple[Head, Outcome] = update(path, wanted.methods, wanted.reason.strip(), wanted.jobs, tell)
    baseline, outcome = found
    show.terminal(outcome, Console(highlight=False))
    write_atomically(path, as_text(baseline))
    said.print(f"wrote {path}")

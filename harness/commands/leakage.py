"""The command `leakage`: what a run, or a file of prompts, has in common with what suites ask and their references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from harness import environment, tracks
from harness.display import clean
from harness.errors import SpecError
from harness.leakage import SIZE, Finding, Text, findings, prompt_texts
from harness.materials import the_suites
from harness.spec import RunSpec
from harness.store import find, read_lines
from harness.stream import read_prompts
from harness.tracks import Track


def leakage_command(
    run: str | None, prompts: str | None, suites: Sequence[str], track: str | None, limit: float | None, as_json: bool
) -> None:
    """Prints all comparisons; ends with exit code 1 where one is above the limit.

    Args:
        run: a run, whose prompts, texts of the teacher and track are read from its folder.
        prompts: a JSONL file of prompts, in place of a run.
        suites: all of the track's, if none is named.
        limit: the largest share of a suite's items that may be contaminated; by default the track's.

    Raises:
        SpecError: not exactly one source, an unknown run, suite or track, or a limit that is no share.
        SuiteError: a suite's asset is missing.
    """
    if (run is None) == (prompts is None):
        raise SpecError("name a run or a file of prompts, and not both", where="harness leakage",
                        fix="harness leakage RUN, or harness leakage --prompts FILE --suite alpaca")  # fmt: skip
    if limit is not None and not 0 <= limit <= 1:
        raise SpecError(f"a limit is a share from 0 to 1, got {limit:g}", where=f"--limit {limit:g}", fix="--limit 0.05")
    if run is not None:
        the_track, asked, written = read_run(run)
        the_track = tracks.load(track) if track else the_track
    else:
        the_track, read = tracks.load(track or "pocket"), read_prompts(str(prompts))
        asked, written = prompt_texts(read), [Text(prompt.id, prompt.solution) for prompt in read if prompt.solution]
    limit = the_track.leakage_limit if limit is None else limit
    loaded = the_suites(the_track, list(dict.fromkeys(suites)) or list(the_track.suites))
    found = [each for name, suite in loaded.items() for each in findings(name, suite.items(), asked, written)]
    if as_json:
        for each in found:
            typer.echo(json.dumps(each.as_dict(limit), sort_keys=True, ensure_ascii=False))
    else:
        show(found, limit, Console(highlight=False))
    if any(each.refused(limit) for each in found):
        raise typer.Exit(1)


def read_run(name: str) -> tuple[Track, list[Text], list[Text]]:
    """A run's track, the prompts that it drew, and what its teacher wrote for them.

    The teacher's are the rollouts that the student did not sample, and the `references` and `solution` of the notes.
    """
    folder = find(name, environment.runs_dir())
    spec = RunSpec.model_validate_json((folder / "spec.json").read_text(encoding="utf-8"))
    asked: dict[Text, None] = {}
    written: dict[Text, None] = {}
    for row in read_lines(folder / "rollouts.jsonl"):
        said = [message["content"] for message in row["messages"] if message["role"] != "system"]
        asked |= dict.fromkeys(Text(row["prompt_id"], text) for text in said)
        written |= dict.fromkeys(Text(row["prompt_id"], text) for text in _of_the_teacher(row))
    if not asked:
        raise SpecError(f"the run {folder.name} has no rollouts yet", where=str(folder / "rollouts.jsonl"),
                        fix="let it finish its first round")  # fmt: skip
    return spec.track, list(asked), list(written)


def _of_the_teacher(row: dict[str, Any]) -> list[str]:
    note = row["note"]
    noted = [*note.get("references", ()), *([note["solution"]] if "solution" in note else [])]
    return [rollout["text"] for rollout in row["rollouts"] if not rollout["sampled"]] + noted


def show(found: Sequence[Finding], limit: float, console: Console) -> None:
    """A table of the comparisons, and below it examples of those that are above the limit."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("suite", overflow="fold", max_width=14)
    table.add_column("compared", no_wrap=True)
    for column in ("items", "exact", "inside", "shared", "share", "rate"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in found:
        o = each.overlap
        share = "-" if o.share is None else f"{o.share:.3f}"
        over = each.refused(limit)
        table.add_row(
            each.suite, f"{'teacher' if each.texts != 'prompts' else 'prompts'}: {each.parts}", str(o.items), str(o.exact),
            str(o.contained), str(o.shared), share, f"{o.rate:.3f}" + ("!" if over else " "), style="bold red" if over else "",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"exact and inside: items that are a text, or stand in one; shared: items with a\nrun of {SIZE} words in common; share: "
        f"of an item's runs, the mean; rate: of items\nthat are exact, inside or half shared, at most {limit:g}", style="dim",
    )  # fmt: skip
    for each in found:
        if each.refused(limit):
            for match in each.overlap.examples:
                console.print(f"{match.item.id} in {match.source.id}, {match.kind}, {match.share:.2f}", markup=False)
                console.print(f"  suite  {clean(match.item.text)[:70]}\n  read   {clean(match.source.text)[:70]}", markup=False)

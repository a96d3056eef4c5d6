"""What the commands `run`, `eval` and `report` do, between the command line and the machinery."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness import environment
from harness.display import Progress, bounds, clean, headline, minutes
from harness.errors import HarnessError, Interrupted, SpecError, nearest
from harness.evaluate import item_scores, scored, stored
from harness.materials import check_names
from harness.spec import RunSpec
from harness.store import RunStore, find, mark_stem, read_lines


def complete(store: RunStore, suites: list[str]) -> bool:
    """Whether the run is finished and scored on all these suites."""
    wanted = [*(row["mark"] for row in store.lines("marks")), "teacher"]
    return store.finished and all(scored(store, suite, mark) for suite in suites for mark in wanted)


def execute(spec: RunSpec, store: RunStore, suites: list[str], progress: Progress, typed: list[str]) -> None:
    """Trains (unless that is done) and scores the marks that are not scored yet.

    Raises:
        HarnessError: see `assemble` and `train`; an interrupted run says how to go on.
    """
    from harness.assemble import assemble
    from harness.loop import score_marks, train

    progress.head()
    with progress.following(), assemble(spec, suites, progress.state) as run:
        try:
            if not store.finished:
                train(run, store, progress)
            score_marks(run, store, progress)
        except HarnessError as error:
            again = f"go on with the same command: harness {shlex.join(typed)}"
            if isinstance(error, Interrupted) or error.exit_code == 2:  # from here on something was spent, and saved
                error.fix = f"{error.fix}; then {again}" if error.fix else again
                error.exit_code = max(error.exit_code, 3)
            raise


def finish(spec: RunSpec, store: RunStore, suites: list[str], progress: Progress, already: bool) -> None:
    """The end block: the result, two prompts before and after, the picture, what to type next."""
    console = Console(stderr=True, highlight=False)
    for suite in suites:
        last = stored(store, suite, store.lines("marks")[-1]["mark"])
        interval, change = bounds(headline(last)), last["change"]
        files = _drawn(spec, suite)
        result = {
            "suite": suite, "score": headline(last)["value"], "lo": interval and interval[0], "hi": interval and interval[1],
            "change": change["value"], "path": str(store.folder), "curve": str(files[0]),
        }  # fmt: skip
        progress.say("finish", **{k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()})
        if progress.mode == "live":
            _before_and_after(store, suite, console)
            _end_block(spec, store, suite, last, files, console, already)


def _end_block(
    spec: RunSpec, store: RunStore, suite: str, last: dict[str, Any], files: list[Path], console: Console, already: bool
) -> None:
    metric, change, interval = headline(last), last["change"], bounds(headline(last))
    teacher = stored(store, suite, "teacher")
    took = _seconds(store)
    score = "no score" if metric["value"] is None else f"[bold]{metric['value']:.3f}[/bold]"
    span = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    moved = f", {change['value']:+.3f} +/-{1.96 * (change['stderr'] or 0):.3f} over mark 0" if change["value"] is not None else ""
    top = f", teacher {headline(teacher)['value']:.3f}" if "greedy" in teacher else ""
    console.print(
        f"[bold]{'already finished' if already else 'finished'}[/bold]  {suite}  {score}{span}{moved}{top}   {minutes(took)}"
    )
    console.print(f"  run      {store.folder}")
    console.print(f"  curve    {files[0]}")
    console.print(f"  details  harness show {spec.identity[:8]}     table  harness report")
    other = "seqkd" if spec.method != "seqkd" else "sharpen"
    console.print(f"  next     harness run --method {other} --suite {suite}     (one seed ranks nothing: try --seed 1, 2)")


def _before_and_after(store: RunStore, suite: str, console: Console) -> None:
    """The item that changed most for the better and the median one, with the answers at mark 0 and at the end."""
    folder, end = store.evaluation(suite), store.lines("marks")[-1]["mark"]
    how = stored(store, suite, end)["headline"]
    start, now = item_scores(folder, "0", how), item_scores(folder, end, how)
    both = sorted((item for item in now if item in start), key=lambda item: (now[item] - start[item], item))
    if not both:
        return
    before, after = (_answers(folder, mark, how) for mark in ("0", end))
    asked = {row["id"]: row["question"] for row in read_lines(folder / "items.jsonl")}
    console.print()
    for item in dict.fromkeys((both[-1], both[len(both) // 2])):
        console.print(f"  [dim]{item}[/dim]  {clean(asked[item])}", markup=True, soft_wrap=False)
        console.print(f"    before {start[item]:.2f}  {clean(before[item])}", markup=False)
        console.print(f"    after  {now[item]:.2f}  {clean(after[item])}", markup=False)
    console.print()


def _answers(folder: Path, mark: str, how: str) -> dict[str, str]:
    return {row["item_id"]: row["text"] for row in read_lines(folder / "answers" / f"{mark_stem(mark)}.{how}.jsonl")}


def _seconds(store: RunStore) -> float:
    """Wall seconds of all sessions of a run (the clock starts anew in each)."""
    total = last = 0.0
    for row in store.lines("clock"):
        if row["seconds"] < last:
            total += last
        last = row["seconds"]
    return total + last


def _drawn(spec: RunSpec, suite: str) -> list[Path]:
    """The curves of all finished runs under the same conditions, this one among them."""
    from harness.report import curves, runs

    track = spec.track
    found = [run for run in runs.select([], environment.runs_dir(), digest=track.digest) if suite in run.suites]
    return curves.write(found, suite, environment.reports_dir() / f"{track.name}-{track.digest[:8]}" / suite)


def finished(name: str, suite: str, mark: str, count: int, temperature: float) -> RunStore:
    """The finished run that is meant.

    Raises:
        SpecError: no such run, suite or mark, a run that has not finished, fewer than two samples, or greedy ones.
    """
    if count < 2:
        raise SpecError(f"a choice needs two samples or more, got {count}", where=f"--best-of {count}", fix="--best-of 4")
    if not 0 < temperature < math.inf:
        raise SpecError(
            f"samples are drawn at a temperature above 0, got {temperature:g}", where=f"--temperature {temperature:g}",
            fix="--temperature 1.0",
        )  # fmt: skip
    folder = find(name, environment.runs_dir())
    spec = RunSpec.model_validate(json.loads((folder / "spec.json").read_text(encoding="utf-8")))
    store = RunStore(folder, spec)
    if not store.finished:
        raise SpecError(f"{folder.name} has not finished", where=name, fix="repeat its `harness run` command")
    check_names(spec.track, [suite])
    marks = [row["mark"] for row in store.lines("marks")]
    if mark not in marks:
        raise SpecError(f"{folder.name} has no mark {mark!r}", where=f"--mark {mark}", fix=nearest(mark, marks))
    return store


def choose(store: RunStore, suite: str, mark: str, count: int, temperature: float) -> None:
    """Scores best-of-N with the weights of a mark, unless that is on file, and prints its table."""
    from harness.inference import best_of, row_name

    kept = row_name(mark, temperature, count)
    if scored(store, suite, kept):
        result = stored(store, suite, kept)
    else:
        from harness.assemble import assemble

        with assemble(store.spec, [suite], lambda word: print(word, file=sys.stderr)) as run:
            result = best_of(run, store, suite, mark, count, temperature)
    _choice_table(store, suite, mark, result)


def _choice_table(store: RunStore, suite: str, mark: str, result: dict[str, Any]) -> None:
    """What stands at the mark, one sample, the winner of N and the controls. Tokens are means over items."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("answer", no_wrap=True)
    for name in ("score", "95 % CI", "vs N=1", "length", "sampled", "judged"):
        table.add_column(name, justify="right", no_wrap=True)
    if scored(store, suite, mark):
        at = stored(store, suite, mark)
        told = at[at["headline"]]
        table.add_row(at["headline"], *_choice_cells(told, at["metric"], None), f"{told['tokens']:.1f}", "0")
    used, n = result["inference"], result["n"]
    for how in result["decodings"]:
        versus = result["versus_one"].get(how)
        sampled = used["student_tokens"] / n if versus else result[how]["tokens"]
        judged = used["self_judge_tokens"] / n if how == result["headline"] else 0
        table.add_row(how, *_choice_cells(result[how], result["metric"], versus), f"{sampled:.1f}", f"{judged:.0f}")
    console = Console(highlight=False)
    console.print(f"{store.folder.name}   {suite}   mark {mark}   {n} items")
    console.print(table)


def _choice_cells(scores: dict[str, Any], metric: str, versus: dict[str, Any] | None) -> list[str]:
    value, span = scores[metric]["value"], bounds(scores[metric])
    moved = bounds(versus) if versus else None
    return [
        "-" if value is None else f"{value:.3f}", f"{span[0]:.3f} to {span[1]:.3f}" if span else "-",
        f"{sum(moved) / 2:+.3f} +/-{(moved[1] - moved[0]) / 2:.3f}" if moved else "-", f"{scores['tokens']:.1f}",
    ]  # fmt: skip


def report(names: list[str], suite: str, meter: str, out: Path | None) -> None:
    """Prints the table of runs and writes their curve.

    Raises:
        SpecError: no runs, or an unknown meter.
        Incomparable: the runs were made under different conditions.
    """
    from harness.ledger import BUDGETABLE
    from harness.report import curves, runs, table

    meters = [*BUDGETABLE, *runs.SUMS]
    if meter not in meters:
        raise SpecError(f"no meter named {meter!r}", where=f"--meter {meter}", fix=nearest(meter, meters))
    root = environment.runs_dir()
    found = [run for run in runs.select(names, root) if suite in run.suites]
    if not found:
        raise SpecError(f"no finished run with the suite {suite!r} in {root}", where=f"--suite {suite}",
                        fix=f"harness run --method ropd --suite {suite}")  # fmt: skip
    folder = out or environment.reports_dir() / f"{found[0].track}-{found[0].digest[:8]}" / suite
    console = Console(highlight=False)
    began = time.monotonic()
    table.show(found, suite, console)
    files = curves.write(found, suite, folder, meter)
    console.print("wrote " + "  ".join(str(path) for path in files) + f"   [dim]{time.monotonic() - began:.1f} s[/dim]")

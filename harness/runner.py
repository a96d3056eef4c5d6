"""What the commands `run`, `eval` and `report` do, between the command line and the machinery."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import environment
from harness.display import Progress, clean, headline, minutes, span
from harness.errors import HarnessError, Interrupted, SpecError, nearest
from harness.evaluate import item_scores, scored, stored
from harness.spec import RunSpec
from harness.store import RunStore, mark_stem, read_lines


def complete(store: RunStore, suites: list[str]) -> bool:
    """Whether the run is finished and scored on all these suites."""
    wanted = [*(row["mark"] for row in store.lines("marks")), "teacher"]
    return store.finished and all(scored(store, suite, mark) for suite in suites for mark in wanted)


def rehearse(spec: RunSpec, suites: list[str], force: bool) -> None:
    """Assembles a run, asks its judge a call of each kind, tells what scoring would come to, and stops.

    Raises:
        HarnessError: what a run would have met before it spent anything.
    """
    from harness.assemble import assemble
    from harness.preflight import before_paying, run_lines

    console = Console(stderr=True, highlight=False)
    with assemble(spec, suites, lambda word: None) as run:
        for label, text in run_lines(run, force):
            console.print(f"{label:<9} {text}", markup=False, soft_wrap=True)
        before_paying(run, force, console.print)
    console.print("dry run   stops here")


def execute(spec: RunSpec, store: RunStore, suites: list[str], progress: Progress, typed: list[str], force: bool) -> None:
    """Trains (unless that is done) and scores the marks that are not scored yet.

    Raises:
        HarnessError: see `assemble` and `train`; an interrupted run says how to go on.
    """
    from harness.assemble import assemble
    from harness.loop import score_marks, train
    from harness.preflight import before_paying

    progress.head()
    with progress.following(), assemble(spec, suites, progress.state) as run:
        if not store.finished:
            before_paying(run, force, progress.state)
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
        interval, change = span(last), last["change"]
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
    metric, change, interval = headline(last), last["change"], span(last)
    teacher = stored(store, suite, "teacher")
    took = _seconds(store)
    score = "no score" if metric["value"] is None else f"[bold]{metric['value']:.3f}[/bold]"
    between = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    moved = f", {change['value']:+.3f} +/-{1.96 * (change['stderr'] or 0):.3f} over mark 0" if change["value"] is not None else ""
    top = f", teacher {headline(teacher)['value']:.3f}" if "greedy" in teacher else ""
    console.print(
        f"[bold]{'already finished' if already else 'finished'}[/bold]  {suite}  {score}{between}{moved}{top}   {minutes(took)}"
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

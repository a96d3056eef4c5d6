"""What the commands `run`, `eval` and `report` do, between the command line and the machinery."""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rich.console import Console

from harness import environment, money, replay
from harness.connect import Terms, on
from harness.display import Progress, clean, headline, minutes, span
from harness.errors import HarnessError, Interrupted, SpecError, nearest
from harness.evaluate import due, item_scores, scored, stored
from harness.money import Purse
from harness.spec import RunSpec
from harness.store import RunStore, mark_stem, read_lines, suite_stem


def complete(store: RunStore, suites: list[str], at_ends: Collection[str]) -> bool:
    """Whether the run is finished and scored on all these suites (those of `at_ends` at the first and last mark alone)."""
    wanted = [(suite, row["mark"]) for row in store.lines("marks") for suite in due(suites, at_ends, row["mark"])]
    return store.finished and all(scored(store, *both) for both in [*wanted, *((suite, "teacher") for suite in suites)])


def rehearse(spec: RunSpec, suites: list[str], at_ends: Collection[str], force: bool) -> None:
    """Assembles a run, asks its judge a call of each kind, tells what scoring would come to, and stops.

    Raises:
        HarnessError: what a run would have met before it spent anything.
    """
    from harness.assemble import assemble
    from harness.preflight import before_paying, run_lines

    console = Console(stderr=True, highlight=False)
    with assemble(spec, suites, lambda word: None, at_ends) as run:
        for label, text in run_lines(run, force):
            console.print(f"{label:<9} {text}", markup=False, soft_wrap=True)
        before_paying(run, force, console.print)
    console.print("dry run   stops here")


def execute(
    spec: RunSpec, store: RunStore, suites: list[str], at_ends: Collection[str], progress: Progress, typed: list[str],
    force: bool, offline: bool = False, processes: int = 1,
) -> None:  # fmt: skip
    """Trains (unless that is done) and scores the marks that are not scored yet.

    Args:
        offline: every reply comes from the cache, so there is no server to be probed and nothing to be paid.
        processes: that train and sample together, this one the first of them.

    Raises:
        HarnessError: see `assemble`, `team` and `train`; an interrupted run says how to go on.
    """
    from harness.assemble import assemble
    from harness.launch import team
    from harness.loop import score_marks, train
    from harness.preflight import before_paying

    terms = Terms(
        offline, Purse(store.folder / money.FILE, spec.track.max_usd) if spec.track.max_usd else None,
        store.folder / replay.FILE if any(model.url != "pocket" for _, model in spec.track.served) else None,
    )  # fmt: skip
    progress.head()
    with (
        on(terms), progress.following(), team(spec, processes, typed) as world,
        assemble(spec, suites, progress.state, at_ends, world) as run,
    ):  # fmt: skip
        if not store.finished:
            before_paying(run, force, progress.state, probing=not offline)
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


def finish(spec: RunSpec, store: RunStore, suites: list[str], progress: Progress, already: bool, draw: bool) -> None:
    """The end block: the result, two prompts before and after, the picture (with `draw`), what to type next."""
    console = Console(stderr=True, highlight=False)
    for suite in suites:
        last = stored(store, suite, store.lines("marks")[-1]["mark"])
        interval, change = span(last), last["change"]
        files = _drawn(spec, suite) if draw else []
        result = {
            "suite": suite, "score": headline(last)["value"], "lo": interval and interval[0], "hi": interval and interval[1],
            "change": change["value"], "path": str(store.folder),
            **({"curve": str(files[0])} if files else {}),
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
    if spec.track.max_usd:
        paid = Purse(store.folder / money.FILE, spec.track.max_usd).spent
        console.print(f"  paid     ${paid:,.2f} of ${spec.track.max_usd:,.2f}")
    if files:
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
    asked = {row["id"]: " / ".join([row["question"], *row["follow_ups"]]) for row in read_lines(folder / "items.jsonl")}
    console.print()
    for item in dict.fromkeys((both[-1], both[len(both) // 2])):
        console.print(f"  [dim]{item}[/dim]  {clean(asked[item])}", markup=True, soft_wrap=False)
        for word, (texts, verdicts) in (("before", before), ("after ", after)):
            given = verdicts[item]  # what the judge said: item scores are weighted for comparisons
            console.print(f"    {word} {sum(given) / len(given):.2f}  {clean(texts[item])}", markup=False)
    console.print()


def _answers(folder: Path, mark: str, how: str) -> tuple[dict[str, str], dict[str, list[float]]]:
    """Of each item the replies of its first sample, and the scores of its verdicts."""
    stem = f"{mark_stem(mark)}.{how}.jsonl"
    texts = {
        row["item_id"]: " / ".join([row["text"], *row["later"]])
        for row in read_lines(folder / "answers" / stem) if not row["sample"]
    }  # fmt: skip
    verdicts: dict[str, list[float]] = {}
    for row in read_lines(folder / "records" / stem):
        if row["score"] is not None:
            verdicts.setdefault(row["item_id"], []).append(row["score"])
    return texts, verdicts


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


def report(names: list[str], suites: list[str], meter: str, out: Path | None, figures: bool) -> None:
    """Prints a table for each suite and an overview, and writes tables, curves and the page.

    Args:
        suites: all that any of the runs is scored on, if none is named.
        figures: also draw every meter, the costs, score against price, and proxy against gold.

    Raises:
        SpecError: no runs, or an unknown meter.
        Incomparable: the runs were made or scored under different conditions.
    """
    from harness.ledger import BUDGETABLE
    from harness.report import curves, files, overview, page, pareto, proxy, runs, table

    meters = [*BUDGETABLE, *runs.SUMS]
    if meter not in meters:
        raise SpecError(f"no meter named {meter!r}", where=f"--meter {meter}", fix=nearest(meter, meters))
    root, began = environment.runs_dir(), time.monotonic()
    chosen = runs.select(names, root)
    having = sorted({suite for run in chosen for suite in run.suites})
    wanted = [suite for suite in having if suite in suites or not suites]
    for suite in suites:
        if suite not in having:
            raise SpecError(f"no finished run with the suite {suite!r} in {root}", where=f"--suite {suite}",
                            fix=nearest(suite, having) if having else f"harness run --method ropd --suite {suite}")  # fmt: skip
    if not wanted:
        raise SpecError(f"no finished run in {root}", where="harness report", fix="harness run --method ropd --suite alpaca")
    chosen = [run.scored_on(wanted) for run in chosen if set(wanted) & set(run.suites)]
    folder = out or environment.reports_dir() / f"{chosen[0].track}-{chosen[0].digest[:8]}"
    console, command = Console(highlight=False), shlex.join(["harness", "report", *names])
    for suite in wanted:
        table.show([run for run in chosen if suite in run.suites], suite, console)
        console.print()
    view = overview.overview(chosen)
    if len(wanted) > 1:
        console.print(overview.render(view))
    written = files.write(view, folder, command)
    for suite in wanted:
        own, place = [run for run in chosen if suite in run.suites], folder / suite_stem(suite)
        written += curves.draw(own, suite, meter, place / curves.stem(meter))
        if figures:
            written += curves.draw_meters(own, suite, place) + curves.draw_costs(own, suite, place / "costs")
            written += pareto.write(own, suite, place) + proxy.write(own, suite, place)
    if figures and len(wanted) > 1:
        written += curves.draw_suites(chosen, folder / "suites", meter)
    written.append(page.write(chosen, wanted, folder, command))
    kinds = f"{len(dict.fromkeys(written))} files"
    console.print(f"wrote [bold]{written[-1]}[/bold] and {kinds} in {folder}   [dim]{time.monotonic() - began:.1f} s[/dim]")

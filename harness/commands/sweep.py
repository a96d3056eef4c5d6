"""What the command `sweep` does: lists what is left of a grid, has it carried out, and shows how far it is."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import indent
from typing import Any, NamedTuple

from pydantic import ValidationError
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness import environment
from harness.display import announce, minutes
from harness.errors import Interrupted, RunFault, SpecError, nearest
from harness.forecast import confirm_all
from harness.sweep import grid as grids
from harness.sweep.grid import Grid, Job, Resources
from harness.sweep.local import Executor, Local, Outcome
from harness.tracks import explain

MODES = ("auto", "live", "plain", "none")


class SweepProgress:
    """Follows a sweep: a live panel on a terminal, a line for each run that ends elsewhere. It only listens."""

    def __init__(self, total: int, done: int, workers: int, display: str | None, as_json: bool) -> None:
        mode = display or environment.display()
        if mode not in MODES:
            raise SpecError(f"no display named {mode!r}", where=f"--display {mode}", fix=f"one of {', '.join(MODES)}")
        self.console = Console(stderr=True, highlight=False)
        self.mode = ("live" if self.console.is_terminal else "plain") if mode == "auto" else mode
        self.total, self.before, self.workers, self.as_json = total, done, workers, as_json
        self.out = sys.stdout
        self.active: dict[Job, float] = {}
        self.outcomes: list[Outcome] = []
        self.stopping = False

    @contextmanager
    def following(self, executor: Executor) -> Iterator[None]:
        """Shows progress inside. The first Ctrl-C, SIGTERM or hang-up lets runs save; a second one ends them at once."""

        def ask(number: int, frame: object) -> None:
            self.stopping = True
            executor.stop()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        self._say("start", {"runs": self.total, "done": self.before, "left": self.left, "jobs": self.workers})
        live = Live(console=self.console, get_renderable=self._panel, refresh_per_second=2, transient=True)
        try:
            if self.mode == "live":
                live.start()
            yield
        finally:
            live.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def started(self, job: Job) -> None:
        self.active[job] = time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        self.active.pop(outcome.job, None)
        if outcome.state != "again":
            self.outcomes.append(outcome)
        if outcome.state == "left":
            return
        point, left = outcome.job.point, self.seconds_left()
        self._say("run", {
            "state": outcome.state, "run": outcome.job.spec.identity[:8], "method": point.label, "seed": point.seed,
            "track": point.place, "wall_s": round(outcome.seconds, 1), "done": self.before + self.count("done"),
            "failed": self.count("failed"), "left": self.left, "left_s": None if left is None else int(left),
            **({"error": outcome.error} if outcome.error else {}),
        })  # fmt: skip
        if self.mode == "live":
            told = f"{outcome.state:<8}{point.label}   seed {point.seed}   {point.place}   {minutes(outcome.seconds)}"
            self.console.print(f"  {escape(told)}")
            if outcome.state == "again":
                self.console.print(indent(escape(outcome.error), " " * 10), soft_wrap=True)

    def finish(self) -> None:
        """Says what came of it."""
        counts = {"done": self.before + self.count("done"), "failed": self.count("failed")}
        self._say("finish", {**counts, "stopped": self.count("stopped"), "left": self.total - sum(counts.values())})

    def count(self, state: str) -> int:
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def left(self) -> int:
        """Runs that have not ended."""
        return self.total - self.before - len(self.outcomes)

    def seconds_left(self) -> float | None:
        """At the mean wall time of the runs that this sweep has done, all workers busy; none until there is one."""
        took = [outcome.seconds for outcome in self.outcomes if outcome.state == "done"]
        if not took:
            return None
        mean, running = sum(took) / len(took), time.monotonic()
        spent = sum(min(running - since, mean) for since in self.active.copy().values())
        return (mean * self.left - spent) / min(self.workers, max(self.left, 1))

    def _panel(self) -> Group:
        done, failed, left = self.before + self.count("done"), self.count("failed"), self.seconds_left()
        filled = 20 * (self.total - self.left) // self.total
        lines = [f" runs [{'#' * filled}{'.' * (20 - filled)}] {done} of {self.total} done   {len(self.active)} active   "
                 f"{self.left - len(self.active)} waiting" + (f"   {failed} failed" if failed else "")]  # fmt: skip
        for job, since in self.active.copy().items():
            point, spent = job.point, minutes(time.monotonic() - since)
            lines.append(f"   {point.label}   seed {point.seed}   {point.place}   {spent}")
        told = "stopping, runs save after their round (again to stop at once)" if self.stopping else "Ctrl-C saves"
        lines.append(f" {told}" if left is None else f" about {minutes(left)} left   {told}")
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))

    def _say(self, event: str, fields: Mapping[str, Any]) -> None:
        announce(event, fields, self.out if self.as_json else None, self.console.file if self.mode == "plain" else None)


EXECUTORS = ("local", "ray")
RETRIES = 3


@dataclass(frozen=True)
class Wanted:
    """Who is to carry runs out, as typed; what is None was not."""

    executor: str
    jobs: int | None
    address: str | None
    cpus_per_run: float | None
    gpus_per_run: float | None
    retries: int | None

    def check(self) -> None:
        """Raises:
        SpecError: no such executor, or options that it does not have.
        """
        if self.executor not in EXECUTORS:
            raise SpecError(f"no executor named {self.executor!r}", where=f"--executor {self.executor}",
                            fix=nearest(self.executor, EXECUTORS))  # fmt: skip
        for name in ("address", "cpus_per_run", "gpus_per_run", "retries"):
            if self.executor != "ray" and getattr(self, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise SpecError(f"{option} is of the executor ray", where=option, fix="add --executor ray, or leave it out")
        if (self.address or "").startswith("ray://"):
            raise SpecError("a sweep is started on a machine of the cluster, not through Ray's client", where="--address",
                            fix="type the command on one of its machines: --address HOST:6379")  # fmt: skip

    def resources(self, grid: Resources) -> Resources:
        """What a run takes: as typed, else as the grid says.

        Raises:
            SpecError: a number that does not fit.
        """
        typed = {"cpus": self.cpus_per_run, "gpus": self.gpus_per_run}
        given = {**grid.model_dump(), **{name: value for name, value in typed.items() if value is not None}}
        try:
            return Resources.model_validate(given)
        except ValidationError as error:
            raise SpecError(explain(error, Resources), where="--cpus-per-run, --gpus-per-run") from error

    @contextmanager
    def carrying(self, jobs: Sequence[Job], run: Resources) -> Iterator[Executor]:
        """The executor, connected inside.

        Raises:
            EnvironmentFault: no cluster, or none that is fit.
        """
        if self.executor == "local":
            yield Local(self.jobs or 1)
            return
        from harness.sweep.ray import Ray

        ray = Ray(jobs, run, self.address, self.jobs, RETRIES if self.retries is None else self.retries)
        try:
            for node, differs in ray.refused.items():
                sys.stderr.write(f"left out  {ray.name_of(node)}: {differs}\n")
            yield ray
        finally:
            ray.close()


def sweep(
    grid: Grid, where: str, wanted: Wanted, dry_run: bool, display: str | None, as_json: bool, typed: Sequence[str],
    yes: bool = False,
) -> None:  # fmt: skip
    """Carries out what is left of a grid's runs, or with `dry_run` lists it.

    Raises:
        SpecError: as in `harness.sweep.grid.jobs`, or of what was typed.
        EnvironmentFault: no cluster, or none that is fit.
        RunFault: some runs failed; the others were carried out.
        Interrupted: the user stopped it; what was under way is saved.
    """
    wanted.check()
    resources, jobs = wanted.resources(grid.resources), grids.jobs(grid, where)
    if dry_run:
        rehearse(jobs, as_json)
        return
    confirm_all([job.spec for job in jobs], yes)
    with wanted.carrying(jobs, resources) as executor:
        states, failures, stopped = conduct(jobs, executor, display, as_json)
    if not as_json and (display or environment.display()) != "none":
        Console(highlight=False).print(states_table(states))
    settle(states, failures, stopped, typed)
    if not as_json:
        tracks = dict.fromkeys(job.spec.track.name for job in jobs)
        sys.stderr.write(f"next  harness report {' '.join(tracks)}\n")


class Conducted(NamedTuple):
    states: dict[Job, str]
    """Of every job, in their order."""
    failures: list[Outcome]
    stopped: bool
    """Whether the user stopped it before everything was done."""


def conduct(jobs: Sequence[Job], executor: Executor, display: str | None, as_json: bool) -> Conducted:
    """Has every job carried out that is not done, and shows how far that is."""
    root = environment.runs_dir()
    states: dict[Job, str] = {job: "done" for job in jobs if job.standing(root) == "done"}
    waiting = [job for job in jobs if job not in states]
    progress = SweepProgress(len(jobs), len(states), executor.workers, display, as_json)
    with progress.following(executor):
        for outcome in executor.outcomes(waiting, progress.started):
            progress.ended(outcome)
            states[outcome.job] = outcome.state
    progress.finish()
    failures = [outcome for outcome in progress.outcomes if outcome.state == "failed"]
    stopped = progress.stopping and {*states.values()} != {"done"}
    return Conducted({job: states[job] for job in jobs}, failures, stopped)


def settle(states: Mapping[Job, str], failures: Sequence[Outcome], stopped: bool, typed: Sequence[str]) -> None:
    """Says what is left and how to go on.

    Raises:
        Interrupted: the user stopped it.
        RunFault: there are failures; their commands are named with what they said.
    """
    again = f"harness {shlex.join(typed)}"
    told = "".join(f"\n  harness {shlex.join(each.job.arguments)}\n{indent(each.error, '    ')}" for each in failures)
    if stopped:
        done = sum(state == "done" for state in states.values())
        failed = f"; {len(failures)} failed:{told}" if failures else ""
        raise Interrupted(f"stopped: {done} of {len(states)} runs are done, those under way are saved{failed}",
                          fix=f"go on with the same command: {again}")  # fmt: skip
    if failures:
        raise RunFault(f"{len(failures)} of {len(states)} runs failed:{told}",
                       fix=f"once the cause is gone, this does what is left: {again}")  # fmt: skip


def rehearse(jobs: Sequence[Job], as_json: bool) -> None:
    """Lists how far each run is, and the commands of what is left."""
    root = environment.runs_dir()
    standings = {job: job.standing(root) for job in jobs}
    if as_json:
        for job, state in standings.items():
            told = {"v": 1, "event": "job", "state": state, "run": job.spec.folder, "command": ["harness", *job.arguments]}
            sys.stdout.write(json.dumps(told) + "\n")
        return
    console = Console(highlight=False)
    console.print(states_table(standings))
    for job, state in standings.items():
        if state != "done":
            console.print(f"harness {shlex.join(job.arguments)}", markup=False, soft_wrap=True)
    console.print("dry run, stops here: " + ", ".join(f"{n} {state}" for state, n in Counter(standings.values()).items()))


def states_table(states: Mapping[Job, str]) -> Table:
    """A row for each method with its settings (and track with budget, where there are several), a column for each seed."""
    seeds = sorted({job.point.seed for job in states})
    places = {job.point.place for job in states}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in [*(["track"] if len(places) > 1 else []), "method", *(f"s{seed}" for seed in seeds)]:
        table.add_column(head, overflow="fold")
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for job, state in states.items():
        rows.setdefault((job.point.place, job.point.label), {})[job.point.seed] = state
    for (place, label), row in rows.items():
        table.add_row(*([escape(place)] if len(places) > 1 else []), escape(label), *(row.get(seed, "") for seed in seeds))
    return table


def grid_of(grid: str | None, typed: Mapping[str, Any]) -> tuple[Grid, str]:
    """A grid file, or what was typed in its place (`methods` and so on; what is None was not), and where it was said.

    Raises:
        SpecError: both or neither, or as in `harness.sweep.grid.load`.
    """
    given = {name: value for name, value in typed.items() if value is not None}
    if grid is not None:
        if given:
            raise SpecError(f"a grid file and options for {', '.join(sorted(given))}", where=f"harness sweep {grid}",
                            fix="write them into the file, or leave the file out")  # fmt: skip
        return grids.load(grid), grid
    if "methods" not in given:
        raise SpecError("neither a grid nor methods", where="harness sweep",
                        fix=f"for example: harness sweep -m ropd,sft --seeds 3, or harness sweep {grids.names()[0]}")  # fmt: skip
    return grids.read({"seeds": [0], **given}, "harness sweep"), "harness sweep"

"""Gates against regressions: what a baseline file holds, what a comparison with it says, and work in other processes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from harness import environment
from harness.errors import SpecError
from harness.report.labels import flat
from harness.report.runs import Incomparable
from harness.spec import UNTRAINED, Origins, RunSpec, canonical, resolve
from harness.store import RunStore

if TYPE_CHECKING:
    from harness.assemble import Assembled

Verdict = Literal["pass", "FAIL", "unclear"]
Task = TypeVar("Task")
Result = TypeVar("Result")
Tell = Callable[[str], None]
"""Hears of every run that is done."""


@dataclass(frozen=True)
class Row:
    """One line of a check: a method, what was compared, before and now, as they are shown."""

    verdict: Verdict
    method: str
    what: str
    before: str
    now: str
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    title: str
    rows: list[Row]

    def count(self, verdict: Verdict) -> int:
        return sum(row.verdict == verdict for row in self.rows)

    def exit_code(self, strict: bool) -> int:
        """1 where something failed, or, if `strict`, is unclear; else 0."""
        return int(self.count("FAIL") > 0 or (strict and self.count("unclear") > 0))

    @property
    def verdict(self) -> str:
        return f"{self.count('FAIL')} failed, {self.count('unclear')} unclear, {self.count('pass')} passed"


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(Frozen):
    """What a gate runs."""

    track: dict[str, Any]
    """A track as its file says it, with `extends`."""
    settings: tuple[str, ...] = ()
    """KEY=VALUE of every method."""

    def resolved(self, method: str, seed: int) -> tuple[RunSpec, Origins]:
        """The spec of one of its runs.

        Raises:
            SpecError: as `resolve`.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "track.yaml"
            path.write_text(yaml.safe_dump(self.track), encoding="utf-8")
            return resolve(method, str(path), seed, list(self.settings))


class Head(Frozen):
    """What every baseline begins with."""

    gate: str
    written: str
    """Date of the last update."""
    reason: str
    """Why it was written."""
    plan: Plan
    conditions: dict[str, Any]
    """The resolved track, as `conditions_of` gives it."""


def conditions_of(spec: RunSpec) -> dict[str, Any]:
    """What all methods of a track share: the track without what it says of single ones, which their configs and meters hold."""
    track = spec.track.model_dump(mode="json")
    return {key: value for key, value in track.items() if key not in UNTRAINED | {"overrides", "tuned", "summary"}}


def same_conditions(before: Mapping[str, Any], now: Mapping[str, Any], fix: str) -> None:
    """Raises Incomparable with every part of the track that differs, as it was and as it is."""
    differing = differences(before, now)
    if differing:
        told = "".join(f"\n  {name}   {old} -> {new}" for name, old, new in differing)
        raise Incomparable(f"the baseline was made under other conditions:{told}", where="track", fix=fix)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, old and new value of all that differs, with dots in the names of nested values; what is absent is a dash."""
    old, new = flat(before), flat(now)
    shown = [(name, *(canonical(side[name]) if name in side else "-" for side in (old, new))) for name in sorted({**old, **new})]
    return [(name, left, right) for name, left, right in shown if left != right]


Model = TypeVar("Model", bound=Head)


def read(path: Path, model: type[Model]) -> Model:
    """A baseline file.

    Raises:
        SpecError: there is none, or it is not of this gate or form.
    """
    if not path.is_file():
        raise SpecError(f"no baseline {path}", where=f"--baseline {path}",
                        fix='harness check --update --reason "first baseline" writes one')  # fmt: skip
    try:
        return model.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"{path} is no baseline of this gate: {place or 'the file'}: {first['msg'].lower()}", where=f"--baseline {path}",
            fix="a baseline of scores needs --scores, one of trajectories goes without",
        ) from error  # fmt: skip


def as_text(baseline: Head) -> str:
    """A baseline as JSON, a line a round or a seed: one that changes is one line of a diff."""
    return _folded(json.loads(baseline.model_dump_json()), "\n") + "\n"


def _folded(value: Any, newline: str) -> str:
    inner = list(value.values() if isinstance(value, dict) else value) if isinstance(value, dict | list) else []
    if not any(isinstance(each, dict | list) for each in inner):
        return json.dumps(value, ensure_ascii=False)
    deeper = newline + " "
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(inner)
    lines = [f"{key}{_folded(each, deeper)}" for key, each in zip(keys, inner, strict=True)]
    start, end = "{}" if isinstance(value, dict) else "[]"
    return f"{start}{deeper}{f',{deeper}'.join(lines)}{newline}{end}"


class Silent:
    """Follows a run and says nothing."""

    def state(self, word: str) -> None: ...

    def round(self, number: int, used: float, metrics: dict[str, float]) -> None: ...

    def mark(self, row: dict[str, Any], scores: dict[str, dict[str, Any]]) -> None: ...

    def stopping(self) -> bool:
        return False


def run_apart(plan: Plan, method: str, seed: int, suites: Sequence[str], folder: Path) -> RunStore:
    """Trains as `harness run` does and scores the marks, with runs and cached replies below `folder` alone.

    Raises:
        HarnessError: see `assemble` and `train`.
    """
    from harness.loop import train

    with apart(*plan.resolved(method, seed), suites, folder) as (run, store):
        train(run, store, Silent())
    return store


@contextlib.contextmanager
def apart(
    spec: RunSpec, origins: Origins, suites: Sequence[str], folder: Path, at_ends: Collection[str] = ()
) -> Iterator[tuple[Assembled, RunStore]]:
    """A run, ready to be trained, and its store; its files and cached replies lie below `folder` alone. Raises as `assemble`."""
    from harness.assemble import assemble

    store, _ = RunStore.open(spec, origins, folder / "runs")
    with environment.caching_in(folder / "cache"), assemble(spec, suites, lambda word: None, at_ends) as run:
        yield run, store


def in_processes(
    work: Callable[[Task, Path], Result], tasks: Sequence[Task], jobs: int, tell: Tell
) -> list[Result]:
    """The results of `work(task, folder)` in the order of the tasks, each in a process of its own, `jobs` at a time.

    `folder` is temporary and the same for all: they share cached replies. `tell` hears of every task.

    Raises:
        HarnessError: what the work raised.
    """
    context = multiprocessing.get_context("spawn")  # a forked child would inherit the threads of torch half-alive
    with (
        tempfile.TemporaryDirectory(prefix="harness-check-") as folder,
        ProcessPoolExecutor(jobs, mp_context=context, initializer=environment.quiet_libraries) as pool,
    ):
        running = {pool.submit(work, task, Path(folder)): task for task in tasks}
        try:
            for number, future in enumerate(as_completed(running), 1):
                future.result()
                tell(f"{number}/{len(tasks)}  {_told(running[future])}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        return [future.result() for future in running]


def _told(task: Any) -> str:
    return " seed ".join(map(str, task)) if isinstance(task, tuple) else str(task)

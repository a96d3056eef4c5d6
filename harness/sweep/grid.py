"""Grids: methods x settings x seeds x budgets x tracks, and the command of each run that they stand for.

A sweep is nothing but runs: each job is a command line that a user could type, and run folders tell what is left to do.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from harness.errors import SpecError, nearest
from harness.materials import check_names
from harness.money import priced
from harness.spec import RunSpec, resolve
from harness.store import RunStore, source_digest
from harness.tracks import Part, explain

Standing = Literal["new", "begun", "unscored", "done", "other source"]
Seed = Annotated[int, Field(ge=0)]
Budget = dict[str, float]


class Exclude(Part):
    """Runs that a grid leaves out: those that agree with everything that is said here."""

    method: str | None = None
    seed: Seed | None = None
    track: str | None = None
    budget: Budget | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_something(self) -> Exclude:
        if self == Exclude.model_construct():
            raise ValueError("an exclusion names a method, seed, track, budget or settings")
        return self

    def fits(self, point: Point) -> bool:
        """Whether a run is one of those left out."""
        named = {name: getattr(self, name) for name in ("method", "seed", "track", "budget")}
        same = all(value is None or value == getattr(point, name) for name, value in named.items())
        return same and all(name in point.settings and point.settings[name] == value for name, value in self.settings.items())


class Resources(Part):
    """What a run takes of a cluster's machine."""

    cpus: float = Field(1, gt=0)
    gpus: float = Field(0, ge=0, description="below 1, runs share one")

    @field_validator("gpus")
    @classmethod
    def _whole(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("whole GPUs, or a share of one")
        return gpus


class Grid(Part):
    """What a grid file says. The product of all lists, less what `exclude` fits, is run."""

    methods: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    tracks: tuple[str, ...] = Field(("pocket",), min_length=1)
    budgets: tuple[Budget, ...] = Field((), description="none is the track's own")
    suites_at_marks: tuple[str, ...] = Field(("alpaca",), description="scored at every mark")
    suites: tuple[str, ...] = Field((), description="scored at the first and the last mark alone")
    settings: dict[str, dict[str, list[Any]]] = Field(default_factory=dict, description="values of settings, by method")
    exclude: tuple[Exclude, ...] = ()
    resources: Resources = Field(default_factory=Resources, description="of a run, where a cluster carries it out")

    @model_validator(mode="after")
    def _asks_for_scores(self) -> Grid:
        if not self.suites_at_marks and not self.suites:
            raise ValueError("a grid scores at least one suite: name it in suites_at_marks or in suites")
        for method in self.settings:
            if method not in self.methods:
                raise ValueError(f"settings of {method!r}, which is not among the methods; {nearest(method, self.methods)}")
            if empty := [name for name, values in self.settings[method].items() if not values]:
                raise ValueError(f"no values for settings.{method}.{empty[0]}; leave it out for the default")
        return self


@dataclass(frozen=True)
class Point:
    """One run as a grid names it."""

    track: str
    budget: Budget | None
    seed: int
    method: str
    settings: Mapping[str, Any]

    @property
    def label(self) -> str:
        """The method with the settings that the grid gives it."""
        return " ".join([self.method, *(f"{name}={typed(value)}" for name, value in self.settings.items())])

    @property
    def place(self) -> str:
        """The track with the budget, if the grid gives one."""
        return " ".join([self.track, *budget_texts(self.budget)])


@dataclass(frozen=True, eq=False)
class Job:
    """One run with its command."""

    point: Point
    spec: RunSpec
    suites: tuple[str, ...]
    at_ends: tuple[str, ...]
    """Those scored at the first and the last mark alone, none of them in `suites`."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What is typed after `harness`."""
        point = self.point
        budget = [word for text in budget_texts(point.budget) for word in ("--budget", text)]
        settings = [word for name, value in point.settings.items() for word in ("--set", f"{name}={typed(value)}")]
        suites = [word for name in self.suites for word in ("--suite", name)]
        ends = [word for name in self.at_ends for word in ("--suite-at-ends", name)]
        return ("run", "--method", point.method, "--track", point.track, "--seed", str(point.seed), *budget, *settings,
                *suites, *ends, *self._paid, "--no-curve", "--display", "none")  # fmt: skip

    @property
    def _paid(self) -> tuple[str, ...]:
        """The question that a run with paid servers asks was answered for the whole grid."""
        return ("--yes",) if any(priced(model) for _, model in self.spec.track.served) else ()

    def store(self, root: Path) -> RunStore:
        """The run's folder below the runs folder, which need not be there."""
        return RunStore(root / self.spec.folder, self.spec)

    def standing(self, root: Path) -> Standing:
        """How far the run is, from its folder alone. "other source": begun by code that is not this one."""
        from harness.runner import complete

        store = self.store(root)
        began = store.folder / "environment.json"
        if not (store.folder / "spec.json").exists() or not began.exists():
            return "new"
        if json.loads(began.read_text(encoding="utf-8"))["source"] != source_digest(self.spec.method):
            return "other source"
        if not store.finished:
            return "begun"
        return "done" if complete(store, [*self.suites, *self.at_ends], self.at_ends) else "unscored"


def typed(value: Any) -> str:
    """A value as `--set` reads it back: YAML on one line."""
    return yaml.safe_dump([value], default_flow_style=True, width=float("inf"), allow_unicode=True)[1:-2]


def budget_texts(budget: Budget | None) -> list[str]:
    """A budget as `--budget` reads it back."""
    return [f"{meter}={amount!r}".removesuffix(".0") for meter, amount in (budget or {}).items()]


def names() -> list[str]:
    """The grids that come with the package."""
    folder = resources.files("harness") / "data" / "grids"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load(name: str) -> Grid:
    """A grid by name or from a YAML file.

    Raises:
        SpecError: no such grid, not a YAML mapping, an unknown key (with the nearest one) or a value that does not fit.
    """
    path = Path(name)
    if not path.suffix and name in names():
        path = Path(str(resources.files("harness"))) / "data" / "grids" / f"{name}.yaml"
    if not path.is_file():
        raise SpecError(f"no grid named {name!r} and no such file", where=name,
                        fix=f"a YAML file, or a grid that comes with the package: {', '.join(names())}")  # fmt: skip
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SpecError(f"{name} is not YAML: {error}", where=name) from error
    if not isinstance(value, dict):
        raise SpecError(f"a grid is a mapping, got {type(value).__name__}", where=name, fix="for example: methods: [ropd, sft]")
    return read(value, name)


def read(value: Mapping[str, Any], where: str) -> Grid:
    """A grid from plain values.

    Raises:
        SpecError: an unknown key (with the nearest one) or a value that does not fit.
    """
    try:
        return Grid.model_validate(value)
    except ValidationError as error:
        raise SpecError(explain(error, Grid), where=where) from error


def points(grid: Grid, where: str) -> list[Point]:
    """Every run of a grid by name, seeds before methods, so that what is cut short has whole seeds.

    Raises:
        SpecError: an exclusion that fits no run, or nothing is left.
    """
    everything = [
        Point(track, budget, seed, method, dict(zip(values, chosen, strict=True)))
        for track, budget, seed, method in itertools.product(grid.tracks, grid.budgets or (None,), grid.seeds, grid.methods)
        for values in [grid.settings.get(method, {})]
        for chosen in itertools.product(*values.values())
    ]
    for number, exclusion in enumerate(grid.exclude):
        if not any(exclusion.fits(point) for point in everything):
            said = exclusion.model_dump(exclude_defaults=True)
            raise SpecError(f"exclude.{number} fits none of the {len(everything)} runs: {said}", where=where,
                            fix="correct it, or take it out")  # fmt: skip
    kept = [point for point in everything if not any(exclusion.fits(point) for exclusion in grid.exclude)]
    if not kept:
        raise SpecError(f"all {len(everything)} runs are excluded", where=where, fix="take an exclusion out")
    return kept


def jobs(grid: Grid, where: str) -> list[Job]:
    """The runs of a grid, each once, all of them checked before any is started.

    Raises:
        SpecError: an unknown method, suite, track, setting or meter, or as in `points`.
    """
    ends = tuple(name for name in grid.suites if name not in grid.suites_at_marks)
    found = [job(point, grid.suites_at_marks, ends) for point in points(grid, where)]
    return list({each.spec.folder: each for each in reversed(found)}.values())[::-1]


def job(point: Point, suites: Sequence[str], at_ends: Sequence[str]) -> Job:
    """A run, checked.

    Raises:
        SpecError: an unknown method, suite, track, setting or meter, with the run at fault.
    """
    settings = [f"{name}={typed(value)}" for name, value in point.settings.items()]
    try:
        spec, _ = resolve(point.method, point.track, point.seed, settings, budget_texts(point.budget))
        check_names(spec.track, [*suites, *at_ends])
    except SpecError as error:
        error.message = f"{point.label} on {point.place}: {error.message}"
        raise
    return Job(point, spec, tuple(suites), tuple(at_ends))

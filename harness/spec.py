"""The spec of a run: what was asked for, fully resolved, validated and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import registry, tracks
from harness.errors import SpecError, nearest
from harness.tracks import Track, explain

if TYPE_CHECKING:
    from harness.own import Own


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spare spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """64 hex digits that name a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


UNTRAINED = frozenset({"suites", "leakage_limit", "max_usd"})
"""Parts of a track that training does not see: what is scored later, a check before the start, a ceiling that only stops."""


def conditions_digest(track: Mapping[str, Any]) -> str:
    """Names a track's conditions of training, from its dump. A track that says of no trials is named as if it could not."""
    trained = {key: value for key, value in track.items() if key not in UNTRAINED and (key, value) != ("tuned", {})}
    return digest_of({key: _unpaced(value) for key, value in trained.items()})


def _unpaced(part: Any) -> Any:
    """A part of a track without how fast its server may be asked."""
    return {key: value for key, value in part.items() if key not in ("rpm", "tpm")} if isinstance(part, Mapping) else part


def identity_of(spec: Mapping[str, Any]) -> str:
    """Names a run, from its spec's dump: method, settings, seed and conditions of training."""
    return digest_of({**spec, "track": conditions_digest(spec["track"])})


class RunSpec(BaseModel):
    """One run: a method with its settings on a track, under a seed. The suites it is scored on are not part of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    config: dict[str, Any]
    seed: int = Field(ge=0)
    track: Track

    @property
    def identity(self) -> str:
        return identity_of(self.model_dump(mode="json"))

    @property
    def folder(self) -> str:
        """Where the run lives below the runs folder."""
        return f"{self.track.name}/{self.method}-s{self.seed}-{self.identity[:8]}"


class Origins(BaseModel):
    """Where each setting of the method came from: `default` (docs/methods.md says whose), `track` or `--set`."""

    config: dict[str, str]
    track: dict[str, str] = Field(default_factory=dict)
    """Which flag gave a value of the track; all others are the track's own."""


def assignments(pairs: list[str]) -> dict[str, Any]:
    """`key=value` texts as a mapping, values read as YAML.

    Raises:
        SpecError: a text without `=`, or a value that is not YAML.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise SpecError(f"expected KEY=VALUE, got {pair!r}", where=f"--set {pair}", fix="for example: --set group_size=4")
        try:
            result[key.removeprefix("method.")] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SpecError(f"the value of {key} is not YAML: {text!r}", where=f"--set {pair}") from error
    return result


def budget_of(pairs: list[str]) -> dict[str, float] | None:
    """`meter=amount` texts as a budget; nothing when none is given.

    Raises:
        SpecError: not of that form or not a number (meters and amounts are checked with the track).
    """
    budget = {}
    for pair in pairs:
        meter, equals, amount = pair.partition("=")
        try:
            budget[meter] = float(amount)
        except ValueError:
            equals = ""
        if not equals:
            raise SpecError(
                f"expected METER=AMOUNT, got {pair!r}", where=f"--budget {pair}", fix="for example: --budget prompts=1024"
            )
    return budget or None


def resolve(
    method: str, track: str = "pocket", seed: int = 0, settings: list[str] | None = None, budget: list[str] | None = None,
    own: Own | None = None, pin: bool = True,
) -> tuple[RunSpec, Origins]:  # fmt: skip
    """The spec of a run from what was typed, and where each of the method's settings came from.

    Args:
        own: flags that name models and prompts; what they say is laid over the track.
        pin: look at the sources of prompts, whose content is part of a run's identity; what only shows or plans need not.

    Raises:
        SpecError: unknown method, track, key or meter (each with the nearest name), or a value out of range; a source of prompts
            that is not there.
        EnvironmentFault: the hub does not tell the commit of a dataset.
    """
    from harness.own import with_content

    cls = registry.method(method)
    the_track = tracks.load(track, budget_of(budget or []), own.values() if own else None)
    the_track = with_content(the_track) if pin else the_track
    if seed < 0:
        raise SpecError(f"a seed is a whole number from 0 up, got {seed}", where=f"--seed {seed}")
    mine = assignments(settings or [])
    for key in mine:
        if key not in cls.Config.model_fields:
            locked = key.split(".")[0] in Track.model_fields
            raise SpecError(
                f"{key!r} is fixed by the track" if locked else f"{method} has no setting {key!r}",
                where=f"--set {key}=...",
                fix="a YAML file with `extends: pocket` and your change makes a track of your own: --track my.yaml"
                if locked
                else nearest(key, cls.Config.model_fields),
            )
    given = the_track.overrides.get(method, {})
    try:
        plain, config = cls.Config.model_validate(given), cls.Config.model_validate({**given, **mine})
    except ValidationError as error:
        raise SpecError(explain(error, cls.Config), where=f"settings of {method}") from error
    typed = {name for name in mine if getattr(config, name) != getattr(plain, name)}  # what says nothing new decides nothing
    origins = {
        name: "--set" if name in typed else f"track {the_track.name}" if name in given else "default"
        for name in cls.Config.model_fields
    }
    spec = RunSpec(method=method, config=config.model_dump(mode="json"), seed=seed, track=the_track)
    return spec, Origins(config=origins, track=own.origins() if own else {})

"""What a track is made of besides models: its training prompts, and its suites with their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import registry
from harness.errors import SpecError
from harness.stream import read_prompts
from harness.suite import Suite
from harness.tracks import Track, explain
from harness.types import Prompt


def build_suite(name: str, settings: Mapping[str, Any], where: str) -> Suite:
    """A suite by name with settings; what its name's argument stands for is laid over them. Its items are loaded.

    Raises:
        SpecError: an unknown suite, or settings that do not fit.
        SuiteError: an asset is missing.
    """
    from pydantic import ValidationError

    cls = registry.suite(name)
    _, _, argument = name.partition(":")
    try:
        suite = cls(cls.Config.model_validate({**settings, **(cls.settings_for(argument) if argument else {})}))
    except ValidationError as error:
        raise SpecError(explain(error, cls.Config), where=where) from error
    suite.items()
    return suite


def check_names(track: Track, names: Sequence[str]) -> None:
    """Raises SpecError for a suite that does not exist, or that the track has no items for."""
    for name in names:
        registry.suite(name)
        if name not in track.suites and ":" not in name:  # a suite with an argument brings its items along
            raise SpecError(
                f"track {track.name} has no items for the suite {name!r}", where=f"--suite {name}",
                fix=f"this track has: {', '.join(track.suites)}",
            )  # fmt: skip


def the_suites(track: Track, names: Sequence[str]) -> dict[str, Suite]:
    """The suites by name, with the items that the track gives them.

    Raises:
        SpecError: an unknown suite, one the track has no items for, or settings that do not fit.
        SuiteError: an asset is missing.
    """
    check_names(track, names)
    return {name: build_suite(name, track.suites.get(name, {}), f"track {track.name}: suites.{name}") for name in names}


def training_prompts(track: Track) -> list[Prompt]:
    """The track's training prompts in their fixed order."""
    if track.prompts.source == "pocket":
        from harness.pocket import world

        return world.prompts(track.prompts)
    return read_prompts(track.prompts.source)[: track.prompts.count]


def check_overlap(prompts: Sequence[Prompt], suites: dict[str, Suite]) -> None:
    """Refuses a run whose training prompts are also asked by a suite.

    Raises:
        SpecError: exact overlap, with its count and an example.
    """
    trained = {" ".join(prompt.question.split()).lower() for prompt in prompts}
    for name, suite in suites.items():
        asked = (" ".join(item.question.split()).lower() for item in suite.items())
        both = [text for text in asked if text in trained]
        if both:
            raise SpecError(
                f"{len(both)} items of the suite {name!r} are among the training prompts, for example {both[0][:60]!r}",
                where="prompts", fix="take these prompts out of the training data",
            )  # fmt: skip

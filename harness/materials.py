"""What a track is made of besides models: its training prompts, and its suites with their items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from harness import held, leakage, registry
from harness.errors import SpecError
from harness.stream import read_prompts
from harness.suite import Suite
from harness.tracks import Track, explain
from harness.types import Item, Prompt


class HasItems(Protocol):
    def items(self) -> list[Item]:
        """What is asked."""


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


def the_suites(track: Track, names: Sequence[str], seed: int = 0) -> dict[str, Suite]:
    """The suites by name, with the items that the track gives them.

    Args:
        seed: of the run, on which it depends who wrote references of an embedded track's own items.

    Raises:
        SpecError: an unknown suite, one the track has no items for, or settings that do not fit.
        SuiteError: an asset is missing.
    """
    check_names(track, names)
    return {name: build_suite(name, held.settings_of(track, name, seed), f"track {track.name}: suites.{name}") for name in names}


def unwritten(track: Track, names: Sequence[str], seed: int) -> dict[str, HasItems]:
    """Of these suites the one whose references must be written first, if any, with what it asks.

    Raises:
        SpecError: the user's items cannot be read, or do not fit.
    """
    own = track.held_out
    if own is None or own.suite not in names or held.items_file(track, seed).is_file():
        return {}
    return {own.suite: held.Unanswered(track)}


def training_prompts(track: Track) -> list[Prompt]:
    """The track's training prompts in their fixed order."""
    if track.prompts.source == "pocket":
        from harness.pocket import world

        return world.prompts(track.prompts)
    return read_prompts(track.prompts.source, track.prompts.replies)[: track.prompts.count]


def check_leakage(prompts: Sequence[Prompt], suites: Mapping[str, HasItems], limit: float) -> None:
    """Refuses a run whose training prompts hold what a suite asks, or whose solutions hold a suite's references.

    Args:
        limit: the largest share of a suite's items that may be contaminated; an item that is a training prompt is
            refused under any limit.

    Raises:
        SpecError: too many items, with the counts and an example.
    """
    asked = leakage.prompt_texts(prompts)
    solved = [leakage.Text(prompt.id, prompt.solution) for prompt in prompts if prompt.solution]
    for name, suite in suites.items():
        for finding in leakage.findings(name, suite.items(), asked, solved):
            if finding.refused(limit):
                found, worst = finding.overlap, finding.overlap.examples[0]
                sources = "training prompts" if finding.texts == "prompts" else "training solutions"
                what = (
                    f"{found.exact} of {found.items} {finding.parts} of the suite {name!r} are among the {sources}"
                    if found.exact else
                    f"{found.contaminated} of {found.items} {finding.parts} of the suite {name!r} stand in the {sources}, whole "
                    f"or with {leakage.SHARE:.0%} of their runs of {leakage.SIZE} words; at most a share of {limit:g} may"
                )  # fmt: skip
                raise SpecError(
                    f"{what}, for example {worst.item.id} in {worst.source.id}: {worst.item.text[:60]!r}", where="prompts",
                    fix="take these prompts out of the training data; harness leakage --prompts FILE --suite NAME lists them",
                )  # fmt: skip

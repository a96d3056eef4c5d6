"""What the rest of the harness may take from the pocket world: its models, its prompts, its server, its gold."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from harness.errors import EnvironmentFault, SpecError
from harness.tracks import Prompts, Track
from harness.types import Message, Prompt

from .build import ASSETS
from .oracle import CriticKnobs, FaultKnobs, JudgeKnobs, OracleConfig, OracleProcess, revision


def model_folder(path: str, track: Track, seed: int) -> Path:
    """The folder of `pocket:student` or `pocket:teacher` for a seed: seeds take the pairs in turn.

    Raises:
        EnvironmentFault: the scale's models are not there.
    """
    assert track.pocket is not None
    role = path.removeprefix("pocket:")
    folder = ASSETS / track.pocket.scale / f"pair{seed % track.pocket.pairs}" / role
    if not (folder / "model.safetensors").is_file():
        raise EnvironmentFault(
            f"the models of scale {track.pocket.scale!r} are not here", where=str(folder),
            fix=f"harness pocket build --scale {track.pocket.scale}",
        )  # fmt: skip
    return folder


def server_config(track: Track, seed: int) -> OracleConfig:
    """The embedded server as the track's knobs want it.

    Raises:
        SpecError: the track has no embedded world, an unknown knob, or a value out of range.
    """
    if track.pocket is None:
        raise SpecError("a role is served by the embedded world, but the track has no `pocket` part", where=f"track {track.name}")
    folder = model_folder("pocket:teacher", track, seed)
    world = track.pocket
    try:
        return OracleConfig(str(folder), CriticKnobs(**world.critic), JudgeKnobs(**world.judge), FaultKnobs(**world.faults))
    except (TypeError, ValueError) as error:
        raise SpecError(f"the embedded server's knobs are wrong: {error}", where=f"track {track.name}: pocket") from error


def start_server(config: OracleConfig) -> OracleProcess:
    """Starts the server as a child process that ends with this one."""
    return OracleProcess(config)


def server_revision(config: OracleConfig) -> str:
    """Pins the cache: servers of equal revision give equal replies."""
    return revision(config)


@cache
def prompts(source: Prompts) -> list[Prompt]:
    """The embedded training prompts, distinct, none of them in a suite; sums and steps with the answer to check for."""
    from .checker import final_answer
    from .tasks import INSTRUCTIONS, REASONING, Steps, Sum, draw

    rng = random.Random(f"training prompts {source.seed}")
    references: dict[str, str | None] = {}
    while len(references) < source.count:
        kind = rng.choice(REASONING if rng.random() < source.reasoning else INSTRUCTIONS)
        task = draw(rng, kind)
        references[task.text] = final_answer(task) if isinstance(task, Sum | Steps) else None
    return [
        Prompt(f"pocket-{number:05d}", ({"role": "user", "content": text},), reference=reference, source="pocket")
        for number, (text, reference) in enumerate(references.items())
    ]


def gold(messages: Sequence[Message], text: str) -> float | None:
    """The full checker's grade of an answer, in [0, 1]; nothing where the question is not of this world.

    A follow-up is graded against the assistant's reply that it follows.
    """
    from .checker import grade, quality

    *_, before = (None, *(message["content"] for message in messages[-2:-1] if message["role"] == "assistant"))
    try:
        return quality(grade(messages[-1]["content"], text, before))
    except ValueError:
        return None

"""Bring your own: flags that name models, prompts and prices become values of a track, laid over a base track."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.connect import served_at
from harness.errors import SpecError, nearest
from harness.sources import pinned
from harness.tracks import Track

BASE = "own"
"""The track that flags are laid over unless one is named."""
ROLES = ("teacher", "critic", "judge")
WEB = ("http://", "https://")


@dataclass(frozen=True)
class Own:
    """What was typed. Whatever is not given is the base track's."""

    student: str | None = None
    """A Hugging Face folder, or REPOSITORY[@REVISION] of the hub."""
    teacher: Sequence[str] = ()
    """URL/MODEL, weights as of the student, or one of each."""
    critic: str | None = None
    judge: str | None = None
    prompts: str | None = None
    eval_prompts: str | None = None
    solutions: str | None = None
    max_usd: float | None = None
    prices: Sequence[str] = ()
    """ROLE=IN,OUT: dollars for a million tokens."""
    keys: Sequence[str] = ()
    """ROLE=VARIABLE: where the API key is."""
    judge_is_critic: bool = False

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def values(self) -> dict[str, Any]:
        """The values of a track that the flags stand for.

        Raises:
            SpecError: a flag that cannot be read, with what was got and an example.
        """
        value: dict[str, Any] = {}
        if self.student:
            value["student"] = _weights(self.student, "--student")
        if self.teacher:
            value["teacher"] = _teacher(self.teacher)
        for role in ("critic", "judge"):
            if text := getattr(self, role):
                value[role] = _server(text, role)
        if self.prompts:
            value["prompts"] = {"source": self.prompts}
        if self.solutions:
            if self.solutions not in ("teacher", "data"):
                raise SpecError(f"expected teacher or data, got {self.solutions!r}", where=f"--solutions {self.solutions}")
            value["solutions"] = self.solutions
            if self.solutions == "data":
                value.setdefault("prompts", {})["replies"] = "solution"
        if self.eval_prompts:
            value["held_out"] = {"source": self.eval_prompts}
        if self.max_usd is not None:
            if not self.max_usd > 0:
                raise SpecError(f"a ceiling must be above zero, got {self.max_usd:g}", where=f"--max-usd {self.max_usd:g}")
            value["max_usd"] = self.max_usd
        if self.judge_is_critic:
            value["judge_is_critic"] = True
        for pair in self.prices:
            role, text = _of_role(pair, "--price", "teacher=1.0,4.0")
            value.setdefault(role, {}).update(_price(text, pair))
        for pair in self.keys:
            role, text = _of_role(pair, "--key", "teacher=TEACHER_KEY")
            value.setdefault(role, {})["key"] = text
        return value

    def origins(self) -> dict[str, str]:
        """Which flag each of the track's values comes from."""
        flags = {"student": "--student", "teacher": "--teacher", "critic": "--critic", "judge": "--judge", "prompts": "--prompts",
                 "held_out": "--eval-prompts", "solutions": "--solutions", "max_usd": "--max-usd",
                 "judge_is_critic": "--judge-is-critic"}  # fmt: skip
        special = {"usd_in": "--price", "usd_out": "--price", "key": "--key", "replies": "--solutions"}
        told = {}
        for name, value in self.values().items():
            parts = value if isinstance(value, dict) else {"": value}
            for part in parts:
                told[f"{name}.{part}".rstrip(".")] = special.get(part, flags[name])
        return told


def with_content(track: Track) -> Track:
    """The track with its prompts' sources pinned: a digest of each file's content, a commit for each dataset of the hub, so
    that changed data make another track.

    Raises:
        SpecError: a source is not there.
        EnvironmentFault: the hub does not tell a commit.
    """
    changed: dict[str, Any] = {}
    if track.prompts.source not in ("", "pocket"):
        source, content = pinned(track.prompts.source)
        changed["prompts"] = track.prompts.model_copy(update={"source": source, "content": content})
    if track.held_out is not None:
        source, content = pinned(track.held_out.source)
        changed["held_out"] = track.held_out.model_copy(update={"source": source, "content": content})
        if track.held_out.suite not in track.suites:
            raise SpecError(
                f"held_out.suite is {track.held_out.suite!r}, which the track has not", where=f"track {track.name}",
                fix=nearest(track.held_out.suite, track.suites),
            )  # fmt: skip
        if content == changed.get("prompts", track.prompts).content:
            raise SpecError(
                f"{track.prompts.source} and {source} have the same content; what is trained on cannot be evaluated on",
                where="--eval-prompts", fix="split the file in two",
            )  # fmt: skip
    return track.model_copy(update=changed) if changed else track


def _weights(text: str, flag: str) -> dict[str, Any]:
    """Weights by folder, or REPOSITORY[@REVISION]."""
    if text.startswith(WEB):
        raise SpecError(f"weights are a folder or a repository of the hub, got {text!r}", where=flag,
                        fix=f"{flag} ./folder, or {flag} Qwen/Qwen3-0.6B@REVISION")  # fmt: skip
    path = Path(text)
    if (path / "config.json").is_file():
        return {"path": text}
    name, _, revision = text.partition("@")
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/")) or name.endswith("/"):
        found = "holds no config.json" if path.exists() else "is not there, and is no name of a repository"
        fix = f"{flag} FOLDER with config.json, or {flag} ORGANISATION/NAME[@REVISION]"
        raise SpecError(f"{text!r} {found}", where=flag, fix=fix)
    return {"path": name, **({"revision": revision} if revision else {})}


def _server(text: str, role: str) -> dict[str, Any]:
    if not text.startswith(WEB):
        there = Path(text).exists() or "/" in text
        raise SpecError(
            f"the {role} is asked over a server, got {text!r}", where=f"--{role}",
            fix=f"vllm serve {text} --generation-config vllm, then --{role} http://127.0.0.1:8000/v1/{text}" if there
            else f"--{role} http://127.0.0.1:8000/v1/MODEL",
        )  # fmt: skip
    served = served_at(text)
    return {"url": served.url, "model": served.model}


def _teacher(texts: Sequence[str]) -> dict[str, Any]:
    """A server, weights that write in this process, or a server with its weights."""
    served, local = [text for text in texts if text.startswith(WEB)], [text for text in texts if not text.startswith(WEB)]
    if len(served) > 1 or len(local) > 1:
        raise SpecError(f"one server and one folder of weights at most, got {', '.join(texts)}", where="--teacher")
    value = _server(served[0], "teacher") if served else {}
    if local:
        weights = {**_weights(local[0], "--teacher"), "dtype": "bfloat16"}
        name = Path(weights["path"]).name or weights["path"]
        value = {"url": "local", "model": name, **value, "weights": weights}
    return value


def _of_role(pair: str, flag: str, example: str) -> tuple[str, str]:
    role, equals, text = pair.partition("=")
    if not equals or role not in ROLES or not text:
        raise SpecError(f"expected ROLE=..., with a role of {', '.join(ROLES)}, got {pair!r}", where=f"{flag} {pair}",
                        fix=f"for example: {flag} {example}")  # fmt: skip
    return role, text


def _price(text: str, pair: str) -> dict[str, float]:
    try:
        usd_in, usd_out = map(float, text.split(","))
    except ValueError as error:
        raise SpecError(f"expected two prices, of a million tokens in and out, got {text!r}", where=f"--price {pair}",
                        fix="for example: --price teacher=1.0,4.0") from error  # fmt: skip
    return {"usd_in": usd_in, "usd_out": usd_out}

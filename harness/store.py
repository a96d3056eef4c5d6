"""The folder of a run: append-only line files, a resumable state, and a manifest that is written last.

A folder without a manifest is a run that can be resumed: its line files are cut back to the last saved state.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from harness.errors import SpecError, StoreError, nearest
from harness.spec import Origins, RunSpec, canonical, identity_of

SCHEMA = 1
LINE_FILES = ("marks", "steps", "ledger", "rollouts")
Found = Literal["new", "resumed", "finished"]


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_atomically(path: Path, data: str | bytes) -> None:
    """Writes a whole file or nothing of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data.encode() if isinstance(data, str) else data)
    os.replace(part, path)


def json_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def mark_stem(mark: str) -> str:
    """A mark as part of a file's name: "1/16" is "1-16"."""
    return mark.replace("/", "-")


def suite_stem(suite: str) -> str:
    """A suite as part of a path: "lm-eval:gsm8k" is "lm-eval-gsm8k"."""
    return suite.replace(":", "-").replace("/", "-")


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a line file; a last line that was cut off by a crash is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


def mended(path: Path) -> list[str]:
    """The lines of a file that is only appended to; what a crash cut off is taken away, or the next line would join it."""
    if not path.exists():
        return []
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        data = data[: data.rfind(b"\n") + 1]
        os.truncate(path, len(data))
    return data.decode().splitlines()


OUTSIDE = (
    "agreement.py", "contestants.py", "display.py", "doctor.py", "evaluations.py", "inference.py", "listing.py",
    "preflight.py", "probe.py", "runner.py", "skeleton.py", "tune.py", "data/tuning.yaml", "data/claims.yaml",
    "data/gpus.yaml", "data/prices.yaml", "data/shapes.yaml", "data/vllm.yaml",
)
"""Files of the harness that act before or after a run, or show it, and so cannot change one."""


APART = (
    "cli/", "commands/", "gate/", "plan/", "report/", "sweep/", "data/grids/", "data/page/", "data/probe/",
    "data/skeleton/",
)
"""Folders of the harness with more of them."""


@cache
def source_digest(method: str) -> str:
    """Names the source that can influence a run's result: not the command line, the reports or other methods."""
    total = hashlib.sha256()
    for package in ("harness", "methods", "suites"):
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*")):
            told = path.relative_to(root).as_posix()
            if package == "methods":
                apart = path.stem != method and f"prompts/{method}/" not in told
            else:
                apart = told in OUTSIDE or told.startswith(APART)
            if path.suffix in (".py", ".jinja", ".yaml") and not apart:
                total.update(f"{package}/{told}\0".encode() + path.read_bytes())
    return total.hexdigest()


class RunStore:
    """A run folder that is open for writing. Use `open`."""

    def __init__(self, folder: Path, spec: RunSpec) -> None:
        self.folder, self.spec = folder, spec

    @classmethod
    def open(
        cls, spec: RunSpec, origins: Origins, root: Path, *, fresh: bool = False, processes: int = 1
    ) -> tuple[RunStore, Found]:  # fmt: skip
        """The folder of a run and what was found there.

        Args:
            processes: that the run is begun with, which is noted and no part of what it is.

        Raises:
            StoreError: it cannot be written, belongs to another spec, or was made by other source.
        """
        folder = root / spec.folder
        store = cls(folder, spec)
        again = "harness run ... --fresh sets it aside and starts anew"
        if fresh and folder.exists():
            number = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.old{n}").exists())
            folder.rename(folder.with_name(f"{folder.name}.old{number}"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            written = folder / "spec.json"
            if written.exists():
                store._lock()
            else:
                if any(path for path in folder.iterdir() if not path.name.startswith(".")):
                    raise StoreError(
                        f"{folder} holds files that are not a run",
                        where=str(folder),
                        fix="move them away, or set HARNESS_RUNS_DIR",
                    )
                store._lock()
                store._begin(origins, processes)
                return store, "new"
        except OSError as error:
            raise StoreError(
                f"cannot write {folder}: {error.strerror or error}", where=str(root),
                fix="set HARNESS_RUNS_DIR to a folder that can be written",
            ) from error  # fmt: skip
        if identity_of(json.loads(written.read_text(encoding="utf-8"))) != spec.identity:
            raise StoreError(f"{folder} belongs to another spec", where=str(folder), fix=again)
        began = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        if began["source"] != source_digest(spec.method):
            raise StoreError(
                f"{folder} was made by other source ({began['source'][:8]}, this is {source_digest(spec.method)[:8]})",
                where=str(folder),
                fix=again,
            )
        return store, "finished" if store.finished else "resumed"

    def _lock(self) -> None:
        """Keeps other processes out for as long as this one lives; the kernel forgets the lock if it is killed."""
        self._held = (self.folder / ".lock").open("a")
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process writes {self.folder}", where=str(self.folder),
                             fix="wait until it ends, or stop it; then repeat the command") from error  # fmt: skip

    def _begin(self, origins: Origins, processes: int) -> None:
        from harness.environment import describe

        spec = self.spec.model_dump(mode="json")
        flags = {"flags": origins.track} if origins.track else {}
        shown = {"identity": self.spec.identity, "origins": origins.config, **flags, **spec}
        write_atomically(self.folder / "spec.yaml", yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))
        began = {**describe(), "processes": processes, "source": source_digest(self.spec.method), "started": now()}
        write_atomically(self.folder / "environment.json", json_text(began))
        write_atomically(self.folder / "spec.json", canonical(spec))

    @property
    def finished(self) -> bool:
        return (self.folder / "manifest.json").exists()

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Adds a record to a line file (one of `LINE_FILES`, or `clock` for readings outside every comparison)."""
        with (self.folder / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(canonical({"schema": f"harness.{name}/{SCHEMA}", **record}) + "\n")

    def lines(self, name: str) -> list[dict[str, Any]]:
        return list(read_lines(self.folder / f"{name}.jsonl"))

    @property
    def state_folder(self) -> Path:
        return self.folder / "state"

    def save_state(self, state: bytes) -> None:
        """Replaces the resumable state, with the length of every line file at this moment."""
        sizes = {name: size.stat().st_size for name in LINE_FILES if (size := self.folder / f"{name}.jsonl").exists()}
        write_atomically(self.state_folder / "state.pt", len(head := canonical(sizes).encode()).to_bytes(8, "big") + head + state)

    def load_state(self) -> bytes | None:
        """The last saved state, if any; line files are cut back to what they were then."""
        path = self.state_folder / "state.pt"
        data = path.read_bytes() if path.exists() else None
        sizes: dict[str, int] = {}
        if data is not None:
            length = int.from_bytes(data[:8], "big")
            sizes, data = json.loads(data[8 : 8 + length]), data[8 + length :]
        for name in LINE_FILES:
            file = self.folder / f"{name}.jsonl"
            if file.exists():
                os.truncate(file, sizes.get(name, 0))
        clock = self.folder / "clock.jsonl"
        if clock.exists():  # kept whole, but for a line that a crash cut off: the next one would be appended to it
            os.truncate(clock, clock.read_bytes().rfind(b"\n") + 1)
        return data

    def write_folder(self, folder: Path, write: Callable[[Path], None]) -> None:
        """Fills a folder whole or not at all; what a crash left of an earlier attempt is gone."""
        part = folder.with_name(f".{folder.name}.part")
        for stale in (part, folder):
            shutil.rmtree(stale, ignore_errors=True)
        write(part)
        os.replace(part, folder)

    def checkpoint(self, mark: str) -> Path:
        """Where the weights of a mark lie ("1/16" is `checkpoints/1-16`)."""
        return self.folder / "checkpoints" / mark_stem(mark)

    def evaluation(self, suite: str) -> Path:
        return self.folder / "suites" / suite_stem(suite)

    def finish(self) -> None:
        """Drops the resumable state and writes the manifest: the run exists from now on."""
        shutil.rmtree(self.state_folder, ignore_errors=True)
        files = {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and "suites" not in path.relative_to(self.folder).parts
        }
        source = source_digest(self.spec.method)
        manifest = {"identity": self.spec.identity, "source": source, "finished": now(), "files": files}
        write_atomically(self.folder / "manifest.json", json_text({"schema": f"harness.manifest/{SCHEMA}", **manifest}))


def _begins(short: str, typed: str) -> bool:
    """Whether what was typed is the beginning of an identity, of which a folder's name holds eight digits."""
    return typed.startswith(short) if len(typed) > len(short) else short.startswith(typed)


def find(name: str, root: Path, more: Sequence[Path] = ()) -> Path:
    """A run folder by path, by name or by the beginning of its identity.

    Args:
        more: further places of runs, beside the folders below the root.

    Raises:
        SpecError: none, or more than one (the candidates are named).
    """
    if (Path(name) / "spec.json").is_file():
        return Path(name)
    runs = {*more} | {path.parent for path in root.glob("*/*/spec.json")} | {path.parent for path in root.glob("*/spec.json")}
    runs = {run for run in runs if ".old" not in run.name}
    fits = sorted(run for run in runs if run.name == name or _begins(run.name.rsplit("-", 1)[-1], name))
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise SpecError(f"{name!r} fits {len(fits)} runs: {', '.join(run.name for run in fits)}", where=name)
    fix = (
        nearest(name, [run.name for run in runs]) if runs else f"no runs in {root} yet: harness run --method ropd --suite alpaca"
    )
    raise SpecError(f"no run {name!r} in {root}", where=name, fix=fix)

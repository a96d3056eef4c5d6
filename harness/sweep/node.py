"""What a machine of a cluster holds, what runs are given there, and what it must agree to before they are sent to it.

It is asked by a process there, started as runs are: `python -m harness.sweep.node`.
"""

from __future__ import annotations

import fcntl
import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from harness import environment
from harness.environment import version
from harness.errors import HarnessError, StoreError
from harness.store import source_digest
from harness.sweep.grid import Job, Point, Resources, job

LEASE_S = 120.0
"""Seconds that a lost machine's lock on a run folder may outlive it: a file server forgets it when the lease ends."""
SHOWN = 3


def room(machine: Mapping[str, float], run: Resources) -> int:
    """How many runs a machine with these resources holds at a time."""
    places = int(machine.get("CPU", 0) / run.cpus + 1e-9)
    if not run.gpus:
        return places
    gpus = int(machine.get("GPU", 0))
    return min(places, gpus * int(1 / run.gpus + 1e-9) if run.gpus < 1 else gpus // int(run.gpus))


def handed_on(jobs: Sequence[Job]) -> dict[str, str]:
    """Variables that every run gets from here: where runs and a suite's own files are, and the keys that the tracks name."""
    models = [model for job in jobs for track in [job.spec.track] for model in (track.teacher, track.critic, track.judge)]
    keys = {model.key: environment.secret(model.key) for model in models if model}
    folders = {"HARNESS_RUNS_DIR": environment.runs_dir(), "HARNESS_ASSETS_DIR": environment.assets_dir()}
    return {name: value for name, value in keys.items() if value} | {
        name: str(folder.absolute()) for name, folder in folders.items() if folder
    }


def cache_of(host: str) -> str:
    """A reply cache for each machine: SQLite's write-ahead log may not be shared between machines."""
    folder = environment.cache_dir().absolute()
    return str(folder if host == socket.gethostname() else folder / host)


def new_token(runs: Path) -> Path:
    """A new file in the runs folder, by which a machine shows that it sees the same one."""
    token = runs / f".sweep-{uuid4().hex}"
    try:
        runs.mkdir(parents=True, exist_ok=True)
        token.touch()
    except OSError as error:
        raise StoreError(f"cannot write {runs}: {error.strerror}", where=str(runs),
                         fix="set HARNESS_RUNS_DIR to a folder that all machines can write") from error  # fmt: skip
    return token


def terms(jobs: Sequence[Job], token: Path, *, taken_up: bool = False) -> dict[str, Any]:
    """What is to be equal: version, source, the specs that the commands stand for, and the folder that holds the token.

    Args:
        taken_up: the jobs were under way on a machine that is lost, so their folders may still be locked.
    """
    methods = sorted({each.spec.method for each in jobs})
    return {
        "version": version(), "token": str(token), "taken_up": taken_up,
        "sources": {method: source_digest(method) for method in methods},
        "jobs": [
            {"point": vars(each.point), "suites": each.suites, "at_ends": each.at_ends, "identity": each.spec.identity,
             "folder": each.spec.folder} for each in jobs
        ],
    }  # fmt: skip


def differences(asked: Mapping[str, Any]) -> list[str]:
    """What is not here as it is there, a line each; nothing where runs come out the same."""
    if asked["version"] != version():
        return [f"its version is {version()}, that of the sweep {asked['version']}"]
    if not Path(asked["token"]).exists():
        return [f"it does not share the folder {Path(asked['token']).parent}"]
    found = [
        f"its source of {method} is {source_digest(method)[:8]}, that of the sweep {digest[:8]}"
        for method, digest in asked["sources"].items() if source_digest(method) != digest
    ]  # fmt: skip
    return found or [told for each in asked["jobs"] if (told := _other_spec(each))]


def _other_spec(asked: Mapping[str, Any]) -> str:
    try:
        here = job(Point(**asked["point"]), asked["suites"], asked["at_ends"])
    except HarnessError as error:
        return error.message
    if here.spec.identity != asked["identity"]:
        return f"{here.point.label} on {here.point.place} is {here.spec.identity[:8]} there, {asked['identity'][:8]} at the sweep"
    return ""


def wait_for_writer(folder: Path, patience_s: float = LEASE_S) -> None:
    """Returns when nobody writes a run folder, or after that time: then the run itself says so."""
    until = time.monotonic() + patience_s
    while (folder / ".lock").exists() and time.monotonic() < until:
        with (folder / ".lock").open("a") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.5)


def main() -> None:
    """Reads terms from stdin; prints what differs, exit code 1 if anything does."""
    asked = json.load(sys.stdin)
    found = differences(asked)
    if found:
        print("\n".join(found[:SHOWN] + [f"and {len(found) - SHOWN} more"] * (len(found) > SHOWN)))
        sys.exit(1)
    for each in asked["jobs"] if asked["taken_up"] else ():
        wait_for_writer(Path(asked["token"]).parent / each["folder"])


if __name__ == "__main__":
    main()

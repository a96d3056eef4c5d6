"""Carrying jobs out on a Ray cluster: the same processes as on this machine, placed where there is room.

Every run is held by an actor of its own, which knows nothing of this package: it starts a process, waits for it, passes a
wish to stop on, and takes the process with it when it dies. What to start, and when again, is decided here.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.errors import EnvironmentFault, RunFault
from harness.sweep.grid import Job, Resources
from harness.sweep.local import Outcome, last_words
from harness.sweep.node import cache_of, handed_on, new_token, room, terms

NODE_LABEL = "ray.io/node-id"
TICK_S = 0.5
"""How often wishes to stop and new machines are looked for."""
CONNECT_S = 10.0
ANSWER_S = 180.0
"""Seconds in which a machine has to say what source it has."""
NO_ROOM_S = 600.0
"""Seconds that a sweep waits for a machine when it has lost all."""
INTERRUPTED = (130, -signal.SIGTERM, -signal.SIGKILL)
"""How a run ends that somebody ended: where it was not us, its machine is going away."""
TAIL = 20_000


class Ended(NamedTuple):
    """A process on a machine that is over."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass(eq=False)
class _Run:
    job: Job
    carrier: Any
    ref: Any
    step: Literal["placing", "asking", "running"] = "placing"
    node: str = ""
    began: float = 0.0
    asked: int = 0
    """How many of the wishes to stop it was told."""


class Ray:
    """Runs jobs as processes on the machines of a Ray cluster, as many at a time as they have room for.

    Connects at once, and asks every machine that has room for its version, source and specs: those that differ are in `refused`,
    and no run is sent there.

    Args:
        address: of a running cluster; none starts one on this machine, for this sweep alone.
        at_most: runs at a time, where there is room for more.
        retries: how many times a run is started again that was lost with its machine or worker.

    Raises:
        EnvironmentFault: Ray is not installed, there is no such cluster, or no machine is fit for a run.
    """

    def __init__(self, jobs: Sequence[Job], run: Resources, address: str | None, at_most: int | None, retries: int) -> None:
        try:
            import ray
            import ray.exceptions  # a folder of that name can be imported too
        except ImportError as error:
            raise EnvironmentFault("the executor ray needs the package ray", where="--executor ray",
                                   fix="pip install 'distillation-harness[ray]'") from error  # fmt: skip
        self._ray, self._run, self._at_most, self._retries = ray, run, at_most, retries
        self.refused: dict[str, str] = {}
        """Machines by identity, with what differs there."""
        self._known: set[str] = set()
        self._wishes = 0
        self._lost: Counter[Job] = Counter()
        self._given = handed_on(jobs)
        self._token = new_token(Path(self._given["HARNESS_RUNS_DIR"]))
        where = address or "this machine"
        try:
            self._connect(address, where)
            self._carrier = ray.remote(num_cpus=run.cpus, num_gpus=run.gpus, max_concurrency=2)(_carrier_class())
            self._ask_all(jobs, where)
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        rooms = sum(room(node["Resources"], self._run) for node in self._nodes().values())
        return min(rooms, self._at_most or rooms)

    def stop(self) -> None:
        self._wishes += 1  # told to the runs by `outcomes`, for this may be a signal's handler

    def close(self) -> None:
        """Leaves the cluster; what still runs there ends at once."""
        self._token.unlink(missing_ok=True)
        with self._quiet():
            self._ray.shutdown()

    def name_of(self, node: str) -> str:
        """A machine as people call it."""
        known = next((each for each in self._ray.nodes() if each["NodeID"] == node), None)
        return f"{known['NodeManagerHostname']} ({known['NodeManagerAddress']}, {node[:8]})" if known else node[:8]

    def outcomes(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Iterator[Outcome]:
        waiting, under_way = deque(jobs), list[_Run]()
        had_room = time.monotonic()
        with self._quiet():
            while waiting or under_way:
                if self._wishes:
                    yield from (Outcome(job, "left", 0.0) for job in waiting)
                    waiting.clear()
                    yield from self._pass_on(under_way)
                workers = self.workers
                if workers or under_way:
                    had_room = time.monotonic()
                elif time.monotonic() - had_room > NO_ROOM_S:
                    raise RunFault(f"no machine held a run for {NO_ROOM_S / 60:g} minutes; {len(waiting)} runs are left",
                                   fix="bring machines back, then repeat the command")  # fmt: skip
                while waiting and len(under_way) < workers:
                    under_way.append(self._place(waiting.popleft()))
                if not under_way:
                    time.sleep(TICK_S)
                    continue
                ready, _ = self._ray.wait([run.ref for run in under_way], timeout=TICK_S)
                for run in [run for run in under_way if run.ref in ready]:
                    outcome = self._go_on(run, started)
                    if outcome:
                        under_way.remove(run)
                        self._ray.kill(run.carrier)
                        if outcome.state == "again":
                            waiting.appendleft(run.job)
                        yield outcome

    def _connect(self, address: str | None, where: str) -> None:
        try:
            if address and address != "auto":  # Ray itself tries for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_S).close()
            with self._quiet():
                self._ray.init(address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL,
                               **({} if address else {"include_dashboard": False}))  # fmt: skip
        except Exception as error:  # Ray raises plain ones, too
            first, _, _ = str(error).partition("\n")
            raise EnvironmentFault(f"no Ray cluster at {where}: {first}", where=f"--address {where}",
                                   fix="ray start --head on one machine, then --address HOST:6379") from error  # fmt: skip

    def _nodes(self) -> dict[str, Any]:
        return {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"] and node["NodeID"] not in self.refused}

    def _place(self, job: Job) -> _Run:
        """Asks for a place; Ray finds it, anywhere but on refused machines."""
        elsewhere = {"label_selector": {NODE_LABEL: f"!in({','.join(self.refused)})"}} if self.refused else {}
        carrier = self._carrier.options(**elsewhere).remote()
        return _Run(job, carrier, carrier.node.remote())

    def _pass_on(self, under_way: list[_Run]) -> Iterator[Outcome]:
        for run in under_way.copy():
            if run.step != "running":
                under_way.remove(run)
                self._ray.kill(run.carrier)
                yield Outcome(run.job, "left", 0.0)
            elif run.asked < self._wishes:
                run.asked += 1
                run.carrier.ask.remote()

    def _go_on(self, run: _Run, started: Callable[[Job], None]) -> Outcome | None:
        """Takes what a carrier answered, and gives it the next thing to do; an outcome if there is none."""
        try:
            value = self._ray.get(run.ref)
        except self._ray.exceptions.RayError as error:
            return self._again(run, f"lost with its machine or worker ({type(error).__name__})")
        if run.step == "running":
            ended = Ended(*value)
            if ended.code == 0:
                return Outcome(run.job, "done", ended.seconds)
            if ended.code in INTERRUPTED:
                return self._again(run, f"ended by somebody else (exit code {ended.code})")
            return Outcome(run.job, "failed", ended.seconds, last_words(ended.err, ended.code))
        if run.step == "placing":
            run.node, taken_up = value, bool(self._lost[run.job])
            if taken_up or run.node not in self._known:
                run.step, run.ref = "asking", self._ask(run.carrier, [run.job], taken_up)
                return None
        elif differs := self._differs(Ended(*value)):
            self.refused[run.node] = differs
            return Outcome(run.job, "again", 0.0, f"{self.name_of(run.node)} is left out: {differs}")
        self._known.add(run.node)
        run.step, run.began = "running", time.monotonic()
        host = self._nodes().get(run.node, {}).get("NodeManagerHostname", run.node)
        variables = {**self._given, "HARNESS_CACHE_DIR": cache_of(host)}
        run.ref = run.carrier.run.remote(["-m", "harness", *run.job.arguments], str(Path.cwd()), variables)
        started(run.job)
        return None

    def _again(self, run: _Run, why: str) -> Outcome:
        seconds = time.monotonic() - run.began if run.began else 0.0
        if self._wishes:
            return Outcome(run.job, "stopped", seconds)
        self._lost[run.job] += 1
        told = f"{why} on {self.name_of(run.node)}" if run.node else why
        if self._lost[run.job] > self._retries:
            return Outcome(run.job, "failed", seconds, f"{told}; started {self._retries + 1} times")
        return Outcome(run.job, "again", seconds, told)

    def _ask(self, carrier: Any, jobs: Sequence[Job], taken_up: bool = False) -> Any:
        from harness.store import json_text

        given = json_text(terms(jobs, self._token, taken_up=taken_up))
        return carrier.run.remote(["-m", "harness.sweep.node"], str(Path.cwd()), self._given, given)

    def _ask_all(self, jobs: Sequence[Job], where: str) -> None:
        able = {name: node for name, node in self._nodes().items() if room(node["Resources"], self._run)}
        if not able:
            most = ", ".join(f"{node['NodeManagerHostname']}: {node['Resources'].get('CPU', 0):g} CPUs, "
                             f"{node['Resources'].get('GPU', 0):g} GPUs" for node in self._nodes().values())  # fmt: skip
            raise EnvironmentFault(f"no machine holds a run of {self._run.cpus:g} CPUs and {self._run.gpus:g} GPUs ({most})",
                                   where=where, fix="lower --cpus-per-run or --gpus-per-run, or add machines")  # fmt: skip
        carriers = {
            name: self._carrier.options(num_cpus=0, num_gpus=0, label_selector={NODE_LABEL: f"in({name})"}).remote()
            for name in able
        }
        refs = {name: self._ask(carrier, jobs) for name, carrier in carriers.items()}
        self._ray.wait([*refs.values()], num_returns=len(refs), timeout=ANSWER_S)
        for name, ref in refs.items():
            try:
                differs = self._differs(Ended(*self._ray.get(ref, timeout=0)))
            except self._ray.exceptions.RayError as error:
                differs = f"it did not say what it has ({type(error).__name__})"
            if differs:
                self.refused[name] = differs
            else:
                self._known.add(name)
            self._ray.kill(carriers[name])
        if not self._known:
            told = "\n".join(f"  {self.name_of(name)}: {differs}" for name, differs in self.refused.items())
            raise EnvironmentFault(f"no machine of the cluster is fit for these runs:\n{told}", where=where,
                                   fix="the same source and this folder on every machine: docs/sweep.md")  # fmt: skip

    @staticmethod
    def _differs(answer: Ended) -> str:
        return "" if answer.code == 0 else "; ".join(answer.out.split("\n")[:-1]) or last_words(answer.err, answer.code)

    @staticmethod
    @contextlib.contextmanager
    def _quiet() -> Iterator[None]:
        """Ray tells of lost machines on stdout, which is for results: `outcomes` tells it in its own way."""
        with Path("/dev/null").open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield


def _carrier_class() -> type:
    """The actor. Defined inside, it travels as a whole: a machine without this package can still say that it lacks it."""

    class Carrier:
        def __init__(self) -> None:
            self.process: subprocess.Popen[str] | None = None
            self.asked = False
            self.lock = threading.Lock()

        def node(self) -> str:
            import ray

            return str(ray.get_runtime_context().get_node_id())

        def run(self, words: list[str], folder: str, variables: dict[str, str], given: str = "") -> tuple[int, str, str, float]:
            import ctypes
            import os

            libc = ctypes.CDLL(None)

            def die_with_the_carrier() -> None:
                if sys.platform == "linux":
                    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a lost worker leaves nothing behind that writes

            began = time.monotonic()
            with self.lock:
                if self.asked:
                    return -signal.SIGTERM, "", "", 0.0
                try:
                    self.process = subprocess.Popen(
                        [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                        text=True, encoding="utf-8", errors="replace", cwd=folder, env={**os.environ, **variables},
                        start_new_session=True, preexec_fn=die_with_the_carrier,
                    )  # fmt: skip
                except OSError as error:
                    return 127, "", str(error), 0.0
            out, err = self.process.communicate(given)
            return self.process.returncode, out, err[-TAIL:], time.monotonic() - began

        def ask(self) -> None:
            with self.lock:
                self.asked = True
                if self.process:
                    self.process.terminate()

    return Carrier

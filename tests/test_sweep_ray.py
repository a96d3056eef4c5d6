"""Sweeps on a Ray cluster: what machines hold and must agree to, what is started again; and, with Ray, two nodes for real."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from harness.commands.sweep import Wanted, conduct
from harness.errors import EnvironmentFault, RunFault, SpecError
from harness.sweep import grid, node
from harness.sweep import ray as on_ray
from harness.sweep.grid import Job, Resources
from harness.sweep.local import Outcome
from harness.sweep.node import cache_of, handed_on, room
from harness.sweep.ray import Ray

ROOT = Path(__file__).parents[1]
LOCAL = Wanted("local", None, None, None, None, None)


def jobs_of(*methods: str, seeds: Sequence[int] = (0,), **said: Any) -> list[Job]:
    return grid.jobs(grid.read({"methods": methods, "seeds": [*seeds], **said}, "test"), "test")


# What a machine holds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "gpus", "machine", "runs"),
    [
        (1, 0, {"CPU": 16.0}, 16),
        (4, 0, {"CPU": 15.0, "GPU": 8.0}, 3),
        (0.1, 0, {"CPU": 1.0}, 10),
        (4, 1, {"CPU": 64.0, "GPU": 8.0}, 8),
        (16, 1, {"CPU": 64.0, "GPU": 8.0}, 4),
        (1, 2, {"CPU": 64.0, "GPU": 7.0}, 3),
        (1, 0.4, {"CPU": 64.0, "GPU": 2.0}, 4),
        (1, 1, {"CPU": 64.0}, 0),
        (1, 0, {}, 0),
    ],
)
def test_how_many_runs_a_machine_holds(cpus: float, gpus: float, machine: dict[str, float], runs: int) -> None:
    assert room(machine, Resources(cpus=cpus, gpus=gpus)) == runs


def test_resources_are_the_options_else_the_grid_s() -> None:
    told = grid.read({"methods": ["sft"], "seeds": [0], "resources": {"cpus": 4, "gpus": 0.5}}, "test").resources
    ray = Wanted("ray", None, None, None, 2, None)
    assert ray.resources(told) == Resources(cpus=4, gpus=2)
    assert LOCAL.resources(told) == told
    assert grid.read({"methods": ["sft"], "seeds": [0]}, "test").resources == Resources(cpus=1, gpus=0)
    with pytest.raises(SpecError, match=r"gpus: value error, whole gpus, or a share of one, got 1\.5"):
        Wanted("ray", None, None, None, 1.5, None).resources(told)
    with pytest.raises(SpecError, match="greater than 0"):
        Wanted("ray", None, None, 0, None, None).resources(told)


def test_options_of_another_executor_are_refused() -> None:
    LOCAL.check()
    Wanted("ray", 2, "auto", 1, 1, 0).check()
    with pytest.raises(SpecError, match="--gpus-per-run is of the executor ray"):
        Wanted("local", None, None, None, 1, None).check()
    with pytest.raises(SpecError, match="no executor named 'rai'") as caught:
        Wanted("rai", None, None, None, None, None).check()
    assert caught.value.fix == "did you mean ray?"
    with pytest.raises(SpecError, match="not through Ray's client"):
        Wanted("ray", None, "ray://head:10001", None, None, None).check()


def test_without_the_package_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentFault) as caught:
        Ray(jobs_of("sft"), Resources(), None, None, 3)
    assert caught.value.fix == "pip install 'distillation-harness[ray]'"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:port"])
def test_an_address_without_a_cluster_is_said_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", cluster := Cluster({}, {}))
    monkeypatch.setitem(sys.modules, "ray.exceptions", cluster.exceptions)
    with pytest.raises(EnvironmentFault, match=f"no Ray cluster at {address}: ") as caught:
        Ray(jobs_of("sft"), Resources(), address, None, 3)
    assert caught.value.fix == "ray start --head on one machine, then --address HOST:6379"


def test_runs_get_folders_and_the_keys_that_their_tracks_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    judge = {"url": "https://judge.example/v1", "model": "j", "key": "JUDGE_KEY"}
    (tmp_path / "served.yaml").write_text(yaml.safe_dump({"extends": "pocket", "name": "served", "judge": judge}))
    jobs = jobs_of("sft", tracks=[str(tmp_path / "served.yaml")])
    for name, value in {"JUDGE_KEY": "one", "OTHER_KEY": "two", "OPENAI_API_KEY": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HARNESS_RUNS_DIR", "my-runs")
    monkeypatch.chdir(tmp_path)
    assert handed_on(jobs) == {"HARNESS_RUNS_DIR": str(tmp_path / "my-runs"), "JUDGE_KEY": "one"}
    monkeypatch.setenv("HARNESS_CACHE_DIR", "replies")
    assert cache_of(socket.gethostname()) == str(tmp_path / "replies")
    assert cache_of("another") == str(tmp_path / "replies" / "another")


# What a machine must agree to ----------------------------------------------------------------------------------------


def asked(tmp_path: Path, jobs: Sequence[Job]) -> dict[str, Any]:
    token = tmp_path / "token"
    token.touch()
    return json.loads(json.dumps(node.terms(jobs, token)))  # type: ignore[no-any-return]


def test_a_machine_like_this_one_agrees(tmp_path: Path) -> None:
    assert node.differences(asked(tmp_path, jobs_of("sft", "ropd", settings={"ropd": {"group_size": [4]}}))) == []


def test_a_machine_that_differs_says_in_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track = tmp_path / "mine.yaml"
    track.write_text(yaml.safe_dump({"extends": "pocket", "name": "mine"}))
    there = asked(tmp_path, jobs_of("sft", seeds=[0, 1], tracks=[str(track)]))
    assert node.differences(there) == []
    assert node.differences({**there, "version": "9"})[0].endswith("that of the sweep 9")
    told = node.differences({**there, "token": str(tmp_path / "gone" / "token")})
    assert told == [f"it does not share the folder {tmp_path}/gone"]
    told = node.differences({**there, "sources": {"sft": "f" * 64}})
    assert told == [f"its source of sft is {node.source_digest('sft')[:8]}, that of the sweep ffffffff"]
    track.write_text(yaml.safe_dump({"extends": "pocket", "name": "mine", "budget": {"prompts": 64}}))
    told = node.differences(there)
    assert len(told) == 2
    assert f"{there['jobs'][0]['identity'][:8]} at the sweep" in told[0]
    track.unlink()
    assert "mine.yaml" in node.differences(there)[0]
    given = json.dumps({**there, "jobs": there["jobs"] * 4})
    done = subprocess.run([sys.executable, "-m", "harness.sweep.node"], input=given, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert [*map(str.split, done.stdout.splitlines())][-1] == ["and", "5", "more"]


def test_a_run_is_taken_up_when_its_last_writer_is_gone(tmp_path: Path) -> None:
    node.wait_for_writer(tmp_path, 0.0)
    holds = "import fcntl, sys; lock = open(sys.argv[1], 'a'); fcntl.lockf(lock, fcntl.LOCK_EX); print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    writer = subprocess.Popen([sys.executable, "-c", holds, str(tmp_path / ".lock")], **pipes)
    assert writer.stdout
    writer.stdout.readline()
    began = time.monotonic()
    node.wait_for_writer(tmp_path, 0.3)
    assert time.monotonic() - began > 0.3
    writer.kill()
    writer.wait()
    began = time.monotonic()
    node.wait_for_writer(tmp_path, 20.0)
    assert time.monotonic() - began < 5.0
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


# What is started again: a cluster that answers as it is told ---------------------------------------------------------


class Lost(Exception):
    """Stands for Ray's own error."""


class Cluster(ModuleType):
    """Stands for the module `ray`: carriers are placed on the first machine that is not excluded, and answer from a script.

    Args:
        machines: their CPUs, by name.
        answers: what each run's processes say in turn: an exit code, or `Lost`.
        strange: machines that differ; those beginning with "late" join after the start.
    """

    def __init__(self, machines: dict[str, int], answers: dict[str, list[Any]], strange: Sequence[str] = ()) -> None:
        super().__init__("ray")
        self.machines, self.answers, self.strange = machines, answers, strange
        self.exceptions = SimpleNamespace(RayError=Lost)
        self.started: list[tuple[str, str]] = []
        self.most = self.alive = self.asks = 0
        self.begun = False

    def init(self, **how: Any) -> None: ...

    def shutdown(self) -> None: ...

    def nodes(self) -> list[dict[str, Any]]:
        alike = {"Alive": True, "NodeManagerAddress": "10.0.0.1"}
        return [
            {"NodeID": name, "NodeManagerHostname": name, "Resources": {"CPU": cpus}, **alike}
            for name, cpus in self.machines.items() if self.begun or not name.startswith("late")
        ]  # fmt: skip

    def remote(self, **resources: Any) -> Callable[[type], Any]:
        def options(label_selector: dict[str, str] | None = None, **_: Any) -> Any:
            return SimpleNamespace(remote=lambda: self._carrier((label_selector or {}).get("ray.io/node-id", "!in()")))

        return lambda cls: SimpleNamespace(options=options)

    def _carrier(self, where: str) -> Any:
        names = where.split("(")[1][:-1].split(",")
        there = [node["NodeID"] for node in reversed(self.nodes())]
        place = next(name for name in there if (name in names) is not where.startswith("!"))
        self.alive += not where.startswith("in")
        self.most = max(self.most, self.alive)

        def run(words: list[str], folder: str, variables: dict[str, str], given: str = "") -> Any:
            if words[1] == "harness.sweep.node":
                return (1, "its source of sft is 1\n", "", 0.0) if place in self.strange else (0, "", "", 0.0)
            self.begun = True
            method = words[words.index("--method") + 1]
            self.started.append((method, place))
            said = self.answers[method].pop(0)
            return said if said is Lost else (said, "", "error[H060]: gone" if said == 3 else "", 2.0)

        def ask() -> None:
            self.asks += 1

        return SimpleNamespace(
            node=SimpleNamespace(remote=lambda: place), run=SimpleNamespace(remote=run), ask=SimpleNamespace(remote=ask)
        )

    def wait(self, refs: list[Any], num_returns: int = 1, timeout: float = 0.0) -> tuple[list[Any], list[Any]]:
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Any, timeout: float | None = None) -> Any:
        if ref is Lost:
            raise Lost
        return ref

    def kill(self, carrier: Any) -> None:
        self.alive -= 1


@pytest.fixture
def started_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Cluster, Ray]]:
    def start(cluster: Cluster, jobs: Sequence[Job], *, at_most: int | None = None, retries: int = 3) -> tuple[Cluster, Ray]:
        monkeypatch.setitem(sys.modules, "ray", cluster)
        monkeypatch.setitem(sys.modules, "ray.exceptions", cluster.exceptions)
        executor = Ray(jobs, Resources(), None, at_most, retries)
        cluster.alive = 0
        return cluster, executor

    return start


def told(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.job.point.method, outcome.state) for outcome in outcomes]


def test_a_lost_run_is_started_again_and_one_that_fails_is_not(started_on: Any) -> None:
    jobs = jobs_of("sft", "seqkd", "gkd", "dpo")
    answers = {"sft": [Lost, -15, 0], "seqkd": [3], "gkd": [0], "dpo": [Lost, Lost]}
    cluster, executor = started_on(Cluster({"a": 1}, answers), jobs, retries=1)
    found = [*executor.outcomes(jobs, lambda job: None)]
    assert told(found)[:2] == [("sft", "again"), ("sft", "failed")], "retries are counted, whatever the reason"
    assert told(found)[2:] == [("seqkd", "failed"), ("gkd", "done"), ("dpo", "again"), ("dpo", "failed")]
    assert found[2].error == "error[H060]: gone"
    assert "lost with its machine or worker (Lost) on a (10.0.0.1, a)" in found[0].error
    assert found[-1].error.endswith("started 2 times")
    assert cluster.most == 1


def test_enough_retries_bring_it_through(started_on: Any) -> None:
    jobs = jobs_of("sft")
    cluster, executor = started_on(Cluster({"a": 1}, {"sft": [Lost, -9, 130, 0]}), jobs)
    assert [state for _, state in told([*executor.outcomes(jobs, lambda job: None)])] == ["again", "again", "again", "done"]
    assert cluster.started == [("sft", "a")] * 4


def test_no_more_runs_at_a_time_than_there_is_room_or_wish_for(started_on: Any) -> None:
    methods = ("sft", "seqkd", "gkd", "dpo", "simpo")
    for at_most, most in ((None, 3), (2, 2), (9, 3)):
        cluster = Cluster({"a": 2, "b": 1}, {name: [0] for name in methods})
        cluster, executor = started_on(cluster, jobs_of(*methods), at_most=at_most)
        assert executor.workers == most
        began: list[Job] = []
        assert {state for _, state in told([*executor.outcomes(jobs_of(*methods), began.append)])} == {"done"}
        assert cluster.most == most
        assert [job.point.method for job in began] == list(methods), "in their order"


def test_a_machine_that_differs_gets_no_runs(started_on: Any) -> None:
    jobs = jobs_of("sft", "seqkd")
    cluster, executor = started_on(Cluster({"a": 1, "b": 4}, {"sft": [0], "seqkd": [0]}, strange=["b"]), jobs)
    assert executor.refused == {"b": "its source of sft is 1"}
    assert executor.workers == 1
    assert {state for _, state in told([*executor.outcomes(jobs, lambda job: None)])} == {"done"}
    assert cluster.started == [("sft", "a"), ("seqkd", "a")]
    with pytest.raises(EnvironmentFault, match=r"no machine of the cluster is fit.*\n.*b .*: its source of sft is 1"):
        started_on(Cluster({"b": 4}, {}, strange=["b"]), jobs)
    with pytest.raises(EnvironmentFault, match=r"no machine holds a run of 1 CPUs and 0 GPUs \(a: 0 CPUs, 0 GPUs\)"):
        started_on(Cluster({"a": 0}, {}), jobs)


def test_a_machine_that_joins_later_is_asked_first(started_on: Any) -> None:
    jobs = jobs_of("sft", "seqkd", "gkd")
    machines = {"a": 1, "late": 1}
    cluster = Cluster(machines, {"sft": [0], "seqkd": [0], "gkd": [0]}, strange=["late"])
    cluster, executor = started_on(cluster, jobs)
    found = [*executor.outcomes(jobs, lambda job: None)]
    again = [outcome.error for outcome in found if outcome.state == "again"]
    assert {*again} == {"late (10.0.0.1, late) is left out: its source of sft is 1"}
    assert [outcome.state for outcome in found if outcome.state != "again"] == ["done"] * 3
    assert {place for _, place in cluster.started} == {"a"}
    assert list(executor.refused) == ["late"]


def test_stopping_asks_what_runs_and_starts_nothing(started_on: Any) -> None:
    jobs = jobs_of("sft", "seqkd", "gkd")
    cluster, executor = started_on(Cluster({"a": 2}, {"sft": [130], "seqkd": [0], "gkd": []}), jobs)
    found = [*executor.outcomes(jobs, lambda job: executor.stop() if job is jobs[1] else None)]
    assert sorted(told(found)) == [("gkd", "left"), ("seqkd", "done"), ("sft", "stopped")]
    assert cluster.asks == 2


def test_a_cluster_that_is_gone_is_not_waited_for_without_end(started_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = jobs_of("sft")
    cluster, executor = started_on(Cluster({"a": 1}, {}), jobs)
    cluster.machines = {}
    monkeypatch.setattr(on_ray, "NO_ROOM_S", 0.1)
    monkeypatch.setattr(on_ray, "TICK_S", 0.05)
    with pytest.raises(RunFault, match="1 runs are left"):
        list(executor.outcomes(jobs, lambda job: None))


def test_progress_tells_of_a_restart_and_counts_it_once(started_on: Any, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = jobs_of("sft", "seqkd")
    _, executor = started_on(Cluster({"a": 1}, {"sft": [Lost, 0], "seqkd": [0]}), jobs)
    states, failures, stopped = conduct(jobs, executor, "none", True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["event"], row.get("method"), row.get("state")) for row in rows] == [
        ("start", None, None), ("run", "sft", "again"), ("run", "sft", "done"), ("run", "seqkd", "done"), ("finish", None, None),
    ]  # fmt: skip
    assert [row["left"] for row in rows] == [2, 2, 1, 0, 0]
    assert ({*states.values()}, failures, stopped) == ({"done"}, [], False)


# For real: two nodes on this machine ---------------------------------------------------------------------------------


def kept(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must be equal between equal runs."""
    apart = {"clock.jsonl", "environment.json", "manifest.json", ".lock"}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "export" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name not in apart}


def alive(runs: Path) -> int:
    """Processes of `harness run` that write below a runs folder."""
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            words, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            found += b"\0harness\0run\0" in words and f"HARNESS_RUNS_DIR={runs}\0".encode() in variables
    return found


METHODS = ("sft", "sharpen", "seqkd", "grpo")


@pytest.fixture
def small_track(tmp_path: Path) -> Path:
    """Runs of 64 rounds of a prompt each, one item scored at the ends, with a state after every round."""
    import suites

    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (tmp_path / "items.json").write_text(json.dumps(rows[:1]))
    small = {"extends": "pocket", "name": "tiny", "budget": {"prompts": 64}, "marks": ["0", "1"], "prompts": {"count": 64},
             "evaluation": {"temperatures": [0.0], "max_tokens": 8},
             "suites": {"alpaca": {"items": str(tmp_path / "items.json")}}, "training": {"checkpoint_rounds": 1, "max_tokens": 8},
             "overrides": {**{name: {"prompts_per_round": 1} for name in METHODS},
                           "grpo": {"prompts_per_round": 1, "group_size": 2}}}  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(small))
    return tmp_path / "tiny.yaml"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
def test_a_sweep_on_two_nodes_outlives_one_and_a_stop(
    tmp_path: Path, small_track: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is killed under its run, the sweep stopped and repeated: all files of twelve runs are as the local executor's."""
    from ray.cluster_utils import Cluster as RealCluster

    variables = {"PYTHONPATH": str(ROOT), "HARNESS_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
                 "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "harness", "sweep", "-m", ",".join(METHODS), "--seeds", "3", "-t", small_track.name,
               "--suite-at-ends", "alpaca", "--json", "--display", "none"]  # fmt: skip
    cluster = RealCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        on_it = [*command, "--executor", "ray", "--address", cluster.address]
        there = {**os.environ, "HARNESS_RUNS_DIR": "there"}

        def wait_until(fits: Callable[[], bool]) -> None:
            until = time.monotonic() + 240.0
            while not fits():
                assert time.monotonic() < until
                assert sweep.poll() is None, sweep.communicate()
                time.sleep(0.05)

        sweep = subprocess.Popen(on_it, env=there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: len(list(tmp_path.glob("there/tiny/*/state/state.pt"))) == 2)
        assert alive(tmp_path / "there") == 2
        cluster.remove_node(second, allow_graceful=False)
        assert sweep.stdout
        rows = []
        while not rows or rows[-1].get("state") != "again":
            rows.append(json.loads(sweep.stdout.readline()))
        assert "lost with its machine or worker" in rows[-1]["error"]
        wait_until(lambda: alive(tmp_path / "there") == 1)  # nothing of the lost one is left behind
        sweep.send_signal(signal.SIGTERM)
        rest, said = sweep.communicate(timeout=240)
        assert sweep.returncode == 130, said
        assert "those under way are saved" in said
        rows += [json.loads(line) for line in rest.splitlines()]
        assert (rows[0]["jobs"], rows[-1]["event"]) == (2, "finish"), "nothing but records on stdout"
        cluster.add_node(num_cpus=1)
        done = subprocess.run(on_it, env=there, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    finally:
        cluster.shutdown()
    subprocess.run([*command, "--jobs", "2"], env={**os.environ, "HARNESS_RUNS_DIR": "here"}, check=True, capture_output=True)
    runs = sorted(path.relative_to(tmp_path / "here") for path in tmp_path.glob("here/tiny/*-s*"))
    assert len(runs) == 12
    for run in runs:
        here, there_ = kept(tmp_path / "here" / run), kept(tmp_path / "there" / run)
        assert here.keys() == there_.keys()
        assert [name for name, data in here.items() if data != there_[name]] == [], run

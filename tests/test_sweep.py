"""Sweeps: what a grid stands for, how its runs are carried out, and that they are nothing but runs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from harness.commands import sweep as sweep_command
from harness.errors import Interrupted, RunFault, SpecError
from harness.evaluate import due, scores_path
from harness.runner import complete
from harness.spec import resolve
from harness.store import RunStore, read_lines
from harness.sweep import grid, local
from harness.sweep.grid import Grid, Job, Point
from harness.sweep.local import Local, Outcome, last_words


def jobs_of(**said: Any) -> list[Job]:
    return grid.jobs(grid.read(said, "test"), "test")


def test_a_grid_is_a_product_with_whole_seeds_first() -> None:
    found = jobs_of(
        methods=["ropd", "sft"], seeds=[0, 1], budgets=[{"prompts": 8}, {"prompts": 16}], suites=["alpaca", "reasoning"],
        settings={"ropd": {"signal": ["own", "shuffled"]}}, exclude=[{"method": "sft", "seed": 1, "budget": {"prompts": 16}}],
    )  # fmt: skip
    told = [(job.point.place, job.point.seed, job.point.label) for job in found]
    assert told[:3] == [("pocket prompts=8", 0, label) for label in ("ropd signal=own", "ropd signal=shuffled", "sft")]
    assert len(told) == len(set(told)) == 2 * 2 * 3 - 1
    assert ("pocket prompts=16", 1, "sft") not in told
    assert {job.suites for job in found} == {("alpaca",)}
    assert {job.at_ends for job in found} == {("reasoning",)}, "a suite of every mark is not scored at the ends alone"


def test_equal_runs_are_one_job() -> None:
    assert len(jobs_of(methods=["sft", "sft"], seeds=[0, 0])) == 1
    both = jobs_of(methods=["ropd"], seeds=[0], settings={"ropd": {"group_size": [8, 16], "signal": ["own"]}})
    assert [job.spec.config["group_size"] for job in both] == [8, 16]


def test_the_command_of_a_job_makes_its_spec_and_its_scores() -> None:
    values = {"learning_rate": [5e-06], "passes": [2]}
    budgets = [{"prompts": 1234567}]
    (job,) = jobs_of(methods=["seqkd"], seeds=[2], budgets=budgets, suites=["reasoning"], settings={"seqkd": values})
    words = list(job.arguments)
    given = {name: [words[n + 1] for n, word in enumerate(words) if word == name] for name in words if name.startswith("--")}
    assert words[0] == "run"
    assert (given["--suite"], given["--suite-at-ends"], given["--budget"]) == (["alpaca"], ["reasoning"], ["prompts=1234567"])
    spec, _ = resolve(given["--method"][0], given["--track"][0], int(given["--seed"][0]), given["--set"], given["--budget"])
    assert spec.identity == job.spec.identity
    assert spec.config["learning_rate"] == 5e-06


@pytest.mark.parametrize("value", ["own", "yes", "1e-3", "a: b, c", "", "12", 5e-06, 0.1, 3, True, None, ["form"], "ü" * 90])
def test_a_setting_is_read_back_as_it_was(value: Any) -> None:
    text = grid.typed(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value


BAD = [
    ({"methds": ["sft"], "seeds": [0]}, "unknown key 'methds'; did you mean methods?"),
    ({"methods": ["sft"], "seeds": [0], "exclude": [{"methd": "sft"}]}, "unknown key 'exclude.0.methd'; did you mean method?"),
    ({"methods": ["sft"], "seeds": []}, "seeds"),
    ({"methods": ["sft"], "seeds": [-1]}, "greater than or equal to 0"),
    ({"methods": ["sft"], "seeds": [0], "suites_at_marks": []}, "scores at least one suite"),
    ({"methods": ["ropd"], "seeds": [0], "settings": {"rodp": {"signal": ["own"]}}}, "did you mean ropd?"),
    ({"methods": ["ropd"], "seeds": [0], "settings": {"ropd": {"signal": []}}}, "no values for settings.ropd.signal"),
    ({"methods": ["rodp"], "seeds": [0]}, "rodp on pocket: no method named 'rodp'"),
    ({"methods": ["sft"], "seeds": [0], "settings": {"sft": {"pases": [1]}}}, "sft has no setting 'pases'"),
    ({"methods": ["sft"], "seeds": [0], "budgets": [{"promts": 8}]}, "no budget meter named 'promts'"),
    ({"methods": ["sft"], "seeds": [0], "suites": ["reasonin"]}, "no suite named 'reasonin'"),
    ({"methods": ["sft"], "seeds": [0], "exclude": [{"seed": 1}]}, "exclude.0 fits none of the 1 runs"),
    ({"methods": ["sft"], "seeds": [0], "exclude": [{"seed": 0}]}, "all 1 runs are excluded"),
    ({"methods": ["sft"], "seeds": [0], "exclude": [{}]}, "an exclusion names"),
]


@pytest.mark.parametrize(("said", "message"), BAD, ids=[message for _, message in BAD])
def test_a_grid_that_does_not_fit_is_refused(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(said), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        grid.jobs(grid.load(str(path)), str(path))
    assert message in caught.value.message


def test_a_grid_by_name_or_what_was_typed() -> None:
    assert grid.names() == ["pocket-evidence", "pocket-m-evidence", "pocket-smoke"]
    for name in grid.names():
        assert grid.jobs(*sweep_command.grid_of(name, {"methods": None}))
    typed = sweep_command.grid_of(None, {"methods": ["sft"], "seeds": [0, 1], "tracks": None})
    assert [job.point for job in grid.jobs(*typed)] == [Point("pocket", None, seed, "sft", {}) for seed in (0, 1)]
    with pytest.raises(SpecError, match="a grid file and options for seeds"):
        sweep_command.grid_of("pocket-smoke", {"seeds": [0]})
    with pytest.raises(SpecError, match="neither a grid nor methods"):
        sweep_command.grid_of(None, {"seeds": [0]})
    with pytest.raises(SpecError, match="no grid named 'smoke'"):
        grid.load("smoke")


def scored_run(job: Job, root: Path, suites: dict[str, Sequence[str]], marks: Sequence[str] = ("0", "1/2", "1")) -> RunStore:
    """A folder as a finished run leaves it, as far as its standing is concerned."""
    _, origins = resolve(job.point.method)
    store, _ = RunStore.open(job.spec, origins, root)
    for mark in marks:
        store.append("marks", {"mark": mark})
    for suite, where in suites.items():
        for mark in where:
            path = scores_path(store, suite, mark)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    store.finish()
    return store


def test_how_far_a_run_is_stands_in_its_folder(tmp_path: Path) -> None:
    (job,) = jobs_of(methods=["sft"], seeds=[0], suites=["reasoning"])
    assert job.standing(tmp_path) == "new"
    assert not tmp_path.joinpath("pocket").exists(), "asking makes no folder"
    everywhere, ends = ("0", "1/2", "1", "teacher"), ("0", "1", "teacher")
    store = scored_run(job, tmp_path, {"alpaca": everywhere, "reasoning": ends})
    assert job.standing(tmp_path) == "done"
    assert complete(store, ["alpaca", "reasoning"], {"reasoning"})
    assert not complete(store, ["alpaca", "reasoning"], set())
    assert replace(job, suites=("alpaca", "reasoning"), at_ends=()).standing(tmp_path) == "unscored"
    (store.folder / "manifest.json").unlink()
    assert job.standing(tmp_path) == "begun"
    began = json.loads((store.folder / "environment.json").read_text())
    (store.folder / "environment.json").write_text(json.dumps({**began, "source": "0" * 64}))
    assert job.standing(tmp_path) == "other source"


def test_suites_at_the_ends_are_due_there_alone() -> None:
    assert [due(["alpaca", "reasoning"], {"reasoning"}, mark) for mark in ("0", "1/2", "1")] == [
        ["alpaca", "reasoning"], ["alpaca"], ["alpaca", "reasoning"],
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Quick(Job):
    """A job with a command of its own."""

    words: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.words


def quick(*words: str) -> Quick:
    (job,) = jobs_of(methods=["sft"], seeds=[0])
    return Quick(job.point, job.spec, job.suites, job.at_ends, words)


def test_a_failing_process_does_not_stop_the_others() -> None:
    bad, good = quick("show", "nothing"), quick("--version")
    began: list[Job] = []
    outcomes = {outcome.job: outcome for outcome in Local(1).outcomes([bad, good], began.append)}
    assert began == [bad, good]
    assert outcomes[good].state == "done"
    assert outcomes[good].seconds > 0
    assert outcomes[bad].state == "failed"
    assert outcomes[bad].error.startswith("error[H010]: no run 'nothing'")


def test_stopping_ends_what_runs_and_starts_nothing() -> None:
    executor = Local(1)
    waits, never = quick("serve-oracle", "--port", "0"), quick("--version")
    outcomes = {outcome.job: outcome for outcome in executor.outcomes([waits, never], lambda job: executor.stop())}
    assert {job: outcome.state for job, outcome in outcomes.items()} == {waits: "stopped", never: "left"}


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        ("a warning\nerror[H060]: gone\n  fix  wait\n", 3, "error[H060]: gone\n  fix  wait"),
        ("Traceback (most recent call last):\n  File\nValueError: odd\n", 1, "ValueError: odd"),
        ("half a line", -9, "ended by signal 9 (SIGKILL)"),
        ("", 1, "exit code 1, without a word"),
    ],
)
def test_the_last_words_of_a_run(said: str, code: int, words: str) -> None:
    assert last_words(said, code) == words


class Scripted:
    """An executor that runs nothing: each job ends as it is told, in the given seconds."""

    workers = 2

    def __init__(self, ends: dict[str, tuple[local.State, float, str]]) -> None:
        self.ends, self.started, self.stopped = ends, list[Job](), 0

    def outcomes(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Iterator[Outcome]:
        for job in jobs:
            self.started.append(job)
            started(job)
            yield Outcome(job, *self.ends[job.point.method])

    def stop(self) -> None:
        self.stopped += 1


def test_a_sweep_does_what_is_left_and_collects_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path))
    jobs = jobs_of(methods=["sft", "seqkd", "ropd"], seeds=[0])
    scored_run(jobs[0], tmp_path, {"alpaca": ("0", "1/2", "1", "teacher")})
    executor = Scripted({"seqkd": ("failed", 4.0, "error[H050]: no server"), "ropd": ("done", 10.0, "")})
    states, failures, stopped = sweep_command.conduct(jobs, executor, "plain", True)
    assert executor.started == jobs[1:]
    assert not stopped
    assert list(states.values()) == ["done", "failed", "done"]
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [(row["event"], row.get("method"), row.get("state")) for row in rows] == [
        ("start", None, None), ("run", "seqkd", "failed"), ("run", "ropd", "done"), ("finish", None, None),
    ]  # fmt: skip
    assert (rows[0]["runs"], rows[0]["done"], rows[0]["left"]) == (3, 1, 2)
    assert (rows[-1]["done"], rows[-1]["failed"], rows[-1]["left"]) == (2, 1, 0)
    assert [re.sub(r"^\S+ ", "", line).split()[0] for line in said.err.splitlines()] == ["start", "run", "run", "finish"]
    with pytest.raises(RunFault) as caught:
        sweep_command.settle(states, failures, stopped, ["sweep", "my grid.yaml"])
    assert caught.value.exit_code == 3
    assert "1 of 3 runs failed:\n  harness run --method seqkd" in caught.value.message
    assert "\n    error[H050]: no server" in caught.value.message
    assert caught.value.fix.endswith("harness sweep 'my grid.yaml'")


def test_a_finished_sweep_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path))
    jobs = jobs_of(methods=["sft", "seqkd"], seeds=[0])
    for job in jobs:
        scored_run(job, tmp_path, {"alpaca": ("0", "1/2", "1", "teacher")})
    executor = Scripted({})
    states, failures, stopped = sweep_command.conduct(jobs, executor, "none", False)
    assert (executor.started, failures, stopped) == ([], [], False)
    assert {*states.values()} == {"done"}
    sweep_command.settle(states, failures, stopped, [])


def test_a_signal_stops_the_executor_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_RUNS_DIR", str(tmp_path))

    class Signalled(Scripted):
        def outcomes(self, jobs: Sequence[Job], started: Callable[[Job], None]) -> Iterator[Outcome]:
            os.kill(os.getpid(), signal.SIGINT)
            yield from super().outcomes(jobs, started)

    executor = Signalled({"sft": ("stopped", 1.0, ""), "seqkd": ("left", 0.0, "")})
    before = signal.getsignal(signal.SIGINT)
    states, failures, stopped = sweep_command.conduct(jobs_of(methods=["sft", "seqkd"], seeds=[0]), executor, "none", False)
    assert (executor.stopped, stopped, [*states.values()]) == (1, True, ["stopped", "left"])
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(Interrupted, match="0 of 2 runs are done") as caught:
        sweep_command.settle(states, failures, stopped, ["sweep", "x"])
    assert (caught.value.exit_code, caught.value.fix) == (130, "go on with the same command: harness sweep x")


def test_the_time_left_is_that_of_finished_runs() -> None:
    progress = sweep_command.SweepProgress(total=7, done=1, workers=2, display="none", as_json=False)
    jobs = jobs_of(methods=["sft", "seqkd"], seeds=[0])
    assert progress.seconds_left() is None
    progress.ended(Outcome(jobs[0], "done", 10.0))
    progress.ended(Outcome(jobs[1], "done", 20.0))
    assert (progress.left, progress.seconds_left()) == (4, 15.0 * 4 / 2)
    progress.ended(Outcome(jobs[1], "failed", 500.0))
    assert progress.seconds_left() == 15.0 * 3 / 2
    progress.active[jobs[0]] = time.monotonic() - 6.0
    assert progress.seconds_left() == pytest.approx((15.0 * 3 - 6.0) / 2, abs=0.1)
    text = Console(width=100, file=io.StringIO(), record=True)
    text.print(progress._panel())
    panel = text.export_text()
    assert "[###########.........] 3 of 7 done   1 active   2 waiting   1 failed" in panel
    assert "sft   seed 0   pocket   0:06" in panel


def test_states_stand_by_method_and_seed() -> None:
    jobs = jobs_of(methods=["ropd", "sft"], seeds=[0, 1], settings={"ropd": {"signal": ["shuffled"]}}, exclude=[
        {"method": "sft", "seed": 1}])  # fmt: skip
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(sweep_command.states_table(dict(zip(jobs, ["done", "failed", "left"], strict=True))))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines == [["method", "s0", "s1"], ["ropd", "signal=shuffled", "done", "left"], ["sft", "failed"]]


BROKEN = '''
from harness.method import Method

class Broken(Method):
    @property
    def needs(self):
        raise RuntimeError("broken on purpose")

    def collect(self, prompts, tools): ...

    def loss(self, models, batch): ...
'''


def kept(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must be equal between equal runs."""
    apart = {"clock.jsonl", "environment.json", "manifest.json"}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "export" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name not in apart}


@pytest.mark.slow
def test_a_sweep_that_is_stopped_goes_on_to_the_same_files(tmp_path: Path) -> None:
    """Two jobs, one of which fails: stopped in the other one's middle, and the same command again."""
    import suites

    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (tmp_path / "items.json").write_text(json.dumps(rows[:8]))
    small = {"extends": "pocket", "name": "tiny", "budget": {"prompts": 8}, "marks": ["0", "1/2", "1"], "prompts": {"count": 64},
             "evaluation": {"temperatures": [0.0]}, "suites": {"alpaca": {"items": str(tmp_path / "items.json")}},
             "overrides": {"sft": {"prompts_per_round": 1}}}  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(small))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "broken.py").write_text(BROKEN)
    (tmp_path / "outside" / "__init__.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(Path(sweep_command.__file__).parents[2])])
    words = ["-t", str(tmp_path / "tiny.yaml"), "--suite-at-ends", "alpaca"]

    def command(root: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
        environment = {**os.environ, "PYTHONPATH": path, "HARNESS_RUNS_DIR": str(tmp_path / root),
                       "HARNESS_CACHE_DIR": str(tmp_path / root / "cache"), "OMP_NUM_THREADS": "1"}  # fmt: skip
        return [sys.executable, "-m", "harness", *arguments, *words], environment

    once, environment = command("once", "run", "-m", "sft", "--no-curve")
    subprocess.run(once, env=environment, check=True, capture_output=True)
    both, environment = command("swept", "sweep", "-m", "sft,outside.broken", "--jobs", "2", "--display", "plain")
    process = subprocess.Popen(both, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while not (found := list(tmp_path.glob("swept/tiny/sft-*/marks.jsonl"))) and time.monotonic() - began < 120:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "0 of 2 runs are done, those under way are saved" in said
    assert "go on with the same command: harness sweep -m sft,outside.broken" in said
    assert len(list(read_lines(found[0]))) < 3
    done = subprocess.run(both, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "1 of 2 runs failed" in done.stderr
    assert "RuntimeError: broken on purpose" in done.stderr
    (first,), (second,) = (list(tmp_path.glob(f"{root}/tiny/sft-*")) for root in ("once", "swept"))
    scored = sorted(path.name for path in (second / "suites" / "alpaca" / "marks").iterdir())
    assert scored == ["0.json", "1.json", "teacher.json"]
    assert kept(first).keys() == kept(second).keys()
    assert [name for name, data in kept(first).items() if data != kept(second)[name]] == []


def test_a_grid_has_its_fields_in_the_documents() -> None:
    text = (Path(sweep_command.__file__).parents[2] / "docs" / "sweep.md").read_text(encoding="utf-8")
    assert set(Grid.model_fields) == set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))

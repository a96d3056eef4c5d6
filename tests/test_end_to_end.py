"""Whole runs on a small track: the same numbers twice, after a crash, and by independent counts."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from harness.assemble import assemble
from harness.commands import repeat
from harness.errors import Interrupted, SpecError
from harness.gate.runs import Silent
from harness.loop import score_marks, train
from harness.pocket import world
from harness.pocket.oracle import OracleProcess
from harness.report import runs, summary
from harness.spec import resolve
from harness.store import RunStore, read_lines
from harness.train.load import load_causal_lm

ITEMS = 24


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket track with few items, short budget and frequent checkpoints."""
    import suites

    folder = tmp_path_factory.mktemp("track")
    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (folder / "items.json").write_text(json.dumps(rows[:ITEMS]))
    small = {
        "extends": "pocket", "name": "small", "budget": {"prompts": 24}, "marks": ["0", "1/2", "1"],
        "prompts": {"count": 256}, "training": {"checkpoint_rounds": 2},
        "suites": {"alpaca": {"items": str(folder / "items.json")}},
        "overrides": {"ropd": {"prompts_per_round": 4, "group_size": 4, "references": 2},
                      "logit_opd": {"prompts_per_round": 4, "group_size": 2}},
    }  # fmt: skip
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


def run_once(track: Path, root: Path, monkeypatch: pytest.MonkeyPatch, method: str = "ropd", seed: int = 0) -> RunStore:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(root / "cache"))
    spec, origins = resolve(method, str(track), seed)
    store, _ = RunStore.open(spec, origins, root)
    with assemble(spec, ["alpaca"], lambda word: None) as run:
        train(run, store, Silent())
        score_marks(run, store, Silent())
    return store


def kept(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must be equal between equal runs: all but clocks, machine and time stamps."""
    apart = {"clock.jsonl", "environment.json", "manifest.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in apart and "export" not in path.parts
    }


@pytest.fixture(scope="module")
def uninterrupted(track: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One ropd run from a cold cache, with the server's own usage log."""
    root = tmp_path_factory.mktemp("first")
    servers: list[OracleProcess] = []
    usage: dict[str, Any] = {}

    class Watched(OracleProcess):
        def stop(self) -> None:
            usage.update(self.usage())
            super().stop()

    def start(config: Any) -> OracleProcess:
        servers.append(Watched(config))
        return servers[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "start_server", start)
        store = run_once(track, root, patch)
    return {"store": store, "usage": usage}


def test_the_ledger_equals_independent_counts(uninterrupted: dict[str, Any]) -> None:
    store, usage = uninterrupted["store"], uninterrupted["usage"]
    meters = store.lines("marks")[-1]["meters"]
    rollouts = [rollout for row in store.lines("rollouts") for rollout in row["rollouts"]]
    assert meters["prompts"] == 24
    assert meters["rollouts"] == len(rollouts) == 24 * 4
    assert meters["student_tokens"] == sum(rollout["tokens"] for rollout in rollouts)
    critic = usage["pocket-critic"]
    assert meters["critic_calls"] == critic["calls"] == 48
    assert meters["critic_tokens_in"] == critic["prompt_tokens"] > 0
    assert meters["critic_tokens_out"] == critic["completion_tokens"] > 0
    last = store.lines("ledger")[-1]
    assert last["training"]["teacher_calls"] == 24
    # the teacher also answered the suite, off the clock
    assert usage["pocket-teacher"]["calls"] == 24 + ITEMS
    assert meters["judge_calls"] == 0
    assert last["evaluation"]["judge_calls"] > 0
    assert meters["usd"] == pytest.approx((0.15 * meters["critic_tokens_in"] + 0.60 * meters["critic_tokens_out"]) / 1e6)


def test_the_same_spec_gives_the_same_files(
    uninterrupted: dict[str, Any], track: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = run_once(track, tmp_path, monkeypatch)
    first, second = kept(uninterrupted["store"].folder), kept(again.folder)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_run_can_be_made_again_from_its_summary(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    """The summary alone, without the run; and a summary that says otherwise is found out."""
    path = summary.write(runs.read(uninterrupted["store"].folder), tmp_path)
    place = path.with_name(path.name.removesuffix(summary.SUFFIX))
    assert repeat.differing(runs.read(place)) == []
    told = json.loads(path.read_text())
    told["meters"]["rollouts"][-1] += 1
    path.write_text(json.dumps(told))
    assert repeat.differing(runs.read(place)) == ["meters.rollouts   [0,48,97] -> [0,48,96]"]


def test_a_run_of_other_models_is_not_made_again(uninterrupted: dict[str, Any]) -> None:
    run = runs.read(uninterrupted["store"].folder)
    world = {**run.spec["track"]["pocket"], "content": "0123456789abcdef"}
    other = replace(run, spec={**run.spec, "track": {**run.spec["track"], "pocket": world}})
    with pytest.raises(SpecError, match=r"other embedded models .0123456789abcdef, now "):
        repeat.differing(other)


def _command(track: Path, root: Path) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "HARNESS_RUNS_DIR": str(root), "HARNESS_CACHE_DIR": str(root / "cache"),
                   "HARNESS_REPORTS_DIR": str(root / "reports"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    return [sys.executable, "-m", "harness", "run", "-m", "ropd", "-t", str(track), "--display", "plain"], environment


def _started(track: Path, root: Path, rounds: int) -> tuple[subprocess.Popen[str], Path]:
    """A run in a process of its own that has finished some rounds, and its folder."""
    command, environment = _command(track, root)
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    began = time.monotonic()
    while time.monotonic() - began < 180:
        found = list(root.glob("small/ropd-*/steps.jsonl"))
        if found and len(list(read_lines(found[0]))) >= rounds:
            return process, found[0].parent
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"the run did not get to round {rounds}: {process.communicate()[1]}")


def test_a_killed_run_goes_on_to_the_same_files(uninterrupted: dict[str, Any], track: Path, tmp_path: Path) -> None:
    process, folder = _started(track, tmp_path, rounds=3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "manifest.json").exists()
    command, environment = _command(track, tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "found=resumed" in done.stderr
    first, second = kept(uninterrupted["store"].folder), kept(folder)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0
    assert "finish" in again.stderr
    assert "mark at=" not in again.stderr


def test_an_interrupted_run_says_how_to_go_on(track: Path, tmp_path: Path) -> None:
    process, folder = _started(track, tmp_path, rounds=1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "harness run -m ropd" in said
    assert "saved" in said
    assert (folder / "state" / "state.pt").exists()


@pytest.mark.slow
def test_on_policy_distillation_beats_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty rounds of logit-OPD lift gold quality well beyond its interval, and stay below the teacher."""
    import suites

    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (tmp_path / "items.json").write_text(json.dumps(rows[:120]))
    path = tmp_path / "learn.yaml"
    path.write_text(yaml.safe_dump({
        "extends": "pocket", "name": "learn", "budget": {"prompts": 320}, "marks": ["0", "1"],
        "evaluation": {"temperatures": [0.0]}, "suites": {"alpaca": {"items": str(tmp_path / "items.json")}},
    }))  # fmt: skip
    store = run_once(path, tmp_path, monkeypatch, "logit_opd")
    scores = {
        mark: json.loads((store.evaluation("alpaca") / "marks" / f"{mark}.json").read_text()) for mark in ("0", "1", "teacher")
    }
    change = scores["1"]["change"]
    assert change["value"] > 3 * change["stderr"] > 0
    gold = [scores[mark]["greedy"]["gold"]["value"] for mark in ("0", "1", "teacher")]
    assert gold[0] + 0.03 < gold[1] < gold[2]


def test_a_warm_start_comes_out_of_the_budget_and_is_what_the_reference_is(
    track: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SFT on the first 12 prompts, then DPO whose reference is the student as SFT left it; a resumed run keeps it."""
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    settings = ["prompts_per_round=8", "warm_prompts=12", "group_size=2", "learning_rate=1e-3"]
    spec, origins = resolve("dpo", str(track), 0, settings)
    store, _ = RunStore.open(spec, origins, tmp_path)

    class Stops(Silent):
        rounds = 0

        def round(self, number: int, used: float, metrics: dict[str, float]) -> None:
            self.rounds = number

        def stopping(self) -> bool:
            return self.rounds == 3

    with assemble(spec, ["alpaca"], lambda word: None) as run:
        first = {name: value.clone() for name, value in run.trainer.policy.state_dict().items()}
        with pytest.raises(Interrupted):
            train(run, store, Stops())
    with assemble(spec, ["alpaca"], lambda word: None) as run:
        train(run, store, Silent())
        reference = run.trainer.models.frozen["reference"].model.state_dict()
    steps = store.lines("steps")
    terms = [sorted(name for name in row["metrics"] if name.startswith("loss/")) for row in steps]
    assert [row["metrics"]["updates"] for row in steps] == [1.0] * 4
    assert terms[:2] == [["loss/loss"]] * 2
    assert all(term != ["loss/loss"] for term in terms[2:])
    ledger = [row["training"] for row in store.lines("ledger")]
    assert [row["prompts"] for row in ledger] == [8, 12, 20, 24]
    assert [row["teacher_calls"] for row in ledger] == [8, 12, 12, 12]
    assert [row["critic_calls"] for row in ledger][:2] == [0, 0]
    warm = load_causal_lm(store.checkpoint("1/2")).state_dict()  # the mark at 12 prompts
    assert all(torch.equal(reference[name], warm[name]) for name in warm)
    assert not all(torch.equal(reference[name], first[name]) for name in first)
    assert steps[2]["metrics"][terms[2][0]] == pytest.approx(math.log(2) * 7 / 8, rel=1e-4)  # one pair of eight is equal

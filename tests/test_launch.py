"""Runs in two processes through the real command line: one result, one exit code, and an end to all when one ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from test_end_to_end import run_once

from harness import launch
from harness.errors import SpecError
from harness.store import RunStore, read_lines
from harness.train.load import load_causal_lm

TYPED = ["run", "-m", "ropd", "--processes", "2", "--display", "plain", "--no-curve"]


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pocket track with a few items and prompts."""
    import suites

    folder = tmp_path_factory.mktemp("track")
    rows = json.loads((Path(suites.__path__[0]) / "data" / "pocket" / "alpaca.json").read_text())
    (folder / "items.json").write_text(json.dumps(rows[:8]))
    small = {
        "extends": "pocket", "name": "several", "budget": {"prompts": 15}, "marks": ["0", "1"], "prompts": {"count": 64},
        "training": {"checkpoint_rounds": 1}, "suites": {"alpaca": {"items": str(folder / "items.json")}},
        "overrides": {"ropd": {"prompts_per_round": 3, "group_size": 3, "references": 2, "updates_per_batch": 2}},
    }  # fmt: skip
    path = folder / "several.yaml"
    path.write_text(yaml.safe_dump(small))
    return path


@pytest.fixture(scope="module")
def one(track: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    """The run in one process."""
    with pytest.MonkeyPatch.context() as patch:
        return run_once(track, tmp_path_factory.mktemp("one"), patch)


def command(track: Path, root: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "HARNESS_RUNS_DIR": str(root), "HARNESS_CACHE_DIR": str(root / "cache"),
                   "HARNESS_REPORTS_DIR": str(root / "reports"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *TYPED, "-t", str(track)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def started(track: Path, root: Path) -> tuple[subprocess.Popen[str], Path]:
    """A run under way that has finished a further round, and its folder."""

    def rounds() -> list[Any]:
        return [row for clock in root.glob("several/ropd-*/clock.jsonl") for row in read_lines(clock)]

    before, process, began = len(rounds()), command(track, root), time.monotonic()
    while process.poll() is None and time.monotonic() - began < 300:
        if len(rounds()) > before:
            return process, next(root.glob("several/ropd-*"))
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate()[1])


def followers(process: subprocess.Popen[str]) -> list[int]:
    """The other processes of a run: its children that carry out the same command."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"--processes" in Path(f"/proc/{child}/cmdline").read_bytes()]


def gone(pid: int, within: float) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.05)
    return False


def same(got: Path, wanted: Path) -> None:
    """Scores, verdicts' sums and meters are equal; losses and weights up to float32's rounding."""
    for path in wanted.glob("suites/alpaca/marks/*.json"):
        mine, theirs = (json.loads((root / path.relative_to(wanted)).read_text()) for root in (got, wanted))
        for how in ("greedy", "t1"):
            if how in theirs:
                assert mine[how] == theirs[how], (path.name, how)
    for mine, theirs in zip(read_lines(got / "ledger.jsonl"), read_lines(wanted / "ledger.jsonl"), strict=True):
        assert mine == theirs
    for mine, theirs in zip(read_lines(got / "steps.jsonl"), read_lines(wanted / "steps.jsonl"), strict=True):
        assert mine["metrics"] == pytest.approx(theirs["metrics"], rel=1e-3, abs=1e-5)
    ours, other = (load_causal_lm(root / "model").state_dict() for root in (got, wanted))
    for name, value in other.items():
        assert torch.allclose(ours[name], value, atol=2e-4), name


def test_two_processes_give_the_scores_of_one(track: Path, one: RunStore, tmp_path: Path) -> None:
    process = command(track, tmp_path)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert out == ""
    assert said.count(" mark at=") == 2
    (folder,) = tmp_path.glob("several/ropd-*")
    assert folder.name == one.folder.name, "the number of processes is no part of a run's identity"
    same(folder, one.folder)
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert {row["processes"] for row in read_lines(folder / "clock.jsonl")} == {2}


def test_a_process_that_ends_ends_the_run_which_one_process_finishes(
    track: Path, one: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, folder = started(track, tmp_path)
    (other,) = followers(process)
    os.kill(other, signal.SIGKILL)
    began = time.monotonic()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    assert time.monotonic() - began < 60, "seconds, but for a machine that does much else"
    assert "error[H060]: process 1 of 2 has ended: ended by signal 9 (SIGKILL)" in said
    assert said.count("error[") == 1
    assert "Traceback" not in said

    process, folder = started(track, tmp_path)
    (other,) = followers(process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "saved" in said
    assert gone(other, 30)
    done = len(list(read_lines(folder / "steps.jsonl")))
    assert 0 < done < 5
    same(run_once(track, tmp_path, monkeypatch).folder, one.folder)


@pytest.mark.slow
def test_the_others_end_with_the_first(track: Path, tmp_path: Path) -> None:
    process, _ = started(track, tmp_path)
    (other,) = followers(process)
    process.kill()
    process.communicate()
    assert gone(other, 20)


def test_torchrun_and_the_option_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (launch.count(None), launch.count(3), launch.is_follower()) == (1, 3, False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (launch.count(None), launch.count(2), launch.is_follower()) == (2, 2, True)
    with pytest.raises(SpecError, match="--processes 3, and torchrun has started 2"):
        launch.count(3)

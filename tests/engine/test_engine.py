"""The real vLLM: whose weights sample, with which log-probs, in one process and in two, and what sleep gives back on a GPU.

    tox -e vllm                # its build for CPUs
    pytest tests/engine        # beside a GPU, where vLLM is installed

Without an engine that runs here nothing of this runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from engines import DEVICE, needs_engine
from test_own_run import harness, kill_under_way

from harness.store import read_lines

pytestmark = [pytest.mark.gpu, needs_engine]
LIMIT = {"cuda": 0.02, "cpu": 1e-5}[DEVICE]
"""In nats a token: the engine computes in bfloat16 on a GPU, in float32 on a CPU."""
KINDS = [("Qwen2", False), ("Qwen2", True)]
if DEVICE == "cpu":
    KINDS += [("Qwen3", False), ("Llama", False), ("Gemma", False), ("Gemma2", False), ("Gemma2", True)]
in_the_embedded_world = pytest.mark.skipif(DEVICE == "cuda", reason="the embedded world stays on the CPU")


def told_by(script: str, *typed: str) -> dict[str, Any]:
    """What a script beside this one prints at the end, from a process of its own."""
    code = [sys.executable, str(Path(__file__).parent / script), *typed]
    done = subprocess.run(code, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("kind", "lora"), KINDS)
def test_an_engine_samples_from_the_trainers_weights(kind: str, lora: bool) -> None:
    told = told_by("sampled.py", json.dumps({"kind": kind, "lora": lora}))
    told_of_now = {name for name in ("gap", "gap_cool", "synced", "woken", "merged", "whole") if name in told}
    assert {name for name in told_of_now if told[name] >= LIMIT} == set(), told
    assert len(told_of_now) == (6 if lora else 4)
    assert told["stale"] > max(0.02, 10 * LIMIT), "weights that were not taken over show"
    assert told["highest"] < told["vocabulary"], "rows of the output layer that no tokenizer knows"
    for finish, ended, within, length in told["ends"]:
        assert (ended, within, finish == "length") in ((True, False, False), (False, False, True))
        assert finish == "stop" or length == told["tokens"]
    assert {finish for finish, *_ in told["ends"]} == ({"stop", "length"} if DEVICE == "cpu" else {"length"})
    rows = len(told["ends"])
    assert told["distinct"] == rows, "each has its own seed"
    assert min(told["repeated"], told["greedy"]) >= rows - 2, "rounding may turn a tie"
    if DEVICE == "cuda":
        assert told["given_back"] > 0.3, "of the 0.4 of the GPU's memory that the engine was given"


def track(folder: Path, name: str, **more: Any) -> str:
    """The embedded world's second track, sampled with vLLM, cut down to a few rounds."""
    value = {
        "extends": "pocket-m", "name": name, "generation": {"engine": "vllm", "dtype": "float32", "gpu_memory": 0.15},
        "budget": {"prompts": 96}, "marks": ["0", "1"], **more,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(value))
    return str(path)


def read(folder: Path) -> dict[str, Any]:
    """Steps, ledger and scores of the only run in a folder."""
    (run,) = (folder / "runs").glob("*/*-s0-*")
    return {
        "steps": [row["metrics"] for row in read_lines(run / "steps.jsonl")],
        "ledger": list(read_lines(run / "ledger.jsonl")), "clock": list(read_lines(run / "clock.jsonl")), "folder": run,
    }  # fmt: skip


@in_the_embedded_world
@pytest.mark.parametrize(("method", "more"), [
    ("logit_opd", {}), ("ropd", {"student": {"lora": {"rank": 8, "alpha": 16}}}), ("seqkd", {}),
    ("logit_opd", {"training": {"sharding": "full"}}),
], ids=["whole", "lora", "texts", "cut"])  # fmt: skip
def test_a_run_of_two_processes_is_that_of_one(tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    path = track(tmp_path, "small", **more)
    for processes in (1, 2):
        typed = ["run", "-m", method, "-t", path, "--suite", "alpaca", "--no-curve", "--processes", str(processes)]
        code, _, err = harness(tmp_path / str(processes), *typed)
        assert code == 0, err
        assert "Traceback" not in err
    one, two = (read(tmp_path / str(processes)) for processes in (1, 2))
    assert {row["engine"].split()[0] for row in one["clock"]} == {"vllm"}
    assert {row["engine"].split()[0] for row in two["clock"]} == {"vllm"}
    assert len(one["steps"]) == len(two["steps"]) > 0
    for first, second in zip(one["steps"], two["steps"], strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)
        assert first.get("drift", 0.0) < LIMIT
    assert one["ledger"] == two["ledger"]


@in_the_embedded_world
def test_a_killed_run_goes_on_with_an_engine_that_has_its_weights(tmp_path: Path) -> None:
    typed = ["run", "-m", "logit_opd", "-t", track(tmp_path, "small", training={"checkpoint_rounds": 1}), "--suite", "alpaca",
             "--no-curve"]  # fmt: skip
    kill_under_way(harness(tmp_path, *typed, wait=False), tmp_path, 300)
    code, _, err = harness(tmp_path, *typed)
    assert code == 0, err
    code, _, err = harness(tmp_path / "whole", *typed)
    assert code == 0, err
    resumed, whole = read(tmp_path), read(tmp_path / "whole")
    for first, second in zip(resumed["steps"], whole["steps"], strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)
    assert resumed["ledger"] == whole["ledger"]
    first, second = (list(read_lines(each["folder"] / "suites/alpaca/answers/1.greedy.jsonl")) for each in (resumed, whole))
    assert first == second
    asked = [row["question"] for row in read_lines(whole["folder"] / "suites/alpaca/items.jsonl")][:40]
    told = told_by("reloaded.py", str(whole["folder"] / "model"), *asked)
    assert told["gap"] < LIMIT, "the folder that a run leaves is the model for transformers and for vLLM"
    assert told["answers"] == [row["text"] for row in first[: len(asked)]]

"""The real vLLM: whose weights sample, with which log-probs, in one process and in two, and what sleep gives back on a GPU.

    tox -e vllm                # its build for CPUs
    pytest tests/engine        # beside a GPU, where vLLM is installed

Without an engine that runs here nothing of this runs.
"""

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
import yaml
from engines import DEVICE, needs_engine

from harness.pocket.build import ASSETS
from harness.store import read_lines

pytestmark = [pytest.mark.gpu, needs_engine]
TESTS = Path(__file__).parents[1]
LIMIT = {"cuda": 0.02, "cpu": 1e-5}[DEVICE]
"""In nats a token: the engine computes in bfloat16 on a GPU, in float32 on a CPU."""
KINDS = [("Qwen2", False), ("Qwen2", True)]
if DEVICE == "cpu":
    KINDS += [("Qwen3", False), ("Llama", False), ("Gemma", False), ("Gemma2", False), ("Gemma2", True)]
STUDENT, TEACHER = (str(ASSETS / "pocket-m" / "pair0" / role) for role in ("student", "teacher"))


@pytest.mark.parametrize(("kind", "lora"), KINDS)
def test_an_engine_samples_from_the_trainers_weights(kind: str, lora: bool) -> None:
    code = [sys.executable, str(TESTS / "engine" / "sampled.py"), json.dumps({"kind": kind, "lora": lora})]
    done = subprocess.run(code, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
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


def begun(folder: Path, *typed: str) -> Any:
    """A command that has begun, with run folders of its own."""
    own = {f"HARNESS_{name}_DIR": str(folder / name.lower()) for name in ("RUNS", "CACHE", "REPORTS")}
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen([sys.executable, "-m", "harness", *typed], env=environment, text=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def ended(process: Any) -> tuple[int, str]:
    _, err = process.communicate(timeout=900)
    return process.returncode, err


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


@pytest.mark.skipif(DEVICE == "cuda", reason="the embedded world stays on the CPU")
@pytest.mark.parametrize(("method", "more"), [
    ("logit_opd", {}), ("ropd", {"student": {"lora": {"rank": 8, "alpha": 16}}}), ("seqkd", {}),
    ("logit_opd", {"training": {"sharding": "full"}}),
], ids=["whole", "lora", "texts", "cut"])  # fmt: skip
def test_a_run_of_two_processes_is_that_of_one(tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    path = track(tmp_path, "small", **more)
    for processes in (1, 2):
        typed = ["run", "-m", method, "-t", path, "--suite", "alpaca", "--no-curve", "--processes", str(processes)]
        code, err = ended(begun(tmp_path / str(processes), *typed))
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


@pytest.mark.skipif(DEVICE == "cuda", reason="the embedded world stays on the CPU")
def test_a_killed_run_goes_on_with_an_engine_that_has_its_weights(tmp_path: Path) -> None:
    typed = ["run", "-m", "logit_opd", "-t", track(tmp_path, "small", training={"checkpoint_rounds": 1}), "--suite", "alpaca",
             "--no-curve"]  # fmt: skip
    process = begun(tmp_path, *typed)
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        steps = list((tmp_path / "runs").glob("*/*/steps.jsonl"))
        if steps and len(list(read_lines(steps[0]))) >= 2:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    code, err = ended(begun(tmp_path, *typed))
    assert code == 0, err
    code, err = ended(begun(tmp_path / "whole", *typed))
    assert code == 0, err
    resumed, whole = read(tmp_path), read(tmp_path / "whole")
    for first, second in zip(resumed["steps"], whole["steps"], strict=True):
        assert first == pytest.approx(second, rel=1e-3, abs=1e-4)
    assert resumed["ledger"] == whole["ledger"]
    first, second = (list(read_lines(each["folder"] / "suites/alpaca/answers/1.greedy.jsonl")) for each in (resumed, whole))
    assert first == second
    asked = [row["question"] for row in read_lines(whole["folder"] / "suites/alpaca/items.jsonl")][:40]
    code = [sys.executable, str(TESTS / "engine" / "reloaded.py"), str(whole["folder"] / "model"), *asked]
    done = subprocess.run(code, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["gap"] < LIMIT, "the folder that a run leaves is the model for transformers and for vLLM"
    assert told["answers"] == [row["text"] for row in first[: len(asked)]]
